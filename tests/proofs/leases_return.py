"""Clients that draw from leases are killed: what they held is back, and what they used in time is covered."""

import asyncio
import random
import signal
import sys
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from tests.proofs.abandoned_holds import Client
from tests.proofs.chaos import Feeder, Fleet, staffed
from tests.proofs.checks import RECONNECT, Checks
from tests.proofs.compare import compare, compare_ledger
from tests.proofs.events import MODELS, Draft, directory_event, policy_event, price_book, quota_policy
from tests.proofs.exactly_once import ends_of
from tests.proofs.lab import INPUTS, REPOSITORY, Arena, Lab, Verdict
from tests.proofs.lease_client import Fate, Plan, journal, source
from tests.proofs.recompute import QUOTA, Recomputation, recompute
from tests.proofs.recompute_holds import Hold, LedgerHistory, recompute_holds, usage_identity
from tests.proofs.serving import bearer
from tokenomics_client import steady
from tokenomics_tools.stack import GATEWAY, ManagedProcess
from tokenomics_tools.stack.processes import free_port

SERVERS, AT_ONCE, PEOPLE = 2, 8, 8
CALLS = (15, 40)
"""How many a client wants to draw from a lease."""
CALL_MICRO_USD = dict(zip(MODELS, (13_000, 1_000, 3_500, 3_000), strict=False))
"""What one call costs, more or less, by model."""
STRETCH_CALLS = 18
"""So many calls' worth a client asks for: about two thirds of what it wants to draw."""
ROOM_MICRO_USD = AT_ONCE * STRETCH_CALLS * max(CALL_MICRO_USD.values())
"""What all hold at once, at most."""
DRAW_SECONDS = (1.0, 2.0)
LONGEST_CALL_SECONDS = (0.3, 2.0)
LAST_LONGEST_CALL_SECONDS = 6.0
"""Of the last ones, so that some time is left to see what they hold."""
PATIENCE_SECONDS = 3.0
SCARCE_PERCENT = 30
"""The scarce team's limit, of what its clients would spend."""
START_SECONDS, CATCH_UP_SECONDS = 60, 120
CLIENT_SECONDS = 90
POLL_SECONDS = 0.02
SHOWN = 5

_RIGHT_REFUSALS = {
    "refused": {"RESOURCE_EXHAUSTED"},
    "not renewed": {"RESOURCE_EXHAUSTED", "FAILED_PRECONDITION"},  # it has ended
    "not returned": set[str](),
}

_LIVE = "SELECT count(*) AS holds, max(expires_at) AS until FROM live_hold"


@dataclass(frozen=True, slots=True)
class Ordeal:
    """How many clients, and how often a server dies."""

    rounds: int
    """In each every fate strikes somebody of either team."""
    server_kills: int

    @classmethod
    def scaled(cls, scale: float) -> "Ordeal":
        """Return the full one for scale 1."""
        return cls(max(2, round(14 * scale)), max(2, round(12 * scale)))


class Told(NamedTuple):
    """What the parent knows of a client beside its journal."""

    plan: Plan
    process: ManagedProcess
    lines: Sequence[Mapping[str, Any]]
    resumed_at: float | None
    """When it was continued."""

    @property
    def refused_once_resumed(self) -> int:
        """How often it was refused to draw since then, because its time was over."""
        return sum(
            line["what"] == "not drawn" and line["ended"] and line["begun"] > self.resumed_at
            for line in self.lines
            if self.resumed_at is not None
        )


@dataclass
class Crew:
    """Runs clients, so many at once, and is their fate where it strikes from outside."""

    arena: Arena
    rng: random.Random
    folder: Path
    told: list[Told] = field(default_factory=list)

    async def run(self, plans: Sequence[Plan], begun: Callable[[int], None]) -> None:
        """Return when every client has ended; say of each that it begins."""
        waiting = iter(plans)

        async def slot() -> None:
            for plan in waiting:
                begun(plan.number)
                await self._live(plan, random.Random(plan.seed))

        await asyncio.gather(*(slot() for _ in range(AT_ONCE)))

    async def _live(self, plan: Plan, rng: random.Random) -> None:
        argv = [sys.executable, "-m", "tests.proofs.lease_client", plan.as_json()]
        process = self.arena.stack.spawn(f"lease-client-{plan.number}", argv, {}, cwd=REPOSITORY)
        resumed_at = None
        if plan.fate in {Fate.KILLED, Fate.PAUSED, Fate.PAUSED_LONG}:
            await self._last_lease(plan, process)
            await asyncio.sleep(rng.uniform(0, 0.7))
            if plan.fate is Fate.KILLED:
                process.signal(signal.SIGKILL)
            elif process.running:
                seconds = plan.draw_seconds + 0.3
                if plan.fate is Fate.PAUSED_LONG:
                    seconds += plan.longest_call_seconds + 0.3
                process.pause()
                await asyncio.sleep(seconds)
                process.resume()
                resumed_at = steady()
        async with asyncio.timeout(CLIENT_SECONDS):
            while process.running:  # noqa: ASYNC110 - another process's life
                await asyncio.sleep(POLL_SECONDS)
        self.told.append(Told(plan, process, journal(Path(plan.journal)), resumed_at))

    async def _last_lease(self, plan: Plan, process: ManagedProcess) -> None:
        """Wait until a client has its last lease, or has given up."""
        while process.running:
            lines = journal(Path(plan.journal))
            if any(each["what"] == "acquired" and each["lease_id"] == plan.last_lease for each in lines):
                return
            await asyncio.sleep(POLL_SECONDS)


async def prove(lab: Lab) -> Verdict:
    """Prove it with some two hundred and fifty clients."""
    return await endure(lab, Ordeal.scaled(lab.scale))


async def endure(lab: Lab, ordeal: Ordeal) -> Verdict:
    """Let clients draw and die, see what is back, and judge everything again from topics and journals."""
    rng = random.Random(lab.seed)
    people = [f"p{rng.getrandbits(40):010x}" for _ in range(PEOPLE)]
    addresses = [f"127.0.0.1:{free_port()}" for _ in range(SERVERS)]
    async with AsyncExitStack() as resources:
        arena = await resources.enter_async_context(Arena.open(lab.variant))
        folder = arena.stack.folder / "journals"
        folder.mkdir()
        crew = Crew(arena, rng, folder)
        plans = _plans(crew, ordeal.rounds, people, addresses)
        limits = _limits(plans, people)
        feeder = await resources.enter_async_context(Feeder(arena.stack.kafka.bootstrap))
        await feeder.send([draft.binary() for draft in _founding(lab, people, limits)])
        fleets = await staffed(resources, arena, addresses)
        async with Checks(arena.stack.issuer, addresses, people, rng) as checks:
            await checks.level(feeder.ends, within_seconds=START_SECONDS)
        await _work(crew, plans, fleets[-1], ordeal.server_kills, lab)
        client = Client(arena.stack.issuer, addresses, rng)
        resources.push_async_callback(client.close)
        last, failures = await _back(arena, client, people)
        await _all_told(arena)
        records = await arena.read(*INPUTS, QUOTA)
        truth = recompute(records)
        history = recompute_holds(records, partial(_limit, limits))
        figures, differing = await compare(arena, truth, records)
        failures += [*history.shown(), *differing, *await compare_ledger(arena, history)]
        failures += await _free_to_the_last(client, people[1], truth, history, limits)
        for fleet in fleets:
            await fleet.stop()
            failures += fleet.unexpected
    drawn = Drawn(crew.told, truth, history)
    failures += [*_lives(crew.told), *drawn.wrong(), *_in_time(truth, history, limits)]
    late = _late(truth, history)
    return Verdict(
        {
            "clients": len(crew.told),
            "server_faults": ordeal.server_kills,
            **{f"{fate.value.replace(' ', '_')}": count for fate, count in _struck(crew.told).items()},
            "leases": len(history.holds),
            "renewals": sum(len(each.stretches) - 1 for each in history.holds.values()),
            "admissions": history.admissions,
            "refused": drawn.refused,
            "draws": drawn.draws,
            "refused_once_resumed": sum(each.refused_once_resumed for each in crew.told),
            "drawn_never_told": drawn.draws - drawn.emitted,
            "facts": figures["facts"],
            "in_time": sum(len(each.settlements) for each in history.holds.values()),
            "late": len(late),
            "uncovered_micro_usd": sum(late.values()),
            "overshoot_micro_usd": max(
                max(0, total - limit)
                for account_id, total in truth.totals.items()
                if (limit := _limit(limits, account_id)) is not None
            ),
            **last,
        },
        failures,
    )


def _plans(crew: Crew, rounds: int, people: Sequence[str], addresses: Sequence[str]) -> list[Plan]:
    """Plan rounds in which every fate strikes in both teams, and a last one in which all are killed."""
    arena, rng, teams = crew.arena, crew.rng, (people[::2], people[1::2])
    fates = [(fate, team) for fate in Fate for team in teams]
    drawn = [each for _ in range(rounds) for each in rng.sample(fates, len(fates))]
    last = [(Fate.KILLED, people[1::2])] * AT_ONCE
    metadata = bearer(arena.stack.issuer.token(GATEWAY))
    plans = []
    for number, (fate, team) in enumerate([*drawn, *last]):
        ends_it_all = number >= len(drawn)
        leases = 1 if ends_it_all else rng.randint(1, 3)
        calls = [rng.randint(*CALLS) for _ in range(leases)]
        if fate in {Fate.KILLED, Fate.PAUSED, Fate.PAUSED_LONG}:
            calls[-1] *= 6  # it shall not be through with it before
        model = rng.choice(list(CALL_MICRO_USD))
        longest_call = LAST_LONGEST_CALL_SECONDS if ends_it_all else rng.uniform(*LONGEST_CALL_SECONDS)
        plans.append(
            Plan(
                number=number,
                journal=str(crew.folder / f"{number}.jsonl"),
                addresses=addresses,
                options=RECONNECT,
                metadata=metadata,
                bootstrap=arena.stack.kafka.bootstrap,
                subject=rng.choice(team),
                model=model,
                seed=rng.getrandbits(32),
                calls=calls,
                amount_micro_usd=STRETCH_CALLS * CALL_MICRO_USD[model],
                draw_seconds=rng.uniform(*DRAW_SECONDS),
                longest_call_seconds=longest_call,
                patience_seconds=PATIENCE_SECONDS,
                fate=fate,
            )
        )
    return plans


def _limits(plans: Sequence[Plan], people: Sequence[str]) -> Mapping[str, int]:
    """Return hard limits: one team's budget is used up half-way, on all others leases wait for each other."""
    wanted = Counter[str]()
    for plan in plans:
        wanted[plan.subject] += sum(plan.calls) * CALL_MICRO_USD[plan.model]
    everything = wanted.total()
    scarce = sum(wanted[person] for person in people[::2]) * SCARCE_PERCENT // 100
    return {
        "team/team-0": scarce,
        "team/team-1": everything + ROOM_MICRO_USD,
        "project/project-0": everything + ROOM_MICRO_USD * 9 // 10,
        "cost_centre/cc-0": everything + ROOM_MICRO_USD * 8 // 10,
        **{f"subject/{person}": wanted[person] * 5 // 4 + ROOM_MICRO_USD // 2 for person in people},
    }


def _limit(limits: Mapping[str, int], account_id: str) -> int | None:
    kind, owner_id, purpose, _ = account_id.split("/")
    return limits.get(f"{kind}/{owner_id}") if purpose == "all" else None


def _founding(lab: Lab, people: Sequence[str], limits: Mapping[str, int]) -> list[Draft]:
    long_ago, now = lab.anchor - timedelta(days=40), lab.anchor
    budgets = [
        (kind, owner_id, limit)
        for account, limit in limits.items()
        if (kind := account.split("/")[0]) != "subject" and (owner_id := account.split("/")[1])
    ]
    # A role each, so that everybody has an allowance of their own.
    allowances = [(person, limits[f"subject/{person}"]) for person in people]
    document = quota_policy("UTC", 1, budgets, allowances)
    for each in (*document["budgets"], *document["allowances"]):
        each["enforcement"] = "hard"
    return [
        policy_event("price_book", 1, long_ago, now, price_book(1)),
        policy_event("quota", 1, long_ago, now, document),
        *(
            directory_event(team, "team.upserted", long_ago, team, now, cost_centre_id="cc-0")
            for team in ("team-0", "team-1")
        ),
        *(
            directory_event(
                person,
                "person.upserted",
                long_ago,
                person,
                now,
                role=person,
                team_id=f"team-{number % 2}",
                project_ids=["project-0"],
            )
            for number, person in enumerate(people)
        ),
    ]


async def _work(crew: Crew, plans: Sequence[Plan], servers: Fleet, kills: int, lab: Lab) -> None:
    """Let all clients work; a server is killed as some of them begin, but not of the last."""
    struck_at = set(crew.rng.sample(range(1, len(plans) - AT_ONCE), kills))
    striking = list[asyncio.Task[None]]()

    def begun(number: int) -> None:
        if number in struck_at:
            striking.append(asyncio.create_task(servers.kill_one_soon(crew.rng)))
        if number % 25 == 0:
            lab.note(f"leases-return: client {number + 1} of {len(plans)}")

    await crew.run(plans, begun)
    await asyncio.gather(*striking)


async def _back(arena: Arena, client: Client, people: Sequence[str]) -> tuple[dict[str, int], list[str]]:
    """Ask at the instant at which the last lease ends: nothing may be held on any account then."""
    (row,) = await arena.fetch(_LIVE)
    if not row["holds"] or row["until"] <= datetime.now(UTC):
        return {}, ["no lease was live any more when the last client was killed"]
    held = max([await _pending(client, person) for person in people])
    await asyncio.sleep((row["until"] - datetime.now(UTC)).total_seconds())
    assert datetime.now(UTC) >= row["until"]
    still = [await _pending(client, person) for person in people]
    after = datetime.now(UTC) - row["until"]
    failures = [] if held else ["nothing was held while leases were live"]
    if any(still):
        failures.append(f"{max(still)} were still held when the last lease had ended")
    return {
        "live_at_last": row["holds"],
        "held_at_last_micro_usd": held,
        "back_after_ms": round(after.total_seconds() * 1000),
    }, failures


async def _pending(client: Client, person: str) -> int:
    return max(account.pending_micro_usd for account in await client.accounts(person))


async def _all_told(arena: Arena) -> None:
    """Wait until all usage is projected, every lease is written down as ended, and all is sent."""
    await arena.projected(ends_of(await arena.read(*INPUTS)), within_seconds=CATCH_UP_SECONDS)
    async with asyncio.timeout(CATCH_UP_SECONDS):
        while (await arena.fetch(_LIVE))[0]["holds"]:  # noqa: ASYNC110 - another process's work
            await asyncio.sleep(0.2)
    await arena.sent(within_seconds=CATCH_UP_SECONDS)


async def _free_to_the_last(
    client: Client, person: str, truth: Recomputation, history: LedgerHistory, limits: Mapping[str, int]
) -> list[str]:
    """Place a hold of exactly what the recomputation leaves free on all accounts, and before it of 1 more."""
    free = min(
        (_limit(limits, account.account_id) or 0)
        - max(truth.totals.get(account.account_id, 0), history.covered[account.account_id])
        for account in await client.accounts(person)
    )
    if free <= 0:
        return [f"{person} has {free} left: there is nothing to show"]
    if await client.place(person, free + 1, timedelta(minutes=1)) is not None:
        return [f"{free} are left for {person}, and more was placed"]
    hold = await client.place(person, free, timedelta(minutes=1))
    if hold is None:
        return [f"{free} should be free again for {person}, and were refused"]
    await client.release(hold)
    return []


class Drawn:
    """What clients drew, as their journals have it, held against what topics tell."""

    def __init__(self, told: Sequence[Told], truth: Recomputation, history: LedgerHistory) -> None:
        self._truth, self._history = truth, history
        self._wrong = list[str]()
        self.draws = self.emitted = self.refused = 0
        for each in told:
            stretches: dict[str, Mapping[str, Any]] = {}
            for line in each.lines:
                self._judge(line, stretches)
        if not self.refused:
            self._wrong.append("no lease was refused at a limit")

    def wrong(self) -> list[str]:
        """Return the first of what was wrong."""
        more = len(self._wrong) - SHOWN
        return [*self._wrong[:SHOWN], *([f"and {more} more about draws"] if more > 0 else [])]

    def _judge(self, line: Mapping[str, Any], stretches: dict[str, Mapping[str, Any]]) -> None:
        """Judge the next line of a client's journal, with what it was told last of each lease."""
        what, lease_id = line["what"], line["lease_id"]
        lease = self._history.holds.get(lease_id)
        if what in _RIGHT_REFUSALS:
            self._refused(what, line["code"], lease_id)
            return
        if lease is None:
            self._wrong.append(f"{lease_id} was acknowledged and is lost")
            return
        if what in {"acquired", "renewed"}:
            stretches[lease_id] = line
        elif what == "drawn":
            self._judge_draw(line, lease, stretches[lease_id])
        elif what == "settled":
            self._judge_amount(line, lease, stretches[lease_id])
        elif what == "emitted":
            self.emitted += 1
            if (source(lease_id), line["event"]) not in self._truth.facts:
                self._wrong.append(f"{lease_id}: usage {line['event']} is lost")
        elif what == "returned" and line["live"] and not lease.returned:
            self._wrong.append(f"{lease_id} was returned, and that is lost")

    def _refused(self, what: str, code: str, lease_id: str) -> None:
        if code not in _RIGHT_REFUSALS[what]:
            self._wrong.append(f"{lease_id}: {what}, {code}")
        self.refused += code == "RESOURCE_EXHAUSTED"

    def _judge_draw(self, line: Mapping[str, Any], lease: Hold, stretch: Mapping[str, Any]) -> None:
        self.draws += 1
        told = lease.stretches[stretch["renewal"]]
        if line["begun"] >= stretch["until"] or datetime.fromisoformat(line["at"]) >= told.draw_until:
            self._wrong.append(f"{lease.hold_id} was drawn from at {line['at']}, until {told.draw_until}")
        self._judge_amount(line, lease, stretch)
        fact = self._truth.facts.get((source(lease.hold_id), line["event"]))
        if fact is not None and fact.cost_micro_usd > line["cost"]:
            self._wrong.append(f"{lease.hold_id}: {line['cost']} drawn for what cost {fact.cost_micro_usd}")

    def _judge_amount(self, line: Mapping[str, Any], lease: Hold, stretch: Mapping[str, Any]) -> None:
        amount = lease.stretches[stretch["renewal"]].amount
        if line["net"] > amount:
            self._wrong.append(f"{lease.hold_id}: {line['net']} drawn of {amount}")


def _struck(told: Iterable[Told]) -> dict[Fate, int]:
    """Count whom each fate struck."""
    struck = Counter[Fate]()
    for each in told:
        killed = each.process.returncode == -signal.SIGKILL
        if each.plan.fate is Fate.KILLED:
            struck[Fate.KILLED] += killed
        elif each.plan.fate in {Fate.PAUSED, Fate.PAUSED_LONG}:
            struck[each.plan.fate] += each.refused_once_resumed > 0
        elif each.plan.fate in {Fate.RETURNS, Fate.TELLS_LATE}:
            struck[each.plan.fate] += any(
                line["what"] == "returned" and line["lease_id"] == each.plan.last_lease for line in each.lines
            )
        else:
            struck[each.plan.fate] += any(line["what"] == "died" for line in each.lines)
    return {fate: struck[fate] for fate in Fate}


def _lives(told: Sequence[Told]) -> list[str]:
    """Return which clients ended for no reason, and which fates struck nobody."""
    failures = [
        f"{each.process.name} ended with {each.process.returncode}{each.process.quote_log()}"
        for each in told
        if each.process.returncode not in {0, -signal.SIGKILL}
    ][:SHOWN]
    return [*failures, *(f"nobody {fate.value}" for fate, count in _struck(told).items() if not count)]


def _in_time(truth: Recomputation, history: LedgerHistory, limits: Mapping[str, int]) -> list[str]:
    """Return where a lease didn't end once, usage applied in time overshot, or usage was passed over."""
    failures = []
    for lease in history.holds.values():
        if lease.ends != ["expired"]:
            failures.append(f"{lease.hold_id} ended as {lease.ends}")
        uncovered = sum(each.cost - each.covered for each in lease.settlements.values())
        if uncovered:
            failures.append(f"{lease.hold_id}: {uncovered} of what was applied in time were not covered")
    failures += [
        f"{account_id}: {covered} covered of {limit}"
        for account_id, covered in history.covered.items()
        if (limit := _limit(limits, account_id)) is not None and covered > limit
    ]
    return [*failures[:SHOWN], *_passed_over(truth, history)]


def _passed_over(truth: Recomputation, history: LedgerHistory) -> list[str]:
    """Return usage that settled nothing though the ledger applied later usage of its partition in time.

    Usage is applied in the order of its partition: what settled nothing must have come to its turn after its
    lease's end.
    """
    by_partition = defaultdict[int, list[tuple[int, datetime | None, datetime, str]]](list)
    for identity, fact in truth.facts.items():
        lease = history.holds[_lease_of(identity)]
        settled = lease.settlements.get(usage_identity(*identity))
        _, partition, offset = fact.place
        by_partition[partition].append(
            (offset, settled and settled.at, lease.expires_at, f"{identity[1]} of {lease.hold_id}")
        )
    failures = []
    for facts in by_partition.values():
        next_at: datetime | None = None
        for _, settled_at, expires_at, name in sorted(facts, reverse=True):
            if settled_at is not None:
                next_at = settled_at
            elif next_at is not None and next_at < expires_at:
                failures.append(f"usage {name} settled nothing, and was applied before {next_at}")
    return failures[:SHOWN]


def _late(truth: Recomputation, history: LedgerHistory) -> dict[tuple[str, str], int]:
    """Return what usage cost that the ledger applied after its lease's end."""
    return {
        identity: fact.cost_micro_usd
        for identity, fact in truth.facts.items()
        if usage_identity(*identity) not in history.holds[_lease_of(identity)].settlements
    }


def _lease_of(identity: tuple[str, str]) -> str:
    return identity[0].removeprefix(source(""))
