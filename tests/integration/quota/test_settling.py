"""The settler on a real database: it follows the projection, and opens the ledger once that is level."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from datetime import timedelta

import pytest

from tests.integration.quota.harness import Quota, hold_ledger, intervention_ledger
from tests.support.holds import (
    Command,
    Outcome,
    account_id,
    acquiring,
    placing,
    releasing,
    renewing,
    settling,
    take_turn,
)
from tests.support.quota_events import settled, usage
from tokenomics_chassis.postgres import create_pool
from tokenomics_chassis.records import Record
from tokenomics_quota.bootstrap import migrations
from tokenomics_quota.domain.holds import Change
from tokenomics_quota.metrics import HOLDS_LIVE, HOLDS_UNSWEPT, LEDGER_SHUT, SETTLING_BACKLOG
from tokenomics_quota.ports import ToldChange
from tokenomics_quota.storage.settling import Settler
from tokenomics_quota.storage.told_changes import ToldChanges
from tokenomics_quota.streams.events import OWN_TOPIC
from tokenomics_quota.streams.ledger_events import told_change_from_record
from tokenomics_quota.streams.projection import USAGE
from tokenomics_tools.stack import Stack

SOURCES = {USAGE: "recorded", OWN_TOPIC: "provisional"}


@asynccontextmanager
async def settler(quota: Quota, ends: Mapping[tuple[str, int], int] | None = None) -> AsyncIterator[None]:
    """Run the settler; what its own topic tells is recalled."""

    async def read_ends() -> Mapping[tuple[str, int], int]:
        return ends or {}

    stopping = asyncio.Event()
    async with quota.pool.acquire() as connection:
        await ToldChanges(hold_ledger, intervention_ledger).do_again(connection)
    work = Settler(
        quota.url, quota.schemas, hold_ledger, intervention_ledger, ends=read_ends, sources=SOURCES
    ).run(stopping)
    running = asyncio.create_task(work)
    try:
        yield
    finally:
        stopping.set()
        await running


async def perform(quota: Quota, *commands: Command) -> list[Outcome]:
    async with quota.pool.acquire() as connection, connection.transaction():
        outcomes = await take_turn(hold_ledger(connection), *commands)
    assert all(isinstance(outcome, Change) for outcome in outcomes)
    return outcomes


async def comes_to(read: Callable[[], Awaitable[object]], expected: object) -> None:
    for _ in range(100):
        if (found := await read()) == expected:
            return
        await asyncio.sleep(0.05)
    assert found == expected


async def states(quota: Quota) -> dict[str, str]:
    return {row[0]: row[1] for row in await quota.pool.fetch("SELECT hold_id, state FROM hold")}


async def amounts(quota: Quota, name: str = "ada") -> tuple[int, int, int]:
    async with quota.pool.acquire() as connection, connection.transaction():
        ledger = hold_ledger(connection)
        await ledger.begin(0)
        (account,) = await ledger.accounts([account_id(name)])
    return account.live_micro_usd, account.settling_micro_usd, account.covered_micro_usd


async def told(quota: Quota) -> list[tuple[str, str]]:
    rows = await quota.pool.fetch("SELECT aggregate_id, header_names, header_values FROM outbox ORDER BY id")
    return [
        (
            row[0].removeprefix("hold/"),
            dict(zip(row[1], row[2], strict=True))["ce_type"].decode().split(".")[2],
        )
        for row in rows
    ]


async def test_usage_that_names_a_hold_ends_it_whichever_partition_it_comes_from(quota: Quota) -> None:
    await perform(quota, placing("a", 50), placing("b", 30))
    await quota.tell(usage(cost_micro_usd=20, hold_id="a"), "u1")
    async with settler(quota):
        await comes_to(lambda: states(quota), {"a": "settled", "b": "live"})
        await quota.tell(usage(cost_micro_usd=45, hold_id="b"), "u2", partition=3)
        await quota.tell(usage(cost_micro_usd=45, hold_id="nobodys"), "u3", partition=3)
        await comes_to(lambda: states(quota), {"a": "settled", "b": "settled"})
    assert await amounts(quota) == (0, 0, 50)
    assert await told(quota) == [("a", "placed"), ("b", "placed"), ("a", "settled"), ("b", "settled")]


async def test_another_settler_goes_on_where_one_stopped(quota: Quota) -> None:
    await perform(quota, placing("a", 50), acquiring("l", 50))
    await quota.tell(usage(cost_micro_usd=20, hold_id="a"), "u1")
    async with settler(quota):
        await comes_to(lambda: amounts(quota), (50, 0, 20))
    await quota.tell(usage(cost_micro_usd=5, hold_id="l"), "u2")
    await quota.tell(usage(cost_micro_usd=6, hold_id="l"), "u3")
    async with settler(quota):
        await comes_to(lambda: amounts(quota), (39, 0, 31))
    rows = await quota.pool.fetch("SELECT topic, partition, next_offset FROM settled")
    assert [tuple(row) for row in rows] == [(USAGE, 0, 3)]
    # Read anew from the start, as after a loss, it all is known.
    await quota.pool.execute("DELETE FROM settled")
    await perform(quota, placing("new", 1))
    await quota.tell(usage(cost_micro_usd=1, hold_id="new"), "u4")
    async with settler(quota):
        await comes_to(lambda: amounts(quota), (39, 0, 32))


async def test_what_a_caller_said_counts_as_settling_until_its_fact_is_seen(quota: Quota) -> None:
    await perform(quota, placing("a", 50), settling("a", 20))
    async with settler(quota):
        await asyncio.sleep(0.3)
        assert await amounts(quota) == (0, 20, 20)
        await quota.tell(settled("a", 20), "s1", partition=2)
        await comes_to(lambda: amounts(quota), (0, 0, 20))
        await quota.tell(usage(cost_micro_usd=12, hold_id="a"), "u1")
        await comes_to(lambda: amounts(quota), (0, 0, 12))


async def test_more_facts_than_fit_a_transaction_all_settle(
    quota: Quota, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tokenomics_quota.storage.settling.GROUP", 3)
    monkeypatch.setattr("tokenomics_quota.storage.settling.STRETCH", 5)
    names = [f"h{number}" for number in range(20)]
    await perform(quota, *(placing(name, 1) for name in names))
    for number, name in enumerate(names):
        await quota.tell(usage(cost_micro_usd=1, hold_id=name), f"u{number}", partition=number % 2)
    async with settler(quota):
        await comes_to(lambda: amounts(quota), (0, 0, 20))


async def test_the_ledger_opens_once_all_is_projected_and_settled_that_was_in_the_log(quota: Quota) -> None:
    async def is_open() -> bool:
        async with quota.pool.acquire() as connection, connection.transaction():
            return (await hold_ledger(connection).begin(0)).is_open

    await perform(quota, placing("a", 50))
    await quota.tell(usage(cost_micro_usd=20, hold_id="a"), "u1")
    async with settler(quota, {(USAGE, 0): 2, (USAGE, 1): 0, ("tokenomics.policy.v1", 0): 0}):
        await comes_to(lambda: states(quota), {"a": "settled"})
        await asyncio.sleep(0.5)
        assert not await is_open()
        await quota.tell(usage(), "u2")
        await comes_to(is_open, True)
    async with settler(quota, {(USAGE, 0): 99}):
        await asyncio.sleep(0.3)
        assert await is_open()


async def test_a_ledger_that_may_lack_something_is_neither_settled_nor_opened(quota: Quota) -> None:
    await perform(quota, placing("a", 50))
    await quota.tell(usage(cost_micro_usd=20, hold_id="a"), "u1")
    async with settler(quota):
        await comes_to(lambda: states(quota), {"a": "settled"})
    await perform(quota, placing("b", 50))
    await quota.tell(usage(cost_micro_usd=20, hold_id="b"), "u2")

    async def no_ends() -> Mapping[tuple[str, int], int]:
        raise AssertionError

    await quota.pool.execute("UPDATE ledger SET recalled_for = 'another', open_for = 'another'")
    stopping = asyncio.Event()
    running = asyncio.create_task(
        Settler(
            quota.url, quota.schemas, hold_ledger, intervention_ledger, ends=no_ends, sources=SOURCES
        ).run(stopping)
    )
    await asyncio.sleep(0.5)
    assert await states(quota) == {"a": "settled", "b": "live"}
    stopping.set()
    await running


async def metrics() -> tuple[float | None, ...]:
    return tuple(gauge.read() for gauge in (LEDGER_SHUT, HOLDS_LIVE, HOLDS_UNSWEPT, SETTLING_BACKLOG))


async def test_who_leads_tells_how_the_ledger_stands_and_nothing_afterwards(quota: Quota) -> None:
    nothing = (None, None, None, None)
    await perform(quota, placing("a", 50), placing("b", 30))
    await quota.pool.execute("UPDATE ledger SET open_for = 'another'")
    assert await metrics() == nothing
    async with settler(quota, {(USAGE, 0): 1}):
        await comes_to(metrics, (1, 2, 0, 0))
        await quota.tell(usage(), "u1")
        await comes_to(metrics, (0, 2, 0, 0))
    assert await metrics() == nothing
    async with settler(quota):
        await comes_to(metrics, (0, 2, 0, 0))
        assert not any(isinstance(each, bool) for each in await metrics()), "one would fail every export"
    assert await metrics() == nothing


async def test_a_ledger_that_is_recalled_and_not_yet_level_is_told_to_be_shut(quota: Quota) -> None:
    async def told_shut() -> float | None:
        return LEDGER_SHUT.read()

    async def held_up() -> bool:
        return bool(
            await quota.pool.fetchval(
                "SELECT count(*) FROM pg_locks WHERE relation = 'settled'::regclass AND NOT granted"
            )
        )

    await quota.pool.execute("UPDATE ledger SET open_for = 'another', recalled_for = 'another'")
    stopping = asyncio.Event()

    async def ends() -> Mapping[tuple[str, int], int]:
        return {(USAGE, 0): 1}

    running = asyncio.create_task(
        Settler(quota.url, quota.schemas, hold_ledger, intervention_ledger, ends=ends, sources=SOURCES).run(
            stopping
        )
    )
    await comes_to(told_shut, 1)
    async with quota.pool.acquire() as connection, connection.transaction():
        await connection.execute("LOCK TABLE settled")  # what a term reads first, once all is recalled
        async with quota.pool.acquire() as other:
            await ToldChanges(hold_ledger, intervention_ledger).do_again(other)
        await comes_to(held_up, expected=True)
        assert await told_shut() == 1
    await quota.tell(usage(), "u1")
    await comes_to(told_shut, 0)
    stopping.set()
    await running


async def test_a_version_that_serves_no_more_settles_nothing(quota: Quota) -> None:
    await perform(quota, placing("a", 50))
    await quota.tell(usage(cost_micro_usd=20, hold_id="a"), "u1")
    await quota.pool.execute("UPDATE derived_version SET state = 'standby'")
    async with settler(quota):
        await asyncio.sleep(0.5)
    assert await states(quota) == {"a": "live"}


async def test_it_is_written_down_that_holds_have_ended_and_old_ones_are_forgotten(
    quota: Quota, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tokenomics_quota.storage.settling.FORGET_SECONDS", 0.0)
    await perform(
        quota, placing("short", 50, ttl=timedelta(seconds=1)), placing("long", 30), placing("old", 7)
    )
    await perform(quota, releasing("old"))
    async with settler(quota):
        await comes_to(lambda: states(quota), {"short": "expired", "long": "live", "old": "released"})
        assert await amounts(quota) == (30, 0, 0)
        assert ("short", "expired") in await told(quota)
        await quota.pool.execute(
            "UPDATE placed_hold SET placed_at = placed_at - interval '100 days'"
            " WHERE hold_id IN ('short', 'old')"
        )
        await comes_to(lambda: states(quota), {"long": "live"})
    placements = await quota.pool.fetchval("SELECT count(*) FROM placement")
    assert placements == 3
    await quota.pool.execute("UPDATE ledger_account SET account_id = 'subject/ada/all/2026-01'")
    await quota.pool.execute("DELETE FROM placed_hold")

    async def left() -> int:
        return int(
            await quota.pool.fetchval(
                "SELECT (SELECT count(*) FROM placement) + (SELECT count(*) FROM ledger_account)"
                " + (SELECT count(*) FROM expiry)"
            )
        )

    async with settler(quota):
        await comes_to(left, 0)


async def test_usage_of_a_part_whose_hold_is_forgotten_holds_nothing_up(quota: Quota) -> None:
    await perform(quota, placing("root", 50), placing("part", 30, parent="root"), placing("call", 20))
    await quota.pool.execute("DELETE FROM placed_hold WHERE hold_id = 'root'")
    await quota.tell(usage(cost_micro_usd=10, hold_id="part"), "u1")
    await quota.tell(usage(cost_micro_usd=20, hold_id="call"), "u2")
    async with settler(quota):
        await comes_to(lambda: states(quota), {"part": "live", "call": "settled"})


async def changes_told(quota: Quota) -> list[ToldChange]:
    """Read what the outbox tells, as the relay would send it, and out of order as partitions are read."""
    found = []
    for row in await quota.pool.fetch("SELECT * FROM outbox ORDER BY id"):
        headers = tuple(zip(row["header_names"], row["header_values"], strict=True))
        change = told_change_from_record(Record(row["topic"], 0, 0, 0, row["key"], row["value"], headers))
        assert change is not None
        found.append(change)
    return found[::-1]


async def tables(quota: Quota) -> list[list[tuple[object, ...]]]:
    """Return everything that a ledger holds, but for what depends on when it was looked."""
    queries = (
        "SELECT * FROM hold ORDER BY hold_no",
        "SELECT * FROM placement ORDER BY account_no, sequence",
        "SELECT * FROM live_hold ORDER BY hold_no",
        "SELECT * FROM expiry WHERE amount_micro_usd > 0 ORDER BY account_no, expires_at",
        "SELECT to_jsonb(ledger_account) - 'change_seq' FROM ledger_account ORDER BY account_no",
        "SELECT * FROM lease_draw ORDER BY usage_identity",
        "SELECT * FROM lease ORDER BY hold_no",
    )
    return [[tuple(row) for row in await quota.pool.fetch(query)] for query in queries]


@pytest.mark.parametrize("known", [0, 1, 4, 9])
async def test_a_lost_or_restored_ledger_does_again_what_its_topic_tells_and_settles_it_no_second_time(
    quota: Quota, stack: Stack, known: int
) -> None:
    await perform(quota, placing("a", 50, ["ada"], limits={"ada": 200}))
    await perform(quota, acquiring("l", 50), placing("part", 20, parent="a"))
    await perform(quota, renewing("l", 1, 10, drawn=5))
    await perform(quota, placing("b", 30, ["ada"]), placing("c", 9, ["ada"]))
    await perform(quota, settling("b", 20), releasing("c"))
    used = [
        (usage(cost_micro_usd=15, hold_id="part"), "u1"),
        (usage(cost_micro_usd=12, hold_id="l"), "u2"),
        (settled("b", 20), "s1"),
    ]
    for event, event_id in used:
        await quota.tell(event, event_id)
    async with settler(quota):
        await comes_to(lambda: amounts(quota), (83, 0, 47))
    changes = await changes_told(quota)
    before = await tables(quota)

    url = stack.new_database("quota")
    await migrations(quota.schemas).migrate(url)
    async with await create_pool(url, quota.schemas, application_name="test") as pool:
        other = Quota(url, quota.schemas, pool)
        async with pool.acquire() as connection:
            told_again = ToldChanges(hold_ledger, intervention_ledger)
            early = sorted(changes)[:known]
            assert await told_again.keep(connection, early) == known
            await told_again.do_again(connection)
            assert await told_again.keep(connection, changes) == len(changes) - known
            assert await told_again.keep(connection, changes[:2]) == 0
            await told_again.do_again(connection)
            assert await told_again.keep(connection, changes) == 0
        for event, event_id in used:
            await other.tell(event, event_id)
        async with settler(other):
            await comes_to(lambda: amounts(other), (83, 0, 47))
        assert await tables(other) == before
        assert await pool.fetchval("SELECT count(*) FROM outbox") == 0
        assert await pool.fetchval("SELECT count(*) FROM told_change") == 0
        await perform(other, placing("next", 1, ["ada"], limits={"ada": 200}))


async def test_what_is_too_old_to_be_asked_for_is_not_kept(quota: Quota) -> None:
    await perform(quota, placing("a", 50))
    (change,) = await changes_told(quota)
    await quota.pool.execute("UPDATE ledger SET change_seq = 0")
    async with quota.pool.acquire() as connection:
        old = change._replace(told_at=change.told_at - timedelta(days=96))
        assert await ToldChanges(hold_ledger, intervention_ledger).keep(connection, [old]) == 0
        assert await ToldChanges(hold_ledger, intervention_ledger).keep(connection, [change]) == 1
