"""Topics: created from the catalogue and nowhere else; what exists must be as the catalogue says."""

import asyncio
import logging
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.errors import KafkaError, TopicAlreadyExistsError, UnknownTopicOrPartitionError, for_code

from tokenomics_chassis.log_ranges import log_ranges
from tokenomics_chassis.process import ExitCode, FatalError
from tokenomics_contracts.catalogue import Topic

log = logging.getLogger(__name__)

BROKER_DEFAULT = -1
"""Replication as the cluster is configured."""

_ASK_BROKER_SECONDS = 5
_SETTLE_ATTEMPTS = 50
_SETTLE_SECONDS = 0.1


class TopicMismatchError(FatalError):
    """A topic is missing or is not what the catalogue says; one line for each difference."""

    def __init__(self, lines: Sequence[str]) -> None:
        super().__init__("\n".join(lines), ExitCode.SCHEMA)


async def create_topics(
    bootstrap: str, topics: Collection[Topic], *, replication_factor: int = BROKER_DEFAULT
) -> list[str]:
    """Create the topics that are missing and return their names. Safe to repeat and to run twice at once.

    Raises
    ------
    TopicMismatchError
        One exists with other partitions or another retention, timestamp type or clean-up. Nothing is ever
        altered: partition counts are fixed for a topic's life.
    aiokafka.errors.KafkaError
        The broker refused or could not be reached.
    """
    async with _admin(bootstrap) as admin:
        new = [
            NewTopic(
                topic.name,
                topic.partitions,
                replication_factor,
                # aiokafka takes the broker's default only beside an (empty) assignment
                replica_assignments={} if replication_factor == BROKER_DEFAULT else None,
                topic_configs=_configs(topic),
            )
            for topic in topics
        ]
        response = await admin.create_topics(new)
        created = []
        for name, code, message in response.topic_errors:
            error = for_code(code)
            if code == 0:
                created.append(name)
            elif error is not TopicAlreadyExistsError:
                raise error(f"{name}: {message}")
        for _ in range(_SETTLE_ATTEMPTS):
            missing, differing = await _compare(admin, topics)
            if not missing and not (created and differing):
                break
            await asyncio.sleep(
                _SETTLE_SECONDS
            )  # brokers learn of a topic, made here or by another, a moment later
    if missing or differing:
        raise TopicMismatchError([*missing, *differing])
    log.info("topics are as the catalogue says", extra={"created_topics": sorted(created)})
    return sorted(created)


async def verify_topics(bootstrap: str, topics: Collection[Topic]) -> None:
    """Check that the topics exist as the catalogue says, without the right to create any.

    Raises
    ------
    TopicMismatchError
        Otherwise.
    """
    async with _admin(bootstrap) as admin:
        missing, differing = await _compare(admin, topics)
    if missing or differing:
        raise TopicMismatchError([*missing, *differing, "run the `migrate` command first"])


async def end_offsets(bootstrap: str, topics: Collection[str]) -> Mapping[tuple[str, int], int]:
    """Read the offset the next record of each partition will get, by (topic, partition)."""
    return {place: each.end for place, each in (await log_ranges(bootstrap, topics)).items()}


async def end_offsets_if_known(
    bootstrap: str, topics: Collection[str]
) -> Mapping[tuple[str, int], int] | None:
    """Read them as :func:`end_offsets` does; ``None`` when the broker can't be asked within five seconds."""
    if not topics:
        return {}
    try:
        async with asyncio.timeout(_ASK_BROKER_SECONDS):
            return await end_offsets(bootstrap, topics)
    except (KafkaError, OSError) as error:
        log.warning("the broker's end offsets could not be read", extra={"error": repr(error)})
        return None


@asynccontextmanager
async def _admin(bootstrap: str) -> AsyncIterator[AIOKafkaAdminClient]:
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
    await admin.start()
    try:
        yield admin
    finally:
        await admin.close()


def _configs(topic: Topic) -> dict[str, str]:
    return {
        "cleanup.policy": "delete",
        "message.timestamp.type": topic.timestamp_type,
        "retention.ms": str(topic.retention_ms),
        "retention.bytes": "-1",
    }


async def _compare(
    admin: AIOKafkaAdminClient, topics: Collection[Topic]
) -> tuple[Sequence[str], Sequence[str]]:
    """Return a line for each topic that is missing, and for each difference of one that is there."""
    descriptions = await admin.describe_topics([topic.name for topic in topics])
    described = {each["topic"]: each for each in descriptions}
    missing, differing = [], []
    existing = []
    for topic in topics:
        found: Mapping[str, Any] | None = described.get(topic.name)
        if found is None or found["error_code"] == UnknownTopicOrPartitionError.errno:
            missing.append(f"{topic.name} does not exist")
            continue
        existing.append(topic)
        partitions = len(found["partitions"])
        if partitions != topic.partitions:
            differing.append(
                f"{topic.name} has {partitions} partitions, the catalogue says {topic.partitions}"
            )
    resources = [ConfigResource(ConfigResourceType.TOPIC, topic.name) for topic in existing]
    responses = await admin.describe_configs(resources) if resources else []
    configs = {each[3]: {entry[0]: entry[1] for entry in each[4]} for each in _resources(responses)}
    differing += [
        f"{topic.name} has {name}={configs[topic.name].get(name)}, the catalogue says {value}"
        for topic in existing
        for name, value in _configs(topic).items()
        if configs[topic.name].get(name) != value
    ]
    return missing, differing


def _resources(responses: Collection[Any]) -> list[Any]:
    return [resource for response in responses for resource in response.resources]
