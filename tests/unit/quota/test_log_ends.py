"""Reading the log's ends: once for all who asked before, and never too often for the meter."""

import asyncio
from collections.abc import Iterable
from datetime import timedelta
from typing import Any

from aiokafka import TopicPartition

from tests.support.quota_events import NOW, NoPrices
from tokenomics_chassis.clock import SystemClock
from tokenomics_chassis.postgres import Backoff
from tokenomics_chassis.serving import Serving
from tokenomics_contracts.catalogue import topics
from tokenomics_quota.projections.balances import QuotaView
from tokenomics_quota.projections.freshness import FreshnessMeter
from tokenomics_quota.projections.governance import Governance
from tokenomics_quota.streams.log_ends import LogEnds

POLICY = next(topic for topic in topics() if topic.name == "tokenomics.policy.v1")


class Broker:
    """Tells how often it was asked, as the ends; each answer waits until it is let go."""

    def __init__(self) -> None:
        self.reads = 0
        self.let_go = asyncio.Semaphore(0)

    async def end_offsets(self, partitions: Iterable[TopicPartition]) -> dict[TopicPartition, int]:
        self.reads += 1
        reads = self.reads
        await self.let_go.acquire()
        return dict.fromkeys(partitions, reads)


async def test_one_read_serves_all_who_asked_before_it_began_and_nobody_who_asked_later() -> None:
    broker: Any = Broker()
    ends = LogEnds("unused", [POLICY], Serving[QuotaView](), FreshnessMeter(), SystemClock())
    stopping = asyncio.Event()
    before = [asyncio.create_task(ends.next()) for _ in range(3)]
    await asyncio.sleep(0)
    watching = asyncio.create_task(ends._watch(broker, stopping, Backoff()))
    async with asyncio.timeout(5):
        while not broker.reads:  # noqa: ASYNC110 - the read under way tells nobody
            await asyncio.sleep(0)
        during = asyncio.create_task(ends.next())
        gave_up = asyncio.create_task(ends.next())
        await asyncio.sleep(0)
        gave_up.cancel()
        assert ends.read_at is None
        broker.let_go.release()
        assert [set((await each).values()) for each in before] == [{1}] * 3
        assert not during.done()
        broker.let_go.release()
        assert set((await during).values()) == {2}
        stopping.set()
        broker.let_go.release()
        await watching


async def test_a_view_is_not_level_with_a_log_that_lacks_what_it_has_applied() -> None:
    broker: Any = Broker()
    meter, serving, view = FreshnessMeter(), Serving[QuotaView](), QuotaView(Governance(NoPrices()))
    view.next_offsets = {"tokenomics.policy.v1/0": 3}
    serving.put(1, view, 1)
    ends, stopping = LogEnds("unused", [POLICY], serving, meter, SystemClock()), asyncio.Event()
    everything = asyncio.create_task(ends.next())
    watching = asyncio.create_task(ends._watch(broker, stopping, Backoff()))
    async with asyncio.timeout(5):
        for read in (1, 2, 3):
            while broker.reads < read:  # noqa: ASYNC110 - as above
                await asyncio.sleep(0.01)
            assert (meter.level_at, everything.done()) == (None, False)
            broker.let_go.release()
        await everything  # the third read found all three records
        assert meter.level_at is not None
        stopping.set()
        broker.let_go.release()
        await watching


async def test_who_gave_up_is_not_kept_while_the_log_lacks_what_is_applied() -> None:
    broker: Any = Broker()
    serving, view = Serving[QuotaView](), QuotaView(Governance(NoPrices()))
    view.next_offsets = {"tokenomics.policy.v1/0": 1_000}
    serving.put(1, view, 1)
    ends, stopping = LogEnds("unused", [POLICY], serving, FreshnessMeter(), SystemClock()), asyncio.Event()
    watching = asyncio.create_task(ends._watch(broker, stopping, Backoff()))
    async with asyncio.timeout(5):
        for read in range(1, 6):
            while broker.reads < read:  # noqa: ASYNC110 - as above
                await asyncio.sleep(0.01)
            gave_up = asyncio.create_task(ends.next())
            await asyncio.sleep(0)
            gave_up.cancel()
            broker.let_go.release()
        assert len(ends._asking) <= 2
        stopping.set()
        broker.let_go.release()
        await watching


def test_ends_that_many_ask_for_do_not_fill_the_meter() -> None:
    meter = FreshnessMeter()
    for millisecond in range(5_000):
        meter.observe_ends({"topic/0": millisecond}, NOW + timedelta(milliseconds=millisecond))
    assert len(meter._pending) == 50
    meter.observe_view({"topic/0": 4_999})
    assert meter.lag(NOW + timedelta(seconds=5)) == timedelta(milliseconds=100)
