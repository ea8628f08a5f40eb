"""Reads single records from the log again, by their places."""

import asyncio
from collections.abc import Awaitable, Callable, Collection, Sequence

from aiokafka import AIOKafkaConsumer, ConsumerRecord, TopicPartition

from tokenomics_chassis.lenient_records import read_leniently
from tokenomics_chassis.records import Place, Record

READ_SECONDS = 10.0
_FETCH_BYTES = 64 * 1024
"""Of a place one record is wanted; the broker sends a larger one whole all the same."""

ReadRecords = Callable[[Collection[Place]], Awaitable[Sequence[Record]]]
"""Reads the records at these places. One that the log doesn't hold (any more) is absent from the answer.

Raises ``KafkaError`` or ``TimeoutError`` while the broker is away.
"""


def log_reader(bootstrap: str) -> ReadRecords:
    """Return a reader that opens one consumer, apart from any group, for each call."""
    read_leniently()

    async def read(places: Collection[Place]) -> Sequence[Record]:
        consumer = AIOKafkaConsumer(
            bootstrap_servers=bootstrap,
            client_id="log-reader",
            auto_offset_reset="earliest",
            max_partition_fetch_bytes=_FETCH_BYTES,
        )
        try:
            await consumer.start()
            found = [await _read(consumer, place) for place in await _held(consumer, places)]
        finally:
            await consumer.stop()
        return [record for record in found if record is not None]

    return read


async def _held(consumer: AIOKafkaConsumer, places: Collection[Place]) -> Sequence[Place]:
    """Leave out places outside the log: a read would wait there for a record yet to come."""
    partitions = {TopicPartition(*place[:2]) for place in places}
    begins, ends = await consumer.beginning_offsets(partitions), await consumer.end_offsets(partitions)
    return sorted(place for place in set(places) if begins[place[:2]] <= place.offset < ends[place[:2]])


async def _read(consumer: AIOKafkaConsumer, place: Place) -> Record | None:
    tp = TopicPartition(place.topic, place.partition)
    if consumer.assignment() != {tp}:
        consumer.assign([tp])
    consumer.seek(tp, place.offset)
    async with asyncio.timeout(READ_SECONDS):
        record = to_record(await consumer.getone(tp))
    return record if record.offset == place.offset else None


def to_record(record: ConsumerRecord) -> Record:
    """Take from the client's record what projections see."""
    # Once per record, hence by the shortest way to a tuple: see docs/performance.md.
    return tuple.__new__(
        Record,
        (
            record.topic,
            record.partition,
            record.offset,
            record.timestamp,
            record.key,
            record.value,
            tuple(record.headers),
        ),
    )
