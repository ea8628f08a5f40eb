"""Announcements on PostgreSQL."""

import json
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from datetime import date, datetime
from typing import Any
from uuid import UUID

from tokenomics_chassis import outbox
from tokenomics_chassis.outbox import OutboxEvent
from tokenomics_chassis.projection import Connection
from tokenomics_chassis.records import SourceId
from tokenomics_contracts.events.quota import Announced
from tokenomics_contracts.units import AccountId, MicroUsd, PeriodId
from tokenomics_quota.domain.accounts import SINGLE_PURPOSES, Account, parse_account_id
from tokenomics_quota.domain.friction_budgets import Friction
from tokenomics_quota.ports import Announcement, Found, Unsettled
from tokenomics_quota.storage.friction import forget_friction, friction_of
from tokenomics_quota.storage.totals import committed_totals, daily_totals, totals_of_owners

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
# Of an account its total for both purposes together, beside what was last told of it; the first row has the
# positions of the same snapshot.
_UNSETTLED = """
WITH total AS (
    SELECT concat_ws('/', split_part(account_id, '/', 1), split_part(account_id, '/', 2), 'all', period)
               AS key,
           sum(posted_micro_usd)::bigint AS posted,
           sum(CASE split_part(account_id, '/', 3) WHEN 'experiment' THEN posted_micro_usd ELSE 0 END)::bigint
               AS experiment
    FROM posted WHERE {posted} GROUP BY 1
), told AS (
    SELECT DISTINCT ON (key) key, version, measured FROM announcement
    WHERE about = 'closed' AND {told} ORDER BY key, version DESC
), unsettled AS (
    SELECT key, coalesce(posted, 0), coalesce(experiment, 0), coalesce(version, 0), coalesce(measured, 0)
    FROM total FULL JOIN told USING (key)
    WHERE coalesce(posted, 0) <> coalesce(measured, 0)
    ORDER BY key LIMIT $2
)
SELECT (SELECT jsonb_object_agg(concat(topic, '/', partition), next_offset)::text FROM position), 0, 0, 0, 0
UNION ALL SELECT * FROM unsettled
"""
_UNSETTLED_IN = _UNSETTLED.format(posted="period = $1", told="split_part(key, '/', 4) = $1")
_UNSETTLED_OF = _UNSETTLED.format(posted="account_id = ANY($3::text[])", told="key = ANY($1::text[])")
_WAS_CLOSED = """
SELECT EXISTS (SELECT FROM announcement WHERE about = 'closed' AND split_part(key, '/', 4) = $1)
"""
_CLOSED = "SELECT key FROM announcement WHERE key = ANY($1::text[]) AND about = 'closed' AND version = 1"
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

    async def totals_of(
        self, owners: Collection[tuple[str, str]], *, since: PeriodId
    ) -> Mapping[AccountId, MicroUsd]:
        """Read what is committed of them; see :func:`totals_of_owners`."""
        return await totals_of_owners(self._connection, owners, since=since)

    async def days(
        self, owners: Collection[str], *, since: date, before: date
    ) -> Mapping[str, Mapping[date, MicroUsd]]:
        """Read what is committed; see :func:`daily_totals`."""
        return await daily_totals(self._connection, owners, since=since, before=before)

    async def unsettled(self, period: PeriodId, *, at_most: int) -> Found:
        """Compare all totals of the period with what was told, in one statement, hence in one snapshot."""
        return _found(await self._connection.fetch(_UNSETTLED_IN, period, at_most))

    async def unsettled_of(self, accounts: Collection[Account]) -> Found:
        """Compare some totals with what was told, in one statement."""
        keys = [account.account_id for account in accounts]
        lines = [each.for_purpose(purpose).account_id for each in accounts for purpose in SINGLE_PURPOSES]
        return _found(await self._connection.fetch(_UNSETTLED_OF, keys, len(keys), lines))

    async def was_closed(self, period: PeriodId) -> bool:
        """Look for any account's closing."""
        return await self._connection.fetchval(_WAS_CLOSED, period) or False

    async def closed(self, accounts: Collection[Account]) -> Collection[AccountId]:
        """Look them up by the unique key."""
        keys = [account.account_id for account in accounts]
        return {row[0] for row in await self._connection.fetch(_CLOSED, keys)}

    async def friction(self, week: date) -> Friction:
        """Read what is committed; see :func:`friction_of`."""
        return await friction_of(self._connection, week)

    async def forget_friction(self, *, before: date) -> None:
        """Delete it."""
        await forget_friction(self._connection, before)

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


def _found(rows: Sequence[Any]) -> Found:
    positions, *unsettled = rows
    return Found(
        [Unsettled(parse_account_id(key), *amounts) for key, *amounts in unsettled],
        json.loads(positions[0] or "{}"),
    )


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
