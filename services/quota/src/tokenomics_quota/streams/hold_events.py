"""From what happened to holds to the events that tell it."""

from base64 import b64encode
from typing import Any

from tokenomics_chassis.outbox import OutboxEvent
from tokenomics_contracts.events import quota as events
from tokenomics_contracts.events.base import Event
from tokenomics_quota.domain.holds import Event as What
from tokenomics_quota.domain.holds import Happened, HoldKind, Placement
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
    hold, is_lease = happened.hold, happened.hold.kind is HoldKind.LEASE
    fields: dict[str, Any] = {
        "hold_id": hold.hold_id,
        "subject": hold.subject,
        "amount_micro_usd": hold.amount_micro_usd,
        "expires_at": hold.expires_at,
        "change_seq": happened.moment.change_seq,
    }
    match happened.event:
        case What.PLACED:
            return events.HoldPlaced(**fields, **_placing(happened))
        case What.EXTENDED:
            return events.HoldExtended(**fields)
        case What.SETTLED if is_lease:
            return events.LeaseSettled(**fields, **_settling(happened))
        case What.SETTLED:
            return events.HoldSettled(
                **fields, **_settling(happened), purpose=hold.purpose, project=hold.project_id
            )
        case What.RELEASED:
            return events.HoldReleased(**fields)
        case What.EXPIRED:
            return events.LeaseExpired(**fields) if is_lease else events.HoldExpired(**fields)


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
        "parent_hold_id": placed.parent_id,
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
