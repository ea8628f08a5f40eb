"""PostgreSQL's data is deleted under live holds: those that were told are back before a new one is placed."""

import asyncio
import random
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import grpc
from google.protobuf.duration_pb2 import Duration

from tests.proofs.chaos import Feeder, Fleet
from tests.proofs.checks import RECONNECT, Checks, is_right_refusal
from tests.proofs.compare import compare, compare_ledger, told_otherwise
from tests.proofs.events import (
    MODELS,
    PROVIDER,
    Draft,
    Message,
    directory_event,
    policy_event,
    price_book,
    quota_policy,
    usage_event,
)
from tests.proofs.exactly_once import ends_of
from tests.proofs.lab import INPUTS, Arena, Lab, Verdict
from tests.proofs.lost_database import LACKS_THE_DATABASE, nothing_sent
from tests.proofs.recompute import QUOTA, RawRecord, recompute
from tests.proofs.recompute_holds import LedgerHistory, recompute_holds
from tests.proofs.serving import bearer
from tokenomics.quota.v1 import quota_pb2 as pb
from tokenomics.quota.v1 import quota_pb2_grpc
from tokenomics_tools.stack import GATEWAY, Issuer, Source
from tokenomics_tools.stack.processes import free_port

PEOPLE, SERVERS, AT_ONCE = 24, 2, 16
LARGEST_MICRO_USD = 40_000
CALL_SECONDS = 5
TTL = timedelta(hours=2)
"""Longer than the proof: what ends here, somebody ends."""
START_SECONDS, CATCH_UP_SECONDS = 60, 240
PROBE_SECONDS = 0.05
ROOM_PERCENT = 105
"""The team's hard limit, of all that is placed before the loss: whoever forgets that overshoots."""
SHOWN = 5

_HOLDS = "SELECT hold_id, state, amount_micro_usd, covered_micro_usd, expires_at FROM hold"
_LIVE = "SELECT hold_id FROM hold WHERE state = 'live' AND kind <> 'part' ORDER BY hold_id"
_UNSETTLED = """
SELECT count(*) AS holds FROM fact JOIN hold USING (hold_id) WHERE event_kind = 'recorded' AND state = 'live'
"""


class Callers:
    """People whose calls hold amounts, so many at once."""

    def __init__(
        self, issuer: Issuer, addresses: Sequence[str], people: Sequence[str], rng: random.Random
    ) -> None:
        self._metadata = bearer(issuer.token(GATEWAY))
        self._channels = [grpc.aio.insecure_channel(each, options=RECONNECT) for each in addresses]
        self._stubs: list[Any] = [quota_pb2_grpc.QuotaServiceStub(each) for each in self._channels]
        self._people, self._rng = people, rng
        self._requests: dict[str, pb.PlaceHoldRequest] = {}
        self.placed: dict[str, pb.PlaceHoldResponse] = {}
        """What callers were told they have."""

    async def close(self) -> None:
        """Let go of the servers."""
        for channel in self._channels:
            await channel.close()

    async def place(self, amount: int, *, parent: str = "", patient: bool = True) -> str:
        """Place a hold of anybody's and return its id."""
        ttl = Duration()
        ttl.FromTimedelta(TTL)
        request = pb.PlaceHoldRequest(
            hold_id=f"hold-{len(self._requests)}",
            call=pb.CheckQuotaRequest(
                subject=self._rng.choice(self._people),
                provider=PROVIDER,
                model=MODELS[0],
                estimated_input_tokens=1_000,
                estimated_output_tokens=100,
            ),
            amount_micro_usd=amount,
            ttl=ttl,
            parent_hold_id=parent,
        )
        self._requests[request.hold_id] = request
        self.placed[request.hold_id] = await self._call("PlaceHold", request, patient=patient)
        return request.hold_id

    async def place_again(self, hold_id: str) -> str | None:
        """Repeat a placing; return what is wrong with the answer."""
        again, was = await self._call("PlaceHold", self._requests[hold_id]), self.placed[hold_id]
        if (again.hold.placed_at, again.check.decision_id) == (was.hold.placed_at, was.check.decision_id):
            return None
        return f"{hold_id} was answered {again} when placed again, not {was}"

    async def settle(self, hold_id: str) -> None:
        """Say what a hold cost."""
        request = pb.SettleHoldRequest(hold_id=hold_id, cost_micro_usd=self.cost(hold_id))
        await self._call("SettleHold", request)

    async def release(self, hold_id: str) -> None:
        """Give a hold back."""
        await self._call("ReleaseHold", pb.ReleaseHoldRequest(hold_id=hold_id))

    def cost(self, hold_id: str) -> int:
        """Return what a hold's call costs: somewhat less or more than it holds, the same whenever asked."""
        percent = 50 + sum(hold_id.encode()) * 7 % 80
        return self._requests[hold_id].amount_micro_usd * percent // 100

    def usage(self, hold_id: str) -> Message:
        """Return the usage event that names a hold."""
        return usage_event(
            "/tool",
            f"usage-{hold_id}",
            datetime.now(UTC),
            subject=self._requests[hold_id].call.subject,
            hold_id=hold_id,
            cost_micro_usd=self.cost(hold_id),
        ).binary()

    async def _call(self, method: str, request: Any, *, patient: bool = True) -> Any:
        while True:
            call = getattr(self._rng.choice(self._stubs), method)
            try:
                return await call(request, metadata=self._metadata, timeout=CALL_SECONDS)
            except grpc.aio.AioRpcError as error:
                if not patient or not is_right_refusal(error):
                    raise
                await asyncio.sleep(PROBE_SECONDS)


@dataclass
class Unsent:
    """What was done and never told."""

    holds: list[str]
    """Placed."""
    settled: list[str]
    """By call."""
    used: list[str]
    """By usage: the log has that."""
    released: list[str]

    @property
    def ends(self) -> int:
        """How many holds ended."""
        return len(self.settled) + len(self.used) + len(self.released)


@dataclass
class Probe:
    """What came of trying to place a hold until it was placed."""

    hold_id: str = ""
    refusals: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)


async def prove(lab: Lab) -> Verdict:
    """Lose the database with some thousand holds in it."""
    return await endure(lab, max(120, round(3_000 * lab.scale)))


async def endure(lab: Lab, holds: int) -> Verdict:
    """Place and end holds, keep some of that from being sent, delete the data, and judge what comes back."""
    rng = random.Random(lab.seed)
    people = [f"p{rng.getrandbits(40):010x}" for _ in range(PEOPLE)]
    amounts = [rng.randint(1, LARGEST_MICRO_USD) for _ in range(holds)]
    limit = sum(amounts) * ROOM_PERCENT // 100
    addresses = [f"127.0.0.1:{free_port()}" for _ in range(SERVERS)]
    async with AsyncExitStack() as resources:
        arena = await resources.enter_async_context(Arena.open(lab.variant, source=Source.EMBEDDED))
        feeder = await resources.enter_async_context(Feeder(arena.stack.kafka.bootstrap))
        await feeder.send([draft.binary() for draft in _founding(lab, people, limit)])
        fleets = [
            await resources.enter_async_context(fleet)
            for fleet in (
                Fleet(arena, "project", 1, expected_exits=LACKS_THE_DATABASE),
                Fleet(arena, "relay", 1, expected_exits=LACKS_THE_DATABASE),
                Fleet(
                    arena,
                    "serve",
                    SERVERS,
                    lambda number: {"TOKENOMICS_GRPC_LISTEN": addresses[number]},
                    expected_exits=LACKS_THE_DATABASE,
                ),
            )
        ]
        async with Checks(arena.stack.issuer, addresses, people, rng) as checks:
            await checks.level(feeder.ends, within_seconds=START_SECONDS)
        callers = Callers(arena.stack.issuer, addresses, people, rng)
        resources.push_async_callback(callers.close)
        failures = (await _first_placed(callers)).wrong
        live = await _hold_and_end(callers, feeder, amounts)
        await _all_told(arena, feeder)
        async with nothing_sent(arena):
            unsent = await _do_untold(arena, callers, feeder, live, holds // 10)
            lab.note(f"holds-survive-lost-database: deleting it, {len(unsent.holds)} holds were never told")
            begun = time.monotonic()
            await asyncio.to_thread(arena.stack.postgres.lose_data)
        probing = asyncio.create_task(_first_placed(callers))
        arena.stack.new_database(arena.group, reuse=True)
        await arena.migrate()
        probe = await asyncio.wait_for(probing, CATCH_UP_SECONDS)
        shut_seconds = round(time.monotonic() - begun)
        failures += [*probe.wrong, *await _not_back(arena, probe, limit)]
        failures += await _placed_again(callers, rng.sample(live, SHOWN))
        admitted = await _place_until_refused(callers, limit)
        if not failures:  # what isn't back can't be ended
            await _end_all(arena, callers, feeder, unsent)
        await arena.sent(within_seconds=CATCH_UP_SECONDS)
        records = await arena.read(*INPUTS, QUOTA)
        await arena.projected(ends_of(records), within_seconds=CATCH_UP_SECONDS)
        history = _recomputed(records, limit)
        figures, differing = await compare(arena, recompute(records), records)
        for fleet in fleets:
            await fleet.stop()
            failures += fleet.unexpected
    lost = callers.placed.keys() - history.holds.keys()
    failures += [*history.shown(), *differing]
    failures += [
        f"{each.hold_id} ended {len(each.ends)} times"
        for each in history.holds.values()
        if len(each.ends) != 1
    ][:SHOWN]
    if lost != set(unsent.holds):
        failures.append(f"{len(lost)} holds are gone, {len(unsent.holds)} were never told")
    if not admitted or not probe.refusals:
        failures.append("nothing was placed after the loss, or nothing refused")
    return Verdict(
        {
            "holds": len(history.holds),
            "admissions": history.admissions,
            "live_when_lost": len(live),
            "lost_with_the_outbox": len(lost),
            "lost_micro_usd": sum(callers.placed[each].hold.amount_micro_usd for each in lost),
            "ends_lost_with_the_outbox": unsent.ends,
            "refused_while_shut": probe.refusals.total(),
            "shut_seconds": shut_seconds,
            "placed_after": admitted,
            "facts": figures["facts"],
            "provisional": figures["provisional"],
        },
        failures,
    )


def _founding(lab: Lab, people: Iterable[str], limit: int) -> list[Draft]:
    long_ago, now = lab.anchor - timedelta(days=40), lab.anchor
    document = quota_policy("UTC", 10 * limit, [("team", "team-0", limit)], [])
    for budget in document["budgets"]:
        budget["enforcement"] = "hard"
    return [
        policy_event("price_book", 1, long_ago, now, price_book(1)),
        policy_event("quota", 1, long_ago, now, document),
        directory_event("team-0", "team.upserted", long_ago, "team-0", now, cost_centre_id="cc-0"),
        *(
            directory_event(each, "person.upserted", long_ago, each, now, role="engineer", team_id="team-0")
            for each in people
        ),
    ]


def _recomputed(records: Sequence[RawRecord], limit: int) -> LedgerHistory:
    return recompute_holds(records, lambda account_id: limit if account_id.startswith("team/") else None)


async def _first_placed(callers: Callers) -> Probe:
    """Try to place a hold until it is placed; servers that can't must say that later is another matter."""
    probe = Probe()
    while True:
        try:
            probe.hold_id = await callers.place(1, patient=False)
        except grpc.aio.AioRpcError as error:
            probe.refusals[error.code().name] += 1
            if not is_right_refusal(error):
                probe.wrong.append(f"refused with {error.code().name}: {error.details()}")
                return probe
            await asyncio.sleep(PROBE_SECONDS)
        else:
            return probe


async def _side_by_side(work: Iterable[Callable[[], Awaitable[Any]]]) -> list[Any]:
    """Do so much at once and no more; return what came of it, in order."""
    room = asyncio.Semaphore(AT_ONCE)

    async def one(do: Callable[[], Awaitable[Any]]) -> Any:
        async with room:
            return await do()

    return await asyncio.gather(*(one(each) for each in work))


async def _hold_and_end(callers: Callers, feeder: Feeder, amounts: Sequence[int]) -> list[str]:
    """Place holds and end some of them in every way; return those that are live and have no parts."""
    named = await _side_by_side(partial(callers.place, each) for each in amounts)
    used, settled, both, released, parents = (named[start::10] for start in range(5))
    parts = await _side_by_side(partial(callers.place, 1, parent=each) for each in parents)
    await _side_by_side(partial(callers.settle, each) for each in (*settled, *both))
    await _side_by_side(partial(callers.release, each) for each in released)
    await feeder.send([callers.usage(each) for each in (*used, *both, *parts[::2])])
    return [each for start in range(5, 10) for each in named[start::10]]


async def _all_told(arena: Arena, feeder: Feeder) -> None:
    """Wait until all usage is projected and settled, and everything is sent."""
    await arena.projected(feeder.ends, within_seconds=CATCH_UP_SECONDS)
    async with asyncio.timeout(CATCH_UP_SECONDS):
        while (await arena.fetch(_UNSETTLED))[0]["holds"]:  # noqa: ASYNC110 - another process's work
            await asyncio.sleep(0.1)
    await arena.sent(within_seconds=CATCH_UP_SECONDS)


async def _do_untold(
    arena: Arena, callers: Callers, feeder: Feeder, live: Sequence[str], each_kind: int
) -> Unsent:
    """Place and end holds while nothing is sent."""
    holds = await _side_by_side(partial(callers.place, LARGEST_MICRO_USD // 8) for _ in range(each_kind))
    settled, used, released = (list(live[start : 3 * each_kind : 3]) for start in range(3))
    await _side_by_side(partial(callers.settle, each) for each in settled)
    await _side_by_side(partial(callers.release, each) for each in released)
    await feeder.send([callers.usage(each) for each in used])
    await arena.projected(feeder.ends, within_seconds=CATCH_UP_SECONDS)
    async with asyncio.timeout(CATCH_UP_SECONDS):
        while (await arena.fetch(_UNSETTLED))[0]["holds"]:  # noqa: ASYNC110 - another process's work
            await asyncio.sleep(0.1)
    return Unsent(holds, settled, used, released)


async def _not_back(arena: Arena, probe: Probe, limit: int) -> list[str]:
    """Hold the ledger against what its topic tells, from the moment on at which it places again."""
    known = {row["hold_id"] for row in await arena.fetch(_HOLDS)}
    await arena.sent(within_seconds=CATCH_UP_SECONDS)
    history = _recomputed(await arena.read(QUOTA), limit)
    missing = history.holds.keys() - known
    failures = [f"{len(missing)} holds were not back when {probe.hold_id} was placed"] if missing else []
    stored = {row["hold_id"]: tuple(row)[1:] for row in await arena.fetch(_HOLDS)}
    told = {
        each.hold_id: ((each.ends or ["live"])[0], each.amount, each.covered, each.expires_at)
        for each in history.holds.values()
    }
    return [*failures, *told_otherwise("hold", stored, told), *await compare_ledger(arena, history)]


async def _placed_again(callers: Callers, named: Iterable[str]) -> list[str]:
    return [wrong for each in named if (wrong := await callers.place_again(each))]


async def _place_until_refused(callers: Callers, limit: int) -> int:
    """Fill the budget up, first with large holds and then with small ones; return how many were placed."""
    placed = 0
    for amount in (limit // 40, limit // 400):
        while True:
            try:
                await callers.place(amount)
            except grpc.aio.AioRpcError as error:
                if error.code() is not grpc.StatusCode.RESOURCE_EXHAUSTED:
                    raise
                break
            placed += 1
    return placed


async def _end_all(arena: Arena, callers: Callers, feeder: Feeder, unsent: Unsent) -> None:
    """End what is live: as it had ended where that was lost, else by usage or released."""
    live = [row["hold_id"] for row in await arena.fetch(_LIVE)]
    settled = [each for each in live if each in set(unsent.settled)]
    used = [each for each in live[::2] if each not in set(unsent.settled)]
    released = [each for each in live if each not in {*settled, *used}]
    await _side_by_side(partial(callers.settle, each) for each in settled)
    await _side_by_side(partial(callers.release, each) for each in released)
    await feeder.send([callers.usage(each) for each in used])
    await _all_told(arena, feeder)
