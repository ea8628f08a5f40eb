"""CloudEvents 1.0 in Kafka records: binary mode is written, binary and structured mode are read."""

from base64 import b64decode
from collections.abc import Sequence
from datetime import datetime
from typing import Final, NamedTuple

import msgspec

from tokenomics_contracts.events.base import Event
from tokenomics_contracts.json_data import require_shallow
from tokenomics_contracts.rejection import EventRejected, RejectionCode
from tokenomics_contracts.units import MAX_EVENT_NAME_LENGTH, format_time, is_event_name, parse_time

__all__ = ["EncodedEvent", "Envelope", "EventRejected", "RejectionCode", "decode", "encode"]

MAX_EVENT_BYTES: Final = 256 * 1024
"""Larger values are rejected unread."""

JSON: Final = "application/json"
_JSON_BYTES: Final = JSON.encode()
STRUCTURED_JSON: Final = "application/cloudevents+json"


class Envelope(msgspec.Struct, frozen=True, gc=False):
    """The CloudEvents attributes of one record, and its data unread."""

    id: str
    source: str
    type: str
    time: datetime
    """Business time, in UTC."""

    subject: str | None
    data: bytes
    """The raw JSON of the data."""

    traceparent: str | None


class EncodedEvent(NamedTuple):
    """What goes into a Kafka record. The same event always encodes to the same bytes."""

    key: bytes
    headers: tuple[tuple[str, bytes], ...]
    value: bytes


class _Structured(msgspec.Struct):
    """The JSON event format."""

    specversion: str
    id: str
    source: str
    type: str
    time: str
    subject: str | None = None
    datacontenttype: str | None = None
    data: msgspec.Raw = msgspec.Raw()
    data_base64: str | None = None
    traceparent: str | None = None


_STRUCTURED_DECODER: Final = msgspec.json.Decoder(_Structured)


def _bad_envelope(message: str) -> EventRejected:
    return EventRejected(RejectionCode.BAD_ENVELOPE, message)


def _media_type(content_type: str) -> str:
    return content_type.partition(";")[0].strip().lower()


def _envelope(
    id_: str,
    source: str,
    type_: str,
    time: str,
    *,
    subject: str | None,
    data: bytes,
    traceparent: str | None,
) -> Envelope:
    if not is_event_name(id_):
        raise _bad_envelope(f"id should have 1 to {MAX_EVENT_NAME_LENGTH} printable characters")
    if not is_event_name(source):
        raise _bad_envelope(f"source should have 1 to {MAX_EVENT_NAME_LENGTH} printable characters")
    try:
        moment = parse_time(time)
    except ValueError as error:
        raise _bad_envelope(f"time {error}") from None
    return Envelope(id_, source, type_, moment, subject, data, traceparent)


def decode(headers: Sequence[tuple[str, bytes | None]], value: bytes | None) -> Envelope:
    """Read the envelope of a Kafka record; the data stays unread.

    Binary mode unless `content-type` says `application/cloudevents+json`. Extension attributes and headers
    that CloudEvents doesn't name are ignored, whatever their bytes.

    Raises
    ------
    EventRejected
        `too_large`, `bad_envelope` or (structured mode) `bad_json`. Nothing else, whatever the bytes.
    """
    if value is None:
        raise _bad_envelope("the record has no value")
    if len(value) > MAX_EVENT_BYTES:
        raise EventRejected(
            RejectionCode.TOO_LARGE, f"value has {len(value)} bytes, {MAX_EVENT_BYTES} at most"
        )
    attributes: dict[str, bytes] = dict(headers)  # type: ignore[arg-type]  # None fails below, as no text
    if len(attributes) != len(headers):
        _refuse_repeated_attributes(headers)
    try:
        traceparent = attributes["traceparent"].decode() if "traceparent" in attributes else None
        content_type = attributes.get("content-type", _JSON_BYTES)
        if content_type != _JSON_BYTES and _media_type(content_type.decode()) != JSON:
            return _decode_structured(content_type.decode(), value, traceparent)
        if attributes["ce_specversion"] != b"1.0":
            raise _bad_envelope("specversion should be 1.0")
        return _envelope(
            attributes["ce_id"].decode(),
            attributes["ce_source"].decode(),
            attributes["ce_type"].decode(),
            attributes["ce_time"].decode(),
            subject=attributes["ce_subject"].decode() if "ce_subject" in attributes else None,
            data=value,
            traceparent=traceparent,
        )
    except KeyError as error:
        raise _bad_envelope(f"header {error.args[0]} is missing") from None
    except (AttributeError, UnicodeDecodeError):
        raise _bad_envelope("a CloudEvents header is not UTF-8 text") from None


def _refuse_repeated_attributes(headers: Sequence[tuple[str, bytes | None]]) -> None:
    names = [name for name, _ in headers if name.startswith("ce_") or name in {"content-type", "traceparent"}]
    if len(names) != len(set(names)):
        raise _bad_envelope("a CloudEvents header appears twice")


def _decode_structured(content_type: str, value: bytes, traceparent: str | None) -> Envelope:
    if _media_type(content_type) != STRUCTURED_JSON:
        raise _bad_envelope(f"content-type should be {JSON} or {STRUCTURED_JSON}")
    require_shallow(value)
    try:
        value.decode()
        event = _STRUCTURED_DECODER.decode(value)
    except msgspec.ValidationError as error:
        raise _bad_envelope(str(error)) from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise EventRejected(RejectionCode.BAD_JSON, f"not JSON: {error}") from None
    if event.specversion != "1.0":
        raise _bad_envelope("specversion should be 1.0")
    if event.datacontenttype is not None and _media_type(event.datacontenttype) != JSON:
        raise _bad_envelope(f"datacontenttype should be {JSON}")
    data = bytes(event.data)
    if event.data_base64 is not None:
        try:
            data = b64decode(event.data_base64, validate=True)
        except ValueError:
            raise _bad_envelope("data_base64 should be base64") from None
    return _envelope(
        event.id,
        event.source,
        event.type,
        event.time,
        subject=event.subject,
        data=data,
        traceparent=event.traceparent or traceparent,
    )


def encode(
    event: Event,
    *,
    id: str,  # noqa: A002 - CloudEvents' word
    source: str,
    time: datetime,
    traceparent: str | None = None,
) -> EncodedEvent:
    """Write an event in binary mode.

    Deterministic: equal arguments give equal bytes. The topic is `catalogue.topic_of(event.type_name)`.

    Raises
    ------
    EventRejected
        The attributes would be refused by `decode`.
    ValueError
        `time` is naive.
    """
    value = event.model_dump_json(by_alias=True, exclude_none=True).encode()
    return enveloped(
        value,
        type_name=event.type_name,
        key=event.key,
        id=id,
        source=source,
        time=time,
        traceparent=traceparent,
    )


def enveloped(
    data: bytes,
    *,
    type_name: str,
    key: str,
    id: str,  # noqa: A002 - CloudEvents' word
    source: str,
    time: datetime,
    traceparent: str | None,
) -> EncodedEvent:
    """Write data that was serialized as its event's model would; for the rest see `encode`."""
    key_bytes = key.encode()
    headers: tuple[tuple[str, bytes], ...] = (
        ("ce_specversion", b"1.0"),
        ("ce_id", id.encode()),
        ("ce_source", source.encode()),
        ("ce_type", type_name.encode()),
        ("ce_time", format_time(time).encode()),
        ("ce_subject", key_bytes),
        ("content-type", _JSON_BYTES),
    )
    if traceparent is not None:
        headers += (("traceparent", traceparent.encode()),)
    decode(headers, data)
    return EncodedEvent(key_bytes, headers, data)
