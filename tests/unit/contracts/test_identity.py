"""Identity and payload digests."""

from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.contracts.strategies import usage_recorded
from tokenomics_contracts.catalogue import topics
from tokenomics_contracts.cloudevents import decode, encode
from tokenomics_contracts.events.usage import UsageRecorded
from tokenomics_contracts.fast import parse_usage_recorded
from tokenomics_contracts.identity import identity, payload_digest
from tokenomics_contracts.registry import parse

TIME = datetime(2026, 11, 3, 9, 14, 27, 512_345, tzinfo=UTC)
NAME = UsageRecorded.type_name
names = st.text(st.characters(min_codepoint=32, max_codepoint=126), min_size=1, max_size=8)


@given(names, names, names, names)
def test_only_the_same_pair_has_the_same_identity(a: str, b: str, c: str, d: str) -> None:
    assert (identity(a, b) == identity(c, d)) is ((a, b) == (c, d))
    assert len(identity(a, b)) == 16


def test_identities_and_digests_are_what_they_were() -> None:
    """They stand in databases: another hash for the same event would count it twice."""
    usage = UsageRecorded.model_validate(
        {"subject": "p-1", "tool": "t", "provider": "o", "model": "m", "input_tokens": 1, "output_tokens": 2}
    )
    assert identity("urn:x", "1").hex() == "5e7bb17c3ad7b896857962423caff411"
    assert payload_digest(NAME, b"p-1", TIME, usage).hex() == "4be03d4dba426f6067f39206216ec6b6"


def test_every_example_has_one_digest_in_binary_and_structured_mode() -> None:
    for topic in topics():
        for example in topic.examples:
            structured = decode(
                [("content-type", b"application/cloudevents+json")], msgspec.json.encode(example)
            )
            event = parse(structured)
            record = encode(event, id=structured.id, source=structured.source, time=structured.time)
            binary = decode(record.headers, record.value)
            assert payload_digest(structured.type, record.key, structured.time, event) == payload_digest(
                binary.type, record.key, binary.time, parse(binary)
            )


@given(usage_recorded(), st.randoms())
def test_neither_field_order_nor_spaces_nor_defaults_written_out_change_the_digest(
    data: dict[str, Any], random: Any
) -> None:
    event = UsageRecorded.model_validate(data)
    fields = list(event.model_dump().items())
    random.shuffle(fields)
    spaced = msgspec.json.format(msgspec.json.encode(dict(fields)), indent=3)
    record = encode(event, id="1", source="urn:x", time=TIME)
    digests = {
        payload_digest(NAME, b"k", TIME, parse_usage_recorded(decode(record.headers, value)))
        for value in (record.value, spaced)
    }
    assert digests == {payload_digest(NAME, b"k", TIME, event)}


@given(usage_recorded(), usage_recorded())
def test_other_data_has_another_digest(one: dict[str, Any], other: dict[str, Any]) -> None:
    left, right = UsageRecorded.model_validate(one), UsageRecorded.model_validate(other)
    same = payload_digest(NAME, b"k", TIME, left) == payload_digest(NAME, b"k", TIME, right)
    assert same is (left == right)


def test_type_key_and_time_belong_to_what_is_said() -> None:
    usage = UsageRecorded.model_validate(
        {"subject": "p-1", "tool": "t", "provider": "o", "model": "m", "input_tokens": 1, "output_tokens": 2}
    )
    said = {
        payload_digest(name, key, time, usage)
        for name in (NAME, NAME + "1")
        for key in (None, b"", b"p-1", b"p-2")
        for time in (TIME, TIME + timedelta(microseconds=1))
    }
    assert len(said) == 16
