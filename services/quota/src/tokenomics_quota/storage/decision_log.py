"""Decision records, written to the outbox a group at a time."""

import asyncio
import logging
import traceback
from collections import deque
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta

import asyncpg

from tokenomics_chassis import outbox
from tokenomics_chassis.metrics import DECISIONS_UNRECORDED
from tokenomics_chassis.outbox import OutboxEvent
from tokenomics_chassis.postgres import Backoff, Pool, is_away, wait_for
from tokenomics_chassis.telemetry import current_traceparent
from tokenomics_contracts.rejection import EventRejected
from tokenomics_quota.domain.checks import Decided
from tokenomics_quota.domain.decision_records import DecisionRecord, DecisionSums, Sum
from tokenomics_quota.ports import Reserved

log = logging.getLogger(__name__)

SINGLE_A_SECOND = 100
"""Decisions of one second that have a record each; further ones are summed with those like them."""

MOST_WAITING = 1_000
"""Decisions with a record each that wait to be written; while so many do, further ones are summed."""

MOST_SUMS = 10_000
"""Sums that wait; a decision that would begin another leaves no record."""

GROUP = 250
"""Records of one transaction: sending them takes the event loop less than 2 ms."""

SLICE = 100
"""Decisions that are told as events before others get their turn: less than 2 ms."""

LINGER_SECONDS = 0.05
"""How long less than a group waits for others: a transaction for each would cost more than the checks."""

SUMMING_SECONDS = 1.0
"""How often a group of sums is written, those begun first; what exceeds half of them is written at once."""

_SECOND = timedelta(seconds=1)

_REFUSALS = (asyncpg.IntegrityConstraintViolationError, asyncpg.DataError)
"""What PostgreSQL says of a record, not of itself."""

_Record = tuple[str, OutboxEvent]
"""Aggregate id and event."""


class OutboxDecisionLog:
    """Implements :class:`tokenomics_quota.ports.DecisionLog` on the outbox.

    A check doesn't wait for the disk: a process that is killed loses the records of its last moments, never a
    settled amount. Those are the records under way, a tenth of a second of them unless the database is away,
    and what is being summed: the last second while fewer than a group of sums are begun in one, else the last
    half minute. Nor does a check wait for its record to be told as an event: told together, between checks,
    records cost a third of what they cost one by one in between them.
    """

    def __init__(
        self, pool: Pool, describe: Callable[[DecisionRecord], OutboxEvent], new_id: Callable[[], str]
    ) -> None:
        self._pool = pool
        self._describe = describe
        self._new_id = new_id
        self._waiting: deque[DecisionRecord] = deque()
        self._sums = DecisionSums()
        self._come = asyncio.Event()
        self._second_begins = self._second_ends = datetime.min.replace(tzinfo=UTC)
        self._singles_left = 0
        self._is_full = False

    def add(self, decided: Decided) -> str:
        """Keep a decision and return its id. One that can't be recorded is counted; its check isn't told."""
        if self._is_single(decided.decided_at):
            record = _single(decided, self._new_id())
            self._keep(record)
            return record.decision_id
        if (alike := self._sums.of(decided) or self._begin_sum(decided)) is not None:
            alike.add(decided)
            return alike.next_id()
        self._count_unrecorded()
        return self._new_id()

    def reserve(self, decided: Decided) -> Reserved:
        """Give a decision its id before it is known whether it holds.

        One that is to join a sum, which was told meanwhile, has a record of its own.
        """
        if self._is_single(decided.decided_at):
            record = _single(decided, self._new_id())
            return Reserved(record.decision_id, lambda: self._keep(record))
        alike = self._sums.of(decided) or self._begin_sum(decided)
        if alike is None:
            return Reserved(self._new_id(), self._count_unrecorded)
        alone = _single(decided, alike.next_id())

        def keep() -> None:
            if alike.is_taken:
                self._keep(alone)
            else:
                alike.add(decided)

        return Reserved(alone.decision_id, keep)

    def _is_single(self, at: datetime) -> bool:
        """Whether a decision has a record of its own."""
        if not self._second_begins <= at < self._second_ends:
            self._second_begins, self._second_ends = at, at + _SECOND
            self._singles_left = SINGLE_A_SECOND
        if not self._singles_left or len(self._waiting) >= MOST_WAITING:
            return False
        self._singles_left -= 1
        return True

    def _keep(self, record: DecisionRecord) -> None:
        self._waiting.append(record)
        self._come.set()

    def _begin_sum(self, decided: Decided) -> Sum | None:
        if len(self._sums) >= MOST_SUMS:
            return None
        self._come.set()
        return self._sums.begin(decided, self._new_id())

    def _count_unrecorded(self) -> None:
        DECISIONS_UNRECORDED.add(1, {"cause": "room"})
        if not self._is_full:
            log.error("no room for decision records: further decisions leave none until some are written")
            self._is_full = True

    async def run(self, stopping: asyncio.Event) -> None:
        """Write until told to stop and nothing is left."""
        stop = asyncio.create_task(stopping.wait())
        clock = asyncio.get_running_loop().time
        sums_due = clock() + SUMMING_SECONDS
        while await self._has_come(stopping, stop):
            if len(self._waiting) < GROUP and len(self._sums) <= MOST_SUMS // 2:
                await wait_for(stopping, LINGER_SECONDS)
            group = [self._waiting.popleft() for _ in range(min(GROUP, len(self._waiting)))]
            if stopping.is_set() or clock() >= sums_due:
                group += self._sums.take(GROUP)
                sums_due = clock() + SUMMING_SECONDS
            elif len(self._sums) > MOST_SUMS // 2:
                group += self._sums.take(GROUP)
            self._is_full = False
            await self._keep_writing(await self._told(group))

    async def _has_come(self, stopping: asyncio.Event, stop: "asyncio.Task[bool]") -> bool:
        """Wait until there is something to write; whether there is, for a stop ends the wait."""
        while not (self._waiting or self._sums):
            if stopping.is_set():
                return False
            self._come.clear()
            come = asyncio.create_task(self._come.wait())
            await asyncio.wait({come, stop}, return_when=asyncio.FIRST_COMPLETED)
            come.cancel()
        return True

    async def _told(self, group: Sequence[DecisionRecord]) -> list[_Record]:
        """Tell decisions as events, except those that can't be; others get their turn in between."""
        records = []
        for number, record in enumerate(group, start=1):
            try:
                records.append((f"decision/{record.decision_id}", self._describe(record)))
            except Exception as error:  # noqa: BLE001 - whatever it is, the others are to be written
                DECISIONS_UNRECORDED.add(record.decisions, {"cause": "contract"})
                log.error(  # noqa: TRY400 - the values in an error may be personal
                    "a decision can't be told as an event",
                    extra={"decision_id": record.decision_id, "reason": _reason(error)},
                )
            if number % SLICE == 0:
                await asyncio.sleep(0)
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


def _single(decided: Decided, decision_id: str) -> DecisionRecord:
    cost = decided.answer.estimate.cost_micro_usd
    return DecisionRecord(decision_id, decided, 1, cost, decided.decided_at, current_traceparent())


def _reason(error: Exception) -> str:
    """Say what went wrong, without values."""
    if isinstance(error, EventRejected):
        return error.message
    place = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__} in {place.name}, line {place.lineno}"
