"""The database, the group or a part of the log is lost: the state comes out right, or a stop says why not."""

import asyncio
import uuid
from collections.abc import AsyncIterator, Sequence

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, RecordsToDelete

from tests.integration.chassis.harness import consumer, consuming, made_topics, send, spawn, total, until
from tests.support import toy_projection as toy
from tests.support.toy_projection import AMOUNTS, CRASH, OWN, Toy
from tokenomics_chassis.catch_up import catch_up
from tokenomics_chassis.log_ranges import LostHistoryError, log_ranges
from tokenomics_chassis.parking import Skip
from tokenomics_chassis.postgres import Pool, create_pool
from tokenomics_chassis.process import ExitCode
from tokenomics_chassis.projector import Projector
from tokenomics_chassis.records import Record
from tokenomics_tools.stack import Stack

pytestmark = pytest.mark.usefixtures("topics")

FIRST = TopicPartition(AMOUNTS, 0)
COMPACTED = {
    "cleanup.policy": "compact",
    "segment.ms": "100",
    "min.cleanable.dirty.ratio": "0.01",
    "max.compaction.lag.ms": "100",
}


@pytest.fixture
def offered(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Collect the offsets that the projector is given, those it drops included."""
    offsets: list[int] = []
    process = Projector.process

    async def spy(
        self: Projector, topic: str, partition: int, records: Sequence[Record], *, nothing_since: int | None
    ) -> int:
        offsets.extend(record.offset for record in records)
        return await process(self, topic, partition, records, nothing_since=nothing_since)

    monkeypatch.setattr(Projector, "process", spy)
    return offsets


@pytest.fixture
async def emptied(stack: Stack) -> AsyncIterator[Pool]:
    """Yield a database made anew."""
    url = stack.new_database("toy")
    await toy.MIGRATIONS.migrate(url)
    async with await create_pool(url, toy.SCHEMAS, application_name="emptied") as pool:
        yield pool


async def committed(stack: Stack, group: str, offset: int | None = None) -> int:
    """Return what the group has committed; with an offset, commit that before."""
    async with AIOKafkaConsumer(
        bootstrap_servers=stack.kafka.bootstrap, group_id=group, enable_auto_commit=False
    ) as member:
        member.assign([FIRST])
        if offset is not None:
            await member.commit({FIRST: offset})
        return await member.committed(FIRST) or 0


async def go_back(pool: Pool, position: int) -> None:
    """Make the database the copy of itself that it was at that position."""
    async with pool.acquire() as connection, connection.transaction():
        await connection.execute("DELETE FROM applied WHERE record_offset >= $1", position)
        await connection.execute("UPDATE tally SET total = $1, change_seq = 1", position)
        await connection.execute("UPDATE position SET next_offset = $1, change_seq = 1", position)
        if not position:
            await connection.execute("DELETE FROM position")


async def test_an_emptied_database_is_filled_again_though_no_traffic_comes(
    stack: Stack,
    group: str,
    pool: Pool,
    emptied: Pool,
    producer: AIOKafkaProducer,
) -> None:
    await send(producer, *[b"1"] * 300)
    async with consuming(consumer(stack, group, pool)):
        await until(lambda: total(pool), 300)
    assert await committed(stack, group) == 300
    async with consuming(consumer(stack, group, emptied)):
        await until(lambda: total(emptied), 300)
        await send(producer, b"1")
        await until(lambda: total(emptied), 301)


@pytest.mark.parametrize("position", [0, 120])
async def test_a_database_that_goes_back_under_a_running_projector_catches_up_though_no_traffic_comes(
    stack: Stack,
    group: str,
    pool: Pool,
    producer: AIOKafkaProducer,
    position: int,
) -> None:
    async with consuming(consumer(stack, group, pool)):
        await send(producer, *[b"1"] * 300)
        await until(lambda: total(pool), 300)
        await go_back(pool, position)
        await until(lambda: total(pool), 300)
        await send(producer, b"1")
        await until(lambda: total(pool), 301)
    assert await pool.fetchval("SELECT count(*) FROM applied") == 301


async def test_an_older_copy_under_newer_commits_has_no_gap_and_counts_nothing_twice(
    stack: Stack, group: str, pool: Pool, producer: AIOKafkaProducer
) -> None:
    await send(producer, *[b"1"] * 300)
    async with consuming(consumer(stack, group, pool)):
        await until(lambda: total(pool), 300)
    await go_back(pool, 120)
    await send(producer, b"1")
    async with consuming(consumer(stack, group, pool)):
        await until(lambda: total(pool), 301)
    assert await pool.fetchval("SELECT count(*) FROM applied") == 301


@pytest.mark.parametrize("read_first", [[OWN], [OWN, AMOUNTS]], ids=["own topic", "and another"])
async def test_a_skip_holds_when_the_database_is_emptied_under_a_running_projector(
    stack: Stack, group: str, pool: Pool, producer: AIOKafkaProducer, read_first: list[str]
) -> None:
    skip = Skip(AMOUNTS, 0, 1, "malformed", "OPS-7", "operator-1")
    await send(producer, b"1", CRASH, b"2")
    await send(producer, toy.skipped_event(skip).value, topic=OWN, partition=2)
    async with consuming(consumer(stack, group, pool, Toy(mended=True), read_first=read_first)):
        await until(lambda: total(pool), 3)
        await pool.execute("TRUNCATE position, tally, applied, skipped CASCADE")
        await until(lambda: total(pool), 3)
        await asyncio.sleep(0.2)
    assert await total(pool) == 3


@pytest.mark.parametrize("commit", [None, 7, 100_000], ids=["deleted group", "old", "out of range"])
async def test_reading_goes_on_at_the_stored_position_whatever_the_group_has_committed(  # noqa: PLR0917 - fixtures
    stack: Stack,
    group: str,
    pool: Pool,
    producer: AIOKafkaProducer,
    offered: list[int],
    commit: int | None,
) -> None:
    await send(producer, *[b"1"] * 300)
    async with consuming(consumer(stack, group, pool)):
        await until(lambda: total(pool), 300)
    # The client may fetch from what is committed while the stored position is looked up: that does no harm,
    # but it isn't where reading goes on. Not every time does the database answer later than the broker.
    for last in range(300, 303):
        another = f"toy-{uuid.uuid4()}"
        if commit is not None:
            assert await committed(stack, another, commit) == commit
        offered.clear()
        async with consuming(consumer(stack, another, pool)):
            await send(producer, b"1")
            await until(lambda: total(pool), last + 1)
        assert await committed(stack, another) == last + 1
        if offered == [last]:
            return
    pytest.fail(f"read again each time, at last {offered}")


@pytest.mark.parametrize("lacks", ["role", "tables"])
async def test_a_process_on_a_database_that_was_made_anew_says_what_to_do(
    stack: Stack, database: str, group: str, lacks: str
) -> None:
    missing = database.replace("//toy", "//nobody") if lacks == "role" else stack.new_database("toy")
    process = spawn(stack, missing, group, "project")
    assert await asyncio.to_thread(process.wait, 60) == ExitCode.SCHEMA
    assert "make role and database anew and run the `migrate` command" in process.log_text()


@pytest.mark.parametrize("topics", [COMPACTED], indirect=True)
async def test_gaps_that_compaction_leaves_in_the_log_are_accepted(
    stack: Stack, group: str, pool: Pool, producer: AIOKafkaProducer
) -> None:
    async with consuming(consumer(stack, group, pool)):
        await send(producer, b"1")
        await until(lambda: total(pool), 1)
    for _ in range(5):
        await send(producer, b"1", b"1")
        await asyncio.sleep(0.2)
    await producer.send_and_wait(AMOUNTS, b"1", b"another key", partition=0)
    left = await compacted_offsets(stack, fewer_than=5)
    assert left[0] > 1
    async with consuming(consumer(stack, group, pool)):
        await until(lambda: total(pool, "another key"), 1)
    # The cleaner may go on between looking and reading, and after it.
    still_left = await compacted_offsets(stack, fewer_than=5)
    assert len(still_left) <= await total(pool) - 1 <= len(left)
    assert (await log_ranges(stack.kafka.bootstrap, [AMOUNTS]))[AMOUNTS, 0] == (0, 12)


async def compacted_offsets(stack: Stack, *, fewer_than: int) -> list[int]:
    """Wait until few records are left, and return the offsets of those with the key that was overwritten."""
    async with (
        asyncio.timeout(60),
        AIOKafkaConsumer(bootstrap_servers=stack.kafka.bootstrap, auto_offset_reset="earliest") as reader,
    ):
        reader.assign([FIRST])
        while True:
            await reader.seek_to_beginning()
            offsets = []
            async for record in reader:
                if record.key == b"another key":
                    break
                offsets.append(record.offset)
            if len(offsets) < fewer_than:
                return offsets
            await asyncio.sleep(0.5)


@pytest.mark.parametrize("projected", [0, 3])
async def test_history_that_was_deleted_before_it_was_read_is_refused_at_start(  # noqa: PLR0917 - fixtures
    stack: Stack,
    topics: AIOKafkaAdminClient,
    group: str,
    pool: Pool,
    producer: AIOKafkaProducer,
    monkeypatch: pytest.MonkeyPatch,
    projected: int,
) -> None:
    monkeypatch.setattr("tokenomics_chassis.log_ranges.SETTLE_SECONDS", 0.01)
    if projected:
        await send(producer, *[b"1"] * projected)
        async with consuming(consumer(stack, group, pool)):
            await until(lambda: total(pool), projected)
    await send(producer, *[b"1"] * (10 - projected))
    await topics.delete_records({FIRST: RecordsToDelete(8)})
    with pytest.raises(LostHistoryError, match=f"{AMOUNTS}/0 is read up to {projected}, but begins at 8"):
        await consumer(stack, group, pool).run(asyncio.Event())
    assert await total(pool) == projected


async def test_history_that_was_deleted_is_no_gap_for_a_running_projector(
    stack: Stack, topics: AIOKafkaAdminClient, group: str, pool: Pool, producer: AIOKafkaProducer
) -> None:
    await send(producer, *[b"1"] * 10)
    running = asyncio.create_task(consumer(stack, group, pool).run(asyncio.Event()))
    await until(lambda: total(pool), 10)
    await topics.delete_records({FIRST: RecordsToDelete(8)})
    await go_back(pool, 3)
    with pytest.raises(LostHistoryError, match=f"{AMOUNTS}/0 is read up to 3, but begins at 8") as lost:
        await asyncio.wait_for(running, 30)
    assert lost.value.exit_code == ExitCode.LOST_HISTORY
    assert await total(pool) == 3


async def test_history_that_was_deleted_is_no_gap_for_who_reads_all_of_it(
    stack: Stack,
    topics: AIOKafkaAdminClient,
    pool: Pool,
    producer: AIOKafkaProducer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("tokenomics_chassis.log_ranges.SETTLE_SECONDS", 0.01)
    await send(producer, *[b"1"] * 10)
    await topics.delete_records({FIRST: RecordsToDelete(8)})
    projector = Projector(pool, toy.SCHEMAS, Toy())
    with pytest.raises(LostHistoryError, match=f"{AMOUNTS}/0 is read up to 0, but begins at 8"):
        await catch_up(stack.kafka.bootstrap, projector, {(AMOUNTS, 0): 10}, asyncio.Event())
    assert await total(pool) == 0


async def test_history_that_was_deleted_after_it_was_read_is_not_missed(
    stack: Stack, topics: AIOKafkaAdminClient, group: str, pool: Pool, producer: AIOKafkaProducer
) -> None:
    await send(producer, *[b"1"] * 10)
    async with consuming(consumer(stack, group, pool)):
        await until(lambda: total(pool), 10)
    await topics.delete_records({FIRST: RecordsToDelete(10)})
    async with consuming(consumer(stack, group, pool)):
        await send(producer, b"1")
        await until(lambda: total(pool), 11)


async def test_a_log_that_lost_what_was_projected_is_refused_at_start(
    stack: Stack,
    group: str,
    pool: Pool,
    producer: AIOKafkaProducer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("tokenomics_chassis.log_ranges.SETTLE_SECONDS", 0.01)
    await pool.execute("INSERT INTO position (topic, partition, next_offset) VALUES ($1, 0, 12)", AMOUNTS)
    await send(producer, *[b"1"] * 10)
    with pytest.raises(LostHistoryError, match=f"{AMOUNTS}/0 is read up to 12, but ends at 10"):
        await consumer(stack, group, pool).run(asyncio.Event())


async def test_a_topic_made_anew_under_a_running_projector_is_refused(  # noqa: PLR0917 - fixtures
    stack: Stack,
    topics: AIOKafkaAdminClient,
    group: str,
    pool: Pool,
    producer: AIOKafkaProducer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("tokenomics_chassis.log_ranges.SETTLE_SECONDS", 0.01)
    await send(producer, *[b"1"] * 10)
    running = asyncio.create_task(consumer(stack, group, pool).run(asyncio.Event()))
    await until(lambda: total(pool), 10)
    await topics.delete_topics([AMOUNTS, toy.STEPS, OWN])
    async with made_topics(stack), AIOKafkaProducer(bootstrap_servers=stack.kafka.bootstrap) as another:
        await send(another, b"1")
        with pytest.raises(LostHistoryError, match=f"{AMOUNTS}/0 is read up to 10, but ends at 1"):
            await asyncio.wait_for(running, 60)
