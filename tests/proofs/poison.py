"""Records that no projection can apply."""

import random
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import datetime, timedelta

from tests.proofs.events import Draft, Message, as_json, usage_event


class Brew:
    """What a poison is made from.

    Parameters
    ----------
    victim
        A usage event whose identity or time the poison borrows.
    serial
        Makes the poison different from all others.
    now
        Anchor of the history.
    """

    def __init__(self, rng: random.Random, victim: Draft, serial: int, now: datetime) -> None:
        self.rng, self.victim, self.serial, self.now = rng, victim, serial, now
        self.fresh = usage_event("/poison", f"x{serial}", victim.time, subject=victim.data["subject"])

    def header(self, name: str, value: bytes | None) -> Message:
        """Replace a header of a good event; None takes it away."""
        message = self.fresh.binary()
        headers = {**dict(message.headers), name: value}
        return message._replace(
            headers=tuple((key, text) for key, text in headers.items() if text is not None)
        )

    def value(self, value: bytes) -> Message:
        """Replace the whole value of a good event."""
        return self.fresh.binary()._replace(value=value)

    def data(self, **data: object) -> Message:
        """Replace fields of a good event."""
        return self.value(as_json({**self.fresh.data, **data}))

    def without(self, name: str) -> Message:
        """Take a field of a good event away."""
        return self.value(as_json({key: value for key, value in self.fresh.data.items() if key != name}))

    def other_payload(self) -> Message:
        """Say something else under the victim's identity."""
        written = int(self.victim.data["output_tokens"]) + 1 + self.serial
        return replace(self.victim, data={**self.victim.data, "output_tokens": written}).binary()

    def too_late(self) -> Message:
        """Write a good event of long ago."""
        return replace(self.fresh, time=self.now - timedelta(days=63 + self.rng.randrange(300))).binary()


POISONS: Mapping[str, tuple[str, Callable[[Brew], Message]]] = {
    "random bytes": ("bad_json", lambda brew: brew.value(b"\xff" + brew.rng.randbytes(200))),
    "not a number": ("bad_json", lambda brew: brew.value(b'{"subject": "a", "input_tokens": NaN}')),
    "not an object": ("invalid_data", lambda brew: brew.value(b"[1, 2, 3]")),
    "text as number": ("invalid_data", lambda brew: brew.data(input_tokens="12")),
    "fraction": ("invalid_data", lambda brew: brew.data(input_tokens=1.5)),
    "truth as number": ("invalid_data", lambda brew: brew.data(output_tokens=True)),
    "negative": ("invalid_data", lambda brew: brew.data(output_tokens=-1)),
    "more cached than read": ("invalid_data", lambda brew: brew.data(cached_input_tokens=10**8)),
    "missing field": ("invalid_data", lambda brew: brew.without("model")),
    "e-mail as subject": ("invalid_data", lambda brew: brew.data(subject="someone@example.com")),
    "unknown type": ("unknown_type", lambda brew: brew.header("ce_type", b"tokenomics.coffee.drunk.v1")),
    "unknown version": (
        "unknown_version",
        lambda brew: brew.header("ce_type", b"tokenomics.usage.recorded.v99"),
    ),
    "header not UTF-8": ("bad_envelope", lambda brew: brew.header("ce_source", b"/tools/\xff\xfe")),
    "no id": ("bad_envelope", lambda brew: brew.header("ce_id", None)),
    "no time": ("bad_envelope", lambda brew: brew.header("ce_time", None)),
    "huge payload": ("too_large", lambda brew: brew.data(tool="x" * (300 * 1024))),
    "same id, other payload": ("identity_conflict", Brew.other_payload),
    "one id under two keys": (
        "identity_conflict",
        lambda brew: replace(brew.victim, key=f"somebody-else-{brew.serial}").binary(),
    ),
    "too late": ("too_late", Brew.too_late),
}
"""Kind of poison to the code it is parked under and how to make it."""
