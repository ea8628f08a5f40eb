"""The projector: one transaction per partition batch moves the position together with the effect."""

from bisect import bisect_left
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from operator import attrgetter
from typing import Any

from tokenomics_chassis.changes import read_positions
from tokenomics_chassis.dependencies import is_about_data
from tokenomics_chassis.event_sources import METER, meter, newest_hour_of
from tokenomics_chassis.failpoints import failpoint
from tokenomics_chassis.log_reader import ReadRecords
from tokenomics_chassis.parking import Skips, apply_in_isolation, park, release
from tokenomics_chassis.postgres import Connection, Pool, Schemas, in_transaction
from tokenomics_chassis.process import ExitCode, FatalError
from tokenomics_chassis.projection import Batch, Outcome, Projection, Rejected, Source, by_topic
from tokenomics_chassis.records import Record
from tokenomics_chassis.resolving import Resolve, in_transaction_with_log, no_log
from tokenomics_contracts.rejection import RejectionCode

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_BEFORE_ALL = -1
_QUEUED = "queued behind a parked record of its key"

_LOCK = """
SELECT source_id, next_offset, change_seq, parked_in_a_row, newest_hour, event_sources,
       coalesce(frozen_until > clock_timestamp(), false) AS frozen
FROM position WHERE topic = $1 AND partition = $2 FOR UPDATE
"""
_CREATE = "INSERT INTO position (topic, partition) VALUES ($1, $2) ON CONFLICT DO NOTHING"
_SKIPPED = """
SELECT record_offset FROM skipped WHERE topic = $1 AND partition = $2 AND record_offset BETWEEN $3 AND $4
"""
_BLOCKED_KEYS = """
SELECT DISTINCT key FROM parked
WHERE topic = $1 AND partition = $2 AND key IS NOT NULL AND error_code <> ALL($3::text[])
"""
_ADVANCE = f"""
WITH {METER}, advanced AS (
    UPDATE position
    SET next_offset = $2, change_seq = $3, as_of = $4, parked_in_a_row = $5, newest_hour = $13,
        event_sources = event_sources + (SELECT count(*) FROM seen WHERE is_new)
    WHERE source_id = $1
)
SELECT pg_notify($6, '')
"""  # noqa: S608 - of constants alone
_MOVE_OVER_GAP = """
WITH advanced AS (UPDATE position SET next_offset = $2 WHERE source_id = $1) SELECT pg_notify($3, '')
"""


class PositionBehindError(Exception):
    """The batch starts above the stored position: read again from there (a restored or emptied database)."""

    def __init__(self, topic: str, partition: int, position: int, first_offset: int) -> None:
        super().__init__(
            f"{topic}/{partition}: the stored position is {position}, records start at {first_offset}"
        )
        self.position = position


class FrozenError(Exception):
    """The version stands still while the next one reaches it: the same again in a moment."""


class TooManyParkedError(FatalError):
    """So many records in a row could not be applied that the reader, not the records, must be wrong."""

    def __init__(self, rejected: Rejected, limit: int) -> None:
        record = rejected.record
        super().__init__(
            f"{limit} records in a row could not be applied, the last one {record.topic}/{record.partition}"
            f"@{record.offset} ({rejected.code}: {rejected.message}). The batch was rolled back. Mend the "
            "reader or the policy and start again; retry or skip what is parked already",
            ExitCode.TOO_MANY_PARKED,
        )


class Projector:
    """Feeds a projection, one partition batch a transaction.

    Safe to run for the same partition in any number of processes at once: the position's row lock serialises
    them, and records below the position are dropped.
    """

    def __init__(
        self,
        pool: Pool,
        schemas: Schemas,
        projection: Projection,
        *,
        skips: Skips | None = None,
        read_records: ReadRecords = no_log,
        max_parked_in_a_row: int = 100,
    ) -> None:
        """Wire it.

        Parameters
        ----------
        skips
            Reads the service's own topic beside the projection's topics.
        read_records
            Reads the bytes of ``Outcome.rejected_places``: :func:`~tokenomics_chassis.log_reader.log_reader`.
        max_parked_in_a_row
            Records of one partition, without an applied one between them, that may be parked before the
            projection stops. Those that were understood or queued behind a parked record don't count, and an
            operator's successful retry or skip begins the count anew.
        """
        self._pool = pool
        self._schemas = schemas
        self._read_records = read_records
        self._max_parked_in_a_row = max_parked_in_a_row
        self._projection = projection
        self._by_topic = by_topic(projection, *([skips] if skips else []))

    @property
    def topics(self) -> frozenset[str]:
        """Every topic it projects."""
        return frozenset(self._by_topic)

    async def positions(self) -> Mapping[tuple[str, int], int]:
        """Return the offset to read next of each (topic, partition) of which anything was projected."""
        positions = await read_positions(self._pool)
        return {(each.topic, each.partition): each.next_offset for each in positions}

    async def process(
        self, topic: str, partition: int, records: Sequence[Record], *, nothing_since: int | None = None
    ) -> int:
        """Project records of one partition and return the position then stored. Repeating it is harmless.

        Parameters
        ----------
        records
            At least one, ascending, as read from the log without leaving any out.
        nothing_since
            When given, the caller has looked: the log holds nothing from this offset to the first record.

        Raises
        ------
        PositionBehindError
            The records start above the stored position. Nothing was written.
        FrozenError
            Another version is being promoted. Nothing was written.
        TooManyParkedError
            Nothing was written.
        asyncpg.PostgresError, asyncpg.InterfaceError, KafkaError, OSError
            A dependency's own trouble; nothing was written, or the commit went through unheard: either way
            the same call again is right. A record is never parked for it.
        """
        failpoint("projector.after_read")
        projection = self._by_topic[topic]

        async def work(connection: Connection, resolve: Resolve) -> int:
            row = await _locked(connection, topic, partition)
            position = await self._process(
                connection, resolve(projection), row, records, nothing_since, isolate=isolate
            )
            if projection is not self._projection:  # a skip may have left followers without their head
                await release(connection, self._schemas, resolve(self._projection))
            return position

        isolate = False
        try:
            position = await in_transaction_with_log(self._pool, self._read_records, work)
        except (PositionBehindError, FrozenError, FatalError):
            raise
        except Exception as error:
            if not is_about_data(error):
                raise
            isolate = True
        if isolate:
            position = await in_transaction_with_log(self._pool, self._read_records, work)
        failpoint("projector.after_commit")
        return position

    async def pass_over(self, topic: str, partition: int, *, nothing_since: int, until: int) -> None:
        """Move the stored position over offsets that hold no record: markers of transactions and the like.

        The caller has looked: the log holds nothing from ``nothing_since`` to ``until``. Where the position
        is another than ``nothing_since`` (by now), nothing happens.
        """

        async def work(connection: Connection) -> None:
            row = await _locked(connection, topic, partition)
            if row["next_offset"] == nothing_since and not row["frozen"]:
                await connection.execute(
                    _MOVE_OVER_GAP, row["source_id"], until, self._schemas.changed_channel
                )

        await in_transaction(self._pool, work)

    async def _process(
        self,
        connection: Connection,
        projection: Projection,
        row: Mapping[str, Any],
        records: Sequence[Record],
        nothing_since: int | None,
        *,
        isolate: bool,
    ) -> int:
        topic, partition = records[0][:2]
        if row["frozen"]:
            raise FrozenError
        position: int = row["next_offset"]
        if position < records[0].offset and (nothing_since is None or position < nothing_since):
            raise PositionBehindError(topic, partition, position, records[0].offset)
        fresh = records[bisect_left(records, position, key=attrgetter("offset")) :]
        if not fresh:
            return position
        source = Source(row["source_id"], topic, partition, row["change_seq"] + 1)
        # A statement of its own: the one that waited for the lock saw the tables as they were before.
        skipped = await connection.fetch(_SKIPPED, topic, partition, fresh[0].offset, fresh[-1].offset)
        outcome = Outcome(changed=False)
        if todo := _without(fresh, (each["record_offset"] for each in skipped)):
            outcome = await _apply_all(connection, projection, source, todo, isolate=isolate)
        failpoint("projector.after_apply")
        in_a_row = self._parked_in_a_row(
            row["parked_in_a_row"], todo, outcome.rejected, projection.understood_codes
        )
        await park(connection, outcome)
        await connection.execute(
            _ADVANCE,
            source.source_id,
            fresh[-1].offset + 1,
            row["change_seq"] + outcome.changed,
            _EPOCH + timedelta(milliseconds=fresh[-1].append_ms),
            in_a_row,
            self._schemas.changed_channel,
            *await meter(connection, row, fresh),
            newest_hour_of(row, fresh),
        )
        failpoint("projector.before_commit")
        return fresh[-1].offset + 1

    def _parked_in_a_row(
        self,
        in_a_row: int,
        records: Sequence[Record],
        rejected: Sequence[Rejected],
        understood: Collection[str],
    ) -> int:
        """Count on from the batch before, and stop when there are too many."""
        blameless = {RejectionCode.BEHIND_PARKED, *understood}
        failures = {each.record[:3]: each for each in rejected}
        for record in records:
            failed = failures.get(record[:3])
            if failed is None:
                in_a_row = 0
            elif failed.code not in blameless:
                in_a_row += 1
                if in_a_row >= self._max_parked_in_a_row:
                    raise TooManyParkedError(failed, self._max_parked_in_a_row)
        return in_a_row


async def _locked(connection: Connection, topic: str, partition: int) -> Mapping[str, Any]:
    row: Mapping[str, Any] | None = await connection.fetchrow(_LOCK, topic, partition)
    if row is None:
        await connection.execute(_CREATE, topic, partition)
        row = await connection.fetchrow(_LOCK, topic, partition)
        assert row is not None
    return row


async def _apply_all(
    connection: Connection,
    projection: Projection,
    source: Source,
    records: Sequence[Record],
    *,
    isolate: bool,
) -> Outcome:
    if source.topic in projection.ordered_topics:
        return await _apply_in_order(connection, projection, source, records, isolate=isolate)
    return await _apply(connection, projection, Batch(source, records), isolate=isolate)


async def _apply(connection: Connection, projection: Projection, batch: Batch, *, isolate: bool) -> Outcome:
    if isolate:
        return await apply_in_isolation(connection, projection, batch)
    return await projection.apply(connection, batch)


async def _apply_in_order(
    connection: Connection,
    projection: Projection,
    source: Source,
    records: Sequence[Record],
    *,
    isolate: bool,
) -> Outcome:
    """Apply records so that none of a key is applied after a parked one of that key that wasn't understood.

    A projection learns too late that a record it rejects has followers in the same batch: then the batch is
    undone and applied again without them.
    """
    understood = projection.understood_codes
    rows = await connection.fetch(_BLOCKED_KEYS, source.topic, source.partition, list(understood))
    blocked: dict[bytes, int] = {row["key"]: _BEFORE_ALL for row in rows}
    rejected: list[Rejected] = []
    while True:
        queued = [each for each in records if _is_blocked(each, blocked)]
        rejected += [Rejected(each, RejectionCode.BEHIND_PARKED, _QUEUED) for each in queued]
        records = _without(records, (each.offset for each in queued))
        if not records:
            return Outcome(rejected, changed=False)
        savepoint = connection.transaction()
        await savepoint.start()
        outcome = await _apply(connection, projection, Batch(source, records), isolate=isolate)
        offsets = {each.offset for each in records}
        failed = []
        for each in sorted(outcome.rejected, key=lambda each: each.record.offset):
            record = each.record
            is_ours = record[:2] == (source.topic, source.partition) and record.offset in offsets
            if not is_ours or each.code in understood or _is_blocked(record, blocked):
                continue
            failed.append(each)
            if record.key is not None:
                blocked[record.key] = record.offset
        left = _without(records, (each.record.offset for each in failed))
        if not any(_is_blocked(each, blocked) for each in left):
            await savepoint.commit()
            return replace(outcome, rejected=[*rejected, *outcome.rejected])
        await savepoint.rollback()
        rejected += failed
        records = left


def _is_blocked(record: Record, blocked: Mapping[bytes, int]) -> bool:
    return record.key is not None and blocked.get(record.key, record.offset) < record.offset


def _without(records: Sequence[Record], offsets: Iterable[int]) -> Sequence[Record]:
    excluded = frozenset(offsets)
    return [each for each in records if each.offset not in excluded] if excluded else records
