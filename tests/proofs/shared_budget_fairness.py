"""A budget that one member uses up interrupts the one, tells its owner, and leaves the others alone.

First one member of each team uses most of its budget: nobody is asked for anything, and the owners are told.
Then all of them spend on, people join, move and leave, grants and another policy come, projectors are killed
meanwhile. After each round everybody is checked, with calls of all sizes, before and after things change.
Exactly those accounts must ask that do so by the recomputation, and each must name who decides about it.
"""

import asyncio
import json
import random
from collections.abc import Iterator
from contextlib import AsyncExitStack
from datetime import datetime, timedelta
from itertools import chain
from typing import Any, Final

from tests.proofs.announced import CROSSED
from tests.proofs.chaos import Feeder, project_killed
from tests.proofs.clocked import Clocked
from tests.proofs.events import (
    MODELS,
    PROVIDER,
    Draft,
    approval_event,
    directory_event,
    policy_event,
    price_book,
    quota_policy,
    usage_event,
)
from tests.proofs.lab import Arena, Lab, Verdict
from tests.proofs.recompute import QUOTA, Recomputation
from tokenomics.quota.v1 import quota_pb2 as pb

MEMBERS, PROJECT, CENTRE = 10, "atlas", "cc-0"
LIMIT_MICRO_USD = 1_000_000
ENOUGH_MICRO_USD = 10**12
"""Nobody's own account asks for anything: what is asked for is the budgets' doing."""
EVERYBODY_BASIS_POINTS = 13_000
ROUNDS = 4
TOLD_SECONDS = 60
DAY: Final = timedelta(days=1)
HOUR: Final = timedelta(hours=1)
SHOWN = 10


async def prove(lab: Lab) -> Verdict:
    """Prove it; at any scale there is something of everything."""
    return await endure(lab, teams=max(4, round(20 * lab.scale)))


async def endure(lab: Lab, *, teams: int) -> Verdict:
    """Let one member of each team use most of its budget, then go on in rounds."""
    async with AsyncExitStack() as resources:
        arena = await resources.enter_async_context(Arena.open(lab.variant))
        feeder = await resources.enter_async_context(Feeder(arena.stack.kafka.bootstrap))
        company = Company(random.Random(lab.seed), lab.anchor, teams)
        asking = Asking(lab, arena, company)
        await project_killed(arena, feeder, [draft.binary() for draft in company.founding()])
        arena.spawn("relay", "relay")
        stub = await resources.enter_async_context(asking.server(arena))
        lab.note("shared-budget-fairness: one member of each team uses nine tenths of its budget")
        await project_killed(arena, feeder, [draft.binary() for draft in company.hoarding()])
        await asking.everybody(stub)
        asking.failures += [
            f"{person} was interrupted below the limit of every budget" for person in asking.interrupted
        ]
        asking.failures += await _owners_are_told(arena, company)
        for number, drafts in enumerate(company.rounds(), start=1):
            lab.note(f"shared-budget-fairness: round {number} of {ROUNDS}")
            await project_killed(arena, feeder, [draft.binary() for draft in drafts])
            await asking.everybody(stub)
        async with asking.server(arena) as starting:
            await asking.everybody(starting)
        return Verdict({"teams": teams, **asking.figures}, asking.failures[:SHOWN])


async def _owners_are_told(arena: Arena, company: "Company") -> list[str]:
    """Wait until it is told of all budgets that are nearly used."""
    expected = {f"cost_centre/{CENTRE}", *(f"team/{team}" for team in company.teams)}
    told: set[str] = set()
    try:
        async with asyncio.timeout(TOLD_SECONDS):
            while not told >= expected:
                records = [
                    each for each in await arena.read(QUOTA) if dict(each.headers).get("ce_type") == CROSSED
                ]
                crossed = [json.loads(each.value or b"") for each in records]
                alerts = [each["account_id"] for each in crossed if each["reason"] == "alert"]
                told = {account_id.rpartition("/all/")[0] for account_id in alerts}
                await asyncio.sleep(0.5)
    except TimeoutError:
        pass
    failures = [f"the owner of {each} was not told" for each in sorted(expected - told)]
    return failures + [f"the owner of {each} was told too early" for each in sorted(told - expected)]


class Company:
    """Teams with an owner, and members of whom some work for a project, too."""

    def __init__(self, rng: random.Random, now: datetime, teams: int) -> None:
        self._rng, self._now = rng, now
        self._long_ago = now - 60 * DAY
        self.teams = [f"team-{number}" for number in range(teams)]
        self._members = {
            team: [f"p{rng.getrandbits(40):010x}" for _ in range(MEMBERS)] for team in self.teams
        }
        self._events = 0
        self._version = 0

    @property
    def people(self) -> list[str]:
        """Everybody whom a budget may ask, and a stranger."""
        return [*chain.from_iterable(self._members.values()), "stranger"]

    def founding(self) -> Iterator[Draft]:
        """Return directory and policies."""
        yield policy_event("price_book", 1, self._long_ago, self._now, price_book(1))
        yield self._policy()
        for number, team in enumerate(self.teams):
            yield self._directory("person", f"boss-{team}", self._long_ago, role="boss", team_id="office")
            centre = {"cost_centre_id": CENTRE} if number % 2 else {}
            yield self._directory("team", team, self._long_ago, owner_id=f"boss-{team}", **centre)
            for place, member in enumerate(self._members[team]):
                yield self._member(member, team, self._long_ago, works_for_project=place % 3 == 0)
        yield self._directory("project", PROJECT, self._long_ago, owner_id=f"boss-{self.teams[0]}")
        yield self._directory("cost_centre", CENTRE, self._long_ago, owner_id=f"boss-{self.teams[1]}")

    def hoarding(self) -> Iterator[Draft]:
        """Return what the first member of each team uses: nine tenths of the budget; the others a trifle."""
        for members in self._members.values():
            for share in self._in_parts(LIMIT_MICRO_USD * 9 // 10, 5):
                yield self._usage(members[0], share)
            for member in members[1:]:
                yield self._usage(member, LIMIT_MICRO_USD // 200)

    def rounds(self) -> Iterator[list[Draft]]:
        """Return what happens round by round: budgets are used up, and what they are divided by changes."""
        for number in range(1, ROUNDS + 1):
            drafts = [self._usage(*self._spending(team)) for team in self.teams for _ in range(MEMBERS)]
            drafts += [self._usage(*self._spending(team), project=PROJECT) for team in self.teams]
            drafts += self._changes()
            if number == ROUNDS // 2:
                drafts.append(self._policy(everybody=EVERYBODY_BASIS_POINTS))
                drafts += [self._grant(f"team/{team}") for team in self.teams[::4]]
            yield drafts

    def _policy(self, everybody: int | None = None) -> Draft:
        self._version += 1
        budgets = [("team", team, LIMIT_MICRO_USD) for team in self.teams]
        of_half = LIMIT_MICRO_USD * len(self.teams) // 2
        budgets += [("project", PROJECT, LIMIT_MICRO_USD), ("cost_centre", CENTRE, of_half)]
        document = quota_policy("UTC", ENOUGH_MICRO_USD, budgets)
        if everybody is not None:
            document["thresholds"]["everybody_basis_points"] = everybody
        return policy_event("quota", self._version, self._long_ago, self._now, document)

    def _grant(self, target: str) -> Draft:
        self._events += 1
        amount = LIMIT_MICRO_USD // 3
        until = (self._now - HOUR, self._now + DAY)
        return approval_event(f"r{self._events}", "boost", target, until, self._now, amount_micro_usd=amount)

    def _changes(self) -> Iterator[Draft]:
        """Let some join, some move and some leave: an hour ago, or within the next hours."""
        for _ in range(len(self.teams)):
            since = self._now + self._rng.randrange(-1, 4) * HOUR
            team, other = self._rng.sample(self.teams, 2)
            what = self._rng.randrange(3)
            if what == 0:
                member = f"p{self._rng.getrandbits(40):010x}"
                self._members[team].append(member)
            else:
                member = self._rng.choice(self._members[team][1:])
            if what == 2:
                yield self._directory("person", member, since, verb="left")
            else:
                yield self._member(member, other if what == 1 else team, since, works_for_project=what == 0)

    def _spending(self, team: str) -> tuple[str, int]:
        return self._rng.choice(self._members[team]), self._rng.randrange(LIMIT_MICRO_USD // 60)

    def _in_parts(self, amount: int, parts: int) -> list[int]:
        return [amount // parts] * (parts - 1) + [amount - amount // parts * (parts - 1)]

    def _member(self, member: str, team: str, since: datetime, *, works_for_project: bool) -> Draft:
        projects = [PROJECT] if works_for_project else []
        data: dict[str, Any] = {"team_id": team, "role": "engineer", "project_ids": projects}
        if _is_a_service(member):
            return self._directory("service", member, since, responsible_person_id=f"boss-{team}", **data)
        return self._directory("person", member, since, **data)

    def _directory(
        self, noun: str, entity_id: str, since: datetime, *, verb: str = "upserted", **data: object
    ) -> Draft:
        self._events += 1
        return directory_event(entity_id, f"{noun}.{verb}", since, f"d{self._events}", self._now, **data)

    def _usage(self, member: str, cost_micro_usd: int, **data: object) -> Draft:
        self._events += 1
        at = self._now.replace(day=1, hour=12) if self._now.day > 1 else self._now
        return usage_event(
            "/tool", f"u{self._events}", at, subject=member, cost_micro_usd=cost_micro_usd, **data
        )


def _is_a_service(member: str) -> bool:
    return member.endswith(("5", "a"))


class Asking(Clocked):
    """Checks everybody, and holds each answer against the recomputation."""

    def __init__(self, lab: Lab, arena: Arena, company: Company) -> None:
        super().__init__(lab, arena, company.people, PROJECT)
        self._company = company
        self.interrupted: set[str] = set()

    async def everybody(self, stub: Any) -> None:
        """Check everybody at instants before and after what changes with time alone, and back again."""
        _, truth = await self.truth(stub)
        for hours in (0, 2, 4, 1, 0):
            at = self._lab.anchor + hours * HOUR
            self._set(at)
            people = self._company.people
            calls = [self._call(person, number) for number, person in enumerate(people)]
            batch = pb.BatchCheckQuotaRequest(checks=calls)
            answered = await stub.BatchCheckQuota(batch, metadata=self._may_check, timeout=20)
            for call, result in zip(calls, answered.results, strict=True):
                self._hold_against(truth, at, call, result.answer)

    def _call(self, person: str, number: int) -> pb.CheckQuotaRequest:
        return pb.CheckQuotaRequest(
            subject=person,
            provider=PROVIDER,
            model=MODELS[1],
            estimated_input_tokens=self.rng.choice([0, 1, self.rng.randrange(200_000)]),
            project=PROJECT if number % 4 == 0 else "",
        )

    def _hold_against(
        self, truth: Recomputation, at: datetime, call: pb.CheckQuotaRequest, answer: pb.CheckQuotaResponse
    ) -> None:
        cost = answer.estimated_cost_micro_usd
        asking, spared = truth.asking(call.subject, call.project or None, cost, at)
        expected = pb.DECISION_APPROVAL_REQUIRED if asking else pb.DECISION_ALLOW
        # Who has left has an allowance of nothing: what their own account asks is not for this proof.
        ways = [
            (reason.account_id, list(unblock.who_can_unblock))
            for reason, unblock in zip(answer.reasons, answer.unblocks, strict=True)
            if not reason.account_id.startswith("subject/")
        ]
        told = {account_id for account_id, _ in ways}
        if told != asking or (len(ways) == len(answer.reasons) and answer.decision != expected):
            self.failures.append(
                f"{call.subject} at {at}: decision {answer.decision} by {sorted(told)},"
                f" recomputed {expected} by {sorted(asking)}"
            )
        for account_id, who in ways:
            if who != [truth.owner(account_id, at)]:
                self.failures.append(f"{call.subject} at {at}: sent to {who} about {account_id}")
        if asking:
            self.interrupted.add(call.subject)
        self.figures["checks"] += 1
        self.figures["asked"] += bool(asking)
        self.figures["spared"] += bool(spared)
