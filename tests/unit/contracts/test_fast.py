"""The hot decoder equals the pydantic model."""

from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.unit.contracts.strategies import odd_values, usage_recorded
from tokenomics_contracts import fast
from tokenomics_contracts.cloudevents import Envelope, EventRejected
from tokenomics_contracts.events.usage import UsageRecorded
from tokenomics_contracts.identity import payload_digest
from tokenomics_contracts.registry import parse

TIME = datetime(2026, 11, 3, 9, 14, tzinfo=UTC)
FIELDS = sorted(UsageRecorded.model_fields)
GOOD: dict[str, Any] = {
    "subject": "p-1",
    "tool": "ide",
    "provider": "openai",
    "model": "gpt-5-mini",
    "input_tokens": 10,
    "output_tokens": 5,
}
GOOD_BYTES = msgspec.json.encode(GOOD)


def envelope(data: bytes) -> Envelope:
    return Envelope("1", "urn:x", UsageRecorded.type_name, TIME, None, data, None)


def by_model(data: bytes) -> object:
    try:
        event = parse(envelope(data))
        return event.model_dump(), payload_digest(event.type_name, b"k", TIME, event)
    except EventRejected as rejected:
        return rejected.code, rejected.message


def by_fast_decoder(data: bytes) -> object:
    try:
        usage = fast.parse_usage_recorded(envelope(data))
        return msgspec.structs.asdict(usage), payload_digest(UsageRecorded.type_name, b"k", TIME, usage)
    except EventRejected as rejected:
        return rejected.code, rejected.message


@given(usage_recorded())
def test_good_events_are_read_alike_without_help_from_the_model(data: dict[str, Any]) -> None:
    raw = msgspec.json.encode(data)
    with pytest.MonkeyPatch.context() as patch:
        patch.delattr(fast, "_judged_by_the_model")
        usage = fast.parse_usage_recorded(envelope(raw))
    event = parse(envelope(raw))
    assert msgspec.structs.asdict(usage) == event.model_dump()
    assert payload_digest(event.type_name, b"k", TIME, usage) == payload_digest(
        event.type_name, b"k", TIME, event
    )


@given(usage_recorded())
def test_one_event_has_one_digest_however_it_was_written_and_read(data: dict[str, Any]) -> None:
    event = parse(envelope(msgspec.json.encode(data)))
    written_out = msgspec.json.encode(event.model_dump(exclude_none=True))
    padded = written_out + b" " * 2_048
    assert by_fast_decoder(written_out) == by_fast_decoder(padded) == by_model(padded)
    rebuilt = fast.UsageRecordedData(**event.model_dump())
    assert payload_digest(event.type_name, b"k", TIME, rebuilt) == payload_digest(
        event.type_name, b"k", TIME, event
    )


@given(usage_recorded(), st.dictionaries(st.sampled_from([*FIELDS, "unknown"]), odd_values, min_size=1))
def test_odd_values_are_accepted_or_rejected_alike(data: dict[str, Any], odd: dict[str, object]) -> None:
    raw = msgspec.json.encode(data | odd)
    assert by_fast_decoder(raw) == by_model(raw)


@pytest.mark.parametrize("field", FIELDS)
@settings(max_examples=40)
@given(value=odd_values)
def test_an_odd_value_of_each_field_is_accepted_or_rejected_alike(field: str, value: object) -> None:
    raw = msgspec.json.encode(GOOD | {field: value})
    assert by_fast_decoder(raw) == by_model(raw)


@given(usage_recorded(), st.data())
def test_missing_fields_are_rejected_alike(data: dict[str, Any], draw: st.DataObject) -> None:
    del data[draw.draw(st.sampled_from(sorted(data)))]
    raw = msgspec.json.encode(data)
    assert by_fast_decoder(raw) == by_model(raw)


@given(st.integers(0, len(GOOD_BYTES)), st.integers(0, len(GOOD_BYTES)), st.binary(max_size=4))
def test_damaged_bytes_are_accepted_or_rejected_alike(start: int, end: int, inserted: bytes) -> None:
    raw = GOOD_BYTES[:start] + inserted + GOOD_BYTES[end:]
    assert by_fast_decoder(raw) == by_model(raw)


@given(st.binary(max_size=64))
@example(b"")
@example(b"[]")
@example(b"\xef\xbb\xbf{}")
def test_random_bytes_are_rejected_alike(raw: bytes) -> None:
    assert by_fast_decoder(raw) == by_model(raw)


@pytest.mark.parametrize(
    "unknown",
    [
        b"1e999",
        b"NaN",
        b"-Infinity",
        b"9" * 400,
        b"9" * 5000,
        b'"\\ud800"',
        b'"\xff"',
        b'"\xc3\xa9"',
        b"[" * 63 + b"]" * 63,
        b"[" * 64 + b"]" * 64,
        b"[" * 100_000,
        b'{"a":' * 63 + b"1" + b"}" * 63,
        b'{"a":' * 64 + b"1" + b"}" * 64,
        b'"' + b"[" * 1000 + b'"',
        b'"\\"' + b"[" * 500 + b'"',
        b"[" + b"{}," * 200 + b"{}]",
        b'1,"subject":"p-2"',
        b'1,"subject":7',
        b'1,"input_tokens":true,"input_tokens":7',
    ],
)
def test_oddities_in_unknown_fields_are_accepted_or_rejected_alike(unknown: bytes) -> None:
    raw = GOOD_BYTES[:-1] + b',"unknown":' + unknown + b"}"
    assert by_fast_decoder(raw) == by_model(raw)


def test_the_verdict_on_deep_nesting_does_not_hang_on_the_depth_of_the_caller() -> None:
    raw = GOOD_BYTES[:-1] + b',"unknown":' + b"[" * 60 + b"]" * 60 + b"}"

    def at_depth(depth: int) -> object:
        return at_depth(depth - 1) if depth else by_fast_decoder(raw)

    assert at_depth(500) == at_depth(0) == by_model(raw)
    assert isinstance(at_depth(0), tuple)
    assert fast.parse_usage_recorded(envelope(raw)).subject == "p-1"
