"""The derived state of quota, as the canonical hash sees it."""

from collections.abc import Mapping
from typing import Final

from tokenomics_chassis.state_hash import EVENT_SOURCES, PARKED, POSITIONS, SKIPPED, HashedTable
from tokenomics_chassis.verification import HashedState
from tokenomics_quota.domain.accounts import AccountKind, Purpose, parse_account_id

_FACTS = "SELECT * FROM fact WHERE event_kind <> 'awaited'"
_POSTED = """
SELECT account_id, period, sum(posted_micro_usd)::bigint AS posted_micro_usd FROM posted {}
GROUP BY account_id, period HAVING sum(posted_micro_usd) <> 0
"""
_DAILY = """
SELECT owner, day, sum(posted_micro_usd)::bigint AS posted_micro_usd FROM daily {}
GROUP BY owner, day HAVING sum(posted_micro_usd) <> 0
"""
_DAILY_LEFT_OUT = {"source_id": "which source posted a part depends on the order in which topics were read"}
_POSTED_LEFT_OUT = {
    "source_id": "which source posted a part depends on the order in which topics were read",
    "change_seq": "counts transactions",
}

DERIVED_TABLES = (
    POSITIONS,
    PARKED,
    SKIPPED,
    *EVENT_SOURCES,
    HashedTable("fact", _FACTS),
    HashedTable("posted", _POSTED.format(""), _POSTED_LEFT_OUT),
    HashedTable("daily", _DAILY.format(""), _DAILY_LEFT_OUT),
    HashedTable("asset_user", "SELECT DISTINCT asset_id, subject FROM asset_user", _POSTED_LEFT_OUT),
    HashedTable(
        "governing_event",
        "SELECT topic, identity, digest, append_ms, partition, record_offset, event_type, data"
        " FROM governing_event",
        {"governing_version": "counts transactions"},
    ),
)
"""Everything that follows from the log alone. Bookkeeping of how it was reached stays out."""

NOT_DERIVED = {
    "governing_version": "counts transactions",
    "rival": "a record that doesn't hold its identity changes nothing; those that conflict are parked",
}
"""Tables of the derived schema that the hash leaves out, with the reason."""

_OF_NO_ACCOUNT = dict.fromkeys(
    (
        "position",
        "parked",
        "skipped",
        *(each.table for each in EVENT_SOURCES),
        "asset_user",
        "governing_event",
    ),
    "is of no single account",
)
_OWNERS: Final[Mapping[AccountKind, str]] = {
    AccountKind.SUBJECT: "subject_id = $3",
    AccountKind.PROJECT: "project_id = $3",
    AccountKind.TEAM: "team_id = $3",
    AccountKind.COST_CENTRE: "cost_centre_id = $3",
    AccountKind.UNATTRIBUTED: "subject_id IS NULL AND $3 <> ''",
}


def hashed_part(part: str) -> HashedState:
    """Name what is hashed of one account, or of all for the empty name.

    Of an account its total, the facts that it adds up, and all days of its owner.

    Raises
    ------
    ValueError
        It is no account id.
    """
    if not part:
        return HashedState(DERIVED_TABLES, NOT_DERIVED)
    account = parse_account_id(part)
    purposes = [account.purpose]
    if account.purpose is Purpose.ALL:
        purposes = [Purpose.OPERATIONAL, Purpose.EXPERIMENT]
    facts = f"{_FACTS} AND period = $1 AND purpose = ANY($2::text[]) AND {_OWNERS[account.kind]}"
    lines = [account.for_purpose(purpose).account_id for purpose in purposes]
    return HashedState(
        (
            HashedTable("fact", facts, arguments=(account.period, purposes, account.owner_id)),
            HashedTable(
                "posted", _POSTED.format("WHERE account_id = ANY($1)"), _POSTED_LEFT_OUT, arguments=(lines,)
            ),
            HashedTable(
                "daily",
                _DAILY.format("WHERE owner = $1"),
                _DAILY_LEFT_OUT,
                arguments=(f"{account.kind}/{account.owner_id}",),
            ),
        ),
        {**NOT_DERIVED, **_OF_NO_ACCOUNT},
    )
