"""The only place that reads the clock; everything else is given ``now``."""

import time
from datetime import UTC, datetime, timedelta
from typing import Protocol

_BEGUN, _BEGUN_AT = datetime.now(UTC), time.monotonic()


class Clock(Protocol):
    """A source of the current time."""

    def now(self) -> datetime:
        """Return the time, always in UTC."""
        ...

    def steady(self) -> datetime:
        """Return the time that it would be had nobody set the clock since the process began.

        For ages, and for nothing else: the difference of two readings is what really went by.
        """
        ...


class SystemClock:
    """The machine's clock. It may step back: nothing may rest on two readings being ordered."""

    def now(self) -> datetime:
        """Return the machine's time in UTC."""
        return datetime.now(UTC)

    def steady(self) -> datetime:
        """Return what `now` was when the process began, and what went by since."""
        return _BEGUN + timedelta(seconds=time.monotonic() - _BEGUN_AT)
