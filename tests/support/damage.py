"""Hypothesis strategies that make odd input: from nothing, and from good input by damaging it."""

import copy
import json
from typing import Any

from hypothesis import strategies as st

json_values: st.SearchStrategy[Any] = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(-(2**70), 2**70),
        st.floats(),
        st.text(max_size=8),
        st.sampled_from(
            [
                "",
                " ",
                "a\n",
                "\0",
                "\ud800",
                "é",
                "x" * 300,
                "a@b.example",
                "2026-11-01T00:00:00Z",
                "*",
                "ALLOW",
            ]
        ),
        st.sampled_from([0, -1, 1, 10_000, 10**15, 10**15 + 1, 2**53, 2**63, 10**400]),
    ),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.text(max_size=8) | st.sampled_from(["kind", "role", "rates", "document"]), inner, max_size=3
        )
    ),
    max_leaves=10,
)
"""What a JSON or YAML parser may return; some of it no JSON."""


@st.composite
def damaged(draw: st.DrawFn, good: Any, *, most: int = 3) -> Any:
    """Damage a JSON value in up to so many places: another value, none, one twice, or a field too many."""
    value = copy.deepcopy(good)
    for _ in range(draw(st.integers(1, most))):
        places = list(_places(value))
        if not places:
            return draw(json_values)
        holder, key = draw(st.sampled_from(places))
        match draw(st.sampled_from(["replace", "remove", "repeat", "add", "swap"])):
            case "replace":
                holder[key] = draw(json_values)
            case "remove":
                del holder[key]
            case "repeat" if isinstance(holder, list):
                holder.append(copy.deepcopy(holder[key]))
            case "swap":
                other_holder, other_key = draw(st.sampled_from(places))
                holder[key] = copy.deepcopy(other_holder[other_key])
            case _:
                if isinstance(holder, dict):
                    holder[draw(st.text(max_size=5))] = draw(json_values)
    return value


def _places(value: Any) -> Any:
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in list(items):
        yield value, key
        yield from _places(inner)


@st.composite
def damaged_bytes(draw: st.DrawFn, good: Any) -> bytes:
    """Damage a JSON value's bytes: a stretch of them gives way to others."""
    raw = json.dumps(good).encode()
    start, end = sorted((draw(st.integers(0, len(raw))), draw(st.integers(0, len(raw)))))
    return raw[:start] + draw(st.binary(max_size=8)) + raw[end:]
