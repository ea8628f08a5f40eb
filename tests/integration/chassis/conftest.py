"""Real Kafka and PostgreSQL for the tests of the chassis' streams; each test has a database anew."""

import uuid
from collections.abc import AsyncIterator

import pytest
from aiokafka import AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient, NewTopic

from tests.integration.chassis.harness import PARTITIONS
from tests.support import toy_projection as toy
from tokenomics_chassis.postgres import Pool, create_pool
from tokenomics_tools.stack import Stack


@pytest.fixture
async def database(stack: Stack) -> str:
    url = stack.new_database("toy")
    await toy.MIGRATIONS.migrate(url)
    return url


@pytest.fixture
async def pool(database: str) -> AsyncIterator[Pool]:
    async with await create_pool(database, toy.SCHEMAS, application_name="test") as pool:
        yield pool


@pytest.fixture
async def topics(stack: Stack) -> AsyncIterator[None]:
    """Make the toy's topics, and delete them afterwards."""
    names = [toy.AMOUNTS, toy.STEPS, toy.OWN]
    admin = AIOKafkaAdminClient(bootstrap_servers=stack.kafka.bootstrap)
    await admin.start()
    try:
        config = {"message.timestamp.type": "LogAppendTime", "retention.ms": "-1"}
        await admin.create_topics([NewTopic(name, PARTITIONS, 1, topic_configs=config) for name in names])
        yield
        await admin.delete_topics(names)
    finally:
        await admin.close()


@pytest.fixture
def group() -> str:
    return f"toy-{uuid.uuid4()}"


@pytest.fixture
async def producer(stack: Stack) -> AsyncIterator[AIOKafkaProducer]:
    async with AIOKafkaProducer(bootstrap_servers=stack.kafka.bootstrap) as producer:
        yield producer
