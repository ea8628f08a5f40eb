"""The topic catalogue: complete, decodable, in step with the models and their schemas."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import jsonschema
import msgspec
import pytest
import yaml
from pydantic import ValidationError

from tokenomics_contracts.catalogue import Topic, own_topic, topic_of, topics
from tokenomics_contracts.cloudevents import decode
from tokenomics_contracts.registry import EVENT_MODELS, parse

PROTO = Path(__file__).parents[2] / "proto"
EXAMPLES = [(topic, example) for topic in topics() for example in topic.examples]
SHARED_TYPES = {
    "tokenomics.parked.skipped.v1",
    "tokenomics.audit.recorded.v1",
    "tokenomics.audit.anchored.v1",
}


@pytest.mark.parametrize(
    ("topic", "example"), EXAMPLES, ids=lambda value: getattr(value, "name", None) or value["id"]
)
def test_every_example_decodes_on_its_topic_under_its_key(topic: Topic, example: dict[str, Any]) -> None:
    envelope = decode([("content-type", b"application/cloudevents+json")], msgspec.json.encode(example))
    event = parse(envelope)
    assert event.type_name == envelope.type
    assert envelope.type in topic.types
    assert envelope.subject == event.key


@pytest.mark.parametrize("example", [example for _, example in EXAMPLES], ids=lambda example: example["id"])
def test_every_example_fits_its_exported_schema(example: dict[str, Any]) -> None:
    schema = json.loads((PROTO / "schemas" / f"{example['type']}.json").read_bytes())
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.Draft202012Validator(schema).validate(example["data"])


@pytest.mark.parametrize("topic", topics(), ids=lambda topic: topic.name)
def test_every_type_of_a_topic_has_an_example(topic: Topic) -> None:
    assert {example["type"] for example in topic.examples} == set(topic.types)


def test_every_event_model_is_carried_by_a_topic_and_the_reverse() -> None:
    carried = Counter(name for topic in topics() for name in topic.types)
    assert carried.keys() == {model.type_name for model in EVENT_MODELS}
    assert {name for name, count in carried.items() if count > 1} <= SHARED_TYPES


def test_an_event_type_names_its_topic() -> None:
    assert topic_of("tokenomics.usage.recorded.v1").name == "tokenomics.usage.v1"
    with pytest.raises(LookupError, match="0 topics"):
        topic_of("tokenomics.usage.imagined.v1")


def test_a_service_finds_its_own_topic() -> None:
    assert own_topic("quota").name == "tokenomics.quota.v1"
    assert "tokenomics.parked.skipped.v1" in own_topic("quota").types
    with pytest.raises(LookupError, match="owns 0 topics"):
        own_topic("imagined")


def test_history_is_kept_for_ever_with_the_promised_partitions() -> None:
    assert {topic.name: (topic.partitions, topic.retention_ms) for topic in topics()} == {
        "tokenomics.usage.v1": (6, -1),
        "tokenomics.directory.v1": (3, -1),
        "tokenomics.policy.v1": (1, -1),
        "tokenomics.approvals.v1": (3, -1),
        "tokenomics.nominations.v1": (3, -1),
        "tokenomics.quota.v1": (6, -1),
    }


@pytest.mark.parametrize(
    "change",
    [
        {"partition": 6},
        {"partitions": 0},
        {"partitions": "6"},
        {"timestamp_type": "CreateTime"},
        {"types": ["x"]},
    ],
)
def test_a_wrong_topic_file_is_refused(change: dict[str, object]) -> None:
    good = yaml.safe_load((PROTO / "topics" / "usage.v1.yaml").read_bytes())
    with pytest.raises(ValidationError):
        Topic.model_validate(good | change)
