"""A Kafka record as projections see it: raw bytes and where they stood in the log."""

from typing import NamedTuple, NewType

SourceId = NewType("SourceId", int)
"""Short number of one topic-partition inside one derived schema. It depends on the order in which
partitions were first seen, so it stays out of everything that is compared between databases."""

Headers = tuple[tuple[str, bytes | None], ...]
"""Names are UTF-8; bytes that aren't stand as surrogate escapes."""


class Place(NamedTuple):
    """Where a record stands in the log; places order as records are listed."""

    topic: str
    partition: int
    offset: int


class Record(NamedTuple):
    """One record. Its bytes are exactly those in the log."""

    topic: str
    partition: int
    offset: int
    append_ms: int
    """Append time given by the broker, milliseconds since the epoch."""
    key: bytes | None
    value: bytes | None
    """``None`` is a tombstone."""
    headers: Headers
