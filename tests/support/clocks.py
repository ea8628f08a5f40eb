"""Clocks that tests set."""

from dataclasses import dataclass
from datetime import datetime, timedelta

from tests.support.quota_events import NOW


@dataclass
class SetClock:
    """Tells the time that it is set to."""

    time: datetime = NOW
    set_back_by: timedelta = timedelta()
    """What somebody has set it back by: the steady time goes on."""

    def now(self) -> datetime:
        return self.time

    def steady(self) -> datetime:
        return self.time + self.set_back_by
