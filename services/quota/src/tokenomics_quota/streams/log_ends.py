"""Watches the ends of the log, so that answers can say, and callers ask, how fresh they are."""

import asyncio
import logging
from collections.abc import Collection, Mapping
from datetime import timedelta

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError

from tokenomics_chassis.changes import Signal
from tokenomics_chassis.clock import Clock
from tokenomics_chassis.postgres import Backoff
from tokenomics_chassis.serving import Serving
from tokenomics_contracts.catalogue import Topic
from tokenomics_quota.projections.balances import QuotaView
from tokenomics_quota.projections.freshness import FreshnessMeter

log = logging.getLogger(__name__)

POLL_SECONDS = 0.5

REQUEST_TIMEOUT_MS = 5_000
"""The client asks so long for the end of a partition that isn't there, and a stop waits for it."""

LAG_BOUND = timedelta(minutes=10)
"""A view further behind the log is not ready: by then it is no outage that answers should bridge."""


class LogEnds:
    """Reads the end offsets of some topics into a freshness meter: twice a second, and when somebody asks.

    Implements :class:`tokenomics_quota.ports.EndOffsets`.
    """

    def __init__(
        self,
        bootstrap: str,
        topics: Collection[Topic],
        serving: Serving[QuotaView],
        meter: FreshnessMeter,
        clock: Clock,
    ) -> None:
        self._bootstrap = bootstrap
        # By the catalogue: what the client happens to know of must not pass for all there is.
        self._partitions = [
            TopicPartition(topic.name, partition) for topic in topics for partition in range(topic.partitions)
        ]
        self._serving = serving
        self._meter = meter
        self._clock = clock
        self._signal = Signal(asyncio.Event(), POLL_SECONDS)
        self._asking: list[asyncio.Future[Mapping[str, int]]] = []
        self._shorter = False
        self.read_at: float | None = None

    async def next(self) -> Mapping[str, int]:
        """See :meth:`EndOffsets.next`."""
        asked: asyncio.Future[Mapping[str, int]] = asyncio.get_running_loop().create_future()
        self._asking.append(asked)
        self._signal.wake()
        return await asked

    async def not_ready_because(self) -> str | None:
        """Tell why answers would be too far from the log: not level with it since the start, or for long."""
        lag = self._meter.lag(self._clock.steady())
        if lag is None:
            return "the view has not caught up with the log yet"
        return f"the view is {lag.total_seconds():.0f} s behind the log" if lag > LAG_BOUND else None

    async def run(self, stopping: asyncio.Event) -> None:
        """Watch until told to stop; while the broker is away the meter's lag grows, which is the truth."""
        backoff = Backoff(max_seconds=2.0)
        while not stopping.is_set():
            consumer = AIOKafkaConsumer(
                bootstrap_servers=self._bootstrap,
                client_id="log-ends",
                request_timeout_ms=REQUEST_TIMEOUT_MS,
                isolation_level="read_committed",  # as the projector reads: an open transaction is no lag
            )
            try:
                await consumer.start()
                await self._watch(consumer, stopping, backoff)
            except (KafkaError, OSError) as error:
                await backoff.pause(stopping, error, "reading the log's ends")
            finally:
                await consumer.stop()

    async def _watch(self, consumer: AIOKafkaConsumer, stopping: asyncio.Event, backoff: Backoff) -> None:
        while not stopping.is_set():
            at, began = self._clock.steady(), asyncio.get_running_loop().time()
            self._asking = [asked for asked in self._asking if not asked.done()]  # who gave up is gone
            served, applied = len(self._asking), self._applied()
            found = await consumer.end_offsets(self._partitions)
            ends = {f"{tp.topic}/{tp.partition}": end for tp, end in found.items()}
            self.read_at = began
            if self._is_whole(ends, applied):
                asking, self._asking = self._asking[:served], self._asking[served:]
                for asked in asking:
                    if not asked.done():
                        asked.set_result(ends)
                self._meter.observe_ends(ends, at)
                self._meter.observe_view(self._applied())
            backoff.reset()
            await self._signal.wait()

    def _applied(self) -> Mapping[str, int]:
        view = self._serving.current
        return view.next_offsets if view else {}

    def _is_whole(self, ends: Mapping[str, int], applied: Mapping[str, int]) -> bool:
        """Whether the log holds all that had been applied before its ends were read.

        Where it doesn't, a topic was made anew or lost its tail, and no view is level with it: the lag grows.
        A broker that has just come up may look like that for a moment.
        """
        shorter = {part: end for part, end in ends.items() if end < applied.get(part, 0)}
        if shorter and not self._shorter:
            told = ", ".join(
                f"{part} ends at {end}, {applied[part]} is applied" for part, end in shorter.items()
            )
            log.error("the log is shorter than what is applied: %s", told)
        self._shorter = bool(shorter)
        return not shorter
