"""From records to what the folds take in."""

from tokenomics_chassis.records import Record
from tokenomics_contracts.catalogue import topics_of
from tokenomics_contracts.cloudevents import Envelope, EventRejected, RejectionCode, decode
from tokenomics_contracts.events.base import Event
from tokenomics_contracts.events.nominations import AssetPublished
from tokenomics_contracts.events.policy import PolicyPublished
from tokenomics_contracts.events.quota import HoldSettled, PeriodClosed
from tokenomics_contracts.events.usage import AssetReused, UsageCorrected, UsageRecorded
from tokenomics_contracts.fast import UsageRecordedData, parse_usage_recorded
from tokenomics_contracts.identity import identity, payload_digest
from tokenomics_contracts.registry import parse
from tokenomics_quota.domain.effective import LATENESS_BOUND, LogOrder
from tokenomics_quota.domain.trail import Reported
from tokenomics_quota.projections.facts import AssetReuse, LateUsage, Received
from tokenomics_quota.projections.governance import (
    APPROVAL_EVENTS,
    DIRECTORY_EVENTS,
    POLICY_KINDS,
    GoverningEvent,
)

_LATENESS_BOUND_MS = LATENESS_BOUND.total_seconds() * 1000
_USAGE_RECORDED = UsageRecorded.type_name

_PROVISIONAL = "\n"
"""Before the source of an event of the own topic: no usage event's source begins like that, so that none has
the identity of a provisional fact."""


def is_late(record: Record, envelope: Envelope) -> bool:
    """Whether an event's time lies more than the lateness bound before its append timestamp."""
    return record.append_ms - envelope.time.timestamp() * 1000 > _LATENESS_BOUND_MS


def usage_from_record(record: Record) -> Received | LateUsage | AssetReuse | None:
    """Read a record of the usage topic; ``None`` for types that quota passes by.

    Raises
    ------
    EventRejected
        The record must be parked.
    """
    envelope = decode(record.headers, record.value)
    if envelope.type == _USAGE_RECORDED:
        received = _recorded(record, envelope, parse_usage_recorded(envelope))
    else:
        event = parse(envelope)
        if isinstance(event, UsageRecorded):  # upcast from an older version
            received = _recorded(record, envelope, UsageRecordedData(**event.model_dump()))
        elif isinstance(event, UsageCorrected):
            received = _corrected(record, envelope, event)
        else:
            _refuse_foreign(record, event)
            return _reuse(record, envelope, event)
    return LateUsage(envelope.source, received) if is_late(record, envelope) else received


def own_event_from_record(record: Record) -> Received | GoverningEvent | None:
    """Read from the own topic what derived state follows from; ``None`` for every other event there.

    That is what a hold's caller said it cost, and what a closed period carries over into the next.

    It has the hold's identity, not the event's: a hold costs once, should it ever have been settled in two
    copies of a database.

    Raises
    ------
    EventRejected
        The record must be parked.
    """
    envelope = decode(record.headers, record.value)
    if envelope.type == HoldSettled.type_name:
        return _provisional(record, envelope)
    if envelope.type == PeriodClosed.type_name:
        event = parse(envelope)
        assert isinstance(event, PeriodClosed)
        return _governing(record, envelope, event) if event.carry_over else None
    return None


def _provisional(record: Record, envelope: Envelope) -> Received | None:
    event = parse(envelope)
    assert isinstance(event, HoldSettled)
    if event.usage_identity is not None:
        return None
    if is_late(record, envelope):
        raise EventRejected(RejectionCode.TOO_LATE, _LATE)
    return Received(
        identity=identity(f"{_PROVISIONAL}{envelope.source}", event.hold_id),
        digest=payload_digest(envelope.type, record.key, envelope.time, event),
        event_kind="provisional",
        append_ms=record.append_ms,
        partition=record.partition,
        record_offset=record.offset,
        occurred_at=envelope.time,
        subject=event.subject,
        provider=None,
        model=None,
        input_tokens=0,
        cached_input_tokens=0,
        cache_creation_tokens=0,
        output_tokens=0,
        reasoning_tokens=0,
        service_tier="standard",
        reported_cost_micro_usd=event.cost_micro_usd,
        purpose=event.purpose,
        project_id=event.project,
        hold_id=event.hold_id,
        corrects=None,
        revision=None,
        counted=True,
    )


def governing_event_from_record(record: Record) -> GoverningEvent | None:
    """Read a record of a governing topic; ``None`` for events that quota passes by.

    Raises
    ------
    EventRejected
        The record must be parked.
    """
    envelope = decode(record.headers, record.value)
    event = parse(envelope)
    _refuse_foreign(record, event)
    if is_late(record, envelope):
        raise EventRejected(RejectionCode.TOO_LATE, f"{_LATE}; publish it anew")
    if not isinstance(event, (*DIRECTORY_EVENTS, *APPROVAL_EVENTS, AssetPublished)) and not (
        isinstance(event, PolicyPublished) and event.kind in POLICY_KINDS
    ):
        return None
    return _governing(record, envelope, event)


def _governing(record: Record, envelope: Envelope, event: Event) -> GoverningEvent:
    return GoverningEvent(
        record.topic,
        identity(envelope.source, envelope.id),
        payload_digest(envelope.type, record.key, envelope.time, event),
        LogOrder(record.append_ms, record.partition, record.offset),
        event,
    )


_LATE = f"the event's time lies more than {LATENESS_BOUND.days} days before it was appended"
TOO_LATE = f"{_LATE}; a `sources` policy can let its source back-fill"


def _refuse_foreign(record: Record, event: Event) -> None:
    """Refuse an event on a topic that isn't its own: its key and order mean nothing there."""
    topics = topics_of(event.type_name)
    if record.topic not in topics:
        raise EventRejected(RejectionCode.UNKNOWN_TYPE, f"{event.type_name} belongs on {' or '.join(topics)}")


def report_from_record(record: Record) -> Reported | None:
    """Read what a record of usage says beside what is counted; ``None`` where it can't be read any more."""
    try:
        envelope = decode(record.headers, record.value)
        event = parse(envelope)
    except EventRejected:
        return None
    if not isinstance(event, UsageRecorded):
        return None
    return Reported(envelope.source, envelope.id, event.tool, event.use_case)


def _reuse(record: Record, envelope: Envelope, event: Event) -> AssetReuse | None:
    """Return who used what somebody shared; ``None`` for other events, and for one that came too late."""
    if not isinstance(event, AssetReused) or is_late(record, envelope):
        return None
    return AssetReuse(event.asset_id, event.subject)


def _recorded(record: Record, envelope: Envelope, usage: UsageRecordedData) -> Received:
    # Once per event, hence by the shortest way to a tuple: see docs/performance.md.
    return tuple.__new__(
        Received,
        (
            identity(envelope.source, envelope.id),
            payload_digest(_USAGE_RECORDED, record.key, envelope.time, usage),
            "recorded",
            record.append_ms,
            record.partition,
            record.offset,
            envelope.time,
            usage.subject,
            usage.provider,
            usage.model,
            usage.input_tokens,
            usage.cached_input_tokens,
            usage.cache_creation_tokens,
            usage.output_tokens,
            usage.reasoning_tokens,
            usage.service_tier,
            usage.cost_micro_usd,
            usage.purpose,
            usage.project,
            usage.hold_id,
            None,
            None,
            True,
        ),
    )


def _corrected(record: Record, envelope: Envelope, event: UsageCorrected) -> Received:
    return Received(
        identity=identity(envelope.source, envelope.id),
        digest=payload_digest(envelope.type, record.key, envelope.time, event),
        event_kind="corrected",
        append_ms=record.append_ms,
        partition=record.partition,
        record_offset=record.offset,
        occurred_at=envelope.time,
        subject=event.subject,
        provider=None,
        model=None,
        input_tokens=event.input_tokens,
        cached_input_tokens=event.cached_input_tokens,
        cache_creation_tokens=event.cache_creation_tokens,
        output_tokens=event.output_tokens,
        reasoning_tokens=event.reasoning_tokens,
        service_tier=event.service_tier,
        reported_cost_micro_usd=event.cost_micro_usd,
        purpose=None,
        project_id=None,
        hold_id=None,
        corrects=identity(event.original_source, event.original_id),
        revision=event.revision,
        counted=True,
    )
