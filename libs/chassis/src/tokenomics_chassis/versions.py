"""Versions of the derived state: which there are, which one serves, and work that runs for each of some."""

import asyncio
import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import NamedTuple

from tokenomics_chassis.audit import Entry
from tokenomics_chassis.dependencies import is_dependency_away
from tokenomics_chassis.postgres import Backoff, Connection, Pool
from tokenomics_chassis.process import FatalError, ReadinessCheck, Task

log = logging.getLogger(__name__)

LOOK_SECONDS = 0.5
"""How long a process goes on as if no version had come or gone."""


class VersionState(StrEnum):
    """Where a version stands; see the table ``derived_version``."""

    CATCHING_UP = "catching_up"
    CAUGHT_UP = "caught_up"
    ACTIVE = "active"
    STANDBY = "standby"
    VERIFYING = "verifying"
    RETIRED = "retired"
    FAILED = "failed"


FED = frozenset({VersionState.CAUGHT_UP, VersionState.ACTIVE, VersionState.STANDBY})
"""States in which a version follows the log."""

HAVE_TABLES = FED | {VersionState.CATCHING_UP, VersionState.VERIFYING}
"""States in which a version's schema has to fit this code."""


class Why(NamedTuple):
    """Who asked for a change, and on what ground: codes, never free text."""

    reason_code: str
    ticket_id: str
    asked_by: str
    through: str
    """Workload through which it was asked for."""

    def entry(self, action: str, target: str, **details: str) -> Entry:
        """Return what the audit trail says of it."""
        return Entry(self.asked_by, self.through, action, target, self.reason_code, self.ticket_id, details)


@dataclass(frozen=True, slots=True)
class DerivedVersion:
    """One version of the derived state."""

    version: int
    rebuild_id: str
    state: VersionState
    started_at: datetime
    total_records: int | None
    """In the log when the work began; ``None`` until then."""
    caught_up_at: datetime | None
    error_message: str | None
    verifies: bool
    """It is recomputed to be compared, and will never serve."""


LOCK_VERSIONS = "LOCK TABLE derived_version IN SHARE ROW EXCLUSIVE MODE"
"""Taken by whoever adds a version or moves one to another state; readers don't wait for it."""

_SELECT = """
SELECT version, rebuild_id, state, started_at, total_records, caught_up_at, error_message,
       EXISTS (SELECT FROM verification WHERE verification.version = derived_version.version) AS verifies
FROM derived_version
"""
_LIST = f"{_SELECT} ORDER BY version"
_GET = f"{_SELECT} WHERE rebuild_id = $1"
_ACTIVE = "SELECT version FROM derived_version WHERE state = 'active'"
_HOLD_ACTIVE = "SELECT FROM derived_version WHERE version = $1 AND state = 'active' FOR SHARE"
_FAIL = """
UPDATE derived_version SET state = 'failed', error_message = $2
WHERE version = $1 AND state NOT IN ('active', 'retired', 'failed')
"""


async def list_versions(connection: Connection | Pool) -> Sequence[DerivedVersion]:
    """Read every version there ever was, by number."""
    return [_from_row(row) for row in await connection.fetch(_LIST)]


async def find_version(connection: Connection | Pool, rebuild_id: str) -> DerivedVersion | None:
    """Read the version that a rebuild fills."""
    row = await connection.fetchrow(_GET, rebuild_id)
    return None if row is None else _from_row(row)


async def active_version(connection: Connection | Pool) -> int:
    """Read which version serves."""
    version: int = await connection.fetchval(_ACTIVE)
    return version


async def hold_active(connection: Connection, version: int) -> bool:
    """Whether this version serves; if it does, none is promoted before the transaction ends."""
    return await connection.fetchrow(_HOLD_ACTIVE, version) is not None


async def fail_version(connection: Connection | Pool, version: int, error: BaseException) -> None:
    """Give a version up that doesn't serve; what serves is never given up."""
    await connection.execute(_FAIL, version, f"{type(error).__name__}: {error}"[:1000])


def _from_row(row: Mapping[str, object]) -> DerivedVersion:
    return DerivedVersion(**{**row, "state": VersionState(str(row["state"]))})  # type: ignore[arg-type] # a row


@dataclass(frozen=True, slots=True)
class VersionWork:
    """What a process does for one version."""

    run: Task
    """Opens what it needs, works until the event is set, and closes it."""

    not_ready_because: ReadinessCheck


@dataclass(slots=True)
class _Running:
    work: VersionWork
    task: asyncio.Task[None]
    stopping: asyncio.Event


class EachVersion:
    """Runs a piece of work for every version in some states, as versions come and go.

    An error in the work for the version that serves ends the process, as any supervised task's does. In the
    work for another version it costs that version, which is marked as failed, and nothing else.
    """

    def __init__(
        self, pool: Pool, states: Collection[VersionState], begin: Callable[[int], VersionWork]
    ) -> None:
        """Wire it; ``pool`` works on the service's own schema."""
        self._pool = pool
        self._states = frozenset(states)
        self._begin = begin
        self._running: dict[int, _Running] = {}
        self._active: int | None = None

    async def not_ready_because(self) -> str | None:
        """Tell why the work for the version that serves isn't ready."""
        running = None if self._active is None else self._running.get(self._active)
        if running is None:
            return "the version that serves is not known yet"
        return await running.work.not_ready_because()

    async def run(self, stopping: asyncio.Event) -> None:
        """Keep up with the versions until told to stop; then stop what runs."""
        backoff = Backoff()
        asked = asyncio.create_task(stopping.wait())
        try:
            while not stopping.is_set():
                try:
                    await self._keep_up(await list_versions(self._pool))
                    backoff.reset()
                except Exception as error:
                    if not is_dependency_away(error):
                        raise
                    await backoff.pause(stopping, error, "looking for versions of the derived state")
                tasks = [each.task for each in self._running.values()]
                await asyncio.wait([asked, *tasks], timeout=LOOK_SECONDS, return_when=asyncio.FIRST_COMPLETED)
        finally:
            asked.cancel()
            await self._stop(list(self._running))

    async def _keep_up(self, versions: Sequence[DerivedVersion]) -> None:
        states = {each.version: each.state for each in versions}
        self._active = next((each for each, state in states.items() if state is VersionState.ACTIVE), None)
        wanted = {version for version, state in states.items() if state in self._states}
        for version in [each for each, running in self._running.items() if running.task.done()]:
            if version in wanted:
                await self._failed(version)
                wanted.discard(version)
            else:
                del self._running[version]  # its tables may be gone already: no wonder that it failed
        await self._stop([version for version in self._running if version not in wanted])
        for version in sorted(wanted - self._running.keys()):
            log.info("a version of the derived state is taken on", extra={"derived_version": version})
            work, stop = self._begin(version), asyncio.Event()
            task = asyncio.create_task(_call(work, stop), name=f"version {version}")
            self._running[version] = _Running(work, task, stop)

    async def _failed(self, version: int) -> None:
        error = self._running.pop(version).task.exception() or FatalError(f"version {version} ended unasked")
        if version == self._active or is_dependency_away(error):
            raise error
        log.error("a version that does not serve has failed", exc_info=error, extra={"version": version})
        await fail_version(self._pool, version, error)

    async def _stop(self, versions: Collection[int]) -> None:
        stopped = [self._running.pop(version) for version in versions]
        for each in stopped:
            each.stopping.set()
        for each in stopped:
            try:
                await asyncio.wait([each.task])
            except asyncio.CancelledError:
                each.task.cancel()
                raise
            if (error := each.task.exception()) is not None:
                log.warning("work for a version failed while it was stopped", exc_info=error)


async def _call(work: VersionWork, stopping: asyncio.Event) -> None:
    await work.run(stopping)
