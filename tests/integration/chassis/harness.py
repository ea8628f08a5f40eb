"""What the tests of the chassis' streams share."""

import asyncio
import contextlib
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, ConsumerRecord, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic

from tests.support import toy_projection as toy
from tokenomics_chassis import outbox
from tokenomics_chassis.clock import SystemClock
from tokenomics_chassis.consumer import ProjectionConsumer
from tokenomics_chassis.parking import Parking
from tokenomics_chassis.postgres import Pool
from tokenomics_chassis.projector import Projector
from tokenomics_chassis.records import Record
from tokenomics_chassis.relay import Relay
from tokenomics_tools.stack import ManagedProcess, Stack

PARTITIONS = 3
SECONDS = 60.0


@dataclass
class Log:
    """A log in memory that hands its records to a projector, for tests that need no broker."""

    projector: Projector
    topic: str = toy.AMOUNTS
    partition: int = 0

    def records(self, *values: bytes | None, first: int = 0, key: bytes | None = b"a") -> list[Record]:
        return [
            Record(
                self.topic,
                self.partition,
                first + index,
                1_000 + first + index,
                key,
                value,
                (("h", b"\xff"),),
            )
            for index, value in enumerate(values)
        ]

    async def project(self, *values: bytes | None, first: int = 0, key: bytes | None = b"a") -> int:
        records = self.records(*values, first=first, key=key)
        return await self.projector.process(self.topic, self.partition, records)


def parking(pool: Pool, projection: toy.Toy) -> Parking:
    return Parking(pool, toy.SCHEMAS, projection, toy.skipped_event, trail=toy.TRAIL, skips=toy.skips())


async def total(pool: Pool, name: str = "a") -> int:
    return await pool.fetchval("SELECT total FROM tally WHERE name = $1", name) or 0


async def parked(pool: Pool) -> list[tuple[int, str]]:
    rows = await pool.fetch(
        "SELECT record_offset, error_code FROM parked ORDER BY topic, partition, record_offset"
    )
    return [tuple(row) for row in rows]


def consumer(
    stack: Stack,
    group: str,
    pool: Pool,
    projection: toy.Toy | None = None,
    *,
    read_first: Sequence[str] = (toy.OWN,),
) -> ProjectionConsumer:
    projector = Projector(
        pool, toy.SCHEMAS, projection or toy.Toy(), skips=toy.skips(), max_parked_in_a_row=20
    )
    return ProjectionConsumer(
        stack.kafka.bootstrap,
        group,
        projector,
        SystemClock(),
        read_first=[frozenset({topic}) for topic in read_first],
        patient_topics=frozenset({toy.OWN}),
    )


@contextlib.asynccontextmanager
async def made_topics(stack: Stack, **config: str) -> AsyncIterator[AIOKafkaAdminClient]:
    names = [toy.AMOUNTS, toy.STEPS, toy.OWN]
    config = {"message.timestamp.type": "LogAppendTime", "retention.ms": "-1"} | config
    admin = AIOKafkaAdminClient(bootstrap_servers=stack.kafka.bootstrap)
    await admin.start()
    try:
        await admin.create_topics([NewTopic(name, PARTITIONS, 1, topic_configs=config) for name in names])
        yield admin
        await admin.delete_topics(names)
    finally:
        await admin.close()


def spawn(stack: Stack, database: str, group: str, command: str, **env: str) -> ManagedProcess:
    environment = stack.service_environment(database, group=group) | env
    argv = [sys.executable, "-m", "tests.support.toy_projection", command]
    return stack.spawn(f"toy-{command}", argv, environment, cwd=Path.cwd())


@contextlib.asynccontextmanager
async def consuming(consumer: ProjectionConsumer) -> AsyncIterator[ProjectionConsumer]:
    stopping = asyncio.Event()
    task = asyncio.create_task(consumer.run(stopping))
    try:
        yield consumer
    finally:
        stopping.set()
        await task


async def until(actual: Callable[[], Awaitable[int | None]], expected: int, seconds: float = SECONDS) -> None:
    async with asyncio.timeout(seconds):
        while (found := await actual()) != expected:
            await asyncio.sleep(0.02)
            assert (found or 0) < expected


async def send(
    producer: AIOKafkaProducer, *values: bytes | None, topic: str = toy.AMOUNTS, partition: int = 0
) -> None:
    for future in [await producer.send(topic, value, b"a", partition=partition) for value in values]:
        await future


async def count_parked(pool: Pool) -> int:
    return await pool.fetchval("SELECT count(*) FROM parked") or 0


HEADERS = (("ce_id", b"1"), ("traceparent", b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"))


async def append(pool: Pool, versions: range, aggregate_id: str = "account-1") -> None:
    async with pool.acquire() as connection, connection.transaction():
        for version in versions:
            await outbox.append(
                connection,
                aggregate_id,
                version,
                topic=toy.OWN,
                key=aggregate_id.encode(),
                headers=HEADERS,
                value=b"%d" % version,
            )


@contextlib.asynccontextmanager
async def relaying(stack: Stack, database: str) -> AsyncIterator[asyncio.Task[None]]:
    stopping = asyncio.Event()
    task = asyncio.create_task(Relay(database, toy.SCHEMAS, stack.kafka.bootstrap).run(stopping))
    try:
        yield task
    finally:
        stopping.set()
        await task


async def emptied(pool: Pool) -> None:
    async with asyncio.timeout(60):
        while await pool.fetchval("SELECT count(*) FROM outbox"):  # noqa: ASYNC110 - another session's doing
            await asyncio.sleep(0.02)


async def sent(stack: Stack) -> list[ConsumerRecord]:
    """Read the whole own topic, partition by partition."""
    partitions = [TopicPartition(toy.OWN, number) for number in range(PARTITIONS)]
    async with AIOKafkaConsumer(
        bootstrap_servers=stack.kafka.bootstrap, auto_offset_reset="earliest"
    ) as consumer:
        consumer.assign(partitions)
        ends = await consumer.end_offsets(partitions)
        await consumer.seek_to_beginning()
        records = []
        while [tp for tp in partitions if await consumer.position(tp) < ends[tp]]:
            for polled in (await consumer.getmany(timeout_ms=100)).values():
                records += polled
    return sorted(records, key=lambda each: (each.partition, each.offset))
