"""Parked records: what a projection could not apply, kept with its bytes until it is retried or skipped."""

import logging
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from operator import itemgetter
from typing import Any, NamedTuple

import asyncpg

from tokenomics_chassis import outbox
from tokenomics_chassis.audit import AuditTrail, Entry
from tokenomics_chassis.dependencies import is_about_data
from tokenomics_chassis.log_reader import ReadRecords
from tokenomics_chassis.outbox import OutboxEvent
from tokenomics_chassis.postgres import Connection, Pool, Schemas
from tokenomics_chassis.projection import Batch, Outcome, Projection, Rejected, Source, by_topic
from tokenomics_chassis.records import Record, SourceId
from tokenomics_chassis.resolving import Resolve, in_transaction_with_log, no_log
from tokenomics_contracts.rejection import EventRejected, RejectionCode

log = logging.getLogger(__name__)

MAX_MESSAGE_CHARACTERS = 500
RETRY_LIMIT = 1000
"""Parked records one retry looks at in its transaction."""

_UNIQUENESS_ATTEMPTS = 3
_ODD_BYTES = "surrogateescape"  # as they are read, so they are kept: see lenient_records

_PARK = """
INSERT INTO parked (topic, partition, record_offset, append_ms, key, value, header_names, header_values,
                    error_code, error_message)
SELECT $1, $2, $3, $4, $5, $6, $7, $8, $9, $10
WHERE NOT EXISTS (SELECT FROM skipped WHERE topic = $1 AND partition = $2 AND record_offset = $3)
ON CONFLICT DO NOTHING
"""
_CLEAR = "DELETE FROM parked WHERE topic = $1 AND partition = $2 AND record_offset = $3"
_LIST = """
SELECT * FROM parked
WHERE ($1::text IS NULL OR topic = $1)
  AND ($2::text IS NULL OR error_code = $2)
  AND ($3::text IS NULL OR (topic, partition, record_offset) > ($3, $4, $5))
ORDER BY topic, partition, record_offset LIMIT $6
"""
_CHOSEN = """
SELECT * FROM parked
WHERE topic = $1 AND partition = $2 AND ($3::bigint[] IS NULL OR record_offset = ANY($3))
ORDER BY record_offset LIMIT $4
"""
_SAME_KEYS = """
SELECT * FROM parked WHERE topic = $1 AND partition = $2 AND key = ANY($3) ORDER BY record_offset
"""
_FAILED_AGAIN = """
UPDATE parked SET attempts = attempts + 1, error_code = $4, error_message = $5
WHERE topic = $1 AND partition = $2 AND record_offset = $3
"""
_UNPARK = """
WITH unparked AS (
    DELETE FROM parked WHERE topic = $1 AND partition = $2 AND record_offset = $3
    RETURNING topic, partition
), mended AS (
    UPDATE position SET parked_in_a_row = 0 FROM unparked
    WHERE position.topic = unparked.topic AND position.partition = unparked.partition AND parked_in_a_row > 0
)
SELECT true FROM unparked
"""
_LOCK = "SELECT source_id, change_seq FROM position WHERE topic = $1 AND partition = $2 FOR UPDATE"
_CHANGED = """
WITH changed AS (UPDATE position SET change_seq = $2 WHERE source_id = $1) SELECT pg_notify($3, '')
"""
_SKIP = """
INSERT INTO skipped (topic, partition, record_offset, reason_code, ticket_id) VALUES ($1, $2, $3, $4, $5)
ON CONFLICT DO NOTHING
"""
# Of each key the first that blocks, where this is one that waits for another: there is none any more.
_LEFT_BEHIND = """
SELECT topic, partition, array_agg(record_offset) AS offsets
FROM (
    SELECT DISTINCT ON (topic, partition, key) topic, partition, record_offset, error_code
    FROM parked
    WHERE topic = ANY($1::text[]) AND key IS NOT NULL AND error_code <> ALL($2::text[])
    ORDER BY topic, partition, key, record_offset
) AS first_blocking
WHERE error_code = $3 GROUP BY topic, partition ORDER BY topic, partition
"""


class NotParkedError(Exception):
    """No record is parked at these coordinates (any more)."""

    def __init__(self, topic: str, partition: int, offset: int) -> None:
        super().__init__(f"no record is parked at {topic}/{partition}@{offset}")


class Skip(NamedTuple):
    """An operator's decision that a parked record shall never be applied; it holds in every replay."""

    topic: str
    partition: int
    offset: int
    reason_code: str
    ticket_id: str
    decided_by: str


@dataclass(frozen=True, slots=True)
class ParkedRecord:
    """A parked record and why it is parked."""

    record: Record
    error_code: str
    error_message: str
    attempts: int
    """How often it was tried, the first time included."""
    parked_at: datetime


@dataclass(frozen=True, slots=True)
class Retried:
    """What became of one parked record in a retry."""

    topic: str
    partition: int
    offset: int
    error_code: str | None
    """``None``: applied and no longer parked."""
    error_message: str | None


async def park(connection: Connection, outcome: Outcome) -> None:
    """Keep rejected records inside the caller's transaction, and let go of those that are cleared.

    What is parked already stays as it is, and what was skipped is parked no more. Cleared ones may belong to
    partitions that the caller hasn't locked: so nothing but their rows is touched.
    """
    if outcome.rejected:
        await connection.executemany(_PARK, [_row(each) for each in outcome.rejected])
    if outcome.cleared:
        await connection.executemany(_CLEAR, outcome.cleared)


async def apply_in_isolation(connection: Connection, projection: Projection, batch: Batch) -> Outcome:
    """Apply a batch inside the open transaction so that an unexpected error costs only its culprit.

    The batch runs in a savepoint; when it fails it is halved until the failing records stand alone, and those
    are rejected as ``internal_error``. A dependency's own errors (lost connection, deadlock) are raised.
    """
    for attempt in range(1, _UNIQUENESS_ATTEMPTS + 1):
        try:
            async with connection.transaction():
                return await projection.apply(connection, batch)
        except asyncpg.UniqueViolationError as error:
            # A lost race, unless it persists: the next savepoint sees the winner's row.
            if attempt == _UNIQUENESS_ATTEMPTS:
                failure: Exception = error
        except Exception as error:
            if not is_about_data(error):
                raise
            failure = error
            break
    if len(batch.records) == 1:
        record = batch.records[0]
        log.error(
            "a record could not be applied for an unexpected reason",
            exc_info=failure,
            extra={"topic": record.topic, "partition": record.partition, "record_offset": record.offset},
        )
        message = f"{type(failure).__name__}: {next(iter(failure.args), '')}"
        rejected = Rejected(record, RejectionCode.INTERNAL_ERROR, message)
        return Outcome([rejected], changed=False)
    middle = len(batch.records) // 2
    first = await apply_in_isolation(connection, projection, Batch(batch.source, batch.records[:middle]))
    second = await apply_in_isolation(connection, projection, Batch(batch.source, batch.records[middle:]))
    return first.then(second)


class Parking:
    """What operators do with parked records."""

    def __init__(
        self,
        pool: Pool,
        schemas: Schemas,
        projection: Projection,
        skipped_event: Callable[[Skip], OutboxEvent],
        read_records: ReadRecords = no_log,
        *,
        trail: AuditTrail,
        skips: "Skips | None" = None,
    ) -> None:
        """Wire it.

        Parameters
        ----------
        skipped_event
            Makes the ``parked.skipped`` event for the service's own topic. Its id must depend on the skip's
            place alone; its bytes are fixed once, by the outbox row of the skip that was the first.
        read_records, skips
            See :class:`~tokenomics_chassis.projector.Projector`.
        """
        self._pool = pool
        self._schemas = schemas
        self._projection = projection
        self._by_topic = by_topic(projection, *([skips] if skips else []))
        self._skipped_event = skipped_event
        self._trail = trail
        self._read_records = read_records

    async def list(
        self,
        topic: str | None = None,
        error_code: str | None = None,
        *,
        after: tuple[str, int, int] | None = None,
        limit: int = 100,
    ) -> Sequence[ParkedRecord]:
        """Read a page of parked records in (topic, partition, offset) order.

        ``after`` is the (topic, partition, offset) the previous page ended with.
        """
        rows = await self._pool.fetch(_LIST, topic, error_code, *(after or (None, None, None)), limit)
        return [_parked_record(row) for row in rows]

    async def retry(
        self, topic: str, partition: int, offsets: Collection[int] | None = None
    ) -> Sequence[Retried]:
        """Try parked records of a partition again, in offset order, in one transaction.

        Where order per key matters, a record is tried only when nothing of its key blocks it: all that is
        parked before it was understood. One that blocks no longer takes the records queued behind it along,
        in order, until one blocks again. Each try counts as an attempt. Bytes are never edited: what is
        mended is the reader or a policy.

        Parameters
        ----------
        offsets
            Those to try; all of the partition when absent, at most :data:`RETRY_LIMIT` a call. Offsets that
            aren't parked (any more) are passed over, so a repeated call does no harm.
        """

        async def work(connection: Connection, resolve: Resolve) -> Sequence[Retried]:
            projection = resolve(self._by_topic[topic])
            retried = await _retry(connection, self._schemas, projection, topic, partition, offsets=offsets)
            return [*retried, *await release(connection, self._schemas, resolve(self._projection))]

        return await in_transaction_with_log(self._pool, self._read_records, work)

    async def skip(self, skip: Skip, through: str) -> Sequence[Retried]:
        """Give a parked record up for good and retry what was queued behind it.

        One transaction removes the parked row, remembers the skip, writes its event to the outbox, releases
        what waited, and records in the audit trail who decided it, through which workload.

        Raises
        ------
        NotParkedError
            Nothing is parked there; a repeated skip ends here too.
        AuditClosedError
            It can't be recorded now.
        """

        async def work(connection: Connection, resolve: Resolve) -> Sequence[Retried]:
            await _lock(connection, skip.topic, skip.partition)
            if not await connection.fetchval(_UNPARK, skip.topic, skip.partition, skip.offset):
                raise NotParkedError(skip.topic, skip.partition, skip.offset)
            await remember_skip(connection, skip)
            event = self._skipped_event(skip)
            place = f"{skip.topic}/{skip.partition}/{skip.offset}"
            await outbox.append(connection, f"parked/{place}", 1, **event._asdict())
            released = await release(connection, self._schemas, resolve(self._projection))
            entry = Entry(skip.decided_by, through, "parked.skipped", place, skip.reason_code, skip.ticket_id)
            await self._trail.append(connection, [entry])
            return released

        return await in_transaction_with_log(self._pool, self._read_records, work)


class Skips:
    """Projects the ``parked.skipped`` events of a service's own topic: a skip holds in every replay."""

    name = "skips"
    ordered_topics: frozenset[str] = frozenset()

    def __init__(
        self, own_topic: str, decode: Callable[[Record], Skip | None], others: Projection | None = None
    ) -> None:
        """Wire it.

        Parameters
        ----------
        decode
            Answers ``None`` for an event that is no skip. For a damaged one it raises ``EventRejected``: the
            record is parked.
        others
            Is given the events of the own topic that are no skips; it keeps no order per key.
        """
        self.topics = frozenset({own_topic})
        self.understood_codes = others.understood_codes if others else frozenset[str]()
        self._decode = decode
        self._others = others

    async def apply(self, connection: Connection, batch: Batch) -> Outcome:
        """Remember each skip and drop what is parked there; :func:`release` must follow."""
        skips: list[Skip] = []
        others: list[Record] = []
        rejected: list[Rejected] = []
        for record in batch.records:
            try:
                skip = self._decode(record)
            except EventRejected as rejection:
                rejected.append(Rejected(record, rejection.code, rejection.message))
            else:
                if skip is None:
                    others.append(record)
                else:
                    skips.append(skip)
        for skip in sorted(skips):
            # In this order everywhere: a projector working on that partition sees the skip or waits for it.
            await _lock(connection, skip.topic, skip.partition)
            await remember_skip(connection, skip)
            await connection.execute(_UNPARK, skip.topic, skip.partition, skip.offset)
        if self._others is None or not others:
            return Outcome(rejected, changed=False)
        outcome = await self._others.apply(connection, Batch(batch.source, others))
        return replace(outcome, rejected=[*rejected, *outcome.rejected])


async def release(connection: Connection, schemas: Schemas, projection: Projection) -> Sequence[Retried]:
    """Retry in the open transaction, in order, what waits behind records that are parked no longer."""
    topics, understood = list(projection.ordered_topics), list(projection.understood_codes)
    left_behind = await connection.fetch(_LEFT_BEHIND, topics, understood, RejectionCode.BEHIND_PARKED)
    return [
        retried
        for topic, partition, offsets in left_behind
        for retried in await _retry(connection, schemas, projection, topic, partition, offsets=offsets)
    ]


async def _retry(
    connection: Connection,
    schemas: Schemas,
    projection: Projection,
    topic: str,
    partition: int,
    *,
    offsets: Collection[int] | None,
) -> Sequence[Retried]:
    source = await _lock(connection, topic, partition)
    if source is None:
        return []
    chosen = await connection.fetch(_CHOSEN, topic, partition, offsets and list(offsets), RETRY_LIMIT)
    wanted = {row["record_offset"] for row in chosen}
    ordered = topic in projection.ordered_topics
    rows = chosen
    if ordered:
        keys = {row["key"] for row in chosen} - {None}
        keyless = [row for row in chosen if row["key"] is None]
        same_keys = await connection.fetch(_SAME_KEYS, topic, partition, list(keys))
        rows = sorted([*keyless, *same_keys], key=itemgetter("record_offset"))
    freed: set[bytes | None] = set()
    blocked: set[bytes | None] = set()
    retried: list[Retried] = []
    changed = False
    for row in rows:
        offset, code, key = row["record_offset"], row["error_code"], row["key"] if ordered else None
        if key not in blocked and (offset in wanted or key in freed):
            outcome, error = await _try(connection, projection, source, _record(row))
            changed = changed or outcome.changed
            code, message = (error.code, _message(error.message)) if error else (None, None)
            retried.append(Retried(topic, partition, offset, code, message))
            freed.add(key)
        if key is not None and code not in {None, *projection.understood_codes}:
            blocked.add(key)
    if changed:
        await connection.execute(_CHANGED, source.source_id, source.change_seq, schemas.changed_channel)
    return retried


async def _try(
    connection: Connection, projection: Projection, source: Source, record: Record
) -> tuple[Outcome, Rejected | None]:
    outcome = await apply_in_isolation(connection, projection, Batch(source, [record]))
    coordinates = record[:3]
    error = next((each for each in outcome.rejected if each.record[:3] == coordinates), None)
    if error is None:
        await connection.execute(_UNPARK, *coordinates)
    else:
        await connection.execute(_FAILED_AGAIN, *coordinates, error.code, _message(error.message))
    await park(
        connection, replace(outcome, rejected=[each for each in outcome.rejected if each is not error])
    )
    return outcome, error


async def remember_skip(connection: Connection, skip: Skip) -> None:
    """Make the projector pass over this record from now on; once is enough."""
    await connection.execute(_SKIP, skip.topic, skip.partition, skip.offset, skip.reason_code, skip.ticket_id)


async def _lock(connection: Connection, topic: str, partition: int) -> Source | None:
    row = await connection.fetchrow(_LOCK, topic, partition)
    return row and Source(SourceId(row["source_id"]), topic, partition, row["change_seq"] + 1)


def _row(rejected: Rejected) -> tuple[Any, ...]:
    record = rejected.record
    names = [name.encode(errors=_ODD_BYTES) for name, _ in record.headers]
    values = [value for _, value in record.headers]
    return (*record[:6], names, values, rejected.code, _message(rejected.message))


def _message(text: str) -> str:
    return text[:MAX_MESSAGE_CHARACTERS].replace("\0", "\\0").encode(errors="replace").decode()


def _record(row: asyncpg.Record) -> Record:
    headers = tuple(
        (name.decode(errors=_ODD_BYTES), value)
        for name, value in zip(row["header_names"], row["header_values"], strict=True)
    )
    return Record(
        row["topic"],
        row["partition"],
        row["record_offset"],
        row["append_ms"],
        row["key"],
        row["value"],
        headers,
    )


def _parked_record(row: asyncpg.Record) -> ParkedRecord:
    return ParkedRecord(
        _record(row), row["error_code"], row["error_message"], row["attempts"], row["parked_at"]
    )
