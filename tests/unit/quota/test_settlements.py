"""Holds end by the facts that name them: once each, covered as far as they were live."""

from collections.abc import Collection
from datetime import timedelta

import pytest

from tests.support.holds import TTL, account_id, acquiring, placing, releasing, settling, take_turn
from tests.support.memory_hold_ledger import MemoryHoldLedger
from tokenomics_contracts.units import HoldId, MicroUsd
from tokenomics_quota.domain.holds import Hold, HoldState
from tokenomics_quota.usecases.settling import Cause, Naming, Settled, expire_holds, settle_facts


@pytest.fixture
def ledger() -> MemoryHoldLedger:
    return MemoryHoldLedger()


def naming(hold_id: str, cost: int, usage: str = "u", *, provisional: bool = False) -> Naming:
    return Naming(usage.encode().ljust(16), HoldId(hold_id), MicroUsd(cost), provisional)


async def settled(ledger: MemoryHoldLedger, *facts: Naming, drawn: Collection[bytes] = ()) -> Settled:
    async def known(_: Collection[bytes]) -> Collection[bytes]:
        return drawn

    return await settle_facts(ledger, facts, known)


def hold(ledger: MemoryHoldLedger, hold_id: str) -> Hold:
    return next(each for each in ledger.rows.values() if each.hold_id == hold_id)


def amounts(ledger: MemoryHoldLedger, name: str = "ada") -> tuple[int, int, int]:
    account = ledger.account_now(account_id(name))
    return account.live_micro_usd, account.settling_micro_usd, account.covered_micro_usd


async def test_usage_ends_its_hold_and_what_it_cost_above_is_measured(ledger: MemoryHoldLedger) -> None:
    await take_turn(ledger, placing("a", 50), placing("b", 30))
    outcome = await settled(ledger, naming("a", 20, "u1"), naming("b", 45, "u2"))
    assert outcome == Settled(2, {Cause.ABOVE: 15}, [])
    assert amounts(ledger) == (0, 0, 50)
    assert {hold(ledger, name).state for name in "ab"} == {HoldState.SETTLED}


async def test_other_usage_of_a_hold_is_not_covered(ledger: MemoryHoldLedger) -> None:
    await take_turn(ledger, placing("a", 50), placing("b", 30), placing("c", 10), releasing("c"))
    first = await settled(ledger, naming("a", 20, "u1"), naming("a", 7, "u2"))
    assert first == Settled(1, {Cause.AGAIN: 7}, [])
    ledger.clock += TTL
    late = await settled(ledger, naming("b", 5), naming("c", 3), naming("nobody's", 9))
    assert late == Settled(0, {Cause.ENDED: 8}, [])
    assert amounts(ledger) == (0, 0, 20)


async def test_what_a_caller_said_settles_until_its_fact_or_usage_is_there(ledger: MemoryHoldLedger) -> None:
    await take_turn(ledger, placing("a", 50), placing("b", 50), settling("a", 20), settling("b", 30))
    assert amounts(ledger) == (0, 50, 50)
    assert await settled(ledger, naming("a", 20, provisional=True)) == Settled(0, {}, [])
    assert amounts(ledger) == (0, 30, 50)
    assert await settled(ledger, naming("b", 12, "u1"), naming("b", 30, provisional=True)) == Settled(
        0, {}, []
    )
    assert amounts(ledger) == (0, 0, 32)
    assert await settled(ledger, naming("a", 25, "u2")) == Settled(0, {Cause.ABOVE: 5}, [])
    assert amounts(ledger) == (0, 0, 32)


async def test_each_usage_event_settles_some_of_a_lease_once(ledger: MemoryHoldLedger) -> None:
    await take_turn(ledger, acquiring("l", 50))
    number = hold(ledger, "l").hold_no
    first, second, known = naming("l", 20, "u1"), naming("l", 25, "u2"), naming("l", 3, "u3")
    outcome = await settled(ledger, first, second, first, known, drawn=[known.identity])
    assert outcome == Settled(0, {}, [(first.identity, number), (second.identity, number)])
    assert amounts(ledger) == (5, 0, 45)
    assert (await settled(ledger, naming("l", 8, "u4"))).uncovered_micro_usd == {Cause.ABOVE: 3}
    assert amounts(ledger) == (0, 0, 50)


async def test_a_fact_read_again_changes_nothing(ledger: MemoryHoldLedger) -> None:
    await take_turn(ledger, placing("a", 50), placing("part", 20, parent="a"))
    facts = naming("part", 15, "u1"), naming("a", 30, "u2")
    await settled(ledger, *facts)
    before = dict(ledger.rows), len(ledger.happened), amounts(ledger)
    await settled(ledger, *facts)
    assert (dict(ledger.rows), len(ledger.happened), amounts(ledger)) == before
    assert amounts(ledger) == (0, 0, 45)


async def test_it_is_written_down_which_holds_have_ended_and_of_no_others(ledger: MemoryHoldLedger) -> None:
    await take_turn(ledger, placing("a", 50), placing("b", 30, ttl=2 * TTL))
    ledger.clock += TTL + timedelta(seconds=1)
    assert amounts(ledger) == (30, 0, 0)
    assert await expire_holds(ledger, [HoldId("a"), HoldId("b"), HoldId("gone")]) == 1
    assert [hold(ledger, name).state for name in "ab"] == [HoldState.EXPIRED, HoldState.LIVE]
    assert amounts(ledger) == (30, 0, 0)
