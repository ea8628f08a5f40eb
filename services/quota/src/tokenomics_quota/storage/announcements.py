"""Announcements on PostgreSQL."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from uuid import UUID

from tokenomics_chassis import outbox
from tokenomics_chassis.outbox import OutboxEvent
from tokenomics_chassis.projection import Connection
from tokenomics_chassis.records import SourceId
from tokenomics_contracts.events.quota import Announced
from tokenomics_contracts.units import AccountId, MicroUsd, PeriodId
from tokenomics_quota.ports import Announcement
from tokenomics_quota.storage.totals import committed_totals

_COLUMNS = (
    "announcement_id",
    "event_type",
    "key",
    "about",
    "version",
    "measured",
    "bound",
    "basis_points",
    "announced_at",
)
_SAID = "SELECT announcement_id FROM announcement WHERE announcement_id = ANY($1::uuid[])"
_REMEMBER = f"""
INSERT INTO announcement ({", ".join(_COLUMNS)})
SELECT * FROM unnest($1::uuid[], $2::text[], $3::text[], $4::text[], $5::bigint[], $6::bigint[], $7::bigint[],
                     $8::int[], $9::timestamptz[])
ON CONFLICT DO NOTHING RETURNING announcement_id
"""

Name = Callable[[Announced], UUID]
"""Returns the id that an announcement has whenever it is made."""
Encode = Callable[[Announced, datetime], OutboxEvent]


class PostgresAnnouncements:
    """Implements :class:`tokenomics_quota.ports.Announcements` on one connection with an open transaction."""

    def __init__(self, connection: Connection, name: Name, encode: Encode) -> None:
        self._connection = connection
        self._name = name
        self._encode = encode

    async def totals(
        self, moved: Mapping[SourceId, int] | None, *, since: PeriodId
    ) -> Mapping[AccountId, MicroUsd]:
        """Read what is committed; see :func:`committed_totals`."""
        return await committed_totals(self._connection, moved, since=since)

    async def announce(self, due: Iterable[Announced], now: datetime) -> int:
        """Insert what isn't there; a second announcer would fail on the primary key and say nothing."""
        named = {self._name(each): each for each in due}
        if not named:
            return 0
        said = {row[0] for row in await self._connection.fetch(_SAID, list(named))}
        unsaid = {name: each for name, each in named.items() if name not in said}
        await self._connection.copy_records_to_table(
            "announcement",
            records=[_row(name, Announcement(each, now)) for name, each in unsaid.items()],
            columns=_COLUMNS,
        )
        await outbox.append_all(
            self._connection,
            ((f"announcement/{name}", 1, self._encode(each, now)) for name, each in unsaid.items()),
        )
        return len(unsaid)


async def remember(connection: Connection, made: Sequence[tuple[UUID, Announcement]]) -> int:
    """Insert announcements that were made, without saying them again; return how many were not known."""
    rows = [_row(*each) for each in made]
    return len(await connection.fetch(_REMEMBER, *zip(*rows, strict=True))) if rows else 0


def _row(announcement_id: UUID, made: Announcement) -> tuple[object, ...]:
    event, announced_at = made
    return (
        announcement_id,
        event.type_name,
        event.key,
        event.about,
        event.announced_version,
        *event.ground,
        announced_at,
    )
