"""Holding: what one turn of the ledger does with the commands that share it."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import Enum
from typing import Final, NamedTuple

from tokenomics_chassis.rpc.errors import (
    AlreadyExistsError,
    FailedPreconditionError,
    NotFoundError,
    QuotaExceededError,
    RpcError,
    UnavailableError,
)
from tokenomics_contracts.units import (
    AccountId,
    HoldId,
    MicroUsd,
    PeriodId,
    ProjectId,
    ServiceTier,
    SubjectId,
)
from tokenomics_quota.domain import holds
from tokenomics_quota.domain.accounts import Account, AccountKind, Purpose, parse_account_id
from tokenomics_quota.domain.balance import Touched
from tokenomics_quota.domain.checks import Answer, Call
from tokenomics_quota.domain.friction import Decision
from tokenomics_quota.domain.holds import (
    Books,
    Change,
    HeldNow,
    Hold,
    HoldKind,
    Leasing,
    Limited,
    Moment,
    Place,
    Refusal,
    Renew,
    Why,
    differing_fields,
)
from tokenomics_quota.domain.pricing import Steps, Tariff
from tokenomics_quota.ports import HoldLedger, Turn
from tokenomics_quota.projections.balances import QuotaView
from tokenomics_quota.projections.governance import Governance
from tokenomics_quota.usecases.checking import Terms, check
from tokenomics_quota.usecases.seeing import Sight

ServedView = Callable[[], tuple[int | None, QuotaView | None]]
"""Gives the view that answers, and which version of the derived state it is of."""


class LedgerShutError(UnavailableError):
    """The database was lost or restarted, and what it may have lacked is not through yet."""

    reason = "LEDGER_SHUT"


def require_open(turn: Turn) -> None:
    """Let a turn go on only where nothing can be missing.

    Raises
    ------
    LedgerShutError
        Something can.
    """
    if not turn.is_open:
        raise LedgerShutError("the ledger is shut until what a lost database may have lacked is through")


class Told(NamedTuple):
    """What follows for the caller from the judgement of a call."""

    answer: bytes
    """What the caller is answered beside the hold."""
    afterwards: Callable[[], None]
    """To be called once, when the turn is committed: the decision leaves what it leaves."""


Tell = Callable[[Call, Answer, Touched, Moment], Told]
"""Writes what a caller is answered; raises what speaks against answering. It leaves nothing, as a turn may be
taken again."""


class Placing(NamedTuple):
    """Asks for a hold for a call."""

    hold_id: HoldId
    call: Call
    amount_micro_usd: MicroUsd
    """0: what the call is expected to cost."""
    ttl: timedelta
    parent_id: HoldId | None
    digest: bytes
    fields: Sequence[str]
    """Over which the digest is."""
    sees: Sight
    tell: Tell
    drawing: "Drawing | None" = None
    """Of a lease."""


class Drawing(NamedTuple):
    """How a client wants to draw from a lease."""

    draw_for: timedelta
    longest_call: timedelta
    typical_call: bytes
    """The call, as who writes the command reads it."""


class Renewing(NamedTuple):
    """Asks for a further stretch of a lease."""

    hold_id: HoldId
    renewal: int
    drawn_micro_usd: MicroUsd
    amount_micro_usd: MicroUsd
    draw_for: timedelta
    digest: bytes
    sees: Sight
    read_call: Callable[[bytes], Call]
    """Reads the lease's typical call."""
    tell: Tell


class Returning(NamedTuple):
    """Asks to end a lease."""

    hold_id: HoldId
    drawn_micro_usd: MicroUsd
    sees: Sight


class Settling(NamedTuple):
    """Asks to end a hold with its cost."""

    hold_id: HoldId
    cost_micro_usd: MicroUsd
    sees: Sight


class Releasing(NamedTuple):
    """Asks to end a hold without usage."""

    hold_id: HoldId
    sees: Sight


class Extending(NamedTuple):
    """Asks to move a hold's end."""

    hold_id: HoldId
    wished_end: datetime
    sees: Sight


Command = Placing | Settling | Releasing | Extending | Renewing | Returning


class Done(NamedTuple):
    """What became of a command."""

    moment: Moment
    held: HeldNow | None
    """As it stands after the command, or as it was placed, for one that places. ``None``: nothing is held."""
    told: bytes = b""
    """What the caller is answered beside the hold, as ``tell`` wrote it when it was decided."""
    price: "Price | None" = None
    """Of a lease that may be drawn from."""


class Price(NamedTuple):
    """What a model's requests cost in one class of service, by their input tokens."""

    provider: str
    model: str
    service_tier: ServiceTier
    by_size: Steps[Tariff]
    price_book_version: int


class Behind(Enum):
    """What became of a command for which the view is behind of what governs: nothing, try again."""

    BEHIND = "behind"


Outcome = Done | RpcError | Behind


class Taken(NamedTuple):
    """What a turn came to, once it is committed."""

    outcomes: Sequence[Outcome]
    """In the order of the commands."""
    afterwards: Sequence[Callable[[], None]]
    """Of all calls that were judged: see :class:`Told`."""


async def books_of(
    ledger: HoldLedger, named: Iterable[HoldId], account_ids: Iterable[AccountId] = ()
) -> Books:
    """Return the books for commands that name these holds, and place on these accounts, in a turn begun."""
    return await _books(ledger, await ledger.holds(named), account_ids)


async def _books(ledger: HoldLedger, found: Sequence[Hold], account_ids: Iterable[AccountId]) -> Books:
    account_nos = {account_no for hold in found for account_no in hold.account_nos}
    return Books(await ledger.accounts(account_ids, account_nos), found)


async def take_turn(
    ledger: HoldLedger, commands: Sequence[Command], traceparents: Sequence[str | None], served: ServedView
) -> Taken:
    """Perform commands, one after the other, in an open transaction; each has its own outcome.

    Parameters
    ----------
    traceparents
        Of the calls that gave the commands, in the same order.

    Raises
    ------
    LedgerShutError
        Nothing can be done now.
    """
    turn = await ledger.begin(len(commands))
    require_open(turn)
    found = await ledger.holds(_named(commands))
    known = {hold.hold_id: hold for hold in found}
    calls = {
        number: call
        for number, command in enumerate(commands)
        if (call := _call_to_judge(command, known)) is not None
    }
    needs_terms = bool(calls) or any(isinstance(command, Extending) for command in commands)
    governing = await _governing(ledger, turn, calls, served) if needs_terms else Behind.BEHIND
    account_ids = governing.posted if isinstance(governing, _Governing) else ()
    books = await _books(ledger, found, account_ids)
    performing = _Performing(books, governing)
    outcomes = [
        performing.outcome(number, command, turn.moment(number)) for number, command in enumerate(commands)
    ]
    if performing.changes:
        traced = zip(range(len(commands)), traceparents, strict=True)
        traces = {turn.moment(number).change_seq: trace for number, trace in traced if trace is not None}
        await ledger.write(performing.changes, traces)
    return Taken(outcomes, performing.afterwards)


def _call_to_judge(command: Command, known: Mapping[HoldId, Hold]) -> Call | None:
    """Return the call that a command can't do without a judgement of."""
    hold = known.get(command.hold_id)
    if isinstance(command, Placing) and (hold is None or hold.lease is not None):
        return command.call
    if isinstance(command, Renewing) and hold is not None and hold.lease is not None:
        return command.read_call(hold.lease.typical_call)
    return None


def _named(commands: Iterable[Command]) -> set[HoldId]:
    named = {command.hold_id for command in commands}
    parents = (command.parent_id for command in commands if isinstance(command, Placing))
    return named | {parent_id for parent_id in parents if parent_id is not None}


class _Governing(NamedTuple):
    """What decides about new holds."""

    governance: Governance
    terms: Terms
    touched: Mapping[int, Touched]
    """By the command's place among those of the turn."""
    posted: Mapping[AccountId, MicroUsd]
    """Of all accounts touched, as committed."""


async def _governing(
    ledger: HoldLedger, turn: Turn, calls: Mapping[int, Call], served: ServedView
) -> _Governing | RpcError | Behind:
    """Return what the view that answers says, if that is what governs in this turn."""
    version, view = served()
    if view is None:
        return UnavailableError("the view is being loaded")
    if version != turn.active_version or view.bypass_seq != turn.bypass_seq:
        return Behind.BEHIND
    governance = view.governance  # the view may have another one after the wait
    touched = {
        number: view.touched_by(call.subject, call.project_id, turn.now, call.purpose)
        for number, call in calls.items()
    }
    account_ids = {balance.account.account_id for each in touched.values() for balance in each.balances}
    committed = await ledger.committed(turn.active_version, account_ids)
    if committed.governing_version != governance.version:
        return Behind.BEHIND
    return _Governing(governance, Terms.at(governance, turn.now), touched, committed.posted)


@dataclass(slots=True)
class _Performing:
    """Performs the commands of a turn, and gathers what changes."""

    books: Books
    governing: _Governing | RpcError | Behind
    changes: list[Change] = field(default_factory=list)
    afterwards: list[Callable[[], None]] = field(default_factory=list)

    def outcome(self, number: int, command: Command, at: Moment) -> Outcome:
        """Perform the next command."""
        try:
            if isinstance(command, Placing):
                return self._place(number, command, at)
            if isinstance(command, Renewing):
                return self._renew(number, command, at)
            return self._change(command, at)
        except RpcError as refusal:
            return refusal
        except _UndecidedError:
            assert not isinstance(self.governing, _Governing)
            return self.governing

    def _take(self, change: Change) -> None:
        if change.holds:
            self.books.take(change)
            self.changes.append(change)

    def _terms(self) -> _Governing:
        if isinstance(self.governing, _Governing):
            return self.governing
        raise _UndecidedError

    def _place(self, number: int, asked: Placing, at: Moment) -> Done:
        known = self.books.hold(asked.hold_id)
        if known is not None:
            if differing := differing_fields(known.digest, asked.digest, asked.fields):
                # Which fields differ would tell who may not see the hold what is in the others.
                seen = asked.sees(_own_account(known))
                raise AlreadyExistsError("another hold has this id", differing if seen else ["hold_id"])
            if known.lease is not None:
                return Done(at, self._held(known, at.now), known.answer, self._price(asked.call, at))
            return Done(at, self._as_placed(known), known.answer)
        governing = self._terms()
        parent = self._visible_parent(asked)
        touched = self._as_of_ledger(governing.touched[number], governing.posted, parent, at)
        shut = holds.shut(self.books.account(each.account.account_id) for each in touched.balances)
        if shut and asked.sees(touched.balances[0].account):  # who may not see it is told nothing of it
            raise _refused(Refusal(Why.ACCOUNT_SHUT, accounts=shut), asked.sees)
        answer = check(governing.terms, touched, asked.call, at.now, asked.sees)
        told = self._tell(asked, asked.call, answer, touched, at)
        if answer.decision is Decision.DENIED:
            return Done(at, None, told)
        place = _place_of(asked, touched, answer, told)
        if (drawing := asked.drawing) is not None:
            same_until = _same_until(governing.terms, asked.call, at)
            leasing = Leasing(drawing.draw_for, drawing.longest_call, drawing.typical_call, same_until)
            place = place._replace(kind=HoldKind.LEASE, leasing=leasing)
        change = holds.place(self.books, place, at)
        if isinstance(change, Refusal):
            raise _refused(change, asked.sees)
        self._take(change)
        price = self._price(asked.call, at) if place.leasing is not None else None
        return Done(at, self._as_placed(change.hold), told, price)

    def _renew(self, number: int, asked: Renewing, at: Moment) -> Done:
        lease = self._visible(asked).lease
        if lease is None:
            raise _refused(Refusal(Why.NO_LEASE), asked.sees)
        call, governing = asked.read_call(lease.typical_call), self._terms()
        touched = self._as_of_ledger(governing.touched[number], governing.posted, None, at)
        answer = check(governing.terms, touched, call, at.now, asked.sees)
        told = self._tell(asked, call, answer, touched, at)
        if answer.decision is Decision.DENIED:
            return Done(at, None, told)
        renew = Renew(
            asked.hold_id,
            asked.renewal,
            asked.digest,
            asked.drawn_micro_usd,
            asked.amount_micro_usd,
            asked.draw_for,
            _same_until(governing.terms, call, at),
            touched.balances[0].bounds.resets_at,
            _limited(touched),
        )
        change = holds.renew(self.books, renew, at)
        if isinstance(change, Refusal):
            raise _refused(change, asked.sees)
        self._take(change)
        return Done(at, self._held(change.hold, at.now), told, self._price(call, at))

    def _tell(
        self, asked: Placing | Renewing, call: Call, answer: Answer, touched: Touched, at: Moment
    ) -> bytes:
        told = asked.tell(call, answer, touched, at)
        self.afterwards.append(told.afterwards)
        return told.answer

    def _price(self, call: Call, at: Moment) -> Price:
        book, service_tier = self._terms().terms.price_book, call.quantities.service_tier
        by_size = book.by_size(call.provider, call.model, service_tier, at.now)
        return Price(call.provider, call.model, service_tier, by_size, book.version)

    def _visible(self, command: Command) -> Hold:
        hold = self.books.hold(command.hold_id)
        if hold is None or not command.sees(_own_account(hold)):
            raise NotFoundError("no such hold")
        return hold

    def _change(self, command: Settling | Releasing | Extending | Returning, at: Moment) -> Done:
        hold = self._visible(command)
        if isinstance(command, Settling):
            change = holds.settle(self.books, command.hold_id, command.cost_micro_usd, at)
        elif isinstance(command, Releasing):
            change = holds.release(self.books, command.hold_id, at)
        elif isinstance(command, Returning):
            change = holds.give_back(self.books, command.hold_id, command.drawn_micro_usd, at)
        else:
            end = self._period_end(hold, at.now)
            change = holds.extend(self.books, command.hold_id, command.wished_end, end, at)
        if isinstance(change, Refusal):
            raise _refused(change, command.sees)
        self._take(change)
        return Done(at, self._held(change.hold, at.now))

    def _period_end(self, hold: Hold, now: datetime) -> datetime:
        """Return the end of the period that a hold's accounts are of."""
        account = parse_account_id(self.books.accounts_of(hold)[0].account_id)
        _, end = self._terms().governance.calendars.at(now).bounds(account.period)
        return end

    def _visible_parent(self, asked: Placing) -> Hold | None:
        if asked.parent_id is None:
            return None
        parent = self.books.hold(asked.parent_id)
        if parent is None or not asked.sees(_own_account(parent)):
            raise FailedPreconditionError("there is no such parent hold")
        return parent

    def _as_of_ledger(
        self, touched: Touched, posted: Mapping[AccountId, MicroUsd], parent: Hold | None, at: Moment
    ) -> Touched:
        """Return accounts as they stand in the ledger.

        For a part, as if what its parent has left were not held: that is what it is to be taken from.
        """
        held_for_it, on = MicroUsd(0), set[AccountId]()
        if parent is not None:
            held_for_it = self.books.left_of(parent, at.now)
            on = {account.account_id for account in self.books.accounts_of(parent)}
        balances = []
        for balance in touched.balances:
            account_id = balance.account.account_id
            pending = self.books.account(account_id).pending_micro_usd
            if account_id in on:
                pending = MicroUsd(pending - held_for_it)
            balances.append(balance._replace(posted_micro_usd=posted[account_id], pending_micro_usd=pending))
        return touched.with_balances(tuple(balances))

    def _as_placed(self, hold: Hold) -> HeldNow:
        held = self._held(hold.as_placed, hold.placed_at)
        return held._replace(left_micro_usd=hold.amount_micro_usd)

    def _held(self, hold: Hold, now: datetime) -> HeldNow:
        account_ids = tuple(account.account_id for account in self.books.accounts_of(hold))
        parent_id = None if hold.parent_no is None else self.books.numbered(hold.parent_no).hold_id
        return HeldNow(
            hold,
            hold.state_at(now),
            account_ids if hold.kind is not HoldKind.PART else (),
            parent_id,
            self.books.left_of(hold, now),
        )


class _UndecidedError(Exception):
    """A command needs what governs, and that isn't at hand."""


def _own_account(hold: Hold) -> Account:
    """Return the account, of whatever period, of who uses a hold: who may see that may see the hold."""
    return Account(AccountKind.SUBJECT, hold.subject, Purpose.ALL, PeriodId(""))


def _place_of(asked: Placing, touched: Touched, answer: Answer, told: bytes) -> Place:
    own, call = touched.balances[0].account, asked.call
    return Place(
        asked.hold_id,
        HoldKind.CALL if asked.parent_id is None else HoldKind.PART,
        SubjectId(own.owner_id if own.kind is AccountKind.SUBJECT else call.subject),
        ProjectId(call.project_id) if call.project_id else None,
        call.purpose,
        asked.amount_micro_usd or answer.estimate.cost_micro_usd,
        asked.ttl,
        asked.digest,
        answer.decision,
        tuple(reason.code for reason in answer.reasons),
        told,
        touched.balances[0].bounds.resets_at,
        _limited(touched) if asked.parent_id is None else (),
        asked.parent_id,
    )


def _limited(touched: Touched) -> list[Limited]:
    return [
        Limited(
            balance.account.account_id,
            balance.posted_micro_usd,
            balance.limit_micro_usd if touched.is_hard(balance) else None,
        )
        for balance in touched.balances
    ]


def _same_until(terms: Terms, call: Call, at: Moment) -> datetime:
    """Return until when nothing that is known changes what a call costs."""
    same = terms.price_book.same_until(call.provider, call.model, call.quantities.service_tier, at.now)
    return min(terms.until, same)


_HIDDEN: Final = "its hard limit refuses the amount"


def _refused(refusal: Refusal, sees: Sight) -> RpcError:
    """Say why a command changed nothing."""
    why, hold = refusal.why, refusal.hold
    match why:
        case Why.UNKNOWN:
            return NotFoundError(why.value)
        case Why.SETTLED_OTHERWISE | Why.RENEWED_OTHERWISE:
            field = "cost_micro_usd" if why is Why.SETTLED_OTHERWISE else "renewal"
            return AlreadyExistsError(why.value, [field])
        case Why.LIMIT:
            return QuotaExceededError(
                {
                    account_id: said if sees(parse_account_id(account_id)) else _HIDDEN
                    for account_id, said in refusal.accounts
                }
            )
        case Why.PARENT_EXHAUSTED | Why.TOO_MANY_PARTS:
            assert hold is not None
            left = (
                f"{refusal.left_micro_usd} micro-USD are left" if why is Why.PARENT_EXHAUSTED else why.value
            )
            return QuotaExceededError({f"hold/{hold.hold_id}": left}, why.value)
        case Why.ACCOUNT_SHUT:
            said = dict(refusal.accounts)
            message = "; ".join(f"{account_id} {what}" for account_id, what in said.items())
            return FailedPreconditionError(message, {"account_ids": ", ".join(said)})
        case _:
            return FailedPreconditionError(why.value)
