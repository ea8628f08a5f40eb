"""Foreseeing: a budget that is expected to end beyond its limit is told of once, while there is time."""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import Final

from tokenomics_contracts.events.quota import ForecastExceeded
from tokenomics_contracts.units import MicroUsd, PeriodId
from tokenomics_quota.domain.accounts import Account
from tokenomics_quota.domain.forecast import HISTORY, METHOD, Forecast, forecast
from tokenomics_quota.ports import Announcements
from tokenomics_quota.projections.balances import QuotaView
from tokenomics_quota.projections.governance import Governance
from tokenomics_quota.usecases.budgeting import KINDS

EVERY: Final = timedelta(minutes=5)
"""A budget that moves all the time is judged no more often."""

CHUNK: Final = 100
"""Budgets judged in one go: a forecast takes a millisecond or two."""


class Foreseeing:
    """Forecasts the budgets of the current period that moved, from the day on that policy says."""

    def __init__(self) -> None:
        self._period: PeriodId | None = None
        self._moved: dict[Account, MicroUsd] = {}
        """Budgets of the period to be judged, with their totals."""
        self._judged_at: dict[Account, datetime] = {}

    async def judge(
        self,
        governance: Governance,
        announcements: Announcements,
        moved: Mapping[Account, MicroUsd],
        now: datetime,
    ) -> int:
        """Tell what is due of some of the budgets that wait for it; return how many announcements that made.

        Parameters
        ----------
        moved
            Accounts for purpose ``all`` with their totals, where these or their limits may have changed.
        """
        calendar = governance.calendars.at(now)
        period = calendar.period_of(now)
        start, end = calendar.bounds(period)
        if period != self._period:  # at its turn all are judged; what waits is of one that goes on no more
            self._period, self._moved, self._judged_at = period, {}, {}
        self._moved |= {
            account: posted
            for account, posted in moved.items()
            if account.kind in KINDS and account.period == period
        }
        if now < start + timedelta(days=governance.quota_policies.at(now).forecast_from_day - 1):
            return 0
        due = (account for account in self._moved if self._is_due(account, now))
        chunk = {account: self._moved[account] for account in islice(due, CHUNK)}
        for account in chunk:
            del self._moved[account]
            self._judged_at[account] = now
        today = now.astimezone(UTC).date()
        limited = {
            account: (posted, limit)
            for account, posted in chunk.items()
            if (limit := QuotaView(governance).balance(account, now).limit_micro_usd) is not None
        }
        if not limited:
            return 0
        days = await announcements.days(
            {account.owner for account in limited}, since=today - HISTORY, before=today
        )
        exceeded = (
            _exceeded(account, posted, limit, expected)
            for account, (posted, limit) in limited.items()
            if (expected := forecast(days.get(account.owner, {}), posted, now, end)) is not None
            and expected.total_micro_usd > limit
        )
        return await announcements.announce(exceeded, now)

    def _is_due(self, account: Account, now: datetime) -> bool:
        judged_at = self._judged_at.get(account)
        return judged_at is None or not judged_at <= now < judged_at + EVERY


def _exceeded(account: Account, posted: MicroUsd, limit: MicroUsd, expected: Forecast) -> ForecastExceeded:
    return ForecastExceeded(
        account_id=account.account_id,
        kind=account.kind.value,
        owner_id=account.owner_id,
        purpose=account.purpose.value,
        period=account.period,
        limit_micro_usd=limit,
        posted_micro_usd=posted,
        forecast_micro_usd=expected.total_micro_usd,
        forecast_low_micro_usd=expected.low_micro_usd,
        forecast_high_micro_usd=expected.high_micro_usd,
        method=METHOD,
    )
