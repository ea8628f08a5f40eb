"""Holds under 64 callers while servers and database die and the clock is stepped: no admission overshoots."""

import asyncio
import random
from collections import Counter
from collections.abc import Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass
from datetime import timedelta
from time import monotonic
from typing import Any

from tests.proofs.chaos import Feeder, Fleet, staffed
from tests.proofs.checks import Checks
from tests.proofs.compare import compare
from tests.proofs.events import directory_event, policy_event, price_book, quota_policy
from tests.proofs.holders import LONGEST_TTL_SECONDS, Holders, Log
from tests.proofs.lab import INPUTS, Arena, Lab, Verdict
from tests.proofs.recompute import QUOTA, recompute
from tests.proofs.recompute_holds import LedgerHistory, recompute_holds
from tokenomics_tools.stack.processes import free_port

SERVERS, CALLERS, PEOPLE = 2, 64, 32
START_SECONDS = 60
SETTLED_SECONDS = 120
LARGEST_HOLD_MICRO_USD = 40_000
STEPS_SECONDS = (-7.0, 3.0, -1.5, 11.0, -20.0, 0.0)
"""What the database's clock is moved by, one after the other, each against the true time."""

_STEP = "CREATE OR REPLACE FUNCTION quota.stepped_clock() RETURNS timestamptz LANGUAGE sql VOLATILE AS"
_LIVE = "SELECT count(*) AS live FROM live_hold"


@dataclass(frozen=True, slots=True)
class Ordeal:
    """How long, and how often what dies."""

    seconds: float
    server_kills: int
    database_kills: int

    @classmethod
    def scaled(cls, scale: float) -> "Ordeal":
        """Return the full one for scale 1."""
        return cls(max(15, 120 * scale), max(2, round(12 * scale)), max(1, round(2 * scale)))


async def prove(lab: Lab) -> Verdict:
    """Prove it with two servers, 64 callers and four accounts a hold."""
    return await endure(lab, Ordeal.scaled(lab.scale))


async def endure(lab: Lab, ordeal: Ordeal) -> Verdict:
    """Hold, use and give back under faults; then judge every admission again from the topic."""
    rng = random.Random(lab.seed)
    limits = _limits(ordeal)
    addresses = [f"127.0.0.1:{free_port()}" for _ in range(SERVERS)]
    people = [f"p{rng.getrandbits(40):010x}" for _ in range(PEOPLE)]
    async with AsyncExitStack() as resources:
        variant = "stepped-clock" if lab.variant is None else f"stepped-clock+{lab.variant}"
        arena = await resources.enter_async_context(Arena.open(variant))
        await _step(arena, 0)
        feeder = await resources.enter_async_context(Feeder(arena.stack.kafka.bootstrap))
        await feeder.send([draft.binary() for draft in _founding(lab, people, limits)])
        fleets = await staffed(resources, arena, addresses)
        async with Checks(arena.stack.issuer, addresses, people, rng) as checks:
            await checks.level(feeder.ends, within_seconds=START_SECONDS)
        holders = Holders(
            arena.stack.issuer, addresses, people, feeder, rng, largest_micro_usd=LARGEST_HOLD_MICRO_USD
        )
        holders.start(CALLERS)
        struck = await _strike(arena, fleets[-1], ordeal, rng, lab)
        await holders.stop()
        await _all_ended(arena, feeder)
        records = await arena.read(*INPUTS, QUOTA)
        history = recompute_holds(records, lambda account_id: limits.get(account_id.split("/")[0]))
        truth = recompute(records)
        figures, differing = await compare(arena, truth, records)
        failures = [*history.shown(), *holders.log.wrong[:5], *differing, *_against(holders.log, history)]
        for fleet in fleets:
            await fleet.stop()
            failures += fleet.unexpected
    used = {hold_id: held.cost for hold_id, held in holders.log.holds.items() if held.cost is not None}
    for name in ("placed", "refused at the limit", "release", "abandon", "placed again"):
        if not holders.log.outcomes[name]:
            failures.append(f"nothing came of {name}")
    return Verdict(
        {
            "holds": len(history.holds),
            "admissions": history.admissions,
            "acknowledged": len(holders.log.holds),
            "refused": holders.log.outcomes["refused at the limit"],
            "retried": holders.log.outcomes["unavailable"] + holders.log.outcomes["deadline_exceeded"],
            "spent_micro_usd": sum(used.values()),
            "overshoot_micro_usd": sum(
                max(0, cost - hold.covered)
                for hold_id, cost in used.items()
                if (hold := history.holds.get(hold_id)) is not None
            ),
            "facts": figures["facts"],
            **struck,
        },
        failures,
    )


def _limits(ordeal: Ordeal) -> Mapping[str, int]:
    """Return hard limits by kind: reached now and then while holds are live, and for good towards the end."""
    callers_hold = CALLERS * LARGEST_HOLD_MICRO_USD // 2
    team = round(callers_hold * (0.6 + ordeal.seconds / 4))
    return {"team": team, "project": team * 11 // 10, "cost_centre": team * 12 // 10, "subject": team // 16}


def _founding(lab: Lab, people: list[str], limits: Mapping[str, int]) -> list[Any]:
    long_ago, now = lab.anchor - timedelta(days=40), lab.anchor
    document = quota_policy(
        "UTC",
        limits["subject"],
        [
            ("team", "team-0", limits["team"]),
            ("project", "project-0", limits["project"]),
            ("cost_centre", "cc-0", limits["cost_centre"]),
        ],
        [("engineer", limits["subject"])],
    )
    for each in (*document["budgets"], *document["allowances"]):
        each["enforcement"] = "hard"
    return [
        policy_event("price_book", 1, long_ago, now, price_book(1)),
        policy_event("quota", 1, long_ago, now, document),
        directory_event("team-0", "team.upserted", long_ago, "team-0", now, cost_centre_id="cc-0"),
        *(
            directory_event(
                person,
                "person.upserted",
                long_ago,
                person,
                now,
                role="engineer",
                team_id="team-0",
                project_ids=["project-0"],
            )
            for person in people
        ),
    ]


async def _strike(
    arena: Arena, servers: Fleet, ordeal: Ordeal, rng: random.Random, lab: Lab
) -> dict[str, int]:
    """Let faults strike, spread over the time."""
    faults = ["server"] * ordeal.server_kills + ["database"] * ordeal.database_kills
    faults += ["clock"] * len(STEPS_SECONDS)
    rng.shuffle(faults)
    steps = iter(STEPS_SECONDS)
    struck: Counter[str] = Counter()
    until = monotonic() + ordeal.seconds
    for number, fault in enumerate(faults):
        await asyncio.sleep(max(0, (until - monotonic()) / (len(faults) - number + 1)))
        lab.note(f"holds-never-overshoot: {fault} ({number + 1} of {len(faults)})")
        if fault == "server":
            await servers.kill_one_soon(rng)
        elif fault == "database":
            await asyncio.to_thread(arena.stack.postgres.kill)
            await asyncio.to_thread(arena.stack.postgres.start)
        else:
            await _step(arena, next(steps))
        struck[f"{fault}_faults"] += 1
    await asyncio.sleep(max(0, until - monotonic()))
    return dict(struck)


async def _step(arena: Arena, seconds: float) -> None:
    await arena.fetch(f"{_STEP} $$ SELECT clock_timestamp() + interval '{seconds} seconds' $$")


async def _all_ended(arena: Arena, feeder: Feeder) -> None:
    """Wait until all usage is projected, no hold is live any more, and everything is told."""
    await arena.projected(feeder.ends, within_seconds=SETTLED_SECONDS)
    async with asyncio.timeout(SETTLED_SECONDS + LONGEST_TTL_SECONDS):
        while (await arena.fetch(_LIVE))[0]["live"]:  # noqa: ASYNC110 - another process's work
            await asyncio.sleep(0.2)
    await arena.sent(within_seconds=SETTLED_SECONDS)


def _against(log: Log, history: LedgerHistory) -> list[str]:
    """Hold what callers were told against what the topic says."""
    failures = []
    for hold_id, held in log.holds.items():
        hold, told = history.holds.get(hold_id), held.answer.hold
        if hold is None:
            failures.append(f"{hold_id} was acknowledged and is lost")
            continue
        ttl = held.request.ttl.ToTimedelta()
        if hold.amount != told.amount_micro_usd or sorted(hold.accounts) != sorted(told.account_ids):
            failures.append(f"{hold_id} is not what its caller was told")
        if len(hold.accounts) != 4:
            failures.append(f"{hold_id} is on {len(hold.accounts)} accounts")
        first_end = told.expires_at.ToDatetime(tzinfo=hold.placed_at.tzinfo)
        if not hold.placed_at < first_end <= hold.placed_at + ttl:
            failures.append(f"{hold_id} was to live {first_end - hold.placed_at}, longer than {ttl}")
        if len(hold.ends) != 1:
            failures.append(f"{hold_id} ended {len(hold.ends)} times: {hold.ends}")
        elif held.ended_by is not None and hold.ends != [held.ended_by]:
            failures.append(f"{hold_id} is {hold.ends[0]}, its caller was told that it is {held.ended_by}")
    return failures[:10]
