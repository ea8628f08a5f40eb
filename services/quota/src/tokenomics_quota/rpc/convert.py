"""Between messages and values. Enumerations of the contract start at 1 behind UNSPECIFIED."""

import re
from collections.abc import Iterable
from datetime import UTC, datetime
from functools import lru_cache
from typing import Final

from google.protobuf.timestamp_pb2 import Timestamp

from tokenomics.quota.v1 import quota_pb2 as pb
from tokenomics_chassis.memo import memo
from tokenomics_chassis.rpc.errors import InvalidRequestError, RpcError
from tokenomics_contracts.units import (
    EARLIEST_TIME,
    IDENTIFIER_PATTERN,
    LABEL_PATTERN,
    LATEST_TIME,
    MAX_COST_MICRO_USD,
    MAX_TOKENS,
    SLUG_PATTERN,
    MicroUsd,
    PeriodId,
    ServiceTier,
)
from tokenomics_contracts.units import Purpose as CallPurpose
from tokenomics_quota.domain.accounts import Account, AccountKind, Purpose
from tokenomics_quota.domain.advice import DEFAULT_MOST
from tokenomics_quota.domain.balance import Balance, Touched
from tokenomics_quota.domain.checks import (
    DEFAULT_DATA_CLASS,
    NO_ADVICE,
    Advice,
    Answer,
    Call,
    Reason,
    Unblock,
    called,
)
from tokenomics_quota.domain.degradation import Degraded
from tokenomics_quota.domain.friction import Band, Decision
from tokenomics_quota.domain.periods import parse_period
from tokenomics_quota.domain.pricing import Pricing, Quantities, counted
from tokenomics_quota.usecases.seeing import Sight, everything

_KINDS: Final = {
    AccountKind.SUBJECT: pb.ACCOUNT_KIND_SUBJECT,
    AccountKind.PROJECT: pb.ACCOUNT_KIND_PROJECT,
    AccountKind.TEAM: pb.ACCOUNT_KIND_TEAM,
    AccountKind.COST_CENTRE: pb.ACCOUNT_KIND_COST_CENTRE,
    AccountKind.UNATTRIBUTED: pb.ACCOUNT_KIND_UNATTRIBUTED,
}
_KINDS_FROM_PB: Final = {number: kind for kind, number in _KINDS.items()}
_PURPOSES: Final = {
    Purpose.OPERATIONAL: pb.PURPOSE_OPERATIONAL,
    Purpose.EXPERIMENT: pb.PURPOSE_EXPERIMENT,
    Purpose.ALL: pb.PURPOSE_ALL,
}
_PRICINGS: Final[dict[Pricing, pb.Pricing.ValueType]] = {
    "reported": pb.PRICING_REPORTED,
    "book": pb.PRICING_BOOK,
    "fallback": pb.PRICING_FALLBACK,
}
_TIERS: Final[dict[int, ServiceTier]] = {
    pb.SERVICE_TIER_UNSPECIFIED: "standard",
    pb.SERVICE_TIER_STANDARD: "standard",
    pb.SERVICE_TIER_BATCH: "batch",
    pb.SERVICE_TIER_PRIORITY: "priority",
}
_TIERS_TO_PB: Final = {tier: pb.ServiceTier.ValueType(number) for number, tier in _TIERS.items()}
_CALL_PURPOSES: Final[dict[int, CallPurpose]] = {
    pb.PURPOSE_UNSPECIFIED: "operational",
    pb.PURPOSE_OPERATIONAL: "operational",
    pb.PURPOSE_EXPERIMENT: "experiment",
}
_DECISIONS: Final = [pb.Decision.ValueType(decision + 1) for decision in Decision]
_BANDS: Final = [pb.Band.ValueType(band + 1) for band in Band]
_UNBLOCKS: Final = {
    Decision.JUSTIFICATION_REQUIRED: pb.UNBLOCK_KIND_JUSTIFY,
    Decision.APPROVAL_REQUIRED: pb.UNBLOCK_KIND_REQUEST_APPROVAL,
    Decision.DENIED: pb.UNBLOCK_KIND_USE_PERMITTED_WAY,
}
_ANSWER: Final = pb.CheckResult.ANSWER_FIELD_NUMBER
_RESULTS: Final = pb.BatchCheckQuotaResponse.RESULTS_FIELD_NUMBER
_RESULT: Final = pb.StreamCheckQuotaResponse.RESULT_FIELD_NUMBER
_MOST_SUGGESTED: Final = 20
_SEVEN_BITS: Final = 0x7F

CHOSEN_ID: Final = "must be an identifier: letters, digits and . _ : -, at most 128"
"""What an id is refused with that the caller chooses for what it asks for."""

IDENTIFIER: Final = f"{CHOSEN_ID}, no e-mail address"
_TOKENS: Final = f"must be 0 to {MAX_TOKENS}"
_SERVICE_TIER: Final = "is not a service tier of this contract"
_LABEL: Final = "must be a name of 1 to 128 printable characters without spaces"


def is_identifier(text: str) -> bool:
    """Whether a text may name a subject, project, team or cost centre."""
    return re.fullmatch(IDENTIFIER_PATTERN, text) is not None


def _is_label(text: str) -> bool:
    return re.fullmatch(LABEL_PATTERN, text) is not None


def _is_slug(text: str) -> bool:
    return re.fullmatch(SLUG_PATTERN, text) is not None


def call_from_pb(request: pb.CheckQuotaRequest) -> Call:
    """Read what is to be checked.

    Raises
    ------
    InvalidRequestError
        Naming every field that is wrong.
    """
    subject, provider, model, project = request.subject, request.provider, request.model, request.project
    input_tokens = request.estimated_input_tokens
    cached_tokens = request.estimated_cached_input_tokens
    output_tokens = request.estimated_output_tokens
    # What is wrong is worked out only when something is.
    if not (0 <= cached_tokens <= input_tokens <= MAX_TOKENS and 0 <= output_tokens <= MAX_TOKENS):
        raise InvalidRequestError(_violations(request))
    try:
        service_tier, circumstances = _circumstances(
            subject,
            provider,
            model,
            project,
            request.use_case,
            request.data_class,
            request.service_tier,
            request.purpose,
        )
    except ValueError:
        raise InvalidRequestError(_violations(request)) from None
    quantities = counted((input_tokens, cached_tokens, 0, output_tokens, 0, service_tier))
    return called((subject, provider, model, quantities, *circumstances))


@memo(20_000)
def _circumstances(  # noqa: PLR0917 - in the order of the fields
    subject: str,
    provider: str,
    model: str,
    project: str,
    use_case: str,
    data_class: str,
    service_tier: int,
    purpose: int,
) -> tuple[ServiceTier, tuple[str | None, CallPurpose, str, str | None]]:
    """Return service tier and last fields of a call whose other circumstances may be named so.

    Raises
    ------
    ValueError
        They may not. That isn't remembered: what is refused may be of any length.
    """
    if (
        is_identifier(subject)
        and _is_label(provider)
        and _is_label(model)
        and (not project or is_identifier(project))
        and (not use_case or is_identifier(use_case))
        and (not data_class or _is_slug(data_class))
        and service_tier in _TIERS
        and purpose in _CALL_PURPOSES
    ):
        named = (project or None, _CALL_PURPOSES[purpose], data_class or DEFAULT_DATA_CLASS, use_case or None)
        return _TIERS[service_tier], named
    raise ValueError


def _violations(request: pb.CheckQuotaRequest) -> dict[str, str]:
    cached_tokens, input_tokens = request.estimated_cached_input_tokens, request.estimated_input_tokens
    rules = {
        "subject": (is_identifier(request.subject), IDENTIFIER),
        "provider": (_is_label(request.provider), _LABEL),
        "model": (_is_label(request.model), _LABEL),
        "estimated_input_tokens": (0 <= input_tokens <= MAX_TOKENS, _TOKENS),
        "estimated_output_tokens": (0 <= request.estimated_output_tokens <= MAX_TOKENS, _TOKENS),
        "estimated_cached_input_tokens": (
            0 <= cached_tokens <= max(0, input_tokens),
            "must be 0 to estimated_input_tokens",
        ),
        "service_tier": (request.service_tier in _TIERS, _SERVICE_TIER),
        "purpose": (request.purpose in _CALL_PURPOSES, "must be operational or experiment"),
        "project": (not request.project or is_identifier(request.project), IDENTIFIER),
        "use_case": (not request.use_case or is_identifier(request.use_case), IDENTIFIER),
        "data_class": (
            not request.data_class or _is_slug(request.data_class),
            "must be a class such as `internal`: lower-case letters, digits and . _ -",
        ),
    }
    return {field: message for field, (holds, message) in rules.items() if not holds}


def suggestion_from_pb(request: pb.SuggestAlternativesRequest) -> tuple[Call, int]:
    """Read the call that something better is asked for, and how much of each kind at most.

    Raises
    ------
    InvalidRequestError
        Naming every field that is wrong.
    """
    violations = {f"call.{field}": message for field, message in _violations(request.call).items()}
    if not 0 <= request.limit <= _MOST_SUGGESTED:
        violations["limit"] = f"must be 1 to {_MOST_SUGGESTED}, or 0 for {DEFAULT_MOST}"
    if violations:
        raise InvalidRequestError(violations)
    return call_from_pb(request.call), request.limit or DEFAULT_MOST


def estimate_from_pb(request: pb.EstimateCostRequest) -> tuple[Quantities, datetime | None]:
    """Read what is to be priced, and as of when; ``None``: now.

    Raises
    ------
    InvalidRequestError
        Naming every field that is wrong.
    """
    cached, creation = request.cached_input_tokens, request.cache_creation_tokens
    input_tokens = max(0, request.input_tokens)
    service_tier = _TIERS.get(request.service_tier)
    rules = {
        "provider": (_is_label(request.provider), _LABEL),
        "model": (_is_label(request.model), _LABEL),
        "input_tokens": (0 <= request.input_tokens <= MAX_TOKENS, _TOKENS),
        "output_tokens": (0 <= request.output_tokens <= MAX_TOKENS, _TOKENS),
        "cached_input_tokens": (0 <= cached <= input_tokens, "must be 0 to input_tokens"),
        "cache_creation_tokens": (
            0 <= creation <= max(0, input_tokens - max(0, cached)),
            "must be 0 to input_tokens less cached_input_tokens",
        ),
        "service_tier": (service_tier is not None, _SERVICE_TIER),
    }
    found = {field: message for field, (holds, message) in rules.items() if not holds}
    at = instant_from_pb(request.at, "at", found) if request.HasField("at") else None
    if found or service_tier is None:
        raise InvalidRequestError(found)
    return Quantities(request.input_tokens, cached, creation, request.output_tokens, 0, service_tier), at


def time_from_pb(timestamp: Timestamp, field: str) -> datetime:
    """Read a time.

    Raises
    ------
    InvalidRequestError
        When it is no valid instant.
    """
    try:
        return timestamp.ToDatetime(tzinfo=UTC)
    except (ValueError, OverflowError) as error:
        raise InvalidRequestError({field: f"is not a time: {error}"}) from error


def instant_from_pb(timestamp: Timestamp, field: str, wrong: dict[str, str]) -> datetime:
    """Read a time within the bounds of the contract, or note what is wrong with it."""
    try:
        instant = time_from_pb(timestamp, field)
    except InvalidRequestError as error:
        wrong |= error.violations
        return EARLIEST_TIME
    if not EARLIEST_TIME <= instant < LATEST_TIME:
        wrong[field] = "must be a time between the years 2000 and 2199"
    return instant


def kind_from_pb(kind: pb.AccountKind.ValueType) -> AccountKind | None:
    """Read an account kind; ``None`` for unspecified.

    Raises
    ------
    InvalidRequestError
        When the number is not of this contract.
    """
    if kind == pb.ACCOUNT_KIND_UNSPECIFIED:
        return None
    if kind not in _KINDS_FROM_PB:
        raise InvalidRequestError({"kind": "is not an account kind of this contract"})
    return _KINDS_FROM_PB[kind]


def kind_to_pb(kind: AccountKind) -> pb.AccountKind.ValueType:
    """Write an account kind."""
    return _KINDS[kind]


def period_from_pb(text: str) -> PeriodId | None:
    """Read a period; ``None`` for the empty text, the current one.

    Raises
    ------
    InvalidRequestError
        It is none.
    """
    if not text:
        return None
    try:
        parse_period(text)
    except ValueError as error:
        raise InvalidRequestError({"period": "must be YYYY-MM"}) from error
    return PeriodId(text)


def check_bound(cost_micro_usd: MicroUsd, *fields: str) -> None:
    """Refuse a call that would cost more than one event can.

    Raises
    ------
    InvalidRequestError
        Naming the fields that make it so dear.
    """
    if cost_micro_usd > MAX_COST_MICRO_USD:
        message = f"makes the estimate exceed {MAX_COST_MICRO_USD} micro-USD"
        raise InvalidRequestError(dict.fromkeys(fields, message))


def answer_to_result(answer: bytes) -> bytes:
    """Write a check's serialized answer as a serialized ``CheckResult``."""
    return _part(_ANSWER, answer)


_FAILURE_BYTES: Final = 2_048
"""What a check's failure tells of wrong fields: a batch has 1,000 of them, and a client takes 4 MiB."""


def failure_to_result(error: RpcError) -> bytes:
    """Write why a check has no answer as a serialized ``CheckResult``."""
    failure = pb.CheckFailure(code=error.code.value[0], reason=error.reason, message=str(error))
    details = (
        [error.told_within(_FAILURE_BYTES)] if isinstance(error, InvalidRequestError) else error.details()
    )
    for detail in details:
        failure.details.add().Pack(detail)
    return pb.CheckResult(failure=failure).SerializeToString()


def batch_to_bytes(results: Iterable[bytes]) -> bytes:
    """Join serialized results into a serialized ``BatchCheckQuotaResponse``."""
    return b"".join(_part(_RESULTS, result) for result in results)


def streamed_to_bytes(sequence: int, answer: bytes) -> bytes:
    """Write a check's serialized answer as a serialized ``StreamCheckQuotaResponse``."""
    response = pb.StreamCheckQuotaResponse()
    response.sequence = sequence
    return response.SerializeToString() + _streamed_prefix(len(answer)) + answer


def streamed_failure_to_bytes(sequence: int, error: RpcError) -> bytes:
    """Write why a check has no answer as a serialized ``StreamCheckQuotaResponse``."""
    response = pb.StreamCheckQuotaResponse(sequence=sequence)
    response.result.MergeFromString(failure_to_result(error))
    return response.SerializeToString()


@memo(10_000)
def _streamed_prefix(length: int) -> bytes:
    """Write what precedes the answer in its result, and that in the response."""
    in_result = _part_prefix(_ANSWER, length)
    return _part_prefix(_RESULT, len(in_result) + length) + in_result


def _part(number: int, message: bytes) -> bytes:
    """Write a serialized message as a field of another."""
    return _part_prefix(number, len(message)) + message


@memo(10_000)
def _part_prefix(number: int, length: int) -> bytes:
    """Write what precedes the message: its tag, of wire type 2, and its length as a varint."""
    prefix = bytearray((number << 3 | 2,))
    while length > _SEVEN_BITS:
        prefix.append(length & _SEVEN_BITS | 0x80)
        length >>= 7
    prefix.append(length)
    return bytes(prefix)


def timestamp_to_pb(instant: datetime) -> Timestamp:
    """Write an instant."""
    timestamp = Timestamp()
    timestamp.FromDatetime(instant)
    return timestamp


_period_end_to_pb = lru_cache(maxsize=64)(timestamp_to_pb)
"""Periods have few ends, and balances are written often."""


def service_tier_to_pb(service_tier: ServiceTier) -> pb.ServiceTier.ValueType:
    """Write a class of service."""
    return _TIERS_TO_PB[service_tier]


def call_purpose_to_pb(purpose: str) -> pb.Purpose.ValueType:
    """Write what spend is for."""
    return _PURPOSES[Purpose(purpose)]


def pricing_to_pb(pricing: Pricing) -> pb.Pricing.ValueType:
    """Write where a price comes from."""
    return _PRICINGS[pricing]


def answer_to_bytes(  # noqa: PLR0917 - the parts that it is put together from
    answer: Answer,
    touched: Touched,
    decision_id: str,
    freshness: bytes,
    degraded: Degraded | None = None,
    sees: Sight = everything,
) -> bytes:
    """Write a check's answer, serialized; an account that may not be seen shows where it stands, no number.

    Parts of a message that were serialized apart make the whole when they are strung together. So those that
    are the same from one check to the next are serialized once.

    Parameters
    ----------
    touched
        The accounts that decided.
    freshness
        As the part of a serialized answer that it is.
    degraded
        How far calls go on from a stale view.
    """
    decision, reasons, _, (cost_micro_usd, pricing), caps, unblocks, *versions, shadow, _, advice, _ = answer
    response = pb.CheckQuotaResponse()
    response.decision_id = decision_id
    response.estimated_cost_micro_usd = cost_micro_usd
    if caps is not None:
        fitting = response.caps
        fitting.output_tokens_within_band, fitting.output_tokens_within_limit = caps
    if degraded is not None:
        degradation = response.degradation
        degradation.cap_micro_usd, degradation.remaining_micro_usd = degraded
    if reasons:
        response.reasons.extend(map(_reason_to_pb, reasons))
        response.unblocks.extend(map(_unblock_to_pb, unblocks))
        response.nudge.text = _nudge_text(reasons[0].message, advice)
        if advice is not NO_ADVICE:
            write_advice(advice, response.nudge)
    if shadow is not None:
        response.shadow_decision = _DECISIONS[shadow.decision]
        response.shadow_reasons.extend(map(_reason_to_pb, shadow.reasons))
    decided = _decided_in_answer(decision, pricing, *versions)
    accounts = _accounts_in_answer(touched) if sees is everything else _seen_in_answer(touched, sees)
    return b"".join((response.SerializeToString(), decided, accounts, freshness))


def _nudge_text(message: str, advice: Advice) -> str:
    if advice.cheaper_models:
        provider, model, _, _ = advice.cheaper_models[0]
        return f"{message} {provider} {model} would cost less."
    if advice.batched is not None:
        return f"{message} If it can wait, a batch would cost less."
    return message


def write_advice(advice: Advice, nudge: pb.Nudge) -> None:
    """Write what there is to say about a call."""
    for provider, model, cost, saving in advice.cheaper_models:
        cheaper = nudge.cheaper_models.add()
        cheaper.provider, cheaper.model = provider, model
        cheaper.estimated_cost_micro_usd, cheaper.saving_micro_usd = cost, saving
    if advice.cached_input is not None:
        cached = nudge.cached_input
        cached.estimated_cost_micro_usd, cached.saving_micro_usd, cached.pays_from_calls = advice.cached_input
    if advice.batched is not None:
        batch = nudge.batch_tier
        batch.estimated_cost_micro_usd, batch.saving_micro_usd = advice.batched
    if advice.shorter_context is not None:
        shorter = nudge.shorter_context
        shorter.input_tokens, shorter.estimated_cost_micro_usd, shorter.saving_micro_usd, within = (
            advice.shorter_context
        )
        shorter.within_bands = within
    for asset_id, use_case, users in advice.assets:
        asset = nudge.reusable_assets.add()
        asset.asset_id, asset.use_case, asset.distinct_users = asset_id, use_case, users


@memo(1_000)
def _decided_in_answer(
    decision: Decision, pricing: Pricing, quota_policy_version: int, price_book_version: int
) -> bytes:
    return pb.CheckQuotaResponse(
        decision=_DECISIONS[decision],
        pricing=_PRICINGS[pricing],
        quota_policy_version=quota_policy_version,
        price_book_version=price_book_version,
    ).SerializeToString()


@memo(10_000)
def _accounts_in_answer(touched: Touched) -> bytes:
    return _seen_in_answer(touched, everything)


def _seen_in_answer(touched: Touched, sees: Sight) -> bytes:
    return b"".join(_account_in_answer(balance, seen=sees(balance.account)) for balance in touched.balances)


@lru_cache(maxsize=10_000)
def _account_in_answer(balance: Balance, *, seen: bool) -> bytes:
    return pb.CheckQuotaResponse(accounts=[account_to_pb(balance, seen=seen)]).SerializeToString()


def account_to_pb(balance: Balance, *, seen: bool) -> pb.AccountBalance:
    """Write one account of an answer; one that may not be seen shows where it stands, no number."""
    if seen:
        return balance_to_pb(balance)
    account, message = balance.account, amounts_to_pb(balance, seen=False)
    message.account_id, message.owner_id, message.period = (
        account.account_id,
        account.owner_id,
        account.period,
    )
    message.kind = _KINDS[account.kind]
    return message


def balance_to_pb(balance: Balance) -> pb.AccountBalance:
    """Write one account's balance."""
    message = amounts_to_pb(balance, seen=True)
    complete_account(message, balance.account, _period_end_to_pb(balance.bounds.resets_at))
    return message


def amounts_to_pb(balance: Balance, *, seen: bool) -> pb.AccountBalance:
    """Write where an account stands and, if that may be seen, all numbers that don't follow from others."""
    if not seen:
        return pb.AccountBalance(band=_BANDS[balance.band])
    limit, granted = balance.limit_micro_usd, balance.bounds.granted
    return pb.AccountBalance(
        limit_micro_usd=limit or 0,
        grants_micro_usd=granted.micro_usd,
        overdraft_micro_usd=granted.overdraft_micro_usd,
        allowance_micro_usd=balance.bounds.allowance_micro_usd or 0,
        posted_micro_usd=balance.posted_micro_usd,
        pending_micro_usd=balance.pending_micro_usd,
        band=_BANDS[balance.band],
        unlimited=limit is None,
    )


def complete_account(message: pb.AccountBalance, account: Account, resets_at: Timestamp) -> None:
    """Write which account a message is about, and what follows from its amounts."""
    message.account_id, message.owner_id, message.period = (
        account.account_id,
        account.owner_id,
        account.period,
    )
    message.kind, message.purpose = _KINDS[account.kind], _PURPOSES[account.purpose]
    message.resets_at.CopyFrom(resets_at)
    if not message.unlimited:
        message.base_limit_micro_usd = message.limit_micro_usd - message.grants_micro_usd
        used = message.posted_micro_usd + message.pending_micro_usd
        message.remaining_micro_usd = message.limit_micro_usd - used


def _reason_to_pb(reason: Reason) -> pb.Reason:
    return pb.Reason(code=reason.code, message=reason.message, account_id=reason.account_id or "")


def _unblock_to_pb(unblock: Unblock) -> pb.Unblock:
    return pb.Unblock(
        kind=_UNBLOCKS[unblock.decision], message=unblock.message, who_can_unblock=unblock.who_can_unblock
    )
