"""Late governing events derive again just what they touch, on a real database."""

import asyncio
from datetime import timedelta
from importlib.resources import files

import pytest

from tests.integration.quota.harness import Quota
from tests.support.quota_events import (
    NOW,
    correction,
    person,
    price_book,
    quota_policy,
    record,
    settled,
    sources,
    team,
    usage,
)
from tokenomics_chassis.postgres import session
from tokenomics_chassis.projection import Batch, Source
from tokenomics_chassis.records import SourceId
from tokenomics_chassis.state_hash import state_hash
from tokenomics_quota.storage.late_usage import LateUsageMender
from tokenomics_quota.storage.state import DERIVED_TABLES, NOT_DERIVED
from tokenomics_quota.streams.events import OWN_TOPIC

DAY = timedelta(days=1)
RIVALS = files("tokenomics_quota") / "storage/migrations/derived/005_rivals.sql"
ALIAS = "alias:" + "d" * 32


async def test_a_stranger_is_counted_as_unattributed_and_reassigned_when_the_directory_learns_it(
    quota: Quota,
) -> None:
    await quota.tell(price_book(), "book")
    await quota.tell(usage("ada"), "a")
    await quota.tell(usage(ALIAS), "b", partition=1)
    assert await quota.totals() == {"unattributed/unattributed/operational/2026-11": 200}
    await quota.tell(person("ada", aliases=[ALIAS]), "p")
    assert await quota.totals() == {
        "subject/ada/operational/2026-11": 200,
        "team/red/operational/2026-11": 200,
    }


async def test_a_price_book_that_comes_late_reprices_what_it_governs_and_no_more(quota: Quota) -> None:
    await quota.tell(usage("ada"), "before", time=NOW - 5 * DAY)
    await quota.tell(usage("ada"), "after")
    await quota.tell(usage("ada", cost_micro_usd=7), "reported")
    await quota.tell(price_book(since=NOW - DAY), "book")
    facts = await quota.pool.fetch("SELECT cost_micro_usd, pricing FROM fact ORDER BY cost_micro_usd")
    assert [tuple(fact) for fact in facts] == [(0, "fallback"), (7, "reported"), (100, "book")]
    assert await quota.totals() == {"unattributed/unattributed/operational/2026-11": 107}


async def test_a_time_zone_that_comes_late_moves_facts_to_their_period(quota: Quota) -> None:
    await quota.tell(price_book(), "book")
    await quota.tell(usage("ada"), "a", time=NOW.replace(day=1, hour=2))
    assert await quota.totals() == {"unattributed/unattributed/operational/2026-11": 100}
    await quota.tell(quota_policy(time_zone="America/New_York"), "policy")
    assert await quota.totals() == {"unattributed/unattributed/operational/2026-10": 100}


async def test_a_correction_counts_once_whichever_comes_first(quota: Quota) -> None:
    await quota.tell(price_book(), "book")
    await quota.tell(correction("a", 2, 30), "x2", partition=1)
    await quota.tell(usage("ada"), "a")
    await quota.tell(correction("a", 1, 20), "x1", partition=1)
    assert await quota.totals() == {"unattributed/unattributed/operational/2026-11": 30}


async def test_late_usage_counts_once_its_source_may_backfill(quota: Quota) -> None:
    await quota.tell(price_book(), "book")
    await quota.tell(usage("ada"), "old", time=NOW - 70 * DAY)
    await quota.tell(usage("ada"), "new")
    assert await quota.parked() == ["too_late"]
    await quota.tell(sources(may_backfill=True, backfill_counts_in_balances=True), "sources")
    (retried,) = await quota.parking.retry("tokenomics.usage.v1", 0)
    assert retried.error_code is None
    assert await quota.totals() == {
        "unattributed/unattributed/operational/2026-09": 100,
        "unattributed/unattributed/operational/2026-11": 100,
    }


async def test_what_repeats_late_usage_is_no_conflict_once_that_is_taken_up(quota: Quota) -> None:
    late = NOW - 70 * DAY
    await quota.tell(usage(cost_micro_usd=3), "a", time=late)
    await quota.tell(usage(cost_micro_usd=4), "a")
    await quota.tell(sources(may_backfill=True, backfill_counts_in_balances=True), "sources")
    await quota.tell(usage(cost_micro_usd=3), "a", time=late)
    await quota.tell(usage(cost_micro_usd=4), "a", partition=1)
    assert await quota.parked() == ["identity_conflict", "too_late"]
    (retried,) = await quota.parking.retry("tokenomics.usage.v1", 0, [0])
    assert retried.error_code is None
    parked = await quota.parking.list()
    assert [(each.record.partition, each.record.offset, each.error_code) for each in parked] == [
        (0, 1, "identity_conflict"),
        (1, 0, "identity_conflict"),
    ]
    assert await quota.totals() == {"unattributed/unattributed/operational/2026-09": 3}


async def test_a_database_of_an_earlier_version_is_given_what_repetitions_said(quota: Quota) -> None:
    for partition in (0, 1):
        await quota.tell(usage("ada"), "a", partition=partition)
        await quota.tell(settled("h1", 30), "s", partition=partition)
        await quota.tell(person(), "p", partition=partition)
    rivals = "SELECT * FROM rival ORDER BY topic"
    before = [dict(row) for row in await quota.pool.fetch(rivals)]
    assert len(before) == 3
    await quota.pool.execute("ALTER TABLE rival DROP COLUMN digest")
    await quota.pool.execute("ALTER TABLE rival RENAME TO repeated")
    await quota.pool.execute(RIVALS.read_text())
    assert [dict(row) for row in await quota.pool.fetch(rivals)] == before


async def test_a_backfill_kept_out_of_balances_is_a_fact_all_the_same(quota: Quota) -> None:
    await quota.tell(sources(may_backfill=True), "sources")
    await quota.tell(usage("ada", cost_micro_usd=9), "old", time=NOW - 70 * DAY)
    assert await quota.totals() == {}
    assert await quota.pool.fetchval("SELECT sum(cost_micro_usd) FROM fact WHERE NOT counted") == 9


@pytest.mark.parametrize(
    ("loser", "code"), [("2b", "policy_mismatch"), ("2", "identity_conflict"), ("2c", "too_late")]
)
async def test_a_policy_that_lost_a_race_is_parked_and_the_next_one_takes_effect(
    quota: Quota, loser: str, code: str
) -> None:
    await quota.tell(price_book(), "1")
    await quota.tell(price_book(2, rate=2_000_000), "2")
    time = NOW - 70 * DAY if code == "too_late" else NOW
    await quota.tell(price_book(2, rate=3_000_000), loser, time=time)
    await quota.tell(price_book(3, rate=4_000_000), "3")
    await quota.tell(usage("ada"), "a")
    assert await quota.parked() == [code]
    assert await quota.totals() == {"unattributed/unattributed/operational/2026-11": 400}


async def test_a_policy_against_a_version_that_never_was_waits_for_nothing_and_holds_nothing_up(
    quota: Quota,
) -> None:
    await quota.tell(quota_policy(1), "1")
    await quota.tell(quota_policy(3), "3")
    await quota.tell(quota_policy(2, time_zone="America/New_York"), "2")
    await quota.tell(usage("ada", cost_micro_usd=1), "a", time=NOW.replace(day=1, hour=2))
    assert await quota.parked() == ["policy_mismatch"]
    assert await quota.totals() == {"unattributed/unattributed/operational/2026-10": 1}


async def test_a_record_of_a_topic_that_quota_does_not_project_is_refused_not_applied(quota: Quota) -> None:
    foreign = [record(usage("ada"), "a")._replace(topic=OWN_TOPIC)]
    source = Source(SourceId(1), OWN_TOPIC, 0, 1)
    async with quota.pool.acquire() as connection:
        with pytest.raises(ValueError, match=f"{OWN_TOPIC} is no topic of this projection"):
            await quota.projection.apply(connection, Batch(source, foreign))


async def test_every_table_and_column_of_derived_state_is_hashed_or_left_out_by_name(quota: Quota) -> None:
    await quota.tell(price_book(), "book")
    await quota.tell(team(), "t")
    async with session(quota.url, quota.schemas, application_name="test") as connection:
        one = await state_hash(connection, quota.schemas.derived, DERIVED_TABLES, NOT_DERIVED)
        await quota.tell(usage("ada"), "a")
        other = await state_hash(connection, quota.schemas.derived, DERIVED_TABLES, NOT_DERIVED)
    assert one != other


async def test_the_mender_takes_late_usage_up_without_being_asked(quota: Quota) -> None:
    await quota.tell(usage("ada", cost_micro_usd=9), "old", time=NOW - 70 * DAY)
    await quota.tell(sources(may_backfill=True), "sources")
    stopping = asyncio.Event()

    async def retry_late() -> int:
        stopping.set()
        return len(await quota.parking.retry("tokenomics.usage.v1", 0))

    await LateUsageMender(quota.pool, retry_late).run(stopping)
    assert await quota.parked() == []


async def test_the_mender_looks_again_when_the_database_came_to_the_same_version_anew(
    quota: Quota, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tokenomics_quota.storage.late_usage.POLL_SECONDS", 0.01)
    await quota.tell(sources(may_backfill=True), "sources")
    stopping, looked = asyncio.Event(), asyncio.Queue[None]()

    async def retry_late() -> int:
        looked.put_nowait(None)
        return 0

    running = asyncio.create_task(LateUsageMender(quota.pool, retry_late).run(stopping))
    async with asyncio.timeout(30):
        await looked.get()
        await asyncio.sleep(0.2)
        assert looked.empty()
        await quota.pool.execute("UPDATE governing_version SET history_id = gen_random_uuid()")
        await looked.get()
        stopping.set()
        await running


OWN = "subject/ada/operational/2026-11"


async def test_usage_takes_the_place_of_what_the_caller_said_whichever_comes_first(quota: Quota) -> None:
    await quota.tell(person(), "p")
    await quota.tell(settled("h1", 30), "s1")
    await quota.tell(usage(cost_micro_usd=7, hold_id="h2"), "u2")
    assert (await quota.totals())[OWN] == 37
    await quota.tell(usage(cost_micro_usd=25, hold_id="h1"), "u1", partition=1)
    await quota.tell(settled("h2", 9), "s2", partition=1)
    assert (await quota.totals())[OWN] == 32


async def test_what_the_caller_said_is_derived_again_with_the_directory(quota: Quota) -> None:
    await quota.tell(settled("h1", 30, ALIAS), "s1")
    assert await quota.totals() == {"unattributed/unattributed/operational/2026-11": 30}
    await quota.tell(person(aliases=[ALIAS]), "p")
    assert (await quota.totals())[OWN] == 30


async def test_of_two_partitions_whose_usage_names_one_hold_the_caller_is_taken_back_once(
    quota: Quota,
) -> None:
    await quota.tell(person(), "p")
    await quota.tell(settled("h1", 30), "s1")
    naming = [
        record(usage(cost_micro_usd=5, hold_id="h1"), f"u{partition}", partition=partition)
        for partition in (0, 1)
    ]
    async with quota.pool.acquire() as connection, connection.transaction():
        source_id = await connection.fetchval(
            "INSERT INTO position (topic, partition) VALUES ($1, 0) RETURNING source_id", naming[0].topic
        )
        source = Source(SourceId(source_id), naming[0].topic, 0, 1)
        await quota.projection.apply(connection, Batch(source, naming[:1]))
        other = asyncio.create_task(quota.projector.process(naming[1].topic, 1, naming[1:]))
        await asyncio.sleep(0.2)
        assert not other.done()
    await other
    assert (await quota.totals())[OWN] == 10


async def test_a_hold_that_its_caller_settled_twice_costs_once(quota: Quota) -> None:
    await quota.tell(person(), "p")
    await quota.tell(settled("h1", 30), "s1")
    await quota.tell(settled("h1", 40), "s2")
    assert (await quota.totals())[OWN] == 30
    assert await quota.parked() == ["identity_conflict"]
