"""The hot paths without pydantic, several times as fast and equal to it.

`usage.recorded` is read here, `decision.recorded` is written. Only what is plainly good is taken. Everything
else goes to the pydantic model, which has the last word, so that a rejection has the same code and message on
both paths. Tests hold the two equal on generated input.
"""

import re
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from functools import lru_cache
from typing import Annotated, Final, Literal, get_args

import msgspec
from pydantic import ValidationError

from tokenomics_contracts.cloudevents import EncodedEvent, Envelope, enveloped
from tokenomics_contracts.events.policy import problems_of
from tokenomics_contracts.events.quota import DecisionRecorded
from tokenomics_contracts.events.usage import UsageRecorded
from tokenomics_contracts.json_data import require_shallow
from tokenomics_contracts.registry import REGISTRY
from tokenomics_contracts.rejection import EventRejected, RejectionCode
from tokenomics_contracts.units import (
    ACCOUNT_ID_PATTERN,
    CALLER_PATTERN,
    EARLIEST_TIME,
    IDENTIFIER_PATTERN,
    LABEL_PATTERN,
    LATEST_TIME,
    MAX_COST_MICRO_USD,
    MAX_LIMIT_MICRO_USD,
    MAX_OFFSET,
    MAX_SEQUENCE_NUMBER,
    MAX_TOKENS,
    MAX_TOTAL_MICRO_USD,
    MAX_VERSION,
    POSITION_PATTERN,
    SLUG_PATTERN,
    AccountId,
    Band,
    Cohort,
    DecisionId,
    DecisionName,
    HoldId,
    MicroUsd,
    ProjectId,
    Purpose,
    ServiceTier,
    SubjectId,
    TokenCount,
    UseCaseId,
)

_Tokens = Annotated[TokenCount, msgspec.Meta(ge=0, le=MAX_TOKENS)]


class UsageRecordedData(msgspec.Struct, kw_only=True, gc=False, omit_defaults=True):
    """The data of `UsageRecorded`, field for field. Treat it as immutable.

    Fields stand in alphabetical order, so that it encodes to the canonical form that `payload_digest` hashes.
    """

    cache_creation_tokens: _Tokens = TokenCount(0)
    cached_input_tokens: _Tokens = TokenCount(0)
    cost_micro_usd: Annotated[MicroUsd, msgspec.Meta(ge=0, le=MAX_COST_MICRO_USD)] | None = None
    data_class: str = "internal"
    decision_id: DecisionId | None = None
    hold_id: HoldId | None = None
    input_tokens: _Tokens
    latency_ms: Annotated[int, msgspec.Meta(ge=0, le=86_400_000)] | None = None
    model: str
    outcome: Literal["success", "error", "cancelled"] | None = None
    output_tokens: _Tokens
    project: ProjectId | None = None
    provider: str
    purpose: Purpose = "operational"
    reasoning_tokens: _Tokens = TokenCount(0)
    service_tier: ServiceTier = "standard"
    subject: SubjectId
    tool: str
    use_case: UseCaseId | None = None

    def __post_init__(self) -> None:
        # msgspec omits a default by identity: the text must be the very object that the field's default is.
        self.data_class = sys.intern(self.data_class)


_PLAIN_BYTES: Final = 2_048
"""Longer data isn't plain: it may hide numbers of thousands of digits in fields that we skip."""

_DECODER: Final = msgspec.json.Decoder(UsageRecordedData)
_identifier: Final = re.compile(IDENTIFIER_PATTERN).fullmatch
_label: Final = re.compile(LABEL_PATTERN).fullmatch
_slug: Final = re.compile(SLUG_PATTERN).fullmatch


@lru_cache(maxsize=65_536)
def _is_subject(subject: str) -> bool:
    return _identifier(subject) is not None


@lru_cache(maxsize=65_536)
def _is_context(data_class: str, project: str | None, use_case: str | None, *labels: str) -> bool:
    return (
        _slug(data_class) is not None
        and (project is None or _identifier(project) is not None)
        and (use_case is None or _identifier(use_case) is not None)
        and all(map(_label, labels))
    )


def parse_usage_recorded(envelope: Envelope) -> UsageRecordedData:
    """Read the data of a `tokenomics.usage.recorded.v1` event.

    Raises
    ------
    EventRejected
        As `registry.parse`: `bad_json` or `invalid_data`.
    """
    data = envelope.data
    if len(data) > _PLAIN_BYTES:
        return _judged_by_the_model(envelope)
    if b"[" in data or data.find(b"{", 1) >= 0:  # none of our fields nests
        require_shallow(data)
    try:
        if not data.isascii():
            data.decode()
        usage = _DECODER.decode(data)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return _judged_by_the_model(envelope)
    if (
        usage.cached_input_tokens + usage.cache_creation_tokens > usage.input_tokens
        or usage.reasoning_tokens > usage.output_tokens
        or not _is_subject(usage.subject)
        or not _is_context(
            usage.data_class, usage.project, usage.use_case, usage.tool, usage.provider, usage.model
        )
        or (usage.hold_id is not None and _identifier(usage.hold_id) is None)
        or (usage.decision_id is not None and _identifier(usage.decision_id) is None)
    ):
        return _judged_by_the_model(envelope)
    return usage


def _judged_by_the_model(envelope: Envelope) -> UsageRecordedData:
    event = REGISTRY.parse(envelope)
    assert isinstance(event, UsageRecorded)
    return UsageRecordedData(**event.model_dump())


class DecidedAccountData(msgspec.Struct, kw_only=True, gc=False, omit_defaults=True):
    """The data of `DecidedAccount`, field for field."""

    account_id: AccountId
    limit_micro_usd: MicroUsd | None = None
    posted_micro_usd: MicroUsd
    pending_micro_usd: MicroUsd
    band: Band


class AdvisedModelData(msgspec.Struct, kw_only=True, gc=False):
    """The data of `AdvisedModel`, field for field."""

    provider: str
    model: str
    saving_micro_usd: MicroUsd


class AdvisedData(msgspec.Struct, kw_only=True, gc=False, omit_defaults=True):
    """The data of `Advised`, field for field."""

    cheaper_models: tuple[AdvisedModelData, ...]
    cached_input_saving_micro_usd: MicroUsd | None = None
    batch_saving_micro_usd: MicroUsd | None = None
    shorter_context_saving_micro_usd: MicroUsd | None = None
    asset_ids: tuple[str, ...]


class DecisionRecordedData(msgspec.Struct, kw_only=True, gc=False, omit_defaults=True):
    """The data of `DecisionRecorded`, field for field in its order. Types are taken to be as declared."""

    decision_id: DecisionId
    subject: SubjectId
    caller: str
    decision: DecisionName
    reason_codes: tuple[str, ...]
    provider: str
    model: str
    project: ProjectId | None = None
    purpose: Purpose
    estimated_cost_micro_usd: MicroUsd
    policy_version: int | None = None
    price_book_version: int | None = None
    accounts: Sequence[DecidedAccountData]
    positions: dict[str, int]
    stale: bool
    data_class: str
    use_case: UseCaseId | None = None
    cohort: Cohort | None = None
    shadow_decision: DecisionName | None = None
    shadow_reason_codes: tuple[str, ...] | None = None
    count: int
    first_decided_at: datetime | None = None
    advice: AdvisedData | None = None


_ENCODER: Final = msgspec.json.Encoder()
_account_id: Final = re.compile(ACCOUNT_ID_PATTERN).fullmatch
_caller: Final = re.compile(CALLER_PATTERN).fullmatch
_position: Final = re.compile(POSITION_PATTERN).fullmatch
_BANDS: Final = frozenset(get_args(Band))
_COHORTS: Final = frozenset(get_args(Cohort))
_DECISIONS: Final = frozenset(get_args(DecisionName))
_PURPOSES: Final = frozenset(get_args(Purpose))


@lru_cache(maxsize=16_384)
def _is_account_id(account_id: str) -> bool:
    return _account_id(account_id) is not None


@lru_cache(maxsize=4_096)
def _is_call(  # noqa: PLR0917 - its circumstances
    caller: str, project: str | None, provider: str, model: str, data_class: str, use_case: str | None
) -> bool:
    return (
        _caller(caller) is not None
        and (project is None or _identifier(project) is not None)
        and _label(provider) is not None
        and _label(model) is not None
        and _slug(data_class) is not None
        and (use_case is None or _identifier(use_case) is not None)
    )


@lru_cache(maxsize=1_024)
def _are_slugs(codes: tuple[str, ...]) -> bool:
    return all(map(_slug, codes))


@lru_cache(maxsize=1_024)
def _are_positions(keys: tuple[str, ...]) -> bool:
    return all(map(_position, keys))


def encode_decision_recorded(
    decided: DecisionRecordedData,
    *,
    id: str,  # noqa: A002 - CloudEvents' word
    source: str,
    time: datetime,
    traceparent: str | None = None,
) -> EncodedEvent:
    """Write a `tokenomics.decision.recorded.v1` event, byte for byte as `cloudevents.encode` would.

    Raises
    ------
    EventRejected
        `invalid_data`: the model refuses it. Or as `cloudevents.encode`.
    ValueError
        `time` is naive.
    """
    data = _ENCODER.encode(decided) if _is_plainly_good(decided) else _written_by_the_model(decided)
    return enveloped(
        data,
        type_name=DecisionRecorded.type_name,
        key=decided.subject,
        id=id,
        source=source,
        time=time,
        traceparent=traceparent,
    )


def _is_plainly_good(decided: DecisionRecordedData) -> bool:
    for account in decided.accounts:
        limit = account.limit_micro_usd
        if not (
            _is_account_id(account.account_id)
            and (limit is None or 0 <= limit <= MAX_LIMIT_MICRO_USD)
            and 0 <= account.posted_micro_usd <= MAX_TOTAL_MICRO_USD
            and 0 <= account.pending_micro_usd <= MAX_TOTAL_MICRO_USD
            and account.band in _BANDS
        ):
            return False
    policy_version, price_book_version = decided.policy_version, decided.price_book_version
    offsets, first_decided_at = decided.positions.values(), decided.first_decided_at
    return (
        _identifier(decided.decision_id) is not None
        and _is_subject(decided.subject)
        and _is_call(
            decided.caller,
            decided.project,
            decided.provider,
            decided.model,
            decided.data_class,
            decided.use_case,
        )
        and decided.decision in _DECISIONS
        and _are_slugs(decided.reason_codes)
        and (decided.cohort is None or decided.cohort in _COHORTS)
        and (decided.shadow_decision is None or decided.shadow_decision in _DECISIONS)
        and (decided.shadow_reason_codes is None or _are_slugs(decided.shadow_reason_codes))
        and decided.purpose in _PURPOSES
        and 0 <= decided.estimated_cost_micro_usd <= MAX_TOTAL_MICRO_USD
        and (policy_version is None or 1 <= policy_version <= MAX_VERSION)
        and (price_book_version is None or 1 <= price_book_version <= MAX_VERSION)
        and _are_positions(tuple(decided.positions))
        and min(offsets, default=0) >= 0
        and max(offsets, default=0) <= MAX_OFFSET
        and 1 <= decided.count <= MAX_SEQUENCE_NUMBER
        and (first_decided_at is None or _is_plain_time(first_decided_at))
        and (decided.advice is None or _is_good_advice(decided.advice))
    )


def _is_good_advice(advice: AdvisedData) -> bool:
    savings = (
        *(model.saving_micro_usd for model in advice.cheaper_models),
        advice.cached_input_saving_micro_usd or 0,
        advice.batch_saving_micro_usd or 0,
        advice.shorter_context_saving_micro_usd or 0,
    )
    return (
        min(savings) >= 0
        and max(savings) <= MAX_TOTAL_MICRO_USD
        and all(_are_labels(model.provider, model.model) for model in advice.cheaper_models)
        and all(_identifier(asset_id) is not None for asset_id in advice.asset_ids)
    )


@lru_cache(maxsize=1_024)
def _are_labels(*labels: str) -> bool:
    return all(map(_label, labels))


def _is_plain_time(moment: datetime) -> bool:
    return moment.tzinfo is UTC and EARLIEST_TIME <= moment < LATEST_TIME


def _written_by_the_model(decided: DecisionRecordedData) -> bytes:
    try:
        event = DecisionRecorded.model_validate(msgspec.to_builtins(decided))
    except ValidationError as error:
        message = "; ".join(map(str, problems_of(error)))
        raise EventRejected(RejectionCode.INVALID_DATA, message) from None
    return event.model_dump_json(by_alias=True, exclude_none=True).encode()
