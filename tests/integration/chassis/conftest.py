"""Real Kafka and PostgreSQL for the tests of the chassis' streams; each test has a database anew."""

import uuid
from collections.abc import AsyncIterator

import pytest
from aiokafka import AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient

from tests.integration.chassis.harness import made_topics
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
        async with pool.acquire() as connection:
            await toy.TRAIL.open(connection)
        yield pool


@pytest.fixture
async def topics(stack: Stack, request: pytest.FixtureRequest) -> AsyncIterator[AIOKafkaAdminClient]:
    """Make the toy's topics, and delete them afterwards; a parameter adds to their configuration."""
    async with made_topics(stack, **getattr(request, "param", {})) as admin:
        yield admin


@pytest.fixture
def group() -> str:
    return f"toy-{uuid.uuid4()}"


@pytest.fixture
async def producer(stack: Stack) -> AsyncIterator[AIOKafkaProducer]:
    async with AIOKafkaProducer(bootstrap_servers=stack.kafka.bootstrap) as producer:
        yield producer
