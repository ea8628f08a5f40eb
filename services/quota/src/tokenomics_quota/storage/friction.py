"""What all servers together have counted of a week's calls, and what was told of it."""

import asyncio
from collections import Counter
from collections.abc import Iterable
from datetime import date
from typing import Final
from uuid import UUID

import asyncpg

from tokenomics_chassis.clock import Clock
from tokenomics_chassis.postgres import Backoff, Connection, Pool, is_away, wait_for
from tokenomics_contracts.events.quota import FrictionExceeded
from tokenomics_contracts.units import BasisPoints
from tokenomics_quota.domain.friction_budgets import WEEK, Friction, Interruption, week_begins, week_of
from tokenomics_quota.metrics import FRICTION_INTERRUPTIONS
from tokenomics_quota.usecases.friction import FrictionCounts

EVERY_SECONDS: Final = 5.0

_PASSED = """
INSERT INTO friction_passed (week, server_id, checks)
SELECT week, $2, checks FROM unnest($1::date[], $3::bigint[]) AS counted (week, checks)
ON CONFLICT (week, server_id) DO UPDATE SET checks = excluded.checks
"""
# In one order for all servers: then none waits for another that waits for it.
_INTERRUPTED = """
INSERT INTO friction_interruption (hour, rule, subject)
SELECT * FROM unnest($1::timestamptz[], $2::text[], $3::text[]) ORDER BY 1, 2, 3
ON CONFLICT DO NOTHING RETURNING rule
"""
_COUNT_PASSED = "SELECT coalesce(sum(checks), 0)::bigint FROM friction_passed WHERE week = $1"
_COUNT_INTERRUPTED = """
SELECT rule, count(*) FROM friction_interruption WHERE hour >= $1 AND hour < $2 GROUP BY rule
"""
_TOLD = "SELECT key, basis_points FROM announcement WHERE key = ANY($1::text[]) AND about LIKE $2"


class FrictionLog:
    """Writes down every few seconds what a server has counted, and at its end.

    Writing the same again changes nothing: a server says how many calls it has let pass in a week, not how
    many more. A server that is killed takes the counts of its last seconds with it; while the database is
    away they wait.
    """

    def __init__(self, pool: Pool, counts: FrictionCounts, server_id: UUID, clock: Clock) -> None:
        self._pool = pool
        self._counts = counts
        self._server_id = server_id
        self._clock = clock
        self._passed: Counter[date] = Counter()
        """Of every week since the start."""
        self._moved: set[date] = set()
        """Weeks of which the database doesn't know it yet."""
        self._unwritten: set[Interruption] = set()

    async def run(self, stopping: asyncio.Event) -> None:
        """Write until told to stop; then once more."""
        backoff = Backoff(max_seconds=EVERY_SECONDS)
        last = False
        while not last:
            await wait_for(stopping, EVERY_SECONDS)
            last = stopping.is_set()
            try:
                await self.write()
            except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError) as error:
                if not is_away(error):
                    raise
                await backoff.pause(stopping, error, "counting friction")
            else:
                backoff.reset()

    async def write(self) -> None:
        """Write down what the database doesn't know yet."""
        passed, interruptions = self._counts.take()
        if passed:
            week = week_of(self._clock.now())
            self._passed[week] += passed
            self._moved.add(week)
        self._unwritten |= interruptions
        if not (self._moved or self._unwritten):
            return
        async with self._pool.acquire() as connection, connection.transaction():
            weeks = list(self._moved)
            await connection.execute(_PASSED, weeks, self._server_id, [self._passed[week] for week in weeks])
            new = await connection.fetch(_INTERRUPTED, *_columns(self._unwritten))
        self._moved.clear()
        self._unwritten.clear()
        for rule, count in Counter(row[0] for row in new).items():
            FRICTION_INTERRUPTIONS.add(count, {"rule": rule})


def _columns(found: Iterable[Interruption]) -> tuple[list[object], ...]:
    return tuple(map(list, zip(*found, strict=True))) or ([], [], [])


async def friction_of(connection: Connection, week: date) -> Friction:
    """Return what all servers have written down of a week."""
    begins = week_begins(week)
    return Friction(
        await connection.fetchval(_COUNT_PASSED, week),
        dict(await connection.fetch(_COUNT_INTERRUPTED, begins, begins + WEEK)),
    )


async def forget_friction(connection: Connection, before: date) -> None:
    """Delete what was written down of the weeks before one."""
    await connection.execute("DELETE FROM friction_passed WHERE week < $1", before)
    await connection.execute("DELETE FROM friction_interruption WHERE hour < $1", week_begins(before))


async def told_of_friction(
    connection: Connection, week: date, rules: Iterable[str]
) -> list[tuple[str, BasisPoints]]:
    """Return of which of these rules was told in a week that they interrupt more than which share."""
    about = FrictionExceeded.about_week(week.isoformat())
    return [(row[0], row[1]) for row in await connection.fetch(_TOLD, list(rules), f"{about}/%")]
