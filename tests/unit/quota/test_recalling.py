"""A ledger that lost what it did comes out as it was, told by its own events."""

import asyncio
from collections.abc import Sequence
from datetime import timedelta
from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.holds import (
    Command,
    acquiring,
    expiring,
    placing,
    renewing,
    returning,
    take_turn,
    using,
)
from tests.support.memory_hold_ledger import MemoryHoldLedger
from tests.support.quota_events import usage
from tests.unit.quota.test_holds_model import LIMITS, START, told_commands
from tokenomics_chassis.records import Record
from tokenomics_contracts.cloudevents import encode
from tokenomics_contracts.rejection import EventRejected
from tokenomics_quota.ports import ToldChange
from tokenomics_quota.streams.hold_events import hold_event
from tokenomics_quota.streams.ledger_events import told_change_from_record
from tokenomics_quota.usecases.recalling import do_again

LEASES = st.sampled_from(["l1", "l2"])


class Given(NamedTuple):
    """A command, whether it places a hold under an id of its own, and how long nothing happens then."""

    command: Command
    places: bool = False
    pause: timedelta = timedelta()


pauses = st.integers(0, 30).map(lambda seconds: timedelta(seconds=seconds))
given_commands = st.one_of(
    st.builds(
        lambda command, pause: Given(command, bool(command.account_ids or command.named[1:]), pause),
        told_commands,
        pauses,
    ),
    st.builds(
        lambda name, amount, seconds, pause: Given(
            acquiring(name, amount, limits=LIMITS, draw_for=timedelta(seconds=seconds)), True, pause
        ),
        LEASES,
        st.integers(0, 60),
        st.integers(1, 60),
        pauses,
    ),
    st.builds(
        Given,
        st.one_of(
            st.builds(
                lambda name, number, amount, drawn: renewing(
                    name, number, amount, drawn=drawn, limits=LIMITS
                ),
                LEASES,
                st.integers(1, 3),
                st.integers(0, 60),
                st.integers(0, 40),
            ),
            st.builds(returning, LEASES, st.integers(0, 60)),
            st.builds(using, LEASES, st.integers(0, 40)),
            st.builds(expiring, LEASES),
        ),
        pause=pauses,
    ),
)


async def perform(turns: Sequence[Given]) -> MemoryHoldLedger:
    """Perform commands, each in a turn at its own time; a hold's id is placed once."""
    ledger, placed = MemoryHoldLedger(clock=START, last_now=START), set[str]()
    for command, places, pause in turns:
        if places and command.named[0] in placed:
            continue
        placed |= {command.named[0]} if places else set()
        await take_turn(ledger, command)
        ledger.clock += pause
    return ledger


def changes_told(ledger: MemoryHoldLedger) -> list[ToldChange]:
    """Return what its events tell, read from the records that they become."""
    found = []
    for happened, _ in ledger.happened:
        event = hold_event(happened)
        record = Record(event.topic, 0, 0, 0, event.key, event.value, tuple(event.headers))
        change = told_change_from_record(record)
        assert change is not None
        found.append(change)
    return found


async def told_again(changes: Sequence[ToldChange], group: int) -> tuple[MemoryHoldLedger, int]:
    ledger, left_out = MemoryHoldLedger(), 0
    for start in range(0, len(changes), group):
        left_out += (await do_again(ledger, changes[start : start + group])).left_out
    return ledger, left_out


def state(ledger: MemoryHoldLedger) -> tuple[object, ...]:
    """Return everything but the numbers of accounts, which depend on the order of their first mention."""
    names = {each.account_no: each.account_id for each in ledger.ledger_accounts.values()}
    holds = [
        (hold._replace(account_nos=()), {names[number] for number in hold.account_nos})
        for hold in ledger.rows.values()
    ]
    ends: dict[tuple[str, object], int] = {}
    for (number, instant), amount in ledger.expiry.items():
        if amount and instant > ledger.clock:
            ends[names[number], instant] = amount
    accounts = {
        each.account_id: ledger.account_now(each.account_id)._replace(account_no=0)
        for each in ledger.ledger_accounts.values()
        if each.placements
    }
    placements = {
        (names[each.account_no], each.sequence): each._replace(account_no=0) for each in ledger.placements
    }
    return holds, ends, accounts, placements, ledger.change_seq


@given(st.lists(given_commands, max_size=40), st.integers(1, 7))
def test_a_ledger_that_lost_everything_comes_out_as_it_was(turns: list[Given], group: int) -> None:
    async def both() -> tuple[MemoryHoldLedger, MemoryHoldLedger, int]:
        lost = await perform(turns)
        return lost, *await told_again(changes_told(lost), group)

    lost, found, left_out = asyncio.run(both())
    assert left_out == 0
    found.clock = lost.clock = max(lost.clock, lost.last_now)
    found.change_seq = lost.change_seq  # commands that changed nothing took numbers too
    assert state(found) == state(lost)


async def test_what_is_told_of_the_unknown_changes_nothing_else() -> None:
    """Of a part's parent nothing was told, or not that it was extended: it was lost with the outbox."""
    minute = timedelta(minutes=1)
    lost = await perform(
        [
            Given(placing("parent", 50), True, minute / 2),
            Given(placing("part", 20, parent="parent", ttl=minute / 4), True),
            Given(placing("other", 30), True),
        ]
    )
    _, part, other = changes_told(lost)
    found, left_out = await told_again([part, other], 2)
    assert left_out == 1
    assert [hold.hold_id for hold in found.rows.values()] == ["other"]


def test_other_events_of_the_own_topic_are_passed_by_and_damaged_ones_refused() -> None:
    encoded = encode(usage(), id="u", source="s", time=START)
    assert told_change_from_record(Record("t", 0, 0, 0, b"k", encoded.value, encoded.headers)) is None
    (change,) = changes_told(asyncio.run(perform([Given(placing("h", 1), True)])))
    headers = tuple((name, value) for name, value in encoded.headers if name != "ce_type")
    damaged = (*headers, ("ce_type", change.event_type.encode()))
    with pytest.raises(EventRejected, match="change_seq"):
        told_change_from_record(Record("t", 0, 0, 0, b"k", b"{}", damaged))
