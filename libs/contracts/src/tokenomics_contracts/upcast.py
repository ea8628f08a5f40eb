"""Upcasters: pure functions that turn the data of an old event version into the next one's.

Each version that was ever written stays readable: its golden payloads are kept in the tests.
"""

from collections.abc import Callable, Mapping
from typing import Final, NamedTuple

Data = dict[str, object]


class Upcast(NamedTuple):
    """One step of a chain."""

    to: str
    """The event type that `apply` produces."""

    apply: Callable[[Data], Data]
    """Pure; must not change its argument. A missing or odd field is left for validation to report."""


UPCASTS: Final[Mapping[str, Upcast]] = {}
"""Old event type to its step. All types are at their first version."""
