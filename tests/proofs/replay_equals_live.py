"""State is a function of the log: equal live under chaos, from scratch, and in whatever order of reading."""

import asyncio
import random
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence

from tests.proofs.chaos import Fleet
from tests.proofs.compare import compare
from tests.proofs.exactly_once import CATCH_UP_SECONDS, ends_of, live_run
from tests.proofs.lab import Arena, Lab, Verdict
from tests.proofs.recompute import USAGE, RawRecord, Recomputation, recompute
from tests.proofs.variant import applied
from tokenomics_chassis.postgres import Schemas, create_pool, session
from tokenomics_chassis.records import Record
from tokenomics_chassis.state_hash import EVENT_SOURCES, POSITIONS, state_hash
from tokenomics_quota import bootstrap
from tokenomics_quota.settings import ProjectSettings
from tokenomics_quota.storage.state import DERIVED_TABLES, NOT_DERIVED

SHORT_USAGE_RECORDS = 15_000
SHORT_SHUFFLES = 3
LARGEST_BATCH = 4_000
DUPLICATE_SHARE = 0.03
SETTLED_SECONDS = 6

Batches = Iterable[Sequence[RawRecord]]
"""Each of one partition; a partition's records come in order, some of them more than once."""


async def prove(lab: Lab) -> Verdict:
    """Hash the live state, a replay from offset 0, and shuffled readings of the same records."""
    run = await live_run(lab)
    rng = random.Random(lab.seed)
    inputs = list(run.records)
    live = await hash_of(run.arena)
    failures = []

    replay = run.arena.on_another_database()
    await replay.migrate()
    async with Fleet(replay, "project", 1) as fleet:
        await replay.projected(ends_of(inputs), within_seconds=CATCH_UP_SECONDS)
        if await hash_settles(replay, live) != live:
            failures.append("a projection from offset 0 has another hash than the live state")
        await fleet.stop()
        failures += fleet.unexpected

    if failures:
        return Verdict({"records": len(inputs)}, failures)
    with applied(lab.variant):
        shuffled = await _read_anew(run.arena, _shuffled(inputs, rng))
        if await hash_of(shuffled) != live:
            failures.append("all records in shuffled order have another hash than the live state")
            failures += (await compare(shuffled, run.truth, inputs))[1]

        repeated = _with_duplicates(inputs, run.truth, rng)
        reading = await _read_anew(run.arena, _shuffled(repeated, rng))
        if await hash_of(reading, with_positions=False) != await hash_of(run.arena, with_positions=False):
            failures.append("all records with duplicates have another hash than the live state")
            failures += (await compare(reading, run.truth, inputs))[1]

        # Fewer usage records, against which everything that governs them comes late in every possible way.
        short = _beginning(inputs, SHORT_USAGE_RECORDS)
        truth = recompute(short)
        again = _with_duplicates(short, truth, rng)
        in_order = await _read_anew(run.arena, _in_order(short))
        failures += (await compare(in_order, truth, short))[1]
        expected = await hash_of(in_order, with_positions=False)
        orders = {
            "governing last": _governing_last(again),
            "governing first": _governing_first(again),
            **{f"shuffle {number}": _shuffled(again, rng) for number in range(SHORT_SHUFFLES)},
        }
        for name, order in orders.items():
            reading = await _read_anew(run.arena, order)
            if await hash_of(reading, with_positions=False) != expected:
                failures.append(f"with duplicates, {name}: another hash than in order")
                failures += (await compare(reading, truth, short))[1]
    figures = {
        "records": len(inputs),
        "replays_from_zero": 1,
        "shuffled_readings": 2,
        "short_readings": 1 + len(orders),
        "short_records": len(short),
        "injected_duplicates": len(repeated) - len(inputs) + len(again) - len(short),
    }
    return Verdict(figures, failures)


async def hash_of(arena: Arena, *, with_positions: bool = True, version: int = 1) -> str:
    """Hash one version of the derived state, as the product defines it."""
    places = (POSITIONS, *EVENT_SOURCES)
    tables = [each for each in DERIVED_TABLES if with_positions or each not in places]
    left_out = dict(NOT_DERIVED)
    if not with_positions:
        left_out |= {each.table: "the duplicates lie behind it, and count there" for each in places}
    schemas = Schemas(bootstrap.SERVICE, version)
    async with session(arena.database_url, schemas, application_name="proof", patient=True) as connection:
        return await state_hash(connection, schemas.derived, tables, left_out)


async def hash_settles(arena: Arena, expected: str | None = None, *, with_positions: bool = True) -> str:
    """Let late permissions mend what was parked before they were read, until nothing moves any more.

    Returns
    -------
    str
        The hash then; at once when it is the expected one.
    """
    found, unchanged = await hash_of(arena, with_positions=with_positions), 0
    while found != expected and unchanged < SETTLED_SECONDS:
        await asyncio.sleep(1)
        before, found = found, await hash_of(arena, with_positions=with_positions)
        unchanged = unchanged + 1 if found == before else 0
    return found


async def _read_anew(arena: Arena, order: Batches) -> Arena:
    """Drive the product's projector by hand over an empty database."""
    reading = arena.on_another_database()
    settings = ProjectSettings(
        database_url=reading.database_url, kafka_bootstrap=reading.stack.kafka.bootstrap
    )
    schemas = Schemas(bootstrap.SERVICE)
    await bootstrap.migrations(schemas).migrate(reading.database_url)
    async with await create_pool(settings.database_url, schemas, application_name="proof") as pool:
        projector = bootstrap.projector(settings, pool, schemas)
        for batch in order:
            records = [Record(*record) for record in batch]
            await projector.process(batch[0].topic, batch[0].partition, records)
        await bootstrap.operations(settings, pool, schemas).retry("too_late")
    return reading


def _in_order(records: Sequence[RawRecord]) -> Batches:
    for partition in _by_partition(records).values():
        for start in range(0, len(partition), LARGEST_BATCH):
            yield partition[start : start + LARGEST_BATCH]


def _shuffled(records: Sequence[RawRecord], rng: random.Random) -> Iterator[Sequence[RawRecord]]:
    """Interleave partitions and topics at random, in batches of any size, some of them read again."""
    partitions = list(_by_partition(records).values())
    read = [0] * len(partitions)
    while unfinished := [number for number, each in enumerate(partitions) if read[number] < len(each)]:
        number = rng.choice(unfinished)
        size = rng.choice((1, 7, 100, 1000, LARGEST_BATCH))
        # A batch may begin with records that were read before.
        start = max(0, read[number] - rng.choice((0, 0, 0, 5)))
        yield partitions[number][start : read[number] + size]
        read[number] = min(len(partitions[number]), read[number] + size)


def _governing_last(records: Sequence[RawRecord]) -> Batches:
    usage = [record for record in records if record.topic == USAGE]
    return [*_in_order(usage), *_in_order([record for record in records if record.topic != USAGE])]


def _governing_first(records: Sequence[RawRecord]) -> Batches:
    usage = [record for record in records if record.topic == USAGE]
    return [*_in_order([record for record in records if record.topic != USAGE]), *_in_order(usage)]


def _beginning(records: Sequence[RawRecord], usage_records: int) -> list[RawRecord]:
    """Return all that governs, and the first usage records of each partition."""
    partitions = {record.partition for record in records if record.topic == USAGE}
    limit = usage_records // len(partitions)
    return [record for record in records if record.topic != USAGE or record.offset < limit]


def _with_duplicates(
    records: Sequence[RawRecord], truth: Recomputation, rng: random.Random
) -> list[RawRecord]:
    """Append repetitions of good records to the end of their partitions; poison would be parked once more."""
    duplicated = []
    for partition in _by_partition(records).values():
        good = [record for record in partition if record.place not in truth.parked]
        last = partition[-1]
        for number, record in enumerate(rng.sample(good, round(len(good) * DUPLICATE_SHARE)), start=1):
            later = last.append_ms + number
            duplicated.append(record._replace(offset=last.offset + number, append_ms=later))
    return [*records, *duplicated]


def _by_partition(records: Sequence[RawRecord]) -> dict[tuple[str, int], list[RawRecord]]:
    partitions: dict[tuple[str, int], list[RawRecord]] = defaultdict(list)
    for record in records:
        partitions[record.topic, record.partition].append(record)
    return {place: sorted(each, key=lambda record: record.offset) for place, each in partitions.items()}
