"""``python -m tokenomics_tools.bench.reader BOOTSTRAP TOPIC``: the floor of a projection.

Reads a topic from its beginning to its present end with plain aiokafka, under the projection's own settings,
and does nothing with the records. Prints a ``Report`` as JSON.
"""

import sys
from time import perf_counter, process_time

import msgspec
import uvloop
from aiokafka import AIOKafkaConsumer

from tokenomics_chassis.catch_up import FETCH_WAIT_MS, MAX_POLL_RECORDS
from tokenomics_chassis.consumer import POLL_MS


class Report(msgspec.Struct):
    """How fast it went, from the first records on."""

    records: int
    records_per_second: float
    cpu_micros_per_record: float


async def _read(bootstrap: str, topic: str) -> Report:
    consumer = AIOKafkaConsumer(
        topic,
        bootstrap_servers=bootstrap,
        auto_offset_reset="earliest",
        isolation_level="read_committed",
        fetch_max_wait_ms=FETCH_WAIT_MS,
    )
    await consumer.start()
    try:
        wanted = sum((await consumer.end_offsets(consumer.assignment())).values())
        read = first = 0
        begun = cpu_before = 0.0
        while read < wanted:
            polled = await consumer.getmany(timeout_ms=POLL_MS, max_records=MAX_POLL_RECORDS)
            read += sum(map(len, polled.values()))
            if not first:
                first, begun, cpu_before = read, perf_counter(), process_time()
        seconds, cpu_seconds = perf_counter() - begun, process_time() - cpu_before
        return Report(read, (read - first) / seconds, cpu_seconds / (read - first) * 1e6)
    finally:
        await consumer.stop()


if __name__ == "__main__":
    print(msgspec.json.encode(uvloop.run(_read(sys.argv[1], sys.argv[2]))).decode())
