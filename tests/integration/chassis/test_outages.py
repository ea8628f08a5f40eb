"""Broker and database die under the streams; on a stack of its own, whose servers may be killed."""

import asyncio
from collections.abc import Iterator

import pytest
from aiokafka import AIOKafkaProducer

from tests.integration.chassis.harness import (
    append,
    consumer,
    consuming,
    emptied,
    parked,
    relaying,
    send,
    sent,
    total,
    until,
)
from tokenomics_chassis.postgres import Pool
from tokenomics_tools.stack import Source, Stack, start_stack

pytestmark = pytest.mark.usefixtures("topics")


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    with start_stack(Source.EMBEDDED) as running:
        yield running


async def test_a_database_that_went_away_is_waited_for(
    stack: Stack, group: str, pool: Pool, producer: AIOKafkaProducer
) -> None:
    async with consuming(consumer(stack, group, pool)):
        await send(producer, *[b"1"] * 10)
        await until(lambda: total(pool), 10)
        await asyncio.to_thread(stack.postgres.stop, immediate=True)
        await send(producer, *[b"1"] * 10)
        await asyncio.sleep(0.5)
        await asyncio.to_thread(stack.postgres.start)
        await until(lambda: total(pool), 20)
    assert await parked(pool) == []


async def test_a_stop_finishes_while_the_database_is_away(
    stack: Stack, group: str, pool: Pool, producer: AIOKafkaProducer
) -> None:
    async with consuming(consumer(stack, group, pool)):
        await send(producer, b"1")
        await until(lambda: total(pool), 1)
        await asyncio.to_thread(stack.postgres.stop, immediate=True)
        try:
            await send(producer, b"1")
            await asyncio.sleep(0.3)
        finally:
            await asyncio.to_thread(stack.postgres.start)


async def test_a_relay_stops_while_the_broker_is_away(stack: Stack, database: str, pool: Pool) -> None:
    async with relaying(stack, database) as relay:
        await append(pool, range(1, 3))
        await emptied(pool)
        await asyncio.to_thread(stack.kafka.kill)
        await append(pool, range(3, 5))
        await asyncio.sleep(0.5)
    try:
        assert relay.done()
        assert await pool.fetchval("SELECT count(*) FROM outbox") == 2
    finally:
        await asyncio.to_thread(stack.kafka.start)


async def test_a_broker_that_went_away_is_waited_for(stack: Stack, database: str, pool: Pool) -> None:
    async with relaying(stack, database):
        await append(pool, range(1, 3))
        await emptied(pool)
        await asyncio.to_thread(stack.kafka.kill)
        await append(pool, range(3, 5))
        await asyncio.sleep(1)
        await asyncio.to_thread(stack.kafka.start)
        await emptied(pool)
    assert list(dict.fromkeys(int(each.value) for each in await sent(stack))) == [1, 2, 3, 4]
