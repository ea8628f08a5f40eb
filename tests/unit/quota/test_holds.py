"""The rules of holds, by example."""

from datetime import timedelta

import pytest

from tests.support.holds import (
    PERIOD_END,
    TTL,
    Command,
    account_id,
    expiring,
    extending,
    placing,
    releasing,
    settling,
    showing,
    take_turn,
    using,
)
from tests.support.memory_hold_ledger import MemoryHoldLedger
from tokenomics_quota.domain.holds import (
    DEEPEST_PART,
    LONGEST_TTL,
    MOST_LIVE_PARTS,
    AccountState,
    Change,
    Event,
    Hold,
    HoldKind,
    HoldState,
    Refusal,
    Why,
    differing_fields,
    digest_of,
)

BOTH = ("ada", "team/red")


@pytest.fixture
def ledger() -> MemoryHoldLedger:
    return MemoryHoldLedger()


async def done(ledger: MemoryHoldLedger, command: Command) -> Hold:
    (outcome,) = await take_turn(ledger, command)
    assert isinstance(outcome, Change), outcome
    return outcome.hold


async def refused(ledger: MemoryHoldLedger, command: Command) -> Refusal:
    """Return why nothing was changed, having looked that nothing was."""
    before = (dict(ledger.rows), dict(ledger.expiry), len(ledger.placements), len(ledger.happened))
    (outcome,) = await take_turn(ledger, command)
    assert isinstance(outcome, Refusal), outcome
    assert before == (ledger.rows, ledger.expiry, len(ledger.placements), len(ledger.happened))
    return outcome


def amounts(ledger: MemoryHoldLedger, name: str = "ada") -> tuple[int, int, int]:
    """Return what is live, settling and covered on an account."""
    account = ledger.account_now(account_id(name))
    return account.live_micro_usd, account.settling_micro_usd, account.covered_micro_usd


def told(ledger: MemoryHoldLedger) -> list[tuple[str, Event]]:
    return [(each.hold.hold_id, each.event) for each, _ in ledger.happened]


def forward(ledger: MemoryHoldLedger, by: timedelta) -> None:
    ledger.clock = max(ledger.clock, ledger.last_now) + by


async def test_a_hold_is_placed_on_all_accounts_or_on_none(ledger: MemoryHoldLedger) -> None:
    limits = {"ada": 100, "team/red": 50}
    refusal = await refused(ledger, placing("h", 60, BOTH, limits=limits))
    assert refusal.why is Why.LIMIT
    assert refusal.accounts == [
        (account_id("team/red"), "50 micro-USD are left of 50, 60 are asked for"),
    ]
    assert [amounts(ledger, name) for name in BOTH] == [(0, 0, 0)] * 2
    await done(ledger, placing("h", 50, BOTH, limits=limits))
    assert [amounts(ledger, name) for name in BOTH] == [(50, 0, 0)] * 2


async def test_a_limit_can_be_reached_exactly_and_not_passed(ledger: MemoryHoldLedger) -> None:
    await done(ledger, placing("h", 60, limits={"ada": 100}))
    assert (await refused(ledger, placing("i", 41, limits={"ada": 100}))).why is Why.LIMIT
    await done(ledger, placing("i", 40, limits={"ada": 100}))
    assert (await refused(ledger, placing("j", 1, limits={"ada": 100}))).why is Why.LIMIT
    assert ledger.placements[-1].committed_before_micro_usd == 60


async def test_an_account_without_a_hard_limit_takes_every_hold(ledger: MemoryHoldLedger) -> None:
    await done(ledger, placing("h", 10**12, posted={"ada": 10**15}))
    assert ledger.placements[-1].limit_then_micro_usd is None


async def test_what_is_posted_and_settling_counts_against_a_hard_limit_too(ledger: MemoryHoldLedger) -> None:
    await done(ledger, placing("h", 10))
    await done(ledger, settling("h", 30))
    tight = {"limits": {"ada": 100}, "posted": {"ada": 50}}
    assert (await refused(ledger, placing("i", 21, **tight))).why is Why.LIMIT  # type: ignore[arg-type]
    await done(ledger, placing("i", 20, **tight))  # type: ignore[arg-type]


async def test_covered_counts_against_a_hard_limit_before_anything_is_posted(
    ledger: MemoryHoldLedger,
) -> None:
    """However far the log is behind."""
    await done(ledger, placing("h", 60, limits={"ada": 100}))
    await done(ledger, using("h", 60))
    assert amounts(ledger) == (0, 0, 60)
    assert (await refused(ledger, placing("i", 41, limits={"ada": 100}))).why is Why.LIMIT


@pytest.mark.parametrize("state", [AccountState.FROZEN, AccountState.CLOSED])
async def test_an_account_that_is_shut_takes_neither_holds_nor_parts(
    ledger: MemoryHoldLedger, state: AccountState
) -> None:
    await done(ledger, placing("h", 10, BOTH))
    red = ledger.account_now(account_id("team/red"))
    ledger.ledger_accounts[red.account_no] = red._replace(state=state)
    for command in (placing("i", 1, BOTH), placing("p", 1, parent="h")):
        refusal = await refused(ledger, command)
        assert (refusal.why, refusal.accounts) == (Why.ACCOUNT_SHUT, [(red.account_id, f"is {state}")])
    assert (await done(ledger, settling("h", 5))).state is HoldState.SETTLED


async def test_a_hold_ends_with_its_period_and_at_a_full_tenth_of_a_second(ledger: MemoryHoldLedger) -> None:
    ledger.clock = PERIOD_END - timedelta(seconds=30, microseconds=1)
    assert (await done(ledger, placing("h", 1))).expires_at == PERIOD_END
    short = await done(ledger, placing("i", 1, ttl=timedelta(seconds=7, microseconds=123_456)))
    assert short.expires_at == PERIOD_END - timedelta(seconds=22.9)


async def test_a_cost_within_the_hold_frees_the_rest(ledger: MemoryHoldLedger) -> None:
    await done(ledger, placing("h", 100, BOTH))
    hold = await done(ledger, using("h", 70))
    assert (hold.state, hold.covered_micro_usd, hold.cost_micro_usd) == (HoldState.SETTLED, 70, 70)
    assert [amounts(ledger, name) for name in BOTH] == [(0, 0, 70)] * 2


async def test_a_cost_above_the_hold_counts_in_full_and_is_covered_as_far_as_the_hold_goes(
    ledger: MemoryHoldLedger,
) -> None:
    await done(ledger, placing("h", 100))
    hold = await done(ledger, settling("h", 130))
    assert (hold.covered_micro_usd, hold.cost_micro_usd) == (100, 130)
    assert amounts(ledger) == (0, 130, 100)


async def test_settling_is_done_once(ledger: MemoryHoldLedger) -> None:
    await done(ledger, placing("h", 100))
    settled = await done(ledger, settling("h", 70))
    assert await done(ledger, settling("h", 70)) == settled
    assert (await refused(ledger, settling("h", 71))).why is Why.SETTLED_OTHERWISE
    assert (await refused(ledger, releasing("h"))).why is Why.SETTLED
    assert (await refused(ledger, extending("h", PERIOD_END))).why is Why.ENDED
    assert told(ledger) == [("h", Event.PLACED), ("h", Event.SETTLED)]


async def test_usage_takes_the_place_of_what_the_caller_settled_and_only_once(
    ledger: MemoryHoldLedger,
) -> None:
    await done(ledger, placing("h", 100))
    await done(ledger, settling("h", 70))
    assert amounts(ledger) == (0, 70, 70)
    hold = await done(ledger, using("h", 40))
    assert (hold.cost_micro_usd, hold.covered_micro_usd, amounts(ledger)) == (40, 40, (0, 0, 40))
    assert (await refused(ledger, using("h", 60))).why is Why.SETTLED
    assert amounts(ledger) == (0, 0, 40)


async def test_usage_above_what_the_caller_settled_is_covered_no_further(ledger: MemoryHoldLedger) -> None:
    await done(ledger, placing("h", 100))
    await done(ledger, settling("h", 70))
    await done(ledger, showing("h"))
    assert amounts(ledger) == (0, 0, 70)
    hold = await done(ledger, using("h", 90))
    assert (hold.cost_micro_usd, hold.covered_micro_usd, amounts(ledger)) == (90, 70, (0, 0, 70))


async def test_nothing_settles_a_hold_that_has_ended(ledger: MemoryHoldLedger) -> None:
    await done(ledger, placing("h", 100))
    await done(ledger, placing("i", 100))
    await done(ledger, releasing("i"))
    forward(ledger, TTL)
    for hold_id in ("h", "i"):
        assert (await refused(ledger, settling(hold_id, 1))).why is Why.ENDED
        assert (await refused(ledger, using(hold_id, 1))).why is Why.ENDED
    assert amounts(ledger) == (0, 0, 0)


async def test_a_released_hold_frees_all_and_stays_released(ledger: MemoryHoldLedger) -> None:
    await done(ledger, placing("h", 100))
    released = await done(ledger, releasing("h"))
    assert (released.state, amounts(ledger)) == (HoldState.RELEASED, (0, 0, 0))
    assert await done(ledger, releasing("h")) == released
    assert told(ledger) == [("h", Event.PLACED), ("h", Event.RELEASED)]


async def test_a_clock_that_steps_back_revives_nothing(ledger: MemoryHoldLedger) -> None:
    await done(ledger, placing("h", 100, limits={"ada": 100}))
    forward(ledger, TTL)
    await done(ledger, placing("i", 100, limits={"ada": 100}))
    ledger.clock -= timedelta(hours=2)
    assert amounts(ledger) == (100, 0, 0)
    assert (await refused(ledger, settling("h", 1))).why is Why.ENDED
    assert (await refused(ledger, placing("j", 1, limits={"ada": 100}))).why is Why.LIMIT


async def test_an_expired_hold_is_written_down_once_and_frees_nothing_a_second_time(
    ledger: MemoryHoldLedger,
) -> None:
    await done(ledger, placing("h", 100))
    assert (await done(ledger, expiring("h"))).state is HoldState.LIVE
    forward(ledger, TTL)
    assert amounts(ledger) == (0, 0, 0)
    assert (await done(ledger, releasing("h"))).state_at(ledger.last_now) is HoldState.EXPIRED
    for _ in range(2):
        assert (await done(ledger, expiring("h"))).state is HoldState.EXPIRED
    assert told(ledger) == [("h", Event.PLACED), ("h", Event.EXPIRED)]
    assert amounts(ledger) == (0, 0, 0)


async def test_an_end_moves_later_and_never_earlier(ledger: MemoryHoldLedger) -> None:
    placed = await done(ledger, placing("h", 100))
    later = await done(ledger, extending("h", placed.expires_at + TTL))
    assert later.expires_at == placed.expires_at + TTL
    assert await done(ledger, extending("h", placed.expires_at)) == later
    forward(ledger, TTL)
    assert amounts(ledger) == (100, 0, 0)
    forward(ledger, TTL)
    assert amounts(ledger) == (0, 0, 0)
    assert (await refused(ledger, extending("h", PERIOD_END))).why is Why.ENDED
    assert told(ledger) == [("h", Event.PLACED), ("h", Event.EXTENDED)]


async def test_an_end_moves_at_most_so_far(ledger: MemoryHoldLedger) -> None:
    await done(ledger, placing("h", 100))
    assert (await done(ledger, extending("h", PERIOD_END))).expires_at == ledger.last_now + LONGEST_TTL
    ledger.clock = PERIOD_END - TTL
    await done(ledger, placing("i", 100, ttl=timedelta(seconds=1)))
    assert (await done(ledger, extending("i", PERIOD_END + TTL))).expires_at == PERIOD_END


async def test_parts_use_what_their_parent_has_left_and_add_nothing(ledger: MemoryHoldLedger) -> None:
    await done(ledger, placing("h", 100, BOTH))
    part = await done(ledger, placing("p", 60, parent="h", ttl=2 * TTL, subject="bot"))
    assert (part.account_nos, part.expires_at) == ((), ledger.rows[1].expires_at)
    refusal = await refused(ledger, placing("q", 41, parent="h"))
    assert (refusal.why, refusal.left_micro_usd) == (Why.PARENT_EXHAUSTED, 40)
    await done(ledger, placing("q", 40, parent="p"))
    assert (await refused(ledger, placing("r", 21, parent="p"))).left_micro_usd == 20
    assert [amounts(ledger, name) for name in BOTH] == [(100, 0, 0)] * 2


async def test_settling_a_part_settles_that_part_of_all_above(ledger: MemoryHoldLedger) -> None:
    await done(ledger, placing("h", 100, BOTH))
    await done(ledger, placing("p", 60, parent="h"))
    await done(ledger, placing("q", 50, parent="p"))
    await done(ledger, settling("q", 55))
    assert [amounts(ledger, name) for name in BOTH] == [(50, 55, 50)] * 2
    assert [ledger.rows[number].covered_micro_usd for number in (1, 2, 3)] == [50, 50, 50]
    await done(ledger, using("p", 4))
    assert amounts(ledger) == (46, 55, 54)
    # What the part had left fell back to its parent: 100 - 54, of which nothing is kept for parts any more.
    assert (await refused(ledger, placing("r", 47, parent="h"))).left_micro_usd == 46
    assert (await done(ledger, using("h", 10))).covered_micro_usd == 64
    assert amounts(ledger) == (0, 55, 64)


async def test_usage_below_what_a_part_settled_falls_back_to_its_live_parent(
    ledger: MemoryHoldLedger,
) -> None:
    await done(ledger, placing("h", 100))
    await done(ledger, placing("p", 60, parent="h"))
    await done(ledger, settling("p", 60))
    assert amounts(ledger) == (40, 60, 60)
    await done(ledger, using("p", 10))
    assert amounts(ledger) == (90, 0, 10)
    await done(ledger, releasing("h"))
    assert amounts(ledger) == (0, 0, 10)


async def test_parts_end_with_their_parent_and_with_their_own_end(ledger: MemoryHoldLedger) -> None:
    await done(ledger, placing("h", 100))
    await done(ledger, placing("p", 60, parent="h"))
    await done(ledger, placing("q", 30, parent="p"))
    await done(ledger, placing("short", 40, parent="h", ttl=timedelta(seconds=1)))
    forward(ledger, timedelta(seconds=1))
    await done(ledger, placing("next", 40, parent="h"))
    await done(ledger, settling("h", 7))
    assert told(ledger)[5:] == [
        ("p", Event.RELEASED),
        ("next", Event.RELEASED),
        ("q", Event.RELEASED),
        ("h", Event.SETTLED),
    ]
    assert (await refused(ledger, settling("q", 1))).why is Why.ENDED
    assert amounts(ledger) == (0, 7, 7)


@pytest.mark.parametrize("end", [settling("h", 1), releasing("h"), None])
async def test_a_hold_that_has_ended_has_no_new_parts(ledger: MemoryHoldLedger, end: Command | None) -> None:
    await done(ledger, placing("h", 100))
    if end is not None:
        await done(ledger, end)
    else:
        forward(ledger, TTL)
    assert (await refused(ledger, placing("p", 1, parent="h"))).why is Why.PARENT_ENDED
    assert (await refused(ledger, placing("p", 1, parent="nobody"))).why is Why.PARENT_ENDED


async def test_a_runaway_tree_stops_itself(ledger: MemoryHoldLedger) -> None:
    await done(ledger, placing("p0", 10_000))
    for depth in range(DEEPEST_PART):
        await done(ledger, placing(f"p{depth + 1}", 5_000, parent=f"p{depth}"))
    assert (await refused(ledger, placing("deep", 1, parent=f"p{DEEPEST_PART}"))).why is Why.TOO_MANY_PARTS
    more = [placing(f"many{number}", 1, parent="p0") for number in range(MOST_LIVE_PARTS)]
    outcomes = await take_turn(ledger, *more)
    assert [isinstance(each, Change) for each in outcomes].count(True) == MOST_LIVE_PARTS - DEEPEST_PART
    await done(ledger, releasing("many0"))
    await done(ledger, placing("one-more", 1, parent="p0"))
    assert amounts(ledger) == (10_000, 0, 0)


async def test_each_usage_settles_some_of_a_lease(ledger: MemoryHoldLedger) -> None:
    await done(ledger, placing("l", 100, kind=HoldKind.LEASE))
    for cost, expected in ((30, (70, 0, 30)), (50, (20, 0, 80)), (40, (0, 0, 100)), (1, (0, 0, 100))):
        lease = await done(ledger, using("l", cost))
        assert (lease.state, amounts(ledger)) == (HoldState.LIVE, expected)
    assert (lease.cost_micro_usd, lease.covered_micro_usd) == (121, 100)
    assert (await refused(ledger, settling("l", 1))).why is Why.LEASE
    assert (await refused(ledger, placing("p", 1, parent="l"))).why is Why.PARENT_ENDED


async def test_what_nobody_placed_is_unknown(ledger: MemoryHoldLedger) -> None:
    for command in (
        settling("h", 1),
        using("h", 1),
        releasing("h"),
        extending("h", PERIOD_END),
        expiring("h"),
        showing("h"),
    ):
        assert (await refused(ledger, command)).why is Why.UNKNOWN


def test_a_digest_tells_in_which_fields_requests_differ() -> None:
    asked: dict[str, str | int] = {"subject": "ada", "tokens": 4, "project": "", "ttl": 0}
    fields = list(asked)
    digest = digest_of(asked)
    assert differing_fields(digest, digest_of(dict(asked)), fields) == []
    assert differing_fields(digest, digest_of(asked | {"tokens": 5}), fields) == ["tokens"]
    other = digest_of(asked | {"subject": "eve", "project": "p"})
    assert differing_fields(digest, other, fields) == ["subject", "project"]
    moved: dict[str, str | int] = {"subject": "ada", "tokens": 0, "project": "4", "ttl": 0}
    assert differing_fields(digest, digest_of(moved), fields) == ["tokens", "project"]


def test_a_field_that_is_added_and_not_set_changes_no_request() -> None:
    asked: dict[str, str | int] = {"subject": "ada", "tokens": 4}
    later = digest_of(asked | {"new": ""})
    assert differing_fields(digest_of(asked), later, ["subject", "tokens", "new"]) == []
    set_now = digest_of(asked | {"new": "x"})
    assert differing_fields(later, set_now, ["subject", "tokens", "new"]) == ["new"]
