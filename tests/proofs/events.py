"""Events as tools, HR feed and governance send them, written by hand.

The product's encoder has no part in it: a mistake that it shared with the product's decoder would show.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

USAGE = "tokenomics.usage.v1"
DIRECTORY = "tokenomics.directory.v1"
POLICY = "tokenomics.policy.v1"
QUOTA = "tokenomics.quota.v1"
APPROVALS = "tokenomics.approvals.v1"
NOMINATIONS = "tokenomics.nominations.v1"

PROVIDER = "proof-ai"
MODELS = ("atlas-large", "atlas-small", "borealis-2026-05", "borealis-2026-09", "cirrus-night")
UNPRICED_MODEL = "unheard-of"


class Message(NamedTuple):
    """A Kafka record about to be written."""

    topic: str
    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes], ...]


@dataclass(frozen=True, slots=True)
class Draft:
    """An event not yet written down: the same draft can be sent in either mode, once or often."""

    topic: str
    key: str
    source: str
    id: str
    type: str
    time: datetime
    data: dict[str, Any]

    def binary(self) -> Message:
        """Write it in binary mode: attributes are headers."""
        headers = (
            ("ce_specversion", b"1.0"),
            ("ce_id", self.id.encode()),
            ("ce_source", self.source.encode()),
            ("ce_type", self.type.encode()),
            ("ce_time", _text(self.time).encode()),
            ("content-type", b"application/json"),
        )
        return Message(self.topic, self.key.encode(), as_json(self.data), headers)

    def structured(self) -> Message:
        """Write it in structured mode, its members in another order and its time with another offset."""
        event = {
            "data": dict(reversed(self.data.items())),
            "datacontenttype": "application/json",
            "time": self.time.astimezone(UTC).isoformat(),
            "type": self.type,
            "source": self.source,
            "id": self.id,
            "specversion": "1.0",
        }
        headers = (("content-type", b"application/cloudevents+json; charset=UTF-8"),)
        return Message(self.topic, self.key.encode(), as_json(event), headers)


def directory_event(
    entity_id: str, type_: str, effective_from: datetime, id_: str, time: datetime, **data: object
) -> Draft:
    """Draft a directory event, e.g. ``person.upserted``, told at `time`."""
    body = {f"{type_.partition('.')[0]}_id": entity_id, "effective_from": _text(effective_from), **data}
    return Draft(DIRECTORY, entity_id, "/hr", id_, f"tokenomics.{type_}.v1", time, body)


def policy_event(
    kind: str,
    version: int,
    effective_from: datetime,
    time: datetime,
    document: dict[str, Any],
    *,
    replaces: int | None = None,
) -> Draft:
    """Draft a policy version told at `time`, written against the one before unless said otherwise."""
    body: dict[str, Any] = {
        "kind": kind,
        "version": version,
        "effective_from": _text(effective_from),
        "document": document,
    }
    if version > 1:
        body["replaces"] = version - 1 if replaces is None else replaces
    type_ = "tokenomics.policy.published.v1"
    return Draft(POLICY, kind, "/governance", f"{kind}-{version}", type_, time, body)


def approval_event(
    request_id: str,
    kind: str,
    target: str,
    holds: tuple[datetime, datetime],
    time: datetime,
    *,
    id_: str | None = None,
    **data: object,
) -> Draft:
    """Draft an approval for a target such as ``team/red`` from an instant to an instant, told at `time`."""
    target_kind, _, target_id = target.partition("/")
    body = {
        "request_id": request_id,
        "kind": kind,
        "target": {"kind": target_kind, "id": target_id},
        "starts_at": _text(holds[0]),
        "expires_at": _text(holds[1]),
        "reason_code": "proof",
        "decided_by": "rule:1",
        **data,
    }
    type_ = "tokenomics.approval.approved.v1"
    return Draft(APPROVALS, request_id, "/approvals", id_ or f"{request_id}-approved", type_, time, body)


def ending_event(request_id: str, type_: str, ended_at: datetime, time: datetime, id_: str) -> Draft:
    """Draft the end of an approval: ``revoked`` or ``lapsed``."""
    body: dict[str, Any] = {"request_id": request_id, "ended_at": _text(ended_at)}
    if type_ == "revoked":
        body |= {"reason_code": "proof", "decided_by": "rule:1"}
    return Draft(APPROVALS, request_id, "/approvals", id_, f"tokenomics.approval.{type_}.v1", time, body)


def usage_event(source: str, id_: str, time: datetime, **data: object) -> Draft:
    """Draft a usage event; the rest of the data has sensible values unless given."""
    body = {
        "subject": "nobody",
        "tool": "ide",
        "provider": PROVIDER,
        "model": MODELS[0],
        "input_tokens": 1000,
        "output_tokens": 100,
        **data,
    }
    return Draft(USAGE, str(body["subject"]), source, id_, "tokenomics.usage.recorded.v1", time, body)


def correction_event(original: Draft, revision: int, id_: str, time: datetime, **quantities: object) -> Draft:
    """Draft a correction of a usage event."""
    body = {
        "subject": original.data["subject"],
        "original_source": original.source,
        "original_id": original.id,
        "revision": revision,
        "input_tokens": 1000,
        "output_tokens": 100,
        **quantities,
    }
    type_ = "tokenomics.usage.corrected.v1"
    return Draft(USAGE, original.key, original.source, id_, type_, time, body)


def settled_event(hold_id: str, id_: str, time: datetime, **data: object) -> Draft:
    """Draft what the service tells when a hold's caller says what it cost, if no usage is named."""
    body = {
        "hold_id": hold_id,
        "subject": "nobody",
        "amount_micro_usd": 10_000,
        "expires_at": _text(time + timedelta(minutes=5)),
        "change_seq": 1,
        "settled_at": _text(time),
        "cost_micro_usd": 10_000,
        "covered_micro_usd": 10_000,
        "purpose": "operational",
        **data,
    }
    type_ = "tokenomics.hold.settled.v1"
    return Draft(QUOTA, str(body["subject"]), "urn:tokenomics:quota", id_, type_, time, body)


def closed_event(
    account_id: str, left_micro_usd: int, next_period: tuple[datetime, datetime], time: datetime
) -> Draft:
    """Draft what the service tells when a period closes and leaves something for the next."""
    kind, owner_id, purpose, period = account_id.split("/")
    body = {
        "account_id": account_id,
        "kind": kind,
        "owner_id": owner_id,
        "purpose": purpose,
        "period": period,
        "version": 1,
        "posted_micro_usd": 0,
        "experiment_micro_usd": 0,
        "carry_over": {
            "amount_micro_usd": left_micro_usd,
            "starts_at": _text(next_period[0]),
            "ends_at": _text(next_period[1]),
        },
        "positions": {},
    }
    type_, id_ = "tokenomics.period.closed.v1", f"closed-{account_id}"
    return Draft(QUOTA, account_id, "urn:tokenomics:quota", id_, type_, time, body)


def source_test(id_: str, time: datetime, subject: str) -> Draft:
    """Draft a tool's connection test, which is never counted."""
    type_ = "tokenomics.source.tested.v1"
    return Draft(USAGE, subject, "/tools/test", id_, type_, time, {"subject": subject, "tool": "ide"})


def reuse_event(id_: str, time: datetime, subject: str, asset_id: str) -> Draft:
    """Draft that somebody used what somebody shared."""
    data = {"subject": subject, "asset_id": asset_id}
    return Draft(USAGE, subject, "/tools/ide", id_, "tokenomics.asset.reused.v1", time, data)


def asset_event(asset_id: str, nominee: str, use_cases: Sequence[str], id_: str, time: datetime) -> Draft:
    """Draft that somebody shares something."""
    data = {
        "nominee": nominee,
        "asset_id": asset_id,
        "use_cases": list(use_cases),
        "published_at": _text(time),
    }
    return Draft(NOMINATIONS, nominee, "/scoring", id_, "tokenomics.asset.published.v1", time, data)


def rates(input_: int, output: int, **others: int) -> dict[str, int]:
    """Write rates in micro-USD per million tokens."""
    return {"input": input_, "output": output, **others}


def price_book(factor: int, *, knows_all: bool = False) -> dict[str, Any]:
    """Write a price book with tiers, a night window, prefixes and service tiers."""
    large = rates(3_000_001 * factor, 15_000_003 * factor, cached_input=300_007, cache_creation=3_750_011)
    prices: list[dict[str, Any]] = [
        {
            "provider": PROVIDER,
            "model": "atlas-large",
            "rates": large,
            "tiers": [
                {"above_input_tokens": 20_000, "rates": rates(6_000_013 * factor, 22_500_017)},
                {"above_input_tokens": 60_000, "rates": rates(9_000_041 * factor, 30_000_023)},
            ],
        },
        {"provider": PROVIDER, "model": "atlas-small", "rates": rates(250_003 * factor, 1_250_009)},
        {"provider": PROVIDER, "model": "borealis-*", "rates": rates(1_100_017, 4_400_021 * factor)},
        {"provider": PROVIDER, "model": "borealis-2026-09", "rates": rates(900_001, 3_600_007 * factor)},
        {
            "provider": PROVIDER,
            "model": "cirrus-night",
            "rates": rates(2_000_003, 8_000_009),
            "windows": [{"from": "22:00", "until": "06:30", "rates": rates(1_000_033 * factor, 4_000_037)}],
        },
    ]
    if knows_all:
        prices.append({"provider": PROVIDER, "model": UNPRICED_MODEL, "rates": rates(50_021, 200_003)})
    return {
        "prices": prices,
        "service_tier_basis_points": {"standard": 10_000, "batch": 5_000, "priority": 17_500},
        "fallback": rates(5_000_011, 25_000_009),
    }


def quota_policy(
    time_zone: str,
    allowance_micro_usd: int,
    budgets: Sequence[tuple[str, str, int]] = (),
    allowances: Sequence[tuple[str, int]] | None = None,
) -> dict[str, Any]:
    """Write a quota policy; by default engineers may use twice what others may."""
    if allowances is None:
        allowances = [("engineer", 2 * allowance_micro_usd)]
    return {
        "time_zone": time_zone,
        "period": "calendar_month",
        "thresholds": {
            "nudge_basis_points": 7000,
            "justify_basis_points": 9000,
            "approve_basis_points": 10_000,
        },
        "allowances": [{"role": role, "limit_micro_usd": limit} for role, limit in allowances],
        "default_allowance_micro_usd": allowance_micro_usd,
        "budgets": [
            {"kind": kind, "owner_id": owner_id, "limit_micro_usd": limit}
            for kind, owner_id, limit in budgets
        ],
    }


def _text(instant: datetime) -> str:
    return instant.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def as_json(value: object) -> bytes:
    """Write JSON without spaces."""
    return json.dumps(value, separators=(",", ":")).encode()
