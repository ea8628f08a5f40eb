"""Settling: holds end by the facts that name them, and by their time."""

from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from enum import StrEnum
from typing import NamedTuple

from tokenomics_contracts.units import HoldId, MicroUsd
from tokenomics_quota.domain.holds import (
    Books,
    Change,
    Hold,
    HoldKind,
    HoldState,
    Moment,
    Refusal,
    Why,
    expire,
    settle_by_usage,
    shown,
)
from tokenomics_quota.ports import HoldLedger
from tokenomics_quota.usecases.holding import books_of


class Naming(NamedTuple):
    """A fact that names a hold, as the derived state has it."""

    identity: bytes
    hold_id: HoldId
    cost_micro_usd: MicroUsd
    provisional: bool
    """It is what the hold's caller said, counted by now, not what usage said."""


class Cause(StrEnum):
    """Why usage that names a hold is not covered by it."""

    ABOVE = "above"
    """It cost more than was left of the hold."""
    ENDED = "ended"
    """The hold had ended by its time, or was released."""
    AGAIN = "again"
    """Other usage had settled the hold."""


class Settled(NamedTuple):
    """What facts came to."""

    holds: int
    """How many they ended."""
    uncovered_micro_usd: Mapping[Cause, int]
    """What usage cost beyond what its holds covered: the overshoot that holds can't prevent."""
    draws: Sequence[tuple[bytes, int]]
    """Usage that settled some of a lease, by its identity, and that lease's number."""


Drawn = Callable[[Collection[bytes]], Awaitable[Collection[bytes]]]
"""Answers which of these usage events have settled some of a lease before."""


async def settle_facts(ledger: HoldLedger, facts: Sequence[Naming], drawn: Drawn) -> Settled:
    """Settle in an open transaction the holds that facts name, in the order of the facts.

    A fact that was here before changes nothing: a call is settled by one usage event, a lease by each once.
    """
    turn = await ledger.begin(len(facts))
    books = await books_of(ledger, {fact.hold_id for fact in facts})
    of_leases = [fact.identity for fact in facts if _is_lease(books.hold(fact.hold_id))]
    before = set(await drawn(of_leases)) if of_leases else set[bytes]()
    changes, draws = list[Change](), list[tuple[bytes, int]]()
    uncovered, ended = Counter[Cause](), 0
    for number, fact in enumerate(facts):
        if fact.identity in before:
            continue
        was, outcome = books.hold(fact.hold_id), _settled(books, fact, turn.moment(number))
        if isinstance(outcome, Refusal):
            if outcome.why is not Why.UNKNOWN:
                cause = Cause.AGAIN if outcome.why is Why.SETTLED else Cause.ENDED
                uncovered[cause] += fact.cost_micro_usd
            continue
        books.take(outcome)
        changes += [outcome] if outcome.holds else []
        if not fact.provisional and was is not None:
            ended += was.state is HoldState.LIVE and outcome.hold.state is HoldState.SETTLED
            uncovered[Cause.ABOVE] += fact.cost_micro_usd - _covered(was, outcome.hold)
            if _is_lease(was):
                before.add(fact.identity)
                draws.append((fact.identity, was.hold_no))
    if changes:
        await ledger.write(changes)
    return Settled(ended, +uncovered, draws)


def _settled(books: Books, fact: Naming, at: Moment) -> Change | Refusal:
    if fact.provisional:
        return shown(books, fact.hold_id, at)
    return settle_by_usage(books, fact.hold_id, fact.cost_micro_usd, fact.identity, at)


def _is_lease(hold: Hold | None) -> bool:
    return hold is not None and hold.kind is HoldKind.LEASE


def _covered(before: Hold, after: Hold) -> int:
    """Return what of a usage event's cost its hold covered, its parts' usage aside."""
    own = after.covered_micro_usd - after.parts_micro_usd
    return own - before.covered_micro_usd if _is_lease(before) else own


async def expire_holds(ledger: HoldLedger, named: Sequence[HoldId]) -> int:
    """Write down in an open transaction that these holds have ended, where they have; return how many had.

    Nobody waits for it: their amounts are free since the instant they ended.
    """
    turn = await ledger.begin(len(named))
    books = await books_of(ledger, named)
    changes = []
    for number, hold_id in enumerate(named):
        outcome = expire(books, hold_id, turn.moment(number))
        if isinstance(outcome, Change) and outcome.holds:
            books.take(outcome)
            changes.append(outcome)
    if changes:
        await ledger.write(changes)
    return len(changes)
