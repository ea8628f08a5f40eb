"""The hold ledger against a plain model of it, which knows no running totals, no books and no batches."""

import asyncio
from dataclasses import dataclass
from datetime import datetime, timedelta

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from tests.support.holds import (
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
from tokenomics_quota.domain.holds import HoldState, Refusal, Why

# Far from the period's end, which the model doesn't know.
START = datetime.fromisoformat("2026-11-20T12:00:00+00:00")
NAMES = ("ada", "eve", "team/red", "cost_centre/cc")
LIMITS = {"ada": 100, "team/red": 150}
IDS = [f"h{number}" for number in range(8)]


@dataclass
class Held:
    """What was asked for, and what came of it."""

    amount: int
    accounts: frozenset[str]
    parent: str | None
    ends: datetime
    own_covered: int = 0
    cost: int | None = None
    provisional: int = 0
    by_usage: bool = False
    outcome: HoldState = HoldState.LIVE


class Model:
    """Adds everything up from what was asked for, each time anew."""

    def __init__(self) -> None:
        self.held: dict[str, Held] = {}
        self.now = START

    def covered(self, name: str) -> int:
        below = sum(self.covered(each) for each, held in self.held.items() if held.parent == name)
        return self.held[name].own_covered + below

    def is_live(self, name: str) -> bool:
        held = self.held[name]
        alone = held.outcome is HoldState.LIVE and self.now < held.ends
        return alone and (held.parent is None or self.is_live(held.parent))

    def unused(self, name: str) -> int:
        return self.held[name].amount - self.covered(name)

    def left(self, name: str) -> int:
        parts = [each for each, held in self.held.items() if held.parent == name and self.is_live(each)]
        return self.unused(name) - sum(map(self.unused, parts))

    def roots_on(self, account: str) -> list[str]:
        return [each for each, held in self.held.items() if account in held.accounts]

    def live_on(self, account: str) -> int:
        return sum(self.unused(each) for each in self.roots_on(account) if self.is_live(each))

    def covered_on(self, account: str) -> int:
        return sum(map(self.covered, self.roots_on(account)))

    def settling_on(self, account: str) -> int:
        roots = self.roots_on(account)
        return sum(held.provisional for each, held in self.held.items() if self.root(each) in roots)

    def root(self, name: str) -> str:
        parent = self.held[name].parent
        return name if parent is None else self.root(parent)

    def below(self, name: str) -> list[str]:
        parts = [each for each, held in self.held.items() if held.parent == name and self.is_live(each)]
        return [*parts, *(each for part in parts for each in self.below(part))]

    def place(
        self, name: str, amount: int, accounts: frozenset[str], parent: str | None, ttl: timedelta
    ) -> Why | None:
        if parent is not None:
            if parent not in self.held or not self.is_live(parent):
                return Why.PARENT_ENDED
            if amount > self.left(parent):
                return Why.PARENT_EXHAUSTED
            accounts = frozenset()
        for account in accounts & LIMITS.keys():
            committed = self.covered_on(account) + self.live_on(account)
            used = self.live_on(account) + self.settling_on(account)
            if max(committed, used) + amount > LIMITS[account]:
                return Why.LIMIT
        ends = self.now + ttl if parent is None else min(self.now + ttl, self.held[parent].ends)
        self.held[name] = Held(amount, accounts, parent, ends)
        return None

    def end(self, name: str, outcome: HoldState) -> None:
        for part in self.below(name):
            self.held[part].outcome = HoldState.RELEASED
        self.held[name].outcome = outcome

    def settle(self, name: str, cost: int, *, by_usage: bool) -> Why | None:
        if name not in self.held:
            return Why.UNKNOWN
        held = self.held[name]
        if held.outcome is HoldState.SETTLED:
            if by_usage and not held.by_usage:
                held.own_covered, held.cost = min(held.own_covered, cost), cost
                held.provisional, held.by_usage = 0, True
                return None
            if by_usage:
                return Why.SETTLED
            return None if cost == held.cost else Why.SETTLED_OTHERWISE
        if not self.is_live(name):
            return Why.ENDED
        own = min(cost, self.unused(name))
        self.end(name, HoldState.SETTLED)
        held.own_covered, held.cost, held.by_usage = own, cost, by_usage
        held.provisional = 0 if by_usage else cost
        return None

    def release(self, name: str) -> Why | None:
        if name not in self.held:
            return Why.UNKNOWN
        if self.held[name].outcome is HoldState.SETTLED:
            return Why.SETTLED
        if self.is_live(name):
            self.end(name, HoldState.RELEASED)
        return None

    def extend(self, name: str, end: datetime) -> Why | None:
        if name not in self.held:
            return Why.UNKNOWN
        if not self.is_live(name):
            return Why.ENDED
        parent = self.held[name].parent
        if parent is not None:
            end = min(end, self.held[parent].ends)
        self.held[name].ends = max(self.held[name].ends, end)
        return None

    def expire(self, name: str) -> Why | None:
        if name not in self.held:
            return Why.UNKNOWN
        if self.held[name].outcome is HoldState.LIVE and self.held[name].ends <= self.now:
            self.held[name].outcome = HoldState.EXPIRED
        return None

    def show(self, name: str) -> Why | None:
        if name not in self.held:
            return Why.UNKNOWN
        self.held[name].provisional = 0
        return None


ids = st.sampled_from(IDS)
small_amounts = st.integers(0, 90)
ttls = st.integers(1, 60).map(lambda seconds: timedelta(seconds=seconds))
account_sets = st.frozensets(st.sampled_from(NAMES), min_size=1)


class LedgerMachine(RuleBasedStateMachine):
    """Gives the same commands to ledger and model, at clocks that step to and fro."""

    @initialize()
    def begin(self) -> None:
        self.loop = asyncio.new_event_loop()
        self.ledger, self.model = MemoryHoldLedger(clock=START, last_now=START), Model()

    def teardown(self) -> None:
        self.loop.close()

    def perform(self, command: Command, expected: Why | None) -> None:
        (outcome,) = self.loop.run_until_complete(take_turn(self.ledger, command))
        assert (outcome.why if isinstance(outcome, Refusal) else None) is expected

    @rule(seconds=st.integers(-90, 90))
    def the_clock_steps(self, seconds: int) -> None:
        """And a turn sees it: no instant counts that no turn saw."""
        self.ledger.clock += timedelta(seconds=seconds)
        self.model.now = max(self.model.now, self.ledger.clock)
        self.loop.run_until_complete(take_turn(self.ledger))

    @rule(name=ids, amount=small_amounts, accounts=account_sets, ttl=ttls)
    def place(self, name: str, amount: int, accounts: frozenset[str], ttl: timedelta) -> None:
        if name in self.model.held:
            return
        expected = self.model.place(name, amount, accounts, None, ttl)
        self.perform(placing(name, amount, sorted(accounts), limits=LIMITS, ttl=ttl), expected)

    @rule(name=ids, amount=small_amounts, parent=ids, ttl=ttls)
    def place_part(self, name: str, amount: int, parent: str, ttl: timedelta) -> None:
        if name in self.model.held or name == parent:
            return
        expected = self.model.place(name, amount, frozenset(), parent, ttl)
        self.perform(placing(name, amount, parent=parent, ttl=ttl), expected)

    @rule(name=ids, cost=st.integers(0, 120), by_usage=st.booleans())
    def settle(self, name: str, cost: int, by_usage: bool) -> None:  # noqa: FBT001 - drawn
        expected = self.model.settle(name, cost, by_usage=by_usage)
        self.perform(using(name, cost) if by_usage else settling(name, cost), expected)

    @rule(name=ids)
    def release(self, name: str) -> None:
        self.perform(releasing(name), self.model.release(name))

    @rule(name=ids, seconds=st.integers(-30, 120))
    def extend(self, name: str, seconds: int) -> None:
        end = self.model.now + timedelta(seconds=seconds)
        self.perform(extending(name, end), self.model.extend(name, end))

    @rule(name=ids)
    def expire(self, name: str) -> None:
        self.perform(expiring(name), self.model.expire(name))

    @rule(name=ids)
    def show(self, name: str) -> None:
        self.perform(showing(name), self.model.show(name))

    @invariant()
    def accounts_hold_what_their_holds_hold(self) -> None:
        for name in NAMES:
            expected = (self.model.live_on(name), self.model.settling_on(name), self.model.covered_on(name))
            known = {each.account_id for each in self.ledger.ledger_accounts.values()}
            if account_id(name) not in known:
                assert expected == (0, 0, 0)
                continue
            account = self.ledger.account_now(account_id(name))
            assert (
                account.live_micro_usd,
                account.settling_micro_usd,
                account.covered_micro_usd,
            ) == expected
            ends = {key: amount for key, amount in self.ledger.expiry.items() if key[0] == account.account_no}
            stored = self.ledger.ledger_accounts[account.account_no]
            assert stored.live_micro_usd == sum(ends.values())

    @invariant()
    def holds_stand_where_the_model_says(self) -> None:
        held = {hold.hold_id: hold for hold in self.ledger.rows.values()}
        assert held.keys() == self.model.held.keys()
        for name, expected in self.model.held.items():
            hold = held[name]  # type: ignore[index] # ids are texts
            assert (hold.state, hold.expires_at, hold.cost_micro_usd, hold.covered_micro_usd) == (
                expected.outcome,
                expected.ends,
                expected.cost,
                self.model.covered(name),
            )
            assert hold.is_live(self.model.now) == self.model.is_live(name)

    @invariant()
    def each_hold_ended_once(self) -> None:
        ends = [
            each.hold.hold_id
            for each, _ in self.ledger.happened
            if each.hold.state is not HoldState.LIVE and not each.hold.usage_named
        ]
        assert len(ends) == len(set(ends))


TestLedger = LedgerMachine.TestCase
TestLedger.settings = settings(max_examples=100, stateful_step_count=40)


told_commands = st.one_of(
    st.builds(
        lambda name, amount, accounts, ttl: placing(name, amount, sorted(accounts), limits=LIMITS, ttl=ttl),
        ids,
        small_amounts,
        account_sets,
        ttls,
    ),
    st.builds(
        lambda name, amount, parent, ttl: placing(name, amount, parent=parent, ttl=ttl),
        ids,
        small_amounts,
        ids,
        ttls,
    ),
    st.builds(settling, ids, st.integers(0, 120)),
    st.builds(using, ids, st.integers(0, 120)),
    st.builds(extending, ids, st.integers(0, 120).map(lambda seconds: START + timedelta(seconds=seconds))),
    *(st.builds(command, ids) for command in (releasing, expiring)),
)
"""Those whose changes are told."""

commands = st.one_of(told_commands, st.builds(showing, ids))


@given(st.lists(st.tuples(commands, st.booleans()), max_size=40), st.integers(0, 30))
def test_where_transactions_end_changes_nothing(
    asked: list[tuple[Command, bool]], seconds_at_each_border: int
) -> None:
    """Commands one by one, or in any groups at the same moments, leave one state and have one outcome."""

    async def run(*, grouped: bool) -> tuple[object, ...]:
        ledger, outcomes, group = (
            MemoryHoldLedger(clock=START, last_now=START),
            list[object](),
            list[Command](),
        )
        for name in NAMES:  # numbered alike, whoever is first to need one
            await ledger.accounts([account_id(name)])
        placed = set[str]()
        for command, border in asked:
            # An id is placed once: telling a repetition is done before.
            if command.account_ids or len(command.named) > 1:
                if command.named[0] in placed:
                    continue
                placed.add(command.named[0])
            group.append(command)
            if border or not grouped:
                outcomes += await take_turn(ledger, *group)
                group.clear()
            if border:
                ledger.clock += timedelta(seconds=seconds_at_each_border)
        outcomes += await take_turn(ledger, *group)
        return outcomes, ledger

    one_by_one, together = asyncio.run(run(grouped=False)), asyncio.run(run(grouped=True))
    assert one_by_one == together
