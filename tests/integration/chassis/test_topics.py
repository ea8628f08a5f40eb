"""Topics on a real broker: made from the catalogue, and refused when they differ from it."""

import asyncio
import uuid

import pytest
from aiokafka import AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient, NewTopic

from tokenomics_chassis.topics import TopicMismatchError, create_topics, end_offsets, verify_topics
from tokenomics_contracts.catalogue import Topic
from tokenomics_tools.stack import Stack


def topic(name: str | None = None, *, partitions: int = 3, retention_ms: int = -1) -> Topic:
    return Topic(
        name=name or f"tokenomics.t{uuid.uuid4().hex}.v1",
        description="of a test",
        owner="test",
        key="none",
        partitions=partitions,
        retention_ms=retention_ms,
        timestamp_type="LogAppendTime",
        types=(),
        examples=(),
    )


async def test_topics_are_created_once_as_the_catalogue_says(stack: Stack) -> None:
    wanted = [topic(), topic(partitions=1)]
    assert await create_topics(stack.kafka.bootstrap, wanted) == sorted(each.name for each in wanted)
    assert await create_topics(stack.kafka.bootstrap, wanted) == []
    await verify_topics(stack.kafka.bootstrap, wanted)


async def test_topics_may_be_created_by_several_at_once(stack: Stack) -> None:
    for _ in range(5):
        wanted = [topic() for _ in range(4)]
        created = await asyncio.gather(*(create_topics(stack.kafka.bootstrap, wanted) for _ in range(3)))
        assert sorted(name for names in created for name in names) == sorted(each.name for each in wanted)


async def test_a_missing_topic_is_named(stack: Stack) -> None:
    missing = topic()
    with pytest.raises(TopicMismatchError, match=f"{missing.name} does not exist"):
        await verify_topics(stack.kafka.bootstrap, [missing])


async def test_every_difference_is_named_and_nothing_is_altered(stack: Stack) -> None:
    wanted = topic()
    admin = AIOKafkaAdminClient(bootstrap_servers=stack.kafka.bootstrap)
    await admin.start()
    configs = {"retention.ms": "1000", "message.timestamp.type": "CreateTime"}
    await admin.create_topics([NewTopic(wanted.name, 2, 1, topic_configs=configs)])
    await admin.close()
    for _ in range(2):
        with pytest.raises(TopicMismatchError) as mismatch:
            await create_topics(stack.kafka.bootstrap, [wanted])
        assert str(mismatch.value).splitlines() == [
            f"{wanted.name} has 2 partitions, the catalogue says 3",
            f"{wanted.name} has message.timestamp.type=CreateTime, the catalogue says LogAppendTime",
            f"{wanted.name} has retention.ms=1000, the catalogue says -1",
        ]


async def test_end_offsets_tell_what_the_next_record_gets(stack: Stack) -> None:
    made = topic()
    await create_topics(stack.kafka.bootstrap, [made])
    async with AIOKafkaProducer(bootstrap_servers=stack.kafka.bootstrap) as producer:
        await producer.send_and_wait(made.name, b"1", partition=1)
    assert await end_offsets(stack.kafka.bootstrap, [made.name]) == {
        (made.name, 0): 0,
        (made.name, 1): 1,
        (made.name, 2): 0,
    }
