"""One event, one identity: of records that share (source, id) the lowest counts; which others are parked."""

from collections.abc import Iterable
from typing import NamedTuple

from tokenomics_quota.domain.effective import LogOrder


class Rival(NamedTuple):
    """A record whose identity a lower one holds. It stays one: an identity only ever passes down the log."""

    digest: bytes
    """Over type, key, time and data."""
    order: LogOrder


class Judged(NamedTuple):
    """What becomes of the rivals of an identity."""

    conflicts: list[LogOrder]
    """They say something else than who holds it: to be parked, those that are already included or not."""
    cleared: list[LogOrder]
    """They were parked, and who holds it now says the same."""


class Contest(NamedTuple):
    """An identity that more than one record claimed when a batch was applied."""

    identity: bytes
    before: bytes | None
    """Digest of who held it before the batch; ``None``: nobody did."""
    after: bytes
    """Digest of who holds it now."""
    rivals: Iterable[Rival]
    """Those in the batch, and who held it before if a lower one came."""

    @property
    def is_about_earlier_rivals(self) -> bool:
        """Whether who holds it now says something else than who held it."""
        return self.before is not None and self.before != self.after

    def judge(self, earlier: Iterable[Rival]) -> Judged:
        """Let just those be parked that say something else than who holds the identity.

        So what is parked depends on which records were read, never on the order of reading or retrying.
        ``earlier`` are the rivals of earlier batches; there need be none where the contest isn't about them.
        """
        conflicts = [rival.order for rival in self.rivals if rival.digest != self.after]
        cleared: list[LogOrder] = []
        if self.is_about_earlier_rivals:
            for digest, order in earlier:
                if digest == self.before:
                    conflicts.append(order)
                elif digest == self.after:
                    cleared.append(order)
        return Judged(conflicts, cleared)
