"""Forecasts made on days of months of which the end is known."""

from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, date, datetime, time, timedelta
from statistics import mean, median
from typing import Final, NamedTuple

from tokenomics_contracts.units import MicroUsd
from tokenomics_quota.domain.forecast import Forecast
from tokenomics_tools.forecast.spend import Month

AFTER_DAYS: Final = (5, 10, 15, 20, 25)

Method = Callable[[Mapping[date, MicroUsd], MicroUsd, datetime, datetime], Forecast | None]
"""As :func:`tokenomics_quota.domain.forecast.forecast`."""


class Score(NamedTuple):
    """How a method did on one day of all months."""

    after_days: int
    forecasts: int
    mean_error: float
    """Mean of |forecast - total| / total: the MAPE of the month's total."""
    median_error: float
    covered: float
    """Share of the totals that lay in the interval."""
    width: float
    """Median width of the interval, by the total."""


class _Judged(NamedTuple):
    error: float
    covered: bool
    width: float


def score(method: Method, months: Iterable[Month]) -> list[Score]:
    """Let a method forecast each month's total on several days of it, and say how good it was."""
    by_day: dict[int, list[_Judged]] = {after: [] for after in AFTER_DAYS}
    for month in months:
        for after, judged in by_day.items():
            if made := _judge(method, month, after):
                judged.append(made)
    return [
        Score(
            after,
            len(judged),
            mean(each.error for each in judged),
            median(each.error for each in judged),
            mean(each.covered for each in judged),
            median(each.width for each in judged),
        )
        for after, judged in by_day.items()
    ]


def _judge(method: Method, month: Month, after_days: int) -> _Judged | None:
    today = month.start + timedelta(days=after_days)
    days = {day: amount for day, amount in month.days.items() if day < today}
    posted = MicroUsd(sum(amount for day, amount in days.items() if day >= month.start))
    made = method(days, posted, _midnight(today), _midnight(month.end))
    if made is None:
        return None
    total = month.total_micro_usd
    return _Judged(
        abs(made.total_micro_usd - total) / total,
        made.low_micro_usd <= total <= made.high_micro_usd,
        (made.high_micro_usd - made.low_micro_usd) / total,
    )


def _midnight(day: date) -> datetime:
    return datetime.combine(day, time(), UTC)
