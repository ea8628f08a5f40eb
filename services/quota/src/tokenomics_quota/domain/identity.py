"""One event, one identity: which of several records that share (source, id) counts."""

from enum import Enum
from typing import Protocol

from tokenomics_quota.domain.effective import LogOrder


class Claim(Protocol):
    """A record's claim on an identity."""

    @property
    def digest(self) -> bytes:
        """Digest of type, key, time and data."""
        ...

    @property
    def order(self) -> LogOrder:
        """Place in the log."""
        ...


class Verdict(Enum):
    """What becomes of a record whose identity is already held."""

    REPEATED = "the same event again, higher in the log: nothing to do"
    CONFLICTS = "another payload or key, higher in the log: park it"
    PRECEDES = "the same event, lower in the log: it takes the holder's place"
    DISPLACES = "another payload or key, lower in the log: it takes the place, the holder is parked"

    @property
    def takes_the_place(self) -> bool:
        """Whether the record counts from now on, instead of the holder."""
        return self in {Verdict.PRECEDES, Verdict.DISPLACES}


def judge(holder: Claim, record: Claim) -> Verdict:
    """Let the lowest in the log count, whatever the order in which records are read."""
    same = holder.digest == record.digest
    if record.order < holder.order:
        return Verdict.PRECEDES if same else Verdict.DISPLACES
    # A record meeting itself again (a retry) is a repetition, never a conflict.
    return Verdict.REPEATED if same or record.order == holder.order else Verdict.CONFLICTS
