"""How fresh the view is: against the ends of the log, not against hope."""

from collections import deque
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Final

_SPACING: Final = timedelta(milliseconds=100)
"""Ends read sooner than this after the ones before are not looked at: they would only fill the memory."""

_MOST_PENDING: Final = 1_000
"""Ends remembered that the view hasn't reached; with more the lag is told too long until it catches up."""


class FreshnessMeter:
    """Remembers when the view was last known to have applied everything that was in the log then.

    Under steady traffic a view never holds what is at the log's end this very moment. So ends are kept until
    the view has reached them, and the lag is the age of the newest ends that it has. Moments are readings of
    a clock that never steps.

    Attributes
    ----------
    level_at
        When the view was last known to be level with the log; ``None``: never yet.
    """

    def __init__(self) -> None:
        self._pending: deque[tuple[Mapping[str, int], datetime]] = deque()
        self.level_at: datetime | None = None

    def observe_ends(self, ends: Mapping[str, int], at: datetime) -> None:
        """Take in the log's end offsets, by ``topic/partition``, and a moment before they were read."""
        too_soon = self._pending and timedelta() <= at - self._pending[-1][1] < _SPACING
        if len(self._pending) < _MOST_PENDING and not too_soon:
            self._pending.append((ends, at))

    def observe_view(self, next_offsets: Mapping[str, int]) -> None:
        """Compare the view's positions with the ends it hasn't reached yet."""
        while self._pending:
            ends, at = self._pending[0]
            if any(next_offsets.get(partition, 0) < end for partition, end in ends.items()):
                return
            self.level_at = at
            self._pending.popleft()

    def lag(self, now: datetime) -> timedelta | None:
        """Return for how long the view may have been behind; ``None`` when it never reached an end."""
        return None if self.level_at is None else max(now - self.level_at, timedelta())
