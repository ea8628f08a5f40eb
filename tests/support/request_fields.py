"""Holds each field of each request of a service to a table of what it refuses, and in which words.

A row is a field's path behind its method, a wrong value (``None``: nothing) and the words. In a path `[]` is
the first of a list, `[key]` an entry of a map; behind an entry is what is told of it.
"""

import re
from collections.abc import Iterable, Iterator
from typing import Any, TypeVar

from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.descriptor import Descriptor
from google.protobuf.message import Message
from google.rpc.error_details_pb2 import BadRequest

Row = tuple[str, object, str]

M = TypeVar("M", bound=Message)


def fields_of(message: Descriptor, path: str) -> Iterator[str]:
    """Return every field of a request and of the messages of its contract in it; `[]` is each of a list."""
    for field in message.fields:
        inner = f"{path}.{field.name}"
        nested = field.message_type
        if nested is None or nested.GetOptions().map_entry or nested.file.package != message.file.package:
            yield inner
        elif field.is_repeated:
            yield inner
            yield from fields_of(nested, f"{inner}[]")
        else:
            yield from fields_of(nested, inner)


def named(field: str) -> str:
    """Return which field of a request a row is about: without an entry's key and what is in it."""
    return re.sub(r"\[[^\]].*", "", field)


def changed(message: M, path: str, value: object) -> M:
    """Return a request with a wrong value."""
    after = type(message)()
    after.CopyFrom(message)
    place: Any = after
    steps = re.findall(r"([^.\[]+)(\[[^\]]*\])?", path)
    for number, (name, bracket) in enumerate(steps, start=1):
        inner, key = getattr(place, name), bracket.strip("[]")
        if key:
            if isinstance(value, Message):
                inner[key].CopyFrom(value)
            else:
                inner[key] = value
            break  # what is behind it is told of the entry
        if number < len(steps):
            place = inner[0] if bracket else inner
        elif value is None:
            place.ClearField(name)
        elif isinstance(value, list):
            place.ClearField(name)
            getattr(place, name).extend(value)
        elif isinstance(value, Message):
            inner.CopyFrom(value)
        else:
            setattr(place, name, value)
    return after


def violations(details: Iterable[AnyMessage]) -> dict[str, str]:
    """Return what an answer's details tell of each wrong field."""
    (packed,) = (each for each in details if each.Is(BadRequest.DESCRIPTOR))
    bad = BadRequest()
    packed.Unpack(bad)
    return {each.field: each.description for each in bad.field_violations}
