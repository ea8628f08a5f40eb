"""Committed totals: what all sources together have posted to accounts."""

from collections.abc import Collection, Mapping
from datetime import date

from tokenomics_chassis.postgres import Connection, Pool
from tokenomics_chassis.records import SourceId
from tokenomics_contracts.units import AccountId, MicroUsd, PeriodId
from tokenomics_quota.domain.periods import parse_period

_ALL = "SELECT account_id, sum(posted_micro_usd)::bigint FROM posted WHERE period >= $1 GROUP BY account_id"

# An account's two purposes are one line against the limit: when one moves, both are read.
_MOVED = """
WITH moved AS (
    SELECT DISTINCT account_id
    FROM posted JOIN unnest($2::int[], $3::bigint[]) AS source (source_id, change_seq) USING (source_id)
    WHERE posted.change_seq > source.change_seq AND posted.period >= $1
), line AS (
    SELECT DISTINCT
        concat_ws('/', split_part(account_id, '/', 1), split_part(account_id, '/', 2), purpose,
                  split_part(account_id, '/', 4)) AS account_id
    FROM moved, unnest(ARRAY['operational', 'experiment']) AS purpose
)
SELECT account_id, sum(posted_micro_usd)::bigint FROM posted JOIN line USING (account_id) GROUP BY account_id
"""

# An owner's accounts are named one by one, up to the month of its last use, whatever zone that turned in.
_OF_OWNERS = """
WITH line AS (
    SELECT concat_ws('/', owner, purpose, to_char(month, 'YYYY-MM')) AS account_id
    FROM (SELECT owner, max(day) AS last_day FROM daily WHERE owner = ANY($1) GROUP BY owner) AS used,
        unnest(ARRAY['operational', 'experiment']) AS purpose,
        generate_series($2::date, last_day + interval '1 month', interval '1 month') AS month
)
SELECT account_id, sum(posted_micro_usd)::bigint FROM posted JOIN line USING (account_id) GROUP BY account_id
"""

_DAILY = """
SELECT owner, day, sum(posted_micro_usd)::bigint FROM daily
WHERE owner = ANY($1) AND day >= $2 AND day < $3
GROUP BY owner, day HAVING sum(posted_micro_usd) <> 0
"""


async def committed_totals(
    connection: Connection, moved: Mapping[SourceId, int] | None, *, since: PeriodId
) -> dict[AccountId, MicroUsd]:
    """Return totals of this period and later ones, read in one statement, hence in one snapshot.

    With ``moved`` (source id to the last ``change_seq`` seen), those that changed since, and both purposes of
    each; without it, all.
    """
    if moved is None:
        rows = await connection.fetch(_ALL, since)
    else:
        rows = await connection.fetch(_MOVED, since, list(moved), list(moved.values()))
    return {row[0]: row[1] for row in rows}


async def totals_of_owners(
    connection: Connection, owners: Collection[tuple[str, str]], *, since: PeriodId
) -> dict[AccountId, MicroUsd]:
    """Return the same of owners, each (kind, id): both purposes of each."""
    names = ["/".join(owner) for owner in owners]
    rows = await connection.fetch(_OF_OWNERS, names, date(*parse_period(since), 1))
    return {row[0]: row[1] for row in rows}


async def daily_totals(
    connection: Connection | Pool, owners: Collection[str], *, since: date, before: date
) -> dict[str, dict[date, MicroUsd]]:
    """Return what owners, each ``<kind>/<owner_id>``, used on each day in UTC, for whatever purpose.

    Days on which nothing was used aren't there, nor are owners without any day.
    """
    found: dict[str, dict[date, MicroUsd]] = {}
    for owner, day, amount in await connection.fetch(_DAILY, list(owners), since, before):
        found.setdefault(owner, {})[day] = amount
    return found
