"""From what people do by hand to the events that tell it."""

from tokenomics_chassis.outbox import OutboxEvent
from tokenomics_contracts.events import quota as events
from tokenomics_contracts.events.base import Event
from tokenomics_quota.domain.interventions import Decided, Intervention, What
from tokenomics_quota.streams.events import outbox_event

_ACCOUNT_EVENTS = {
    What.FROZEN: events.AccountFrozen,
    What.UNFROZEN: events.AccountUnfrozen,
    What.CLOSED: events.AccountClosed,
}


def intervention_event(done: Intervention, traceparent: str | None = None) -> OutboxEvent:
    """Encode what was done; its version is the number of the ledger's change."""
    return outbox_event(
        _event(done),
        aggregate_id=done.aggregate_id,
        version=done.change_seq,
        time=done.at,
        traceparent=traceparent,
    )


def _event(done: Intervention) -> Event:
    if done.account_id is not None:
        decided = _decided(done)
        return _ACCOUNT_EVENTS[done.what](
            account_id=done.account_id,
            reason_code=decided.reason_code,
            ticket_id=decided.ticket_id,
            decided_by=decided.decided_by,
            change_seq=done.change_seq,
        )
    bypass = done.bypass
    assert bypass is not None
    told = events.BypassExpired(
        bypass_id=bypass.bypass_id,
        scope_kind=bypass.kind.value,
        scope_owner_id=bypass.owner_id,
        started_at=bypass.started_at,
        until=bypass.until,
        reason_code=bypass.reason_code,
        ticket_id=bypass.ticket_id,
        started_by=bypass.decided_by,
        change_seq=done.change_seq,
    )
    match done.what:
        case What.BYPASS_STARTED:
            return events.BypassStarted(**told.model_dump())
        case What.BYPASS_ENDED:
            decided = _decided(done)
            return events.BypassEnded(
                **told.model_dump(),
                ended_at=done.at,
                ended_by=decided.decided_by,
                end_reason_code=decided.reason_code,
                end_ticket_id=decided.ticket_id,
            )
        case _:
            return told


def _decided(done: Intervention) -> Decided:
    assert done.decided is not None, "time freezes nothing, and ends nothing before its time"
    return done.decided
