"""Decision records, written to the outbox a group at a time."""

import asyncio
import logging
import traceback
from collections.abc import Callable, Iterable, Sequence

import asyncpg

from tokenomics_chassis import outbox
from tokenomics_chassis.metrics import DECISIONS_UNRECORDED
from tokenomics_chassis.outbox import OutboxEvent
from tokenomics_chassis.postgres import Backoff, Pool, is_away, wait_for
from tokenomics_contracts.rejection import EventRejected
from tokenomics_quota.domain.checks import Decided

log = logging.getLogger(__name__)

CAPACITY = 10_000
"""Decisions that wait to be written; further checks that need a record wait for room."""

ROOM_SECONDS = 1.0
"""How long they wait; then it is the database that is unavailable."""

GROUP = 250
"""Decisions of one transaction: sending them takes the event loop less than 2 ms."""

SLICE = 100
"""Decisions that are told as events before others get their turn: less than 2 ms."""

LINGER_SECONDS = 0.05
"""How long less than a group waits for others: a transaction for each would cost more than the checks."""

_REFUSALS = (asyncpg.IntegrityConstraintViolationError, asyncpg.DataError)
"""What PostgreSQL says of a record, not of itself."""

_Record = tuple[str, OutboxEvent]
"""Aggregate id and event."""


class OutboxDecisionLog:
    """Implements :class:`tokenomics_quota.ports.DecisionLog` on the outbox.

    A check doesn't wait for the disk: a process that is killed loses the records of its last moments (those
    under way, a tenth of a second of them unless the database is away), never a settled amount. Nor does it
    wait for its record to be told as an event: told together, between checks, records cost a third of what
    they cost one by one in between them.
    """

    def __init__(self, pool: Pool, describe: Callable[[Decided], OutboxEvent]) -> None:
        self._pool = pool
        self._describe = describe
        self._waiting: asyncio.Queue[Decided] = asyncio.Queue(CAPACITY)

    async def add(self, decided: Decided) -> None:
        """Queue a decision. One that can't be recorded is logged and counted later; its check isn't told.

        Raises
        ------
        TimeoutError
            There is no room: the database has not taken records for long. Nothing is queued.
        """
        if self._waiting.full():
            async with asyncio.timeout(ROOM_SECONDS):
                await self._waiting.put(decided)
        else:
            self._waiting.put_nowait(decided)

    async def run(self, stopping: asyncio.Event) -> None:
        """Write until told to stop and nothing is left."""
        stop = asyncio.create_task(stopping.wait())
        while group := await self._next_group(stopping, stop):
            records: list[_Record] = []
            for begin in range(0, len(group), SLICE):
                records += self._told(group[begin : begin + SLICE])
                await asyncio.sleep(0)
            await self._keep_writing(records)

    async def _next_group(self, stopping: asyncio.Event, stop: "asyncio.Task[bool]") -> list[Decided]:
        """Wait for the first decision; an empty group says that a stop came and nothing is left."""
        group: list[Decided] = []
        if self._waiting.empty():
            first = asyncio.create_task(self._waiting.get())
            await asyncio.wait({first, stop}, return_when=asyncio.FIRST_COMPLETED)
            if first.done():
                group.append(first.result())
            else:
                first.cancel()
                if self._waiting.empty():
                    return group
        if len(group) + self._waiting.qsize() < GROUP:
            await wait_for(stopping, LINGER_SECONDS)
        while len(group) < GROUP and not self._waiting.empty():
            group.append(self._waiting.get_nowait())
        return group

    def _told(self, group: Iterable[Decided]) -> list[_Record]:
        """Tell decisions as events, except those that can't be."""
        records = []
        for decided in group:
            try:
                records.append((f"decision/{decided.decision_id}", self._describe(decided)))
            except Exception as error:  # noqa: BLE001 - whatever it is, the others are to be written
                DECISIONS_UNRECORDED.add(1, {"cause": "contract"})
                log.error(  # noqa: TRY400 - the values in an error may be personal
                    "a decision can't be told as an event",
                    extra={"decision_id": decided.decision_id, "reason": _reason(error)},
                )
        return records

    async def _keep_writing(self, records: Sequence[_Record]) -> None:
        """Write records; while the database is away, try again."""
        backoff = Backoff(max_seconds=2.0)
        while records:
            try:
                await self._write(records)
            except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError) as error:
                if not is_away(error):
                    raise
                await backoff.pause(asyncio.Event(), error, "writing decision records")
            else:
                return

    async def _write(self, group: Sequence[_Record]) -> None:
        try:
            await self._append(group)
        except _REFUSALS:
            for record in group:
                await self._write_alone(record)

    async def _write_alone(self, record: _Record) -> None:
        """Write a record of a group that was refused; the one that was the reason is dropped, and logged."""
        try:
            await self._append([record])
        except asyncpg.UniqueViolationError:
            pass  # it is written: the connection broke before it could say that it had committed
        except _REFUSALS:
            DECISIONS_UNRECORDED.add(1, {"cause": "database"})
            log.exception("a decision record can't be written", extra={"aggregate_id": record[0]})

    async def _append(self, group: Sequence[_Record]) -> None:
        async with self._pool.acquire() as connection:
            await outbox.append_all(connection, ((aggregate_id, 1, event) for aggregate_id, event in group))


def _reason(error: Exception) -> str:
    """Say what went wrong, without values."""
    if isinstance(error, EventRejected):
        return error.message
    place = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__} in {place.name}, line {place.lineno}"
