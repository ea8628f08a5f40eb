"""The audit trail: one chain without gaps, whoever writes; append-only, and read back from the own topic."""

import asyncio
import itertools
import json
from hashlib import sha256

import asyncpg
import pytest

from tests.integration.chassis.harness import append, emptied, relaying, sent
from tests.support import toy_projection as toy
from tokenomics_chassis import audit
from tokenomics_chassis.audit import AuditClosedError, AuditLog, Entry
from tokenomics_chassis.log_reader import to_record
from tokenomics_chassis.postgres import Pool, create_pool, session
from tokenomics_chassis.recall import Kind, Recall
from tokenomics_chassis.rpc.errors import OverloadedError
from tokenomics_contracts.audit import NOTHING_BEFORE, AuditRecorded
from tokenomics_tools.stack import Stack

SKIPPED = Entry("p-1", "console", "parked.skipped", "toy.amounts/0/7", "malformed", "OPS-7", {"why": "x"})


def looked(number: int, once: str | None = None) -> Entry:
    return Entry("p-1", "portal", "subject.looked_at", f"p-{number}", once=once)


async def record(pool: Pool, *entries: Entry) -> None:
    async with pool.acquire() as connection, connection.transaction():
        await toy.TRAIL.append(connection, entries)


async def entries(pool: Pool) -> list[AuditRecorded]:
    return list(await toy.TRAIL.entries(pool, oldest_first=True, limit=10_000))


def assert_chained(chain: list[AuditRecorded]) -> None:
    assert [each.sequence for each in chain] == list(range(1, len(chain) + 1))
    assert all(before.at <= after.at for before, after in itertools.pairwise(chain))
    previous = NOTHING_BEFORE
    for each in chain:
        assert each.previous_hash == previous
        data = json.loads(each.model_dump_json(exclude_none=True))
        previous = data.pop("hash")
        assert (
            sha256(json.dumps(data, sort_keys=True, separators=(",", ":")).encode()).hexdigest() == previous
        )


async def test_concurrent_writers_make_one_chain_without_gaps(pool: Pool) -> None:
    await asyncio.gather(
        *(record(pool, *(looked(number * 10 + each) for each in range(5))) for number in range(20))
    )
    chain = await entries(pool)
    assert len(chain) == 100
    assert_chained(chain)


async def test_what_is_undone_leaves_no_entry_and_no_gap(pool: Pool) -> None:
    await record(pool, SKIPPED)
    async with pool.acquire() as connection:
        undone = connection.transaction()
        await undone.start()
        await toy.TRAIL.append(connection, [looked(1)])
        await undone.rollback()
    await record(pool, looked(2))
    chain = await entries(pool)
    assert [each.target for each in chain] == ["toy.amounts/0/7", "p-2"]
    assert_chained(chain)


@pytest.mark.parametrize(
    "statement",
    ["UPDATE audit SET actor = 'p-2'", "DELETE FROM audit WHERE sequence = 1", "TRUNCATE audit"],
)
async def test_the_table_can_only_be_appended_to(pool: Pool, statement: str) -> None:
    await record(pool, SKIPPED)
    with pytest.raises(asyncpg.InsufficientPrivilegeError, match="append-only"):
        await pool.execute(statement)
    (entry,) = await entries(pool)
    assert entry.actor == "p-1"


async def test_what_happens_once_is_recorded_once(pool: Pool) -> None:
    await record(pool, looked(1, "a"), looked(2, "a"), looked(3))
    await record(pool, looked(4, "a"), looked(5, "b"))
    await record(pool, looked(6, "b"))
    chain = await entries(pool)
    assert [each.target for each in chain] == ["p-1", "p-3", "p-5"]
    assert_chained(chain)


async def test_nothing_is_recorded_before_the_chain_is_known_to_be_whole(database: str) -> None:
    async with await create_pool(database, toy.SCHEMAS, application_name="test") as pool:
        with pytest.raises(AuditClosedError):
            await record(pool, SKIPPED)
        assert await entries(pool) == []
        async with pool.acquire() as connection:
            await toy.TRAIL.open(connection)
        await record(pool, SKIPPED)
        assert len(await entries(pool)) == 1


async def test_a_chain_that_another_incarnation_of_the_database_opened_is_closed(pool: Pool) -> None:
    await pool.execute("UPDATE audit_chain SET open_for = '1.0/' || 'audit_chain'::regclass::oid")
    with pytest.raises(AuditClosedError):
        await record(pool, SKIPPED)


async def test_calls_that_record_at_once_share_transactions_and_fail_alone(pool: Pool) -> None:
    log = AuditLog(pool, toy.TRAIL)
    await asyncio.gather(*(log.record([looked(number)]) for number in range(500)))
    chain = await entries(pool)
    assert sorted(each.target for each in chain) == sorted(f"p-{number}" for number in range(500))
    assert_chained(chain)
    transactions = await pool.fetchval("SELECT count(DISTINCT xmin::text) FROM audit")
    assert transactions < 10


async def test_what_cannot_be_recorded_fails_its_call(pool: Pool) -> None:
    log = AuditLog(pool, toy.TRAIL)
    await pool.execute("UPDATE audit_chain SET open_for = NULL")
    with pytest.raises(AuditClosedError):
        await log.record([looked(1)])
    async with pool.acquire() as connection:
        await toy.TRAIL.open(connection)
    await log.record([looked(2)])
    assert [each.target for each in await entries(pool)] == ["p-2"]


async def test_too_many_that_wait_are_sent_away(pool: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audit, "CAPACITY", 10)
    log = AuditLog(pool, toy.TRAIL)
    async with pool.acquire() as connection, connection.transaction():
        await connection.execute("SELECT FROM audit_chain FOR UPDATE")
        waiting = [asyncio.create_task(log.record([looked(0)]))]
        await asyncio.sleep(0.1)
        waiting += [asyncio.create_task(log.record([looked(number)])) for number in range(1, 11)]
        await asyncio.sleep(0.1)
        with pytest.raises(OverloadedError):
            await log.record([looked(11)])
    await asyncio.gather(*waiting)
    assert len(await entries(pool)) == 11


async def test_who_has_gone_before_its_entry_is_written_leaves_none(pool: Pool) -> None:
    log = AuditLog(pool, toy.TRAIL)
    async with pool.acquire() as connection, connection.transaction():
        await connection.execute("SELECT FROM audit_chain FOR UPDATE")
        first = asyncio.create_task(log.record([looked(1)]))
        await asyncio.sleep(0.1)
        gone = asyncio.create_task(log.record([looked(2)]))
        await asyncio.sleep(0)
        gone.cancel()
    await first
    await log.record([looked(3)])
    assert [each.target for each in await entries(pool)] == ["p-1", "p-3"]


async def test_entries_are_found_by_what_they_say_a_page_at_a_time(pool: Pool) -> None:
    await record(pool, SKIPPED, *(looked(number % 2) for number in range(10)))
    skipped = await toy.TRAIL.entries(pool, action="parked.skipped", limit=10)
    assert [(each.sequence, each.details) for each in skipped] == [(1, {"why": "x"})]
    page = await toy.TRAIL.entries(pool, target="p-0", limit=3)
    assert [each.sequence for each in page] == [10, 8, 6]
    page = await toy.TRAIL.entries(pool, target="p-0", beyond=6, limit=3)
    assert [each.sequence for each in page] == [4, 2]
    page = await toy.TRAIL.entries(pool, actor="p-1", beyond=9, oldest_first=True, limit=3)
    assert [each.sequence for each in page] == [10, 11]
    assert await toy.TRAIL.entries(pool, actor="p-2", limit=3) == []


async def test_an_anchor_tells_the_head_when_it_is_due(pool: Pool) -> None:
    async with pool.acquire() as connection:
        assert not await toy.TRAIL.anchor(connection)
        await record(pool, *map(looked, range(3)))
        assert await toy.TRAIL.anchor(connection), "the last one is long ago"
        assert not await toy.TRAIL.anchor(connection)
        await record(pool, looked(3))
        assert not await toy.TRAIL.anchor(connection, entries=2), "neither so many nor so long ago"
        await record(pool, looked(4))
        assert await toy.TRAIL.anchor(connection, entries=2)
        await record(pool, looked(5))
        await connection.execute("UPDATE audit_chain SET anchored_at = anchored_at + interval '1 hour'")
        assert await toy.TRAIL.anchor(connection), "the clock stepped back"
    anchors = await pool.fetch("SELECT value FROM outbox WHERE key = 'toy.anchors' ORDER BY id")
    told = [json.loads(row["value"]) for row in anchors]
    chain = await entries(pool)
    assert [(each["sequence"], each["hash"]) for each in told] == [
        (each, chain[each - 1].hash) for each in (3, 5, 6)
    ]


@pytest.mark.usefixtures("topics")
async def test_a_lost_table_is_read_back_from_the_topic_and_the_chain_goes_on(
    stack: Stack, database: str, pool: Pool
) -> None:
    await record(pool, SKIPPED, looked(1, "once"))
    await append(pool, range(1, 4))  # other events are between them
    await record(pool, *map(looked, range(2, 8)))
    before = await entries(pool)
    async with relaying(stack, database):
        await emptied(pool)
    head = await toy.TRAIL.head(pool)
    assert (head.sequence, head.relayed_sequence) == (8, 8)
    lost = stack.new_database("toy")
    await toy.MIGRATIONS.migrate(lost)
    async with await create_pool(lost, toy.SCHEMAS, application_name="test") as found:
        await record_refused(found)
        recall = Recall(
            stack.kafka.bootstrap,
            toy.OWN,
            [],
            [Kind(toy.TRAIL.from_record, toy.TRAIL.remember, toy.TRAIL.open)],
        )
        async with session(lost, toy.SCHEMAS, application_name="recall") as connection:
            recalling = asyncio.create_task(recall(connection, stopping := asyncio.Event()))
            async with asyncio.timeout(30):
                while not await found.fetchval("SELECT open_for FROM audit_chain"):  # noqa: ASYNC110
                    await asyncio.sleep(0.05)
            stopping.set()
            await recalling
        assert await entries(found) == before
        await record(found, looked(8), looked(9, "once"))
        chain = await entries(found)
        assert [each.target for each in chain][-2:] == ["p-7", "p-8"]
        assert_chained(chain)


async def record_refused(pool: Pool) -> None:
    with pytest.raises(AuditClosedError):
        await record(pool, looked(0))


@pytest.mark.usefixtures("topics")
async def test_a_fork_is_told_and_changes_nothing(
    stack: Stack, database: str, pool: Pool, caplog: pytest.LogCaptureFixture
) -> None:
    await record(pool, *map(looked, range(3)))
    async with relaying(stack, database):
        await emptied(pool)
    told = [toy.TRAIL.from_record(to_record(each)) for each in await sent(stack)]
    other = [each.model_copy(update={"hash": "f" * 64}) for each in told if each is not None]
    before = await entries(pool)
    async with pool.acquire() as connection:
        assert await toy.TRAIL.remember(connection, other) == 0
    assert await entries(pool) == before
    assert "was forked" in caplog.text


async def test_the_head_tells_what_is_not_in_the_topic_yet(pool: Pool) -> None:
    await record(pool, *map(looked, range(3)))
    await pool.execute("DELETE FROM outbox WHERE version < 2")
    head = await toy.TRAIL.head(pool)
    chain = await entries(pool)
    assert head == (3, chain[-1].hash, 0, 1)
