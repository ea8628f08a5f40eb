"""Recalling: a ledger that lost what it did does it again, as its own events tell it."""

import logging
from base64 import b64decode
from collections.abc import Iterable, Sequence
from datetime import timedelta
from typing import NamedTuple

from tokenomics_contracts.cloudevents import Envelope
from tokenomics_contracts.events import quota as events
from tokenomics_contracts.events.base import Event
from tokenomics_contracts.registry import parse
from tokenomics_contracts.rejection import EventRejected
from tokenomics_contracts.units import AccountId, HoldId, MicroUsd
from tokenomics_quota.domain.accounts import AccountKind
from tokenomics_quota.domain.holds import (
    Books,
    Change,
    Hold,
    HoldKind,
    HoldState,
    Lease,
    Moment,
    Placement,
    Refusal,
    Why,
    expire,
    extend,
    give_back,
    place_again,
    release,
    renew_again,
    settle,
    settle_by_usage,
)
from tokenomics_quota.domain.interventions import Bypass, Intervention, What
from tokenomics_quota.ports import HoldLedger, ToldChange
from tokenomics_quota.usecases.holding import books_of

log = logging.getLogger(__name__)


class Again(NamedTuple):
    """How a ledger came out of doing again what it was told."""

    done: int
    left_out: int
    """Changes that could not be done again. Of what was never told, such as what was lost with the outbox, a
    later change may be known: that of a part, say, whose parent is not."""
    draws: Sequence[tuple[bytes, int]]
    """Usage that settled some of a lease, by its identity, and that lease's number."""

    def with_others(self, done: int) -> "Again":
        """Return the same when of those left out so many were done by others."""
        return self._replace(done=self.done + done, left_out=self.left_out - done)


async def do_again(ledger: HoldLedger, changes: Sequence[ToldChange]) -> Again:
    """Do in the open transaction what the ledger did in these changes, in the order of their numbers.

    They are all that the ledger lacks up to the last of them. The rules are those by which it was done, so
    that the books come out as they were. Nothing is told anew.
    """
    told = [(change, event) for change in changes if isinstance(event := _read(change), events.HoldEvent)]
    await ledger.begin_again(changes[-1].change_seq, min(change.told_at for change in changes))
    books = await books_of(ledger, *_named(event for _, event in told))
    done, draws = list[Change](), list[tuple[bytes, int]]()
    for change, event in told:
        outcome = _again(books, event, Moment(change.change_seq, change.told_at))
        if isinstance(outcome, Change):
            books.take(outcome)
            done.append(outcome._replace(happened=()))
            if isinstance(event, events.LeaseSettled) and event.usage_identity is not None:
                draws.append((bytes.fromhex(event.usage_identity), outcome.hold.hold_no))
    await ledger.write(done)
    return Again(len(done), len(changes) - len(done), draws)


def interventions(changes: Sequence[ToldChange]) -> list[Intervention]:
    """Return which of these changes are people's interventions, in the order of their numbers."""
    found = []
    for change in changes:
        event = _read(change)
        if isinstance(event, events.AccountEvent):
            account_id: AccountId | None = event.account_id
            bypass = None
        elif isinstance(event, events.BypassEvent):
            account_id, bypass = None, _bypass(event)
        else:
            continue
        what = What(event.type_name.removeprefix("tokenomics.").removesuffix(".v1"))
        found.append(Intervention(what, change.change_seq, change.told_at, None, account_id, bypass))
    return found


def _bypass(event: events.BypassEvent) -> Bypass:
    ended_at = None
    if isinstance(event, events.BypassEnded):
        ended_at = event.ended_at
    elif isinstance(event, events.BypassExpired):
        ended_at = event.until
    return Bypass(
        event.bypass_id,
        AccountKind(event.scope_kind),
        event.scope_owner_id,
        event.started_at,
        event.until,
        event.reason_code,
        event.ticket_id,
        event.started_by,
        ended_at,
    )


def _read(change: ToldChange) -> Event | None:
    envelope = Envelope(
        id=change.event_id,
        source="",
        type=change.event_type,
        time=change.told_at,
        subject=None,
        data=change.data,
        traceparent=None,
    )
    try:
        event = parse(envelope)
    except EventRejected as rejection:
        log.error(  # noqa: TRY400 - the rejection says it all
            "change %d of the ledger can't be read and is left out: %s: %s",
            change.change_seq,
            rejection.code,
            rejection.message,
        )
        return None
    return event


def _named(told: Iterable[events.HoldEvent]) -> tuple[set[HoldId], set[AccountId]]:
    holds, accounts = set[HoldId](), set[AccountId]()
    for event in told:
        holds.add(event.hold_id)
        if isinstance(event, events.HoldPlaced) and event.parent_hold_id is not None:
            holds.add(event.parent_hold_id)
        if isinstance(event, events.Placing | events.LeaseRenewed):
            accounts |= {placement.account_id for placement in event.placements}
    return holds, accounts


def _again(books: Books, event: events.HoldEvent, at: Moment) -> Change | Refusal:
    outcome: Change | Refusal = Refusal(Why.UNKNOWN)
    match event:
        case events.HoldPlaced() | events.LeaseAcquired():
            outcome = _placed_again(books, event, at)
        case events.HoldExtended():
            outcome = extend(books, event.hold_id, event.expires_at, event.expires_at, at)
        case events.HoldSettled() | events.LeaseSettled() if event.usage_identity is not None:
            identity = bytes.fromhex(event.usage_identity)
            outcome = settle_by_usage(books, event.hold_id, event.cost_micro_usd, identity, at)
        case events.HoldSettled():
            outcome = settle(books, event.hold_id, event.cost_micro_usd, at)
        case events.LeaseRenewed():
            outcome = _renewed_again(books, event, at)
        case events.LeaseReturned():
            outcome = give_back(books, event.hold_id, event.drawn_micro_usd, at)
        case events.HoldReleased():
            outcome = release(books, event.hold_id, at)
        case events.HoldExpired() | events.LeaseExpired():
            outcome = expire(books, event.hold_id, at)
    return outcome


def _placed_again(
    books: Books, event: events.HoldPlaced | events.LeaseAcquired, at: Moment
) -> Change | Refusal:
    parent_id = event.parent_hold_id if isinstance(event, events.HoldPlaced) else None
    parent = books.hold(parent_id) if parent_id is not None else None
    if books.hold(event.hold_id) is not None or (parent_id is not None and parent is None):
        return Refusal(Why.UNKNOWN)
    kind = HoldKind.CALL if parent is None else HoldKind.PART
    hold = Hold(
        hold_no=at.change_seq,
        hold_id=event.hold_id,
        kind=HoldKind.LEASE if isinstance(event, events.LeaseAcquired) else kind,
        state=HoldState.LIVE,
        subject=event.subject,
        project_id=event.project,
        purpose=event.purpose,
        amount_micro_usd=event.amount_micro_usd,
        account_nos=tuple(books.account(each.account_id).account_no for each in event.placements),
        placed_at=event.placed_at,
        expires_at=event.expires_at,
        digest=bytes.fromhex(event.payload_digest),
        answer=b64decode(event.answer),
        parent_no=parent.hold_no if parent is not None else None,
        root_no=books.root_of(parent).hold_no if parent is not None else None,
        placed_until=event.expires_at,
        lease=_lease_of(event) if isinstance(event, events.LeaseAcquired) else None,
    )
    return place_again(books, hold, _placements(books, hold, event.amount_micro_usd, event.placements))


def _lease_of(event: events.LeaseAcquired) -> Lease:
    longest_call = timedelta(milliseconds=event.longest_call_ms)
    return Lease(event.draw_until, longest_call, b64decode(event.typical_call))


def _renewed_again(books: Books, event: events.LeaseRenewed, at: Moment) -> Change | Refusal:
    hold = books.hold(event.hold_id)
    if hold is None or hold.lease is None or hold.lease.renewal >= event.renewal:
        return Refusal(Why.UNKNOWN)
    lease = hold.lease._replace(
        draw_until=event.draw_until,
        renewal=event.renewal,
        renewal_digest=bytes.fromhex(event.request_digest),
        drawn_micro_usd=event.drawn_micro_usd,
    )
    added = MicroUsd(event.amount_micro_usd - hold.amount_micro_usd)
    placements = _placements(books, hold, added, event.placements)
    return renew_again(books, hold, lease, event.expires_at, placements, at)


def _placements(
    books: Books, hold: Hold, amount: MicroUsd, told: Iterable[events.Placement]
) -> list[Placement]:
    return [
        Placement(
            books.account(each.account_id).account_no,
            each.account_id,
            each.sequence,
            hold.hold_no,
            each.committed_before_micro_usd,
            amount,
            each.limit_micro_usd,
        )
        for each in told
    ]
