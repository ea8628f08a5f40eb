"""Grants and reasons begin and end to count on the instant, with nothing happening then.

Servers whose clock is set are asked just before, at and just after every instant at which something begins or
ends: each limit must be that of the recomputation to the micro-USD, and each band, too. What governs comes
late, twice, out of order and contradicting itself; the projector is killed meanwhile, servers come and go.
"""

import random
from collections import Counter
from collections.abc import Iterable
from contextlib import AsyncExitStack
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any, Final
from zoneinfo import ZoneInfo

from tests.proofs.chaos import Feeder, project_killed
from tests.proofs.clocked import Clocked
from tests.proofs.compare import compare_parked
from tests.proofs.events import (
    QUOTA,
    Draft,
    Message,
    approval_event,
    closed_event,
    directory_event,
    ending_event,
    policy_event,
    price_book,
    quota_policy,
    usage_event,
)
from tests.proofs.lab import Arena, Lab, Verdict

PEOPLE, TEAMS, GROUPS, PROJECT = 24, 4, 3, "atlas"
LIMIT_MICRO_USD = 1_000
STAGES = 3
MOMENT: Final = timedelta(microseconds=1)
DAY: Final = timedelta(days=1)
ZONES = ("Europe/Berlin", "America/New_York")
SHOWN = 10


async def prove(lab: Lab) -> Verdict:
    """Prove it; at any scale there is something of everything."""
    return await endure(lab, requests=max(60, round(300 * lab.scale)))


async def endure(lab: Lab, *, requests: int) -> Verdict:
    """Tell the story in parts; after each, ask a server that has heard all of it and one that starts then."""
    async with AsyncExitStack() as resources:
        arena = await resources.enter_async_context(Arena.open(lab.variant))
        feeder = await resources.enter_async_context(Feeder(arena.stack.kafka.bootstrap))
        story = Story(random.Random(lab.seed), lab.anchor, requests)
        asking = Asking(lab, arena, story)
        await feeder.send([draft.binary() for draft in story.founding()])
        await project_killed(arena, feeder, [])
        living = await resources.enter_async_context(asking.server(arena))
        stages = story.told(STAGES)
        for number, messages in enumerate(stages, start=1):
            lab.note(f"grants-expire-on-the-instant: part {number} of {len(stages)}")
            await project_killed(arena, feeder, messages)
            await asking.around_borders(living, share=4)
            async with asking.server(arena) as starting:
                await asking.around_borders(starting, share=1 if number == len(stages) else 4)
        lab.note("grants-expire-on-the-instant: the same, projected anew")
        other = arena.on_another_database()
        await other.migrate()
        await project_killed(other, feeder, [])
        async with asking.server(other) as starting:
            await asking.around_borders(starting, share=4)
        return Verdict({**story.figures, **asking.figures}, asking.failures[:SHOWN])


class Story:
    """People, teams, rotas and what is approved for them, around a moment, over three months."""

    def __init__(self, rng: random.Random, now: datetime, requests: int) -> None:
        self._rng, self._now, self._requests = rng, now, requests
        self.people = [f"p{rng.getrandbits(40):010x}" for _ in range(PEOPLE)]
        self._begin, self._end = now - 55 * DAY, now + 55 * DAY
        self.borders: set[datetime] = set()
        self.figures: Counter[str] = Counter()

    def _at_random(self) -> datetime:
        seconds = self._rng.uniform(0, (self._end - self._begin).total_seconds())
        return self._begin + timedelta(seconds=seconds)

    def _border(self, instant: datetime) -> datetime:
        self.borders.add(instant)
        return instant

    def founding(self) -> list[Draft]:
        """Return directory, policies and what was used, near the limits of who used it."""
        told, long_ago = self._now, self._now - 200 * DAY
        budgets = [("team", f"team-{number}", 6 * LIMIT_MICRO_USD) for number in range(TEAMS)]
        budgets += [("cost_centre", "cc-0", 12 * LIMIT_MICRO_USD), ("project", PROJECT, 4 * LIMIT_MICRO_USD)]
        drafts = [policy_event("price_book", 1, long_ago, told, price_book(1))]
        since = [long_ago, self._border(self._at_random())]
        for version, (zone, start) in enumerate(zip(ZONES, since, strict=True), start=1):
            allowances = [("engineer", LIMIT_MICRO_USD * version), ("boss", LIMIT_MICRO_USD // 2)]
            document = quota_policy(zone, LIMIT_MICRO_USD, budgets, allowances)
            document["overrides"] = [
                {"project_id": PROJECT, "mode": "add", "limit_micro_usd": LIMIT_MICRO_USD // 4 * version},
                {"project_id": "borealis", "mode": "replace", "limit_micro_usd": LIMIT_MICRO_USD // 2},
            ]
            document["budgets"][0]["buffer_micro_usd"] = LIMIT_MICRO_USD // version
            drafts.append(policy_event("quota", version, start, told, document))
        for number in range(TEAMS):
            centre = {"cost_centre_id": f"cc-{number % 2}"}
            drafts.append(
                directory_event(f"team-{number}", "team.upserted", long_ago, f"team-{number}", told, **centre)
            )
        for number, person in enumerate(self.people):
            data: dict[str, Any] = {
                "role": ("engineer", "boss", "guest")[number % 3],
                "team_id": f"team-{number % TEAMS}",
                "project_ids": ([], [PROJECT], ["borealis"], [PROJECT, "borealis"])[number % 4],
            }
            drafts.append(directory_event(person, "person.upserted", long_ago, person, told, **data))
        for person in self._rng.sample(self.people, 2):
            gone = self._border(self._at_random())
            drafts.append(directory_event(person, "person.left", gone, f"{person}-left", told))
        return drafts + [self._usage(number) for number in range(12 * PEOPLE)]

    def _usage(self, number: int) -> Draft:
        at = self._begin + timedelta(seconds=self._rng.uniform(0, (self._now - self._begin).total_seconds()))
        cost = self._rng.randrange(LIMIT_MICRO_USD // 4)
        project = {"project": PROJECT} if number % 4 == 0 else {}
        person = self._rng.choice(self.people)
        return usage_event("/tool", f"u{number}", at, subject=person, cost_micro_usd=cost, **project)

    def told(self, stages: int) -> list[list[Message]]:
        """Return all that is approved and ended, repeated and contradicted, in no order, in so many parts."""
        drafts = [*self._rotas(), *self._closings()]
        for number in range(self._requests):
            drafts += self._request(f"r{number}")
        repeats = self._rng.sample(drafts, len(drafts) // 3)
        messages = [self._written(draft) for draft in (*drafts, *repeats)]
        self._rng.shuffle(messages)
        self.figures.update(events=len(messages), repeats=len(repeats), borders=len(self.borders))
        size = -(-len(messages) // stages)
        return [messages[start : start + size] for start in range(0, len(messages), size)]

    def _written(self, draft: Draft) -> Message:
        services_own = draft.topic == QUOTA  # which writes one mode
        return draft.binary() if services_own or self._rng.random() < 0.5 else draft.structured()

    def _closings(self) -> list[Draft]:
        """Return what some accounts carry over at each turn, as the zone that was in force first has it."""
        turns = sorted(turn for turn in _turns(self._now) if turn.astimezone(ZoneInfo(ZONES[0])).hour == 0)
        drafts = []
        for begins, ends in pairwise(map(self._border, turns)):
            closed = (begins - DAY).strftime("%Y-%m")
            owners = [f"subject/{person}" for person in self.people] + ["team/team-0", f"project/{PROJECT}"]
            for owner in self._rng.sample(owners, len(owners) // 2):
                left = self._rng.randrange(1, LIMIT_MICRO_USD)
                drafts.append(closed_event(f"{owner}/all/{closed}", left, (begins, ends), self._now))
        self.figures["carried_over"] = len(drafts)
        return drafts

    def _rotas(self) -> list[Draft]:
        drafts = []
        for number in range(4 * GROUPS):
            group, since = f"group-{number % GROUPS}", self._border(self._at_random())
            members = {"member_ids": self._rng.sample(self.people, 5)}
            drafts.append(directory_event(group, "group.upserted", since, f"g{number}", self._now, **members))
        return drafts

    def _request(self, request_id: str) -> list[Draft]:
        rng, told = self._rng, self._now
        start = rng.choice([self._at_random(), rng.choice(sorted(self.borders))])
        end = start + timedelta(seconds=10 ** rng.uniform(0, 6.2))
        target, kind = self._target()
        data: dict[str, Any] = {}
        if kind != "justification":
            data = {"amount_micro_usd": rng.randrange(1, LIMIT_MICRO_USD)}
            data |= {"counts_in": "each_period"} if rng.random() < 0.3 else {}
            data |= {"overdraft": True} if rng.random() < 0.2 else {}
        approval = approval_event(
            request_id, kind, target, (self._border(start), self._border(end)), told, **data
        )
        drafts = [approval]
        self.figures[kind] += 1
        if rng.random() < 0.3:  # before its start, meanwhile, or when it is over
            ended = self._border(start + (end - start) * rng.uniform(-0.3, 1.3))
            drafts.append(ending_event(request_id, "revoked", ended, told, f"{request_id}-revoked"))
            self.figures["revoked"] += 1
        if rng.random() < 0.2:
            drafts.append(ending_event(request_id, "lapsed", end, told, f"{request_id}-lapsed"))
        if rng.random() < 0.1:  # approved a second time: the first counts
            again = {**approval.data, "reason_code": "again"}
            if kind != "justification":
                again["amount_micro_usd"] = 7 * LIMIT_MICRO_USD
            drafts.append(replace(approval, id=f"{request_id}-again", data=again))
            self.figures["approved_twice"] += 1
        if rng.random() < 0.05:  # another meaning under the same identity: the lower in the log counts
            other = {**approval.data, "target": {"kind": "subject", "id": rng.choice(self.people)}}
            if kind != "budget_override":
                drafts.append(replace(approval, data=other))
                self.figures["contradicted"] += 1
        return drafts

    def _target(self) -> tuple[str, str]:
        """Return for whom, and which kind."""
        rng = self._rng
        number = rng.randrange(10)
        if number < 3:
            return f"subject/{rng.choice(self.people)}", rng.choice(["boost", "boost", "break_glass"])
        if number < 6:
            return f"subject/{rng.choice(self.people)}", "justification"
        if number < 8:
            return f"group/group-{rng.randrange(GROUPS)}", "break_glass"
        budgets = ["team/team-0", "team/team-1", "cost_centre/cc-0", f"project/{PROJECT}"]
        return rng.choice(budgets), rng.choice(["boost", "budget_override"])


class Asking(Clocked):
    """Asks around the borders of a story."""

    def __init__(self, lab: Lab, arena: Arena, story: Story) -> None:
        super().__init__(lab, arena, story.people, PROJECT)
        self._story = story

    async def around_borders(self, stub: Any, *, share: int) -> None:
        """Ask just before, at and after one in so many borders, and at some instants again, back in time."""
        records, truth = await self.truth(stub)
        earliest = truth.period_of(self._lab.anchor.replace(day=1) - DAY)  # balances are at hand from here on
        borders = self._story.borders | set(_turns(self._lab.anchor))
        at_hand = sorted(each for each in borders if truth.period_of(each - MOMENT) >= earliest)
        chosen = self.rng.sample(at_hand, -(-len(at_hand) // share))
        instants = sorted({border + step * MOMENT for border in chosen for step in (-1, 0, 1)})
        for at in (*instants, *self.rng.sample(instants, len(instants) // 10)):
            await self.ask(stub, truth, at)
        self.figures["instants"] += len(instants)
        self.figures["parked"] = len(truth.parked)
        self.failures += await compare_parked(self._arena, truth, records)


def _turns(now: datetime) -> Iterable[datetime]:
    """Return when periods may turn around a moment, in the time zones of the policies."""
    for zone in ZONES:
        for month in {(now + days * DAY).replace(day=1) for days in (-31, 0, 31)}:
            yield datetime(month.year, month.month, 1, tzinfo=ZoneInfo(zone)).astimezone(UTC)
