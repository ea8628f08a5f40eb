"""The CloudEvents envelope of Kafka records."""

from contextlib import suppress
from datetime import UTC, datetime, timedelta, timezone

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenomics_contracts.cloudevents import (
    MAX_EVENT_BYTES,
    EventRejected,
    RejectionCode,
    decode,
    encode,
)
from tokenomics_contracts.events.usage import SourceTested
from tokenomics_contracts.units import SubjectId

EVENT = SourceTested(subject=SubjectId("p-1"), tool="ide")
TIME = datetime(2026, 11, 3, 9, 14, 27, 512_000, tzinfo=UTC)
ENCODED = encode(EVENT, id="e-1", source="urn:tokenomics:ide", time=TIME)
STRUCTURED = {
    "specversion": "1.0",
    "id": "e-1",
    "source": "urn:tokenomics:ide",
    "type": EVENT.type_name,
    "time": "2026-11-03T09:14:27.512Z",
    "subject": "p-1",
    "datacontenttype": "application/json",
    "data": {"subject": "p-1", "tool": "ide"},
}
STRUCTURED_HEADERS = [("content-type", b"application/cloudevents+json; charset=utf-8")]


def headers_with(**changes: bytes | None) -> list[tuple[str, bytes]]:
    kept = {name: value for name, value in ENCODED.headers if name not in changes}
    return [*kept.items(), *((name, value) for name, value in changes.items() if value is not None)]


def rejection(headers: list[tuple[str, bytes]], value: bytes | None) -> tuple[RejectionCode, str]:
    with pytest.raises(EventRejected) as caught:
        decode(headers, value)
    return caught.value.code, caught.value.message


def test_binary_mode_is_written_with_the_attributes_as_headers() -> None:
    assert ENCODED == (
        b"p-1",
        (
            ("ce_specversion", b"1.0"),
            ("ce_id", b"e-1"),
            ("ce_source", b"urn:tokenomics:ide"),
            ("ce_type", b"tokenomics.source.tested.v1"),
            ("ce_time", b"2026-11-03T09:14:27.512000Z"),
            ("ce_subject", b"p-1"),
            ("content-type", b"application/json"),
        ),
        b'{"subject":"p-1","tool":"ide"}',
    )


def test_the_same_event_is_always_the_same_bytes() -> None:
    elsewhere = TIME.astimezone(timezone(timedelta(hours=-7)))
    assert encode(EVENT, id="e-1", source="urn:tokenomics:ide", time=elsewhere) == ENCODED


def test_what_is_encoded_is_decoded_with_its_trace() -> None:
    trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
    record = encode(EVENT, id="e-1", source="urn:tokenomics:ide", time=TIME, traceparent=trace)
    envelope = decode(record.headers, record.value)
    assert (envelope.id, envelope.source, envelope.type) == ("e-1", "urn:tokenomics:ide", EVENT.type_name)
    assert (envelope.time, envelope.subject, envelope.traceparent) == (TIME, "p-1", trace)
    assert envelope.data == record.value


def test_structured_mode_gives_the_same_envelope_as_binary_mode() -> None:
    envelope = decode(STRUCTURED_HEADERS, msgspec.json.encode(STRUCTURED))
    assert envelope == decode(ENCODED.headers, ENCODED.value)


def test_foreign_headers_are_ignored_whatever_their_bytes() -> None:
    assert decode([*ENCODED.headers, ("x-proxy", b"\xff")], ENCODED.value) == decode(
        ENCODED.headers, ENCODED.value
    )


@pytest.mark.parametrize(
    ("headers", "value", "code", "message"),
    [
        ([], b"{}", "bad_envelope", "header ce_specversion is missing"),
        (list(ENCODED.headers), None, "bad_envelope", "the record has no value"),
        (list(ENCODED.headers), b" " * (MAX_EVENT_BYTES + 1), "too_large", "262145 bytes"),
        (headers_with(ce_specversion=b"0.3"), b"{}", "bad_envelope", "specversion should be 1.0"),
        (headers_with(ce_id=None), b"{}", "bad_envelope", "header ce_id is missing"),
        (headers_with(ce_id=b""), b"{}", "bad_envelope", "id should have"),
        (headers_with(ce_id=b"a\0b"), b"{}", "bad_envelope", "id should have"),
        (headers_with(ce_id=b"x" * 257), b"{}", "bad_envelope", "id should have"),
        (headers_with(ce_id=b"\xff"), b"{}", "bad_envelope", "not UTF-8"),
        (headers_with(ce_source=None), b"{}", "bad_envelope", "header ce_source is missing"),
        (headers_with(ce_source=b"a\nb"), b"{}", "bad_envelope", "source should have"),
        (headers_with(ce_type=None), b"{}", "bad_envelope", "header ce_type is missing"),
        (headers_with(ce_type=b"\xff"), b"{}", "bad_envelope", "not UTF-8"),
        (headers_with(ce_subject=b"\xff"), b"{}", "bad_envelope", "not UTF-8"),
        (headers_with(traceparent=b"\xff"), b"{}", "bad_envelope", "not UTF-8"),
        (headers_with(ce_time=None), b"{}", "bad_envelope", "header ce_time is missing"),
        (headers_with(ce_time=b"2026-11-03T09:14:27"), b"{}", "bad_envelope", "RFC 3339"),
        (headers_with(ce_time=b"1999-12-31T23:59:59Z"), b"{}", "bad_envelope", "years 2000"),
        (headers_with(ce_time=b"0001-01-01T00:00:00+14:00"), b"{}", "bad_envelope", "time should be"),
        ([*ENCODED.headers, ("ce_id", b"e-2")], b"{}", "bad_envelope", "appears twice"),
        ([*ENCODED.headers, ("content-type", b"text/plain")], b"{}", "bad_envelope", "appears twice"),
        ([("content-type", b"text/plain")], b"{}", "bad_envelope", "content-type should be"),
        (
            [("content-type", b"application/cloudevents-batch+json")],
            b"[]",
            "bad_envelope",
            "content-type should be",
        ),
        ([("content-type", b"\xff")], b"{}", "bad_envelope", "not UTF-8"),
        (STRUCTURED_HEADERS, b"\xff\x00", "bad_json", "not JSON"),
        (STRUCTURED_HEADERS, b"[" * 100_000, "bad_json", "nested deeper"),
        (STRUCTURED_HEADERS, b"[]", "bad_envelope", "Expected `object`"),
        (STRUCTURED_HEADERS, b"{}", "bad_envelope", "missing required field"),
        (
            STRUCTURED_HEADERS,
            msgspec.json.encode(STRUCTURED | {"specversion": "0.3"}),
            "bad_envelope",
            "specversion",
        ),
        (
            STRUCTURED_HEADERS,
            msgspec.json.encode(STRUCTURED | {"datacontenttype": "text/xml"}),
            "bad_envelope",
            "datacontenttype",
        ),
        (
            STRUCTURED_HEADERS,
            msgspec.json.encode(STRUCTURED | {"data_base64": "%"}),
            "bad_envelope",
            "data_base64",
        ),
    ],
)
def test_a_bad_record_is_rejected_with_its_reason(
    headers: list[tuple[str, bytes]], value: bytes | None, code: str, message: str
) -> None:
    actual_code, actual_message = rejection(headers, value)
    assert actual_code == code
    assert message in actual_message


def test_a_header_without_value_is_rejected() -> None:
    with pytest.raises(EventRejected, match="not UTF-8"):
        decode([*headers_with(ce_id=None), ("ce_id", None)], b"{}")


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["ce_id", "ce_source", "ce_time", "ce_type", "ce_specversion", "content-type"]),
            st.binary(max_size=30) | st.sampled_from([b"1.0", b"application/cloudevents+json"]),
        )
    ),
    st.binary(max_size=60),
)
def test_no_bytes_make_decode_raise_anything_else(headers: list[tuple[str, bytes]], value: bytes) -> None:
    with suppress(EventRejected):
        decode(headers, value)


@pytest.mark.parametrize("changes", [{"id": ""}, {"id": "a\nb"}, {"source": ""}, {"source": "x" * 257}])
def test_nothing_is_written_that_could_not_be_read(changes: dict[str, str]) -> None:
    arguments = {"id": "e-1", "source": "urn:x"} | changes
    with pytest.raises(EventRejected):
        encode(EVENT, time=TIME, **arguments)


def test_a_naive_time_is_refused() -> None:
    with pytest.raises(ValueError, match="time zone"):
        encode(EVENT, id="e-1", source="urn:x", time=datetime(2026, 11, 3))  # noqa: DTZ001
