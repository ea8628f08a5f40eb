"""One leader among any number of processes: an advisory lock on the session the leader works on."""

import asyncio
import logging
from collections.abc import Awaitable, Callable

from tokenomics_chassis.postgres import Backoff, Schemas, Session, is_away, session, wait_for

log = logging.getLogger(__name__)

CAMPAIGN_SECONDS = 0.5
"""How often a follower tries for the lock."""

LEASE_MS = 30_000
"""A leader silent for so long (a paused process) loses its session, and with it lock and transaction."""

Work = Callable[[Session, asyncio.Event], Awaitable[None]]
"""Works as the leader, on the session that holds the lock, until the event is set. It must send a statement
more often than every :data:`LEASE_MS`, and write nothing through any other session."""


async def lead(
    url: str, schemas: Schemas, role: str, work: Work, stopping: asyncio.Event, *retried: type[Exception]
) -> None:
    """Do ``work`` whenever this process is the leader of ``role`` within the service, until ``stopping``.

    Lock and work share one session, so whoever lost the lock can't commit any more. The database's own
    trouble and errors of the types ``retried`` end a term; a new one is sought with backoff and jitter. All
    other errors are raised.
    """
    backoff = Backoff()
    while not stopping.is_set():
        try:
            name = f"{schemas.service} {role}"
            async with session(url, schemas, application_name=name, idle_timeout_ms=LEASE_MS) as connection:
                await _campaign(connection, name, stopping)
                if not stopping.is_set():
                    log.info("leading", extra={"role": role})
                    backoff.reset()
                    await work(connection, stopping)
        except Exception as error:
            if not (is_away(error) or isinstance(error, retried)):
                raise
            await backoff.pause(stopping, error, role)


async def _campaign(connection: Session, name: str, stopping: asyncio.Event) -> None:
    while not await connection.fetchval("SELECT pg_try_advisory_lock(hashtextextended($1, 0))", name):
        if await wait_for(stopping, CAMPAIGN_SECONDS):
            return
