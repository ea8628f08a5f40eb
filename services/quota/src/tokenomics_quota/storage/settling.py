"""The settler: one leader ends holds by the facts that name them and by their time, and opens the ledger."""

import asyncio
import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Final

from tokenomics_chassis.changes import listen, read_positions
from tokenomics_chassis.leadership import lead
from tokenomics_chassis.postgres import Connection, Schemas, Session, wait_for
from tokenomics_chassis.versions import hold_active
from tokenomics_quota.metrics import (
    HOLDS_ENDED,
    HOLDS_LIVE,
    HOLDS_UNCOVERED,
    HOLDS_UNSWEPT,
    LEDGER_SHUT,
    SETTLING_BACKLOG,
)
from tokenomics_quota.ports import HoldLedger, InterventionLedger
from tokenomics_quota.storage.hold_ledger import INCARNATION, open_ledger
from tokenomics_quota.usecases.intervening import expire_bypasses
from tokenomics_quota.usecases.settling import Naming, Settled, expire_holds, settle_facts

log = logging.getLogger(__name__)

Ends = Mapping[tuple[str, int], int]
"""(topic, partition) to the offset of the next record."""

GROUP: Final = 50
"""Facts of a partition that settle holds in one transaction: others wait for the ledger meanwhile."""

STRETCH: Final = 200_000
"""Offsets of a partition looked through at once."""

KEEP_SECONDS: Final = 10.0
"""How often it is kept how far was looked, while nothing is found."""

SWEEP_GROUP: Final = 100
SWEEP_SECONDS: Final = 1.0
SWEEP_REST: Final = 4
"""After a group of ended holds the sweep rests so many times as long as the group took."""

FORGET_GROUP: Final = 500
FORGET_SECONDS: Final = 600.0

LOOK_SECONDS: Final = 15.0
"""How often holds are counted for the metrics."""

POLL_SECONDS: Final = 0.1

_IS_RECALLED = f"SELECT coalesce(recalled_for = {INCARNATION}, false) FROM ledger"
_IS_OPEN = f"SELECT coalesce(open_for = {INCARNATION}, false) FROM ledger"
_SETTLED = "SELECT topic, partition, next_offset FROM settled"
# Holds first: of the facts that name one that nobody knows (any more), nothing is to be told.
_NAMING = """
SELECT source.topic, source.partition, fact.record_offset, fact.identity, fact.hold_id, fact.cost_micro_usd,
    fact.event_kind
FROM unnest($1::text[], $2::int[], $3::text[], $4::bigint[], $5::bigint[])
    AS source (topic, partition, event_kind, since, until)
CROSS JOIN LATERAL (
    SELECT record_offset, identity, hold_id, cost_micro_usd, event_kind
    FROM fact
    WHERE hold_id IS NOT NULL AND event_kind = source.event_kind AND partition = source.partition
        AND record_offset >= source.since AND record_offset < source.until
        AND (counted OR event_kind = 'provisional')
        AND (SELECT true FROM placed_hold WHERE placed_hold.hold_id = fact.hold_id)
    ORDER BY record_offset LIMIT $6
) AS fact
ORDER BY source.topic, source.partition, fact.record_offset
"""
_KEEP = """
INSERT INTO settled (topic, partition, next_offset) SELECT * FROM unnest($1::text[], $2::int[], $3::bigint[])
ON CONFLICT (topic, partition) DO UPDATE SET next_offset = excluded.next_offset
"""
_DRAWN = "SELECT usage_identity FROM lease_draw WHERE usage_identity = ANY($1::bytea[])"
_DRAW = "INSERT INTO lease_draw SELECT * FROM unnest($1::bytea[], $2::bigint[])"
_PAST = """
SELECT (SELECT hold_id FROM placed_hold WHERE placed_hold.hold_no = past.hold_no)
FROM (
    SELECT hold_no FROM live_hold WHERE expires_at <= clock_timestamp() ORDER BY expires_at LIMIT $1
) AS past
"""
_COUNTS = """
SELECT count(*) FILTER (WHERE expires_at > clock_timestamp()),
    count(*) FILTER (WHERE expires_at <= clock_timestamp())
FROM live_hold
"""
# Every period that a hold placed before that may have been in, whatever the time zone, closed 62 days ago.
_LONG_AGO = "date_trunc('month', clock_timestamp() - interval '63 days') - interval '1 day'"
_FORGET_HOLDS = f"""
WITH gone AS (
    DELETE FROM placed_hold WHERE hold_no IN (
        SELECT hold_no FROM (SELECT hold_no, placed_at FROM placed_hold ORDER BY hold_no LIMIT $1) AS oldest
        WHERE placed_at < {_LONG_AGO}
            AND NOT EXISTS (SELECT FROM live_hold WHERE live_hold.hold_no = oldest.hold_no)
    ) RETURNING hold_no
), ends AS (
    DELETE FROM ended_hold USING gone WHERE ended_hold.hold_no = gone.hold_no
), leases AS (
    DELETE FROM lease USING gone WHERE lease.hold_no = gone.hold_no
), draws AS (
    DELETE FROM lease_draw USING gone WHERE lease_draw.hold_no = gone.hold_no
)
SELECT count(*) FROM gone
"""
_FORGET_PLACEMENTS = f"""
DELETE FROM placement WHERE (account_no, sequence) IN (
    SELECT account_no, sequence FROM placement WHERE account_no IN (
        SELECT account_no FROM ledger_account
        WHERE split_part(account_id, '/', 4) < to_char({_LONG_AGO}, 'YYYY-MM')
    ) LIMIT $1
)
"""
_FORGET_ACCOUNTS = f"""
WITH gone AS (
    DELETE FROM ledger_account WHERE account_no IN (
        SELECT account_no FROM ledger_account
        WHERE split_part(account_id, '/', 4) < to_char({_LONG_AGO}, 'YYYY-MM')
            AND NOT EXISTS (SELECT FROM placement WHERE placement.account_no = ledger_account.account_no)
        LIMIT $1
    ) RETURNING account_no
)
DELETE FROM expiry USING gone WHERE expiry.account_no = gone.account_no
"""


class Settler:
    """Ends holds, in one process at a time, as far as the version that serves is projected and never further.

    How far it has come is kept in the transaction that settles, apart from every version: a promotion doesn't
    concern it, as none is promoted that is behind the one before. A fact whose record turns out to repeat one
    that lies lower, in another partition and where it has looked already, settles nothing: its hold ends by
    its time.

    The ledger of another incarnation of the database is shut until the announcer's term has recalled what
    the own topic tells of it. Then the settler notes where the topics end, settles up to there, and opens it.
    """

    def __init__(
        self,
        url: str,
        schemas: Schemas,
        ledger_on: Callable[[Connection], HoldLedger],
        interventions_on: Callable[[Connection], InterventionLedger],
        *,
        ends: Callable[[], Awaitable[Ends]],
        sources: Mapping[str, str],
    ) -> None:
        """Wire it.

        Parameters
        ----------
        schemas
            With the version that serves.
        ends
            Reads where the topics end that the state of a version follows from.
        sources
            By topic, the kind of its facts that name holds.
        """
        assert schemas.version is not None
        self._url = url
        self._schemas = schemas
        self._ledger_on = ledger_on
        self._interventions_on = interventions_on
        self._ends = ends
        self._sources = sources

    async def run(self, stopping: asyncio.Event) -> None:
        """Settle, and write down what ended, until ``stopping`` is set."""
        await lead(self._url, self._schemas, "settler", self._lead, stopping)

    async def _lead(self, connection: Session, stopping: asyncio.Event) -> None:
        term = _Term(connection, self._schemas, self._ledger_on, self._interventions_on, self._sources)
        with term.told():
            while not await term.is_recalled():
                if await wait_for(stopping, POLL_SECONDS):
                    return
            await term.begin(self._ends)
            async with listen(connection, self._schemas.changed_channel) as signal:
                while not stopping.is_set():
                    if await term.settle():
                        continue
                    await term.open_when_level()
                    if rest := await term.sweep():
                        await wait_for(stopping, rest)
                    else:
                        await signal.wait()


class _Term:
    """What one leader does, on the session that holds the lock."""

    def __init__(
        self,
        connection: Session,
        schemas: Schemas,
        ledger_on: Callable[[Connection], HoldLedger],
        interventions_on: Callable[[Connection], InterventionLedger],
        sources: Mapping[str, str],
    ) -> None:
        assert schemas.version is not None
        self._connection = connection
        self._version = schemas.version
        self._ledger_on = ledger_on
        self._interventions_on = interventions_on
        self._sources = sources
        self._now = asyncio.get_running_loop().time
        self._read_to: dict[tuple[str, int], int] = {}
        self._kept: dict[tuple[str, int], int] = {}
        self._positions: Ends = {}
        self._opens_at: Ends | None = None
        """Where the topics ended when the term began; ``None``: the ledger is open."""
        self._keep_at = self._sweep_at = self._forget_at = self._look_at = 0.0
        self._shut: int | None = None
        self._live: int | None = None
        self._unswept: int | None = None
        self._backlog: int | None = None
        """What the metrics tell: numbers, as a truth value fails an export. ``None``: not known yet."""

    @contextmanager
    def told(self) -> Iterator[None]:
        """Tell the metrics what this leader knows while it leads, and nothing afterwards."""
        with (
            LEDGER_SHUT.told_by(lambda: self._shut),
            HOLDS_LIVE.told_by(lambda: self._live),
            HOLDS_UNSWEPT.told_by(lambda: self._unswept),
            SETTLING_BACKLOG.told_by(lambda: self._backlog),
        ):
            yield

    async def is_recalled(self) -> bool:
        """Whether the ledger has all that its own topic tells of it."""
        if await self._connection.fetchval(_IS_RECALLED):
            return True
        self._shut = 1
        return False

    async def begin(self, ends: Callable[[], Awaitable[Ends]]) -> None:
        """Go on from where the last term stopped."""
        rows = await self._connection.fetch(_SETTLED)
        self._read_to = {(row[0], row[1]): row[2] for row in rows}
        self._kept = dict(self._read_to)
        is_open = await self._connection.fetchval(_IS_OPEN)
        self._shut = 0 if is_open else 1
        if not is_open:
            self._opens_at = await ends()

    async def settle(self) -> bool:
        """Settle by what was projected since the last time; return whether there is more already."""
        positions = await read_positions(self._connection)
        self._positions = {(each.topic, each.partition): each.next_offset for each in positions}
        stretches = {
            place: min(until, self._read_to.get(place, 0) + STRETCH)
            for place, until in self._positions.items()
            if place[0] in self._sources and self._read_to.get(place, 0) < until
        }
        if not stretches:
            return False
        async with self._connection.transaction():
            if not await hold_active(self._connection, self._version):
                return False
            rows = await self._connection.fetch(
                _NAMING,
                *zip(
                    *(
                        (*place, self._sources[place[0]], self._read_to.get(place, 0), until)
                        for place, until in stretches.items()
                    ),
                    strict=True,
                ),
                GROUP,
            )
            read_to = self._read_to | _read_to(stretches, rows)
            settled = await self._settle(rows)
            if rows or self._now() >= self._keep_at:
                await self._keep(read_to)
        self._read_to = read_to
        if settled is not None:
            HOLDS_ENDED.add(settled.holds, {"by": "usage"})
            for cause, amount in settled.uncovered_micro_usd.items():
                HOLDS_UNCOVERED.add(amount, {"cause": cause.value})
        return any(self._read_to[place] < self._positions[place] for place in stretches)

    async def _settle(self, rows: Sequence[Any]) -> Settled | None:
        if not rows:
            return None
        facts = [Naming(row[3], row[4], row[5], row[6] == "provisional") for row in rows]
        settled = await settle_facts(self._ledger_on(self._connection), facts, self._drawn)
        if settled.draws:
            await self._connection.execute(_DRAW, *zip(*settled.draws, strict=True))
        return settled

    async def _drawn(self, identities: Collection[bytes]) -> Collection[bytes]:
        return {row[0] for row in await self._connection.fetch(_DRAWN, list(identities))}

    async def _keep(self, read_to: Ends) -> None:
        moved = [(*place, offset) for place, offset in read_to.items() if self._kept.get(place) != offset]
        if moved:
            await self._connection.execute(_KEEP, *zip(*moved, strict=True))
        self._kept = dict(read_to)
        self._keep_at = self._now() + KEEP_SECONDS

    async def open_when_level(self) -> None:
        """Open the ledger once everything is projected and settled that was in the log at the beginning."""
        if self._opens_at is None:
            return
        behind = [
            place
            for place, end in self._opens_at.items()
            if self._positions.get(place, 0) < end
            or (place[0] in self._sources and self._read_to.get(place, 0) < end)
        ]
        if behind:
            return
        async with self._connection.transaction():
            if await hold_active(self._connection, self._version):
                await open_ledger(self._connection)
                self._opens_at = None
        if self._opens_at is None:
            self._shut = 0
            log.info("the hold ledger is open")

    async def sweep(self) -> float:
        """Do a little of what nobody waits for: write down what ended, and forget old holds.

        Returns
        -------
        float
            Seconds to rest before the next group; 0 when there was no whole one.
        """
        begun = self._now()
        if begun >= self._sweep_at:
            self._sweep_at = begun + SWEEP_SECONDS
            async with self._connection.transaction():
                past = [row[0] for row in await self._connection.fetch(_PAST, SWEEP_GROUP)]
                ended = await expire_holds(self._ledger_on(self._connection), past) if past else 0
            async with self._connection.transaction():
                await expire_bypasses(self._interventions_on(self._connection))
            HOLDS_ENDED.add(ended, {"by": "time"})
            if len(past) == SWEEP_GROUP:
                rest = SWEEP_REST * (self._now() - begun)
                self._sweep_at = self._now() + rest
                return rest
        elif begun >= self._forget_at:
            self._forget_at = begun + (SWEEP_SECONDS if await self._forget() else FORGET_SECONDS)
        elif begun >= self._look_at:
            self._look_at = begun + LOOK_SECONDS
            await self._look()
        return 0.0

    async def _forget(self) -> bool:
        """Delete some of what closed long ago; return whether there is more."""
        async with self._connection.transaction():
            await self._ledger_on(self._connection).begin(0)
            holds = await self._connection.fetchval(_FORGET_HOLDS, FORGET_GROUP)
            if holds:  # first, as they name their accounts
                return True
            placements = await self._connection.execute(_FORGET_PLACEMENTS, FORGET_GROUP)
            accounts = await self._connection.execute(_FORGET_ACCOUNTS, FORGET_GROUP)
        return not placements.endswith(" 0") or not accounts.endswith(" 0")

    async def _look(self) -> None:
        self._live, self._unswept = await self._connection.fetchrow(_COUNTS) or (0, 0)
        self._backlog = sum(
            max(0, end - self._read_to.get(place, 0))
            for place, end in self._positions.items()
            if place[0] in self._sources
        )


def _read_to(stretches: Ends, rows: Sequence[Any]) -> dict[tuple[str, int], int]:
    """Return how far each stretch is looked through: to its end, unless there may be more facts in it."""
    found = Counter[tuple[str, int]]()
    last: dict[tuple[str, int], int] = {}
    for topic, partition, offset, *_ in rows:
        found[topic, partition] += 1
        last[topic, partition] = offset
    return {place: last[place] + 1 if found[place] == GROUP else until for place, until in stretches.items()}
