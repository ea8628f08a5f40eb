"""The consumer on a real broker: what it reads reaches PostgreSQL once, whatever happens on the way."""

import asyncio
import random
import sys
import uuid
from pathlib import Path

import pytest
from aiokafka import AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, RecordsToDelete
from aiokafka.errors import KafkaConnectionError

from tests.integration.chassis.harness import (
    PARTITIONS,
    SECONDS,
    consumer,
    consuming,
    count_parked,
    parked,
    parking,
    send,
    spawn,
    total,
    until,
)
from tests.support import toy_projection as toy
from tests.support.toy_projection import AMOUNTS, CRASH, STEPS, Toy
from tokenomics_chassis.consumer import COMMIT_EVERY_SECONDS
from tokenomics_chassis.failpoints import FAILPOINTS
from tokenomics_chassis.log_reader import log_reader
from tokenomics_chassis.parking import Skip
from tokenomics_chassis.postgres import Pool
from tokenomics_chassis.process import ExitCode
from tokenomics_chassis.projection import Batch, Connection, Outcome
from tokenomics_chassis.projector import TooManyParkedError
from tokenomics_chassis.records import Place
from tokenomics_chassis.topics import end_offsets
from tokenomics_tools.stack import Stack

pytestmark = pytest.mark.usefixtures("topics")


async def test_what_is_in_the_log_reaches_the_database_and_readiness_follows(
    stack: Stack, group: str, pool: Pool, producer: AIOKafkaProducer
) -> None:
    for partition in range(PARTITIONS):
        await send(producer, *[b"1"] * 700, partition=partition)
    reading = consumer(stack, group, pool)
    assert await reading.not_ready_because() == "not reading yet"
    async with consuming(reading):
        await until(lambda: total(pool), 2100)
        assert await reading.not_ready_because() is None


async def test_a_single_record_is_visible_soon(
    stack: Stack, group: str, pool: Pool, producer: AIOKafkaProducer
) -> None:
    async with consuming(consumer(stack, group, pool)):
        await send(producer, b"1")
        await until(lambda: total(pool), 1)
        for expected in range(2, 12):
            await send(producer, b"1")
            await until(lambda: total(pool), expected, seconds=2)


async def test_kafka_never_runs_ahead_of_the_stored_position(
    stack: Stack, group: str, pool: Pool, producer: AIOKafkaProducer
) -> None:
    await send(producer, *[b"1"] * 100)
    async with consuming(consumer(stack, group, pool)) as reading:
        await until(lambda: total(pool), 100)
        kafka = reading._subscriber.consumer
        assert kafka is not None
        await until(lambda: kafka.committed(TopicPartition(AMOUNTS, 0)), 100)


async def test_nothing_is_committed_to_kafka_during_a_rebalance(
    stack: Stack, group: str, pool: Pool, producer: AIOKafkaProducer
) -> None:
    """Aiokafka answers a refused commit by joining anew: one begins the next rebalance, and so on."""
    async with consuming(consumer(stack, group, pool)) as reading:

        async def committed() -> int | None:
            kafka = reading._subscriber.consumer
            assert kafka is not None
            offset: int | None = await kafka.committed(TopicPartition(AMOUNTS, 0))
            return offset

        await send(producer, *[b"1"] * 10)
        await until(lambda: total(pool), 10)
        await reading._before_rebalance()
        assert await committed() == 10
        await send(producer, *[b"1"] * 5)
        await until(lambda: total(pool), 15)
        await asyncio.sleep(2 * COMMIT_EVERY_SECONDS)
        assert await committed() == 10
        await reading._after_rebalance([])
        await send(producer, b"1")
        await until(committed, 16)


async def test_gaps_that_transactions_leave_in_the_log_are_accepted(
    stack: Stack, group: str, pool: Pool
) -> None:
    async with (
        consuming(consumer(stack, group, pool)),
        AIOKafkaProducer(
            bootstrap_servers=stack.kafka.bootstrap, transactional_id=f"toy-{uuid.uuid4()}"
        ) as transactional,
    ):
        for expected in range(1, 6):
            async with transactional.transaction():
                await transactional.send(AMOUNTS, b"1", b"a", partition=0)
            await until(lambda: total(pool), expected)
            await transactional.begin_transaction()
            await transactional.send(AMOUNTS, b"100", b"a", partition=0)
            await transactional.flush()
            await transactional.abort_transaction()
    assert await total(pool) == 5


async def test_the_position_reaches_the_end_of_a_log_that_ends_in_a_transactions_marker(
    stack: Stack, group: str, pool: Pool
) -> None:
    async def next_offset() -> int:
        return await pool.fetchval("SELECT next_offset FROM position WHERE topic = $1", AMOUNTS) or 0

    async with (
        consuming(consumer(stack, group, pool)),
        AIOKafkaProducer(
            bootstrap_servers=stack.kafka.bootstrap, transactional_id=f"toy-{uuid.uuid4()}"
        ) as transactional,
    ):
        async with transactional.transaction():
            await transactional.send(AMOUNTS, b"1", b"a", partition=0)
        await until(next_offset, 2)
        await transactional.begin_transaction()
        await transactional.send(AMOUNTS, b"100", b"a", partition=0)
        await transactional.flush()
        await transactional.abort_transaction()
        await until(next_offset, 4)
        async with transactional.transaction():
            await transactional.send(AMOUNTS, b"1", b"a", partition=0)
        await until(next_offset, 6)
    ends = await end_offsets(stack.kafka.bootstrap, [AMOUNTS])
    assert ends[AMOUNTS, 0] == 6
    assert await total(pool) == 2


async def test_poison_is_parked_and_mended_while_its_neighbours_flow(
    stack: Stack, group: str, pool: Pool, producer: AIOKafkaProducer
) -> None:
    async with consuming(consumer(stack, group, pool)):
        await producer.send_and_wait(
            AMOUNTS, b"\x00\xff", b"a", partition=0, headers=[("ce_id", b"\xfe\xff")]
        )
        await send(producer, b"1", CRASH, None, b"2")
        await until(lambda: total(pool), 3)
        assert [code for _, code in await parked(pool)] == ["bad_json", "internal_error", "bad_json"]
        (first, *_) = await parking(pool, Toy()).list()
        assert (first.record.value, first.record.headers) == (b"\x00\xff", (("ce_id", b"\xfe\xff"),))
        await parking(pool, Toy(mended=True)).retry(AMOUNTS, 0)
        assert await total(pool) == 5


async def test_a_skip_holds_in_a_replay_from_the_start_of_the_log(
    stack: Stack, group: str, pool: Pool, producer: AIOKafkaProducer
) -> None:
    skip = Skip(AMOUNTS, 0, 1, "malformed", "OPS-7", "operator-1")
    await send(producer, b"1", CRASH, b"2")
    await send(producer, toy.skipped_event(skip).value, topic=toy.OWN, partition=2)
    async with consuming(consumer(stack, group, pool, Toy(mended=True))):
        await until(lambda: total(pool), 3)
        await asyncio.sleep(0.2)
    assert await total(pool) == 3
    assert await parked(pool) == []


async def test_too_many_parked_in_a_row_end_the_run(
    stack: Stack, group: str, pool: Pool, producer: AIOKafkaProducer
) -> None:
    await send(producer, *[b"{"] * 25)
    with pytest.raises(TooManyParkedError):
        await consumer(stack, group, pool).run(asyncio.Event())


async def test_an_error_that_is_no_records_fault_ends_the_run_and_skips_nothing(
    stack: Stack, group: str, pool: Pool, producer: AIOKafkaProducer
) -> None:
    await send(producer, *[b"1"] * 10)
    await pool.execute("ALTER TABLE applied RENAME TO hidden")
    with pytest.raises(Exception, match='relation "applied" does not exist'):
        await consumer(stack, group, pool).run(asyncio.Event())
    await pool.execute("ALTER TABLE hidden RENAME TO applied")
    async with consuming(consumer(stack, group, pool)):
        await until(lambda: total(pool), 10)


async def test_a_process_that_parks_too_many_ends_with_the_exit_code_for_it(
    stack: Stack, database: str, group: str, producer: AIOKafkaProducer
) -> None:
    await send(producer, *[b"{"] * 100)
    process = spawn(stack, database, group, "project")
    assert await asyncio.to_thread(process.wait, 60) == ExitCode.TOO_MANY_PARKED
    assert "100 records in a row could not be applied" in process.log_path.read_text()


async def test_a_projector_asked_to_stop_exits_with_nothing_undone(
    stack: Stack, database: str, pool: Pool, group: str, producer: AIOKafkaProducer
) -> None:
    process = spawn(stack, database, group, "project")
    await send(producer, *[b"1"] * 5000)
    async with asyncio.timeout(SECONDS):
        while not await total(pool):  # noqa: ASYNC110 - the state is another process's
            await asyncio.sleep(0.01)
    process.terminate()
    assert await asyncio.to_thread(process.wait, 60) == ExitCode.OK
    rest = consumer(stack, group, pool)
    async with consuming(rest):
        await until(lambda: total(pool), 5000)


@pytest.mark.parametrize("point", sorted(each for each in FAILPOINTS if each.startswith("projector.")))
async def test_a_kill_at_a_failpoint_loses_and_doubles_nothing(  # noqa: PLR0917 - fixtures
    stack: Stack,
    database: str,
    pool: Pool,
    group: str,
    producer: AIOKafkaProducer,
    point: str,
    tmp_path: Path,
) -> None:
    chance = random.Random(point)
    sent = 0
    hits = tmp_path / "hits"
    armed = {"TOKENOMICS_FAILPOINTS": f"{point}=0.5", "TOKENOMICS_FAILPOINTS_LOG": str(hits)}
    process = spawn(stack, database, group, "project", **armed)
    while process.running:
        await send(producer, *[b"1", b"1", b"{"], partition=chance.randrange(PARTITIONS))
        sent += 2
        await asyncio.sleep(0.1)
    assert process.returncode == -9, process.log_path.read_text()[-2000:]
    assert hits.read_text().split() == [point]
    async with consuming(consumer(stack, group, pool)):
        await until(lambda: total(pool), sent)
        await until(lambda: count_parked(pool), sent // 2)


async def test_a_key_that_waits_is_taken_up_in_order_after_a_retry(
    stack: Stack, group: str, pool: Pool, producer: AIOKafkaProducer
) -> None:
    async with consuming(consumer(stack, group, pool)):
        await send(producer, b"1", CRASH, b"2", b"3", topic=STEPS)
        await until(lambda: count_parked(pool), 3)
        await parking(pool, Toy(mended=True)).retry(STEPS, 0)
        assert await total(pool) == 3
        await send(producer, b"4", topic=STEPS)
        await until(lambda: total(pool), 4)


ODD_HEADER_NAME = """
import asyncio, sys
from aiokafka import AIOKafkaProducer

class Odd(str):
    def encode(self, *_):
        return b"odd \\xff\\xfe"

async def main():
    async with AIOKafkaProducer(bootstrap_servers=sys.argv[1], linger_ms=200) as producer:
        sent = [
            await producer.send("toy.amounts", value, b"a", partition=0, headers=headers)
            for value, headers in [(b"1", []), (b"{", [(Odd(), b"\\xff")]), (b"2", [("ce_id", b"1")])]
        ]
        await asyncio.gather(*sent)

asyncio.run(main())
"""


async def test_a_header_name_that_is_not_utf_8_stops_nothing_and_is_kept_as_it_is(
    stack: Stack, group: str, pool: Pool, producer: AIOKafkaProducer
) -> None:
    # Only aiokafka's Python encoder lets itself be talked into such a name.
    environment = {"AIOKAFKA_NO_EXTENSIONS": "1"}
    writer = stack.spawn("odd", [sys.executable, "-c", ODD_HEADER_NAME, stack.kafka.bootstrap], environment)
    assert await asyncio.to_thread(writer.wait, 60) == 0, writer.log_path.read_text()
    await send(producer, b"3")
    async with consuming(consumer(stack, group, pool)):
        await until(lambda: total(pool), 6)
    (odd,) = await parking(pool, Toy()).list()
    assert odd.record.headers == (("odd \udcff\udcfe", b"\xff"),)
    assert await pool.fetchval("SELECT header_names FROM parked") == [b"odd \xff\xfe"]


@pytest.mark.parametrize("compression", ["gzip", "lz4", "snappy", "zstd"])
async def test_records_are_read_however_they_are_compressed(
    stack: Stack, group: str, pool: Pool, compression: str
) -> None:
    async with AIOKafkaProducer(
        bootstrap_servers=stack.kafka.bootstrap, compression_type=compression, linger_ms=50
    ) as compressing:
        await send(compressing, *[b"1"] * 100)
    async with consuming(consumer(stack, group, pool)):
        await until(lambda: total(pool), 100)


async def test_records_are_read_again_by_their_places(stack: Stack, producer: AIOKafkaProducer) -> None:
    large = b"5" * 300_000
    await send(producer, b"1", large, b"3", partition=0)
    await producer.send_and_wait(AMOUNTS, b"4", b"k", partition=1, headers=[("h", b"\xff")])
    places = [Place(AMOUNTS, 1, 0), Place(AMOUNTS, 0, 2), Place(AMOUNTS, 0, 1)]
    records = await log_reader(stack.kafka.bootstrap)(places)
    assert [each[:3] for each in records] == sorted(places)
    assert [each.value for each in records] == [large, b"3", b"4"]
    assert (records[2].key, records[2].headers) == (b"k", (("h", b"\xff"),))
    assert all(each.append_ms > 0 for each in records)


async def test_a_place_where_a_transactions_marker_stands_is_absent(stack: Stack) -> None:
    async with AIOKafkaProducer(
        bootstrap_servers=stack.kafka.bootstrap, transactional_id=f"toy-{uuid.uuid4()}"
    ) as transactional:
        for _ in range(2):
            async with transactional.transaction():
                await transactional.send(AMOUNTS, b"1", b"a", partition=0)
    places = [Place(AMOUNTS, 0, 0), Place(AMOUNTS, 0, 1), Place(AMOUNTS, 0, 2)]
    records = await log_reader(stack.kafka.bootstrap)(places)
    assert [each.offset for each in records] == [0, 2]


async def test_a_place_outside_the_log_is_absent(stack: Stack, producer: AIOKafkaProducer) -> None:
    await send(producer, b"1", b"2")
    admin = AIOKafkaAdminClient(bootstrap_servers=stack.kafka.bootstrap)
    await admin.start()
    await admin.delete_records({TopicPartition(AMOUNTS, 0): RecordsToDelete(1)})
    await admin.close()
    places = [Place(AMOUNTS, 0, offset) for offset in range(4)] + [Place(AMOUNTS, 1, 0)]
    records = await log_reader(stack.kafka.bootstrap)(places)
    assert [each[:3] for each in records] == [Place(AMOUNTS, 0, 1)]


async def test_a_projection_that_leans_on_a_broker_waits_for_it(
    stack: Stack, group: str, pool: Pool, producer: AIOKafkaProducer
) -> None:
    class Flaky(Toy):
        async def apply(self, connection: Connection, batch: Batch) -> Outcome:
            if len(self.batch_sizes) < 3:
                self.batch_sizes.append(0)
                raise KafkaConnectionError("no broker")
            return await super().apply(connection, batch)

    await send(producer, b"1", b"2")
    async with consuming(consumer(stack, group, pool, Flaky())):
        await until(lambda: total(pool), 3)
    assert await parked(pool) == []
