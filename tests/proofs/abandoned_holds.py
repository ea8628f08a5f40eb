"""Holds that nobody ends: at the instant they end all they held is free, and clearing up slows nobody."""

import asyncio
import json
import random
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any, NamedTuple

import grpc
from google.protobuf.duration_pb2 import Duration

from tests.proofs.chaos import Feeder, staffed
from tests.proofs.checks import RECONNECT, Checks, is_right_refusal
from tests.proofs.events import (
    MODELS,
    PROVIDER,
    Draft,
    directory_event,
    policy_event,
    price_book,
    quota_policy,
)
from tests.proofs.lab import Arena, Lab, Verdict
from tests.proofs.recompute import QUOTA, RawRecord
from tests.proofs.serving import bearer
from tokenomics.quota.v1 import quota_pb2 as pb
from tokenomics.quota.v1 import quota_pb2_grpc
from tokenomics_tools.stack import GATEWAY, Issuer
from tokenomics_tools.stack.processes import free_port

PEOPLE, SERVERS, AT_ONCE = 24, 2, 64
CALL_SECONDS = 10
START_SECONDS, SWEPT_SECONDS = 60, 900
TRIED = 200
"""Holds placed and given back first, to see how long the others will take."""
SPARE_SECONDS = 15
SLACK = 1.6
QUIET_SECONDS = 4
"""How long pairs are timed before the end."""
PAIR_PAUSE_SECONDS = 0.02
SLOWER, SLOWER_SECONDS = 3, 0.1
"""A pair may take so many times as long while what ended is cleared up, and that more: it is noise."""

_LIVE = "SELECT count(*) AS holds FROM live_hold"


class Client:
    """Places holds for people of two teams; every answer but a refusal at the limit is a success."""

    def __init__(self, issuer: Issuer, addresses: Sequence[str], rng: random.Random) -> None:
        self._metadata = bearer(issuer.token(GATEWAY))
        self._channels = [grpc.aio.insecure_channel(each, options=RECONNECT) for each in addresses]
        self._stubs: list[Any] = [quota_pb2_grpc.QuotaServiceStub(each) for each in self._channels]
        self._rng = rng
        self._number = 0

    async def close(self) -> None:
        """Let go of the servers."""
        for channel in self._channels:
            await channel.close()

    async def place(self, subject: str, amount: int, ttl: timedelta) -> pb.Hold | None:
        """Place a hold; ``None``: the budget is used up."""
        self._number += 1
        time_to_live = Duration()
        time_to_live.FromTimedelta(ttl)
        request = pb.PlaceHoldRequest(
            hold_id=f"hold-{self._number}", call=_call(subject), amount_micro_usd=amount, ttl=time_to_live
        )
        try:
            answer: pb.PlaceHoldResponse = await self._ask("PlaceHold", request)
        except grpc.aio.AioRpcError as error:
            if error.code() is not grpc.StatusCode.RESOURCE_EXHAUSTED:
                raise
            return None
        return answer.hold

    async def release(self, hold: pb.Hold) -> None:
        """Give a hold back."""
        await self._ask("ReleaseHold", pb.ReleaseHoldRequest(hold_id=hold.hold_id))

    async def pending(self, subject: str) -> int:
        """Return what a check shows as held on the subject's team."""
        (team,) = [each for each in await self.accounts(subject) if each.account_id.startswith("team/")]
        return team.pending_micro_usd

    async def accounts(self, subject: str) -> Sequence[pb.AccountBalance]:
        """Return what a check shows of the accounts that the subject's calls touch."""
        answer: pb.CheckQuotaResponse = await self._ask("CheckQuota", _call(subject))
        return answer.accounts

    async def _ask(self, method: str, request: Any) -> Any:
        """Ask until there is an answer: a server may be away, or the ledger shut."""
        while True:
            stub = self._rng.choice(self._stubs)
            try:
                return await getattr(stub, method)(request, metadata=self._metadata, timeout=CALL_SECONDS)
            except grpc.aio.AioRpcError as error:
                if not is_right_refusal(error):
                    raise
                await asyncio.sleep(0.1)


def _call(subject: str) -> pb.CheckQuotaRequest:
    return pb.CheckQuotaRequest(
        subject=subject,
        provider=PROVIDER,
        model=MODELS[0],
        estimated_input_tokens=1_000,
        estimated_output_tokens=100,
        project="project-0",
    )


class Back(NamedTuple):
    """What the first calls after the end found."""

    pending_micro_usd: int
    placed: bool
    """A hold of the whole budget."""
    after_ms: int
    """How long after the end they were answered."""


async def prove(lab: Lab) -> Verdict:
    """Abandon a hundred thousand."""
    return await endure(lab, max(1_000, round(100_000 * lab.scale)))


async def endure(lab: Lab, holds: int) -> Verdict:
    """Use a budget up by holds that nobody ends, and see when it is back, and whom clearing up slows."""
    rng = random.Random(lab.seed)
    people = [f"p{rng.getrandbits(40):010x}" for _ in range(PEOPLE)]
    addresses = [f"127.0.0.1:{free_port()}" for _ in range(SERVERS)]
    async with AsyncExitStack() as resources:
        arena = await resources.enter_async_context(Arena.open(lab.variant))
        feeder = await resources.enter_async_context(Feeder(arena.stack.kafka.bootstrap))
        await feeder.send([draft.binary() for draft in _founding(lab, people, holds)])
        fleets = await staffed(resources, arena, addresses)
        async with Checks(arena.stack.issuer, addresses, people, rng) as checks:
            await checks.level(feeder.ends, within_seconds=START_SECONDS)
        client = Client(arena.stack.issuer, addresses, rng)
        resources.push_async_callback(client.close)
        spenders, others = people[::2], people[1::2]
        begun = time.monotonic()
        ends, failures = await _abandon(client, spenders, holds, rng)
        placing_seconds = round(time.monotonic() - begun)
        lab.note(f"abandoned-holds: {holds:,} are placed")
        async with _timed_pairs(client, others, rng) as before:
            await asyncio.sleep(QUIET_SECONDS)
        full = await client.pending(spenders[0])
        refused = await client.place(spenders[0], 1, timedelta(minutes=1)) is None
        if full != holds or not refused or ends <= datetime.now(UTC):
            failures.append(f"{full} of {holds} were held, and {'nothing' if refused else 'more'} fitted")
        back = await _at(ends, client, spenders, holds)
        begun = time.monotonic()
        async with _timed_pairs(client, others, rng) as during:
            unswept = await _cleared_up(arena)
        swept_seconds = round(time.monotonic() - begun)
        await arena.sent(within_seconds=START_SECONDS)
        failures += _told(await arena.read(QUOTA), holds)
        for fleet in fleets:
            await fleet.stop()
            failures += fleet.unexpected
    if back.pending_micro_usd or not back.placed:
        failures.append(f"at their end {back.pending_micro_usd} of {holds} were still held: {back}")
    if not unswept:
        failures.append("everything was cleared up before anybody looked")
    slowest = SLOWER * _percentile(before, 99) + SLOWER_SECONDS
    if _percentile(during, 99) > slowest:
        failures.append(
            f"pairs took {_percentile(during, 99):.3f} s, and {_percentile(before, 99):.3f} s before"
        )
    return Verdict(
        {
            "holds": holds,
            "placing_seconds": placing_seconds,
            "back_after_ms": back.after_ms,
            "unswept_then": unswept,
            "swept_seconds": swept_seconds,
            "pairs_before": len(before),
            "pairs_during": len(during),
            "pair_p99_before_ms": round(1000 * _percentile(before, 99)),
            "pair_p99_during_ms": round(1000 * _percentile(during, 99)),
        },
        failures,
    )


def _founding(lab: Lab, people: Sequence[str], limit: int) -> list[Draft]:
    long_ago, now = lab.anchor - timedelta(days=40), lab.anchor
    document = quota_policy("UTC", 10**12, [("team", "team-0", limit)], [])
    for budget in document["budgets"]:
        budget["enforcement"] = "hard"
    teams = [
        directory_event(team, "team.upserted", long_ago, team, now, cost_centre_id="cc-0")
        for team in ("team-0", "team-1")
    ]
    persons = [
        directory_event(
            each, "person.upserted", long_ago, each, now, role="engineer", team_id=f"team-{number % 2}"
        )
        for number, each in enumerate(people)
    ]
    return [
        policy_event("price_book", 1, long_ago, now, price_book(1)),
        policy_event("quota", 1, long_ago, now, document),
        *teams,
        *persons,
    ]


async def _abandon(
    client: Client, people: Sequence[str], holds: int, rng: random.Random
) -> tuple[datetime, list[str]]:
    """Place so many holds that end at one instant, as nearly as can be; return the last end."""
    begun = time.monotonic()
    tried = await _side_by_side(
        partial(client.place, rng.choice(people), 1, timedelta(minutes=1)) for _ in range(min(TRIED, holds))
    )
    took = (time.monotonic() - begun) / len(tried)
    await _side_by_side(partial(client.release, each) for each in tried if each is not None)
    end = datetime.now(UTC) + timedelta(seconds=SLACK * took * holds + SPARE_SECONDS)

    async def abandon() -> pb.Hold | None:
        return await client.place(rng.choice(people), 1, end - datetime.now(UTC))

    placed = await _side_by_side(abandon for _ in range(holds))
    missing = sum(each is None for each in placed)
    ends = max(each.expires_at.ToDatetime(tzinfo=UTC) for each in placed if each is not None)
    return ends, [f"{missing} of {holds} were refused"] if missing else []


async def _side_by_side(work: Iterable[Callable[[], Awaitable[Any]]]) -> list[Any]:
    """Do so much at once and no more; return what came of it."""
    waiting, found = iter(work), list[Any]()

    async def worker() -> None:
        for do in waiting:
            found.append(await do())

    await asyncio.gather(*(worker() for _ in range(AT_ONCE)))
    return found


@asynccontextmanager
async def _timed_pairs(
    client: Client, people: Sequence[str], rng: random.Random
) -> AsyncIterator[list[float]]:
    """Place and give back holds on other accounts, one pair after the other, and time each."""
    seconds = list[float]()
    stopping = asyncio.Event()

    async def go_on() -> None:
        while not stopping.is_set():
            begun = time.monotonic()
            hold = await client.place(rng.choice(people), 1, timedelta(minutes=1))
            assert hold is not None, "nothing limits the others"
            await client.release(hold)
            seconds.append(time.monotonic() - begun)
            await asyncio.sleep(PAIR_PAUSE_SECONDS)

    running = asyncio.create_task(go_on())
    try:
        yield seconds
    finally:
        stopping.set()
        await running


async def _at(end: datetime, client: Client, people: Sequence[str], budget: int) -> Back:
    """Ask at the very end, each once: what is held, and for the whole budget."""
    await asyncio.sleep((end - datetime.now(UTC)).total_seconds())
    assert datetime.now(UTC) >= end
    pending = await client.pending(people[0])
    hold = await client.place(people[0], budget, timedelta(minutes=1))
    after = datetime.now(UTC) - end
    if hold is not None:
        await client.release(hold)
    return Back(pending, hold is not None, round(after.total_seconds() * 1000))


async def _cleared_up(arena: Arena) -> int:
    """Wait until it is written down that all have ended; return of how many it was not yet at first."""
    first = unswept = (await arena.fetch(_LIVE))[0]["holds"]
    async with asyncio.timeout(SWEPT_SECONDS):
        while unswept > 1:  # of the timed pairs one may be there
            await asyncio.sleep(0.2)
            unswept = (await arena.fetch(_LIVE))[0]["holds"]
    return int(first)


def _told(records: Iterable[RawRecord], holds: int) -> list[str]:
    """Hold the ends that are told against what was abandoned: each once, and no other way."""
    ends: dict[str, Counter[str]] = {}
    for record in records:
        kind = dict(record.headers).get("ce_type", b"").decode()
        if kind in {"tokenomics.hold.expired.v1", "tokenomics.hold.released.v1"}:
            data = json.loads(record.value or b"")
            ends.setdefault(data["hold_id"], Counter())[f"{kind} {data['change_seq']}"] = 1
    expired = sum("expired" in kind for each in ends.values() for kind in each)
    more = sum(len(each) > 1 for each in ends.values())
    failures = [f"{expired} ends were told, {holds} were abandoned"] if expired != holds else []
    return [*failures, *([f"{more} holds ended more than once"] if more else [])]


def _percentile(seconds: Sequence[float], percent: int) -> float:
    return sorted(seconds)[len(seconds) * percent // 100] if seconds else 0.0
