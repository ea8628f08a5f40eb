"""How many used what somebody shared."""

from collections.abc import Mapping

from tokenomics_chassis.projection import Connection
from tokenomics_chassis.records import SourceId

_USERS = """
WITH known AS (
    SELECT asset_id, nominee FROM unnest($1::text[], $2::text[]) AS known (asset_id, nominee)
), moved AS (
    SELECT DISTINCT asset_id
    FROM asset_user JOIN unnest($3::int[], $4::bigint[]) AS source (source_id, change_seq) USING (source_id)
    WHERE asset_user.change_seq > source.change_seq
)
SELECT asset_id, count(DISTINCT subject) FROM asset_user JOIN known USING (asset_id)
WHERE subject <> nominee AND ($5 OR asset_id IN (SELECT asset_id FROM moved))
GROUP BY asset_id
"""


async def asset_users(
    connection: Connection, nominees: Mapping[str, str], moved: Mapping[SourceId, int] | None
) -> dict[str, int]:
    """Return how many others used each of some assets; those nobody used aren't there.

    Parameters
    ----------
    nominees
        Who made each asset.
    moved
        Source id to the last ``change_seq`` seen: only assets whose users changed since. ``None``: all.
    """
    if not nominees:
        return {}
    sources = moved or {}
    rows = await connection.fetch(
        _USERS, list(nominees), list(nominees.values()), list(sources), list(sources.values()), moved is None
    )
    return {row[0]: row[1] for row in rows}
