"""Grants and reasons begin and end to count on the instant, with nothing happening then.

Servers whose clock is set are asked just before, at and just after every instant at which something begins or
ends: each limit must be that of the recomputation to the micro-USD, and each band, too. What governs comes
late, twice, out of order and contradicting itself; the projector is killed meanwhile, servers come and go.
"""

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final
from zoneinfo import ZoneInfo

from tests.proofs.chaos import Feeder
from tests.proofs.compare import compare_parked
from tests.proofs.events import (
    MODELS,
    PROVIDER,
    Draft,
    Message,
    approval_event,
    directory_event,
    ending_event,
    policy_event,
    price_book,
    quota_policy,
    usage_event,
)
from tests.proofs.lab import INPUTS, Arena, Lab, Verdict
from tests.proofs.recompute import Recomputation, recompute
from tests.proofs.serving import bearer, serving
from tokenomics.quota.v1 import quota_pb2 as pb
from tokenomics.quota.v1.quota_pb2_grpc import QuotaServiceStub
from tokenomics_tools.stack import GATEWAY, PORTAL

PEOPLE, TEAMS, GROUPS = 24, 4, 3
LIMIT_MICRO_USD = 1_000
STAGES = 3
MOMENT: Final = timedelta(microseconds=1)
DAY: Final = timedelta(days=1)
ZONES = ("Europe/Berlin", "America/New_York")
PROJECTED_SECONDS = 60
SHOWN = 10
BANDS: Final = {
    "normal": pb.BAND_NORMAL,
    "nudge": pb.BAND_NUDGE,
    "justify": pb.BAND_JUSTIFY,
    "approve": pb.BAND_APPROVE,
}
DECISIONS: Final = {
    "normal": pb.DECISION_ALLOW,
    "nudge": pb.DECISION_ALLOW_WITH_NUDGE,
    "justify": pb.DECISION_JUSTIFICATION_REQUIRED,
    "approve": pb.DECISION_APPROVAL_REQUIRED,
}


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
        await _project(arena, feeder, [])
        living = await resources.enter_async_context(asking.server(arena))
        stages = story.told(STAGES)
        for number, messages in enumerate(stages, start=1):
            lab.note(f"grants-expire-on-the-instant: part {number} of {len(stages)}")
            await _project(arena, feeder, messages)
            await asking.around_borders(living, share=4)
            async with asking.server(arena) as starting:
                await asking.around_borders(starting, share=1 if number == len(stages) else 4)
        lab.note("grants-expire-on-the-instant: the same, projected anew")
        other = arena.on_another_database()
        await other.migrate()
        await _project(other, feeder, [])
        async with asking.server(other) as starting:
            await asking.around_borders(starting, share=4)
        return Verdict({**story.figures, **asking.figures}, asking.failures[:SHOWN])


async def _project(arena: Arena, feeder: Feeder, messages: Sequence[Message]) -> None:
    """Send and project; the projector is killed meanwhile, and at the end."""
    half = len(messages) // 2
    projector = arena.spawn("project", "project")
    await feeder.send(messages[:half])
    await asyncio.to_thread(projector.kill)
    projector = arena.spawn("project", "project")
    await feeder.send(messages[half:])
    await arena.projected(feeder.ends, within_seconds=PROJECTED_SECONDS)
    await asyncio.to_thread(projector.kill)


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
        budgets += [("cost_centre", "cc-0", 12 * LIMIT_MICRO_USD), ("project", "atlas", 4 * LIMIT_MICRO_USD)]
        drafts = [policy_event("price_book", 1, long_ago, told, price_book(1))]
        since = [long_ago, self._border(self._at_random())]
        for version, (zone, start) in enumerate(zip(ZONES, since, strict=True), start=1):
            allowances = [("engineer", LIMIT_MICRO_USD * version), ("boss", LIMIT_MICRO_USD // 2)]
            document = quota_policy(zone, LIMIT_MICRO_USD, budgets, allowances)
            drafts.append(policy_event("quota", version, start, told, document))
        for number in range(TEAMS):
            centre = {"cost_centre_id": f"cc-{number % 2}"}
            drafts.append(
                directory_event(f"team-{number}", "team.upserted", long_ago, f"team-{number}", told, **centre)
            )
        for number, person in enumerate(self.people):
            data = {"role": ("engineer", "boss", "guest")[number % 3], "team_id": f"team-{number % TEAMS}"}
            drafts.append(directory_event(person, "person.upserted", long_ago, person, told, **data))
        for person in self._rng.sample(self.people, 2):
            gone = self._border(self._at_random())
            drafts.append(directory_event(person, "person.left", gone, f"{person}-left", told))
        return drafts + [self._usage(number) for number in range(12 * PEOPLE)]

    def _usage(self, number: int) -> Draft:
        at = self._begin + timedelta(seconds=self._rng.uniform(0, (self._now - self._begin).total_seconds()))
        cost = self._rng.randrange(LIMIT_MICRO_USD // 4)
        project = {"project": "atlas"} if number % 4 == 0 else {}
        person = self._rng.choice(self.people)
        return usage_event("/tool", f"u{number}", at, subject=person, cost_micro_usd=cost, **project)

    def told(self, stages: int) -> list[list[Message]]:
        """Return all that is approved and ended, repeated and contradicted, in no order, in so many parts."""
        drafts = self._rotas()
        for number in range(self._requests):
            drafts += self._request(f"r{number}")
        repeats = self._rng.sample(drafts, len(drafts) // 3)
        messages = [self._written(draft) for draft in (*drafts, *repeats)]
        self._rng.shuffle(messages)
        self.figures.update(events=len(messages), repeats=len(repeats), borders=len(self.borders))
        size = -(-len(messages) // stages)
        return [messages[start : start + size] for start in range(0, len(messages), size)]

    def _written(self, draft: Draft) -> Message:
        return draft.structured() if self._rng.random() < 0.5 else draft.binary()

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
        budgets = ["team/team-0", "team/team-1", "cost_centre/cc-0", "project/atlas"]
        return rng.choice(budgets), rng.choice(["boost", "budget_override"])


class Asking:
    """Servers whose clock is a file, and what they should say."""

    def __init__(self, lab: Lab, arena: Arena, story: Story) -> None:
        self._rng, self._lab, self._arena, self._story = random.Random(lab.seed), lab, arena, story
        self._clock: Path = arena.stack.folder / "clock"
        self._may_check = bearer(arena.stack.issuer.token(GATEWAY))
        self._may_see = bearer(arena.stack.issuer.token(PORTAL))
        self.figures: Counter[str] = Counter()
        self.failures: list[str] = []

    @asynccontextmanager
    async def server(self, arena: Arena) -> AsyncIterator[Any]:
        """Run a server that takes the time from our file, and yield a stub of it."""
        self._set_clock(self._lab.anchor)
        variant = "+".join(filter(None, (self._lab.variant, "set-clock")))
        async with serving(arena.as_variant(variant), PROOF_CLOCK=str(self._clock)) as channel:
            self.figures["servers"] += 1
            yield QuotaServiceStub(channel)

    def _set_clock(self, now: datetime) -> None:
        fresh = self._clock.with_suffix(".new")
        fresh.write_text(now.isoformat())
        fresh.replace(self._clock)

    async def around_borders(self, stub: Any, *, share: int) -> None:
        """Ask just before, at and after one in so many borders, and at some instants again, back in time."""
        level = pb.CheckQuotaRequest(
            subject=self._story.people[0], provider=PROVIDER, model=MODELS[0], fully_consistent=True
        )
        await stub.CheckQuota(level, metadata=self._may_check, timeout=PROJECTED_SECONDS)
        records = await self._arena.read(*INPUTS)
        truth = recompute(records)
        earliest = truth.period_of(self._lab.anchor.replace(day=1) - DAY)  # balances are at hand from here on
        borders = self._story.borders | set(_turns(self._lab.anchor))
        at_hand = sorted(each for each in borders if truth.period_of(each - MOMENT) >= earliest)
        chosen = self._rng.sample(at_hand, -(-len(at_hand) // share))
        instants = sorted({border + step * MOMENT for border in chosen for step in (-1, 0, 1)})
        for at in (*instants, *self._rng.sample(instants, len(instants) // 10)):
            await self._ask(stub, truth, at)
        self.figures["instants"] += len(instants)
        self.figures["parked"] = len(truth.parked)
        self.failures += await compare_parked(self._arena, truth, records)

    async def _ask(self, stub: Any, truth: Recomputation, at: datetime) -> None:
        self._set_clock(at)
        checks = pb.BatchCheckQuotaRequest(
            checks=[
                pb.CheckQuotaRequest(
                    subject=person, provider=PROVIDER, model=MODELS[0], project="atlas" if number % 2 else ""
                )
                for number, person in enumerate(self._story.people)
            ]
        )
        batch = await stub.BatchCheckQuota(checks, metadata=self._may_check, timeout=10)
        for person, result in zip(self._story.people, batch.results, strict=True):
            self._compare(result.answer.accounts, truth, at)
            self._compare_decision(person, result.answer, truth, at)
        all_touched = pb.ListBalancesRequest(period=truth.period_of(at), page_size=1_000)
        listed = await stub.ListBalances(all_touched, metadata=self._may_see, timeout=10)
        self._compare(listed.accounts, truth, at)
        self.figures["answers"] += len(batch.results) + len(listed.accounts)

    def _compare(self, accounts: Iterable[pb.AccountBalance], truth: Recomputation, at: datetime) -> None:
        for account in accounts:
            account_id = account.account_id
            limit, base = truth.limit_micro_usd(account_id, at), truth.base_limit_micro_usd(account_id, at)
            grants = truth.grants(account_id, at) if base is not None else []
            expected = (
                limit or 0,
                base or 0,
                sum(each["amount_micro_usd"] for each in grants),
                sum(each["amount_micro_usd"] for each in grants if each.get("overdraft")),
                truth.totals.get(account_id, 0),
                BANDS[truth.band(account_id, at)],
            )
            told = (
                account.limit_micro_usd,
                account.base_limit_micro_usd,
                account.grants_micro_usd,
                account.overdraft_micro_usd,
                account.posted_micro_usd,
                account.band,
            )
            self.figures["extended"] += bool(grants)
            if told != expected:
                self.failures.append(f"{account_id} at {at}: {told}, recomputed {expected}")

    def _compare_decision(
        self, person: str, answer: pb.CheckQuotaResponse, truth: Recomputation, at: datetime
    ) -> None:
        own, *shared = [truth.band(account.account_id, at) for account in answer.accounts]
        if "approve" in shared:
            return  # whom of its members a shared account asks then is not for this proof
        expected = DECISIONS[own]
        if own == "justify" and truth.is_justified(person, at):
            expected = pb.DECISION_ALLOW_WITH_NUDGE
            self.figures["justified"] += 1
        if answer.decision != expected:
            self.failures.append(f"{person} at {at}: decision {answer.decision}, recomputed {expected}")


def _turns(now: datetime) -> Iterable[datetime]:
    """Return when periods may turn around a moment, in the time zones of the policies."""
    for zone in ZONES:
        for month in {(now + days * DAY).replace(day=1) for days in (-31, 0, 31)}:
            yield datetime(month.year, month.month, 1, tzinfo=ZoneInfo(zone)).astimezone(UTC)
