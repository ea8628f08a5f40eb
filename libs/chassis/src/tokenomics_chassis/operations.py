"""What operators see and do: positions with their lag, parked records, retries and skips."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import groupby
from typing import Protocol

from tokenomics_chassis.parking import RETRY_LIMIT, NotParkedError, ParkedRecord, Parking, Skip
from tokenomics_chassis.postgres import Pool
from tokenomics_chassis.records import Place, Record
from tokenomics_chassis.rpc.errors import UnavailableError
from tokenomics_chassis.topics import end_offsets_if_known

_SCAN = 10
"""Records read at a time; each may be as large as the broker takes."""
_PAGE_BYTES = 2 * 1024 * 1024
_HEADER_BYTES = 8  # what a header costs in an answer beside its content
_POSITIONS = """
SELECT topic, partition, next_offset, as_of, coalesce(parked_records, 0) AS parked_records
FROM position
LEFT JOIN (SELECT topic, partition, count(*) AS parked_records FROM parked GROUP BY 1, 2) AS parked
    USING (topic, partition)
WHERE $1::text[] IS NULL OR topic = ANY($1)
ORDER BY topic, partition
"""
# The least tried first: where a call ends before all have had their turn, the next begins with the others.
_PLACES = """
SELECT topic, partition, record_offset FROM parked
WHERE $1::text IS NULL OR error_code = $1
ORDER BY attempts, topic, partition, record_offset
"""
_IS_SKIPPED = """
SELECT EXISTS (SELECT FROM skipped WHERE topic = $1 AND partition = $2 AND record_offset = $3)
"""
_IS_PASSED = """
SELECT EXISTS (SELECT FROM position WHERE topic = $1 AND partition = $2 AND next_offset > $3)
"""


@dataclass(frozen=True, slots=True)
class Position:
    """How far a topic-partition is applied."""

    topic: str
    partition: int
    next_offset: int
    end_offset: int | None
    """``None`` when the broker can't be asked."""
    as_of: datetime | None
    """Append time of the last record applied."""
    parked_records: int


@dataclass(frozen=True, slots=True)
class ParkedPage:
    """A part of the parked records."""

    records: Sequence[ParkedRecord]
    after: Place | None
    """What the next page begins behind; ``None`` when this was the last."""


@dataclass(frozen=True, slots=True)
class RetryResult:
    """What a retry came to, in records."""

    applied: int
    still_parked: int
    """Failed again, or queued behind one that did."""


class AlreadyAppliedError(Exception):
    """The record was applied: there is nothing left to skip."""

    def __init__(self, topic: str, partition: int, offset: int) -> None:
        super().__init__(f"the record at {topic}/{partition}@{offset} was applied")


class OperationsBackend(Protocol):
    """What the OperationsService of any service stands on."""

    @property
    def derived_version(self) -> int:
        """Version of the derived state that positions belong to."""
        ...

    async def positions(self, topics: Collection[str]) -> Sequence[Position]:
        """Read positions by topic and partition; of all topics when none is named."""
        ...

    async def list_parked(
        self, topic: str | None, error_code: str | None, after: Place | None, limit: int
    ) -> ParkedPage:
        """Read parked records in place order, beginning behind ``after``; pages are cut at some MiB, too."""
        ...

    async def retry(self, error_code: str | None) -> RetryResult:
        """Try everything that is parked again, or what is parked with this error code."""
        ...

    async def retry_at(self, places: Collection[Place]) -> RetryResult:
        """Try the records at these places again; a place where nothing is parked is passed over."""
        ...

    async def skip(self, skip: Skip, through: str) -> str:
        """Give a record up for good and return the id of the event that says so; a repeat changes nothing.

        ``through`` is the workload through which it was decided.

        Raises
        ------
        NotParkedError
            Nothing is parked there.
        AlreadyAppliedError
            It was applied meanwhile.
        """
        ...


class Operations:
    """The backend on PostgreSQL and Kafka."""

    def __init__(
        self,
        pool: Pool,
        parking: Parking,
        *,
        derived_version: int,
        bootstrap: str,
        skip_event_id: Callable[[Skip], str],
    ) -> None:
        """Wire it; ``skip_event_id`` names the event that ``parking`` writes for a skip."""
        self.derived_version = derived_version
        self._pool = pool
        self._parking = parking
        self._bootstrap = bootstrap
        self._skip_event_id = skip_event_id

    async def positions(self, topics: Collection[str]) -> Sequence[Position]:
        """See :meth:`OperationsBackend.positions`; end offsets are read after the positions."""
        rows = await self._pool.fetch(_POSITIONS, list(topics) or None)
        ends = await end_offsets_if_known(self._bootstrap, {row["topic"] for row in rows}) or {}
        return [
            Position(
                row["topic"],
                row["partition"],
                row["next_offset"],
                ends.get((row["topic"], row["partition"])),
                row["as_of"],
                row["parked_records"],
            )
            for row in rows
        ]

    async def list_parked(
        self, topic: str | None, error_code: str | None, after: Place | None, limit: int
    ) -> ParkedPage:
        """See :meth:`OperationsBackend.list_parked`."""
        found: list[ParkedRecord] = []
        room_bytes = _PAGE_BYTES
        while True:
            scanned = await self._parking.list(topic, error_code, after=after, limit=_SCAN)
            for parked in scanned:
                room_bytes -= _bytes_of(parked.record)
                if found and (room_bytes < 0 or len(found) == limit):
                    return ParkedPage(found, _place(found[-1]))
                found.append(parked)
            if len(scanned) < _SCAN:
                return ParkedPage(found, None)
            after = _place(scanned[-1])

    async def retry(self, error_code: str | None) -> RetryResult:
        """See :meth:`OperationsBackend.retry`; up to :data:`RETRY_LIMIT` records share a transaction."""
        return await self._retry(await self._parked_places(error_code))

    async def retry_at(self, places: Collection[Place]) -> RetryResult:
        """See :meth:`OperationsBackend.retry_at`."""
        chosen = set(places)
        return await self._retry([place for place in await self._parked_places(None) if place in chosen])

    async def skip(self, skip: Skip, through: str) -> str:
        """See :meth:`OperationsBackend.skip`."""
        try:
            await self._parking.skip(skip, through)
        except NotParkedError:
            where = (skip.topic, skip.partition, skip.offset)
            if not await self._pool.fetchval(_IS_SKIPPED, *where):
                is_passed = await self._pool.fetchval(_IS_PASSED, *where)
                raise AlreadyAppliedError(*where) if is_passed else NotParkedError(*where) from None
        return self._skip_event_id(skip)

    async def _parked_places(self, error_code: str | None) -> Sequence[Place]:
        return [Place(*row) for row in await self._pool.fetch(_PLACES, error_code)]

    async def _retry(self, places: Sequence[Place]) -> RetryResult:
        applied: set[Place] = set()
        for (topic, partition), group in groupby(places, key=lambda place: place[:2]):
            offsets = [place.offset for place in group]
            for begin in range(0, len(offsets), RETRY_LIMIT):
                retried = await self._parking.retry(topic, partition, offsets[begin : begin + RETRY_LIMIT])
                applied |= {
                    Place(each.topic, each.partition, each.offset) for each in retried if not each.error_code
                }
        return RetryResult(applied=len(applied), still_parked=len(set(places) - applied))


class ServedOperations:
    """The backend of a server that holds several versions of the derived state.

    What is shown and skipped is of the version that answers; the others learn of a skip from its event. A
    retry is no event, so it is made in every version: else a promotion would undo it.
    """

    def __init__(
        self, by_version: Mapping[int, OperationsBackend], serving: Callable[[], int | None]
    ) -> None:
        self._by_version = by_version
        self._serving = serving

    @property
    def derived_version(self) -> int:
        """See :attr:`OperationsBackend.derived_version`."""
        return self._current.derived_version

    async def positions(self, topics: Collection[str]) -> Sequence[Position]:
        """See :meth:`OperationsBackend.positions`."""
        return await self._current.positions(topics)

    async def list_parked(
        self, topic: str | None, error_code: str | None, after: Place | None, limit: int
    ) -> ParkedPage:
        """See :meth:`OperationsBackend.list_parked`."""
        return await self._current.list_parked(topic, error_code, after, limit)

    async def retry(self, error_code: str | None) -> RetryResult:
        """See :meth:`OperationsBackend.retry`."""
        current = self._current
        for other in self._others(current):
            await other.retry(error_code)
        return await current.retry(error_code)

    async def retry_at(self, places: Collection[Place]) -> RetryResult:
        """See :meth:`OperationsBackend.retry_at`."""
        current = self._current
        for other in self._others(current):
            await other.retry_at(places)
        return await current.retry_at(places)

    async def skip(self, skip: Skip, through: str) -> str:
        """See :meth:`OperationsBackend.skip`."""
        return await self._current.skip(skip, through)

    @property
    def _current(self) -> OperationsBackend:
        version = self._serving()
        if version is None or version not in self._by_version:
            raise UnavailableError("no version of the derived state is loaded yet")
        return self._by_version[version]

    def _others(self, current: OperationsBackend) -> Sequence[OperationsBackend]:
        return [each for each in self._by_version.values() if each is not current]


def _bytes_of(record: Record) -> int:
    headers = sum(
        len(name.encode(errors="backslashreplace")) + len(value or b"") + _HEADER_BYTES
        for name, value in record.headers
    )
    return len(record.key or b"") + len(record.value or b"") + headers


def _place(parked: ParkedRecord) -> Place:
    return Place(parked.record.topic, parked.record.partition, parked.record.offset)
