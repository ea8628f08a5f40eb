"""A rebuild under traffic: killed, promoted and rolled back, while events flow and two servers answer."""

import asyncio
import random
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AsyncExitStack
from itertools import chain, count, islice
from typing import Any

import grpc

from tests.proofs.chaos import Feeder, Fleet
from tests.proofs.compare import compare
from tests.proofs.events import MODELS, PROVIDER, Message, usage_event
from tests.proofs.exactly_once import CATCH_UP_SECONDS, ends_of
from tests.proofs.history import make_history
from tests.proofs.lab import INPUTS, Arena, Lab, Verdict
from tests.proofs.recompute import QUOTA, USAGE, recompute
from tests.proofs.replay_equals_live import hash_of
from tests.proofs.serving import Metadata, bearer, serving
from tokenomics.operations.v1 import operations_pb2
from tokenomics.operations.v1.operations_pb2_grpc import OperationsServiceStub
from tokenomics.quota.v1 import quota_pb2
from tokenomics.quota.v1.quota_pb2_grpc import QuotaServiceStub
from tokenomics_tools.stack.issuer import GATEWAY, OPERATOR

KILLS = 5
MEASURED = 30_000
"""Messages from which the capacity is measured, at every scale: fewer would be over too soon."""
FAILPOINT = "replay.before_caught_up"
CHECK_SECONDS = 10
BETWEEN_CHECKS_SECONDS = 0.02
REFUSED_FOR_NOW = {grpc.StatusCode.FAILED_PRECONDITION, grpc.StatusCode.DEADLINE_EXCEEDED}
REBUILD = "proof"
_OPENED = "SELECT open_for IS NOT NULL AS opened FROM audit_chain"
_REQUESTS: Mapping[str, Any] = {
    "promote": operations_pb2.PromoteRebuildRequest,
    "roll_back": operations_pb2.RollbackRebuildRequest,
}
WHY = {"reason_code": "proof", "ticket_id": "PROOF-1"}


async def prove(lab: Lab) -> Verdict:
    """Prove that a rebuild costs no check, no freshness and no event."""
    events = MEASURED + max(3_000, round(120_000 * lab.scale))
    messages = list(make_history(lab.seed, lab.anchor, events, chunks=1).messages())
    async with AsyncExitStack() as resources:
        arena = await resources.enter_async_context(Arena.open(lab.variant))
        feeder = await resources.enter_async_context(Feeder(arena.stack.kafka.bootstrap))
        return await _Traffic(lab, arena, feeder, messages).run(resources)


class _Traffic:
    def __init__(self, lab: Lab, arena: Arena, feeder: Feeder, messages: Sequence[Message]) -> None:
        self._lab, self._arena, self._feeder = lab, arena, feeder
        self._rng = random.Random(lab.seed)
        self._over = asyncio.Event()
        self._failures: list[str] = []
        self._figures: Counter[str] = Counter()
        self._first, self._rest = messages[:MEASURED], messages[MEASURED:]
        self._subjects = sorted({*filter(None, map(_subject, self._first))})

    async def run(self, resources: AsyncExitStack) -> Verdict:
        arena, lab = self._arena, self._lab
        channels = [await resources.enter_async_context(serving(arena)) for _ in range(2)]
        checking = [asyncio.create_task(self._check(channel)) for channel in channels]
        fleet = await resources.enter_async_context(Fleet(arena, "project", 1))
        capacity = await self._measure_capacity()
        lab.note(f"rebuild-under-traffic: {capacity:,} events/s are projected; half of that flows now")
        replay = Fleet(arena, "replay", 1)
        replay.always_armed = f"{FAILPOINT}=1"
        await resources.enter_async_context(replay)
        relay = await resources.enter_async_context(Fleet(arena, "relay", 1))
        flowing = asyncio.create_task(self._flow(capacity / 2))
        try:
            await self._exchange(channels, replay)
        finally:
            self._over.set()
            await asyncio.gather(flowing, *checking)
        records = await arena.read(*INPUTS, QUOTA)
        lab.note(f"rebuild-under-traffic: {len(records):,} records are sent, waiting until both have them")
        for version in (1, 2):
            await arena.projected(ends_of(records), within_seconds=CATCH_UP_SECONDS, version=version)
        for each in (replay, fleet, relay):
            await each.stop()
            self._failures += each.unexpected
        hashes = [await hash_of(arena, version=version) for version in (1, 2)]
        if hashes[0] != hashes[1]:
            self._failures.append("the rebuilt version has another hash than the one that served")
        figures, failures = await compare(arena, recompute(records), records)
        hits = arena.failpoint_hits()[FAILPOINT]
        if not hits:
            self._failures.append(f"failpoint {FAILPOINT} was never hit")
        return Verdict(
            {
                "capacity_per_second": capacity,
                "records": len(records),
                **figures,
                **dict(sorted(self._figures.items())),
                FAILPOINT: hits,
            },
            [*self._failures, *failures],
        )

    async def _measure_capacity(self) -> int:
        """See how fast the beginning is sent and projected while checks are answered, all on this machine."""
        begun = time.monotonic()
        await self._feeder.send(self._first)
        usage = sum(end for place, end in self._feeder.ends.items() if place[0] == USAGE)
        while await self._projected_usage() < usage:  # noqa: ASYNC110 - the projector's work
            await asyncio.sleep(0.02)
        return round(usage / (time.monotonic() - begun))

    async def _projected_usage(self) -> int:
        return sum(offset for place, offset in (await self._arena.positions()).items() if place[0] == USAGE)

    async def _flow(self, per_second: float) -> None:
        """Send the rest at a steady rate, and when it is used up further usage, until all is over."""
        rest = self._rest
        begun, sent = time.monotonic(), 0
        messages: Iterator[Message] = chain(rest, map(self._further_usage, count()))
        while not self._over.is_set() or sent < len(rest):
            due = round((time.monotonic() - begun) * per_second) - sent
            if self._over.is_set():
                due = len(rest) - sent
            await self._feeder.send(list(islice(messages, due)))
            sent += due
            await asyncio.sleep(0.1)
        self._figures["flowed"] = sent
        self._figures["flow_seconds"] = round(time.monotonic() - begun)

    def _further_usage(self, number: int) -> Message:
        subject = self._subjects[number % len(self._subjects)]
        return usage_event("/tools/flow", f"f{number}", self._lab.anchor, subject=subject).binary()

    async def _check(self, channel: Any) -> None:
        """Ask one server again and again; what it has applied may only grow."""
        stub: Any = QuotaServiceStub(channel)
        rng = random.Random(self._rng.random())
        seen: Mapping[str, int] = {}
        while not self._over.is_set():
            request = quota_pb2.CheckQuotaRequest(
                subject=rng.choice(self._subjects),
                provider=PROVIDER,
                model=MODELS[0],
                estimated_input_tokens=1_000,
                estimated_output_tokens=100,
            )
            try:
                answer = await stub.CheckQuota(request, metadata=self._as(GATEWAY), timeout=CHECK_SECONDS)
            except grpc.aio.AioRpcError as error:
                self._figures["failed_checks"] += 1
                self._failures.append(f"a check failed: {error.code().name} {error.details()}")
                continue
            self._figures["checks"] += 1
            token = dict(answer.freshness.token.next_offsets)
            if back := {place for place, offset in seen.items() if token.get(place, 0) < offset}:
                self._figures["steps_back"] += 1
                self._failures.append(f"a server stepped back in {sorted(back)}")
            seen = token
            await asyncio.sleep(BETWEEN_CHECKS_SECONDS)

    async def _exchange(self, channels: Sequence[Any], replay: Fleet) -> None:
        """Rebuild, kill, promote, roll back; each call at another server."""
        stubs = [OperationsServiceStub(channel) for channel in channels]
        async with asyncio.timeout(CATCH_UP_SECONDS):  # what is audited waits for the relay's first term
            while not (await self._arena.fetch(_OPENED))[0]["opened"]:  # noqa: ASYNC110 - its work
                await asyncio.sleep(0.1)
        begun = time.monotonic()
        await self._call(stubs[0].StartRebuild, operations_pb2.StartRebuildRequest(rebuild_id=REBUILD, **WHY))
        for number in range(1, KILLS):
            await self._applied(stubs[number % 2], share=number / (KILLS + 1))
            self._lab.note(f"rebuild-under-traffic: the rebuild is killed ({number} of {KILLS})")
            await replay.kill_one_soon(self._rng)
            self._figures["kills"] += 1
        async with asyncio.timeout(CATCH_UP_SECONDS):
            while not self._arena.failpoint_hits()[FAILPOINT]:  # noqa: ASYNC110 - another process's doing
                await asyncio.sleep(0.1)
        self._figures["kills"] += 1
        replay.always_armed = None
        await self._in_state(stubs[1], operations_pb2.REBUILD_STATE_CAUGHT_UP)
        self._figures["rebuild_ms"] = round((time.monotonic() - begun) * 1000)
        await self._until_allowed("promote", stubs[0].PromoteRebuild)
        await asyncio.sleep(2)
        await self._until_allowed("roll_back", stubs[1].RollbackRebuild)
        await asyncio.sleep(2)

    async def _until_allowed(self, name: str, method: Any) -> None:
        """Exchange the versions; refused for now, it is asked for again, as an operator would."""
        async with asyncio.timeout(CATCH_UP_SECONDS):
            while True:
                begun = time.monotonic()
                try:
                    await self._call(method, _REQUESTS[name](rebuild_id=REBUILD, **WHY))
                except grpc.aio.AioRpcError as error:
                    if error.code() not in REFUSED_FOR_NOW:
                        raise
                    self._figures[f"{name}_refused"] += 1
                    self._lab.note(f"rebuild-under-traffic: {name} refused for now: {error.details()}")
                    await asyncio.sleep(1)
                else:
                    self._figures[f"{name}_ms"] = round((time.monotonic() - begun) * 1000)
                    return

    async def _applied(self, stub: Any, *, share: float) -> None:
        async with asyncio.timeout(CATCH_UP_SECONDS):
            while True:
                rebuild = await self._rebuild(stub)
                if rebuild.total_records and rebuild.applied_records >= rebuild.total_records * share:
                    return
                await asyncio.sleep(0.05)

    async def _in_state(self, stub: Any, state: int) -> None:
        async with asyncio.timeout(CATCH_UP_SECONDS):
            while (rebuild := await self._rebuild(stub)).state != state:
                if rebuild.error_message:
                    raise RuntimeError(f"the rebuild failed: {rebuild.error_message}")
                await asyncio.sleep(0.1)

    async def _rebuild(self, stub: Any) -> Any:
        answer = await self._call(stub.ListRebuilds, operations_pb2.ListRebuildsRequest())
        return next(each for each in answer.rebuilds if each.rebuild_id == REBUILD)

    async def _call(self, method: Any, request: Any) -> Any:
        return await method(request, metadata=self._as(OPERATOR), timeout=30)

    def _as(self, caller: str) -> Metadata:
        return bearer(self._arena.stack.issuer.token(caller))


def _subject(message: Message) -> str | None:
    """Return whose usage it is; poison may say anything."""
    key = message.key or b""
    return key.decode() if message.topic == USAGE and key.isalnum() else None
