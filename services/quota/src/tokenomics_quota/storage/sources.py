"""What was read of sources of events, for who judges them."""

from collections.abc import Iterable, Mapping
from datetime import datetime

from tokenomics_chassis.changes import read_positions
from tokenomics_chassis.event_sources import last_seen
from tokenomics_chassis.projection import Connection


class PostgresSources:
    """Implements :class:`tokenomics_quota.ports.ReadSources` on one connection with an open transaction."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    async def last_seen(self, sources: Iterable[str]) -> Mapping[str, datetime]:
        """Read the rows of these sources."""
        return await last_seen(self._connection, sources)

    async def next_offsets(self) -> Mapping[tuple[str, int], int]:
        """Read every position."""
        positions = await read_positions(self._connection)
        return {(each.topic, each.partition): each.next_offset for each in positions}
