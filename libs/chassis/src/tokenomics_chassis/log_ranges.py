"""What a topic still holds, against what was read of it: lost history is refused, never passed over."""

import asyncio
from collections.abc import Awaitable, Callable, Collection, Mapping
from typing import NamedTuple

from aiokafka import AIOKafkaConsumer, TopicPartition

from tokenomics_chassis.postgres import wait_for
from tokenomics_chassis.process import ExitCode, FatalError

SETTLE_SECONDS = 1.0
SETTLE_ATTEMPTS = 10
"""A broker that has just come up may for a moment know less of its log than it has."""

Positions = Mapping[tuple[str, int], int]
"""The offset to read next of each (topic, partition); where none is stored, it is 0."""


class LogRange(NamedTuple):
    """What a partition holds."""

    begin: int
    """The lowest offset; what lay below was deleted. Compaction leaves it alone."""

    end: int
    """The offset that the next record will get."""


class LostHistoryError(FatalError):
    """The log lacks what was to be read, or what was read already: no state that follows could be right."""

    def __init__(self, topic: str, partition: int, position: int, what: str) -> None:
        super().__init__(f"{topic}/{partition} is read up to {position}, but {what}", ExitCode.LOST_HISTORY)

    @classmethod
    def below(cls, topic: str, partition: int, position: int, begin: int) -> "LostHistoryError":
        """Say that the log begins above the position."""
        what = (
            f"begins at {begin}: the records between were deleted before they were read. Restore the topic "
            f"with its offsets, or a copy of the database that has read it up to {begin} or further"
        )
        return cls(topic, partition, position, what)

    @classmethod
    def above(cls, topic: str, partition: int, position: int, end: int) -> "LostHistoryError":
        """Say that the log ends below the position."""
        what = (
            f"ends at {end}: the topic was made anew or lost its tail. Restore it with its offsets, or begin "
            "anew on an empty database"
        )
        return cls(topic, partition, position, what)


async def log_ranges(bootstrap: str, topics: Collection[str]) -> Mapping[tuple[str, int], LogRange]:
    """Read what each partition holds now, up to the first transaction that is still open."""
    consumer = AIOKafkaConsumer(*topics, bootstrap_servers=bootstrap, isolation_level="read_committed")
    try:
        await consumer.start()
        partitions: Collection[TopicPartition] = consumer.assignment()
        ends = await consumer.end_offsets(partitions)
        begins = await consumer.beginning_offsets(partitions)
    finally:
        await consumer.stop()
    return {(tp.topic, tp.partition): LogRange(begins[tp], ends[tp]) for tp in partitions}


async def whole_log_ranges(
    bootstrap: str,
    topics: Collection[str],
    positions: Callable[[], Awaitable[Positions]],
    stopping: asyncio.Event,
) -> Mapping[tuple[str, int], LogRange]:
    """Read what each partition holds, which is all that was read of it and all that is still to be.

    Raises
    ------
    LostHistoryError
        It isn't, and does not become so within some seconds. Not raised once ``stopping`` is set.
    """
    for attempt in range(1, SETTLE_ATTEMPTS + 1):
        stored = await positions()
        ranges = await log_ranges(bootstrap, topics)
        lost = _lost(stored, ranges)
        if lost is None:
            break
        if attempt == SETTLE_ATTEMPTS:
            raise lost
        if await wait_for(stopping, SETTLE_SECONDS):
            break
    return ranges


def _lost(positions: Positions, ranges: Mapping[tuple[str, int], LogRange]) -> LostHistoryError | None:
    for (topic, partition), each in sorted(ranges.items()):
        position = positions.get((topic, partition), 0)
        if position < each.begin:
            return LostHistoryError.below(topic, partition, position, each.begin)
        if position > each.end:
            return LostHistoryError.above(topic, partition, position, each.end)
    return None
