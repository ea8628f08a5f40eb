"""Recomputes what is kept as sums from the rows that it follows from, in one snapshot."""

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable, Sequence
from datetime import datetime, timedelta
from typing import Any, Final

from tokenomics_chassis.leadership import LEASE_MS, lead
from tokenomics_chassis.metrics import DRIFTING_TOTALS
from tokenomics_chassis.postgres import Connection, Schemas, session, wait_for
from tokenomics_contracts.units import PeriodId
from tokenomics_quota.domain.accounts import SINGLE_PURPOSES, Account, Purpose
from tokenomics_quota.domain.drift import Compared, Drift, Kept
from tokenomics_quota.domain.periods import calendar

log = logging.getLogger(__name__)

EVERY: Final = timedelta(hours=1)
"""How often the metric is brought up to date."""

_HELD: Final = ""
_ALIVE_SECONDS: Final = LEASE_MS / 3_000
_SHOWN: Final = 20
_A_DAY: Final = timedelta(days=1)

# What a fact is counted on; occurred_at, which has a block range index, is asked for beside the period.
_OWNERS = """
CROSS JOIN LATERAL (VALUES
    ('subject/' || subject_id), ('team/' || team_id), ('cost_centre/' || cost_centre_id),
    ('project/' || project_id), (CASE WHEN subject_id IS NULL THEN 'unattributed/unattributed' END)
) AS touched (owner)
WHERE event_kind IN ('recorded', 'provisional') AND counted AND owner IS NOT NULL
  AND occurred_at >= $2 AND occurred_at < $3
"""
# The first row counts, the others differ.
_DIFFER = """
WITH kept AS ({kept}), recomputed AS ({recomputed}), compared AS (
    SELECT name, coalesce(kept.amount, 0) AS kept, coalesce(recomputed.amount, 0) AS recomputed
    FROM kept FULL JOIN recomputed USING (name)
)
SELECT '' AS name, count(*) AS kept, 0 AS recomputed FROM compared
UNION ALL (SELECT name, kept, recomputed FROM compared WHERE kept <> recomputed ORDER BY name)
"""
_POSTED = _DIFFER.format(
    kept="""
        SELECT account_id AS name, sum(posted_micro_usd)::bigint AS amount FROM posted
        WHERE period = $1 AND ($4::text[] IS NULL OR account_id = ANY($4)) GROUP BY 1
    """,
    recomputed=f"""
        SELECT concat_ws('/', owner, purpose, period) AS name, sum(cost_micro_usd)::bigint AS amount
        FROM fact {_OWNERS} AND period = $1
          AND ($4::text[] IS NULL OR concat_ws('/', owner, purpose, period) = ANY($4))
        GROUP BY 1
    """,
)
_DAYS = _DIFFER.format(
    kept="""
        SELECT concat_ws('/', owner, day) AS name, sum(posted_micro_usd)::bigint AS amount FROM daily
        WHERE to_char(day, 'YYYY-MM') = $1 AND ($4::text IS NULL OR owner = $4) GROUP BY 1
    """,
    recomputed=f"""
        SELECT concat_ws('/', owner, (occurred_at AT TIME ZONE 'UTC')::date) AS name,
               sum(cost_micro_usd)::bigint AS amount
        FROM fact {_OWNERS} AND $1 = $1 AND ($4::text IS NULL OR owner = $4) GROUP BY 1
    """,
)
_OF_HOLDS = """
SELECT account_id AS name, sum({amount})::bigint AS amount
FROM {table} AS hold JOIN placed_hold AS placed USING (hold_no)
JOIN placed_hold AS root ON root.hold_no = coalesce(placed.root_no, placed.hold_no)
CROSS JOIN unnest(root.account_nos) AS account_no JOIN ledger_account USING (account_no)
WHERE {condition} AND ($1::text[] IS NULL OR account_id = ANY($1)) GROUP BY 1
"""
_OF_ACCOUNTS = """
SELECT account_id AS name, {} AS amount FROM ledger_account
WHERE $1::text[] IS NULL OR account_id = ANY($1)
"""
_LAST_NOW = "(SELECT last_now FROM ledger)"
_ENDING = """(
    SELECT coalesce(sum(amount_micro_usd), 0)::bigint FROM expiry
    WHERE expiry.account_no = ledger_account.account_no{}
)"""
_HELD_NOW = {
    Kept.LIVE: _DIFFER.format(
        kept=_OF_ACCOUNTS.format(_ENDING.format(f" AND expires_at > {_LAST_NOW}")),
        recomputed=_OF_HOLDS.format(
            table="live_hold",
            amount="hold.amount_micro_usd - hold.covered_micro_usd",
            condition=f"placed.kind <> 'part' AND hold.expires_at > {_LAST_NOW}",
        ),
    ),
    Kept.ENDING: _DIFFER.format(
        kept=_OF_ACCOUNTS.format("live_micro_usd"), recomputed=_OF_ACCOUNTS.format(_ENDING.format(""))
    ),
    Kept.SETTLING: _DIFFER.format(
        kept=_OF_ACCOUNTS.format("settling_micro_usd"),
        recomputed=_OF_HOLDS.format(
            table="ended_hold", amount="hold.settling_micro_usd", condition="hold.settling_micro_usd > 0"
        ),
    ),
}
_PERIODS = """
SELECT period FROM posted UNION SELECT to_char(day, 'YYYY-MM') FROM daily
UNION SELECT period FROM fact WHERE period IS NOT NULL
UNION SELECT to_char(occurred_at AT TIME ZONE 'UTC', 'YYYY-MM') FROM fact WHERE cost_micro_usd IS NOT NULL
ORDER BY 1
"""


class PostgresDrifts:
    """Compares on a connection of its own, however long that takes.

    Parameters
    ----------
    schemas
        Returns those of the version that serves.
    """

    def __init__(self, url: str, schemas: Callable[[], Schemas]) -> None:
        self._url = url
        self._schemas = schemas

    async def compare(self, account: Account | None) -> AsyncGenerator[Compared, None]:
        """Compare what is kept of an account, or of all, period by period and last what is held now."""
        async with (
            session(self._url, self._schemas(), application_name="quota drift", patient=True) as connection,
            connection.transaction(isolation="repeatable_read", readonly=True),
        ):
            periods = [account.period] if account else [row[0] for row in await connection.fetch(_PERIODS)]
            async for compared in compare(connection, periods, account):
                yield compared


async def compare(
    connection: Connection, periods: Sequence[PeriodId], account: Account | None = None
) -> AsyncGenerator[Compared, None]:
    """Compare, in the open transaction, what is kept of some periods and what is held now."""
    steps = [*periods, _HELD]
    for number, period in enumerate(steps, start=1):
        amounts, drifts = 0, list[Drift]()
        for kept, query, arguments in _comparisons(period, account):
            counted, *differing = await connection.fetch(query, *arguments)
            amounts += counted["kept"]
            drifts += [Drift(kept, *row) for row in differing]
        yield Compared(period, amounts, tuple(drifts), number, len(steps))


def _comparisons(period: PeriodId | str, account: Account | None) -> list[tuple[Kept, str, tuple[Any, ...]]]:
    if period == _HELD:
        names = None if account is None else [account.account_id]
        return [(kept, query, (names,)) for kept, query in _HELD_NOW.items()]
    begins, ends = calendar("UTC").bounds(PeriodId(period))
    lines = None
    if account is not None:
        purposes = SINGLE_PURPOSES if account.purpose is Purpose.ALL else (account.purpose,)
        lines = [account.for_purpose(purpose).account_id for purpose in purposes]
    # Whatever zone a period turned in, it began and ended within a day of where it does in UTC.
    return [
        (Kept.POSTED, _POSTED, (period, begins - _A_DAY, ends + _A_DAY, lines)),
        (Kept.DAY, _DAYS, (period, begins, ends, None if account is None else account.owner)),
    ]


class DriftWatch:
    """Keeps the metric of drifting totals current: of this period and the one before, as one leader."""

    def __init__(self, url: str, schemas: Schemas, now: Callable[[], datetime]) -> None:
        self._url = url
        self._schemas = schemas
        self._now = now

    async def run(self, stopping: asyncio.Event) -> None:
        """Compare once an hour, while leading, until stopped."""
        await lead(self._url, self._schemas, "drift watch", self._watch, stopping)

    async def _watch(self, connection: Connection, stopping: asyncio.Event) -> None:
        looked_at: datetime | None = None
        drifting: int | None = None
        with DRIFTING_TOTALS.told_by(lambda: drifting):
            while not stopping.is_set():
                now = self._now()
                if looked_at is None or not looked_at <= now < looked_at + EVERY:
                    drifting, looked_at = await self.look(), now
                await connection.execute("SELECT 1")
                await wait_for(stopping, _ALIVE_SECONDS)

    async def look(self) -> int:
        """Say what drifts, and return how much does."""
        months = calendar("UTC")
        period = months.period_of(self._now())
        drifting = list[Drift]()
        async with (
            session(self._url, self._schemas, application_name="quota drift", patient=True) as connection,
            connection.transaction(isolation="repeatable_read", readonly=True),
        ):
            async for compared in compare(connection, [months.before(period), period]):
                drifting += compared.drifts
        for drift in drifting[:_SHOWN]:
            log.error("a total is not what it is the total of: %s", drift)
        return len(drifting)
