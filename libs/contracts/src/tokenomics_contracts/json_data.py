"""The JSON that events may be written in."""

import re
from typing import Final

import msgspec

from tokenomics_contracts.rejection import EventRejected, RejectionCode

MAX_DEPTH: Final = 64
"""Deepest nesting of objects and arrays in an event's data."""

# Every number that JSON can write is read: the typed reader skips unknown fields without judging them.
_DECODER: Final = msgspec.json.Decoder(float_hook=float)
_STRINGS: Final = re.compile(rb'"(?:[^"\\]|\\.)*"', re.DOTALL)


def require_shallow(data: bytes) -> None:
    """Refuse data nested deeper than `MAX_DEPTH`.

    Otherwise the verdict would hang on the interpreter's recursion limit and on the depth of the caller.

    Raises
    ------
    EventRejected
        `bad_json`.
    """
    if data.count(b"[") + data.count(b"{") <= MAX_DEPTH:
        return
    depth = 0
    for byte in _STRINGS.sub(b"", data):
        if byte in b"[{":
            depth += 1
            if depth > MAX_DEPTH:
                raise EventRejected(RejectionCode.BAD_JSON, f"nested deeper than {MAX_DEPTH}")
        elif byte in b"]}":
            depth -= 1


def load_json(data: bytes) -> object:
    """Read JSON as every reader of events does: UTF-8, no NaN, nesting up to `MAX_DEPTH`.

    Raises
    ------
    EventRejected
        `bad_json`.
    """
    require_shallow(data)
    try:
        return _DECODER.decode(data)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise EventRejected(RejectionCode.BAD_JSON, f"not JSON: {error}") from None
