"""Rebuilds as operators see them: a version is asked for, promoted, rolled back and retired."""

import asyncio
import logging
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from tokenomics_chassis.audit import AuditTrail
from tokenomics_chassis.changes import read_positions
from tokenomics_chassis.postgres import Connection, Pool, Schemas, session
from tokenomics_chassis.serving import LIVE_SECONDS
from tokenomics_chassis.topics import end_offsets, end_offsets_if_known
from tokenomics_chassis.versions import (
    LOCK_VERSIONS,
    DerivedVersion,
    VersionState,
    Why,
    active_version,
    find_version,
    list_versions,
)

log = logging.getLogger(__name__)

FREEZE_SECONDS = 10
"""How long a promotion may hold up what is projected into the version that serves."""

_POLL_SECONDS = 0.02

_START = """
INSERT INTO derived_version (version, rebuild_id, state, reason_code, ticket_id, asked_by)
SELECT max(version) + 1, $1, $2, $3, $4, $5 FROM derived_version
"""
_SET_STATE = "UPDATE derived_version SET state = $2, error_message = NULL WHERE version = $1"
_SERVERS = """
SELECT count(DISTINCT server_id) AS live, count(*) FILTER (WHERE version = $1) AS holding
FROM loaded_version WHERE seen_at > clock_timestamp() - $2::int * interval '1 second'
"""
_CHANGE = """
INSERT INTO version_change (version, from_state, to_state, reason_code, ticket_id, asked_by)
VALUES ($1, $2, $3, $4, $5, $6)
"""
_KNOW_PARTITIONS = """
INSERT INTO position (topic, partition) SELECT * FROM unnest($1::text[], $2::int[]) ON CONFLICT DO NOTHING
"""
_FREEZE = "UPDATE position SET frozen_until = clock_timestamp() + $1::int * interval '1 second'"
_THAW = "UPDATE position SET frozen_until = NULL"
_STILL_FROZEN = "SELECT coalesce(bool_and(frozen_until > clock_timestamp()), true) FROM position"


class NoSuchRebuildError(Exception):
    """No rebuild has this id."""

    def __init__(self, rebuild_id: str) -> None:
        super().__init__(f"there is no rebuild {rebuild_id}")


class RebuildRefusedError(Exception):
    """The version is in no state for that; the message says what to do."""


class NotReachedError(Exception):
    """The version did not reach the one that serves in time; nothing changed."""


@dataclass(frozen=True, slots=True)
class Rebuild:
    """A version and how far it is."""

    version: DerivedVersion
    applied_records: int
    lag: int | None
    """``None`` when the broker can't be asked, and for what is fed no more."""


class Rebuilds:
    """What the OperationsService does about versions; any process of the service may do it."""

    def __init__(
        self,
        pool: Pool,
        url: str,
        service: str,
        bootstrap: str,
        topics: Collection[str],
        *,
        trail: AuditTrail,
    ) -> None:
        """Wire it.

        Parameters
        ----------
        pool
            Works on the service's own schema.
        topics
            Everything that a version is derived from.
        """
        self._pool = pool
        self._url = url
        self._service = service
        self._bootstrap = bootstrap
        self._topics = topics
        self._trail = trail

    async def start(self, rebuild_id: str, why: Why) -> Rebuild:
        """Record that the next version shall be filled; the same id again changes nothing.

        Raises
        ------
        RebuildRefusedError
            Another one is being filled.
        """
        async with self._pool.acquire() as connection, connection.transaction():
            await connection.execute(LOCK_VERSIONS)
            if await find_version(connection, rebuild_id) is None:
                await record_version(connection, rebuild_id, VersionState.CATCHING_UP, why)
                await self._trail.append(connection, [why.entry("rebuild.started", rebuild_id)])
        return await self.get(rebuild_id)

    async def get(self, rebuild_id: str) -> Rebuild:
        """Read one.

        Raises
        ------
        NoSuchRebuildError
            There is none.
        """
        return (await self._described([await self._find(self._pool, rebuild_id)]))[0]

    async def list(self, *, include_retired: bool) -> Sequence[Rebuild]:
        """Read all of them, newest first; recomputations that verify are none."""
        versions = [
            each
            for each in await list_versions(self._pool)
            if not each.verifies and (include_retired or each.state is not VersionState.RETIRED)
        ]
        return await self._described(versions[::-1])

    async def promote(self, rebuild_id: str, why: Why) -> Rebuild:
        """Make a version serve, once it has all that the one serving has; repeating it changes nothing.

        What serves is frozen first, for ten seconds at the most, so that the other can reach it and no server
        goes back in what it has applied. A process that dies here leaves the freeze to run out.

        Raises
        ------
        NoSuchRebuildError
            There is none.
        RebuildRefusedError
            It isn't caught up, or a live server doesn't hold it yet.
        NotReachedError
            It didn't reach the frozen version in time.
        """
        return await self._put_in_place(rebuild_id, why, "rebuild.promoted")

    async def roll_back(self, rebuild_id: str, why: Why) -> Rebuild:
        """Make the version serve again that served before this one; repeating it changes nothing.

        Returns
        -------
        Rebuild
            The version that serves now.

        Raises
        ------
        NoSuchRebuildError, RebuildRefusedError, NotReachedError
            As for a promotion; refused too when no earlier version stands by.
        """
        versions = await list_versions(self._pool)
        unwanted = await self._find(self._pool, rebuild_id)
        if unwanted.state is VersionState.ACTIVE:
            standing_by = [each for each in versions if each.state is VersionState.STANDBY]
            if not standing_by:
                raise RebuildRefusedError(f"no version stands by that rebuild {rebuild_id} could give way to")
            return await self._put_in_place(standing_by[-1].rebuild_id, why, "rebuild.rolled_back")
        self._require(unwanted, VersionState.STANDBY)
        return await self.get(next(each.rebuild_id for each in versions if each.state is VersionState.ACTIVE))

    async def retire(self, rebuild_id: str, why: Why) -> Rebuild:
        """Stop feeding a version that doesn't serve and drop its tables; repeating it changes nothing.

        Raises
        ------
        NoSuchRebuildError
            There is none.
        RebuildRefusedError
            It serves.
        """
        async with self._pool.acquire() as connection, connection.transaction():
            await connection.execute(LOCK_VERSIONS)
            version = await self._find(connection, rebuild_id)
            if version.state is VersionState.ACTIVE:
                raise RebuildRefusedError(
                    f"rebuild {rebuild_id} serves: promote or roll back to another first"
                )
            if version.state is not VersionState.RETIRED:
                await retire_version(connection, version, why)
                await self._trail.append(connection, [why.entry("rebuild.retired", rebuild_id)])
        await drop_version(self._pool, Schemas(self._service, version.version))
        return await self.get(rebuild_id)

    async def _find(self, connection: Connection | Pool, rebuild_id: str) -> DerivedVersion:
        version = await find_version(connection, rebuild_id)
        if version is None or version.verifies:
            raise NoSuchRebuildError(rebuild_id)
        return version

    def _require(self, version: DerivedVersion, *states: VersionState) -> None:
        if version.state not in states:
            raise RebuildRefusedError(
                f"rebuild {version.rebuild_id} is {version.state.value.replace('_', ' ')}: "
                f"it must be {' or '.join(state.value.replace('_', ' ') for state in states)}"
            )

    async def _require_loaded(self, version: int) -> None:
        servers = await self._pool.fetchrow(_SERVERS, version, LIVE_SECONDS)
        assert servers is not None
        if missing := servers["live"] - servers["holding"]:
            raise RebuildRefusedError(
                f"{missing} of {servers['live']} live servers do not hold version {version} yet: try again"
            )

    async def _put_in_place(self, rebuild_id: str, why: Why, action: str) -> Rebuild:
        target = await self._find(self._pool, rebuild_id)
        if target.state is not VersionState.ACTIVE:
            self._require(target, VersionState.CAUGHT_UP, VersionState.STANDBY)
            await self._require_loaded(target.version)
            await self._replace(await active_version(self._pool), target, why, action)
        return await self.get(rebuild_id)

    async def _replace(self, serving: int, target: DerivedVersion, why: Why, action: str) -> None:
        ends = await end_offsets(self._bootstrap, self._topics)
        old, new = Schemas(self._service, serving), Schemas(self._service, target.version)
        async with (
            session(self._url, old, application_name=f"{self._service} promotion") as frozen,
            session(self._url, new, application_name=f"{self._service} promotion") as next_one,
        ):
            # Also those of which nothing was projected: what has no row can't be frozen.
            await frozen.execute(_KNOW_PARTITIONS, [each[0] for each in ends], [each[1] for each in ends])
            await frozen.execute(_FREEZE, FREEZE_SECONDS)
            try:
                await self._reached(next_one, await _positions(frozen))
                await self._flip(frozen, serving, target, why, action)
            except BaseException:
                await frozen.execute(_THAW)
                raise

    async def _reached(self, connection: Connection, wanted: Mapping[tuple[str, int], int]) -> None:
        behind: Mapping[tuple[str, int], int] = {}
        try:
            async with asyncio.timeout(FREEZE_SECONDS - 2):
                while True:
                    reached = await _positions(connection)
                    behind = {
                        place: offset - reached.get(place, 0)
                        for place, offset in wanted.items()
                        if reached.get(place, 0) < offset
                    }
                    if not behind:
                        return
                    await asyncio.sleep(_POLL_SECONDS)
        except TimeoutError:
            raise NotReachedError(
                f"the version is {sum(behind.values())} records behind the one that serves: try again"
            ) from None

    async def _flip(
        self, frozen: Connection, serving: int, target: DerivedVersion, why: Why, action: str
    ) -> None:
        version = target.version
        async with frozen.transaction():
            await frozen.execute(LOCK_VERSIONS)
            states = {each.version: each.state for each in await list_versions(frozen)}
            if states[serving] is not VersionState.ACTIVE:
                raise RebuildRefusedError("another version was promoted meanwhile")
            if states[version] not in {VersionState.CAUGHT_UP, VersionState.STANDBY}:
                raise RebuildRefusedError(f"version {version} was retired meanwhile")
            if not await frozen.fetchval(_STILL_FROZEN):
                raise NotReachedError("the freeze ran out: try again")
            await change_state(frozen, serving, states[serving], VersionState.STANDBY, why)
            await change_state(frozen, version, states[version], VersionState.ACTIVE, why)
            await frozen.execute(_THAW)
            entry = why.entry(action, target.rebuild_id, version=str(version), instead_of=str(serving))
            await self._trail.append(frozen, [entry])
        log.info("another version serves", extra={"version": version, "before": serving})

    async def _described(self, versions: Sequence[DerivedVersion]) -> Sequence[Rebuild]:
        ends = await end_offsets_if_known(self._bootstrap, self._topics)
        described = []
        for version in versions:
            positions = await _positions_in(self._pool, Schemas(self._service, version.version))
            lag = None
            if positions is not None and ends is not None:
                lag = sum(max(0, end - positions.get(place, 0)) for place, end in ends.items())
            described.append(Rebuild(version, sum((positions or {}).values()), lag))
        return described


async def record_version(connection: Connection, rebuild_id: str, state: VersionState, why: Why) -> None:
    """Give the next number to a version that shall be filled. The table must be locked.

    Raises
    ------
    RebuildRefusedError
        Another one is in this state.
    """
    if any(each.state is state for each in await list_versions(connection)):
        raise RebuildRefusedError(f"another version is {state.value.replace('_', ' ')}: wait, or retire it")
    await connection.execute(_START, rebuild_id, state, *why[:3])


async def change_state(
    connection: Connection, version: int, before: VersionState, state: VersionState, why: Why
) -> None:
    """Move a version to another state and keep who asked for it. The table must be locked."""
    await connection.execute(_SET_STATE, version, state)
    await connection.execute(_CHANGE, version, before, state, *why[:3])


async def retire_version(connection: Connection, version: DerivedVersion, why: Why) -> None:
    """Mark a version as one that nothing feeds any more. The table must be locked."""
    await change_state(connection, version.version, version.state, VersionState.RETIRED, why)


async def drop_version(connection: Connection | Pool, schemas: Schemas) -> None:
    """Drop the tables of a retired version; what still works on them fails, and is not restarted."""
    await connection.execute(f"DROP SCHEMA IF EXISTS {schemas.derived} CASCADE")


async def applied_records(pool: Pool, service: str, version: int) -> int:
    """Count what is applied to any version, in offsets."""
    return sum((await _positions_in(pool, Schemas(service, version)) or {}).values())


async def _positions(connection: Connection) -> Mapping[tuple[str, int], int]:
    return {(each.topic, each.partition): each.next_offset for each in await read_positions(connection)}


async def _positions_in(pool: Pool, schemas: Schemas) -> Mapping[tuple[str, int], int] | None:
    """Read the positions of any version; ``None`` when it has no tables (yet, or any more)."""
    if await pool.fetchval("SELECT to_regclass($1) IS NULL", f"{schemas.derived}.position"):
        return None
    rows = await pool.fetch(f"SELECT topic, partition, next_offset FROM {schemas.derived}.position")  # noqa: S608 - a schema's name
    return {(row["topic"], row["partition"]): row["next_offset"] for row in rows}
