"""Callers who place holds and end them in every way, whatever becomes of the servers."""

import asyncio
import random
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import grpc
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from tests.proofs.chaos import Feeder
from tests.proofs.checks import RECONNECT, is_right_refusal
from tests.proofs.events import MODELS, PROVIDER, usage_event
from tests.proofs.serving import bearer
from tokenomics.quota.v1 import quota_pb2 as pb
from tokenomics.quota.v1 import quota_pb2_grpc
from tokenomics_tools.stack import GATEWAY, Issuer

CALL_SECONDS = 5
LONGEST_TTL_SECONDS = 6
RETRY_SECONDS = 0.1
NOT_ANY_MORE = grpc.StatusCode.FAILED_PRECONDITION
"""What a hold that has ended otherwise answers to whom would end it."""

_ENDS = {
    pb.HOLD_STATE_SETTLED: "settled",
    pb.HOLD_STATE_RELEASED: "released",
    pb.HOLD_STATE_EXPIRED: "expired",
}


@dataclass
class Acknowledged:
    """A hold that a caller was told it has."""

    answer: pb.PlaceHoldResponse
    request: pb.PlaceHoldRequest
    ended_by: str | None = None
    """What the caller was told of its end; ``None``: nothing."""
    cost: int | None = None
    """What usage that names it cost."""


@dataclass
class Log:
    """What callers were told."""

    holds: dict[str, Acknowledged] = field(default_factory=dict)
    outcomes: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)


class Holders:
    """So many callers at once, each with one hold after the other until told to stop.

    A call without an answer is made again with the same id until there is one, on whichever server.
    """

    def __init__(
        self,
        issuer: Issuer,
        addresses: Sequence[str],
        people: Sequence[str],
        feeder: Feeder,
        rng: random.Random,
        *,
        largest_micro_usd: int,
    ) -> None:
        self._metadata = bearer(issuer.token(GATEWAY))
        self._addresses, self._people, self._feeder = addresses, people, feeder
        self._seeds = random.Random(rng.random())
        self._largest = largest_micro_usd
        self._stopping = asyncio.Event()
        self._channels: list[grpc.aio.Channel] = []
        self._stubs: list[Any] = []
        self._callers: list[asyncio.Task[None]] = []
        self.log = Log()

    def start(self, callers: int) -> None:
        """Let them begin."""
        self._channels = [grpc.aio.insecure_channel(each, options=RECONNECT) for each in self._addresses]
        self._stubs = [quota_pb2_grpc.QuotaServiceStub(channel) for channel in self._channels]
        self._callers = [
            asyncio.create_task(self._hold(number, random.Random(self._seeds.random())))
            for number in range(callers)
        ]

    async def stop(self) -> None:
        """Let each finish with the hold it has."""
        self._stopping.set()
        await asyncio.gather(*self._callers)
        for channel in self._channels:
            await channel.close()

    async def _hold(self, number: int, rng: random.Random) -> None:
        placed = 0
        while not self._stopping.is_set():
            placed += 1
            hold_id = f"hold-{number}-{placed}"
            request = self._request(hold_id, rng)
            answer = await self._until_answered(rng, partial(self._place, request=request))
            if answer is None:
                await asyncio.sleep(rng.uniform(0, 0.3))
                continue
            held = self.log.holds[hold_id] = Acknowledged(answer, request)
            await asyncio.sleep(rng.uniform(0, 1.2) * answer.hold.amount_micro_usd / self._largest)
            await self._end(held, rng)
            if rng.random() < 0.2:
                await self._place_again(held, rng)

    def _request(self, hold_id: str, rng: random.Random) -> pb.PlaceHoldRequest:
        call = pb.CheckQuotaRequest(
            subject=rng.choice(self._people),
            provider=PROVIDER,
            model=rng.choice(MODELS),
            estimated_input_tokens=1_000,
            estimated_output_tokens=100,
            project="project-0",
        )
        ttl = Duration()
        ttl.FromTimedelta(timedelta(seconds=rng.uniform(1, LONGEST_TTL_SECONDS)))
        return pb.PlaceHoldRequest(
            hold_id=hold_id, call=call, amount_micro_usd=rng.randint(1, self._largest), ttl=ttl
        )

    async def _end(self, held: Acknowledged, rng: random.Random) -> None:
        how = rng.choices(
            ("usage", "settle", "settle and usage", "release", "extend", "abandon"), (7, 2, 2, 3, 2, 4)
        )[0]
        self.log.outcomes[how] += 1
        hold_id, amount = held.answer.hold.hold_id, held.answer.hold.amount_micro_usd
        cost = rng.randint(0, amount * 13 // 10)
        if how == "extend":
            until = Timestamp()
            until.FromDatetime(held.answer.hold.expires_at.ToDatetime(tzinfo=UTC) + timedelta(seconds=5))
            extend = pb.ExtendHoldRequest(hold_id=hold_id, expires_at=until)
            await self._until_answered(rng, lambda stub: self._call(stub.ExtendHold, extend))
        elif how == "release":
            release = pb.ReleaseHoldRequest(hold_id=hold_id)
            if told := await self._until_answered(rng, lambda stub: self._call(stub.ReleaseHold, release)):
                held.ended_by = _ENDS[told.hold.state]
        if "settle" in how:
            settle = pb.SettleHoldRequest(hold_id=hold_id, cost_micro_usd=cost)
            if told := await self._until_answered(rng, lambda stub: self._call(stub.SettleHold, settle)):
                held.ended_by = _ENDS[told.hold.state]
        if how in {"usage", "settle and usage", "extend"}:
            await self._use(held, cost)

    async def _use(self, held: Acknowledged, cost: int) -> None:
        held.cost = cost
        call, hold_id = held.request.call, held.answer.hold.hold_id
        event = usage_event(
            "/tool",
            f"usage-{hold_id}",
            datetime.now(UTC),
            subject=call.subject,
            model=call.model,
            project=call.project,
            hold_id=hold_id,
            cost_micro_usd=cost,
        )
        await self._feeder.send([event.binary()])

    async def _place_again(self, held: Acknowledged, rng: random.Random) -> None:
        again = await self._until_answered(rng, lambda stub: self._place(stub, held.request))
        was = held.answer
        if again is None or not (
            again.hold.hold_id == was.hold.hold_id
            and again.hold.amount_micro_usd == was.hold.amount_micro_usd
            and again.hold.placed_at == was.hold.placed_at
            and again.hold.account_ids == was.hold.account_ids
            and again.check.decision == was.check.decision
            and again.check.decision_id == was.check.decision_id
        ):
            self.log.wrong.append(f"{was.hold.hold_id} was answered {again} when placed again, not {was}")
        other = pb.PlaceHoldRequest()
        other.CopyFrom(held.request)
        other.amount_micro_usd += 1
        await self._until_answered(rng, lambda stub: self._refused(stub, other))
        self.log.outcomes["placed again"] += 1

    async def _refused(self, stub: Any, other: pb.PlaceHoldRequest) -> bool:
        try:
            await stub.PlaceHold(other, metadata=self._metadata, timeout=CALL_SECONDS)
        except grpc.aio.AioRpcError as error:
            if error.code() is grpc.StatusCode.ALREADY_EXISTS:
                return True
            raise
        self.log.wrong.append(f"{other.hold_id} was placed with another payload")
        return True

    async def _place(self, stub: Any, request: pb.PlaceHoldRequest) -> pb.PlaceHoldResponse | None:
        try:
            answer: pb.PlaceHoldResponse = await stub.PlaceHold(
                request, metadata=self._metadata, timeout=CALL_SECONDS
            )
        except grpc.aio.AioRpcError as error:
            if error.code() is not grpc.StatusCode.RESOURCE_EXHAUSTED:
                raise
            self.log.outcomes["refused at the limit"] += 1
            return None
        self.log.outcomes["placed"] += 1
        return answer

    async def _call(self, method: Any, request: Any) -> Any:
        try:
            return await method(request, metadata=self._metadata, timeout=CALL_SECONDS)
        except grpc.aio.AioRpcError as error:
            if error.code() is not NOT_ANY_MORE:
                raise
            self.log.outcomes["too late"] += 1
            return None

    async def _until_answered(self, rng: random.Random, call: Callable[[Any], Awaitable[Any]]) -> Any:
        while True:
            try:
                return await call(rng.choice(self._stubs))
            except grpc.aio.AioRpcError as error:
                self.log.outcomes[error.code().name.lower()] += 1
                if not is_right_refusal(error):
                    self.log.wrong.append(f"refused with {error.code().name}: {error.details()}")
                    return None
                await asyncio.sleep(RETRY_SECONDS)
