"""The audit trail: who did what, and at whose data they looked; append-only, each entry chained to the last.

An entry is written in the transaction of what it tells of, and goes to the service's own topic through the
outbox. Table and topic hold the same chain: whoever changes one of them is told by the other, and whoever
recomputes the hashes is told by the anchors.
"""

import asyncio
import json
import logging
from collections.abc import Iterable, Mapping, Sequence
from contextvars import Context
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Final, NamedTuple
from uuid import UUID, uuid5

from tokenomics_chassis import outbox
from tokenomics_chassis.leadership import lead
from tokenomics_chassis.outbox import OutboxEvent
from tokenomics_chassis.postgres import Connection, Pool, Schemas, Session, wait_for
from tokenomics_chassis.records import Record
from tokenomics_chassis.rpc.errors import OverloadedError, UnavailableError
from tokenomics_chassis.telemetry import current_traceparent
from tokenomics_contracts.audit import NOTHING_BEFORE, AuditAnchored, AuditRecorded, entry_hash
from tokenomics_contracts.cloudevents import decode, encode
from tokenomics_contracts.registry import parse

log = logging.getLogger(__name__)

GROUP: Final = 1_000
"""Entries that share a transaction at most, one call's aside."""

CAPACITY: Final = 5_000
"""Entries that wait to be written; calls that bring more are sent away."""

ANCHOR_ENTRIES: Final = 1_000
ANCHOR_AFTER: Final = timedelta(minutes=5)
"""So many entries, or the first so long ago, are anchored."""

_SLICE: Final = 100
"""Entries that are chained before others get their turn: some milliseconds."""

_LOOK_SECONDS: Final = 1.0
_NAMESPACE: Final = UUID("0f3b7f5e-52a4-5c55-8c52-5d27d4bd2b60")

_LOCK = """
SELECT sequence, hash, greatest(at, clock_timestamp()) AS now,
       open_for IS NOT DISTINCT FROM incarnation_of('audit_chain') AS is_open
FROM audit_chain FOR UPDATE
"""
_MOVE_HEAD = "UPDATE audit_chain SET sequence = $1, hash = $2, at = $3"
_OPEN = "UPDATE audit_chain SET open_for = incarnation_of('audit_chain')"
_SAID = "SELECT once FROM audit WHERE once = ANY($1::text[])"
_COLUMNS = (
    "sequence",
    "at",
    "actor",
    "caller",
    "action",
    "target",
    "reason_code",
    "ticket_id",
    "details",
    "once",
    "previous_hash",
    "hash",
)
_HASHES = "SELECT sequence, hash FROM audit WHERE sequence = ANY($1::bigint[])"
_HEAD_FROM_ENTRIES = """
UPDATE audit_chain SET sequence = last.sequence, hash = last.hash, at = last.at
FROM (SELECT sequence, hash, at FROM audit ORDER BY sequence DESC LIMIT 1) AS last
WHERE last.sequence > audit_chain.sequence
"""
_DUE_ANCHOR = """
SELECT sequence, hash, clock_timestamp() AS now FROM audit_chain
WHERE sequence > anchored_sequence AND (
    sequence >= anchored_sequence + $1
    OR clock_timestamp() NOT BETWEEN anchored_at AND anchored_at + $2
) FOR UPDATE
"""
_ANCHORED = "UPDATE audit_chain SET anchored_sequence = $1, anchored_at = $2"
_HEAD = """
SELECT sequence, hash, anchored_sequence,
       coalesce((SELECT min(version) FROM outbox WHERE aggregate_id = $1) - 1, sequence) AS relayed_sequence
FROM audit_chain
"""
_LIST = """
SELECT * FROM audit
WHERE ($1::text IS NULL OR action = $1) AND ($2::text IS NULL OR target = $2)
  AND ($3::text IS NULL OR actor = $3) AND sequence {beyond} $4
ORDER BY sequence {order} LIMIT $5
"""
_NEWEST_FIRST = _LIST.format(beyond="<", order="DESC")
_OLDEST_FIRST = _LIST.format(beyond=">", order="ASC")


class Entry(NamedTuple):
    """What is to be recorded: codes and ids, never text."""

    actor: str
    """Subject id of the person, the workload that acts for nobody, or the rule."""
    caller: str
    """Workload through which it was done."""
    action: str
    """In the past tense."""
    target: str
    reason_code: str | None = None
    ticket_id: str | None = None
    details: Mapping[str, str] = {}
    once: str | None = None
    """Recorded already under this name, it isn't again."""


class Head(NamedTuple):
    """The newest entry of a chain."""

    sequence: int
    """0: there is none yet."""
    hash: str
    anchored_sequence: int
    relayed_sequence: int
    """Entries up to here are in the topic."""


class AuditClosedError(UnavailableError):
    """Nothing can be recorded until it is known how the chain goes on: what must be audited waits."""

    reason = "AUDIT_NOT_OPEN"


class AuditTrail:
    """One service's chain.

    Parameters
    ----------
    chain
        The service's name.
    topic
        Its own topic.
    source
        CloudEvents source of its events.
    """

    def __init__(self, chain: str, topic: str, source: str) -> None:
        self.chain = chain
        self._topic = topic
        self._source = source
        self._aggregate_id = f"audit/{chain}"

    async def append(self, connection: Connection, entries: Sequence[Entry]) -> None:
        """Append entries inside the caller's transaction.

        From here on the transaction holds up everybody else's entries: append last, and commit.

        Raises
        ------
        AuditClosedError
            The database came back, and what of the chain was sent before is not read again yet.
        """
        head = await connection.fetchrow(_LOCK)
        assert head is not None, "migrations write the row"
        if not head["is_open"]:
            raise AuditClosedError("the audit trail is being read again; nothing is recorded meanwhile")
        sequence, previous, now = head["sequence"], head["hash"].hex(), head["now"]
        recorded: list[AuditRecorded] = []
        for entry in await _unsaid(connection, entries):
            sequence += 1
            chained = _chained(entry, self.chain, sequence, previous, now)
            recorded.append(chained)
            previous = chained.hash
            if sequence % _SLICE == 0:
                await asyncio.sleep(0)
        if not recorded:
            return
        await _insert(connection, recorded)
        await connection.execute(_MOVE_HEAD, sequence, bytes.fromhex(previous), now)
        await outbox.append_all(
            connection, [(self._aggregate_id, each.sequence, self._event(each)) for each in recorded]
        )

    async def anchor(
        self, connection: Connection, *, entries: int = ANCHOR_ENTRIES, after: timedelta = ANCHOR_AFTER
    ) -> bool:
        """Say the chain's head apart from its entries, where that is due; whether it was.

        Due are so many entries, or any when the last anchor is so long ago.
        """
        async with connection.transaction():
            due = await connection.fetchrow(_DUE_ANCHOR, entries, after)
            if due is None:
                return False
            sequence, now = due["sequence"], due["now"]
            anchored = AuditAnchored(chain=self.chain, sequence=sequence, hash=due["hash"].hex(), at=now)
            event = self._event(anchored)
            await outbox.append(connection, f"{self._aggregate_id}/anchor", sequence, **event._asdict())
            await connection.execute(_ANCHORED, sequence, now)
        return True

    def from_record(self, record: Record) -> AuditRecorded | None:
        """Read an entry of this chain from the own topic; ``None`` for every other event there.

        Raises
        ------
        EventRejected
            The record can't be read.
        """
        envelope = decode(record.headers, record.value)
        if envelope.type != AuditRecorded.type_name:
            return None
        event = parse(envelope)
        assert isinstance(event, AuditRecorded)
        return event if event.chain == self.chain else None

    async def remember(self, connection: Connection, sent: Sequence[AuditRecorded]) -> int:
        """Take back entries that were sent and are not known; return how many these were.

        One that is known with another hash stays as it is: the chain was forked, which is logged, and told by
        whoever verifies it.
        """
        by_sequence = {each.sequence: each for each in sent}
        rows = await connection.fetch(_HASHES, list(by_sequence))
        known = {row["sequence"]: row["hash"].hex() for row in rows}
        forked = [sequence for sequence, hash_ in known.items() if by_sequence[sequence].hash != hash_]
        if forked:
            log.error("the audit trail was forked", extra={"chain": self.chain, "sequence": min(forked)})
        unknown = [by_sequence[sequence] for sequence in sorted(by_sequence.keys() - known.keys())]
        if unknown:
            await connection.fetchrow(_LOCK)
            await _insert(connection, unknown)
            await connection.execute(_HEAD_FROM_ENTRIES)
        return len(unknown)

    async def open(self, connection: Connection) -> None:
        """Let entries be appended: the own topic is read to where it ended when this database came up."""
        await connection.execute(_OPEN)

    async def head(self, connection: Connection | Pool) -> Head:
        """Read the newest entry, and how far the topic has the chain."""
        row = await connection.fetchrow(_HEAD, self._aggregate_id)
        assert row is not None, "migrations write the row"
        return Head(row["sequence"], row["hash"].hex(), row["anchored_sequence"], row["relayed_sequence"])

    async def entries(
        self,
        connection: Connection | Pool,
        *,
        action: str | None = None,
        target: str | None = None,
        actor: str | None = None,
        beyond: int | None = None,
        oldest_first: bool = False,
        limit: int,
    ) -> Sequence[AuditRecorded]:
        """Read entries with these properties, from beyond a sequence on; the newest first, or the oldest."""
        if oldest_first:
            rows = await connection.fetch(_OLDEST_FIRST, action, target, actor, beyond or 0, limit)
        else:
            rows = await connection.fetch(
                _NEWEST_FIRST, action, target, actor, 2**63 - 1 if beyond is None else beyond, limit
            )
        return [_from_row(self.chain, row) for row in rows]

    def _event(self, event: AuditRecorded | AuditAnchored) -> OutboxEvent:
        name = str(uuid5(_NAMESPACE, f"{event.type_name}/{event.chain}/{event.sequence}"))
        encoded = encode(
            event, id=name, source=self._source, time=event.at, traceparent=current_traceparent()
        )
        return OutboxEvent(self._topic, encoded.key, encoded.headers, encoded.value)


@dataclass(slots=True)
class _Waiting:
    entries: Sequence[Entry]
    done: "asyncio.Future[None]" = field(default_factory=lambda: asyncio.get_running_loop().create_future())


class AuditLog:
    """Records entries that belong to no other transaction; those of concurrent calls share one.

    A call waits until its entries are durable: the rest of the transaction under way, and one more. Where the
    database is away it fails: what can't be recorded must not be done, or shown.
    """

    def __init__(self, pool: Pool, trail: AuditTrail) -> None:
        self.trail = trail
        self.pool = pool
        self._waiting: list[_Waiting] = []
        self._count = 0
        self._writing: asyncio.Task[None] | None = None

    async def record(self, entries: Sequence[Entry]) -> None:
        """Record entries and return when they are durable.

        Raises
        ------
        OverloadedError
            Too many wait.
        AuditClosedError
            See :meth:`AuditTrail.append`.
        """
        if self._count + len(entries) > CAPACITY:
            raise OverloadedError(f"{self._count} audit entries are waiting to be written")
        waiting = _Waiting(entries)
        self._waiting.append(waiting)
        self._count += len(entries)
        if self._writing is None or self._writing.done():
            # In no call's trace: what it writes is of several.
            self._writing = asyncio.create_task(self._write(), context=Context())
        await waiting.done

    async def _write(self) -> None:
        while group := self._next_group():
            try:
                async with self.pool.acquire() as connection, connection.transaction():
                    await self.trail.append(connection, [entry for each in group for entry in each.entries])
            except Exception as error:  # noqa: BLE001 - it is each call's that waits
                for each in group:
                    if not each.done.done():
                        each.done.set_exception(error)
            else:
                for each in group:
                    if not each.done.done():
                        each.done.set_result(None)

    def _next_group(self) -> Sequence[_Waiting]:
        group: list[_Waiting] = []
        room = GROUP
        while self._waiting and (not group or len(self._waiting[0].entries) <= room):
            each = self._waiting.pop(0)
            self._count -= len(each.entries)
            room -= len(each.entries)
            if not each.done.cancelled():  # who asked has gone, and is shown nothing
                group.append(each)
        return group


class Anchors:
    """Anchors the chain in the service's own topic, in one process at a time."""

    def __init__(self, url: str, schemas: Schemas, trail: AuditTrail) -> None:
        self._url = url
        self._schemas = schemas
        self._trail = trail

    async def run(self, stopping: asyncio.Event) -> None:
        """Anchor what is due until ``stopping`` is set."""
        await lead(self._url, self._schemas, "audit anchors", self._anchor, stopping)

    async def _anchor(self, connection: Session, stopping: asyncio.Event) -> None:
        while not await wait_for(stopping, _LOOK_SECONDS):
            await self._trail.anchor(connection)


async def _unsaid(connection: Connection, entries: Sequence[Entry]) -> Sequence[Entry]:
    """Leave out what is recorded already of that which is recorded once."""
    names = [entry.once for entry in entries if entry.once is not None]
    if not names:
        return entries
    said = {row["once"] for row in await connection.fetch(_SAID, names)}
    unsaid = []
    for entry in entries:
        if entry.once not in said:
            unsaid.append(entry)
            if entry.once is not None:
                said.add(entry.once)
    return unsaid


def _chained(entry: Entry, chain: str, sequence: int, previous_hash: str, now: datetime) -> AuditRecorded:
    unhashed = AuditRecorded(
        chain=chain,
        sequence=sequence,
        previous_hash=previous_hash,
        at=now,
        hash=NOTHING_BEFORE,
        **entry._asdict(),
    )
    return unhashed.model_copy(update={"hash": entry_hash(as_data(unhashed))})


def as_data(event: AuditRecorded) -> Mapping[str, object]:
    """Return an entry's data as a reader of its record has it."""
    return event.model_dump(mode="json", by_alias=True, exclude_none=True)


async def _insert(connection: Connection, recorded: Iterable[AuditRecorded]) -> None:
    await connection.copy_records_to_table(
        "audit",
        records=[
            (
                each.sequence,
                each.at,
                each.actor,
                each.caller,
                each.action,
                each.target,
                each.reason_code,
                each.ticket_id,
                json.dumps(each.details),
                each.once,
                bytes.fromhex(each.previous_hash),
                bytes.fromhex(each.hash),
            )
            for each in recorded
        ],
        columns=_COLUMNS,
    )


def _from_row(chain: str, row: Mapping[str, Any]) -> AuditRecorded:
    return AuditRecorded.model_validate(
        {
            **row,
            "chain": chain,
            "details": json.loads(row["details"]),
            "previous_hash": row["previous_hash"].hex(),
            "hash": row["hash"].hex(),
        }
    )
