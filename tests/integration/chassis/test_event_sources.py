"""What was read of each source follows from the log alone, and stays small."""

import random
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import pytest

from tests.integration.chassis.harness import parking
from tests.support import toy_projection as toy
from tokenomics_chassis import event_sources
from tokenomics_chassis.event_sources import SourceState, source_states
from tokenomics_chassis.parking import Skip
from tokenomics_chassis.postgres import Pool
from tokenomics_chassis.projector import Projector
from tokenomics_chassis.records import Record

NOON = datetime(2026, 11, 20, 12, tzinfo=UTC)


def milliseconds(at: datetime) -> int:
    return int(at.timestamp() * 1000)


def record(
    offset: int, source: str = "urn:a", *, at: datetime = NOON, value: bytes = b"1", delay_ms: int = 0
) -> Record:
    time = (at - timedelta(milliseconds=delay_ms)).isoformat().encode()
    headers = (
        ("ce_specversion", b"1.0"),
        ("ce_id", str(offset).encode()),
        ("ce_source", source.encode()),
        ("ce_type", b"t"),
        ("ce_time", time),
    )
    return Record(toy.AMOUNTS, 0, offset, milliseconds(at), b"a", value, headers)


def projector(pool: Pool) -> Projector:
    return Projector(pool, toy.SCHEMAS, toy.Toy(), skips=toy.skips())


async def project(pool: Pool, *records: Record) -> None:
    await projector(pool).process(toy.AMOUNTS, 0, records)


async def states(pool: Pool, now: datetime = NOON) -> dict[str, SourceState]:
    return {each.source: each for each in await source_states(pool, now, None)}


async def rows(pool: Pool) -> Sequence[tuple[object, ...]]:
    found = await pool.fetch(
        "SELECT hour, source, delay_bin, events FROM event_source_hour UNION ALL"
        " SELECT NULL, source, NULL, last_append_ms FROM event_source ORDER BY 1, 2, 3"
    )
    return [tuple(row) for row in found]


async def test_a_source_tells_when_it_was_last_seen_how_much_it_sent_and_how_late(pool: Pool) -> None:
    delays = (10, 1_000, 1_000, 1_000, 90_000)
    late = [record(number, delay_ms=delay) for number, delay in enumerate(delays)]
    poison = record(5, at=NOON + timedelta(minutes=1), value=b"?")
    other = record(6, "urn:b", at=NOON - timedelta(hours=23))
    await project(pool, *late, poison, other)
    found = await states(pool)
    first = found["urn:a"]
    assert (first.last_event_at, first.events_last_day, first.parked) == (NOON + timedelta(minutes=1), 6, 1)
    assert first.median_delay is not None
    assert timedelta(seconds=0.8) <= first.median_delay <= timedelta(seconds=1.2)
    assert found["urn:b"] == SourceState("urn:b", NOON - timedelta(hours=23), 1, timedelta(0), 0)
    assert (await states(pool, NOON + timedelta(hours=1)))["urn:b"].events_last_day == 0
    (alone,) = await source_states(pool, NOON, ["urn:b", "urn:never"])
    assert alone.source == "urn:b"


@pytest.mark.parametrize("seed", range(5))
async def test_the_batches_that_records_come_in_change_nothing(pool: Pool, seed: int) -> None:
    log = noted(random.Random(seed))
    rng = random.Random(seed)
    left = log
    while left:
        size = rng.choice((1, 2, 7, 40))
        await project(pool, *left[:size])
        left = left[size:]
    in_batches = await rows(pool)
    await pool.execute("TRUNCATE event_source, event_source_hour, tally, applied, parked, position")
    await project(pool, *log)
    assert await rows(pool) == in_batches


def noted(rng: random.Random) -> list[Record]:
    """Return records of some sources whose broker's clock now and then goes back, or far ahead."""
    at, log = NOON, []
    for offset in range(120):
        at += timedelta(minutes=rng.choice((1, 1, 20, 90, 4_000, -30, -3_000)))
        log.append(record(offset, f"urn:{rng.randrange(6)}", at=at, value=rng.choice((b"1", b"1", b"?"))))
    return log


async def test_what_operators_do_changes_nothing(pool: Pool) -> None:
    log = [record(0), record(1, value=b"?"), record(2, value=b"?"), record(3)]
    await project(pool, *log)
    before = await rows(pool)
    assert (await states(pool))["urn:a"].parked == 2
    mended = parking(pool, toy.Toy(mended=True))
    await mended.skip(Skip(*log[2][:3], "r", "t-1", "op"), "cli")
    assert (await states(pool))["urn:a"].parked == 1
    await mended.retry(toy.AMOUNTS, 0)
    assert await rows(pool) == before


async def test_only_the_last_day_of_a_partition_is_kept_by_the_hour(pool: Pool) -> None:
    for offset in range(60):
        await project(pool, record(offset, at=NOON + timedelta(hours=offset)))
    assert await pool.fetchval("SELECT count(*) FROM event_source_hour") == 24
    assert (await states(pool, NOON + timedelta(hours=59)))["urn:a"].events_last_day == 24


async def test_no_producer_fills_the_disk_with_sources(pool: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(event_sources, "MOST_SOURCES", 3)
    await project(pool, *(record(offset, f"urn:{offset}") for offset in (0, 1)))
    await project(pool, *(record(offset, f"urn:{offset}") for offset in (2, 3, 4)), record(5, "urn:0"))
    await project(pool, record(6, "urn:9"), record(7, "urn:2"))
    found = await states(pool)
    assert {source: each.events_last_day for source, each in found.items()} == {
        "urn:0": 2,
        "urn:1": 1,
        "urn:2": 2,
    }
