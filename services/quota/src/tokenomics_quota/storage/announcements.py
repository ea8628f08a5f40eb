"""Announcements on PostgreSQL."""

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from uuid import UUID

from tokenomics_chassis import outbox
from tokenomics_chassis.outbox import OutboxEvent
from tokenomics_chassis.projection import Connection
from tokenomics_chassis.records import SourceId
from tokenomics_contracts.units import AccountId, MicroUsd, PeriodId
from tokenomics_quota.ports import Announcement, DueThreshold
from tokenomics_quota.storage.totals import committed_totals

_SAID = "SELECT announcement_id FROM announcement WHERE announcement_id = ANY($1::uuid[])"
_ANNOUNCE = """
INSERT INTO announcement
    (announcement_id, account_id, threshold_basis_points, limit_micro_usd, posted_micro_usd, announced_at)
VALUES ($1, $2, $3, $4, $5, $6)
"""
_REMEMBER = """
INSERT INTO announcement
SELECT * FROM unnest($1::uuid[], $2::text[], $3::int[], $4::bigint[], $5::bigint[], $6::timestamptz[])
ON CONFLICT DO NOTHING RETURNING announcement_id
"""

Describe = Callable[[DueThreshold, datetime], tuple[UUID, OutboxEvent]]
"""Names an announcement and encodes its event."""


class PostgresAnnouncements:
    """Implements :class:`tokenomics_quota.ports.Announcements` on one connection with an open transaction."""

    def __init__(self, connection: Connection, describe: Describe) -> None:
        self._connection = connection
        self._describe = describe

    async def totals(
        self, moved: Mapping[SourceId, int] | None, *, since: PeriodId
    ) -> Mapping[AccountId, MicroUsd]:
        """Read what is committed; see :func:`committed_totals`."""
        return await committed_totals(self._connection, moved, since=since)

    async def announce(self, due: Sequence[DueThreshold], now: datetime) -> int:
        """Insert what isn't there; a second announcer would fail on the primary key and say nothing."""
        described = {}
        for each in due:
            announcement_id, event = self._describe(each, now)
            described[announcement_id] = (each, event)
        said = {row[0] for row in await self._connection.fetch(_SAID, list(described))}
        unsaid = [(name, *what) for name, what in described.items() if name not in said]
        await self._connection.executemany(
            _ANNOUNCE,
            [
                Announcement(
                    name,
                    each.account.account_id,
                    each.threshold_basis_points,
                    each.limit_micro_usd,
                    each.posted_micro_usd,
                    now,
                )
                for name, each, _ in unsaid
            ],
        )
        await outbox.append_all(
            self._connection,
            ((f"announcement/{name}", 1, event) for name, _, event in unsaid),
        )
        return len(unsaid)


async def remember(connection: Connection, made: Sequence[Announcement]) -> int:
    """Insert announcements that were made, without saying them again; return how many were not known."""
    return len(await connection.fetch(_REMEMBER, *zip(*made, strict=True))) if made else 0
