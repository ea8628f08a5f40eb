"""Holds on the service's real processes: servers that share a ledger, and one that is killed in a turn."""

import asyncio
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import asyncpg
import grpc
import pytest
from aiokafka import AIOKafkaProducer

from tests.support.grpc import bearer
from tests.support.quota_events import person, price_book, quota_policy, record, team
from tokenomics.quota.v1 import quota_pb2 as pb
from tokenomics.quota.v1.quota_pb2_grpc import QuotaServiceStub
from tokenomics_chassis.failpoints import LOG_VARIABLE, VARIABLE
from tokenomics_contracts.events.base import Event
from tokenomics_tools.stack import ManagedProcess, Source, Stack, start_stack
from tokenomics_tools.stack.issuer import GATEWAY
from tokenomics_tools.stack.processes import free_port

if TYPE_CHECKING:
    from tokenomics.quota.v1.quota_pb2_grpc import QuotaServiceAsyncStub

SECONDS = 60
LIMIT = 1_000
COMPANY = (
    price_book(),
    quota_policy(
        budgets=[{"kind": "team", "owner_id": "red", "limit_micro_usd": LIMIT, "enforcement": "hard"}]
    ),
    team("red", cost_centre_id="cc"),
    *(person(f"p{number}") for number in range(8)),
)


@dataclass
class Company:
    """Running processes, whose team of eight has a hard limit, and how to call their servers."""

    stack: Stack
    database: str

    def spawn(self, command: str, *, listen: str | None = None, **variables: str) -> ManagedProcess:
        environment = self.stack.service_environment(self.database, grpc_listen=listen)
        argv = [sys.executable, "-m", "tokenomics_quota", command]
        return self.stack.spawn(f"quota-{command}", argv, environment | variables)

    @asynccontextmanager
    async def server(self, **variables: str) -> AsyncIterator["Server"]:
        """Run a server until the block is left, whatever has become of it."""
        address = f"127.0.0.1:{free_port()}"
        process = self.spawn("serve", listen=address, **variables)
        async with grpc.aio.insecure_channel(address) as channel:
            await asyncio.wait_for(channel.channel_ready(), SECONDS)
            token = self.stack.issuer.token(GATEWAY)
            yield Server(process, QuotaServiceStub(channel), bearer(token))
        process.terminate()
        process.wait(SECONDS)

    async def fetch(self, statement: str, *arguments: object) -> list[Any]:
        connection = await asyncpg.connect(self.database, server_settings={"search_path": "quota"})
        try:
            return list(await connection.fetch(statement, *arguments))
        finally:
            await connection.close()


@dataclass
class Server:
    """One of the service's servers."""

    process: ManagedProcess
    stub: "QuotaServiceAsyncStub"
    metadata: tuple[tuple[str, str], ...]

    async def place(self, hold_id: str, tokens: int, subject: str = "p0") -> pb.PlaceHoldResponse:
        call = pb.CheckQuotaRequest(
            subject=subject, provider="acme", model="one", estimated_input_tokens=tokens
        )
        request = pb.PlaceHoldRequest(hold_id=hold_id, call=call)
        return await self.stub.PlaceHold(request, metadata=self.metadata, timeout=SECONDS)

    async def ready(self) -> None:
        """Wait until holds can be placed."""
        async with asyncio.timeout(SECONDS):
            while True:
                try:
                    await self.place(f"probe-{self.process.pid}", 1)
                except grpc.aio.AioRpcError as error:
                    if error.code() is not grpc.StatusCode.UNAVAILABLE:
                        raise
                    await asyncio.sleep(0.2)
                else:
                    break
        release = pb.ReleaseHoldRequest(hold_id=f"probe-{self.process.pid}")
        await self.stub.ReleaseHold(release, metadata=self.metadata, timeout=SECONDS)


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    """Yield a stack of our own: its topics tell of one company."""
    with start_stack(Source.EMBEDDED) as running:
        yield running


@pytest.fixture(scope="module")
async def company(stack: Stack) -> AsyncIterator[Company]:
    made = Company(stack, stack.new_database("quota"))
    assert made.spawn("migrate").wait(SECONDS) == 0
    await publish(stack, COMPANY)
    processes = [made.spawn(command) for command in ("project", "relay")]
    yield made
    for process in processes:
        process.terminate()
    for process in processes:
        assert process.wait(SECONDS) == 0


async def publish(stack: Stack, events: tuple[Event, ...]) -> None:
    producer = AIOKafkaProducer(bootstrap_servers=stack.kafka.bootstrap)
    await producer.start()
    try:
        for number, event in enumerate(events):
            made = record(event, f"event-{number}", time=datetime.now(UTC) - timedelta(days=1))
            await producer.send_and_wait(made.topic, made.value, key=made.key, headers=list(made.headers))
    finally:
        await producer.stop()


async def test_servers_share_the_last_dollar(company: Company) -> None:
    """64 callers on two servers: what is placed is what fits, to the micro-USD, and shows that it did."""
    async with company.server() as one, company.server() as other:
        await one.ready()
        await other.ready()
        answers = await asyncio.gather(
            *((one, other)[number % 2].place(f"h{number}", 29, f"p{number % 8}") for number in range(64)),
            return_exceptions=True,
        )
        placed = [each for each in answers if isinstance(each, pb.PlaceHoldResponse)]
        codes = {each.code() for each in answers if isinstance(each, grpc.aio.AioRpcError)}
        assert (len(placed), codes) == (LIMIT // 29, {grpc.StatusCode.RESOURCE_EXHAUSTED})
        placements = await company.fetch(
            "SELECT sequence, committed_before_micro_usd, amount_micro_usd, limit_then_micro_usd"
            " FROM placement JOIN ledger_account USING (account_no)"
            " WHERE account_id LIKE 'team/red/all/%' AND amount_micro_usd = 29 ORDER BY sequence"
        )
        assert [row[1] for row in placements] == [number * 29 for number in range(LIMIT // 29)]
        assert {row[3] for row in placements} == {LIMIT}
        for answer in placed:
            release = pb.ReleaseHoldRequest(hold_id=answer.hold.hold_id)
            await one.stub.ReleaseHold(release, metadata=one.metadata, timeout=SECONDS)


@pytest.mark.parametrize(
    ("point", "was_placed"), [("turn.before_commit", False), ("turn.after_commit", True)]
)
async def test_a_server_that_is_killed_in_a_turn_leaves_a_hold_that_the_same_call_finds_or_none(
    company: Company, point: str, *, was_placed: bool, tmp_path_factory: pytest.TempPathFactory
) -> None:
    log = tmp_path_factory.mktemp("failpoints") / "hits"
    async with company.server() as survivor:
        await survivor.ready()
        async with company.server(**{VARIABLE: f"{point}=1", LOG_VARIABLE: str(log)}) as victim:
            with pytest.raises(grpc.aio.AioRpcError) as lost:
                await victim.place(f"h-{point}", 70)
            assert lost.value.code() is grpc.StatusCode.UNAVAILABLE
            assert victim.process.wait(SECONDS) != 0
        assert log.read_text().split() == [point]
        held = ("SELECT hold_no, placed_at FROM placed_hold WHERE hold_id = $1", f"h-{point}")
        before = await company.fetch(*held)
        assert bool(before) == was_placed
        answer = await survivor.place(f"h-{point}", 70)
        (row,) = await company.fetch(*held)
        assert answer.hold.placed_at.ToDatetime(UTC) == row["placed_at"]
        assert answer.check.freshness.token.aggregate_version == row["hold_no"]
        assert before in ([row], [])
        assert await survivor.place(f"h-{point}", 70) == answer
