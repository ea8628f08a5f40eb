"""Leases: held like a hold, drawn from elsewhere, settled bit by bit, and back by themselves."""

from datetime import datetime, timedelta

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
    take_turn,
    using,
)
from tests.support.memory_hold_ledger import MemoryHoldLedger
from tokenomics_quota.domain.holds import Change, Event, Hold, HoldState, Lease, Refusal, Why

START = datetime.fromisoformat("2026-11-20T12:00:00+00:00")
BOTH = ["ada", "team/red"]
HARD = {"team/red": 100}


@pytest.fixture
def ledger() -> MemoryHoldLedger:
    return MemoryHoldLedger(clock=START, last_now=START)


async def changed(ledger: MemoryHoldLedger, command: object) -> Hold:
    (outcome,) = await take_turn(ledger, command)  # type: ignore[arg-type]
    assert isinstance(outcome, Change), outcome
    return outcome.hold


async def refused(ledger: MemoryHoldLedger, command: object) -> Why:
    (outcome,) = await take_turn(ledger, command)  # type: ignore[arg-type]
    assert isinstance(outcome, Refusal), outcome
    return outcome.why


async def live(ledger: MemoryHoldLedger, name: str = "ada") -> int:
    await ledger.begin(0)
    (account,) = await ledger.accounts([account_id(name)])
    return account.live_micro_usd


def lease_of(hold: Hold) -> Lease:
    assert hold.lease is not None
    return hold.lease


async def test_what_it_holds_is_free_no_sooner_than_its_last_call_may_end(ledger: MemoryHoldLedger) -> None:
    hold = await changed(ledger, acquiring("l", 60, BOTH, draw_for=TTL, longest_call=2 * TTL))
    assert lease_of(hold).draw_until == START + TTL
    assert hold.expires_at == START + 3 * TTL
    ledger.clock = hold.expires_at - timedelta(microseconds=1)
    assert await live(ledger) == 60
    ledger.clock = hold.expires_at
    assert (await live(ledger), await live(ledger, "team/red")) == (0, 0)
    assert (await changed(ledger, expiring("l"))).state is HoldState.EXPIRED


async def test_it_fits_under_a_hard_limit_or_there_is_none(ledger: MemoryHoldLedger) -> None:
    await changed(ledger, placing("h", 50, BOTH, limits=HARD))
    assert await refused(ledger, acquiring("l", 51, BOTH, limits=HARD)) is Why.LIMIT
    await changed(ledger, acquiring("l", 50, BOTH, limits=HARD))
    assert await live(ledger, "team/red") == 100


async def test_drawing_ends_before_its_price_changes(ledger: MemoryHoldLedger) -> None:
    soon = START + timedelta(seconds=20)
    assert lease_of(await changed(ledger, acquiring("l", 60, same_until=soon))).draw_until == soon
    assert await refused(ledger, acquiring("m", 60, same_until=START)) is Why.NO_TIME
    assert await refused(ledger, renewing("l", 1, 5, same_until=START)) is Why.NO_TIME


async def test_drawing_ends_so_long_before_the_period_that_a_call_fits() -> None:
    ledger = MemoryHoldLedger(clock=PERIOD_END - 3 * TTL, last_now=PERIOD_END - 3 * TTL)
    hold = await changed(ledger, acquiring("l", 60, draw_for=5 * TTL, longest_call=TTL))
    assert (hold.expires_at, lease_of(hold).draw_until) == (PERIOD_END, PERIOD_END - TTL)
    assert await refused(ledger, acquiring("m", 60, draw_for=TTL, longest_call=3 * TTL)) is Why.NO_TIME


async def test_each_usage_event_settles_some_of_it(ledger: MemoryHoldLedger) -> None:
    await changed(ledger, acquiring("l", 60, BOTH))
    await changed(ledger, using("l", 20))
    hold = await changed(ledger, using("l", 50, b"v" * 16))
    assert (hold.state, hold.covered_micro_usd, hold.cost_micro_usd) == (HoldState.LIVE, 60, 70)
    assert await live(ledger, "team/red") == 0


async def test_a_renewal_adds_and_lasts_longer(ledger: MemoryHoldLedger) -> None:
    await changed(ledger, acquiring("l", 60, BOTH, limits=HARD))
    await changed(ledger, using("l", 25))
    ledger.clock += TTL / 2
    hold = await changed(ledger, renewing("l", 1, 40, BOTH, limits=HARD, drawn=30))
    assert (hold.amount_micro_usd, hold.left_micro_usd) == (100, 75)
    assert (lease_of(hold).renewal, lease_of(hold).drawn_micro_usd) == (1, 30)
    assert lease_of(hold).draw_until == START + TTL * 3 / 2
    assert hold.expires_at == START + TTL * 5 / 2
    assert await live(ledger, "team/red") == 75
    assert [each.committed_before_micro_usd for each in ledger.placements] == [0, 0, 60, 60]
    ledger.clock = hold.expires_at
    assert await live(ledger, "team/red") == 0


async def test_a_renewal_that_does_not_fit_leaves_the_lease_as_it_is(ledger: MemoryHoldLedger) -> None:
    before = await changed(ledger, acquiring("l", 60, BOTH, limits=HARD))
    assert await refused(ledger, renewing("l", 1, 41, BOTH, limits=HARD)) is Why.LIMIT
    assert ledger.rows[before.hold_no] == before


async def test_the_same_renewal_again_changes_nothing(ledger: MemoryHoldLedger) -> None:
    await changed(ledger, acquiring("l", 60))
    first = await changed(ledger, renewing("l", 1, 10, drawn=5))
    told = len(ledger.happened)
    assert await changed(ledger, renewing("l", 1, 10, drawn=5)) == first
    assert len(ledger.happened) == told
    assert await refused(ledger, renewing("l", 1, 11, drawn=5)) is Why.RENEWED_OTHERWISE
    assert await refused(ledger, renewing("l", 3, 10)) is Why.OUT_OF_TURN


async def test_who_is_counted_on_other_accounts_by_now_acquires_another(ledger: MemoryHoldLedger) -> None:
    await changed(ledger, acquiring("l", 60, BOTH))
    assert await refused(ledger, renewing("l", 1, 10, ["ada", "cost_centre/cc"])) is Why.MOVED


async def test_a_returned_lease_keeps_what_was_drawn_until_usage_tells(ledger: MemoryHoldLedger) -> None:
    await changed(ledger, acquiring("l", 60, BOTH))
    await changed(ledger, using("l", 10))
    hold = await changed(ledger, returning("l", 25))
    assert (hold.amount_micro_usd, hold.left_micro_usd) == (25, 15)
    assert await live(ledger, "team/red") == 15
    assert await refused(ledger, renewing("l", 1, 10, BOTH)) is Why.ENDED
    assert await changed(ledger, returning("l", 3)) == hold, "returned once"
    await changed(ledger, using("l", 15, b"v" * 16))
    assert await live(ledger, "team/red") == 0


@pytest.mark.parametrize(("drawn", "kept"), [(5, 10), (1_000, 60)])
async def test_returned_is_no_less_than_was_settled_and_no_more_than_was_held(
    ledger: MemoryHoldLedger, drawn: int, kept: int
) -> None:
    await changed(ledger, acquiring("l", 60))
    await changed(ledger, using("l", 10))
    assert (await changed(ledger, returning("l", drawn))).amount_micro_usd == kept


async def test_a_lease_is_no_hold_for_a_call_and_a_hold_no_lease(ledger: MemoryHoldLedger) -> None:
    await changed(ledger, acquiring("l", 60))
    await changed(ledger, placing("h", 60))
    for command in (settling("l", 5), releasing("l"), extending("l", START + 9 * TTL)):
        assert await refused(ledger, command) is Why.LEASE
    for command in (renewing("h", 1, 5), returning("h", 5)):
        assert await refused(ledger, command) is Why.NO_LEASE
    assert await refused(ledger, placing("p", 5, parent="l")) is Why.PARENT_ENDED


async def test_a_lease_that_has_ended_is_settled_and_renewed_no_more(ledger: MemoryHoldLedger) -> None:
    hold = await changed(ledger, acquiring("l", 60))
    ledger.clock = hold.expires_at
    assert await refused(ledger, renewing("l", 1, 5)) is Why.ENDED
    assert await refused(ledger, using("l", 5)) is Why.ENDED
    assert (await changed(ledger, returning("l", 5))).amount_micro_usd == 60


async def test_what_happened_is_told(ledger: MemoryHoldLedger) -> None:
    for command in (acquiring("l", 60), renewing("l", 1, 5), using("l", 7), returning("l", 9)):
        await changed(ledger, command)
    assert [each.event for each, _ in ledger.happened] == [
        Event.PLACED,
        Event.RENEWED,
        Event.SETTLED,
        Event.RETURNED,
    ]
