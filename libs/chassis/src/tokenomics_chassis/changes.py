"""Following the positions: which partitions moved since the last look, for views and the announcer."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime

from tokenomics_chassis.postgres import Connection, Pool, Session, wait_for
from tokenomics_chassis.records import SourceId

POLL_SECONDS = 0.2
"""A lost NOTIFY delays a reader by no more than this."""

_POSITIONS = "SELECT source_id, topic, partition, next_offset, change_seq, as_of FROM position ORDER BY 2, 3"


@dataclass(frozen=True, slots=True)
class Position:
    """How far one partition is projected."""

    source_id: SourceId
    topic: str
    partition: int
    next_offset: int
    change_seq: int
    as_of: datetime | None
    """Append time of the last record projected; ``None`` before the first."""


@dataclass(frozen=True, slots=True)
class Change:
    """A partition moved."""

    position: Position
    """Where it stands now. Rows read later than this show at least this position's effects."""

    old_change_seq: int
    """Rows of the source with a larger ``change_seq`` are news. 0 also where the source never wrote a row."""

    restarted: bool
    """Drop what you hold of this source and read all of it: the first look, or a database that went back."""

    @property
    def has_rows(self) -> bool:
        """Whether rows changed, not just the position."""
        return self.position.change_seq != self.old_change_seq


async def read_positions(connection: Connection | Pool) -> Sequence[Position]:
    """Read every position, ordered by topic and partition."""
    return [Position(**row) for row in await connection.fetch(_POSITIONS)]


class ChangeFollower:
    """An exact cursor over the changes of derived state.

    Transactions of one source are serialised by its position row, so its ``change_seq`` never shows a later
    change before an earlier one.
    """

    def __init__(self) -> None:
        self._seen: dict[SourceId, Position] = {}

    async def poll(self, connection: Connection) -> Sequence[Change]:
        """Return what moved since the changes last acknowledged; the same again until they are."""
        changes = []
        for now in await read_positions(connection):
            seen = self._seen.get(now.source_id)
            if seen == now:
                continue
            if seen is None or _went_back(seen, now):
                changes.append(Change(now, 0, restarted=True))
            else:
                changes.append(Change(now, seen.change_seq, restarted=False))
        return changes

    def acknowledge(self, changes: Sequence[Change]) -> None:
        """Never tell these again: call it when their effect is safe (in the view, committed)."""
        self._seen.update((each.position.source_id, each.position) for each in changes)


def _went_back(seen: Position, now: Position) -> bool:
    return (
        (seen.topic, seen.partition) != (now.topic, now.partition)
        or now.change_seq < seen.change_seq
        or now.next_offset < seen.next_offset
    )


class Signal:
    """A hint that something was committed; after at most the poll interval it hints anyway."""

    def __init__(self, event: asyncio.Event, poll_seconds: float) -> None:
        self._event = event
        self._poll_seconds = poll_seconds

    async def wait(self) -> None:
        """Return on the first hint since the last return, or when the poll interval is over."""
        await wait_for(self._event, self._poll_seconds)
        self._event.clear()

    def wake(self) -> None:
        """Make the wait return now."""
        self._event.set()


@asynccontextmanager
async def listen(
    connection: Session, channel: str, *, poll_seconds: float = POLL_SECONDS
) -> AsyncIterator[Signal]:
    """LISTEN on a channel, on a connection of the caller's own (not a pool's)."""
    signal = Signal(asyncio.Event(), poll_seconds)

    def hint(*_: object) -> None:
        signal.wake()

    await connection.add_listener(channel, hint)
    connection.add_termination_listener(hint)
    try:
        yield signal
    finally:
        connection.remove_termination_listener(hint)
        if not connection.is_closed():
            await connection.remove_listener(channel, hint)
