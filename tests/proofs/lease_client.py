"""A tool that draws from leases, as a process of its own: `python -m tests.proofs.lease_client PLAN`.

It can be killed and paused like any other. What it did up to then is in its journal, a line each: a draw
before anything follows from it, what it was told before it acts upon it.
"""

import asyncio
import json
import os
import random
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from pathlib import Path
from typing import Any, Final

import grpc
from aiokafka import AIOKafkaProducer
from google.protobuf.duration_pb2 import Duration

from tests.proofs.events import PROVIDER, Draft, usage_event
from tokenomics.quota.v1 import quota_pb2 as pb
from tokenomics.quota.v1 import quota_pb2_grpc
from tokenomics_client import Draw, Lease, Refusal, steady

CALL_SECONDS, RETRY_SECONDS = 5, 0.1
DRAWERS = 2
LONGEST_CALL_SECONDS = 0.15
"""How long a call drawn from the lease takes, at most."""
SMALL, LARGE = (200, 4_000), (21_000, 26_000)
"""Sizes of the input: on both sides of a step of the price."""
OFTEN_LARGE, OFTEN_CHEAPER, OFTEN_HELD_BACK = 0.04, 0.25, 0.3
AFTER_THE_END_SECONDS = 0.3
LATER: Final = frozenset({grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED})


class Fate(StrEnum):
    """What becomes of a client, with the last of its leases."""

    RETURNS = "returns"
    DIES_UNRETURNED = "dies unreturned"
    """When it has used what it wanted, instead of returning the lease."""
    DIES_DRAWN = "dies drawn"
    """Between a draw and its usage event."""
    DIES_EMITTED = "dies emitted"
    """Just after a usage event."""
    DIES_RENEWING = "dies renewing"
    KILLED = "killed"
    """At a random moment, by somebody else."""
    PAUSED = "paused"
    """Until its time to draw is over."""
    PAUSED_LONG = "paused long"
    """Until the lease has ended."""
    TELLS_LATE = "tells late"
    """It returns the lease, and holds some usage back until the lease has ended."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What a client is to do, all of it decided by whoever starts it."""

    number: int
    journal: str
    addresses: Sequence[str]
    options: Sequence[tuple[str, int]]
    metadata: Sequence[tuple[str, str]]
    bootstrap: str
    subject: str
    model: str
    seed: int
    calls: Sequence[int]
    """How many it wants to draw from each lease."""
    amount_micro_usd: int
    """Of each stretch of a lease."""
    draw_seconds: float
    longest_call_seconds: float
    patience_seconds: float
    """How long it asks for a lease that the budget has no room for."""
    fate: Fate

    def as_json(self) -> str:
        """Write it for a command line."""
        return json.dumps(asdict(self))

    @property
    def last_lease(self) -> str:
        """The lease that its fate strikes with."""
        return self.lease_id(len(self.calls) - 1)

    def lease_id(self, number: int) -> str:
        """Name one of its leases."""
        return f"lease-{self.number}-{number}"


def source(lease_id: str) -> str:
    """Return the source of the usage events drawn from a lease."""
    return f"/tools/{lease_id}"


class Tool:
    """Takes one lease after the other, and draws from it as long as it wants to, or may."""

    def __init__(self, plan: Plan, producer: AIOKafkaProducer, stubs: Sequence[Any]) -> None:
        self._plan, self._producer, self._stubs = plan, producer, stubs
        self._rng = random.Random(plan.seed)
        self._journal = os.open(plan.journal, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        self._renewing = asyncio.Lock()
        self._left = self._struck_at = 0
        self._held_back = list[Draft]()

    async def run(self) -> None:
        """Live until fate strikes, or to the end."""
        for number, calls in enumerate(self._plan.calls):
            lease_id = self._plan.lease_id(number)
            fate = self._plan.fate if lease_id == self._plan.last_lease else Fate.RETURNS
            asked_at, answer = await self._acquire(lease_id)
            if answer is None:
                return
            self._left, self._struck_at = calls, self._rng.randint(calls // 4, calls * 3 // 4)
            self._note("acquired", lease_id, **_stretch(answer.lease, asked_at))
            lease = Lease(answer.lease, asked_at)
            await asyncio.gather(*(self._draw(lease, fate) for _ in range(DRAWERS)))
            if fate is Fate.DIES_UNRETURNED:
                self._die(lease_id, fate)
            await self._return(lease)

    async def _acquire(self, lease_id: str) -> tuple[float, pb.AcquireLeaseResponse | None]:
        plan = self._plan
        request = pb.AcquireLeaseRequest(
            lease_id=lease_id,
            typical_call=pb.CheckQuotaRequest(
                subject=plan.subject,
                provider=PROVIDER,
                model=plan.model,
                estimated_input_tokens=SMALL[1],
                estimated_output_tokens=100,
                project="project-0",
            ),
            amount_micro_usd=plan.amount_micro_usd,
            draw_for=_duration(plan.draw_seconds),
            longest_call=_duration(plan.longest_call_seconds),
        )
        until = time.monotonic() + plan.patience_seconds
        while True:
            asked_at, answer = await self._ask("AcquireLease", request)
            if not isinstance(answer, grpc.StatusCode):
                return asked_at, answer
            self._note("refused", lease_id, code=answer.name)
            if time.monotonic() > until:
                return asked_at, None
            await asyncio.sleep(self._rng.uniform(0.1, 0.4))

    async def _draw(self, lease: Lease, fate: Fate) -> None:
        while self._left > 0:
            number = self._left
            self._left -= 1
            tokens = self._rng.randint(*(LARGE if self._rng.random() < OFTEN_LARGE else SMALL))
            sizes = {
                "input_tokens": tokens,
                "cached_input_tokens": self._rng.randint(0, tokens // 2),
                "output_tokens": self._rng.randint(1, 400),
            }
            if fate is Fate.DIES_RENEWING and number == self._struck_at:
                soon = self._rng.uniform(0, 0.01)
                asyncio.get_running_loop().call_later(soon, self._die, lease.lease_id, fate)
                await self._renew(lease, self._plan.amount_micro_usd)
            begun, at = steady(), datetime.now(UTC)
            draw = lease.draw(**sizes)
            if not draw:
                self._note("not drawn", lease.lease_id, begun=begun, ended=draw.refusal is Refusal.ENDED)
                if not await self._renew(lease, max(draw.cost_micro_usd, self._plan.amount_micro_usd)):
                    return
                continue
            event = f"{number}-{begun}"
            self._note(
                "drawn",
                lease.lease_id,
                event=event,
                begun=begun,
                at=at.isoformat(),
                cost=draw.cost_micro_usd,
                net=lease.drawn_micro_usd,
            )
            await self._use(
                lease,
                draw,
                usage_event(
                    source(lease.lease_id),
                    event,
                    at,
                    subject=self._plan.subject,
                    model=self._plan.model,
                    project="project-0",
                    hold_id=lease.lease_id,
                    **sizes,
                ),
                fate,
                number,
            )

    async def _use(self, lease: Lease, draw: Draw, event: Draft, fate: Fate, number: int) -> None:
        """Make the call, which may turn out to be cheaper than was drawn for it, and tell of it."""
        await asyncio.sleep(self._rng.uniform(0, LONGEST_CALL_SECONDS))
        if self._rng.random() < OFTEN_CHEAPER:
            cost = self._rng.randint(0, draw.cost_micro_usd)
            event.data["cost_micro_usd"] = cost
            lease.settle(draw, cost)
            self._note("settled", lease.lease_id, event=event.id, cost=cost, net=lease.drawn_micro_usd)
        if fate is Fate.DIES_DRAWN and number <= self._struck_at:
            self._die(lease.lease_id, fate)
        if fate is Fate.TELLS_LATE and self._rng.random() < OFTEN_HELD_BACK:
            self._held_back.append(event)
            return
        await self._emit(event, lease.lease_id)
        if fate is Fate.DIES_EMITTED and number <= self._struck_at:
            self._die(lease.lease_id, fate)

    async def _emit(self, event: Draft, lease_id: str) -> None:
        topic, key, value, headers = event.binary()
        await self._producer.send_and_wait(topic, value, key=key, headers=list(headers))
        self._note("emitted", lease_id, event=event.id)

    async def _renew(self, lease: Lease, amount: int) -> bool:
        """Renew the lease, unless the other drawer just did; whether it may be drawn from again."""
        seen = lease.renewal_request(0).renewal
        async with self._renewing:
            request = lease.renewal_request(amount)
            if request.renewal != seen:
                return True
            request.draw_for.CopyFrom(_duration(self._plan.draw_seconds))
            asked_at, answer = await self._ask("RenewLease", request)
            if isinstance(answer, grpc.StatusCode):
                self._note("not renewed", lease.lease_id, code=answer.name)
                return False
            self._note("renewed", lease.lease_id, **_stretch(answer.lease, asked_at))
            lease.renewed(answer.lease, asked_at)
            return True

    async def _return(self, lease: Lease) -> None:
        request = lease.end()
        _, answer = await self._ask("ReturnLease", request)
        if isinstance(answer, grpc.StatusCode):
            self._note("not returned", lease.lease_id, code=answer.name)
            return
        self._note("returned", lease.lease_id, live=answer.lease.hold.state == pb.HOLD_STATE_LIVE)
        if self._held_back:
            left = answer.lease.hold.expires_at.ToDatetime(tzinfo=UTC) - datetime.now(UTC)
            await asyncio.sleep(max(0, left.total_seconds()) + AFTER_THE_END_SECONDS)
            for event in self._held_back:
                await self._emit(event, lease.lease_id)

    async def _ask(self, method: str, request: Any) -> tuple[float, Any]:
        """Ask until there is an answer; return when it was asked for, and the answer or why there is none."""
        while True:
            asked_at = steady()
            call = getattr(self._rng.choice(self._stubs), method)
            try:
                return asked_at, await call(request, metadata=self._plan.metadata, timeout=CALL_SECONDS)
            except grpc.aio.AioRpcError as error:
                if error.code() not in LATER:
                    return asked_at, error.code()
                await asyncio.sleep(RETRY_SECONDS)

    def _die(self, lease_id: str, fate: Fate) -> None:
        self._note("died", lease_id, of=fate)
        os.kill(os.getpid(), signal.SIGKILL)

    def _note(self, what: str, lease_id: str, **more: object) -> None:
        line = json.dumps({"what": what, "lease_id": lease_id, **more})
        os.write(self._journal, line.encode() + b"\n")


def _stretch(lease: pb.Lease, asked_at: float) -> dict[str, object]:
    return {
        "renewal": lease.renewal,
        "until": asked_at + lease.draw_for.ToTimedelta().total_seconds(),
        "expires_at": lease.hold.expires_at.ToDatetime(tzinfo=UTC).isoformat(),
    }


def _duration(seconds: float) -> Duration:
    duration = Duration()
    duration.FromTimedelta(timedelta(seconds=seconds))
    return duration


async def main(plan: Plan) -> None:
    """Connect, and do as planned."""
    channels = [grpc.aio.insecure_channel(each, options=plan.options) for each in plan.addresses]
    producer = AIOKafkaProducer(bootstrap_servers=plan.bootstrap, acks="all")
    await producer.start()
    try:
        await Tool(plan, producer, [quota_pb2_grpc.QuotaServiceStub(each) for each in channels]).run()
    finally:
        await producer.stop()
        for channel in channels:
            await channel.close()


def journal(path: Path) -> list[dict[str, Any]]:
    """Read what a client wrote down."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


if __name__ == "__main__":
    told = json.loads(sys.argv[1])
    asyncio.run(main(Plan(**{**told, "fate": Fate(told["fate"])})))
