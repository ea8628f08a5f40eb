"""The past, read from the version of the derived state that serves."""

from collections.abc import Callable, Iterable, Mapping
from datetime import date, datetime, timedelta
from typing import Final, NamedTuple

from tokenomics_chassis.clock import Clock
from tokenomics_chassis.postgres import Pool
from tokenomics_contracts.units import AccountId, MicroUsd
from tokenomics_quota.domain.accounts import Account
from tokenomics_quota.domain.forecast import HISTORY
from tokenomics_quota.storage.totals import daily_totals

KEPT_FOR: Final = timedelta(minutes=5)
_MOST_KEPT: Final = 10_000

_TOTALS = """
SELECT account_id, sum(posted_micro_usd)::bigint FROM posted WHERE account_id = ANY($1) GROUP BY account_id
"""


class _Kept(NamedTuple):
    read_at: datetime
    pool: Pool
    today: date
    days: Mapping[date, MicroUsd]


class ServedHistory:
    """Implements :class:`tokenomics_quota.ports.History`, remembering days for a while.

    Parameters
    ----------
    pool
        Returns a pool on the version that serves. Another version may take its place at any time.
    """

    def __init__(self, pool: Callable[[], Pool], clock: Clock) -> None:
        self._pool = pool
        self._clock = clock
        self._kept: dict[str, _Kept] = {}

    async def days(self, owner: str, today: date) -> Mapping[date, MicroUsd]:
        """Read one owner's days by the primary key, unless they were read lately."""
        pool, now = self._pool(), self._clock.steady()
        kept = self._kept.get(owner)
        if kept is None or kept.pool is not pool or kept.today != today or now - kept.read_at > KEPT_FOR:
            found = await daily_totals(pool, [owner], since=today - HISTORY, before=today)
            if len(self._kept) >= _MOST_KEPT:
                self._kept.clear()
            kept = self._kept[owner] = _Kept(now, pool, today, found.get(owner, {}))
        return kept.days

    async def totals(self, accounts: Iterable[Account]) -> Mapping[AccountId, MicroUsd]:
        """Read sums by the primary key."""
        names = [account.account_id for account in accounts]
        return {row[0]: row[1] for row in await self._pool().fetch(_TOTALS, names)}
