"""What was read of each source of events: when last, how many in the last day, and how late they come.

The projector counts every record that its position passes, applied, parked or skipped. So what is counted
follows from the log alone, whatever batches it was read in and whatever operators did. A record counts for
the source that its envelope names; one that names none, or no printable name, counts for none.
"""

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from operator import itemgetter
from typing import Any, Final, NamedTuple

from tokenomics_chassis.postgres import Connection, Pool
from tokenomics_chassis.records import Record
from tokenomics_contracts.cloudevents import EventRejected, decode
from tokenomics_contracts.units import is_event_name

MOST_SOURCES: Final = 1_000
"""Of each partition, those that came first; others aren't counted, so that no producer can fill the disk."""

HOURS: Final = 24
"""So many hours are looked back, the one that has begun among them."""

_HOUR_MS: Final = 3_600_000
_MILLISECOND: Final = timedelta(milliseconds=1)
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_APPENDED = itemgetter(1)

_UNKNOWN: Final = -1
"""Bin of events whose own time can't be read."""

_SEEN = """
SELECT source, max(last_append_ms) FROM event_source WHERE $1::text[] IS NULL OR source = ANY($1)
GROUP BY source ORDER BY source COLLATE "C"
"""
_COUNTED = """
SELECT source, delay_bin, sum(events)::bigint FROM event_source_hour
WHERE hour > $2 AND ($1::text[] IS NULL OR source = ANY($1))
GROUP BY source, delay_bin
"""
_PARKED = """
SELECT source, count(*) FROM (
    SELECT header_values[array_position(header_names, 'ce_source'::bytea)] AS source FROM parked
) AS named
WHERE source IS NOT NULL GROUP BY source
"""
_PARKED_WITHOUT_HEADER = """
SELECT header_names, header_values, value FROM parked
WHERE array_position(header_names, 'ce_source'::bytea) IS NULL
ORDER BY parked_at DESC LIMIT 10000
"""

_KNOWN = "SELECT source FROM event_source WHERE source_id = $1"
_FORGET = "DELETE FROM event_source_hour WHERE source_id = $1 AND hour <= $2"

METER = """
seen AS (
    INSERT INTO event_source (source_id, source, last_append_ms)
    SELECT $1, source, last_append_ms FROM unnest($7::text[], $8::bigint[]) AS read (source, last_append_ms)
    ON CONFLICT (source_id, source) DO UPDATE
    SET last_append_ms = greatest(event_source.last_append_ms, excluded.last_append_ms)
    RETURNING xmax = 0 AS is_new
), counted AS (
    INSERT INTO event_source_hour (source_id, source, hour, delay_bin, events)
    SELECT $1, source, hour, delay_bin, events
    FROM unnest($9::text[], $10::int[], $11::smallint[], $12::bigint[])
        AS read (source, hour, delay_bin, events)
    ON CONFLICT (source_id, hour, source, delay_bin) DO UPDATE
    SET events = event_source_hour.events + excluded.events
)
"""
"""Parts of a statement that has the position's ``source_id`` as its first argument and :class:`Metered` from
the seventh on; ``seen`` tells which sources are new."""


class SourceState(NamedTuple):
    """What is known of a source of events."""

    source: str
    last_event_at: datetime
    """Append time of its newest event."""
    events_last_day: int
    """Of the hour that has begun, by the clock, and the 23 before."""
    median_delay: timedelta | None
    """Of these between their own time and their append time, to a fifth; ``None``: there are none."""
    parked: int
    """Of its events, now."""


class Metered(NamedTuple):
    """What is to be written of a batch, as :data:`METER` takes it."""

    sources: Sequence[str]
    last_append_ms: Sequence[int]
    counted_sources: Sequence[str]
    hours: Sequence[int]
    delay_bins: Sequence[int]
    events: Sequence[int]


async def meter(connection: Connection, position: Mapping[str, Any], records: Sequence[Record]) -> Metered:
    """Count the records that a position passes, and forget hours that are long past.

    Parameters
    ----------
    position
        The row: its ``source_id``, ``newest_hour`` and ``event_sources``.
    """
    newest_hour = newest_hour_of(position, records)
    if newest_hour > position["newest_hour"]:
        await connection.execute(_FORGET, position["source_id"], newest_hour - HOURS)
    newest, counts = count(records)
    if position["event_sources"] + len(newest) > MOST_SOURCES:
        rows = await connection.fetch(_KNOWN, position["source_id"])
        known = {row["source"] for row in rows}
        new = [source for source in newest if source not in known]
        for source in new[max(0, MOST_SOURCES - len(known)) :]:
            del newest[source]
    kept = {
        key: events for key, events in counts.items() if key[0] in newest and key[1] > newest_hour - HOURS
    }
    return Metered(
        list(newest),
        list(newest.values()),
        [source for source, _, _ in kept],
        [hour for _, hour, _ in kept],
        [which for _, _, which in kept],
        list(kept.values()),
    )


def newest_hour_of(position: Mapping[str, Any], records: Sequence[Record]) -> int:
    """Return the latest hour in which a record was appended, these included; a clock may have gone back."""
    before: int = position["newest_hour"]
    return max(before, max(record.append_ms for record in records) // _HOUR_MS)


def count(records: Sequence[Record]) -> tuple[dict[str, int], Counter[tuple[str, int, int]]]:
    """Count records by source.

    Returns
    -------
    tuple
        The newest append time by source, in the order in which they came; events by source, hour and bin.
    """
    counted: list[tuple[str, int, int]] = []
    appended: list[tuple[str, int]] = []
    for record in records:
        headers, append_ms = record.headers, record.append_ms
        try:
            # Where our producers write them: to look through all headers costs twice as much as all the rest.
            (source_header, source_bytes), (time_header, time) = headers[2], headers[4]
            if source_header != "ce_source" or time_header != "ce_time":
                raise LookupError  # noqa: TRY301 - the same way on as with too few headers
            source = _name(source_bytes)
            which = delay_bin(append_ms - _milliseconds(time))
        except (LookupError, AttributeError, ValueError, TypeError):
            source, which = _found(record)
        if source is not None:
            counted.append((source, append_ms // _HOUR_MS, which))
            appended.append((source, append_ms))
    newest = dict.fromkeys([source for source, _ in appended], 0)
    newest.update(sorted(appended, key=_APPENDED))
    return newest, Counter(counted)


def delay_bin(delay_ms: int) -> int:
    """Return the bin of a delay: each reaches from about seven tenths of its upper border; 0 is no delay."""
    return (delay_ms * delay_ms).bit_length() if delay_ms > 0 else 0


def delay_of_bin(which: int) -> timedelta:
    """Return the delay in the middle of a bin."""
    return timedelta(milliseconds=round(2 ** ((2 * which - 1) / 4)) if which else 0)


def median_bin(events_by_bin: Mapping[int, int]) -> int | None:
    """Return the bin of the middle event of those whose delay is known; ``None``: there is none."""
    known = {which: events for which, events in events_by_bin.items() if which != _UNKNOWN}
    half, below = sum(known.values()) / 2, 0
    for which in sorted(known):
        below += known[which]
        if below >= half:
            return which
    return None


@lru_cache(4_096)
def _name(source: bytes) -> str | None:
    text = source.decode()
    return text if is_event_name(text) else None


def _milliseconds(time: bytes | None) -> int:
    moment = datetime.fromisoformat(time.decode())  # type: ignore[union-attr] # None is caught as no time
    return (moment - _EPOCH) // _MILLISECOND


def _found(record: Record) -> tuple[str | None, int]:
    """Find source and bin in a record that is unlike those of our producers, or bad."""
    attributes = dict(record.headers)
    try:
        named = attributes["ce_source"]
        source = None if named is None else _name(named)
    except KeyError:
        return _in_envelope(record)
    except UnicodeDecodeError:
        return None, _UNKNOWN
    try:
        return source, delay_bin(record.append_ms - _milliseconds(attributes["ce_time"]))
    except (LookupError, AttributeError, ValueError, TypeError):
        return source, _UNKNOWN


def _in_envelope(record: Record) -> tuple[str | None, int]:
    try:
        envelope = decode(record.headers, record.value)
    except EventRejected:
        return None, _UNKNOWN
    return envelope.source, delay_bin(record.append_ms - (envelope.time - _EPOCH) // _MILLISECOND)


async def last_seen(connection: Connection | Pool, sources: Iterable[str] | None) -> dict[str, datetime]:
    """Read when the newest event of each source ever seen was appended, by name; ``None``: of all sources."""
    rows = await connection.fetch(_SEEN, None if sources is None else list(sources))
    return {source: _EPOCH + last_append_ms * _MILLISECOND for source, last_append_ms in rows}


async def source_states(
    connection: Connection | Pool, now: datetime, sources: Collection[str] | None
) -> list[SourceState]:
    """Read what is known of sources, in the order of their names; ``None``: of all."""
    wanted = None if sources is None else list(sources)
    since = (now - _EPOCH) // timedelta(hours=1) - HOURS
    seen = await last_seen(connection, wanted)
    by_bin: dict[str, dict[int, int]] = {}
    for source, which, events in await connection.fetch(_COUNTED, wanted, since):
        by_bin.setdefault(source, {})[which] = events
    parked = await _parked(connection)
    return [
        SourceState(
            source,
            last_event_at,
            sum(by_bin.get(source, {}).values()),
            None if (middle := median_bin(by_bin.get(source, {}))) is None else delay_of_bin(middle),
            parked[source],
        )
        for source, last_event_at in seen.items()
    ]


async def _parked(connection: Connection | Pool) -> Counter[str]:
    found = Counter[str]()
    for source, events in await connection.fetch(_PARKED):
        with suppress(UnicodeDecodeError):
            if (name := _name(source)) is not None:
                found[name] += events
    for row in await connection.fetch(_PARKED_WITHOUT_HEADER):
        headers = [
            (name.decode(errors="replace"), value)
            for name, value in zip(row["header_names"], row["header_values"], strict=True)
        ]
        with suppress(EventRejected):
            found[decode(headers, row["value"]).source] += 1
    return found
