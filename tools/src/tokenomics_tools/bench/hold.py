"""PlaceHold and what settles it, beside as many calls that each write one row in a transaction of its own.

A hold lies on four accounts with hard limits. It is settled by ``SettleHold``, or by the usage event that
names it, which its caller hands to a producer: then a pair is over when the hold is settled in the database.
"""

import asyncio
import sys
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import count, cycle, product
from time import monotonic
from typing import Any, Final, Literal, NamedTuple

import grpc
import uvloop
from aiokafka import AIOKafkaProducer

from tokenomics.quota.v1 import quota_pb2 as pb
from tokenomics_chassis.clock import SystemClock
from tokenomics_chassis.postgres import Session, session
from tokenomics_cli.kafka import acknowledged, producer, send
from tokenomics_contracts.cloudevents import EncodedEvent, encode
from tokenomics_contracts.events.usage import UsageRecorded
from tokenomics_tools.bench.plant import (
    SCHEMAS,
    USAGE_TOPIC,
    Plant,
    Scale,
    cpu_seconds,
    database_cpu_seconds,
    planted,
    stop,
)
from tokenomics_tools.bench.rows import Bar, Pair, Row, paired
from tokenomics_tools.simulator import SOURCE, Simulation, simulate
from tokenomics_tools.stack import GATEWAY, ManagedProcess, StackError
from tokenomics_tools.stack.processes import free_port

By = Literal["call", "usage"]

_CALLERS = (1, 8, 64)
_BUDGETS = 1_000
_BY: Final[tuple[By, ...]] = ("call", "usage")
_AMOUNT_MICRO_USD, _COST_MICRO_USD, _LIMIT_MICRO_USD = 2_000, 1_500, 10**12
_KIBIBYTE = 1_024

_SERVICE = "/tokenomics.quota.v1.QuotaService"
_TIMEOUT_SECONDS = 30
_OPEN_SECONDS = 60
_POLL_SECONDS = 0.01
_STALLED_SECONDS = 60

_IS_SETTLED = "SELECT NOT EXISTS (SELECT FROM live_hold)"
# Told, too, and where a call had settled them, posted instead of settling: what is left is work for nobody.
_IS_OVER = """
SELECT NOT EXISTS (SELECT FROM live_hold) AND NOT EXISTS (SELECT FROM outbox)
    AND NOT EXISTS (SELECT FROM ledger_account WHERE settling_micro_usd > 0)
"""
# All that a hold has rows in; an account's own row is there whatever the number of its holds.
_TABLES = ("placed_hold", "live_hold", "ended_hold", "placement", "expiry")
_SIZE = """
SELECT (SELECT sum(pg_total_relation_size(name::regclass)) FROM unnest($1::text[]) AS name)::float / count(*)
FROM placed_hold
"""


class _Case(NamedTuple):
    callers: int
    budgets: int
    by: By

    def __str__(self) -> str:
        return f"hold, {self.callers} on {self.budgets:,}, by {self.by}"


_CASES = [_Case(*each) for each in product(_CALLERS, (1, _BUDGETS), _BY)]


class _Measured(NamedTuple):
    pairs_per_second: float
    cpu_ms: float
    """Of a pair, in all processes that work for it and in PostgreSQL."""


def measure(scale: Scale) -> list[Row]:
    """Measure every case beside the floor of as many callers, one after the other in each round."""
    with planted(_company()) as made:
        quota = made.quota()
        quota.start_projector()
        quota.start_relay()
        quota.start_server()
        ours = (quota.server, quota.relay, *quota.projectors)
        measured, bytes_per_hold = uvloop.run(_measure(made, quota.address, ours, scale))
        stop(*ours)
    rows = []
    for case, pairs in measured.items():
        judged = case == _Case(64, 1, "usage")
        rates = [Pair(value.pairs_per_second, floor.pairs_per_second) for value, floor in pairs]
        cpu = [Pair(value.cpu_ms, floor.cpu_ms) for value, floor in pairs]
        rows += [
            paired(str(case), "pairs/s", rates, Bar("ratio", ">=", 0.8) if judged else None),
            paired(f"{case}, CPU", "ms/pair", cpu, Bar("value", "<=", 1.2) if judged else None),
        ]
    return [*rows, Row("hold, storage", bytes_per_hold, "B/hold", bar=Bar("value", "<=", _KIBIBYTE))]


def _company() -> Simulation:
    """Make a company in which every account has a hard limit, and everybody a team of their own."""
    simulation = simulate(now=SystemClock().now(), people=_BUDGETS, teams=_BUDGETS, bots=1, events=_BUDGETS)
    company = simulation.company
    owners = {
        "team": company.team_cost_centres,
        "project": company.project_ids,
        "cost_centre": sorted(set(company.team_cost_centres.values())),
    }
    limit = {"limit_micro_usd": _LIMIT_MICRO_USD, "enforcement": "hard"}
    document = next(each["document"] for each in simulation.policies if each["kind"] == "quota")
    document["allowances"] = [{**each, **limit} for each in document["allowances"]]
    document["budgets"] = [
        {"kind": kind, "owner_id": owner_id, **limit}
        for kind, owner_ids in owners.items()
        for owner_id in owner_ids
    ]
    return simulation


async def _measure(
    made: Plant, address: str, ours: Sequence[ManagedProcess], scale: Scale
) -> tuple[dict[_Case, list[tuple[_Measured, _Measured]]], float]:
    async with (
        session(made.database_url, SCHEMAS, application_name="bench") as database,
        producer(made.stack.kafka.bootstrap) as tools,
        _client(made, address, tools) as client,
    ):
        placed, settled = await client.first_answers()
        await _until(database, _IS_OVER)
        floor_address = f"127.0.0.1:{free_port()}"
        floor = _start_floor(made, floor_address, placed, settled)
        seconds = scale.of(3, at_least=0.7)

        async def measure(calling: _Client, case: _Case, servers: Sequence[ManagedProcess]) -> _Measured:
            cpu_before = cpu_seconds(*servers) + database_cpu_seconds(database)
            pairs, begun = await calling.call(case, seconds)
            ended = await _until(database, _IS_SETTLED)
            await _until(database, _IS_OVER)
            cpu = cpu_seconds(*servers) + database_cpu_seconds(database) - cpu_before
            return _Measured(pairs / (ended - begun), cpu / pairs * 1_000)

        measured = defaultdict[_Case, list[tuple[_Measured, _Measured]]](list)
        async with _client(made, floor_address, tools) as floor_client:
            await floor_client.call(
                _CASES[-1]._replace(by="call"), seconds
            )  # warms up what a process makes once
            await measure(client, _CASES[-1], ours)
            for _ in range(scale.pairs):
                for callers in _CALLERS:
                    beside = await measure(floor_client, _Case(callers, 1, "call"), [floor])
                    for case in (each for each in _CASES if each.callers == callers):
                        measured[case].append((await measure(client, case, ours), beside))
        stop(floor)
        for table in _TABLES:
            await database.execute(f"VACUUM {table}")
        return measured, await database.fetchval(_SIZE, _TABLES)


@dataclass(frozen=True)
class _Client:
    """Calls a server, the service's or the floor's."""

    place: Callable[..., Awaitable[bytes]]
    settle: Callable[..., Awaitable[bytes]]
    tools: AIOKafkaProducer
    calls: Sequence[pb.CheckQuotaRequest]
    """One for each budget."""
    metadata: tuple[tuple[str, str], ...]
    _numbers: Iterator[int] = field(default_factory=count)

    async def call(self, case: _Case, seconds: float) -> tuple[int, float]:
        """Let callers place and settle as fast as they are answered.

        Returns
        -------
        tuple
            How many pairs there were, and when the first began. Usage is in the log, and no more than that.
        """
        begun, first, sent = monotonic(), next(self._numbers), []
        calls = cycle(self.calls[: case.budgets])

        async def caller() -> None:
            while monotonic() < begun + seconds:
                hold_id, call = f"bench-{next(self._numbers):08}", next(calls)
                await self._place(hold_id, call)
                if case.by == "call":
                    await self._settle(hold_id)
                else:
                    sent.append(await send(self.tools, USAGE_TOPIC, _usage(hold_id, call)))

        await asyncio.gather(*(caller() for _ in range(case.callers)))
        await acknowledged(sent)
        return next(self._numbers) - first - 1, begun

    async def first_answers(self) -> tuple[bytes, bytes]:
        """Wait until the ledger is open, place a hold and settle it.

        Raises
        ------
        StackError
            It isn't what is to be measured.
        """
        hold_id = "bench-first"
        async with asyncio.timeout(_OPEN_SECONDS):
            while True:
                try:
                    placed = await self._place(hold_id, self.calls[0])
                    break
                except grpc.aio.AioRpcError as error:
                    if error.code() is not grpc.StatusCode.UNAVAILABLE:
                        raise
                    await asyncio.sleep(_POLL_SECONDS)
        answer = pb.PlaceHoldResponse.FromString(placed)
        if answer.check.decision != pb.DECISION_ALLOW or len(answer.hold.account_ids) != 4:
            raise StackError(f"this is no hold on four accounts: {answer}")
        return placed, await self._settle(hold_id)

    async def _place(self, hold_id: str, call: pb.CheckQuotaRequest) -> bytes:
        request = pb.PlaceHoldRequest(hold_id=hold_id, call=call, amount_micro_usd=_AMOUNT_MICRO_USD)
        return await self.place(request.SerializeToString(), metadata=self.metadata, timeout=_TIMEOUT_SECONDS)

    async def _settle(self, hold_id: str) -> bytes:
        request = pb.SettleHoldRequest(hold_id=hold_id, cost_micro_usd=_COST_MICRO_USD)
        return await self.settle(
            request.SerializeToString(), metadata=self.metadata, timeout=_TIMEOUT_SECONDS
        )


@asynccontextmanager
async def _client(made: Plant, address: str, tools: AIOKafkaProducer) -> AsyncIterator[_Client]:
    async with grpc.aio.insecure_channel(address) as channel:
        place: Any = channel.unary_unary(f"{_SERVICE}/PlaceHold")
        settle: Any = channel.unary_unary(f"{_SERVICE}/SettleHold")
        metadata = (("authorization", f"Bearer {made.stack.issuer.token(GATEWAY)}"),)
        yield _Client(place, settle, tools, _calls(made.simulation), metadata)


def _calls(simulation: Simulation) -> list[pb.CheckQuotaRequest]:
    """Return a call of a member of each team."""
    by_team = {member.team_id: member for member in simulation.company.members if not member.is_bot}
    return [
        pb.CheckQuotaRequest(
            subject=member.subject,
            provider="openai",
            model="gpt-4o-mini",
            estimated_input_tokens=4_000,
            estimated_output_tokens=500,
            project=project_id,
        )
        for member, project_id in zip(by_team.values(), cycle(simulation.company.project_ids), strict=False)
    ]


def _usage(hold_id: str, call: pb.CheckQuotaRequest) -> EncodedEvent:
    usage = UsageRecorded.model_validate(
        {
            "subject": call.subject,
            "tool": "gateway",
            "provider": call.provider,
            "model": call.model,
            "input_tokens": call.estimated_input_tokens,
            "output_tokens": call.estimated_output_tokens,
            "project": call.project,
            "hold_id": hold_id,
            "cost_micro_usd": _COST_MICRO_USD,
        }
    )
    return encode(usage, id=hold_id, source=SOURCE, time=SystemClock().now())


def _start_floor(made: Plant, address: str, placed: bytes, settled: bytes) -> ManagedProcess:
    argv = [sys.executable, "-m", "tokenomics_tools.bench.row_server", address]
    argv += [made.stack.new_database("floor"), placed.hex(), settled.hex()]
    floor = made.stack.spawn("bench-floor", argv, {})
    with grpc.insecure_channel(address) as channel:
        grpc.channel_ready_future(channel).result(_TIMEOUT_SECONDS)
    return floor


async def _until(database: Session, condition: str) -> float:
    """Wait until a condition holds, and return when it did."""
    async with asyncio.timeout(_STALLED_SECONDS):
        while True:
            if await database.fetchval(condition):
                return monotonic()
            await asyncio.sleep(_POLL_SECONDS)
