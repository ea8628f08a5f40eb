"""Outbox and relay: what is committed is sent, in order, at least once, always with the same bytes."""

import asyncio
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from aiokafka import AIOKafkaProducer
from aiokafka.errors import MessageSizeTooLargeError

from tests.integration.chassis.harness import HEADERS, append, emptied, relaying, sent
from tests.support import toy_projection as toy
from tokenomics_chassis import outbox, relay
from tokenomics_chassis.failpoints import FAILPOINTS
from tokenomics_chassis.postgres import Pool
from tokenomics_chassis.process import ExitCode
from tokenomics_chassis.relay import Relay
from tokenomics_tools.stack import ManagedProcess, Stack

pytestmark = pytest.mark.usefixtures("topics")


def spawn(stack: Stack, database: str, **env: str) -> ManagedProcess:
    argv = [sys.executable, "-m", "tests.support.toy_projection", "relay"]
    return stack.spawn("toy-relay", argv, stack.service_environment(database) | env, cwd=Path.cwd())


async def test_events_are_sent_in_the_order_they_were_written_and_then_deleted(
    stack: Stack, database: str, pool: Pool
) -> None:
    await append(pool, range(1, 1201))
    async with relaying(stack, database):
        await emptied(pool)
        await append(pool, range(1201, 1211))
        await emptied(pool)
    records = await sent(stack)
    assert [int(each.value) for each in records] == list(range(1, 1211))
    assert {each.key for each in records} == {b"account-1"}
    assert {tuple(each.headers) for each in records} == {HEADERS}


async def test_large_events_are_read_and_sent_a_few_at_a_time(
    stack: Stack, database: str, pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    batches: list[int] = []
    send = relay._send

    async def counted(producer: AIOKafkaProducer, rows: Sequence[asyncpg.Record]) -> Any:
        batches.append(len(rows))
        return await send(producer, rows)

    monkeypatch.setattr(relay, "_send", counted)
    monkeypatch.setattr(relay, "BATCH_BYTES", 8)
    await append(pool, range(1, 13))
    async with relaying(stack, database):
        await emptied(pool)
    assert [int(each.value) for each in await sent(stack)] == list(range(1, 13))
    assert batches == [8, 4]  # eight of one digit; one more of them, and three of two


async def test_a_rolled_back_event_is_never_sent(stack: Stack, database: str, pool: Pool) -> None:
    await append(pool, range(1, 2))
    with pytest.raises(asyncpg.UniqueViolationError, match="aggregate_id"):
        await append(pool, range(2, 0, -1))
    async with relaying(stack, database):
        await emptied(pool)
    assert [each.value for each in await sent(stack)] == [b"1"]


async def test_an_event_larger_than_the_broker_takes_is_refused_when_written(pool: Pool) -> None:
    async with pool.acquire() as connection:
        with pytest.raises(asyncpg.CheckViolationError):
            await outbox.append(connection, "a", 1, topic=toy.OWN, key=None, headers=[], value=bytes(900_001))


async def test_an_event_that_can_never_be_sent_ends_the_relay_and_stays(
    stack: Stack, database: str, pool: Pool
) -> None:
    async with pool.acquire() as connection:
        large = bytes(1_100_000)
        await outbox.append(connection, "a", 1, topic=toy.OWN, key=large, headers=[], value=b"1")
    async with asyncio.timeout(30):
        with pytest.raises(MessageSizeTooLargeError):
            await Relay(database, toy.SCHEMAS, stack.kafka.bootstrap).run(asyncio.Event())
    assert await pool.fetchval("SELECT count(*) FROM outbox") == 1


async def test_of_two_relays_one_leads_and_the_other_takes_over(
    stack: Stack, database: str, pool: Pool
) -> None:
    first = spawn(stack, database)
    await append(pool, range(1, 3))
    await emptied(pool)
    async with relaying(stack, database):
        await append(pool, range(3, 5))
        await emptied(pool)
        leaders = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND granted"
        database_only = " AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
        assert await pool.fetchval(leaders + database_only) == 1
        first.kill()
        await append(pool, range(5, 7))
        await emptied(pool)
    assert [int(each.value) for each in await sent(stack)] == [1, 2, 3, 4, 5, 6]


async def test_a_relay_asked_to_stop_sends_what_is_written_first(
    stack: Stack, database: str, pool: Pool
) -> None:
    running = spawn(stack, database)
    await append(pool, range(1, 2))
    await emptied(pool)
    await append(pool, range(2, 1500))
    running.terminate()
    assert await asyncio.to_thread(running.wait, 60) == ExitCode.OK
    assert await pool.fetchval("SELECT count(*) FROM outbox") == 0
    assert [int(each.value) for each in await sent(stack)] == list(range(1, 1500))


@pytest.mark.parametrize("point", sorted(each for each in FAILPOINTS if each.startswith("relay.")))
async def test_a_kill_at_a_failpoint_loses_nothing_and_repeats_byte_for_byte(
    stack: Stack, database: str, pool: Pool, point: str
) -> None:
    await append(pool, range(1, 701))
    doomed = spawn(stack, database, TOKENOMICS_FAILPOINTS=f"{point}=1")
    assert await asyncio.to_thread(doomed.wait, 60) == -9
    async with relaying(stack, database):
        await emptied(pool)
    records = await sent(stack)
    values = [int(each.value) for each in records]
    assert list(dict.fromkeys(values)) == list(range(1, 701))  # first sights are in order
    assert (len(values) > 700) == (point == "relay.after_send")
    assert {(each.key, tuple(each.headers)) for each in records} == {(b"account-1", HEADERS)}
