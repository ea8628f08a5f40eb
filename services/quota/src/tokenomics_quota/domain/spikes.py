"""Use of one day that is far above what is usual for its subject.

What is usual is taken from the days (in UTC) of a trailing window on which something was used: days off make
nothing else look unusual. The usual day is the median of all of them or, where that is more, of those on the
same weekday, when there are three: what happens every Monday is no spike. A day is a spike from the highest
of three amounts on: the policy's smallest amount, the policy's factor times the usual day, and the usual day
with five times what days are usually off by. Until there have been a few days nothing is usual, and no day a
spike.
"""

from collections.abc import Mapping
from datetime import date, timedelta
from statistics import median_low
from typing import Final, NamedTuple, Self

from tokenomics_contracts.events import policy
from tokenomics_contracts.units import BasisPoints, MicroUsd

_DEVIATIONS: Final = 5
"""So many times what days are usually off by (the median of it) is beyond chance: 3.4 standard deviations."""

_ENOUGH_OF_A_WEEKDAY: Final = 3
"""Fewer may have been spikes themselves."""

_MICRO_PER_CENT: Final = 10_000
_CENTS: Final = 100


class SpikeRule(NamedTuple):
    """What a quota policy says of days that are far above the usual."""

    factor: BasisPoints
    minimum_micro_usd: MicroUsd
    """No day below it is a spike."""
    window: timedelta
    fewest_days: int
    """On so many days of the window something has to have been used."""

    @classmethod
    def from_policy(cls, stated: policy.Spikes) -> Self:
        """Take over what a policy states."""
        return cls(
            stated.factor_basis_points,
            stated.minimum_micro_usd,
            timedelta(days=stated.window_days),
            stated.fewest_days,
        )

    @property
    def watched_from_micro_usd(self) -> MicroUsd:
        """From what use of a day on it is worth knowing what is usual: checks see what is still to come."""
        return MicroUsd(self.minimum_micro_usd // 2)


class Usual(NamedTuple):
    """What is usual for a subject on a day."""

    micro_usd: MicroUsd
    spike_micro_usd: MicroUsd
    """From so much on the day is a spike."""
    days: int
    """From how many days it is known."""


class DayUse(NamedTuple):
    """What a subject has used on a day, beside what is usual."""

    day: date
    posted_micro_usd: MicroUsd
    usual: Usual

    @property
    def room_micro_usd(self) -> MicroUsd:
        """How much more may be used before the day is a spike; negative once it is."""
        return MicroUsd(self.usual.spike_micro_usd - 1 - self.posted_micro_usd)

    @property
    def message(self) -> str:
        """Say so, with the numbers."""
        usual, days = self.usual.micro_usd, self.usual.days
        return (
            f"Today {_usd(self.posted_micro_usd)} USD were used; {_usd(usual)} USD are usual on such a day,"
            f" by {days} days before."
        )


def usual(days: Mapping[date, MicroUsd], today: date, rule: SpikeRule) -> Usual | None:
    """Return what is usual today by the days before; ``None`` where there are too few.

    Parameters
    ----------
    days
        What was used on each day in UTC; other days than those of the window don't matter.
    """
    used = {day: amount for day, amount in days.items() if today - rule.window <= day < today and amount > 0}
    if len(used) < rule.fewest_days:
        return None
    middle = median_low(used.values())
    off = median_low(abs(amount - middle) for amount in used.values())
    of_weekday = [amount for day, amount in used.items() if day.weekday() == today.weekday()]
    ordinary = max(middle, median_low(of_weekday) if len(of_weekday) >= _ENOUGH_OF_A_WEEKDAY else 0)
    spike = max(
        rule.minimum_micro_usd,
        -(-ordinary * rule.factor // policy.FULL),
        ordinary + _DEVIATIONS * off,
    )
    return Usual(MicroUsd(ordinary), MicroUsd(spike), len(used))


def _usd(amount: MicroUsd) -> str:
    cents = (amount + _MICRO_PER_CENT // 2) // _MICRO_PER_CENT
    return f"{cents // _CENTS}.{cents % _CENTS:02d}"
