"""The hot encoder of decisions writes what the pydantic model would write, and refuses what it refuses."""

from datetime import UTC, datetime, timedelta
from typing import Any, get_args

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from tests.unit.contracts.strategies import identifiers, labels, slugs
from tokenomics_contracts import fast
from tokenomics_contracts.cloudevents import EventRejected, decode, encode
from tokenomics_contracts.events.policy import problems_of
from tokenomics_contracts.events.quota import Advised, AdvisedModel, DecidedAccount, DecisionRecorded
from tokenomics_contracts.fast import (
    AdvisedData,
    AdvisedModelData,
    DecidedAccountData,
    DecisionRecordedData,
    encode_decision_recorded,
)
from tokenomics_contracts.registry import parse
from tokenomics_contracts.units import (
    EARLIEST_TIME,
    MAX_LIMIT_MICRO_USD,
    MAX_OFFSET,
    MAX_SEQUENCE_NUMBER,
    MAX_TOTAL_MICRO_USD,
    MAX_VERSION,
    Band,
    Cohort,
    DecisionName,
)

ENVELOPE: dict[str, Any] = {
    "id": "1",
    "source": "urn:x",
    "time": datetime(2026, 11, 3, 9, 14, tzinfo=UTC),
    "traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
}
GOOD: dict[str, Any] = {
    "decision_id": "d-1",
    "subject": "p-1",
    "caller": "ide",
    "decision": "ALLOW_WITH_NUDGE",
    "reason_codes": ("subject_in_nudge_band",),
    "provider": "openai",
    "model": "gpt-5-mini",
    "purpose": "operational",
    "estimated_cost_micro_usd": 10,
    "positions": {"tokenomics.usage.v1/0": 1},
    "stale": False,
    "data_class": "internal",
    "count": 1,
}
GOOD_ACCOUNT: dict[str, Any] = {
    "account_id": "subject/p-1/all/2026-11",
    "posted_micro_usd": 1,
    "pending_micro_usd": 0,
    "band": "nudge",
}

callers = st.from_regex(r"\A[!-~]{1,256}\Z") | st.just("system:serviceaccount:tools:ide")
totals = st.integers(0, MAX_TOTAL_MICRO_USD)
versions = st.none() | st.integers(1, MAX_VERSION)
times = st.timedeltas(timedelta(0), timedelta(days=73_000)).map(lambda since: EARLIEST_TIME + since)
account_ids = st.builds(
    "{}/{}/{}/{:04}-{:02}".format,
    st.sampled_from(["subject", "project", "team", "cost_centre", "unattributed"]),
    identifiers,
    st.sampled_from(["operational", "experiment", "all"]),
    st.integers(0, 9999),
    st.integers(1, 12),
)
accounts = st.builds(
    DecidedAccountData,
    account_id=account_ids,
    limit_micro_usd=st.none() | st.integers(0, MAX_LIMIT_MICRO_USD),
    posted_micro_usd=totals,
    pending_micro_usd=totals,
    band=st.sampled_from(get_args(Band)),
)
savings = st.none() | totals
advice = st.builds(
    AdvisedData,
    cheaper_models=st.lists(
        st.builds(AdvisedModelData, provider=labels, model=labels, saving_micro_usd=totals), max_size=3
    ).map(tuple),
    cached_input_saving_micro_usd=savings,
    batch_saving_micro_usd=savings,
    shorter_context_saving_micro_usd=savings,
    asset_ids=st.lists(identifiers, max_size=3).map(tuple),
)
decisions = st.builds(
    DecisionRecordedData,
    decision_id=identifiers,
    subject=identifiers,
    caller=callers,
    decision=st.sampled_from(get_args(DecisionName)),
    reason_codes=st.lists(slugs, max_size=4).map(tuple),
    provider=labels,
    model=labels,
    project=st.none() | identifiers,
    purpose=st.sampled_from(["operational", "experiment"]),
    estimated_cost_micro_usd=totals,
    policy_version=versions,
    price_book_version=versions,
    accounts=st.lists(accounts, max_size=5),
    positions=st.dictionaries(
        st.from_regex(r"\A[a-z0-9._-]{1,249}/[0-9]{1,6}\Z"), st.integers(0, MAX_OFFSET), max_size=5
    ),
    stale=st.booleans(),
    data_class=slugs,
    use_case=st.none() | identifiers,
    cohort=st.sampled_from([None, *get_args(Cohort)]),
    shadow_decision=st.sampled_from([None, *get_args(DecisionName)]),
    shadow_reason_codes=st.none() | st.lists(slugs, max_size=4).map(tuple),
    count=st.integers(1, MAX_SEQUENCE_NUMBER),
    first_decided_at=st.none() | times,
    advice=st.none() | advice,
)
odd_texts = st.text(max_size=5) | st.sampled_from(
    ["", "a\n", "p 1", "a/b", "a@b.example", "é", "\0", "\ud800", "x" * 129, "x" * 257, "Internal", "ALLOW"]
)
BOUNDS = (0, MAX_LIMIT_MICRO_USD, MAX_TOTAL_MICRO_USD, MAX_VERSION)
odd_numbers = st.integers(-(2**70), 2**70) | st.sampled_from(
    [bound + step for bound in BOUNDS for step in (-1, 0, 1)]
)
odd_positions = st.dictionaries(odd_texts, st.just(1), max_size=2) | st.dictionaries(
    st.sampled_from(["tokenomics.usage.v1/0", "tokenomics.usage.v1/1"]), odd_numbers
)
ODD: dict[str, st.SearchStrategy[Any]] = {
    "decision_id": odd_texts,
    "subject": odd_texts,
    "caller": odd_texts,
    "decision": odd_texts,
    "reason_codes": st.lists(odd_texts, max_size=2).map(tuple),
    "provider": odd_texts,
    "model": odd_texts,
    "project": odd_texts,
    "purpose": odd_texts,
    "estimated_cost_micro_usd": odd_numbers,
    "policy_version": odd_numbers,
    "price_book_version": odd_numbers,
    "positions": odd_positions,
    "data_class": odd_texts,
    "use_case": odd_texts,
    "cohort": odd_texts,
    "shadow_decision": odd_texts,
    "shadow_reason_codes": st.lists(odd_texts, max_size=2).map(tuple),
    "count": odd_numbers,
    "first_decided_at": st.datetimes(timezones=st.just(UTC) | st.timezones()),
}
ODD_ADVICE: dict[str, st.SearchStrategy[Any]] = {
    "provider": odd_texts,
    "model": odd_texts,
    "saving_micro_usd": odd_numbers,
    "cached_input_saving_micro_usd": odd_numbers,
    "batch_saving_micro_usd": odd_numbers,
    "shorter_context_saving_micro_usd": odd_numbers,
    "asset_ids": st.lists(odd_texts, max_size=2).map(tuple),
}
ODD_IN_ACCOUNT: dict[str, st.SearchStrategy[Any]] = {
    "account_id": odd_texts | st.sampled_from(["subject/p-1/all/2026-13", "subject/p-1/all/2026-11\n"]),
    "limit_micro_usd": odd_numbers,
    "posted_micro_usd": odd_numbers,
    "pending_micro_usd": odd_numbers,
    "band": odd_texts,
}


def by_model(data: dict[str, Any]) -> object:
    try:
        return encode(DecisionRecorded.model_validate(data), **ENVELOPE)
    except ValidationError as error:
        return "; ".join(map(str, problems_of(error)))


def by_fast_encoder(decided: DecisionRecordedData) -> object:
    try:
        return encode_decision_recorded(decided, **ENVELOPE)
    except EventRejected as rejected:
        return rejected.message


def odd_decision(decision: dict[str, Any], account: dict[str, Any]) -> DecisionRecordedData:
    return DecisionRecordedData(
        **(GOOD | {"accounts": [DecidedAccountData(**(GOOD_ACCOUNT | account))]} | decision)
    )


@given(decisions)
def test_a_good_decision_is_written_as_its_model_would_be_without_help_from_it(
    decided: DecisionRecordedData,
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.delattr(fast, "_written_by_the_model")
        written = encode_decision_recorded(decided, **ENVELOPE)
    data = msgspec.to_builtins(decided)
    assert written == by_model(data)
    assert parse(decode(written.headers, written.value)) == DecisionRecorded.model_validate(data)


@pytest.mark.parametrize("field", ODD)
@settings(max_examples=40)
@given(data=st.data())
def test_an_odd_value_of_each_field_is_written_or_refused_as_by_the_model(
    field: str, data: st.DataObject
) -> None:
    decided = odd_decision({field: data.draw(ODD[field])}, {})
    assert by_fast_encoder(decided) == by_model(msgspec.to_builtins(decided))


@pytest.mark.parametrize("field", ODD_IN_ACCOUNT)
@settings(max_examples=40)
@given(data=st.data())
def test_an_odd_value_in_an_account_is_written_or_refused_as_by_the_model(
    field: str, data: st.DataObject
) -> None:
    decided = odd_decision({}, {field: data.draw(ODD_IN_ACCOUNT[field])})
    assert by_fast_encoder(decided) == by_model(msgspec.to_builtins(decided))


@pytest.mark.parametrize("field", ODD_ADVICE)
@settings(max_examples=40)
@given(data=st.data())
def test_an_odd_value_in_advice_is_written_or_refused_as_by_the_model(
    field: str, data: st.DataObject
) -> None:
    drawn = {field: data.draw(ODD_ADVICE[field])}
    in_model = field in AdvisedModelData.__struct_fields__
    good: dict[str, Any] = {"provider": "openai", "model": "gpt-5-nano", "saving_micro_usd": 1}
    models = (AdvisedModelData(**(good | (drawn if in_model else {}))),)
    advised = AdvisedData(**({"cheaper_models": models, "asset_ids": ()} | ({} if in_model else drawn)))
    decided = odd_decision({"advice": advised}, {})
    assert by_fast_encoder(decided) == by_model(msgspec.to_builtins(decided))


def test_a_refusal_names_the_field_and_not_its_value() -> None:
    message = by_fast_encoder(odd_decision({"subject": "ada@corp.example"}, {}))
    assert isinstance(message, str)
    assert message.startswith("subject: ")
    assert "ada" not in message


def test_the_encoder_knows_the_fields_of_the_model_in_their_order() -> None:
    assert DecisionRecordedData.__struct_fields__ == tuple(DecisionRecorded.model_fields)
    assert DecidedAccountData.__struct_fields__ == tuple(DecidedAccount.model_fields)
    assert AdvisedData.__struct_fields__ == tuple(Advised.model_fields)
    assert AdvisedModelData.__struct_fields__ == tuple(AdvisedModel.model_fields)
