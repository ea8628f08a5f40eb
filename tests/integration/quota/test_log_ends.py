"""The ends of a real log, as freshness is measured against them."""

import asyncio
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from aiokafka import AIOKafkaProducer

from tests.support.quota_events import NoPrices
from tokenomics_chassis.clock import SystemClock
from tokenomics_chassis.serving import Serving
from tokenomics_chassis.topics import create_topics
from tokenomics_contracts.catalogue import Topic, topic_of
from tokenomics_contracts.events.usage import UsageRecorded
from tokenomics_quota.projections.balances import QuotaView
from tokenomics_quota.projections.freshness import FreshnessMeter
from tokenomics_quota.projections.governance import Governance
from tokenomics_quota.streams.log_ends import LogEnds
from tokenomics_tools.stack import Stack

CLOCK = SystemClock()
USAGE = topic_of(UsageRecorded.type_name)


async def test_what_a_producer_has_not_committed_yet_is_no_lag(stack: Stack) -> None:
    topic = new_topic()
    await create_topics(stack.kafka.bootstrap, [topic])
    async with AIOKafkaProducer(
        bootstrap_servers=stack.kafka.bootstrap, transactional_id=topic.name
    ) as producer:
        await producer.begin_transaction()
        await producer.send_and_wait(topic.name, b"1", partition=0)
        async with watched(stack, topic) as meter:
            await until_level(meter)
        await producer.abort_transaction()


async def test_the_ends_of_a_topic_that_is_not_there_are_unknown_not_reached(stack: Stack) -> None:
    topic = new_topic()
    async with watched(stack, topic) as meter:
        with pytest.raises(TimeoutError):
            await until_level(meter, within_seconds=2)
        await create_topics(stack.kafka.bootstrap, [topic])
        await until_level(meter)


def new_topic() -> Topic:
    return USAGE.model_copy(update={"name": f"tokenomics.t{uuid.uuid4().hex}.v1", "partitions": 2})


@asynccontextmanager
async def watched(stack: Stack, topic: Topic) -> AsyncIterator[FreshnessMeter]:
    """Measure a view that has applied nothing."""
    meter, stopping = FreshnessMeter(), asyncio.Event()
    serving = Serving[QuotaView]()
    serving.put(1, QuotaView(Governance(NoPrices())), 1)
    ends = LogEnds(stack.kafka.bootstrap, [topic], serving, meter, CLOCK)
    running = asyncio.create_task(ends.run(stopping))
    try:
        yield meter
    finally:
        stopping.set()
        await running


async def until_level(meter: FreshnessMeter, *, within_seconds: float = 10) -> None:
    async with asyncio.timeout(within_seconds):
        while meter.lag(CLOCK.steady()) is None:  # noqa: ASYNC110 - a meter tells nobody
            await asyncio.sleep(0.05)
