"""Commands on holds, short enough to read in a test."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from tokenomics_contracts.units import AccountId, HoldId, MicroUsd, SubjectId
from tokenomics_quota.domain.friction import Decision
from tokenomics_quota.domain.holds import (
    Books,
    Change,
    HoldKind,
    Leasing,
    Limited,
    Moment,
    Place,
    Refusal,
    Renew,
    digest_of,
    expire,
    extend,
    give_back,
    place,
    release,
    renew,
    settle,
    settle_by_usage,
    shown,
)
from tokenomics_quota.ports import HoldLedger
from tokenomics_quota.usecases.holding import books_of

PERIOD_END = datetime(2126, 12, 1, tzinfo=UTC)
"""Beyond what a database's clock will say."""

TTL = timedelta(minutes=1)

Outcome = Change | Refusal


@dataclass(frozen=True)
class Command:
    """A command with what has to be at hand for it."""

    perform: Callable[[Books, Moment], Outcome]
    named: tuple[str, ...]
    account_ids: tuple[AccountId, ...] = ()


def account_id(name: str) -> AccountId:
    """Name an account of the period: ``ada`` is a person's, ``team/red`` a team's."""
    return AccountId(f"{name if '/' in name else f'subject/{name}'}/all/2026-11")


def placing(
    hold_id: str,
    amount: int,
    accounts: Sequence[str] = ("ada",),
    *,
    limits: dict[str, int] | None = None,
    posted: dict[str, int] | None = None,
    kind: HoldKind = HoldKind.CALL,
    parent: str | None = None,
    ttl: timedelta = TTL,
    subject: str = "ada",
) -> Command:
    """Place a hold on accounts, by name, of which some have a hard limit."""
    limits, posted = limits or {}, posted or {}
    named = () if parent else tuple(accounts)
    asked = Place(
        HoldId(hold_id),
        HoldKind.PART if parent else kind,
        SubjectId(subject),
        None,
        "operational",
        MicroUsd(amount),
        ttl,
        digest_of({"hold_id": hold_id}),
        Decision.ALLOW,
        (),
        b"answer to " + hold_id.encode(),
        PERIOD_END,
        [
            Limited(account_id(name), MicroUsd(posted.get(name, 0)), _money(limits.get(name)))
            for name in named
        ],
        HoldId(parent) if parent else None,
    )
    return Command(
        lambda books, at: place(books, asked, at),
        (hold_id, parent) if parent else (hold_id,),
        tuple(map(account_id, named)),
    )


def _money(amount: int | None) -> MicroUsd | None:
    return None if amount is None else MicroUsd(amount)


def acquiring(
    lease_id: str,
    amount: int,
    accounts: Sequence[str] = ("ada",),
    *,
    limits: dict[str, int] | None = None,
    draw_for: timedelta = TTL,
    longest_call: timedelta = TTL,
    same_until: datetime = PERIOD_END,
) -> Command:
    """Acquire a lease on accounts, by name, of which some have a hard limit."""
    limits = limits or {}
    asked = Place(
        HoldId(lease_id),
        HoldKind.LEASE,
        SubjectId("ada"),
        None,
        "operational",
        MicroUsd(amount),
        draw_for + longest_call,
        digest_of({"hold_id": lease_id}),
        Decision.ALLOW,
        (),
        b"",
        PERIOD_END,
        [Limited(account_id(name), MicroUsd(0), _money(limits.get(name))) for name in accounts],
        leasing=Leasing(draw_for, longest_call, b"call", same_until),
    )
    return Command(lambda books, at: place(books, asked, at), (lease_id,), tuple(map(account_id, accounts)))


def renewing(
    lease_id: str,
    renewal: int,
    amount: int,
    accounts: Sequence[str] = ("ada",),
    *,
    limits: dict[str, int] | None = None,
    drawn: int = 0,
    draw_for: timedelta = TTL,
    same_until: datetime = PERIOD_END,
) -> Command:
    """Renew a lease whose calls are counted on accounts, by name."""
    limits = limits or {}
    asked = Renew(
        HoldId(lease_id),
        renewal,
        digest_of({"amount": amount, "drawn": drawn}),
        MicroUsd(drawn),
        MicroUsd(amount),
        draw_for,
        same_until,
        PERIOD_END,
        [Limited(account_id(name), MicroUsd(0), _money(limits.get(name))) for name in accounts],
    )
    return Command(lambda books, at: renew(books, asked, at), (lease_id,), tuple(map(account_id, accounts)))


def returning(lease_id: str, drawn: int) -> Command:
    return _named(give_back, lease_id, MicroUsd(drawn))


def settling(hold_id: str, cost: int) -> Command:
    return _named(settle, hold_id, MicroUsd(cost))


def using(hold_id: str, cost: int, identity: bytes = b"u" * 16) -> Command:
    """Settle by a usage event."""
    return _named(settle_by_usage, hold_id, MicroUsd(cost), identity)


def showing(hold_id: str) -> Command:
    return _named(shown, hold_id)


def releasing(hold_id: str) -> Command:
    return _named(release, hold_id)


def extending(hold_id: str, end: datetime) -> Command:
    return _named(extend, hold_id, end, PERIOD_END)


def expiring(hold_id: str) -> Command:
    return _named(expire, hold_id)


def _named(function: Callable[..., Outcome], hold_id: str, *arguments: Any) -> Command:
    return Command(lambda books, at: function(books, HoldId(hold_id), *arguments, at), (hold_id,))


async def take_turn(ledger: HoldLedger, *commands: Command) -> list[Outcome]:
    """Perform commands in one turn of the ledger."""
    turn = await ledger.begin(len(commands))
    books = await books_of(
        ledger,
        {HoldId(name) for command in commands for name in command.named},
        {each for command in commands for each in command.account_ids},
    )
    outcomes = []
    for number, command in enumerate(commands):
        outcome = command.perform(books, turn.moment(number))
        if isinstance(outcome, Change):
            books.take(outcome)
        outcomes.append(outcome)
    await ledger.write([outcome for outcome in outcomes if isinstance(outcome, Change)])
    return outcomes
