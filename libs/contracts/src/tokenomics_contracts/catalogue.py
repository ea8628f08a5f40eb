"""The topic catalogue: `proto/topics/*.yaml`, the only place from which topics are created."""

from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from tokenomics_contracts.events.quota import TopicName

TypeName = Annotated[str, StringConstraints(pattern=r"^tokenomics\.[a-z_.]+\.v[1-9][0-9]*$")]


class Topic(BaseModel):
    """A Kafka topic and what it carries."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: TopicName
    description: str
    owner: str
    """Who writes it."""

    key: str
    """What the record key is."""

    partitions: Annotated[int, Field(strict=True, ge=1)]
    """Fixed for the topic's life."""

    retention_ms: Annotated[int, Field(strict=True, ge=-1)]
    """-1: for ever."""

    timestamp_type: Literal["LogAppendTime"]
    """Record timestamps are append times: a late event is never deleted early."""

    types: tuple[TypeName, ...]
    """Event types, with versions."""

    examples: tuple[dict[str, Any], ...]
    """CloudEvents in the JSON event format, at least one per type."""


@cache
def topics() -> tuple[Topic, ...]:
    """Load the catalogue, by name. It ships inside the wheel; in a working copy `proto/topics` is read.

    Raises
    ------
    ValueError
        A topic file is not valid.
    """
    package = Path(__file__).parent
    folder = package / "topics"
    if not folder.is_dir():
        folder = package.parents[3] / "proto" / "topics"
    loaded = [Topic.model_validate(yaml.safe_load(file.read_bytes())) for file in folder.glob("*.yaml")]
    return tuple(sorted(loaded, key=lambda topic: topic.name))


@cache
def topic_of(type_name: str) -> Topic:
    """Find the topic that carries an event type.

    Not for types that several services write on topics of their own (`parked.skipped`): see `own_topic`.

    Raises
    ------
    LookupError
        No topic, or more than one, carries it.
    """
    carriers = [topic for topic in topics() if type_name in topic.types]
    if len(carriers) != 1:
        raise LookupError(f"{len(carriers)} topics carry {type_name}")
    return carriers[0]


@cache
def topics_of(type_name: str) -> tuple[str, ...]:
    """Name the topics that carry an event type."""
    return tuple(topic.name for topic in topics() if type_name in topic.types)


@cache
def own_topic(service: str) -> Topic:
    """Find the topic that a service writes, by its name as the catalogue's `owner`.

    Raises
    ------
    LookupError
        It owns no topic, or more than one.
    """
    owned = [topic for topic in topics() if topic.owner == service]
    if len(owned) != 1:
        raise LookupError(f"{service} owns {len(owned)} topics")
    return owned[0]
