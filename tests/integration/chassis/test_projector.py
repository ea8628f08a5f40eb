"""The projector against a real PostgreSQL."""

import asyncio
from collections.abc import Collection, Sequence
from typing import Any

import asyncpg
import pytest
from aiokafka.errors import KafkaConnectionError

from tests.integration.chassis.harness import Log, parked, parking, total
from tests.support import toy_projection as toy
from tests.support.toy_projection import CRASH, REFUSED_BY_DRIVER, REFUSED_BY_POSTGRES, STEPS, Toy
from tokenomics_chassis.audit import AuditClosedError
from tokenomics_chassis.changes import ChangeFollower, read_positions
from tokenomics_chassis.parking import NotParkedError, Parking, Skip, Skips
from tokenomics_chassis.postgres import Pool, create_pool
from tokenomics_chassis.process import FatalError
from tokenomics_chassis.projection import Batch, Connection, Outcome, Place, RejectedPlace
from tokenomics_chassis.projector import PositionBehindError, Projector, TooManyParkedError
from tokenomics_chassis.records import Record
from tokenomics_chassis.state_hash import state_hash
from tokenomics_contracts.rejection import EventRejected, RejectionCode
from tokenomics_tools.stack import Stack


def projector(pool: Pool, projection: Toy | None = None, **options: Any) -> Projector:
    return Projector(pool, toy.SCHEMAS, projection or Toy(), skips=toy.skips(), **options)


async def hash_of(pool: Pool) -> str:
    async with pool.acquire() as connection:
        return await state_hash(connection, toy.SCHEMAS.derived, toy.HASHED, toy.NOT_HASHED)  # type: ignore[arg-type]


async def test_position_moves_with_the_effect(pool: Pool) -> None:
    log = Log(projector(pool))
    assert await log.project(b"1", b"2", b"3") == 3
    assert await total(pool) == 6
    (position,) = await read_positions(pool)
    assert (position.topic, position.partition, position.next_offset) == (toy.AMOUNTS, 0, 3)
    assert position.as_of is not None
    assert position.as_of.timestamp() == 1.002


async def test_records_below_the_position_are_dropped(pool: Pool) -> None:
    log = Log(projector(pool))
    await log.project(b"1", b"2", b"3")
    assert await log.project(b"1", b"2", b"3") == 3
    assert await log.project(b"2", b"3", b"4", first=1) == 4
    assert await total(pool) == 10


async def test_processes_on_one_partition_apply_each_record_once(pool: Pool) -> None:
    projectors = [Log(projector(pool)) for _ in range(4)]
    await asyncio.gather(*(log.project(*[b"1"] * 50) for log in projectors))
    assert await total(pool) == 50


async def test_records_above_the_position_are_refused_until_the_gap_is_proven(pool: Pool) -> None:
    log = Log(projector(pool))
    await log.project(b"1", b"2")
    with pytest.raises(PositionBehindError) as behind:
        await log.project(b"5", first=5)
    assert behind.value.position == 2
    assert await total(pool) == 3
    assert await log.projector.process(log.topic, 0, log.records(b"5", first=5), nothing_since=2) == 6
    assert await total(pool) == 8


async def test_a_gap_proven_above_a_restored_position_is_refused(pool: Pool) -> None:
    log = Log(projector(pool))
    await log.project(b"1", b"2")
    with pytest.raises(PositionBehindError):
        await log.projector.process(log.topic, 0, log.records(b"5", first=5), nothing_since=3)


@pytest.mark.parametrize("poison", [b"{", None, CRASH, REFUSED_BY_POSTGRES, REFUSED_BY_DRIVER])
async def test_poison_is_parked_and_its_neighbours_are_applied(pool: Pool, poison: bytes | None) -> None:
    log = Log(projector(pool))
    assert await log.project(b"1", b"2", poison, b"3", b"4", poison) == 6
    assert await total(pool) == 10
    assert [offset for offset, _ in await parked(pool)] == [2, 5]


async def test_parked_bytes_are_intact(pool: Pool) -> None:
    log = Log(projector(pool))
    record = log.records(b"\x00\xff")[0]._replace(
        key=None, headers=(("ce_id", b"\xfe\xff"), ("ce_id", b""), ("nul\0é", None))
    )
    await log.projector.process(log.topic, 0, [record])
    (kept,) = await parking(pool, Toy()).list()
    assert kept.record == record
    assert kept.attempts == 1
    assert kept.error_code == "bad_json"


async def test_error_messages_may_hold_what_text_cannot(pool: Pool) -> None:
    log = Log(projector(pool))
    await log.project(b"1\0", "\ud800".encode(errors="surrogatepass"))
    assert [offset for offset, _ in await parked(pool)] == [0, 1]


async def test_a_parked_record_is_applied_by_a_retry_after_the_fix(pool: Pool) -> None:
    await Log(projector(pool)).project(b"1", CRASH, b"{", b"2")
    still_broken = await parking(pool, Toy()).retry(toy.AMOUNTS, 0)
    assert [(each.offset, each.error_code) for each in still_broken] == [
        (1, "internal_error"),
        (2, "bad_json"),
    ]
    retried = await parking(pool, Toy(mended=True)).retry(toy.AMOUNTS, 0, [1, 3])
    assert [(each.offset, each.error_code) for each in retried] == [(1, None)]
    assert await total(pool) == 4
    (left,) = await parking(pool, Toy()).list()
    assert (left.record.offset, left.attempts) == (2, 2)
    assert await parking(pool, Toy(mended=True)).retry(toy.AMOUNTS, 0, [1]) == []


async def test_a_retry_tells_followers_what_changed(pool: Pool) -> None:
    await Log(projector(pool)).project(b"1", CRASH)
    follower = ChangeFollower()
    async with pool.acquire() as connection:
        follower.acknowledge(await follower.poll(connection))
        await parking(pool, Toy(mended=True)).retry(toy.AMOUNTS, 0)
        (change,) = await follower.poll(connection)
        rows = await connection.fetch(
            "SELECT name FROM tally WHERE source_id = $1 AND change_seq > $2",
            change.position.source_id,
            change.old_change_seq,
        )
    assert change.has_rows
    assert [row["name"] for row in rows] == ["a"]


async def test_later_records_of_a_parked_key_queue_behind_it(pool: Pool) -> None:
    log = Log(projector(pool), topic=STEPS)
    batch = [
        *log.records(b"1", b"3", b"2", key=b"a"),
        *log.records(b"1", b"2", first=3, key=b"b"),
        *log.records(b"9", first=5, key=None),
    ]
    await log.projector.process(STEPS, 0, batch)
    assert await parked(pool) == [(1, "wrong_step"), (2, "behind_parked"), (5, "wrong_step")]
    await log.project(b"2", first=6, key=b"a")
    await log.project(b"3", first=7, key=b"b")
    assert await parked(pool) == [
        (1, "wrong_step"),
        (2, "behind_parked"),
        (5, "wrong_step"),
        (6, "behind_parked"),
    ]
    assert (await total(pool, "a"), await total(pool, "b")) == (1, 3)


async def test_a_crash_on_an_ordered_topic_blocks_just_its_key(pool: Pool) -> None:
    log = Log(projector(pool), topic=STEPS)
    batch = [
        *log.records(b"1", CRASH, b"2", key=b"a"),
        *log.records(b"1", b"2", first=3, key=b"b"),
    ]
    await log.projector.process(STEPS, 0, batch)
    assert await parked(pool) == [(1, "internal_error"), (2, "behind_parked")]
    assert (await total(pool, "a"), await total(pool, "b")) == (1, 2)


async def test_what_queued_behind_a_key_follows_a_successful_retry_in_order(pool: Pool) -> None:
    log = Log(projector(pool), topic=STEPS)
    await log.project(b"1", CRASH, b"2", b"3", b"9", b"4")
    assert len(await parked(pool)) == 5
    alone = await parking(pool, Toy()).retry(STEPS, 0, [2])
    assert alone == []  # an earlier record of its key is still parked
    await pool.execute("UPDATE parked SET value = '2' WHERE record_offset = 1")
    await pool.execute("UPDATE parked SET value = '3' WHERE record_offset = 2")
    await pool.execute("UPDATE parked SET value = '4' WHERE record_offset = 3")
    retried = await parking(pool, Toy()).retry(STEPS, 0, [1])
    assert [(each.offset, each.error_code) for each in retried] == [
        (1, None),
        (2, None),
        (3, None),
        (4, "wrong_step"),
    ]
    assert await total(pool) == 4
    assert await parked(pool) == [(4, "wrong_step"), (5, "behind_parked")]


async def test_a_skip_frees_what_queued_behind_and_writes_its_event(pool: Pool) -> None:
    log = Log(projector(pool), topic=STEPS)
    await log.project(b"1", b"{", b"2", b"3")
    skip = Skip(STEPS, 0, 1, "malformed", "OPS-7", "operator-1")
    retried = await parking(pool, Toy()).skip(skip, "console")
    assert [(each.offset, each.error_code) for each in retried] == [(2, None), (3, None)]
    assert await parked(pool) == []
    row = await pool.fetchrow("SELECT * FROM outbox WHERE aggregate_id LIKE 'parked/%'")
    assert row is not None
    assert (row["topic"], row["value"]) == (toy.OWN, toy.skipped_event(skip).value)
    with pytest.raises(NotParkedError):
        await parking(pool, Toy()).skip(skip, "console")
    assert await pool.fetchval("SELECT count(*) FROM outbox WHERE aggregate_id LIKE 'parked/%'") == 1
    (entry,) = await toy.TRAIL.entries(pool, limit=10)
    assert (entry.action, entry.target) == ("parked.skipped", f"{STEPS}/0/1")
    assert (entry.actor, entry.caller) == ("operator-1", "console")
    assert (entry.reason_code, entry.ticket_id) == ("malformed", "OPS-7")


async def test_what_cannot_be_audited_is_not_skipped(pool: Pool) -> None:
    await Log(projector(pool)).project(b"{")
    await pool.execute("UPDATE audit_chain SET open_for = NULL")
    skip = Skip(toy.AMOUNTS, 0, 0, "malformed", "OPS-7", "operator-1")
    with pytest.raises(AuditClosedError):
        await parking(pool, Toy()).skip(skip, "console")
    assert await parked(pool) == [(0, "bad_json")]
    assert await pool.fetchval("SELECT count(*) FROM outbox") == 0


@pytest.mark.parametrize("size", [1, 2, 5])
async def test_nothing_queues_behind_a_parked_record_that_was_understood(pool: Pool, size: int) -> None:
    log = Log(projector(pool), topic=STEPS)
    values = [b"1", b"2", b"2", b"3", b"4"]
    for first in range(0, len(values), size):
        await log.project(*values[first : first + size], first=first)
    assert await parked(pool) == [(2, "old_step")]
    assert await total(pool) == 4


async def test_a_record_that_was_understood_holds_no_retry_and_no_skip_up(pool: Pool) -> None:
    log = Log(projector(pool), topic=STEPS)
    await log.project(b"1", b"1", b"{", b"2", b"{", b"3")
    retried = await parking(pool, Toy()).skip(
        Skip(STEPS, 0, 2, "malformed", "OPS-7", "operator-1"), "console"
    )
    assert [(each.offset, each.error_code) for each in retried] == [(3, None), (4, "bad_json")]
    await pool.execute("UPDATE parked SET value = '2' WHERE record_offset = 4")
    retried = await parking(pool, Toy()).retry(STEPS, 0, [4])
    assert [(each.offset, each.error_code) for each in retried] == [(4, "old_step"), (5, None)]
    assert await parked(pool) == [(1, "old_step"), (4, "old_step")]
    assert await total(pool) == 3


async def test_a_skip_that_fails_on_what_it_frees_changes_nothing(pool: Pool) -> None:
    await Log(projector(pool), topic=STEPS).project(b"1", b"{", b"2")
    skip = Skip(STEPS, 0, 1, "malformed", "OPS-7", "operator-1")
    with pytest.raises(KafkaConnectionError):
        await parking(pool, Unreachable()).skip(skip, "console")
    assert await parked(pool) == [(1, "bad_json"), (2, "behind_parked")]
    assert await pool.fetchval("SELECT count(*) FROM outbox") == 0
    await parking(pool, Toy()).skip(skip, "console")
    assert await total(pool) == 2


@pytest.mark.parametrize("read_first", [True, False], ids=["replay", "restored"])
async def test_a_skip_read_from_the_own_topic_frees_what_queued_behind(
    pool: Pool, stack: Stack, *, read_first: bool
) -> None:
    steps = [b"1", b"{", b"2", b"9", b"3"]
    log = Log(projector(pool), topic=STEPS)
    await log.project(*steps)
    skip = Skip(STEPS, 0, 1, "malformed", "OPS-7", "operator-1")
    await parking(pool, Toy()).skip(skip, "console")
    await log.project(b"3", first=5)
    live = await hash_of(pool)
    other = stack.new_database("toy")
    await toy.MIGRATIONS.migrate(other)
    async with await create_pool(other, toy.SCHEMAS, application_name="other") as pool_of_other:
        reading = projector(pool_of_other)
        log, own = Log(reading, topic=STEPS), Log(reading, topic=toy.OWN)
        if read_first:
            await own.project(toy.skipped_event(skip).value)
        await log.project(*steps)
        if not read_first:
            await own.project(toy.skipped_event(skip).value)
        await log.project(b"3", first=5)
        assert await total(pool_of_other) == 2
        assert await hash_of(pool_of_other) == live


async def test_a_skip_read_from_the_own_topic_holds_in_a_replay_by_a_mended_reader(pool: Pool) -> None:
    skip = Skip(toy.AMOUNTS, 0, 1, "malformed", "OPS-7", "operator-1")
    event = toy.skipped_event(skip)
    replay = projector(pool, Toy(mended=True))
    await Log(replay, topic=toy.OWN).project(event.value)
    log = Log(replay)
    assert await log.project(b"1", CRASH, b"2") == 3
    assert await total(pool) == 3
    assert await log.project(CRASH, first=3) == 4
    assert await total(pool) == 4


async def test_a_skip_that_arrives_late_removes_what_is_parked(pool: Pool) -> None:
    candidate = projector(pool)
    await Log(candidate).project(b"1", CRASH)
    event = toy.skipped_event(Skip(toy.AMOUNTS, 0, 1, "malformed", "OPS-7", "operator-1"))
    await Log(candidate, topic=toy.OWN).project(event.value)
    assert await parked(pool) == []


async def test_too_many_parked_in_a_row_stop_the_projection_with_nothing_written(pool: Pool) -> None:
    log = Log(projector(pool, max_parked_in_a_row=5))
    await log.project(b"1", *[b"{"] * 4)
    await log.project(b"1", *[b"{"] * 4, first=5)
    with pytest.raises(TooManyParkedError, match=f"5 records in a row .* {toy.AMOUNTS}/0@10"):
        await log.project(b"{", b"{", first=10)
    assert len(await parked(pool)) == 8
    assert await log.projector.positions() == {(toy.AMOUNTS, 0): 10}


async def test_a_restart_does_not_forget_how_many_were_parked_in_a_row(pool: Pool) -> None:
    await Log(projector(pool, max_parked_in_a_row=5)).project(*[b"{"] * 4)
    with pytest.raises(TooManyParkedError):
        await Log(projector(pool, max_parked_in_a_row=5)).project(b"{", first=4)


async def test_a_gap_in_the_log_does_not_hide_how_many_were_parked_in_a_row(pool: Pool) -> None:
    log = Log(projector(pool, max_parked_in_a_row=5))
    await log.project(*[b"{"] * 4)
    with pytest.raises(TooManyParkedError):
        await log.projector.process(log.topic, 0, log.records(b"{", first=5), nothing_since=4)


@pytest.mark.parametrize("mend", ["retry", "skip"])
async def test_what_an_operator_mends_begins_the_count_anew(pool: Pool, mend: str) -> None:
    log = Log(projector(pool, max_parked_in_a_row=5))
    await log.project(*[CRASH] * 4)
    if mend == "retry":
        await parking(pool, Toy(mended=True)).retry(toy.AMOUNTS, 0, [0])
    else:
        await parking(pool, Toy()).skip(
            Skip(toy.AMOUNTS, 0, 0, "malformed", "OPS-7", "operator-1"), "console"
        )
    assert await log.project(*[CRASH] * 4, first=4) == 8
    with pytest.raises(TooManyParkedError):
        await log.project(CRASH, first=8)


async def test_records_queued_behind_a_key_do_not_stop_the_projection(pool: Pool) -> None:
    log = Log(projector(pool, max_parked_in_a_row=5), topic=STEPS)
    await log.project(b"{", *[b"1"] * 50)
    assert len(await parked(pool)) == 51


async def test_a_lost_connection_parks_nothing_and_the_same_call_again_is_right(pool: Pool) -> None:
    class Cut(Toy):
        async def apply(self, connection: Connection, batch: Batch) -> Outcome:
            outcome = await super().apply(connection, batch)
            if len(self.batch_sizes) == 1:
                await connection.execute("SELECT pg_terminate_backend(pg_backend_pid())")
            return outcome

    log = Log(projector(pool, Cut()))
    with pytest.raises((asyncpg.PostgresError, asyncpg.InterfaceError, OSError)):
        await log.project(b"1", b"2")
    assert await log.project(b"1", b"2") == 2
    assert await total(pool) == 3
    assert await parked(pool) == []


async def test_a_missing_table_is_no_records_fault(pool: Pool) -> None:
    await pool.execute("DROP TABLE applied")
    log = Log(projector(pool))
    with pytest.raises(asyncpg.UndefinedTableError):
        await log.project(b"1")
    assert await parked(pool) == []


async def test_a_lost_uniqueness_race_is_run_again(pool: Pool) -> None:
    class Racing(Toy):
        async def apply(self, connection: Connection, batch: Batch) -> Outcome:
            if not self.batch_sizes:
                self.batch_sizes.append(0)
                raise asyncpg.UniqueViolationError("somebody was faster")
            return await super().apply(connection, batch)

    racing = Racing()
    await Log(projector(pool, racing)).project(b"1", b"2")
    assert racing.batch_sizes == [0, 2]
    assert await parked(pool) == []


async def test_the_borders_of_batches_do_not_change_the_state(pool: Pool, stack: Stack) -> None:
    values = [b"1", CRASH, b"2", b"{", b"3", REFUSED_BY_POSTGRES, b"4"] * 10
    await Log(projector(pool)).project(*values)
    whole = await hash_of(pool)
    other = stack.new_database("toy")
    await toy.MIGRATIONS.migrate(other)
    async with await create_pool(other, toy.SCHEMAS, application_name="other") as pool_of_other:
        log = Log(projector(pool_of_other))
        for offset, value in enumerate(values):
            await log.project(value, first=offset)
        assert await hash_of(pool_of_other) == whole
        await pool_of_other.execute("UPDATE tally SET total = total + 1")
        assert await hash_of(pool_of_other) != whole


async def test_followers_are_told_each_partition_that_moved_and_only_those(pool: Pool) -> None:
    log, other = Log(projector(pool)), Log(projector(pool), partition=1)
    await log.project(b"1")
    await other.project(b"1")
    follower = ChangeFollower()
    async with pool.acquire() as connection:
        first = await follower.poll(connection)
        assert [(each.position.partition, each.old_change_seq) for each in first] == [(0, 0), (1, 0)]
        assert all(each.restarted for each in first)
        assert await follower.poll(connection) == first  # not acknowledged yet
        follower.acknowledge(first)
        await log.project(b"2", first=1)
        await other.project(b"{", first=1)
        moved = await follower.poll(connection)
        assert [(each.position.partition, each.has_rows) for each in moved] == [(0, True), (1, False)]
        assert not any(each.restarted for each in moved)
        follower.acknowledge(moved)
        assert await follower.poll(connection) == []
        await connection.execute("UPDATE position SET next_offset = 1, change_seq = 1 WHERE partition = 0")
        (restored,) = await follower.poll(connection)
        assert restored.restarted
        assert restored.old_change_seq == 0


async def test_a_source_that_never_writes_rows_is_not_told_as_restarted(pool: Pool) -> None:
    log = Log(projector(pool))
    await log.project(b"{")
    follower = ChangeFollower()
    async with pool.acquire() as connection:
        follower.acknowledge(await follower.poll(connection))
        await log.project(b"{", first=1)
        (moved,) = await follower.poll(connection)
    assert (moved.old_change_seq, moved.restarted, moved.has_rows) == (0, False, False)


class Unreachable(Toy):
    """A projection that leans on a broker which is away."""

    async def apply(self, connection: Connection, batch: Batch) -> Outcome:
        await super().apply(connection, batch)
        raise KafkaConnectionError("no broker")


async def test_a_dependencys_trouble_inside_a_projection_parks_nothing(pool: Pool) -> None:
    with pytest.raises(KafkaConnectionError):
        await Log(projector(pool, Unreachable())).project(b"1")
    await Log(projector(pool)).project(b"1", CRASH)
    with pytest.raises(KafkaConnectionError):
        await parking(pool, Unreachable(mended=True)).retry(toy.AMOUNTS, 0)
    (left,) = await parking(pool, Toy()).list()
    assert (left.record.offset, left.attempts) == (1, 1)
    assert await total(pool) == 1


class Displacing(Toy):
    """An amount of 7 puts the records at offset 0 of the topic's first two partitions out."""

    async def apply(self, connection: Connection, batch: Batch) -> Outcome:
        outcome = await super().apply(connection, batch)
        places = [
            RejectedPlace(Place(batch.source.topic, partition, 0), "displaced", "a 7 came")
            for partition in range(2)
            for record in batch.records
            if record.value == b"7"
        ]
        return Outcome(outcome.rejected, places, changed=outcome.changed)


class Clearing(Displacing):
    """An amount of 8 clears them, and an amount of 9 says of the first that it was no use."""

    async def apply(self, connection: Connection, batch: Batch) -> Outcome:
        outcome = await super().apply(connection, batch)
        for record in batch.records:
            places = [Place(batch.source.topic, partition, 0) for partition in range(2)]
            if record.value == b"8":
                outcome = outcome.then(Outcome(cleared=places))
            if record.value == b"9":
                outcome = outcome.then(
                    Outcome(rejected_places=[RejectedPlace(places[0], "displaced", "a 9")])
                )
        return outcome


class FakeLog:
    """Holds one record with the amount 1 at offset 0 of some partitions, and notes what is read."""

    def __init__(self, pool: Pool, *, holds: int = 2) -> None:
        self.pool = pool
        self.reads: list[list[Place]] = []
        self.holds = holds

    async def __call__(self, places: Collection[Place]) -> Sequence[Record]:
        self.reads.append(sorted(places))
        open_transactions = await self.pool.fetchval(
            "SELECT count(*) FROM pg_stat_activity"
            " WHERE datname = current_database() AND state LIKE 'idle in%'"
        )
        assert open_transactions == 0
        return [Record(*place, 1_000, b"a", b"1", ()) for place in places if place.partition < self.holds]


async def test_records_elsewhere_in_the_log_are_parked_with_their_bytes(pool: Pool) -> None:
    read_records = FakeLog(pool)
    log = Log(projector(pool, Displacing(), read_records=read_records))
    await log.project(b"1", b"2")
    await log.project(b"7", b"{", first=2)
    assert read_records.reads == [[Place(toy.AMOUNTS, 0, 0), Place(toy.AMOUNTS, 1, 0)]]
    assert await parked(pool) == [(0, "displaced"), (3, "bad_json"), (0, "displaced")]
    first, _, second = await parking(pool, Toy()).list()
    assert [(each.record.partition, each.record.value) for each in (first, second)] == [(0, b"1"), (1, b"1")]
    assert await total(pool) == 10


async def test_a_place_in_the_batch_needs_no_log(pool: Pool) -> None:
    read_records = FakeLog(pool)
    await Log(projector(pool, Displacing(), read_records=read_records)).project(b"1", b"7")
    assert read_records.reads == [[Place(toy.AMOUNTS, 1, 0)]]
    first, _ = await parking(pool, Toy()).list()
    assert first.record.headers == (("h", b"\xff"),)


async def test_a_batch_with_culprits_reads_the_log_once_all_the_same(pool: Pool) -> None:
    read_records = FakeLog(pool)
    log = Log(projector(pool, Displacing(), read_records=read_records))
    await log.project(b"1")
    await log.project(b"7", CRASH, b"7", CRASH, first=1)
    assert len(read_records.reads) == 1
    assert {code for _, code in await parked(pool)} == {"displaced", "internal_error"}


async def test_a_retry_parks_records_elsewhere_in_the_log(pool: Pool) -> None:
    await Log(projector(pool)).project(b"1", CRASH)
    await pool.execute("UPDATE parked SET value = '7'")
    operators = Parking(pool, toy.SCHEMAS, Displacing(), toy.skipped_event, FakeLog(pool), trail=toy.TRAIL)
    (retried,) = await operators.retry(toy.AMOUNTS, 0)
    assert retried.error_code is None
    assert await parked(pool) == [(0, "displaced"), (0, "displaced")]
    assert await total(pool) == 8


@pytest.mark.parametrize("culprits", [[], [CRASH]], ids=["batch by batch", "halves of one batch"])
@pytest.mark.parametrize(
    ("values", "left"),
    [([b"7", b"8"], []), ([b"8", b"7"], [0, 1]), ([b"7", b"8", b"9"], [0]), ([b"7", b"9", b"8"], [])],
)
async def test_what_is_cleared_is_parked_no_more_until_something_is_wrong_again(
    pool: Pool, culprits: list[bytes], values: list[bytes], left: list[int]
) -> None:
    log = Log(projector(pool, Clearing(), read_records=FakeLog(pool)))
    await log.project(b"1")
    if culprits:
        await log.project(*values, *culprits, first=1)
    else:
        for offset, value in enumerate(values, start=1):
            await log.project(value, first=offset)
    parked = await parking(pool, Toy()).list(error_code="displaced")
    assert [each.record.partition for each in parked] == left


async def test_what_was_skipped_is_not_parked_again(pool: Pool) -> None:
    log = Log(projector(pool, Displacing(), read_records=FakeLog(pool)))
    await log.project(b"1", b"7")
    operators = parking(pool, Toy())
    await operators.skip(Skip(toy.AMOUNTS, 1, 0, "malformed", "OPS-7", "operator-1"), "console")
    await log.project(b"7", first=2)
    assert [each.record.partition for each in await operators.list()] == [0]


async def test_a_record_that_the_log_lost_ends_the_projection(pool: Pool) -> None:
    log = Log(projector(pool, Displacing(), read_records=FakeLog(pool, holds=1)))
    await log.project(b"1")
    with pytest.raises(FatalError, match=r"toy parks .*which the log doesn't hold"):
        await log.project(b"7", first=1)
    assert await parked(pool) == []
    assert await total(pool) == 1


async def test_records_that_were_understood_do_not_count_among_those_parked_in_a_row(pool: Pool) -> None:
    class Understanding(Toy):
        understood_codes = frozenset({"bad_json"})

    log = Log(projector(pool, Understanding(), max_parked_in_a_row=3))
    await log.project(CRASH, *[b"{"] * 10)
    await log.project(CRASH, first=11)
    await log.project(*[b"{"] * 10, first=12)
    with pytest.raises(TooManyParkedError):
        await log.project(b"{", CRASH, first=22)


async def test_a_damaged_event_of_the_own_topic_is_parked_with_its_code(pool: Pool) -> None:
    skip = Skip(toy.AMOUNTS, 0, 5, "malformed", "OPS-7", "operator-1")

    def decode(record: Record) -> Skip | None:
        if record.value == b"{":
            raise EventRejected(RejectionCode.BAD_JSON, "not JSON")
        return toy.decode_skip(record)

    log = Log(Projector(pool, toy.SCHEMAS, Toy(), skips=Skips(toy.OWN, decode)), topic=toy.OWN)
    await log.project(b"{", toy.skipped_event(skip).value)
    assert await parked(pool) == [(0, "bad_json")]
    assert await pool.fetchval("SELECT record_offset FROM skipped") == 5


async def test_a_parked_event_of_the_own_topic_is_retried_as_what_it_is(pool: Pool) -> None:
    await Log(projector(pool), topic=toy.OWN).project(b"{")
    (retried,) = await parking(pool, Toy(mended=True)).retry(toy.OWN, 0)
    assert retried.error_code == "internal_error"
    skip = Skip(toy.AMOUNTS, 0, 5, "malformed", "OPS-7", "operator-1")
    await pool.execute("UPDATE parked SET value = $1", toy.skipped_event(skip).value)
    (retried,) = await parking(pool, Toy(mended=True)).retry(toy.OWN, 0)
    assert retried.error_code is None
    assert await pool.fetchval("SELECT record_offset FROM skipped") == 5


async def test_a_gap_at_the_end_is_passed_over_once_it_is_proven(pool: Pool) -> None:
    log = Log(projector(pool))
    await log.project(b"1", b"2")
    (before,) = await read_positions(pool)
    await log.projector.pass_over(log.topic, 0, nothing_since=1, until=9)  # somebody projected meanwhile
    assert await read_positions(pool) == [before]
    await log.projector.pass_over(log.topic, 0, nothing_since=2, until=9)
    await log.projector.pass_over(log.topic, 1, nothing_since=0, until=4)
    moved, other = await read_positions(pool)
    assert (moved.next_offset, moved.change_seq, moved.as_of) == (9, before.change_seq, before.as_of)
    assert (other.next_offset, other.change_seq, other.as_of) == (4, 0, None)
    assert await log.project(b"3", first=9) == 10
    assert await total(pool) == 6
