"""One suite for every hold ledger: in memory, as rules are tested on it, and on PostgreSQL, as it runs."""

from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from datetime import timedelta

import asyncpg
import pytest

from tests.support.holds import (
    PERIOD_END,
    TTL,
    account_id,
    acquiring,
    expiring,
    extending,
    placing,
    releasing,
    renewing,
    returning,
    settling,
    showing,
    take_turn,
    using,
)
from tests.support.memory_hold_ledger import MemoryHoldLedger
from tokenomics_chassis.postgres import Connection, Schemas, create_pool
from tokenomics_contracts.units import AccountId, HoldId, MicroUsd
from tokenomics_quota.bootstrap import migrations
from tokenomics_quota.domain.holds import Change, Hold, HoldState, LedgerAccount, Refusal, Why
from tokenomics_quota.ports import HoldLedger
from tokenomics_quota.storage.hold_ledger import PostgresHoldLedger, open_ledger
from tokenomics_quota.streams.hold_events import hold_event
from tokenomics_tools.stack import Stack


@dataclass
class Bench:
    """A ledger, whose clock and posted totals are in a test's hands."""

    new: Callable[[], HoldLedger]
    """Gives the ledger for a turn."""
    forward: Callable[[timedelta], Awaitable[None]]
    post: Callable[[AccountId, int], Awaitable[None]]
    open: Callable[[], Awaitable[None]]
    told: Callable[[], Awaitable[list[tuple[str, int]]]]
    """What was told so far, as (hold id, version)."""

    async def run(self, *commands: object) -> list[Change | Refusal]:
        return await take_turn(self.new(), *commands)  # type: ignore[arg-type]

    async def account(self, name: str = "ada") -> LedgerAccount:
        ledger = self.new()
        await ledger.begin(0)
        (account,) = await ledger.accounts([account_id(name)])
        return account

    async def hold(self, hold_id: str) -> Hold:
        ledger = self.new()
        await ledger.begin(0)
        return next(each for each in await ledger.holds([HoldId(hold_id)]) if each.hold_id == hold_id)


@pytest.fixture(params=["memory", "postgres"])
async def bench(request: pytest.FixtureRequest) -> AsyncIterator[Bench]:
    if request.param == "memory":
        yield _in_memory()
        return
    stack: Stack = request.getfixturevalue("stack")
    url, schemas = stack.new_database("quota"), Schemas("quota")
    await migrations(schemas).migrate(url)
    async with (
        await create_pool(url, Schemas("quota", None), application_name="test") as pool,
        pool.acquire() as connection,
        connection.transaction(),
    ):
        yield _on_postgres(connection)


def _in_memory() -> Bench:
    memory = MemoryHoldLedger(is_open=False)

    async def forward(by: timedelta) -> None:
        memory.clock = max(memory.clock, memory.last_now) + by

    async def post(account: AccountId, amount: int) -> None:
        memory.posted[account] = MicroUsd(amount)

    async def opened() -> None:
        memory.is_open = True

    async def told() -> list[tuple[str, int]]:
        return [(each.hold.hold_id, each.moment.change_seq) for each, _ in memory.happened]

    return Bench(lambda: memory, forward, post, opened, told)


def _on_postgres(connection: Connection) -> Bench:
    async def forward(by: timedelta) -> None:
        await connection.execute(
            "UPDATE ledger SET last_now = greatest(last_now, clock_timestamp()) + $1", by
        )

    async def post(account: AccountId, amount: int) -> None:
        source_id = await connection.fetchval(
            "INSERT INTO quota_v1.position (topic, partition)"
            " SELECT 'usage', coalesce(max(partition) + 1, 0) FROM quota_v1.position RETURNING source_id"
        )
        for part, purpose in ((amount - 1, "operational"), (1, "experiment")):
            await connection.execute(
                "INSERT INTO quota_v1.posted VALUES ($1, $2, '2026-11', $3, 1)",
                account.replace("/all/", f"/{purpose}/"),
                source_id,
                part,
            )

    async def opened() -> None:
        await open_ledger(connection)

    async def told() -> list[tuple[str, int]]:
        rows = await connection.fetch("SELECT aggregate_id, version FROM outbox ORDER BY id")
        return [(row[0].removeprefix("hold/"), row[1]) for row in rows]

    def new() -> HoldLedger:
        return PostgresHoldLedger(connection, Schemas("quota"), hold_event)

    return Bench(new, forward, post, opened, told)


def changed(outcome: Change | Refusal) -> Hold:
    assert isinstance(outcome, Change), outcome
    return outcome.hold


def refused(outcome: Change | Refusal) -> Why:
    assert isinstance(outcome, Refusal), outcome
    return outcome.why


async def test_a_hold_comes_back_as_it_was_written(bench: Bench) -> None:
    (outcome,) = await bench.run(placing("h", 100, ["ada", "team/red"], limits={"ada": 100}))
    assert await bench.hold("h") == changed(outcome)
    assert isinstance(outcome, Change)
    assert [(each.sequence, each.committed_before_micro_usd) for each in outcome.placements] == [
        (1, 0),
        (1, 0),
    ]
    (extended,) = await bench.run(extending("h", outcome.hold.expires_at + TTL))
    assert await bench.hold("h") == changed(extended)
    assert changed(extended).placed_until == outcome.hold.placed_until == outcome.hold.expires_at
    (settled,) = await bench.run(settling("h", 130))
    assert await bench.hold("h") == changed(settled)
    assert changed(settled)[-6:] == (100, 130, 0, 130, False, None)
    assert await bench.told() == [
        ("h", changed(outcome).hold_no),
        ("h", changed(outcome).hold_no + 1),
        ("h", changed(outcome).hold_no + 2),
    ]


async def test_a_lease_comes_back_as_it_was_acquired_renewed_drawn_from_and_returned(bench: Bench) -> None:
    accounts, limits = ["ada", "team/red"], {"team/red": 1_000}
    for command in (
        acquiring("l", 100, accounts, limits=limits),
        renewing("l", 1, 50, accounts, limits=limits, drawn=80, draw_for=2 * TTL),
        using("l", 30),
        using("l", 20, b"v" * 16),
        returning("l", 110),
    ):
        (outcome,) = await bench.run(command)
        assert await bench.hold("l") == changed(outcome)
    hold = changed(outcome)
    assert hold.lease is not None
    assert (hold.amount_micro_usd, hold.covered_micro_usd, hold.lease.drawn_micro_usd) == (110, 50, 110)
    assert hold.state is HoldState.LIVE
    assert (await bench.account()).live_micro_usd == 60


async def test_numbers_rise_and_now_never_goes_back(bench: Bench) -> None:
    first = await bench.new().begin(3)
    await bench.forward(timedelta(hours=1))
    second = await bench.new().begin(1)
    third = await bench.new().begin(1)
    assert [turn.first_change_seq - first.first_change_seq for turn in (second, third)] == [3, 4]
    assert first.now + timedelta(hours=1) <= second.now <= third.now
    assert second.moment(0) == (second.first_change_seq, second.now)
    assert first.active_version == 1


async def test_a_ledger_is_shut_until_it_is_opened(bench: Bench) -> None:
    assert not (await bench.new().begin(1)).is_open
    await bench.open()
    assert (await bench.new().begin(1)).is_open


async def test_what_is_live_ends_at_its_instant_though_nobody_writes_it_down(bench: Bench) -> None:
    await bench.run(placing("h", 100), placing("i", 30, ttl=2 * TTL), placing("j", 5, ttl=2 * TTL))
    assert (await bench.account()).live_micro_usd == 135
    await bench.forward(TTL)
    assert (await bench.account()).live_micro_usd == 35
    (placed,) = await bench.run(placing("k", 10, limits={"ada": 45}))
    assert changed(placed).amount_micro_usd == 10
    assert (await bench.account()).live_micro_usd == 45
    await bench.forward(TTL)
    assert (await bench.account()).live_micro_usd == 0
    assert [refused(each) for each in await bench.run(settling("h", 1), settling("i", 1))] == [Why.ENDED] * 2
    (expired,) = await bench.run(expiring("h"))
    assert await bench.hold("h") == changed(expired)
    assert changed(expired).state is HoldState.EXPIRED


async def test_a_settlement_by_call_counts_as_settling_until_it_is_shown(bench: Bench) -> None:
    await bench.run(placing("h", 100), settling("h", 70))
    account = await bench.account()
    assert (account.live_micro_usd, account.settling_micro_usd, account.covered_micro_usd) == (0, 70, 70)
    await bench.run(showing("h"))
    account = await bench.account()
    assert (account.live_micro_usd, account.settling_micro_usd, account.covered_micro_usd) == (0, 0, 70)
    await bench.run(using("h", 50))
    assert (await bench.account()).covered_micro_usd == 50


async def test_parts_are_found_with_the_hold_they_are_in(bench: Bench) -> None:
    await bench.run(placing("h", 100, ["ada", "team/red"]))
    await bench.run(placing("p", 60, parent="h"), placing("q", 40, parent="p"))
    (exhausted,) = await bench.run(placing("r", 41, parent="h"))
    assert refused(exhausted) is Why.PARENT_EXHAUSTED
    await bench.run(settling("q", 35))
    for name in ("ada", "team/red"):
        account = await bench.account(name)
        assert (account.live_micro_usd, account.covered_micro_usd) == (65, 35)
    await bench.run(releasing("h"))
    assert [(await bench.hold(each)).state for each in ("h", "p", "q")] == ["released", "released", "settled"]
    assert (await bench.account()).live_micro_usd == 0
    await bench.run(using("q", 30))
    assert [(await bench.hold(each)).covered_micro_usd for each in ("h", "p", "q")] == [30, 30, 30]
    assert (await bench.account("team/red")).covered_micro_usd == 30


async def test_posted_amounts_are_those_of_both_purposes_from_every_source(bench: Bench) -> None:
    await bench.post(account_id("ada"), 70)
    await bench.post(account_id("team/red"), 7)
    ledger = bench.new()
    turn = await ledger.begin(1)
    named = [account_id("ada"), account_id("team/red"), account_id("eve")]
    committed = await ledger.committed(turn.active_version, named)
    assert committed == (0, dict(zip(named, (70, 7, 0), strict=True)))


async def test_commands_of_one_turn_see_each_other(bench: Bench) -> None:
    outcomes = await bench.run(
        placing("h", 60, limits={"ada": 100}),
        placing("i", 60, limits={"ada": 100}),
        releasing("h"),
        placing("j", 60, limits={"ada": 100}),
        extending("j", PERIOD_END),
        settling("j", 50),
    )
    assert [isinstance(each, Change) for each in outcomes] == [True, False, True, True, True, True]
    account = await bench.account()
    assert (account.placements, account.live_micro_usd, account.covered_micro_usd) == (2, 0, 50)
    assert (await bench.hold("h")).state is HoldState.RELEASED
    assert [hold_id for hold_id, _ in await bench.told()] == ["h", "h", "j", "j", "j"]


async def test_the_tables_refuse_what_no_command_may_do(stack: Stack) -> None:
    """Whatever the code believes: an overshoot, a second placement of a number, an account below nothing."""
    url, schemas = stack.new_database("quota"), Schemas("quota")
    await migrations(schemas).migrate(url)
    async with await create_pool(url, schemas, application_name="test") as pool:
        async with pool.acquire() as connection, connection.transaction():
            await take_turn(
                PostgresHoldLedger(connection, schemas, hold_event), placing("h", 60, limits={"ada": 100})
            )
        refused: dict[type[Exception], tuple[str, ...]] = {
            asyncpg.CheckViolationError: (
                "UPDATE placement SET committed_before_micro_usd = 41",
                "UPDATE ledger_account SET live_micro_usd = -1",
                "UPDATE ledger_account SET covered_micro_usd = -1",
                "UPDATE ledger_account SET settling_micro_usd = -1",
                "UPDATE expiry SET amount_micro_usd = -1",
                "UPDATE live_hold SET covered_micro_usd = 61, cost_micro_usd = 61",
                "UPDATE live_hold SET covered_micro_usd = 60, cost_micro_usd = 59",
                "UPDATE placed_hold SET placed_until = placed_at",
                "UPDATE placed_hold SET kind = 'part'",
                "UPDATE placed_hold SET root_no = 1",
            ),
            asyncpg.UniqueViolationError: (
                "INSERT INTO placement SELECT * FROM placement",
                "INSERT INTO placed_hold SELECT * FROM placed_hold",
                "INSERT INTO ledger DEFAULT VALUES",
            ),
        }
        for error, statement in ((error, each) for error, those in refused.items() for each in those):
            with pytest.raises(error):
                await pool.execute(statement)
