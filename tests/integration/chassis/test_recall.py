"""Recall: before a term judges, what was said is known again and the log is projected as far as it went."""

import asyncio
import logging
from collections.abc import Sequence

import pytest
from aiokafka import AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, RecordsToDelete

from tests.integration.chassis.harness import consumer, consuming, send, total, until
from tests.support import toy_projection as toy
from tests.support.toy_projection import AMOUNTS, OWN, Toy
from tokenomics_chassis.log_ranges import LostHistoryError
from tokenomics_chassis.metrics import ANNOUNCEMENTS_HELD_UP
from tokenomics_chassis.postgres import Connection, Pool, session
from tokenomics_chassis.recall import Kind, Recall
from tokenomics_chassis.records import Record
from tokenomics_contracts.rejection import EventRejected, RejectionCode
from tokenomics_tools.stack import Stack

pytestmark = pytest.mark.usefixtures("topics", "said")


@pytest.fixture
async def said(pool: Pool) -> None:
    await pool.execute("CREATE TABLE toy.announcement (id text PRIMARY KEY)")


def decode(record: Record) -> str | None:
    """Read `said <name>`."""
    word, _, name = (record.value or b"").decode(errors="replace").partition(" ")
    if word == "garbled":
        raise EventRejected(RejectionCode.BAD_JSON, "not a word")
    return name if word == "said" else None


async def remember(connection: Connection, names: Sequence[str]) -> int:
    rows = await connection.fetch(
        "INSERT INTO announcement SELECT unnest($1::text[]) ON CONFLICT DO NOTHING RETURNING id", names
    )
    return len(rows)


async def recall(stack: Stack, database: str, stopping: asyncio.Event | None = None) -> None:
    recalling = Recall(stack.kafka.bootstrap, OWN, Toy.topics, [Kind(decode, remember)])
    async with session(database, toy.SCHEMAS, application_name="recall") as connection:
        await recalling(connection, stopping or asyncio.Event())


async def announced(pool: Pool) -> list[str]:
    return [row["id"] for row in await pool.fetch("SELECT id FROM announcement ORDER BY id")]


async def test_what_was_said_is_known_again(
    stack: Stack, group: str, database: str, pool: Pool, producer: AIOKafkaProducer
) -> None:
    await send(producer, b"said a", b"something else", b"said b", b"said a", topic=OWN)
    await send(producer, b"said c", topic=OWN, partition=2)
    async with consuming(consumer(stack, group, pool)):
        await recall(stack, database)
        assert await announced(pool) == ["a", "b", "c"]


async def test_what_cannot_be_read_is_logged_and_blocks_nothing(  # noqa: PLR0917 - fixtures
    stack: Stack,
    group: str,
    database: str,
    pool: Pool,
    producer: AIOKafkaProducer,
    caplog: pytest.LogCaptureFixture,
) -> None:
    await send(producer, b"garbled", b"said b", topic=OWN)
    async with consuming(consumer(stack, group, pool)):
        await recall(stack, database)
    assert await announced(pool) == ["b"]
    assert f"{OWN}/0@0 can't be read" in caplog.text


async def test_a_term_reads_on_from_where_the_last_one_stopped(
    stack: Stack, group: str, database: str, pool: Pool, producer: AIOKafkaProducer
) -> None:
    await send(producer, b"said a", topic=OWN)
    async with consuming(consumer(stack, group, pool)):
        await recall(stack, database)
        await pool.execute("DELETE FROM announcement")
        await send(producer, b"said b", topic=OWN)
        await recall(stack, database)
    assert await announced(pool) == ["b"]
    rows = await pool.fetch("SELECT topic, partition, next_offset FROM recalled")
    assert [tuple(row) for row in rows] == [(OWN, 0, 2)]


async def test_it_waits_until_everything_is_projected_that_was_in_the_log_when_it_began(
    stack: Stack,
    database: str,
    pool: Pool,
    producer: AIOKafkaProducer,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    await send(producer, *[b"1"] * 10)
    recalling = asyncio.create_task(recall(stack, database))
    while "announcements wait" not in caplog.text and not recalling.done():  # noqa: ASYNC110 - a log
        await asyncio.sleep(0.05)
    await send(producer, b"1")
    assert not recalling.done(), recalling.result()
    await pool.execute("INSERT INTO position (topic, partition, next_offset) VALUES ($1, 0, 9)", AMOUNTS)
    await asyncio.sleep(0.5)
    assert not recalling.done()
    assert ANNOUNCEMENTS_HELD_UP.read() == 1
    await pool.execute("UPDATE position SET next_offset = 10")
    await asyncio.wait_for(recalling, 10)
    assert ANNOUNCEMENTS_HELD_UP.read() is None


async def test_a_stop_ends_the_wait(stack: Stack, database: str, producer: AIOKafkaProducer) -> None:
    stopping = asyncio.Event()
    await send(producer, b"1")
    recalling = asyncio.create_task(recall(stack, database, stopping))
    await asyncio.sleep(0.5)
    assert not recalling.done()
    stopping.set()
    await asyncio.wait_for(recalling, 10)


async def test_an_own_topic_that_lost_what_was_said_is_refused(
    stack: Stack,
    topics: AIOKafkaAdminClient,
    database: str,
    producer: AIOKafkaProducer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("tokenomics_chassis.log_ranges.SETTLE_SECONDS", 0.01)
    await send(producer, b"said a", b"said b", topic=OWN)
    await topics.delete_records({TopicPartition(OWN, 0): RecordsToDelete(1)})
    with pytest.raises(LostHistoryError, match=f"{OWN}/0 is read up to 0, but begins at 1"):
        await recall(stack, database)


async def test_topics_that_end_in_a_transactions_marker_hold_nobody_up(
    stack: Stack, group: str, database: str, pool: Pool
) -> None:
    async with (
        AIOKafkaProducer(
            bootstrap_servers=stack.kafka.bootstrap, transactional_id=f"toy-{group}"
        ) as transactional,
        transactional.transaction(),
    ):
        await transactional.send(OWN, b"said a", b"a", partition=0)
        await transactional.send(AMOUNTS, b"1", b"a", partition=0)
    async with consuming(consumer(stack, group, pool)):
        await until(lambda: total(pool), 1)
        await asyncio.wait_for(recall(stack, database), 20)
    assert await announced(pool) == ["a"]
