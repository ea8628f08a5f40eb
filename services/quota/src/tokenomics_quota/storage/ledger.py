"""The ledger on PostgreSQL."""

from collections.abc import AsyncIterator, Collection, Iterable, Mapping, Sequence
from datetime import date

from tokenomics_chassis.projection import Connection, Source
from tokenomics_contracts.units import HoldId
from tokenomics_quota.domain.effective import LogOrder
from tokenomics_quota.domain.identity import Rival
from tokenomics_quota.ports import Corrections, GoverningVersion
from tokenomics_quota.projections.facts import AssetReuse, Fact, Postings
from tokenomics_quota.projections.governance import GoverningEvent, Scope
from tokenomics_quota.storage.mapping import (
    FACT_COLUMNS,
    fact_from_row,
    governing_event_from_row,
    row_from_fact,
)

_COLUMNS = ", ".join(FACT_COLUMNS)
_CHUNK = 5_000

# One lock per derived schema: two versions being filled side by side don't wait for each other.
_LOCK = "SELECT pg_advisory_xact_lock{mode}(hashtextextended(current_schema() || ' governance', 0))"

_VERSION = "SELECT number, history_id FROM governing_version ORDER BY number DESC LIMIT 1"
_WENT_THROUGH = "SELECT true FROM governing_version WHERE number = $1 AND history_id = $2"

_FACTS = f"SELECT {_COLUMNS} FROM fact WHERE identity = ANY($1::bytea[]) ORDER BY identity FOR UPDATE"
_CORRECTIONS = f"SELECT {_COLUMNS} FROM fact WHERE corrects = ANY($1::bytea[])"
_PROVISIONAL = f"""
SELECT {_COLUMNS} FROM fact WHERE hold_id = ANY($1::text[]) AND event_kind = 'provisional'
ORDER BY identity FOR UPDATE
"""
_NAMED = """
SELECT hold_id FROM unnest($1::text[]) AS hold (hold_id)
WHERE EXISTS (
    SELECT FROM fact WHERE fact.hold_id = hold.hold_id AND event_kind = 'recorded' AND counted
)
"""
_AWAIT = """
INSERT INTO fact (identity, event_kind)
SELECT identity, 'awaited' FROM unnest($1::bytea[]) AS identity ORDER BY identity
ON CONFLICT (identity) DO NOTHING
"""
_UPDATE = f"""
UPDATE fact SET {", ".join(f"{column} = ${i}" for i, column in enumerate(FACT_COLUMNS[1:], start=2))}
WHERE identity = $1
"""
_POST = """
INSERT INTO posted (account_id, source_id, period, posted_micro_usd, change_seq)
SELECT account_id, $3, split_part(account_id, '/', 4), posted_micro_usd, $4
FROM unnest($1::text[], $2::bigint[]) AS amount (account_id, posted_micro_usd)
ON CONFLICT (account_id, source_id) DO UPDATE
SET posted_micro_usd = posted.posted_micro_usd + excluded.posted_micro_usd, change_seq = excluded.change_seq
"""
_POST_DAYS = """
INSERT INTO daily (owner, day, source_id, posted_micro_usd)
SELECT owner, day, $4, posted_micro_usd
FROM unnest($1::text[], $2::date[], $3::bigint[]) AS amount (owner, day, posted_micro_usd)
ON CONFLICT (owner, day, source_id) DO UPDATE
SET posted_micro_usd = daily.posted_micro_usd + excluded.posted_micro_usd
"""
_PUT_REUSES = """
INSERT INTO asset_user (asset_id, subject, source_id, change_seq)
SELECT asset_id, subject, $3, $4 FROM unnest($1::text[], $2::text[]) AS reuse (asset_id, subject)
ON CONFLICT DO NOTHING
"""
_SCOPED = f"""
SELECT {_COLUMNS} FROM fact
WHERE event_kind IN ('recorded', 'provisional') AND occurred_at >= $1
"""
_PUT_RIVAL = """
INSERT INTO rival (topic, identity, digest, append_ms, partition, record_offset)
VALUES ($1, $2, $3, $4, $5, $6)
ON CONFLICT DO NOTHING
"""
_RIVALS = """
SELECT identity, digest, append_ms, partition, record_offset FROM rival
WHERE topic = $1 AND identity = ANY($2::bytea[])
"""
_PUT_GOVERNING = """
INSERT INTO governing_event
    (topic, identity, digest, append_ms, partition, record_offset, event_type, data, governing_version)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)
ON CONFLICT (topic, identity) DO UPDATE
SET digest = excluded.digest, append_ms = excluded.append_ms, partition = excluded.partition,
    record_offset = excluded.record_offset, event_type = excluded.event_type, data = excluded.data,
    governing_version = excluded.governing_version
"""


class PostgresLedger:
    """Implements :class:`tokenomics_quota.ports.Ledger` on one connection with an open transaction."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    async def lock_governance(self, *, exclusive: bool) -> None:
        """Take the advisory lock; statements from here on see what it waited for."""
        await self._connection.execute(_LOCK.format(mode="" if exclusive else "_shared"))

    async def governing_version(self) -> GoverningVersion:
        """Read the newest version."""
        row = await self._connection.fetchrow(_VERSION)
        assert row is not None, "migrations write version 0"
        return GoverningVersion(*row)

    async def went_through(self, version: GoverningVersion) -> bool:
        """Look the version up by number and id."""
        return await self._connection.fetchval(_WENT_THROUGH, *version) or False

    async def governing_events(self, *, after: int) -> Sequence[GoverningEvent]:
        """Read the events of later versions."""
        rows = await self._connection.fetch(
            "SELECT * FROM governing_event WHERE governing_version > $1 ORDER BY governing_version", after
        )
        return [governing_event_from_row(row) for row in rows]

    async def governing_holders(
        self, topic: str, identities: Iterable[bytes]
    ) -> Mapping[bytes, GoverningEvent]:
        """Read the events that hold these identities."""
        rows = await self._connection.fetch(
            "SELECT * FROM governing_event WHERE topic = $1 AND identity = ANY($2::bytea[])",
            topic,
            list(identities),
        )
        return {row["identity"]: governing_event_from_row(row) for row in rows}

    async def put_governing_events(self, events: Iterable[GoverningEvent], version: int) -> None:
        """Upsert the events and move the version."""
        rows = [
            (
                event.topic,
                event.identity,
                event.digest,
                *event.order,
                event.event.type_name,
                event.event.model_dump_json(by_alias=True, exclude_none=True).encode(),
                version,
            )
            for event in events
        ]
        await self._connection.executemany(_PUT_GOVERNING, rows)
        await self._connection.execute("INSERT INTO governing_version (number) VALUES ($1)", version)

    async def await_originals(self, identities: Iterable[bytes]) -> None:
        """Insert empty rows; waits for a transaction that is inserting the same identity."""
        await self._connection.execute(_AWAIT, list(identities))

    async def facts(self, identities: Iterable[bytes]) -> dict[bytes, Fact]:
        """Select by primary key, locked in one order."""
        rows = await self._connection.fetch(_FACTS, list(identities))
        return {row[0]: fact_from_row(row) for row in rows}

    async def corrections(self, originals: Iterable[bytes]) -> Corrections:
        """Select by the index on corrections."""
        found: Corrections = {}
        for row in await self._connection.fetch(_CORRECTIONS, list(originals)):
            correction = fact_from_row(row).received
            assert correction.corrects is not None
            found.setdefault(correction.corrects, {})[correction.identity] = correction
        return found

    async def provisional(self, holds: Iterable[HoldId]) -> Sequence[Fact]:
        """Select by an index on provisional facts alone, locked in one order."""
        return [fact_from_row(row) for row in await self._connection.fetch(_PROVISIONAL, list(holds))]

    async def named(self, holds: Iterable[HoldId]) -> Collection[HoldId]:
        """Look each up by the index on facts that name holds."""
        return {row[0] for row in await self._connection.fetch(_NAMED, list(holds))}

    async def facts_in(self, scope: Scope) -> AsyncIterator[Sequence[Fact]]:
        """Stream by a cursor; the exclusive governing lock keeps the rows still."""
        arguments: list[object] = [scope.since]
        condition = ""
        if scope.priced:
            condition = " AND pricing <> 'reported'"
        elif not scope.everything:
            condition = " AND subject = ANY($2::text[])"
            arguments.append(sorted(scope.subjects))
        cursor = await self._connection.cursor(_SCOPED + condition, *arguments)
        while rows := await cursor.fetch(_CHUNK):
            yield [fact_from_row(row) for row in rows]

    async def insert(self, facts: Iterable[Fact]) -> None:
        """COPY: the fastest way in."""
        await self._connection.copy_records_to_table(
            "fact", records=[row_from_fact(fact) for fact in facts], columns=FACT_COLUMNS
        )

    async def update(self, facts: Iterable[Fact]) -> None:
        """Rewrite whole rows."""
        await self._connection.executemany(_UPDATE, [row_from_fact(fact) for fact in facts])

    async def put_rivals(self, topic: str, rivals: Mapping[bytes, Iterable[Rival]]) -> None:
        """Insert what isn't there."""
        rows = [
            (topic, identity, digest, *order) for identity, each in rivals.items() for digest, order in each
        ]
        await self._connection.executemany(_PUT_RIVAL, rows)

    async def rivals(self, topic: str, identities: Iterable[bytes]) -> Mapping[bytes, Sequence[Rival]]:
        """Select by primary key."""
        found: dict[bytes, list[Rival]] = {}
        for identity, digest, *order in await self._connection.fetch(_RIVALS, topic, list(identities)):
            found.setdefault(identity, []).append(Rival(digest, LogOrder(*order)))
        return found

    async def put_reuses(self, reuses: Iterable[AssetReuse], source: Source) -> None:
        """Insert what isn't there."""
        assets, subjects = zip(*sorted(set(reuses)), strict=True)
        await self._connection.execute(_PUT_REUSES, assets, subjects, source.source_id, source.change_seq)

    async def post(self, postings: Postings, source: Source) -> None:
        """Upsert in one statement each, sorted so that the index is walked once."""
        by_account = sorted(postings.by_account.items())
        accounts, amounts = [each[0] for each in by_account], [each[1] for each in by_account]
        await self._connection.execute(_POST, accounts, amounts, source.source_id, source.change_seq)
        by_day = sorted(postings.by_day.items())
        owners = [owner for (owner, _), _ in by_day]
        days = [date.fromordinal(day) for (_, day), _ in by_day]
        amounts = [amount for _, amount in by_day]
        await self._connection.execute(_POST_DAYS, owners, days, amounts, source.source_id)
