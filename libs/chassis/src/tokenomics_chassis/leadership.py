"""One leader among any number of processes: an advisory lock on the session the leader works on."""

import asyncio
import logging
import math
from collections.abc import Awaitable, Callable

from tokenomics_chassis.dependencies import is_dependency_away
from tokenomics_chassis.postgres import Backoff, Schemas, Session, session, wait_for

log = logging.getLogger(__name__)

CAMPAIGN_SECONDS = 0.5
"""How often a follower tries for the lock."""

LEASE_MS = 30_000
"""A leader silent for so long (a paused process) loses its session, and with it lock and transaction."""

STEADY_SECONDS = 15.0
"""A shorter term counts as a failed attempt: while a dependency is away, none lasts long."""

Work = Callable[[Session, asyncio.Event], Awaitable[None]]
"""Works as the leader, on the session that holds the lock, until the event is set. It must send a statement
more often than every :data:`LEASE_MS`, and write nothing through any other session."""


async def lead(url: str, schemas: Schemas, role: str, work: Work, stopping: asyncio.Event) -> None:
    """Do ``work`` whenever this process is the leader of ``role`` within the service, until ``stopping``.

    Lock and work share one session, so whoever lost the lock can't commit any more. A dependency's own
    trouble ends a term; a new one is sought with backoff and jitter. All other errors are raised.
    """
    backoff = Backoff()
    now = asyncio.get_running_loop().time
    while not stopping.is_set():
        leads_since = math.inf
        try:
            name = f"{schemas.service} {role}"
            async with session(url, schemas, application_name=name, idle_timeout_ms=LEASE_MS) as connection:
                await _campaign(connection, name, stopping)
                if not stopping.is_set():
                    log.info("leading", extra={"role": role})
                    leads_since = now()
                    await work(connection, stopping)
        except Exception as error:
            if not is_dependency_away(error):
                raise
            if now() - leads_since > STEADY_SECONDS:
                backoff.reset()
            await backoff.pause(stopping, error, role)


async def _campaign(connection: Session, name: str, stopping: asyncio.Event) -> None:
    while not await connection.fetchval("SELECT pg_try_advisory_lock(hashtextextended($1, 0))", name):
        if await wait_for(stopping, CAMPAIGN_SECONDS):
            return
