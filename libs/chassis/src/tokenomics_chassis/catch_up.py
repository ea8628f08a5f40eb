"""Reading history: topics are projected from the stored positions up to given ends, apart from any group."""

import asyncio
import logging
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Final

from aiokafka import AIOKafkaConsumer, ConsumerRecord, TopicPartition

from tokenomics_chassis.dependencies import is_dependency_away
from tokenomics_chassis.lanes import Lanes
from tokenomics_chassis.lenient_records import read_leniently
from tokenomics_chassis.log_ranges import LostHistoryError
from tokenomics_chassis.log_reader import to_record
from tokenomics_chassis.postgres import Backoff
from tokenomics_chassis.projector import FrozenError, Projector

log = logging.getLogger(__name__)

Ends = Mapping[tuple[str, int], int]
"""(topic, partition) to the offset that is not to be projected any more."""

FETCH_WAIT_MS: Final = 20
"""How long the broker holds an empty fetch. While one is held, partitions that run dry wait for it."""

READ: Final[Mapping[str, Any]] = {
    "auto_offset_reset": "earliest",
    "isolation_level": "read_committed",
    "fetch_max_wait_ms": FETCH_WAIT_MS,
}
"""How everything is read that is projected."""

MAX_POLL_RECORDS: Final = 8_000
"""Records of one poll, of one partition or of several."""

_POLL_MS: Final = 200
_REST_SECONDS: Final = 60


async def catch_up(bootstrap: str, projector: Projector, ends: Ends, halt: asyncio.Event) -> None:
    """Project every partition named up to its end, or until ``halt`` is set, partitions side by side.

    The stored positions say where each begins: a call that was cut off anywhere is simply made again.

    Raises
    ------
    LostHistoryError
        The log begins above a stored position.
    Exception
        Whatever else is neither a record's fault nor a dependency's own trouble.
    """
    read_leniently()
    reading = _CatchUp(bootstrap, projector, ends, halt)
    backoff = Backoff()
    while not halt.is_set():
        try:
            await reading.run()
        except Exception as error:
            if not is_dependency_away(error):
                raise
            await backoff.pause(halt, error, "reading history")
        else:
            return


class _CatchUp:
    def __init__(self, bootstrap: str, projector: Projector, ends: Ends, halt: asyncio.Event) -> None:
        self._bootstrap = bootstrap
        self._projector = projector
        self._ends = {TopicPartition(*place): end for place, end in ends.items()}
        self._halt = halt
        self._failure: Exception | None = None
        self._read_to: dict[TopicPartition, int] = {}

    async def run(self) -> None:
        stored = await self._projector.positions()
        self._read_to = {tp: stored.get((tp.topic, tp.partition), 0) for tp in self._ends}
        self._failure = None
        unread = {tp for tp, offset in self._read_to.items() if offset < self._ends[tp]}
        if not unread:
            return
        consumer = AIOKafkaConsumer(bootstrap_servers=self._bootstrap, client_id="catch-up", **READ)
        lanes = Lanes(self._project)
        try:
            await consumer.start()
            for tp, begin in (await consumer.beginning_offsets(list(unread))).items():
                if self._read_to[tp] < begin:
                    raise LostHistoryError.below(tp.topic, tp.partition, self._read_to[tp], begin)
            consumer.assign(sorted(unread))
            for tp in unread:
                consumer.seek(tp, self._read_to[tp])
            await self._read(consumer, lanes, unread)
            await lanes.rest(within_seconds=_REST_SECONDS)
        finally:
            await lanes.rest(within_seconds=0)
            await consumer.stop()
        if self._failure is not None:
            raise self._failure
        if not self._halt.is_set():
            await self._pass_over_the_rest()

    async def _read(
        self, consumer: AIOKafkaConsumer, lanes: Lanes, unread: Collection[TopicPartition]
    ) -> None:
        unread = set(unread)
        while unread and self._failure is None and not self._halt.is_set():
            polled = await consumer.getmany(*unread, timeout_ms=_POLL_MS, max_records=MAX_POLL_RECORDS)
            for tp, records in polled.items():
                if wanted := [each for each in records if each.offset < self._ends[tp]]:
                    lanes.add(tp, wanted)
            await lanes.room()
            for tp in [each for each in unread if await consumer.position(each) >= self._ends[each]]:
                unread.discard(tp)
                consumer.pause(tp)

    async def _project(self, tp: TopicPartition, polled: Sequence[ConsumerRecord]) -> int | None:
        """Project a batch; nothing may be raised here."""
        records = [to_record(each) for each in polled]
        try:
            while not self._halt.is_set():
                try:
                    # Everything from the stored position on was read: what lies before a record is a gap.
                    position = await self._projector.process(
                        tp.topic, tp.partition, records, nothing_since=self._read_to[tp]
                    )
                except FrozenError:
                    await asyncio.sleep(FROZEN_SECONDS)
                else:
                    self._read_to[tp] = records[-1].offset + 1
                    return position
        except Exception as error:  # noqa: BLE001 - raised by `run`, once the others are at rest
            self._failure = self._failure or error
        return None

    async def _pass_over_the_rest(self) -> None:
        """Move positions over what holds no records before an end: markers of transactions and the like."""
        for tp, read_to in self._read_to.items():
            if read_to < self._ends[tp]:
                await self._projector.pass_over(
                    tp.topic, tp.partition, nothing_since=read_to, until=self._ends[tp]
                )


FROZEN_SECONDS: Final = 0.05
"""How long what is projected into a frozen version waits before it tries again."""
