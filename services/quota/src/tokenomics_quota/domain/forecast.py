"""What a period will end with, from what was used on each day: weekday medians at a robust level.

How good that is on simulated months, beside other methods, is in ``docs/forecast.md``. Integers throughout:
amounts in micro-USD, ratios in basis points.
"""

from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, date, datetime, timedelta
from fractions import Fraction
from itertools import accumulate
from math import isqrt
from statistics import median_low
from typing import Final, NamedTuple

from tokenomics_contracts.events import policy
from tokenomics_contracts.units import MicroUsd

METHOD: Final = "weekday_medians"

HISTORY: Final = timedelta(weeks=8)
"""Of the days before today so many are looked at."""

FEWEST_DAYS: Final = 3
"""Less is no pattern."""

_DAY: Final = timedelta(days=1)
_WEEK: Final = 7
_MONDAY_TO_FRIDAY: Final = range(5)
_WEEKEND: Final = range(5, 7)
_ENOUGH_FOR_A_MEDIAN: Final = 3
_RECENT_DAYS: Final = 28
_CLIP: Final = 2
"""A day counts for the level at most as if it had been twice, at least as if it had been half the usual."""
_FADES: Final = (9, 10)
"""A day counts for the level nine tenths of what the day after it counts: half in six and a half days."""

# The width of the interval. Calibrated on simulated months so that four of five totals lie in it, on the
# fifth day as on the twenty-fifth.
_MEAN_TO_STANDARD_DEVIATION: Final = Fraction(3, 2)
_DAYS_BEHIND_THE_LEVEL: Final = 6
_DRIFT_BASIS_POINTS: Final = 350
"""So much a level moves in a day, like a drunkard."""
_NEW_BASIS_POINTS: Final = 2_000
"""So little is known of an account that is a week old."""
_QUANTILE: Final = Fraction(12_816, 10_000)
"""Of the normal distribution, for an interval that holds 80 %."""


class Forecast(NamedTuple):
    """The total that a period is expected to end with."""

    total_micro_usd: MicroUsd
    low_micro_usd: MicroUsd
    high_micro_usd: MicroUsd
    """Four of five totals lie between, on simulated months."""


def forecast(
    days: Mapping[date, MicroUsd], posted_micro_usd: MicroUsd, now: datetime, end: datetime
) -> Forecast | None:
    """Expect what a period's total will be.

    Parameters
    ----------
    days
        What was used on days (in UTC) before today; further back than :data:`HISTORY` nobody looks.
    posted_micro_usd
        The period's total now.
    end
        Of the period, exclusive.

    Returns
    -------
    Forecast | None
        ``None`` where too few days have passed since the first use. Of a period that has ended: its total.
    """
    if now >= end:
        return Forecast(posted_micro_usd, posted_micro_usd, posted_micro_usd)
    today = now.astimezone(UTC).date()
    known = [day for day in days if today - HISTORY <= day < today]
    if not known or (today - min(known)).days < FEWEST_DAYS:
        return None
    pattern = _Pattern(days, min(known), today)
    left = [pattern.expected(day, share) for day, share in _days_left(now, end)]
    rest = sum(left)
    width = 10_000 + pattern.width_basis_points(left)
    return Forecast(
        MicroUsd(posted_micro_usd + int(rest)),
        MicroUsd(posted_micro_usd + int(rest * 10_000 / width)),
        MicroUsd(posted_micro_usd + int(rest * width / 10_000)),
    )


def _days_left(now: datetime, end: datetime) -> Iterator[tuple[date, Fraction]]:
    """Yield the days, in UTC, until the end, each with the part of it that is left."""
    begin = now.astimezone(UTC)
    while begin < end:
        midnight = begin.replace(hour=0, minute=0, second=0, microsecond=0) + _DAY
        until = min(midnight, end)
        yield begin.date(), Fraction((until - begin) // timedelta(seconds=1), 86_400)
        begin = until


class _Pattern:
    """How an account is used through the week, and how much so lately."""

    def __init__(self, days: Mapping[date, MicroUsd], first: date, today: date) -> None:
        count = (today - first).days
        dates = [first + number * _DAY for number in range(count)]
        self._used = [days.get(day, MicroUsd(0)) for day in dates]
        self._by_weekday = _by_weekday(dates, self._used)
        usual = [self._by_weekday[day.weekday()] for day in dates]
        median = _weighted_median(self._used[-_RECENT_DAYS:], usual[-_RECENT_DAYS:])
        self._level = _level(self._used, usual, median)
        self._deviation = _deviation(self._used[-_RECENT_DAYS:], usual[-_RECENT_DAYS:], median or self._level)

    def expected(self, day: date, share: Fraction) -> Fraction:
        """Return what is expected to be used in a part of a day."""
        return self._by_weekday[day.weekday()] * self._level * share

    def width_basis_points(self, left: Sequence[Fraction]) -> int:
        """Return how far, of what is expected for the days left, it may well be off."""
        count, rest = len(self._used), sum(left)
        # Of many days the deviations even out, the more so the more alike they are.
        evening_out = sum(part * part for part in left) / (rest * rest) if rest else Fraction(1)
        variance = (
            self._deviation**2 * (evening_out + Fraction(1, min(count, _DAYS_BEHIND_THE_LEVEL)))
            + _DRIFT_BASIS_POINTS**2 * len(left)
            + Fraction(_NEW_BASIS_POINTS**2 * _WEEK, count)
        )
        return int(isqrt(int(variance)) * _QUANTILE)


def _by_weekday(dates: Sequence[date], used: Sequence[int]) -> list[Fraction]:
    """Return what is usually used on each day of the week; one that was never seen is like its neighbours."""
    seen: list[list[int]] = [[] for _ in range(_WEEK)]
    for day, amount in zip(dates, used, strict=True):
        seen[day.weekday()].append(amount)
    usual = [median_low(each) if len(each) >= _ENOUGH_FOR_A_MEDIAN else _mean(each) for each in seen]
    if not any(usual):  # used on few days only
        usual = [_mean(each) for each in seen]
    for weekdays in (_MONDAY_TO_FRIDAY, _WEEKEND):
        known = [each for weekday in weekdays if (each := usual[weekday]) is not None]
        for weekday in weekdays:
            if usual[weekday] is None:
                usual[weekday] = _mean(known or [each for each in usual if each is not None])
    return [Fraction(each or 0) for each in usual]


def _mean(amounts: Sequence[int | Fraction]) -> Fraction | None:
    return Fraction(sum(amounts), len(amounts)) if amounts else None


def _weighted_median(used: Sequence[int], usual: Sequence[Fraction]) -> Fraction:
    """Return which share of the usual was used on the middle one of days, each weighing what is usual."""
    shares = sorted((amount / most, most) for amount, most in zip(used, usual, strict=True) if most)
    half = sum((most for _, most in shares), Fraction(0)) / 2
    reached = accumulate(most for _, most in shares)
    return next(
        (share for (share, _), most in zip(shares, reached, strict=True) if most >= half), Fraction(0)
    )


def _level(used: Sequence[int], usual: Sequence[Fraction], median: Fraction) -> Fraction:
    """Return which share of the usual is used lately; single days that are out of line count little."""
    nominator = denominator = Fraction(0)
    weight, before = 1, 1
    fades, of = _FADES
    for amount, most in zip(reversed(used), reversed(usual), strict=True):
        middle = most * median
        counts = min(max(Fraction(amount), middle / _CLIP), middle * _CLIP) if median else Fraction(amount)
        nominator += counts * Fraction(weight, before)
        denominator += most * Fraction(weight, before)
        weight, before = weight * fades, before * of
    return nominator / denominator if denominator else Fraction(0)


def _deviation(used: Sequence[int], usual: Sequence[Fraction], level: Fraction) -> int:
    """Return how far days usually are off, in basis points of what is expected on them."""
    expected = [most * level for most in usual]
    total = sum(expected)
    if not total:
        return policy.FULL
    off = sum(abs(amount - most) for amount, most in zip(used, expected, strict=True))
    return int(off * policy.FULL * _MEAN_TO_STANDARD_DEVIATION / total)
