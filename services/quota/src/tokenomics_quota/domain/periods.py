"""Calendar periods in a policy's time zone."""

import re
from datetime import UTC, datetime
from functools import lru_cache
from zoneinfo import ZoneInfo

from tokenomics_contracts.units import PeriodId

_MONTHS_PER_YEAR = 12

# Times lie in the years 2000 to 2199 (UTC), which a zone moves by hours: 1999-12 to 2200-01 at the most.
_PERIOD = re.compile(r"(1999|2[01][0-9]{2}|2200)-(0[1-9]|1[0-2])")


class MonthCalendar:
    """Calendar months of one time zone.

    A period turns at local midnight, so daylight-saving changes move the instant in UTC and never the
    local date. Lookups within a month already seen cost one comparison.
    """

    __slots__ = ("_bounds", "_end", "_period", "_start", "_zone")

    def __init__(self, time_zone: str) -> None:
        self._zone = ZoneInfo(time_zone)
        self._bounds: dict[PeriodId, tuple[datetime, datetime]] = {}
        self._period = PeriodId("")
        self._start = self._end = datetime.max.replace(tzinfo=UTC)

    def period_of(self, instant: datetime) -> PeriodId:
        """Return the period, ``YYYY-MM``, an instant falls into."""
        if not self._start <= instant < self._end:
            local = instant.astimezone(self._zone)
            self._period = PeriodId(f"{local.year:04d}-{local.month:02d}")
            self._start, self._end = self.bounds(self._period)
        return self._period

    def before(self, period: PeriodId) -> PeriodId:
        """Return the period before one."""
        year, month = parse_period(period)
        year, month = (year, month - 1) if month > 1 else (year - 1, _MONTHS_PER_YEAR)
        return PeriodId(f"{year:04d}-{month:02d}")

    def bounds(self, period: PeriodId) -> tuple[datetime, datetime]:
        """Return start (inclusive) and end (exclusive) of a period, in UTC.

        Raises
        ------
        ValueError
            As :func:`parse_period` does.
        """
        bounds = self._bounds.get(period)
        if bounds is None:
            year, month = parse_period(period)
            following = (year + month // _MONTHS_PER_YEAR, month % _MONTHS_PER_YEAR + 1)
            bounds = self._bounds[period] = (
                datetime(year, month, 1, tzinfo=self._zone).astimezone(UTC),
                datetime(*following, 1, tzinfo=self._zone).astimezone(UTC),
            )
        return bounds


def parse_period(period: str) -> tuple[int, int]:
    """Return (year, month) of a ``YYYY-MM`` period.

    Raises
    ------
    ValueError
        When the text is not written like that, or lies outside the times that events may have.
    """
    parts = _PERIOD.fullmatch(period)
    if parts is None:
        raise ValueError(f"period {period!r} is not YYYY-MM within the years 2000 to 2199")
    return int(parts[1]), int(parts[2])


@lru_cache(maxsize=64)
def calendar(time_zone: str) -> MonthCalendar:
    """Return the calendar of a time zone; one object per zone, so that its last month stays at hand."""
    return MonthCalendar(time_zone)
