"""The replay process: works off the rebuilds and verifications that were asked for."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection, Sequence
from time import monotonic

from aiokafka import AIOKafkaConsumer, TopicPartition

from tokenomics_chassis.catch_up import Ends, catch_up
from tokenomics_chassis.dependencies import is_dependency_away
from tokenomics_chassis.failpoints import failpoint
from tokenomics_chassis.leadership import lead
from tokenomics_chassis.migrations import Migrations
from tokenomics_chassis.postgres import Pool, Schemas, Session, create_pool, wait_for
from tokenomics_chassis.projector import Projector
from tokenomics_chassis.rebuilds import drop_version, retire_version
from tokenomics_chassis.topics import end_offsets
from tokenomics_chassis.verification import HashedPart, judge, pin
from tokenomics_chassis.versions import (
    LOCK_VERSIONS,
    DerivedVersion,
    VersionState,
    Why,
    fail_version,
    list_versions,
)

log = logging.getLogger(__name__)

LOOK_SECONDS = 0.5
KEEP_LEADING_SECONDS = 5
"""How often the session that holds the lock is used while history is read: an idle one would be ended."""

NEARLY_LEVEL_SECONDS = 5
"""A pass over the log that was this short leaves so little that the feed may go on from there."""

_TOTAL = "UPDATE derived_version SET total_records = $2 WHERE version = $1 AND total_records IS NULL"
_CAUGHT_UP = """
UPDATE derived_version SET state = 'caught_up', caught_up_at = clock_timestamp()
WHERE version = $1 AND state = 'catching_up'
"""
_VERIFIED = Why("verified", "none", "replay", "replay")


class Replay:
    """Fills versions of the derived state, one after the other, in one process at a time.

    Each checkpoint is a stored position: whoever is killed, the next one goes on from there. An error that is
    no dependency's costs the version, which is marked as failed, never the process.
    """

    def __init__(
        self,
        url: str,
        service: str,
        bootstrap: str,
        *,
        migrations: Callable[[Schemas], Migrations],
        projector: Callable[[Pool, Schemas], Projector],
        read_first: Sequence[frozenset[str]],
        group: Callable[[int], str],
        mend: Callable[[Pool, Schemas], Awaitable[object]],
        hashed_part: HashedPart,
    ) -> None:
        """Wire it.

        Parameters
        ----------
        read_first
            See :class:`~tokenomics_chassis.consumer.ProjectionConsumer`.
        group
            Names the consumer group that will feed a version, and is told where the feed begins.
        mend
            Does for a recomputed state what beside the projector keeps a live one right.
        """
        self._url = url
        self._service = service
        self._bootstrap = bootstrap
        self._migrations = migrations
        self._projector = projector
        self._read_first = read_first
        self._group = group
        self._mend = mend
        self._hashed_part = hashed_part

    async def run(self, stopping: asyncio.Event) -> None:
        """Work off what there is and wait for more, while leading, until told to stop."""
        await lead(self._url, Schemas(self._service, None), "replay", self._lead, stopping)

    async def _lead(self, connection: Session, stopping: asyncio.Event) -> None:
        while not stopping.is_set():
            for version in await list_versions(connection):
                if version.state in {VersionState.CATCHING_UP, VersionState.VERIFYING}:
                    await self._work(connection, version, stopping)
            await wait_for(stopping, LOOK_SECONDS)

    async def _work(self, connection: Session, version: DerivedVersion, stopping: asyncio.Event) -> None:
        """Work on one version until it is done, given up or not wanted any more."""
        halt = asyncio.Event()
        verifies = version.state is VersionState.VERIFYING
        task = asyncio.create_task(self._verify(version, halt) if verifies else self._rebuild(version, halt))
        asked = asyncio.create_task(stopping.wait())
        asked.add_done_callback(lambda _: halt.set())
        try:
            while not task.done():
                await asyncio.wait([task, asked], timeout=KEEP_LEADING_SECONDS)
                states = {each.version: each.state for each in await list_versions(connection)}
                if states[version.version] is VersionState.RETIRED:
                    halt.set()
                if halt.is_set():
                    await asyncio.wait([task])
            await task
        except Exception as error:
            if is_dependency_away(error):
                raise
            log.exception("a version of the derived state can't be filled")
            await fail_version(connection, version.version, error)
            if verifies:
                await drop_version(connection, Schemas(self._service, version.version))
        finally:
            asked.cancel()
            halt.set()
            await asyncio.wait([task])

    async def _rebuild(self, version: DerivedVersion, halt: asyncio.Event) -> None:
        schemas = Schemas(self._service, version.version)
        await self._migrations(schemas).migrate(self._url)
        async with await create_pool(self._url, schemas, application_name=f"{self._service} replay") as pool:
            projector = self._projector(pool, schemas)
            topics = sorted(projector.topics)
            ends = await end_offsets(self._bootstrap, topics)
            await pool.execute(_TOTAL, version.version, sum(ends.values()))
            log.info("filling a version of the derived state", extra={"derived_version": version.version})
            while not halt.is_set():
                begun = monotonic()
                await self._read(projector, await end_offsets(self._bootstrap, topics), halt)
                if monotonic() - begun < NEARLY_LEVEL_SECONDS:
                    break
            if halt.is_set():
                return
            failpoint("replay.before_caught_up")
            await _tell_group(self._bootstrap, self._group(version.version), await projector.positions())
            await pool.execute(_CAUGHT_UP, version.version)
        log.info("a version of the derived state is caught up", extra={"derived_version": version.version})

    async def _verify(self, version: DerivedVersion, halt: asyncio.Event) -> None:
        pinned = await pin(self._url, self._service, version.version, self._hashed_part)
        schemas = Schemas(self._service, version.version)
        await self._migrations(schemas).migrate(self._url)
        async with await create_pool(self._url, schemas, application_name=f"{self._service} verify") as pool:
            await self._read(self._projector(pool, schemas), pinned.next_offsets, halt)
            if halt.is_set():
                return
            await self._mend(pool, schemas)
            await judge(self._url, schemas, self._hashed_part(pinned.part))
            async with pool.acquire() as connection, connection.transaction():
                await connection.execute(LOCK_VERSIONS)
                await retire_version(connection, version, _VERIFIED)
            await drop_version(pool, schemas)

    async def _read(self, projector: Projector, ends: Ends, halt: asyncio.Event) -> None:
        rest: Collection[str] = projector.topics - frozenset().union(*self._read_first)
        for topics in [*self._read_first, rest]:
            of_topics = {place: end for place, end in ends.items() if place[0] in topics}
            await catch_up(self._bootstrap, projector, of_topics, halt)


async def _tell_group(bootstrap: str, group: str, positions: Ends) -> None:
    """Commit where a group shall begin to read. It has no member yet; a member's own commits win."""
    if not positions:
        return
    consumer = AIOKafkaConsumer(bootstrap_servers=bootstrap, group_id=group, enable_auto_commit=False)
    try:
        await consumer.start()
        consumer.assign([TopicPartition(*place) for place in positions])
        await consumer.commit({TopicPartition(*place): offset for place, offset in positions.items()})
    finally:
        await consumer.stop()
