"""From decisions and announcements to the events that quota writes on its own topic."""

from datetime import datetime
from uuid import UUID, uuid5

from tokenomics_chassis.outbox import OutboxEvent
from tokenomics_chassis.parking import Skip
from tokenomics_chassis.records import Record
from tokenomics_contracts.catalogue import own_topic
from tokenomics_contracts.cloudevents import EncodedEvent, decode, encode
from tokenomics_contracts.events.base import Event
from tokenomics_contracts.events.quota import Announced, ParkedSkipped
from tokenomics_contracts.fast import (
    AdvisedData,
    AdvisedModelData,
    DecidedAccountData,
    DecisionRecordedData,
    encode_decision_recorded,
)
from tokenomics_contracts.registry import EVENT_MODELS, parse
from tokenomics_contracts.units import DecisionId, ProjectId, SubjectId, UseCaseId
from tokenomics_quota.domain.accounts import AccountKind
from tokenomics_quota.domain.checks import NO_ADVICE, Advice
from tokenomics_quota.domain.decision_records import DecisionRecord
from tokenomics_quota.ports import Announcement

SOURCE = "urn:tokenomics:quota"
OWN_TOPIC = own_topic("quota").name

_ANNOUNCED = {model.type_name for model in EVENT_MODELS if issubclass(model, Announced)}
_NAMESPACE = UUID("6f1d4f6e-2f0c-5d0e-9d5b-6a1f7f0e6c11")


def event_id(aggregate_id: str, version: int) -> UUID:
    """Return the event id of a version of an aggregate: the same whenever it is derived."""
    return uuid5(_NAMESPACE, f"{aggregate_id}/{version}")


def outbox_event(
    event: Event, *, aggregate_id: str, version: int = 1, time: datetime, traceparent: str | None = None
) -> OutboxEvent:
    """Encode an event for the outbox."""
    encoded = encode(
        event,
        id=str(event_id(aggregate_id, version)),
        source=SOURCE,
        time=time,
        traceparent=traceparent,
    )
    return _to_own_topic(encoded)


def _to_own_topic(encoded: EncodedEvent) -> OutboxEvent:
    return OutboxEvent(OWN_TOPIC, encoded.key, encoded.headers, encoded.value)


def decision_event(record: DecisionRecord) -> OutboxEvent:
    """Encode a decision record.

    Raises
    ------
    EventRejected
        The contract has no such event. The message names fields, never values.
    """
    decided = record.decided
    call, answer, shadow = decided.call, decided.answer, decided.answer.shadow
    own = answer.balances[0].account
    data = DecisionRecordedData(
        decision_id=DecisionId(record.decision_id),
        subject=SubjectId(own.owner_id if own.kind is AccountKind.SUBJECT else call.subject),
        caller=decided.caller,
        decision=answer.decision.label,
        reason_codes=tuple(reason.code for reason in answer.reasons),
        provider=call.provider,
        model=call.model,
        project=ProjectId(call.project_id) if call.project_id else None,
        purpose=call.purpose,
        estimated_cost_micro_usd=record.estimated_cost_micro_usd,
        policy_version=answer.quota_policy_version or None,
        price_book_version=answer.price_book_version or None,
        accounts=[
            DecidedAccountData(
                account_id=balance.account.account_id,
                limit_micro_usd=balance.limit_micro_usd,
                posted_micro_usd=balance.posted_micro_usd,
                pending_micro_usd=balance.pending_micro_usd,
                band=balance.band.label,
            )
            for balance in answer.balances
        ],
        positions=dict(decided.next_offsets),
        stale=decided.stale,
        data_class=call.data_class,
        use_case=UseCaseId(call.use_case_id) if call.use_case_id else None,
        cohort=answer.cohort,
        shadow_decision=shadow.decision.label if shadow else None,
        shadow_reason_codes=tuple(reason.code for reason in shadow.reasons) if shadow else None,
        count=record.decisions,
        first_decided_at=record.first_decided_at if record.decisions > 1 else None,
        advice=_advised(answer.advice),
    )
    encoded = encode_decision_recorded(
        data,
        id=str(event_id(f"decision/{record.decision_id}", 1)),
        source=SOURCE,
        time=decided.decided_at,
        traceparent=record.traceparent,
    )
    return _to_own_topic(encoded)


def _advised(advice: Advice) -> AdvisedData | None:
    if advice == NO_ADVICE:
        return None
    models, cached, batched, shorter, assets = advice
    return AdvisedData(
        cheaper_models=tuple(
            AdvisedModelData(provider=each.provider, model=each.model, saving_micro_usd=each.saving_micro_usd)
            for each in models
        ),
        cached_input_saving_micro_usd=cached.saving_micro_usd if cached else None,
        batch_saving_micro_usd=batched.saving_micro_usd if batched else None,
        shorter_context_saving_micro_usd=shorter.saving_micro_usd if shorter else None,
        asset_ids=tuple(each.asset_id for each in assets),
    )


def announcement_id(announced: Announced) -> UUID:
    """Return the id of an announcement: the same whenever it is made."""
    return event_id(_announcement_aggregate(announced), announced.announced_version)


def announcement_event(announced: Announced, now: datetime) -> OutboxEvent:
    """Encode an announcement."""
    return outbox_event(
        announced,
        aggregate_id=_announcement_aggregate(announced),
        version=announced.announced_version,
        time=now,
    )


def _announcement_aggregate(announced: Announced) -> str:
    return f"{announced.key}/{announced.about}"


def announcement_from_record(record: Record) -> tuple[UUID, Announcement] | None:
    """Read an announcement from the own topic; ``None`` for every other event there.

    It has the id that would be given to it now, whatever the record says: so it isn't made again.

    Raises
    ------
    EventRejected
        The record can't be read, or says what can't be true.
    """
    envelope = decode(record.headers, record.value)
    if envelope.type not in _ANNOUNCED:
        return None
    event = parse(envelope)
    assert isinstance(event, Announced)
    return announcement_id(event), Announcement(event, envelope.time)


def skip_event_id(skip: Skip) -> str:
    """Return the id of the event that says so."""
    return str(event_id(_skip_aggregate(skip), 1))


def skipped_event(skip: Skip, time: datetime, traceparent: str | None = None) -> OutboxEvent:
    """Encode an operator's skip."""
    return outbox_event(
        ParkedSkipped(**skip._asdict()),
        aggregate_id=_skip_aggregate(skip),
        time=time,
        traceparent=traceparent,
    )


def _skip_aggregate(skip: Skip) -> str:
    return f"parked/{skip.topic}/{skip.partition}/{skip.offset}"


def skip_from_record(record: Record) -> Skip | None:
    """Read a skip from the own topic; ``None`` for every other event there.

    Raises
    ------
    EventRejected
        The record can't be read.
    """
    envelope = decode(record.headers, record.value)
    if envelope.type != ParkedSkipped.type_name:
        return None
    event = parse(envelope)
    assert isinstance(event, ParkedSkipped)
    return Skip(
        event.topic, event.partition, event.offset, event.reason_code, event.ticket_id, event.decided_by
    )
