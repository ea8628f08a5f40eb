"""The consumer: FastStream on aiokafka feeds the projector; PostgreSQL's position is the truth."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from datetime import datetime, timedelta
from itertools import groupby, takewhile
from operator import attrgetter
from typing import Any

from aiokafka import AIOKafkaConsumer, ConsumerRebalanceListener, ConsumerRecord, TopicPartition
from aiokafka.coordinator.assignors.sticky.sticky_assignor import StickyPartitionAssignor
from aiokafka.errors import IllegalStateError, KafkaError
from faststream import AckPolicy
from faststream.kafka import KafkaBroker, KafkaMessage
from faststream.kafka.message import FAKE_CONSUMER

from tokenomics_chassis.catch_up import (
    FETCH_WAIT_MS,
    FROZEN_SECONDS,
    MAX_POLL_RECORDS,
    READ,
    Ends,
    catch_up,
)
from tokenomics_chassis.clock import Clock
from tokenomics_chassis.dependencies import is_dependency_away
from tokenomics_chassis.failpoints import failpoint
from tokenomics_chassis.lanes import Lanes
from tokenomics_chassis.log_ranges import LostHistoryError, whole_log_ranges
from tokenomics_chassis.log_reader import to_record
from tokenomics_chassis.postgres import Backoff, wait_for
from tokenomics_chassis.projector import FrozenError, PositionBehindError, Projector
from tokenomics_chassis.records import Record
from tokenomics_chassis.topics import end_offsets

log = logging.getLogger(__name__)

POLL_MS = 20

SESSION_TIMEOUT_MS = 10_000
MAX_POLL_INTERVAL_MS = 60_000
"""A process silent for longer loses its partitions. That is harmless: what it still projects is serialised
with its successor by the position's lock, and its commits to Kafka are refused."""

STALE_SECONDS = 15.0
GRACE_SECONDS = 10.0
COMMIT_EVERY_SECONDS = 1.0
"""How long Kafka's committed offsets may trail stored positions: so much a new assignment reads in vain."""

COMMIT_SECONDS = 5.0
GAP_SECONDS = 0.5
WITNESS_SECONDS = 10.0
ASSIGN_SECONDS = 5.0
"""How long a rebalance waits for the stored positions; without them reading begins where Kafka says."""


class ProjectionConsumer:
    """Reads the projector's topics as a member of a consumer group. Any number of processes may.

    Each partition has its lane into the projection, and is read from the position that PostgreSQL holds,
    whatever Kafka has committed: a database that was lost or put back, a deleted group and an offset out of
    range change nothing. Committed offsets follow the stored positions; they serve those who watch the group,
    and a new assignment while the database is away.
    """

    def __init__(
        self,
        bootstrap: str,
        group_id: str,
        projector: Projector,
        clock: Clock,
        *,
        read_first: Sequence[frozenset[str]] = (),
        patient_topics: frozenset[str] = frozenset(),
    ) -> None:
        """Wire it.

        Parameters
        ----------
        read_first
            Those of the projector's topics that are read to their present ends before any other is begun, one
            set after the other: the service's own topic, so that a skip holds in every replay, then what
            governs the rest, so that little has to be derived twice.
        patient_topics
            Nobody waits for what these say: see :class:`~tokenomics_chassis.lanes.Lanes`.
        """
        self._bootstrap = bootstrap
        self._projector = projector
        self._clock = clock
        self._read_first = read_first
        self._halt = asyncio.Event()
        self._failure: Exception | None = None
        self._witness = _Witness(bootstrap)
        self._lanes = Lanes(self._project_polled, patient_topics=patient_topics)
        self._committed: dict[TopicPartition, int] = {}
        self._polled: dict[TopicPartition, tuple[int | None, datetime]] = {}
        self._rebalancing = False
        self._reading_first = asyncio.Lock()
        self._to_read_first = False
        self._broker = KafkaBroker(
            bootstrap,
            client_id="projector",
            consumer_only=True,
            allow_auto_create_topics=False,
            graceful_timeout=GRACE_SECONDS,
            apply_types=False,
            logger=logging.getLogger(f"{__name__}.faststream"),
            log_level=logging.DEBUG,
        )
        self._subscriber = self._broker.subscriber(
            *sorted(projector.topics),
            batch=True,
            group_id=group_id,
            ack_policy=AckPolicy.MANUAL,
            partition_assignment_strategy=(StickyPartitionAssignor,),
            max_records=MAX_POLL_RECORDS,
            batch_timeout_ms=POLL_MS,
            session_timeout_ms=SESSION_TIMEOUT_MS,
            heartbeat_interval_ms=SESSION_TIMEOUT_MS // 4,
            max_poll_interval_ms=MAX_POLL_INTERVAL_MS,
            listener=_Rebalances(self._before_rebalance, self._after_rebalance),
            parser=_parse,
            decoder=_decode,
            **READ,
        )
        self._subscriber(self._handle)

    async def run(self, stopping: asyncio.Event) -> None:
        """Consume until ``stopping`` is set, then finish the batches under way and leave the group.

        Raises
        ------
        TooManyParkedError
            See :class:`~tokenomics_chassis.projector.Projector`.
        LostHistoryError
            The log lacks records that are to be read, or that were.
        Exception
            Whatever else is neither a record's fault nor a dependency's own trouble. Nothing is skipped: the
            next process reads on from the stored position.
        """
        asked = asyncio.create_task(stopping.wait())
        asked.add_done_callback(lambda _: self._halt.set())
        beside = [asyncio.create_task(self._close_gaps()), asyncio.create_task(self._commit_regularly())]
        try:
            await self._refuse_lost_history()
            await self._read_what_comes_first()
            await self._broker.start()
            # FastStream restarts a loop that raised, without end: here its first failure ends the process.
            loops = [*self._subscriber.tasks, *beside]
            halted = asyncio.create_task(self._halt.wait())
            await asyncio.wait([halted, *loops], return_when=asyncio.FIRST_COMPLETED)
            halted.cancel()
            for loop in loops:
                if loop.done():
                    loop.result()
        finally:
            asked.cancel()
            self._halt.set()
            for task in beside:
                task.cancel()
            await asyncio.wait(beside)
            await self._lanes.rest(within_seconds=GRACE_SECONDS)
            await self._commit()
            await self._broker.stop()
            await self._witness.stop()
        if self._failure:
            raise self._failure

    async def not_ready_because(self) -> str | None:
        """Answer a readiness probe: reading, and heard from the broker of late."""
        consumer: AIOKafkaConsumer | None = self._subscriber.consumer
        if consumer is None:
            return "not reading yet"
        now = self._clock.steady()
        polled = {tp: consumer.last_poll_timestamp(tp) for tp in consumer.assignment()}
        # The client stamps polls by a clock that may be set: only that a stamp stands still tells anything.
        self._polled = {
            tp: known if (known := self._polled.get(tp)) and known[0] == stamp else (stamp, now)
            for tp, stamp in polled.items()
        }
        age = max((now - since for _, since in self._polled.values()), default=timedelta())
        if (age_seconds := age.total_seconds()) > STALE_SECONDS:
            return f"a partition was last polled {age_seconds:.0f} s ago"
        return None

    async def _handle(self, polled: Sequence[ConsumerRecord]) -> None:
        """Take in one poll. FastStream swallows what a handler raises, so nothing may be raised here."""
        if not self._halt.is_set():
            for tp, records in _by_partition(polled).items():
                self._lanes.add(tp, records)
            await self._lanes.room()

    async def _project_polled(self, tp: TopicPartition, polled: Sequence[ConsumerRecord]) -> int | None:
        consumer = self._subscriber.consumer
        if consumer is None:
            return None
        try:
            await self._ready_to_project()
            return await self._project(consumer, tp, [to_record(each) for each in polled])
        except Exception as error:
            log.exception("%s cannot be projected, stopping", tp)
            self._failure = self._failure or error
            self._halt.set()
            return None

    async def _project(
        self, consumer: AIOKafkaConsumer, tp: TopicPartition, records: Sequence[Record]
    ) -> int | None:
        """Project a batch, however often that takes; ``None`` when halted or sent back to read from below."""
        backoff = Backoff()
        nothing_since: int | None = None
        while not self._halt.is_set():
            try:
                try:
                    return await self._projector.process(
                        tp.topic, tp.partition, records, nothing_since=nothing_since
                    )
                except PositionBehindError as behind:
                    until = records[0].offset
                    if await self._witness.first_offset(tp, behind.position, until) < until:
                        await self._read_again(consumer, tp, behind.position)
                        return None
                    log.info("the log has a gap: %s", behind)
                    nothing_since = behind.position
                except FrozenError:
                    await wait_for(self._halt, FROZEN_SECONDS)
            except Exception as error:
                if not is_dependency_away(error):
                    raise
                await backoff.pause(self._halt, error, f"projecting {tp.topic}/{tp.partition}")
        return None

    async def _read_again(self, consumer: AIOKafkaConsumer, tp: TopicPartition, position: int) -> None:
        """Go back to the stored position: the database was emptied, or is an older copy of itself."""
        log.warning("%s is read again from the stored position %d", tp, position)
        await self._read_what_comes_first(before=tp.topic)
        _seek(consumer, tp, position)

    async def _close_gaps(self) -> None:
        """Close what lies between stored position and reader while no record comes that would tell.

        Where it holds no records, the position moves on: a transaction's marker takes an offset, and nobody
        shall see lag where none is. Where it does, the database went back, and the reader goes back too. A
        reader that stays behind the position was sent back by a log that ends there.
        """
        last: Mapping[TopicPartition, tuple[int, int]] = {}
        while not await wait_for(self._halt, GAP_SECONDS):
            try:
                now = await self._gaps()
                for tp, (position, read_to) in now.items() & last.items():
                    await self._close_gap(tp, position, read_to)
                last = now
            except Exception as error:
                if not is_dependency_away(error):
                    raise
                log.info("gaps could not be looked for: %s: %s", type(error).__name__, error)

    async def _close_gap(self, tp: TopicPartition, position: int, read_to: int) -> None:
        if read_to < position:
            await self._refuse_lost_history()
        elif await self._witness.first_offset(tp, position, read_to) == read_to:
            await self._projector.pass_over(tp.topic, tp.partition, nothing_since=position, until=read_to)
        elif self._lanes.is_idle(tp) and (consumer := self._subscriber.consumer):
            await self._read_again(consumer, tp, position)

    async def _gaps(self) -> Mapping[TopicPartition, tuple[int, int]]:
        """Return the stored position and the offset to read next of idle partitions where they differ."""
        consumer: AIOKafkaConsumer | None = self._subscriber.consumer
        if consumer is None:
            return {}
        read_to: dict[TopicPartition, int] = {}
        for tp in filter(self._lanes.is_idle, consumer.assignment()):
            with suppress(IllegalStateError):  # the partition is no longer ours
                async with asyncio.timeout(GAP_SECONDS):
                    read_to[tp] = await consumer.position(tp)
        stored = await self._projector.positions()
        return {
            tp: (position, offset)
            for tp, offset in read_to.items()
            if (position := stored.get((tp.topic, tp.partition), 0)) != offset
        }

    async def _before_rebalance(self) -> None:
        await self._commit()
        self._rebalancing = True

    async def _after_rebalance(self, assigned: Collection[TopicPartition]) -> None:
        # Every partition is read anew, also those that stayed; and what we said last of those that were
        # elsewhere meanwhile must not be said again.
        self._lanes.forget_positions()
        self._committed.clear()
        self._rebalancing = False
        self._to_read_first = True
        await self._seek_positions(assigned)

    async def _seek_positions(self, assigned: Collection[TopicPartition]) -> None:
        """Spare the lanes what is projected already. Records read before this took hold do no harm."""
        consumer: AIOKafkaConsumer | None = self._subscriber.consumer
        if consumer is None:
            return
        try:
            async with asyncio.timeout(ASSIGN_SECONDS):
                stored = await self._projector.positions()
        except Exception as error:
            if not is_dependency_away(error):
                raise
            log.info("reading begins where Kafka says: %s: %s", type(error).__name__, error)
            return
        for tp in assigned:
            _seek(consumer, tp, stored.get((tp.topic, tp.partition), 0))

    async def _commit_regularly(self) -> None:
        while not await wait_for(self._halt, COMMIT_EVERY_SECONDS):
            await self._commit()

    async def _commit(self) -> None:
        """Tell Kafka the positions that moved since it was last told.

        Never during a rebalance: a commit of the old generation makes aiokafka join anew, as another member,
        and so begins the next rebalance.
        """
        consumer: AIOKafkaConsumer | None = self._subscriber.consumer
        if consumer is None or self._rebalancing:
            return
        assigned = consumer.assignment()
        moved = self._lanes.positions.items() - self._committed.items()
        offsets = {tp: position for tp, position in moved if tp in assigned}
        if not offsets:
            return
        try:
            async with asyncio.timeout(COMMIT_SECONDS):
                await consumer.commit(offsets)
            self._committed |= offsets
        except (KafkaError, TimeoutError) as error:
            # The position in PostgreSQL stands; after a rebalance this is the rule.
            log.info("Kafka took no commit: %s: %s", type(error).__name__, error)
        failpoint("projector.after_kafka_commit")

    async def _refuse_lost_history(self) -> None:
        """Check that the log holds all that was projected: what comes to those offsets would never count.

        And all that is still to be: nobody would know what is missing.
        """
        await whole_log_ranges(self._bootstrap, self._projector.topics, self._projector.positions, self._halt)

    async def _ready_to_project(self) -> None:
        """Read first what comes first, if partitions were shared out since: the database may have gone back.

        They are read from where it stands now, and so nothing else would tell.
        """
        if self._to_read_first or self._reading_first.locked():
            async with self._reading_first:
                if self._to_read_first:
                    self._to_read_first = False
                    await self._catch_up_with(self._read_first)

    async def _read_what_comes_first(self, before: str | None = None) -> None:
        async with self._reading_first:
            await self._catch_up_with(takewhile(lambda topics: before not in topics, self._read_first))

    async def _catch_up_with(self, sets: Iterable[Collection[str]]) -> None:
        for topics in sets:
            await catch_up(self._bootstrap, self._projector, await self._ends_of(topics), self._halt)

    async def _ends_of(self, topics: Collection[str]) -> Ends:
        backoff = Backoff()
        while not self._halt.is_set():
            try:
                return await end_offsets(self._bootstrap, topics)
            except Exception as error:
                if not is_dependency_away(error):
                    raise
                await backoff.pause(self._halt, error, "reading the log's ends")
        return {}


class _Rebalances(ConsumerRebalanceListener):  # type: ignore[misc] # aiokafka has no types
    """Tells when the group shares partitions out anew."""

    def __init__(
        self,
        before: Callable[[], Awaitable[None]],
        after: Callable[[Collection[TopicPartition]], Awaitable[None]],
    ) -> None:
        self._before = before
        self._after = after

    async def on_partitions_revoked(self, revoked: Collection[TopicPartition]) -> None:  # noqa: ARG002 - aiokafka's
        await self._before()

    async def on_partitions_assigned(self, assigned: Collection[TopicPartition]) -> None:
        await self._after(assigned)


class _Witness:
    """Looks up, apart from any group, where the log really goes on: the proof that a gap is one.

    A seek in the group's consumer proves nothing: a rebalance may come between it and the next read.
    """

    def __init__(self, bootstrap: str) -> None:
        self._bootstrap = bootstrap
        self._consumer: AIOKafkaConsumer | None = None
        self._lock = asyncio.Lock()

    async def first_offset(self, tp: TopicPartition, since: int, until: int) -> int:
        """Return the offset of the first record from ``since`` on, or ``until`` if there is none below it.

        The log must be readable up to ``until``.

        Raises
        ------
        LostHistoryError
            The log begins above ``since``: nobody can tell any more what was there.
        aiokafka.errors.KafkaError, TimeoutError
            The broker did not tell; ask again.
        """
        async with self._lock, asyncio.timeout(WITNESS_SECONDS):
            if self._consumer is None:
                consumer = AIOKafkaConsumer(
                    bootstrap_servers=self._bootstrap, client_id="projector-witness", **READ
                )
                try:
                    await consumer.start()
                except BaseException:
                    await consumer.stop()
                    raise
                self._consumer = consumer
            begin = (await self._consumer.beginning_offsets([tp]))[tp]
            if since < begin:
                raise LostHistoryError.below(tp.topic, tp.partition, since, begin)
            self._consumer.assign([tp])
            self._consumer.seek(tp, since)
            while await self._consumer.position(tp) < until:
                polled = await self._consumer.getmany(tp, timeout_ms=FETCH_WAIT_MS, max_records=1)
                for record in polled.get(tp, ()):
                    first: int = min(record.offset, until)
                    return first
            return until

    async def stop(self) -> None:
        """Close the connection, if there ever was one."""
        if self._consumer is not None:
            await self._consumer.stop()


async def _parse(message: tuple[ConsumerRecord, ...]) -> KafkaMessage:
    """Leave the records as they are: the default parser fails on headers that aren't UTF-8."""
    return KafkaMessage(raw_message=message, body=message, consumer=FAKE_CONSUMER)


async def _decode(message: KafkaMessage) -> Any:
    return message.raw_message


def _by_partition(polled: Sequence[ConsumerRecord]) -> Mapping[TopicPartition, Sequence[ConsumerRecord]]:
    """Split a poll; FastStream strings the partitions together, each in one run of ascending offsets."""
    return {
        TopicPartition(*key): list(records)
        for key, records in groupby(polled, attrgetter("topic", "partition"))
    }


def _seek(consumer: AIOKafkaConsumer, tp: TopicPartition, offset: int) -> None:
    try:
        consumer.seek(tp, offset)
    except IllegalStateError:
        log.info("the partition is no longer ours", extra={"topic": tp.topic, "partition": tp.partition})
