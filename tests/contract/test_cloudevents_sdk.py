"""Our envelope against the CloudEvents SDK, both modes, both directions."""

from typing import Any

import msgspec
import pytest
from cloudevents.core.bindings.kafka import (
    KafkaMessage,
    from_binary,
    from_structured,
    to_binary,
    to_structured,
)
from cloudevents.core.formats.json import JSONFormat
from cloudevents.core.v1.event import CloudEvent

from tokenomics_contracts.catalogue import topics
from tokenomics_contracts.cloudevents import decode, encode
from tokenomics_contracts.registry import parse
from tokenomics_contracts.units import parse_time

EXAMPLES = [example for topic in topics() for example in topic.examples]
TRACE = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


def by_sdk(example: dict[str, Any]) -> CloudEvent:
    attributes = {name: value for name, value in example.items() if name != "data"}
    return CloudEvent(attributes | {"time": parse_time(example["time"])}, example["data"])


def attributes_of(example: dict[str, Any]) -> tuple[object, ...]:
    return (
        example["id"],
        example["source"],
        example["type"],
        parse_time(example["time"]),
        example.get("subject"),
        example["data"],
    )


@pytest.mark.parametrize("mode", [to_binary, to_structured])
@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: example["id"])
def test_what_the_sdk_writes_is_read_here(example: dict[str, Any], mode: Any) -> None:
    message = mode(by_sdk(example), JSONFormat())
    envelope = decode(list(message.headers.items()), message.value)
    assert attributes_of(example) == (
        envelope.id,
        envelope.source,
        envelope.type,
        envelope.time,
        envelope.subject,
        msgspec.json.decode(envelope.data),
    )


def test_data_that_the_sdk_wrote_as_base64_is_read_here() -> None:
    example = EXAMPLES[0]
    data = msgspec.json.encode(example["data"])
    event = CloudEvent(
        {name: example[name] for name in ("id", "source", "type", "specversion")}
        | {"time": parse_time(example["time"])},
        data,
    )
    message = to_structured(event, JSONFormat())
    assert b"data_base64" in message.value
    assert decode(list(message.headers.items()), message.value).data == data


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: example["id"])
def test_what_is_written_here_is_read_by_the_sdk(example: dict[str, Any]) -> None:
    structured = to_structured(by_sdk(example), JSONFormat())
    envelope = decode(list(structured.headers.items()), structured.value)
    event = parse(envelope)
    record = encode(event, id=envelope.id, source=envelope.source, time=envelope.time, traceparent=TRACE)
    read = from_binary(KafkaMessage(dict(record.headers), record.key, record.value), JSONFormat())
    assert read.get_specversion() == "1.0"
    assert (read.get_id(), read.get_source(), read.get_type()) == attributes_of(example)[:3]
    assert (read.get_time(), read.get_subject()) == (envelope.time, event.key)
    assert read.get_datacontenttype() == "application/json"
    assert read.get_data() == event.model_dump(mode="json", by_alias=True, exclude_none=True)


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: example["id"])
def test_a_structured_example_of_the_catalogue_is_read_alike_by_the_sdk(example: dict[str, Any]) -> None:
    headers = {"content-type": b"application/cloudevents+json"}
    value = msgspec.json.encode(example)
    read = from_structured(KafkaMessage(headers, None, value), JSONFormat())
    envelope = decode(list(headers.items()), value)
    assert (envelope.id, envelope.source, envelope.type, envelope.time, envelope.subject) == (
        read.get_id(),
        read.get_source(),
        read.get_type(),
        read.get_time(),
        read.get_subject(),
    )
    assert msgspec.json.decode(envelope.data) == read.get_data()
