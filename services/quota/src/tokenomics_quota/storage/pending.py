"""What accounts hold beside what is posted to them, for those who only look."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import NamedTuple

from tokenomics_chassis.projection import Connection
from tokenomics_contracts.units import AccountId, MicroUsd, PeriodId
from tokenomics_quota.domain.holds import AccountState
from tokenomics_quota.domain.interventions import Bypass
from tokenomics_quota.domain.timeline import Timeline
from tokenomics_quota.storage.interventions import bypasses_not_ended

_LEDGER = "SELECT change_seq, bypass_seq FROM ledger"

_MOVED = """
SELECT account_no, account_id, settling_micro_usd, state FROM ledger_account
WHERE change_seq > $1 AND split_part(account_id, '/', 4) >= $2
    AND ($1 > 0 OR live_micro_usd > 0 OR settling_micro_usd > 0 OR state <> 'open')
"""
_ENDS = """
SELECT account_no, expires_at, amount_micro_usd FROM expiry
WHERE account_no = ANY($1::int[]) AND amount_micro_usd > 0 ORDER BY account_no, expires_at DESC
"""


class PendingChanges(NamedTuple):
    """What moved in the hold ledger."""

    change_seq: int
    """Of the ledger now."""
    whole: bool
    """What is not told pends no more: the ledger went back, or everything was asked for."""
    pending: Mapping[AccountId, Timeline[MicroUsd]]
    """By account, over time."""
    states: Mapping[AccountId, AccountState]
    """Of the same accounts: whether they take holds."""
    bypass_seq: int
    """Number of the newest change of a bypass."""
    bypasses: Sequence[Bypass]
    """Those that are not known to have ended, whether they moved or not."""


async def pending_changes(
    connection: Connection, known_change_seq: int | None, *, since: PeriodId
) -> PendingChanges:
    """Return what pends on accounts of this period and later ones that moved since; ``None``: on all.

    Every change of the ledger has a number, and whoever sees one sees all smaller ones: its transactions are
    one line. To be read in one snapshot.
    """
    ledger = await connection.fetchrow(_LEDGER)
    assert ledger is not None, "migrations write the row"
    change_seq, bypass_seq = ledger
    bypasses = await bypasses_not_ended(connection) if bypass_seq else ()
    whole = known_change_seq is None or change_seq < known_change_seq
    if change_seq == known_change_seq:
        return PendingChanges(change_seq, whole, {}, {}, bypass_seq, bypasses)
    moved = await connection.fetch(_MOVED, 0 if whole else known_change_seq, since)
    ends = defaultdict[int, list[tuple[datetime, int]]](list)
    for account_no, expires_at, amount in await connection.fetch(_ENDS, [row[0] for row in moved]):
        ends[account_no].append((expires_at, amount))
    pending = {row[1]: _over_time(row[2], ends[row[0]]) for row in moved}
    states = {row[1]: AccountState(row[3]) for row in moved}
    return PendingChanges(change_seq, whole, pending, states, bypass_seq, bypasses)


def _over_time(settling: MicroUsd, ends: list[tuple[datetime, int]]) -> Timeline[MicroUsd]:
    """Add up from the last end, at which nothing but what is settling is left, to the first."""
    left, steps = settling, list[tuple[datetime, MicroUsd]]()
    for expires_at, amount in ends:
        steps.append((expires_at, left))
        left = MicroUsd(left + amount)
    return Timeline(steps, before=left)
