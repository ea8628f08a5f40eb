"""The only place that reads the clock; everything else is given ``now``."""

from datetime import UTC, datetime
from typing import Protocol


class Clock(Protocol):
    """A source of the current time."""

    def now(self) -> datetime:
        """Return the time, always in UTC."""
        ...


class SystemClock:
    """The machine's clock. It may step back: nothing may rest on two readings being ordered."""

    def now(self) -> datetime:
        """Return the machine's time in UTC."""
        return datetime.now(UTC)
