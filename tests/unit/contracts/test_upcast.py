"""Old versions stay readable: a worked example of a type that changed twice.

Version 1 measured seconds and said `person`; version 2 measures milliseconds and says `subject`; version 3
names the tool. Each version that was ever written has a golden payload, and every payload must keep its
meaning.
"""

import copy
from datetime import UTC, datetime
from pathlib import Path
from typing import ClassVar

import msgspec
import pytest

from tokenomics_contracts.cloudevents import Envelope, EventRejected
from tokenomics_contracts.events.base import Event
from tokenomics_contracts.registry import EVENT_MODELS, Registry
from tokenomics_contracts.units import Label, Milliseconds, Subject, SubjectId
from tokenomics_contracts.upcast import UPCASTS, Data, Upcast

GOLDEN = Path(__file__).parent / "golden"


class SessionNoted(Event):
    type_name: ClassVar[str] = "tokenomics.session.noted.v3"
    key_field: ClassVar[str] = "subject"

    subject: Subject
    duration_ms: Milliseconds
    tool: Label


def to_version_2(data: Data) -> Data:
    seconds = data.get("seconds")
    duration = seconds * 1000 if type(seconds) is int else seconds
    return {"subject": data.get("person"), "duration_ms": duration}


def to_version_3(data: Data) -> Data:
    return data | {"tool": "unknown"}


CHAIN = {
    "tokenomics.session.noted.v1": Upcast("tokenomics.session.noted.v2", to_version_2),
    "tokenomics.session.noted.v2": Upcast("tokenomics.session.noted.v3", to_version_3),
}
REGISTRY = Registry([SessionNoted], CHAIN)


def envelope(version: str, data: bytes) -> Envelope:
    time = datetime(2026, 11, 3, tzinfo=UTC)
    return Envelope("1", "urn:x", f"tokenomics.session.noted.{version}", time, None, data, None)


def golden(version: str) -> bytes:
    return (GOLDEN / f"session.noted.{version}.json").read_bytes()


@pytest.mark.parametrize("version", ["v1", "v2", "v3"])
def test_the_golden_payload_of_every_version_is_read_as_the_newest(version: str) -> None:
    event = REGISTRY.parse(envelope(version, golden(version)))
    assert event == SessionNoted(subject=SubjectId("p-7f3a91"), duration_ms=90_000, tool="unknown")


@pytest.mark.parametrize("old", sorted(CHAIN))
def test_an_upcast_gives_the_next_golden_payload_and_leaves_its_argument_alone(old: str) -> None:
    version, next_version = old[-2:], CHAIN[old].to[-2:]
    data = msgspec.json.decode(golden(version), type=dict[str, object])
    before = copy.deepcopy(data)
    assert CHAIN[old].apply(data) == msgspec.json.decode(golden(next_version))
    assert data == before


@pytest.mark.parametrize("data", [b"{}", b'{"person": 7}', b'{"person": "p-1", "seconds": "90"}', b"[]"])
def test_a_bad_old_event_is_rejected_like_a_bad_new_one(data: bytes) -> None:
    with pytest.raises(EventRejected) as caught:
        REGISTRY.parse(envelope("v1", data))
    assert caught.value.code == "invalid_data"


def test_a_version_without_a_step_is_unknown() -> None:
    with pytest.raises(EventRejected) as caught:
        REGISTRY.parse(envelope("v4", golden("v3")))
    assert caught.value.code == "unknown_version"


def test_every_chain_in_use_ends_at_a_model() -> None:
    newest = {model.type_name for model in EVENT_MODELS}
    for old in UPCASTS:
        step = old
        while step in UPCASTS:
            step = UPCASTS[step].to
        assert step in newest
        assert old not in newest
