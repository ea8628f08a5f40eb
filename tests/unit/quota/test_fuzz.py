"""Whatever is in a record or a request, it is read or refused in words, and what is read can govern."""

import json
from contextlib import suppress
from typing import Any

import pytest
from google.protobuf.struct_pb2 import Struct
from hypothesis import given
from hypothesis import strategies as st

from tests.support.damage import damaged, damaged_bytes, json_values
from tests.support.policy_documents import COMPLETE
from tests.support.quota_events import LONG_AGO, NOW, NoPrices, governing, milliseconds, person, team
from tokenomics_chassis.records import Record
from tokenomics_chassis.rpc.structs import from_struct
from tokenomics_contracts.catalogue import topics
from tokenomics_contracts.cloudevents import Envelope, EventRejected, decode, encode
from tokenomics_contracts.events.policy import (
    DOCUMENT_MODELS,
    PolicyPublished,
    QuotaDocument,
    validate_document,
)
from tokenomics_contracts.registry import EVENT_MODELS, parse
from tokenomics_quota.domain.checks import Call
from tokenomics_quota.domain.pricing import Quantities
from tokenomics_quota.projections.balances import QuotaView
from tokenomics_quota.projections.governance import Governance
from tokenomics_quota.streams.decoding import (
    governing_event_from_record,
    own_event_from_record,
    usage_from_record,
)
from tokenomics_quota.streams.events import announcement_from_record, skip_from_record
from tokenomics_quota.streams.ledger_events import told_change_from_record
from tokenomics_quota.usecases.checking import Terms, check
from tokenomics_quota.usecases.examples import judge_examples

EXAMPLES = [
    (topic.name, example["type"], example["data"]) for topic in topics() for example in topic.examples
]
examples = st.sampled_from(EXAMPLES)
READERS = (
    usage_from_record,
    governing_event_from_record,
    own_event_from_record,
    told_change_from_record,
    skip_from_record,
    announcement_from_record,
)
times = st.sampled_from(
    ["2026-11-20T12:00:00Z", "2000-01-01T00:00:00Z", "2199-12-31T23:59:59.999999Z", "soon", ""]
)


def record(topic: str, type_name: str, value: bytes, time: str = "2026-11-20T12:00:00Z") -> Record:
    headers = {
        "ce_specversion": "1.0",
        "ce_id": "1",
        "ce_source": "urn:x",
        "ce_type": type_name,
        "ce_time": time,
    }
    encoded = tuple((name, text.encode()) for name, text in headers.items())
    return Record(topic, 0, 0, milliseconds(NOW), b"k", value, encoded)


def read(made: Record) -> None:
    """Read a record as the projection does; nothing but a refusal may be raised."""
    for reader in READERS:
        with suppress(EventRejected):
            reader(made)


@given(st.data(), examples, times)
def test_a_damaged_event_is_read_or_refused(
    data: st.DataObject, example: tuple[str, str, Any], time: str
) -> None:
    topic, type_name, good = example
    value = json.dumps(data.draw(damaged(good)), default=str).encode()
    read(record(topic, type_name, value, time))


@given(st.data(), examples)
def test_damaged_bytes_are_read_or_refused(data: st.DataObject, example: tuple[str, str, Any]) -> None:
    topic, type_name, good = example
    read(record(topic, type_name, data.draw(damaged_bytes(good))))


@given(
    st.lists(st.tuples(st.text(max_size=12), st.binary(max_size=30)), max_size=8),
    st.none() | st.binary(max_size=80),
    st.sampled_from([topic.name for topic in topics()]),
)
def test_arbitrary_records_are_read_or_refused(
    headers: list[tuple[str, bytes]], value: bytes | None, topic: str
) -> None:
    read(Record(topic, 0, 0, milliseconds(NOW), None, value, tuple(headers)))


@given(st.sampled_from([model.type_name for model in EVENT_MODELS]), json_values)
def test_arbitrary_data_of_a_known_type_is_read_or_refused(type_name: str, value: Any) -> None:
    raw = json.dumps(value, default=str).encode()
    with suppress(EventRejected):
        assert parse(Envelope("1", "urn:x", type_name, NOW, None, raw, None)).type_name == type_name


@given(st.sampled_from(sorted(DOCUMENT_MODELS)), json_values)
def test_an_arbitrary_document_is_judged(kind: str, document: Any) -> None:
    for problem in validate_document(kind, document):
        assert problem.message


CALLS = [
    Call("ada", "acme", "small-1", Quantities(10**6, output_tokens=1), None),
    Call("?", "x", "y", Quantities(0), "p"),
]


@pytest.mark.parametrize("kind", sorted(COMPLETE))
@given(data=st.data())
def test_what_is_judged_good_can_be_published_read_and_governed_by(kind: str, data: st.DataObject) -> None:
    document = data.draw(damaged(COMPLETE[kind]) | st.just(COMPLETE[kind]))
    problems = validate_document(kind, document)
    fields = {"kind": kind, "version": 1, "effective_from": LONG_AGO, "document": document}
    if problems:
        assert all(problem.message for problem in problems)
        return
    published = PolicyPublished.model_validate(fields)
    encoded = encode(published, id="1", source="urn:x", time=NOW)
    assert parse(decode(encoded.headers, encoded.value)) == published
    events = [team("team-1", cost_centre_id="cc-1"), person("ada", team_id="team-1"), published]
    state = Governance(NoPrices()).with_events(
        [governing(event, offset) for offset, event in enumerate(events)], 1
    )
    (listed,) = state.published(kind, NOW)
    assert validate_document(kind, json.loads(listed.published.document)) == []
    view = QuotaView(state)
    for call in CALLS:
        answer = check(Terms.at(state, NOW), view.touched_by(call.subject, call.project_id, NOW), call, NOW)
        assert answer.quota_policy_version == (kind == "quota")
    if isinstance(published.document, QuotaDocument):
        judged = list(judge_examples(published.document, {}, NOW))
        assert len(judged) == len(published.document.examples)


@given(st.binary(max_size=60))
def test_an_arbitrary_struct_becomes_json(raw: bytes) -> None:
    struct = Struct()
    try:
        struct.ParseFromString(raw)
    except Exception:  # noqa: BLE001 - the runtime's own error: such a request never comes to a handler
        return
    for kind in DOCUMENT_MODELS:
        validate_document(kind, from_struct(struct))
