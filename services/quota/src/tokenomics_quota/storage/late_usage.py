"""Takes parked late usage up again when a `sources` policy lets its source back-fill."""

import asyncio
import logging
from collections.abc import Awaitable, Callable

from tokenomics_chassis.dependencies import is_dependency_away
from tokenomics_chassis.postgres import Backoff, Pool, wait_for
from tokenomics_contracts.catalogue import topic_of
from tokenomics_contracts.events.policy import PolicyPublished

log = logging.getLogger(__name__)

POLL_SECONDS = 1.0

_POLICY_TOPIC = topic_of(PolicyPublished.type_name).name
# By its id, and on which run of the server: a restored copy may come to the same number, or be at it already,
# without what was mended since.
_SOURCES_VERSION = """
SELECT history_id, pg_postmaster_start_time() FROM governing_version WHERE number = (
    SELECT coalesce(max(governing_version), 0) FROM governing_event
    WHERE topic = $1
      AND convert_from(data, 'UTF8')::jsonb ->> 'kind' = 'sources'
)
"""


class LateUsageMender:
    """Makes the outcome independent of which came first, the late event or the permission.

    Without it a permission that is read after the events it covers would leave them parked, and a replay that
    reads it before them would not. It looks once when it starts and whenever the server was started anew, so
    a crash in between and a restored database lose nothing; any number may run.
    """

    def __init__(self, pool: Pool, retry_late: Callable[[], Awaitable[int]]) -> None:
        self._pool = pool
        self._retry_late = retry_late

    async def run(self, stopping: asyncio.Event) -> None:
        """Watch for new `sources` policies until told to stop."""
        backoff = Backoff()
        mended_at = None
        while not stopping.is_set():
            try:
                version = await self._pool.fetchrow(_SOURCES_VERSION, _POLICY_TOPIC)
                if version != mended_at:
                    applied = await self._retry_late()
                    mended_at = version
                    log.info("parked late usage was tried again", extra={"applied": applied})
                backoff.reset()
            except Exception as error:
                if not is_dependency_away(error):
                    raise
                await backoff.pause(stopping, error, "looking for new sources policies")
            await wait_for(stopping, POLL_SECONDS)
