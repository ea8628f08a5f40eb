"""Simulations on PostgreSQL, and the worker that works them off."""

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, Final

from tokenomics_chassis.dependencies import is_dependency_away
from tokenomics_chassis.failpoints import failpoint
from tokenomics_chassis.leadership import lead
from tokenomics_chassis.postgres import Connection, Pool, Schemas, Session, session, wait_for
from tokenomics_chassis.versions import active_version
from tokenomics_contracts.events.policy import DOCUMENT_MODELS
from tokenomics_quota.domain.friction import Decision
from tokenomics_quota.domain.simulations import (
    Asked,
    Changes,
    DecisionCount,
    Simulation,
    SimulationResult,
    SimulationState,
)
from tokenomics_quota.projections.facts import Fact, Received
from tokenomics_quota.projections.governance import Governance
from tokenomics_quota.storage.interventions import bypasses_between
from tokenomics_quota.storage.ledger import PostgresLedger
from tokenomics_quota.storage.mapping import FACT_COLUMNS, fact_from_row
from tokenomics_quota.usecases.projecting import KnownGovernance
from tokenomics_quota.usecases.simulating import Simulating

log = logging.getLogger(__name__)

KEPT_FOR: Final = timedelta(days=90)
"""After it has ended."""

MOST_WAITING: Final = 20
MOST_EVENTS: Final = 10_000_000
"""Of one simulation, whose snapshot keeps PostgreSQL from clearing up behind updates meanwhile."""

MOST_BEGINNINGS: Final = 10
"""So often one is begun: what kills its process each time must not do so for ever."""

LOOK_SECONDS: Final = 0.5
_TELL_SECONDS: Final = 1.0
_CHUNK: Final = 200
"""Facts folded before other tasks of the process have their turn: some hundredths of a second."""

_A_DAY: Final = timedelta(days=1)

_ASKED = ", ".join(Asked._fields)
_COLUMNS = f"{_ASKED}, state, replayed_events, total_events, result, error_message, ended_at"
_FIND = f"SELECT {_COLUMNS} FROM simulation WHERE simulation_id = $1"
_ADD = f"""
INSERT INTO simulation ({_ASKED}) SELECT $1, $2, $3, $4, $5, $6
WHERE (SELECT count(*) FROM simulation WHERE state = 'running') < {MOST_WAITING}
ON CONFLICT (simulation_id) DO NOTHING
"""
_FORGET = "DELETE FROM simulation WHERE ended_at < clock_timestamp() - $1::interval"
_BEGIN = f"""
UPDATE simulation SET begun = begun + 1, replayed_events = 0, total_events = 0
WHERE simulation_no = (SELECT min(simulation_no) FROM simulation WHERE state = 'running')
RETURNING {_ASKED}, begun
"""
_LEAVE = "UPDATE simulation SET begun = begun - 1 WHERE simulation_id = $1"
_PROGRESS = "UPDATE simulation SET replayed_events = $2, total_events = $3 WHERE simulation_id = $1"
_COMPLETE = """
UPDATE simulation
SET state = 'completed', result = $2, replayed_events = $3, total_events = $3, ended_at = clock_timestamp()
WHERE simulation_id = $1
"""
_FAIL = """
UPDATE simulation SET state = 'failed', error_message = $2, ended_at = clock_timestamp()
WHERE simulation_id = $1
"""
_COUNTED = """
FROM fact
WHERE event_kind IN ('recorded', 'provisional') AND counted AND occurred_at >= $1 AND occurred_at < $2
"""
_COUNT = f"SELECT count(*) {_COUNTED}"
_FACTS = f"SELECT {', '.join(FACT_COLUMNS)} {_COUNTED} ORDER BY occurred_at, identity"


class PostgresSimulations:
    """Implements :class:`tokenomics_quota.ports.Simulations` on a pool of the service's own schema."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def find(self, simulation_id: str) -> Simulation | None:
        """Look one up."""
        row = await self._pool.fetchrow(_FIND, simulation_id)
        return None if row is None else _simulation_from_row(row)

    async def add(self, asked: Asked) -> Simulation | None:
        """Insert, unless another call was first; committed when it returns."""
        await self._pool.execute(_ADD, *asked)
        return await self.find(asked.simulation_id)


class TooMuchUsageError(Exception):
    """There is more usage than one simulation may replay."""

    def __init__(self, events: int) -> None:
        super().__init__(f"{events:,} usage events are more than {MOST_EVENTS:,}: choose a shorter range")


class _Replayed:
    """How far a simulation is."""

    def __init__(self) -> None:
        self.events = self.total = 0


class Simulator:
    """Works off simulations in the order in which they were asked for, as one leader.

    Each reads one snapshot of the version that serves and writes nothing but its progress and, once, its
    result. One that is interrupted is begun again. An error that is no dependency's costs the simulation,
    which is marked as failed, never the process.

    Parameters
    ----------
    nothing
        The governing state before any event.
    """

    def __init__(self, url: str, service: str, nothing: Governance) -> None:
        self._url = url
        self._service = service
        self._nothing = nothing

    async def run(self, stopping: asyncio.Event) -> None:
        """Work off what there is and wait for more, while leading, until told to stop."""
        await lead(self._url, Schemas(self._service, None), "simulations", self._lead, stopping)

    async def _lead(self, connection: Session, stopping: asyncio.Event) -> None:
        await connection.execute(_FORGET, KEPT_FOR)
        while not stopping.is_set():
            row = await connection.fetchrow(_BEGIN)
            if row is None:
                await wait_for(stopping, LOOK_SECONDS)
                continue
            await self._work(connection, Asked(*row[:-1]), row["begun"], stopping)
            await connection.execute(_FORGET, KEPT_FOR)

    async def _work(self, connection: Session, asked: Asked, begun: int, stopping: asyncio.Event) -> None:
        """Work on one, on another session, and tell how far it is on that of the leader."""
        simulation_id, replayed = asked.simulation_id, _Replayed()
        if begun > MOST_BEGINNINGS:
            await connection.execute(
                _FAIL, simulation_id, f"it was begun {MOST_BEGINNINGS} times and interrupted each time"
            )
            return
        task = asyncio.create_task(self._simulate(asked, replayed))
        asked_to_stop = asyncio.create_task(stopping.wait())
        try:
            while not task.done() and not stopping.is_set():
                await asyncio.wait(
                    [task, asked_to_stop], timeout=_TELL_SECONDS, return_when=asyncio.FIRST_COMPLETED
                )
                await connection.execute(_PROGRESS, simulation_id, replayed.events, replayed.total)
            if not task.done():
                await connection.execute(_LEAVE, simulation_id)
                return
            result = await task
            failpoint("simulation.before_result")
            await connection.execute(_COMPLETE, simulation_id, _result_to_json(result), replayed.total)
        except Exception as error:
            if is_dependency_away(error):
                raise
            log.exception("a simulation failed")
            what = str(error) if isinstance(error, TooMuchUsageError) else f"{type(error).__name__}: {error}"
            await connection.execute(_FAIL, simulation_id, what[:1000])
        finally:
            asked_to_stop.cancel()
            task.cancel()
            await asyncio.wait([task])

    async def _simulate(self, asked: Asked, replayed: _Replayed) -> SimulationResult:
        async with session(
            self._url, Schemas(self._service, None), application_name=f"{self._service} simulation"
        ) as connection:
            schemas = Schemas(self._service, await active_version(connection))
        name = f"{self._service} simulation"
        async with (
            session(self._url, schemas, application_name=name, patient=True) as connection,
            connection.transaction(isolation="repeatable_read", readonly=True),
        ):
            governance = await KnownGovernance(self._nothing).read(PostgresLedger(connection))
            documents = {
                kind: DOCUMENT_MODELS[kind].model_validate(document)
                for kind, document in json.loads(asked.documents).items()
            }
            bypasses = await bypasses_between(connection, asked.since, asked.before)
            simulating = Simulating(governance, documents, asked.since, bypasses)
            replayed.total = await connection.fetchval(_COUNT, simulating.begins, asked.before)
            if replayed.total > MOST_EVENTS:
                raise TooMuchUsageError(replayed.total)
            async for facts, corrections in _usage(connection, simulating.begins, asked.before):
                for fact in facts:
                    simulating.add(fact, corrections.get(fact.received.identity, {}))
                replayed.events += len(facts)
        return simulating.result()


async def _usage(
    connection: Connection, since: datetime, before: datetime
) -> AsyncIterator[tuple[Sequence[Fact], Mapping[bytes, Mapping[bytes, Received]]]]:
    """Read what counts, in the order of its time, some at a time with the corrections of those that have one.

    Day by day, so that PostgreSQL sorts no more than a day of it.
    """
    while since < before:
        end = min(since + _A_DAY, before)
        cursor = await connection.cursor(_FACTS, since, end)
        while rows := await cursor.fetch(_CHUNK):
            facts = [fact_from_row(tuple(row)) for row in rows]
            corrected = [
                each.received.identity for each in facts if each.derived and each.derived.applied_revision
            ]
            yield facts, await PostgresLedger(connection).corrections(corrected) if corrected else {}
        since = end


def _simulation_from_row(row: Any) -> Simulation:
    asked, (state, replayed, total, result, error_message, ended_at) = row[:6], row[6:]
    return Simulation(
        Asked(*asked),
        SimulationState(state),
        replayed,
        total,
        None if result is None else _result_from_json(result),
        error_message,
        ended_at,
    )


def _result_to_json(result: SimulationResult) -> str:
    return json.dumps(result._asdict())


def _result_from_json(text: str) -> SimulationResult:
    stored = json.loads(text)
    decisions = [DecisionCount(Decision(each[0]), *each[1:]) for each in stored.pop("decisions")]
    changes = Changes(*stored.pop("changes"))
    teams, roles = ([Changes(*each) for each in stored.pop(name)] for name in ("teams", "roles"))
    return SimulationResult(decisions=decisions, changes=changes, teams=teams, roles=roles, **stored)
