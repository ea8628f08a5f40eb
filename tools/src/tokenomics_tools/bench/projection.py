"""Usage to durable projection, beside plainly reading the same records."""

import statistics
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import count
from urllib.parse import urlsplit, urlunsplit

import msgspec

from tokenomics_chassis.postgres import session
from tokenomics_tools.bench.plant import (
    SCHEMAS,
    USAGE_TOPIC,
    Plant,
    Sample,
    Scale,
    database_cpu_seconds,
    plant,
    usage_events,
)
from tokenomics_tools.bench.reader import Report
from tokenomics_tools.bench.rows import Bar, Pair, Row, paired
from tokenomics_tools.stack.probes import execute, run_async

_READ_SECONDS = 120
# Fewer would be over in a few batches: too short for a rate, and for the process's CPU clock of 10 ms.
LEAST_EVENTS = 100_000
_names = count(1)


def measure(scale: Scale) -> list[Row]:
    """Measure how fast one process, and two, catch up with the month; each run on a database of its own."""
    with plant(events=int(scale.of(200_000, at_least=LEAST_EVENTS))) as made:
        events = usage_events(made.simulation)
        made.publish_usage(events)
        alone, together, reads, cpu_micros, database_micros, bytes_per_fact = [], [], [], [], [], []
        for _ in range(scale.pairs):
            reads.append(read(made))
            with copy_of_database(made) as url:
                database_before = _database_cpu_seconds(url)
                way = made.project(url, USAGE_TOPIC)
                database_cpu_seconds = _database_cpu_seconds(url) - database_before
                bytes_per_fact.append(_bytes_per_fact(url, len(events)))
            database_micros.append(database_cpu_seconds / len(events) * 1e6)
            alone.append(rate(way))
            cpu_micros.append(_cpu_micros(way))
            with copy_of_database(made) as url:
                together.append(rate(made.project(url, USAGE_TOPIC, processes=2)))
    rates = [Pair(rate, read.records_per_second) for rate, read in zip(alone, reads, strict=True)]
    cpu = [Pair(micros, read.cpu_micros_per_record) for micros, read in zip(cpu_micros, reads, strict=True)]
    return [
        paired("projection, one process", "events/s", rates, Bar("ratio", ">=", 0.25)),
        Row(
            "projection, per process",
            statistics.median(alone),
            "events/s",
            bar=Bar("value", ">=", 22_000),
        ),
        paired("projection, process CPU", "µs/event", cpu),
        Row("projection, database CPU", statistics.median(database_micros), "µs/event"),
        paired(
            "projection, two beside one",
            "events/s",
            [Pair(two, one) for two, one in zip(together, alone, strict=True)],
        ),
        Row("projection, fact storage", statistics.median(bytes_per_fact), "B/fact"),
    ]


def read(made: Plant) -> Report:
    """Read the usage topic plainly: the floor."""
    argv = [sys.executable, "-m", "tokenomics_tools.bench.reader", made.stack.kafka.bootstrap, USAGE_TOPIC]
    reader = made.stack.spawn("bench-reader", argv, {})
    if code := reader.wait(_READ_SECONDS):
        raise RuntimeError(f"the reader ended with exit code {code}{reader.quote_log()}")
    return msgspec.json.decode(reader.log_text(), type=Report)


@contextmanager
def copy_of_database(made: Plant) -> Iterator[str]:
    """Copy the database in which the company is in force and no usage is projected yet."""
    original = urlsplit(made.database_url)
    name = original.path.lstrip("/")
    copy = f"{name}_{next(_names)}"
    admin = made.stack.postgres.url
    execute(admin, f"CREATE DATABASE {copy} TEMPLATE {name} OWNER {original.username}")
    try:
        yield urlunsplit(original._replace(path=f"/{copy}"))
    finally:
        execute(admin, f"DROP DATABASE {copy} WITH (FORCE)")


def _steady(way: Sequence[Sample]) -> tuple[Sample, Sample]:
    """Leave out the first tenth, in which processes start and share out the partitions, and the last.

    So as much is read and not yet committed at the end as was at the beginning.
    """
    all_of_it = way[-1].projected
    begin = next(sample for sample in way if sample.projected >= all_of_it / 10)
    return begin, next(sample for sample in way if sample.projected >= all_of_it * 9 / 10)


def rate(way: Sequence[Sample]) -> float:
    """Return how many events a second were projected, in the steady part of the way."""
    begin, end = _steady(way)
    return (end.projected - begin.projected) / (end.at_seconds - begin.at_seconds)


def _cpu_micros(way: Sequence[Sample]) -> float:
    begin, end = _steady(way)
    return (end.cpu_seconds - begin.cpu_seconds) / (end.projected - begin.projected) * 1e6


def _database_cpu_seconds(url: str) -> float:
    async def ask() -> float:
        async with session(url, SCHEMAS, application_name="bench") as connection:
            return database_cpu_seconds(connection)

    return run_async(ask())


def _bytes_per_fact(url: str, events: int) -> float:
    async def ask() -> tuple[int, int]:
        async with session(url, SCHEMAS, application_name="bench") as connection:
            row = await connection.fetchrow("SELECT count(*), pg_total_relation_size('fact') FROM fact")
            assert row is not None
            return row[0], row[1]

    facts, size = run_async(ask())
    if facts != events:
        raise RuntimeError(f"{facts} facts of {events} events")
    return size / events
