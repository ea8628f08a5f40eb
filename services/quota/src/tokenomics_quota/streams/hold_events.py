"""From what happened to holds to the events that tell it."""

from base64 import b64encode
from datetime import timedelta
from typing import Any

from tokenomics_chassis.outbox import OutboxEvent
from tokenomics_contracts.events import quota as events
from tokenomics_contracts.events.base import Event
from tokenomics_contracts.units import HoldId
from tokenomics_quota.domain.holds import Event as What
from tokenomics_quota.domain.holds import Happened, Lease, Placement
from tokenomics_quota.streams.events import outbox_event


def hold_event(happened: Happened, traceparent: str | None = None) -> OutboxEvent:
    """Encode what happened to a hold; its version is the number of the command that did it."""
    return outbox_event(
        _event(happened),
        aggregate_id=f"hold/{happened.hold.hold_id}",
        version=happened.moment.change_seq,
        time=happened.moment.now,
        traceparent=traceparent,
    )


def _event(happened: Happened) -> Event:
    hold = happened.hold
    fields: dict[str, Any] = {
        "hold_id": hold.hold_id,
        "subject": hold.subject,
        "amount_micro_usd": hold.amount_micro_usd,
        "expires_at": hold.expires_at,
        "change_seq": happened.moment.change_seq,
    }
    if hold.lease is not None:
        return _lease_event(happened, hold.lease, fields)
    match happened.event:
        case What.PLACED:
            return events.HoldPlaced(**fields, **_placing(happened), parent_hold_id=_parent_id(happened))
        case What.EXTENDED:
            return events.HoldExtended(**fields)
        case What.SETTLED:
            return events.HoldSettled(
                **fields, **_settling(happened), purpose=hold.purpose, project=hold.project_id
            )
        case What.RELEASED:
            return events.HoldReleased(**fields)
        case What.EXPIRED:
            return events.HoldExpired(**fields)
        case What.RENEWED | What.RETURNED:
            raise ValueError(f"only a lease is {happened.event.value}")


def _lease_event(happened: Happened, lease: Lease, fields: dict[str, Any]) -> Event:
    match happened.event:
        case What.PLACED:
            return events.LeaseAcquired(**fields, **_placing(happened), **_drawing(lease))
        case What.RENEWED:
            return events.LeaseRenewed(**fields, **_renewing(happened, lease))
        case What.RETURNED:
            return events.LeaseReturned(**fields, drawn_micro_usd=lease.drawn_micro_usd)
        case What.SETTLED:
            return events.LeaseSettled(**fields, **_settling(happened))
        case What.EXPIRED:
            return events.LeaseExpired(**fields)
        case What.EXTENDED | What.RELEASED:
            raise ValueError(f"a lease is never {happened.event.value}")


def _parent_id(happened: Happened) -> HoldId | None:
    return None if happened.placed is None else happened.placed.parent_id


def _placing(happened: Happened) -> dict[str, Any]:
    hold, placed = happened.hold, happened.placed
    assert placed is not None
    return {
        "payload_digest": hold.digest.hex(),
        "answer": b64encode(hold.answer).decode(),
        "purpose": hold.purpose,
        "project": hold.project_id,
        "placed_at": hold.placed_at,
        "placements": tuple(map(_placement, placed.placements)),
        "decision": placed.decision.label,
        "reason_codes": placed.reason_codes,
    }


def _drawing(lease: Lease) -> dict[str, Any]:
    return {
        "draw_until": lease.draw_until,
        "longest_call_ms": lease.longest_call // timedelta(milliseconds=1),
        "typical_call": b64encode(lease.typical_call).decode(),
    }


def _renewing(happened: Happened, lease: Lease) -> dict[str, Any]:
    return {
        "renewal": lease.renewal,
        "request_digest": lease.renewal_digest.hex(),
        "drawn_micro_usd": lease.drawn_micro_usd,
        "draw_until": lease.draw_until,
        "placements": tuple(map(_placement, happened.placements)),
    }


def _placement(placement: Placement) -> events.Placement:
    return events.Placement(
        account_id=placement.account_id,
        sequence=placement.sequence,
        committed_before_micro_usd=placement.committed_before_micro_usd,
        limit_micro_usd=placement.limit_then_micro_usd,
    )


def _settling(happened: Happened) -> dict[str, Any]:
    identity = happened.usage_identity
    return {
        "settled_at": happened.moment.now,
        "cost_micro_usd": happened.cost_micro_usd,
        "covered_micro_usd": happened.hold.covered_micro_usd,
        "usage_identity": identity.hex() if identity is not None else None,
    }
