"""Periods turn at local midnight of the zone that policy names, wherever it is and whatever clocks do there.

Usage lies within a second, an hour and a day of every turn of the months to come: through summer time in both
hemispheres, a leap day, turns of the year, zones a whole day apart, and policies that change the zone in the
middle of a month, at a turn and between two turns. They come when the usage is long counted.
What is counted where, and what servers answer around each turn, must be what the recomputation says.
"""

import asyncio
import random
from collections.abc import Iterator
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Final
from zoneinfo import ZoneInfo

from tests.proofs.chaos import Feeder
from tests.proofs.clocked import Clocked
from tests.proofs.compare import compare
from tests.proofs.events import Draft, directory_event, policy_event, price_book, quota_policy, usage_event
from tests.proofs.lab import Arena, Lab, Verdict

ZONES: Final = (
    "Europe/Berlin",
    "Pacific/Kiritimati",  # fourteen hours ahead
    "Australia/Lord_Howe",  # summer time of half an hour
    "Asia/Kathmandu",
    "America/St_Johns",
    "Africa/Cairo",  # summer time begins on a Friday
    "America/Santiago",  # and ends at midnight
    "Pacific/Pago_Pago",  # eleven hours behind
    "Europe/Berlin",
)
"""In force one after the other."""

PEOPLE, TEAMS, PROJECT = 12, 3, "atlas"
LIMIT_MICRO_USD = 20_000
MOMENT, DAY = timedelta(microseconds=1), timedelta(days=1)
NEAR: Final = (timedelta(), MOMENT, timedelta(seconds=1), timedelta(hours=1), DAY)
PROJECTED_SECONDS = 120
SHOWN = 10


async def prove(lab: Lab) -> Verdict:
    """Prove it; the leap day of 2028 lies within the months of full size."""
    leap_day = datetime(2028, 3, 1, tzinfo=UTC)
    months = max(len(ZONES), (leap_day - lab.anchor).days // 30 + 2) if lab.scale >= 1 else len(ZONES)
    return await endure(lab, months=months)


async def endure(lab: Lab, *, months: int) -> Verdict:
    """Count usage under the first zone alone, then let the others come; ask around every turn."""
    async with AsyncExitStack() as resources:
        arena = await resources.enter_async_context(Arena.open(lab.variant))
        feeder = await resources.enter_async_context(Feeder(arena.stack.kafka.bootstrap))
        calendar = Calendar(random.Random(lab.seed), lab.anchor, months)
        clocked = Clocked(lab, arena, calendar.people, PROJECT)
        drafts = [*calendar.founding(), *calendar.usage()]
        later = calendar.policies()
        lab.note(f"period-turn: {len(drafts)} events, {len(calendar.turns)} turns in {len(set(ZONES))} zones")
        projector = arena.spawn("project", "project")
        await feeder.send([draft.binary() for draft in (*drafts, later[0])])
        await arena.projected(feeder.ends, within_seconds=PROJECTED_SECONDS)
        living = await resources.enter_async_context(clocked.server(arena))
        for number, policy in enumerate(later[1:], start=1):
            await feeder.send([policy.binary()])
            if number == len(later) // 2:
                await arena.projected(feeder.ends, within_seconds=PROJECTED_SECONDS)
                await _around_turns(clocked, calendar, living, share=4)
        await arena.projected(feeder.ends, within_seconds=PROJECTED_SECONDS)
        await asyncio.to_thread(projector.kill)
        lab.note("period-turn: every zone is in force in its time")
        await _around_turns(clocked, calendar, living, share=4)
        async with clocked.server(arena) as starting:
            await _around_turns(clocked, calendar, starting, share=1)
            records, truth = await clocked.truth(starting)
        figures, failures = await compare(arena, truth, records)
        return Verdict(
            {"turns": len(calendar.turns), "zones": len(set(ZONES)), **figures, **clocked.figures},
            [*clocked.failures[:SHOWN], *failures],
        )


async def _around_turns(clocked: Clocked, calendar: "Calendar", stub: object, *, share: int) -> None:
    """Ask just before, at and after one in so many turns and changes of zone, then at some again."""
    _, truth = await clocked.truth(stub)
    borders = sorted({*calendar.turns, *calendar.changes})
    chosen = clocked.rng.sample(borders, -(-len(borders) // share))
    instants = sorted({border + step * MOMENT for border in chosen for step in (-1, 0, 1)})
    for at in (*instants, *clocked.rng.sample(instants, len(instants) // 10)):
        await clocked.ask(stub, truth, at)
    clocked.figures["instants"] += len(instants)


class Calendar:
    """People who use most around the turns of months to come, and when which zone is in force."""

    def __init__(self, rng: random.Random, now: datetime, months: int) -> None:
        self._rng, self._now = rng, now
        self.people = [f"p{rng.getrandbits(40):010x}" for _ in range(PEOPLE)]
        self.turns = sorted(_turns(now, months))
        self.changes = list(self._changes(months))

    def _changes(self, months: int) -> Iterator[datetime]:
        """Return from when each zone but the first is in force, each some months after the one before."""
        stretch = months // len(ZONES)
        for number, (before, after) in enumerate(pairwise(ZONES), start=1):
            there, here = (_turn(self._now, number * stretch, zone) for zone in (before, after))
            match number % 4:
                case 0:
                    yield here  # as a period turns in the new zone
                case 1:
                    yield there + self._rng.uniform(3, 20) * DAY
                case 2:
                    yield there  # as one turns in the old
                case _:
                    yield min(there, here) + abs(there - here) / 2  # once the one has, and the other has not

    def founding(self) -> list[Draft]:
        """Return directory and price book."""
        told, long_ago = self._now, self._now - 200 * DAY
        drafts = [policy_event("price_book", 1, long_ago, told, price_book(1))]
        for number, person in enumerate(self.people):
            data = {"role": "engineer", "team_id": f"team-{number % TEAMS}"}
            drafts.append(directory_event(person, "person.upserted", long_ago, person, told, **data))
        return drafts

    def policies(self) -> list[Draft]:
        """Return the quota policies in the order in which they replace each other."""
        budgets = [("team", f"team-{number}", 4 * LIMIT_MICRO_USD) for number in range(TEAMS)]
        starts = [self._now - 200 * DAY, *self.changes]
        return [
            policy_event("quota", number, start, self._now, quota_policy(zone, LIMIT_MICRO_USD, budgets))
            for number, (zone, start) in enumerate(zip(ZONES, starts, strict=True), start=1)
        ]

    def usage(self) -> list[Draft]:
        """Return usage before, at and after every turn in every zone, in no order."""
        drafts: list[Draft] = []
        for turn in (*self.turns, *self.changes):
            for near in NEAR:
                for at in {turn - near, turn + near}:
                    cost = self._rng.randrange(1, LIMIT_MICRO_USD // 4)
                    project = {"project": PROJECT} if self._rng.random() < 0.3 else {}
                    person, name = self._rng.choice(self.people), f"u{len(drafts)}"
                    drafts.append(
                        usage_event("/tool", name, at, subject=person, cost_micro_usd=cost, **project)
                    )
        self._rng.shuffle(drafts)
        return drafts


def _turns(now: datetime, months: int) -> set[datetime]:
    """Return when the months to come begin, in every zone."""
    return {_turn(now, number, zone) for number in range(1, months + 1) for zone in ZONES}


def _turn(now: datetime, months: int, zone: str) -> datetime:
    """Return when a month begins in a zone, so many months after the present one."""
    year, month = divmod(now.year * 12 + now.month - 1 + months, 12)
    return datetime(year, month + 1, 1, tzinfo=ZoneInfo(zone)).astimezone(UTC)
