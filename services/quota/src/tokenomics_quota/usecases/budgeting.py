"""Budgets: where a shared account stands, and where it will stand when its period ends."""

from collections.abc import Mapping
from datetime import UTC, date, datetime
from typing import Final

from tokenomics_contracts.units import MicroUsd
from tokenomics_quota.domain.accounts import SINGLE_PURPOSES, Account, AccountKind, Purpose
from tokenomics_quota.domain.budgets import Budget
from tokenomics_quota.domain.forecast import forecast
from tokenomics_quota.ports import History
from tokenomics_quota.projections.balances import QuotaView
from tokenomics_quota.usecases.seeing import deciders

KINDS: Final = frozenset({AccountKind.PROJECT, AccountKind.TEAM, AccountKind.COST_CENTRE})
"""Of accounts that somebody owns beside those who use them."""


class Budgeting:
    """Puts budgets together from the view, and from history where the view doesn't go so far."""

    def __init__(self, history: History) -> None:
        self._history = history

    async def budget(self, view: QuotaView, account: Account, now: datetime) -> Budget | None:
        """Return the budget of an account, for purpose ``all``, at an instant.

        ``None`` where no limit and no cost ever touched it. The view may move on meanwhile: what is taken
        from it is taken at once, before anything is waited for.
        """
        balance = view.balance(account, now)
        start, end = view.governance.calendars.at(now).bounds(account.period)
        experiment = view.posted(account.for_purpose(Purpose.EXPERIMENT))
        owners = deciders(view.governance, account, now)
        touched, in_view = view.is_touched(account), account.period >= view.horizon
        if not in_view:
            parts = [account.for_purpose(purpose) for purpose in SINGLE_PURPOSES]
            totals = await self._history.totals(parts)
            touched = bool(totals)
            balance = balance._replace(posted_micro_usd=MicroUsd(sum(totals.values())))
            experiment = totals.get(parts[1].account_id, MicroUsd(0))
        if balance.limit_micro_usd is None and not touched:
            return None
        days: Mapping[date, MicroUsd] = {}
        if start <= now < end:  # what is used before a period begins is no part of it
            days = await self._history.days(account.owner, now.astimezone(UTC).date())
        expected = forecast(days, balance.posted_micro_usd, now, end)
        limit = view.governance.limit(
            account.kind, account.owner_id, view.governance.instant_in(account.period, now)
        )
        return Budget(balance, limit.buffer_micro_usd if limit else MicroUsd(0), experiment, owners, expected)
