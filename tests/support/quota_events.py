"""Events of quota's topics as records and as values, short enough to read in a test."""

from datetime import UTC, datetime, timedelta
from typing import Any

from tokenomics_chassis.records import Record
from tokenomics_contracts.catalogue import topic_of
from tokenomics_contracts.cloudevents import encode
from tokenomics_contracts.events.approvals import ApprovalApproved, ApprovalLapsed, ApprovalRevoked
from tokenomics_contracts.events.base import Event
from tokenomics_contracts.events.directory import (
    DelegationUpserted,
    GroupUpserted,
    PersonUpserted,
    ProjectUpserted,
    TeamUpserted,
)
from tokenomics_contracts.events.nominations import AssetPublished
from tokenomics_contracts.events.policy import PolicyPublished
from tokenomics_contracts.events.quota import HoldSettled
from tokenomics_contracts.events.usage import AssetReused, UsageCorrected, UsageRecorded
from tokenomics_contracts.units import SubjectId
from tokenomics_quota.domain.effective import LogOrder
from tokenomics_quota.projections.governance import Governance, GoverningEvent

NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)
LONG_AGO = NOW - timedelta(days=300)
SOURCE = "urn:test:gateway"

# One micro-USD a token, in and out: costs can be read off the tokens.
PLAIN_RATES = {"input": 1_000_000, "output": 1_000_000}


def shared(
    asset_id: str = "prompt-1", *use_cases: str, nominee: str = "eve", since: datetime = LONG_AGO
) -> AssetPublished:
    fields: dict[str, Any] = {"nominee": nominee, "asset_id": asset_id, "use_cases": use_cases}
    return AssetPublished(**fields, published_at=since)


def reused(subject: str, asset_id: str = "prompt-1") -> AssetReused:
    return AssetReused(subject=SubjectId(subject), asset_id=asset_id)


def milliseconds(instant: datetime) -> int:
    return int(instant.timestamp() * 1000)


def record(
    event: Event,
    event_id: str,
    *,
    offset: int = 0,
    partition: int = 0,
    time: datetime = NOW,
    appended_at: datetime = NOW,
    source: str = SOURCE,
    key: bytes | None = None,
) -> Record:
    encoded = encode(event, id=event_id, source=source, time=time)
    return Record(
        topic_of(event.type_name).name,
        partition,
        offset,
        milliseconds(appended_at),
        key or encoded.key,
        encoded.value,
        encoded.headers,
    )


def usage(subject: str = "ada", **fields: Any) -> UsageRecorded:
    defaults: dict[str, Any] = {
        "tool": "gateway",
        "provider": "acme",
        "model": "one",
        "input_tokens": 60,
        "output_tokens": 40,
    }
    return UsageRecorded(**(defaults | {"subject": subject} | fields))


def correction(original_id: str, revision: int, input_tokens: int, subject: str = "ada") -> UsageCorrected:
    fields: dict[str, Any] = {"input_tokens": input_tokens, "output_tokens": 0, "subject": subject}
    return UsageCorrected(original_source=SOURCE, original_id=original_id, revision=revision, **fields)


def settled(hold_id: str, cost_micro_usd: int, subject: str = "ada", **fields: Any) -> HoldSettled:
    """Say as a hold's caller what it cost; with a ``usage_identity``, as usage did."""
    defaults: dict[str, Any] = {
        "amount_micro_usd": 10,
        "expires_at": NOW,
        "change_seq": 1,
        "settled_at": NOW,
        "covered_micro_usd": 0,
        "purpose": "operational",
    }
    said = {"hold_id": hold_id, "subject": subject, "cost_micro_usd": cost_micro_usd}
    return HoldSettled(**(defaults | said | fields))


def person(subject: str = "ada", *, since: datetime = LONG_AGO, **fields: Any) -> PersonUpserted:
    defaults: dict[str, Any] = {"role": "engineer", "team_id": "red"}
    return PersonUpserted(effective_from=since, **({"person_id": subject} | defaults | fields))


def team(team_id: str = "red", *, since: datetime = LONG_AGO, **fields: Any) -> TeamUpserted:
    return TeamUpserted(effective_from=since, **({"team_id": team_id} | fields))


def project(project_id: str, *, since: datetime = LONG_AGO, **fields: Any) -> ProjectUpserted:
    return ProjectUpserted(effective_from=since, **({"project_id": project_id} | fields))


def group(group_id: str, *member_ids: str, since: datetime = LONG_AGO) -> GroupUpserted:
    return GroupUpserted(effective_from=since, **_named(group_id=group_id, member_ids=member_ids))


def delegation(
    delegator_id: str,
    delegate_id: str,
    *,
    since: datetime = LONG_AGO,
    until: datetime = NOW + timedelta(days=30),
    delegation_id: str = "d-1",
) -> DelegationUpserted:
    named = _named(delegation_id=delegation_id, delegator_id=delegator_id, delegate_id=delegate_id)
    return DelegationUpserted(effective_from=since, ends_at=until, **named)


def _named(**ids: Any) -> Any:
    return ids


def approved(
    request_id: str = "r1",
    kind: str = "boost",
    target: str = "subject/ada",
    *,
    since: datetime = NOW - timedelta(days=1),
    until: datetime = NOW + timedelta(days=1),
    **fields: Any,
) -> ApprovalApproved:
    """Approve 100 micro-USD, a justification, or access to all models of acme for internal data."""
    of_kind: dict[str, Any] = {"amount_micro_usd": 100}
    if kind == "model_access":
        of_kind = {"models": [{"provider": "acme", "model": "*"}], "data_classes": ["internal"]}
    elif kind == "justification":
        of_kind = {}
    target_kind, target_id = target.split("/")
    stated = {
        "request_id": request_id,
        "kind": kind,
        "target": {"kind": target_kind, "id": target_id},
        "starts_at": since,
        "expires_at": until,
        "reason_code": "launch",
        "decided_by": "boss",
    }
    return ApprovalApproved.model_validate(of_kind | stated | fields)


def revoked(request_id: str = "r1", at: datetime = NOW) -> ApprovalRevoked:
    return ApprovalRevoked.model_validate(
        {"request_id": request_id, "ended_at": at, "reason_code": "enough", "decided_by": "boss"}
    )


def lapsed(request_id: str = "r1", at: datetime = NOW) -> ApprovalLapsed:
    return ApprovalLapsed.model_validate({"request_id": request_id, "ended_at": at})


def quota_policy(version: int = 1, *, since: datetime = LONG_AGO, **document: Any) -> PolicyPublished:
    defaults: dict[str, Any] = {"time_zone": "UTC"}
    return published("quota", version, since, defaults | document)


def price_book(version: int = 1, *, since: datetime = LONG_AGO, rate: int = 1_000_000) -> PolicyPublished:
    rates = {"input": rate, "output": rate}
    document = {"prices": [{"provider": "acme", "model": "*", "rates": rates}], "fallback": PLAIN_RATES}
    return published("price_book", version, since, document)


def sources(version: int = 1, *, since: datetime = LONG_AGO, **permission: Any) -> PolicyPublished:
    return published(
        "sources", version, since, {"sources": [{"source": SOURCE, "owner_id": "ada", **permission}]}
    )


def published(kind: str, version: int, since: datetime, document: dict[str, Any]) -> PolicyPublished:
    return PolicyPublished.model_validate(
        {
            "kind": kind,
            "version": version,
            "replaces": version - 1 or None,
            "effective_from": since,
            "document": document,
        }
    )


class NoPrices:
    """A price source that knows no model."""

    def find(self, provider: str, model: str) -> None:
        """Know no model."""


def governing(event: Event, offset: int, *, appended_at: datetime = NOW) -> GoverningEvent:
    order = LogOrder(milliseconds(appended_at), 0, offset)
    return GoverningEvent(topic_of(event.type_name).name, offset.to_bytes(16), b"", order, event)


def governance(*events: Event) -> Governance:
    """Return the state after these events, appended in this order."""
    described = [governing(event, offset) for offset, event in enumerate(events)]
    return Governance(NoPrices()).with_events(described, 1)
