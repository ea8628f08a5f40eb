"""Lanes: the records of a partition wait for those before them, and for no other partition's.

A rebalance sends the reader back to the committed offset, also in partitions that it keeps, and stops no
lane. The position in PostgreSQL puts that right: what lies below it is dropped, what begins above it is sent
back. So a lane may forget what waits, but may never join records between which others were left out.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from itertools import islice

from aiokafka import ConsumerRecord, TopicPartition

BATCH_RECORDS = 4_000
"""Records of one transaction, at most: what it costs by itself is shared out among them."""

BATCH_BYTES = 8 * 1024 * 1024
"""What they hold at most, unless a single one holds more."""

MOST_WAITING_RECORDS = 16_000
"""No more is polled while so many wait. The client hands out one partition after the other: with fewer, one
lane alone has work, and waits for the database with nothing to do meanwhile."""

MOST_WAITING_BYTES = 32 * 1024 * 1024
"""No more is polled while so much waits."""

LINGER_SECONDS = 0.25
"""What comes so soon after a record of a patient topic shares its transaction."""


class Lanes:
    """One queue and, while anything is in it, one task a partition: a batch after the other.

    The next poll runs beside the transactions of the last one, and what comes meanwhile makes the next batch.

    Parameters
    ----------
    project
        Takes a batch and returns the partition's position; ``None`` sends back what waits behind it: it will
        be read again, or not at all. It raises nothing.
    patient_topics
        Nobody waits for their records: transactions are saved instead.
    """

    def __init__(
        self,
        project: Callable[[TopicPartition, Sequence[ConsumerRecord]], Awaitable[int | None]],
        *,
        patient_topics: Collection[str] = (),
    ) -> None:
        self._project = project
        self._patient_topics = patient_topics
        self._waiting: dict[TopicPartition, deque[_Run]] = {}
        self._running: dict[TopicPartition, asyncio.Task[None]] = {}
        self._taken = asyncio.Event()
        self._positions: dict[TopicPartition, int] = {}

    @property
    def positions(self) -> Mapping[TopicPartition, int]:
        """The last position of each partition."""
        return self._positions

    def forget_positions(self) -> None:
        """Tell of no position reached before now."""
        self._positions.clear()

    def add(self, tp: TopicPartition, records: Sequence[ConsumerRecord]) -> None:
        """Queue what one poll has of a partition.

        It shares a batch with what waits already only if it follows on it: the projector takes the records of
        a batch for all that the log holds from the first to the last.
        """
        waiting = self._waiting.setdefault(tp, deque())
        if not waiting or waiting[-1].records[-1].offset + 1 != records[0].offset:
            waiting.append(_Run())
        waiting[-1].extend(records)
        if tp not in self._running:
            self._running[tp] = asyncio.create_task(self._run(tp))

    def is_idle(self, tp: TopicPartition) -> bool:
        """Whether nothing of a partition waits or is under way."""
        return tp not in self._running

    async def room(self) -> None:
        """Wait until there is room for another poll."""
        while self._is_full():
            self._taken.clear()
            await self._taken.wait()

    def _is_full(self) -> bool:
        runs = [run for waiting in self._waiting.values() for run in waiting]
        return (
            sum(len(run.records) for run in runs) > MOST_WAITING_RECORDS
            or sum(run.total_bytes for run in runs) > MOST_WAITING_BYTES
        )

    async def rest(self, *, within_seconds: float) -> None:
        """Wait until nothing waits or runs; what takes longer, or than the caller waits, is cancelled."""
        running = list(self._running.values())
        if not running:
            return
        try:
            await asyncio.wait(running, timeout=within_seconds)
        finally:
            for task in running:
                task.cancel()
            await asyncio.gather(*running, return_exceptions=True)

    async def _run(self, tp: TopicPartition) -> None:
        waiting = self._waiting[tp]
        try:
            while waiting:
                if tp.topic in self._patient_topics and len(waiting[0].records) < BATCH_RECORDS:
                    await asyncio.sleep(LINGER_SECONDS)
                batch = _take(waiting)
                self._taken.set()
                position = await self._project(tp, batch)
                if position is None:
                    break
                self._positions[tp] = position
        finally:
            waiting.clear()
            self._taken.set()
            del self._running[tp]


class _Run:
    """Records read one after the other: a run ends where a rebalance or a seek came between."""

    def __init__(self) -> None:
        self.records: list[ConsumerRecord] = []
        self.total_bytes = 0
        self._bytes: list[int] = []

    def extend(self, records: Sequence[ConsumerRecord]) -> None:
        sizes = list(map(_bytes_of, records))
        self.records.extend(records)
        self._bytes.extend(sizes)
        self.total_bytes += sum(sizes)

    def take(self) -> Sequence[ConsumerRecord]:
        """Take what makes a batch: at least one record."""
        count, room = 0, BATCH_BYTES
        for size in islice(self._bytes, BATCH_RECORDS):
            room -= size
            if room < 0 and count:
                break
            count += 1
        batch = self.records[:count]
        self.total_bytes -= sum(self._bytes[:count])
        del self.records[:count], self._bytes[:count]
        return batch


def _take(waiting: deque[_Run]) -> Sequence[ConsumerRecord]:
    batch = waiting[0].take()
    if not waiting[0].records:
        waiting.popleft()
    return batch


def _bytes_of(record: ConsumerRecord) -> int:
    size = len(record.key or b"") + len(record.value or b"")
    for _, value in record.headers:
        if value:
            size += len(value)
    return size
