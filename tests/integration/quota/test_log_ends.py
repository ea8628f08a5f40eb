"""The ends of a real log, as freshness is measured against them."""

import asyncio
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from aiokafka import AIOKafkaProducer

from tests.support.quota_events import NoPrices
from tokenomics_chassis.clock import SystemClock
from tokenomics_chassis.topics import create_topics
from tokenomics_contracts.catalogue import topic_of
from tokenomics_contracts.events.usage import UsageRecorded
from tokenomics_quota.projections.balances import QuotaView
from tokenomics_quota.projections.freshness import FreshnessMeter
from tokenomics_quota.projections.governance import Governance
from tokenomics_quota.streams.log_ends import LogEnds
from tokenomics_tools.stack import Stack

CLOCK = SystemClock()
USAGE = topic_of(UsageRecorded.type_name)


async def test_what_a_producer_has_not_committed_yet_is_no_lag(stack: Stack) -> None:
    topic = USAGE.model_copy(update={"name": f"tokenomics.t{uuid.uuid4().hex}.v1", "partitions": 2})
    await create_topics(stack.kafka.bootstrap, [topic])
    async with AIOKafkaProducer(
        bootstrap_servers=stack.kafka.bootstrap, transactional_id=topic.name
    ) as producer:
        await producer.begin_transaction()
        await producer.send_and_wait(topic.name, b"1", partition=0)
        async with watched(stack, topic.name) as meter:
            await until_level(meter)
        await producer.abort_transaction()


@asynccontextmanager
async def watched(stack: Stack, topic: str) -> AsyncIterator[FreshnessMeter]:
    """Measure a view that has applied nothing."""
    meter, stopping = FreshnessMeter(), asyncio.Event()
    view = QuotaView(Governance(NoPrices()))
    ends = LogEnds(stack.kafka.bootstrap, frozenset({topic}), view, meter, CLOCK)
    running = asyncio.create_task(ends.run(stopping))
    try:
        yield meter
    finally:
        stopping.set()
        await running


async def until_level(meter: FreshnessMeter) -> None:
    async with asyncio.timeout(10):
        while meter.lag(CLOCK.now()) is None:
            await asyncio.sleep(0.05)
