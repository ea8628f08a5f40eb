"""What a made-up account uses on each day: weekdays and weekends, growth, launch weeks, outages, holidays."""

from collections.abc import Iterator
from datetime import date, timedelta
from math import exp
from random import Random
from typing import Final, NamedTuple

from tokenomics_contracts.units import MicroUsd

HISTORY: Final = timedelta(days=100)
"""So long before its month an account may have been used."""

_DAY: Final = timedelta(days=1)


class Month(NamedTuple):
    """A month of an account, and what came before it."""

    start: date
    end: date
    """Exclusive."""
    days: dict[date, MicroUsd]
    """Those on which anything was used."""

    @property
    def total_micro_usd(self) -> MicroUsd:
        """What was used in the month in the end."""
        return MicroUsd(sum(amount for day, amount in self.days.items() if day >= self.start))


class _Episode(NamedTuple):
    """Days that are out of line."""

    start: date
    days: int
    factor: float

    def at(self, day: date) -> float:
        return self.factor if timedelta() <= day - self.start < timedelta(days=self.days) else 1.0


def months(seed: int, count: int) -> Iterator[Month]:
    """Yield so many months of as many accounts, all of which were used; a quarter of them are new."""
    random = Random(seed)
    made = 0
    while made < count:
        start = date(2026, 1 + made % 12, 1)
        end = (start + 32 * _DAY).replace(day=1)
        month = Month(start, end, _spend(random, start, end))
        if month.total_micro_usd:
            made += 1
            yield month


def _spend(random: Random, start: date, end: date) -> dict[date, MicroUsd]:
    first = start - HISTORY
    count = (end - first).days
    opened = start - random.randrange(3, 35) * _DAY if random.random() < 0.25 else first
    level = 1e8 * random.lognormvariate(0, 1)
    growth = random.choice((-0.1, 0, 0, 0.05, 0.1, 0.2, 0.4)) / 30
    noise = random.choice((0.1, 0.2, 0.35, 0.5))
    by_weekday = _week(random)
    episodes = list(_episodes(random, first, count))
    drift, days = 0.0, dict[date, MicroUsd]()
    for number in range(count):
        day = first + number * _DAY
        drift = 0.95 * drift + random.gauss(0, 0.04)
        amount = level * exp(growth * number + drift) * by_weekday[day.weekday()]
        amount *= random.lognormvariate(-noise * noise / 2, noise)
        for episode in episodes:
            amount *= episode.at(day)
        if day >= opened and int(amount):
            days[day] = MicroUsd(int(amount))
    return days


def _week(random: Random) -> list[float]:
    """Four of five work in an office; the others are bots and shops, which know no weekend."""
    weekend = random.uniform(0.02, 0.25) if random.random() < 0.8 else random.uniform(0.8, 1.0)
    friday = random.uniform(0.75, 0.95)
    return [random.uniform(0.9, 1.1), 1.05, 1.05, 1.0, friday, weekend, weekend * random.uniform(0.7, 1.0)]


def _episodes(random: Random, first: date, count: int) -> Iterator[_Episode]:
    def somewhere() -> date:
        return first + random.randrange(count) * _DAY

    if random.random() < 0.5:
        yield _Episode(somewhere(), random.choice((5, 7, 10)), random.uniform(1.6, 3.0))  # a launch
    for _ in range(random.choice((0, 1, 1, 2, 3))):
        yield _Episode(somewhere(), random.choice((1, 1, 2)), random.uniform(0.0, 0.3))  # an outage
    for _ in range(random.choice((0, 1, 2))):
        yield _Episode(somewhere(), 1, 0.15)  # a holiday
    if random.random() < 0.15:
        yield _Episode(somewhere(), count, random.choice((0.6, 1.5, 1.8)))  # other people, for good
