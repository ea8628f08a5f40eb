"""The views of a serving process, one a live version of the derived state; one of them answers."""

import asyncio
import logging
from collections.abc import Mapping
from datetime import datetime
from typing import Generic, Protocol, TypeVar
from uuid import UUID

from tokenomics_chassis.dependencies import is_dependency_away
from tokenomics_chassis.postgres import Pool, wait_for

log = logging.getLogger(__name__)

BEAT_SECONDS = 2.0
LIVE_SECONDS = 10
"""A server that has not said for so long what it holds is not waited for."""

_SAY = """
INSERT INTO loaded_version (server_id, version, seen_at)
SELECT $1, version, clock_timestamp() FROM unnest($2::int[]) AS version
ON CONFLICT (server_id, version) DO UPDATE SET seen_at = excluded.seen_at
"""
_UNSAY = """
DELETE FROM loaded_version
WHERE (server_id = $1 AND version <> ALL($2::int[])) OR seen_at < clock_timestamp() - interval '1 hour'
"""


class View(Protocol):
    """What is known of any service's view."""

    @property
    def next_offsets(self) -> Mapping[str, int]:
        """How far each partition is applied, by ``topic/partition``."""
        ...

    @property
    def refreshed_at(self) -> datetime | None:
        """When it last equalled the committed state; ``None`` before the first load."""
        ...


V = TypeVar("V", bound=View)


class Serving(Generic[V]):
    """Holds a view for each live version and says which one answers.

    Answers never go back: when another version is promoted, the view that answers stands still where it is,
    and the other one takes over as soon as it covers all that this one has applied. A promotion leaves the
    new version ahead of where the old one stood, so that this is its next refresh.
    """

    def __init__(self) -> None:
        self._views: dict[int, V] = {}
        self._version: int | None = None
        self._current: V | None = None

    @property
    def current(self) -> V | None:
        """The view that answers; ``None`` until one is loaded. Another one from one moment to the next."""
        return self._current

    @property
    def version(self) -> int | None:
        """The version that it is of."""
        return self._version

    @property
    def loaded(self) -> list[int]:
        """The versions at hand, by number."""
        return sorted(self._views)

    def may_move(self, version: int, active: int) -> bool:
        """Whether a view may take in what is committed, given which version served in the same snapshot."""
        return version == active or version != self._version

    def put(self, version: int, view: V, active: int) -> None:
        """Take note of a view that was refreshed in a snapshot in which ``active`` served."""
        self._views[version] = view
        if version == active and version != self._version and self._covered_by(view):
            log.info("another version answers", extra={"version": version, "before": self._version})
            self._version, self._current = version, view

    def drop(self, version: int) -> None:
        """Forget a version that is live no longer. If it answers, it does until another one is at hand."""
        self._views.pop(version, None)
        if version == self._version:
            self._version = None

    def _covered_by(self, view: V) -> bool:
        if self._version is None or self._current is None:
            return True
        offsets = view.next_offsets
        return all(offsets.get(place, 0) >= offset for place, offset in self._current.next_offsets.items())


class LoadedVersions:
    """Tells the database, for whoever promotes, which versions this server holds."""

    def __init__(self, pool: Pool, server_id: UUID, serving: Serving[V]) -> None:
        self._pool = pool
        self._server_id = server_id
        self._serving = serving

    async def run(self, stopping: asyncio.Event) -> None:
        """Tell it every two seconds until told to stop, and then that it holds none."""
        while not stopping.is_set():
            await self._tell(self._serving.loaded)
            await wait_for(stopping, BEAT_SECONDS)
        await self._tell([])

    async def _tell(self, versions: list[int]) -> None:
        try:
            await self._pool.execute(_SAY, self._server_id, versions)
            await self._pool.execute(_UNSAY, self._server_id, versions)
        except Exception as error:
            if not is_dependency_away(error):
                raise
            log.info("the versions held could not be told", extra={"error": repr(error)})
