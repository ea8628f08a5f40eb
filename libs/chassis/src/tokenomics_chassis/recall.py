"""Recall: what a term of the announcer must know before it judges, whatever happened to the database."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from aiokafka import AIOKafkaConsumer, ConsumerRecord, TopicPartition

from tokenomics_chassis.changes import read_positions
from tokenomics_chassis.lenient_records import read_leniently
from tokenomics_chassis.log_ranges import LogRange, whole_log_ranges
from tokenomics_chassis.log_reader import to_record
from tokenomics_chassis.metrics import ANNOUNCEMENTS_HELD_UP
from tokenomics_chassis.postgres import Connection, Session, wait_for
from tokenomics_chassis.records import Record
from tokenomics_chassis.topics import end_offsets
from tokenomics_contracts.rejection import EventRejected

log = logging.getLogger(__name__)

T = TypeVar("T")

POLL_SECONDS = 0.1
TELL_SECONDS = 5.0
"""How often the log says that announcements are held up, and by how much."""

BATCH_RECORDS = 2000
FETCH_MS = 200

_RECALLED = "SELECT partition, next_offset FROM recalled WHERE topic = $1"
_RECALL = """
INSERT INTO recalled (topic, partition, next_offset) VALUES ($1, $2, $3)
ON CONFLICT (topic, partition) DO UPDATE SET next_offset = excluded.next_offset
"""


@dataclass(frozen=True, slots=True)
class Kind(Generic[T]):
    """One kind of what the own topic brings back."""

    decode: Callable[[Record], T | None]
    """Reads one; answers ``None`` for every other event, raises ``EventRejected`` where it can't tell: that
    stops nothing, and is logged."""

    remember: Callable[[Connection, Sequence[T]], Awaitable[int]]
    """Keeps those that are not known, inside the open transaction, and returns how many these were."""

    read: Callable[[Connection], Awaitable[None]] | None = None
    """Called in each term when the own topic is read to its end: no more of the kind is to come back."""


class Recall:
    """Reads what was announced from the service's own topic, and waits for what it was announced by.

    Announcements are history, which an emptied or restored database has forgotten, in whole or in part: made
    again by half a projection, they would say something else under the id they had. So a term pins the ends
    of the own topic and of the inputs when it begins. It reads the own topic to there, from where the last
    one stopped, and lets nothing be judged before the projection has come to the others.

    A new leader after a crash pays the same: little, as both are near their ends then.
    """

    def __init__(
        self,
        bootstrap: str,
        own_topic: str,
        input_topics: Collection[str],
        kinds: Sequence[Kind[Any]],
    ) -> None:
        """Wire it.

        Parameters
        ----------
        input_topics
            What the projection reads, the own topic aside.
        kinds
            What is brought back, announcements or other; each sees every record of the own topic.
        """
        read_leniently()
        self._bootstrap = bootstrap
        self._own_topic = own_topic
        self._topics = frozenset({own_topic, *input_topics})
        self._kinds = kinds

    async def __call__(self, connection: Session, stopping: asyncio.Event) -> None:
        """Return when a term may begin to judge, or when ``stopping`` is set.

        Raises
        ------
        LostHistoryError
            The own topic lacks records: what was announced can't be known any more.
        """
        ends = await end_offsets(self._bootstrap, self._topics)
        await self.read_on(connection, stopping)
        if stopping.is_set():
            return
        for kind in self._kinds:
            if kind.read is not None:
                await kind.read(connection)
        await self._projected(connection, ends, stopping)

    async def read_on(self, connection: Session, stopping: asyncio.Event) -> None:
        """Read what the own topic tells by now: what a later term need not read any more.

        Raises
        ------
        LostHistoryError
            As for a term.
        """

        async def recalled() -> Mapping[tuple[str, int], int]:
            return await self._recalled(connection)

        own = await whole_log_ranges(self._bootstrap, [self._own_topic], recalled, stopping)
        await self._read_own(connection, own, stopping)

    async def _recalled(self, connection: Session) -> Mapping[tuple[str, int], int]:
        rows = await connection.fetch(_RECALLED, self._own_topic)
        return {(self._own_topic, row["partition"]): row["next_offset"] for row in rows}

    async def _read_own(
        self, connection: Session, own: Mapping[tuple[str, int], LogRange], stopping: asyncio.Event
    ) -> None:
        recalled = await self._recalled(connection)
        ends = {TopicPartition(*place): each.end for place, each in own.items()}
        unread = {tp: end for tp, end in ends.items() if recalled.get((tp.topic, tp.partition), 0) < end}
        if not unread:
            return
        found = 0
        consumer = AIOKafkaConsumer(
            bootstrap_servers=self._bootstrap,
            client_id="recall",
            auto_offset_reset="none",
            isolation_level="read_committed",
        )
        try:
            await consumer.start()
            consumer.assign(list(unread))
            for tp in unread:
                consumer.seek(tp, recalled.get((tp.topic, tp.partition), 0))
            while unread:
                polled = await consumer.getmany(*unread, timeout_ms=FETCH_MS, max_records=BATCH_RECORDS)
                async with connection.transaction():
                    for tp, records in polled.items():
                        for kind in self._kinds:
                            found += await kind.remember(connection, _decoded(kind, records))
                        await connection.execute(_RECALL, tp.topic, tp.partition, records[-1].offset + 1)
                if stopping.is_set():
                    return
                unread = {tp: end for tp, end in unread.items() if await consumer.position(tp) < end}
        finally:
            await consumer.stop()
        if found:
            log.warning("the own topic told what the database did not know", extra={"recalled": found})

    async def _projected(
        self, connection: Session, ends: Mapping[tuple[str, int], int], stopping: asyncio.Event
    ) -> None:
        now = asyncio.get_running_loop().time
        tell_at = now()
        left: int | None = None
        with ANNOUNCEMENTS_HELD_UP.told_by(lambda: left):
            while True:
                positions = {
                    (each.topic, each.partition): each.next_offset
                    for each in await read_positions(connection)
                }
                left = sum(max(0, end - positions.get(place, 0)) for place, end in ends.items())
                if not left:
                    return
                if now() >= tell_at:
                    log.info("announcements wait until the log is projected", extra={"records_left": left})
                    tell_at = now() + TELL_SECONDS
                if await wait_for(stopping, POLL_SECONDS):
                    return


def _decoded(kind: Kind[T], records: Sequence[ConsumerRecord]) -> Sequence[T]:
    decoded = []
    for each in records:
        try:
            one = kind.decode(to_record(each))
        except EventRejected as rejection:
            log.warning(
                "%s/%d@%d can't be read; if it announced something, that may be announced again: %s: %s",
                each.topic,
                each.partition,
                each.offset,
                rejection.code,
                rejection.message,
            )
        else:
            decoded += [one] if one is not None else []
    return decoded
