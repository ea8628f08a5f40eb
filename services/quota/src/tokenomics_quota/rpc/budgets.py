"""Shared budgets, for who owns them."""

import asyncio
from collections.abc import AsyncIterator
from datetime import datetime
from typing import Any, Final

import grpc

from tokenomics.quota.v1 import quota_pb2 as pb
from tokenomics_chassis.postgres import wait_for
from tokenomics_chassis.rpc.errors import (
    InvalidRequestError,
    NotFoundError,
    PermissionDeniedError,
    StoppingError,
)
from tokenomics_chassis.rpc.identity import current_identity
from tokenomics_quota.domain.accounts import Account, Purpose
from tokenomics_quota.domain.budgets import Budget
from tokenomics_quota.domain.forecast import METHOD
from tokenomics_quota.projections.balances import QuotaView
from tokenomics_quota.rpc.convert import (
    IDENTIFIER,
    balance_to_pb,
    is_identifier,
    kind_to_pb,
    period_from_pb,
)
from tokenomics_quota.rpc.moments import Moments
from tokenomics_quota.rpc.views import Views, governs
from tokenomics_quota.rpc.watching import Watchers
from tokenomics_quota.usecases.budgeting import KINDS, Budgeting
from tokenomics_quota.usecases.refreshes import Refreshes
from tokenomics_quota.usecases.seeing import deciders

MOST_WATCHING: Final = 1_000
_WATCH_SECONDS: Final = 1.0
_KINDS: Final = {kind_to_pb(kind): kind for kind in KINDS}
_KIND: Final = "must be a project, a team or a cost centre"

Context = grpc.aio.ServicerContext[Any, Any]


class Budgets:
    """Gives budgets from the view, and tells who watches of each change.

    Parameters
    ----------
    draining
        Set when the process stops: streams come to their end.
    """

    def __init__(
        self,
        views: Views,
        moments: Moments,
        budgeting: Budgeting,
        refreshes: Refreshes,
        draining: asyncio.Event,
    ) -> None:
        self._views = views
        self._moments = moments
        self._budgeting = budgeting
        self._refreshes = refreshes
        self._draining = draining
        self._watchers = Watchers("budgets")

    async def GetBudget(  # noqa: N802 - the contract's name
        self, request: pb.GetBudgetRequest, _context: Context
    ) -> pb.GetBudgetResponse:
        """Return one budget of one period."""
        view, now = self._views.at_hand()
        asked = _asked(request, view, now, request.period)
        _authorize(view, asked, now)
        freshness = self._moments.at(view, now).freshness
        budget = await self._budget(view, asked, now)
        return pb.GetBudgetResponse(budget=_budget_to_pb(budget), freshness=freshness)

    async def WatchBudget(  # noqa: N802 - the contract's name
        self, request: pb.WatchBudgetRequest, _context: Context
    ) -> AsyncIterator[pb.WatchBudgetResponse]:
        """Tell of a budget at once, then whenever it has changed, looking once a second at most.

        It looks when the view was refreshed, so that an idle server does nothing for who watches.
        """
        with self._watchers.one_more(MOST_WATCHING):
            told: Budget | None = None
            while True:
                refreshed = self._refreshes.next()
                view, now = self._views.at_hand()
                asked = _asked(request, view, now, "")
                _authorize(view, asked, now)
                freshness = self._moments.at(view, now).freshness
                budget = await self._budget(view, asked, now)
                if budget.changed_since(told):
                    yield pb.WatchBudgetResponse(budget=_budget_to_pb(budget), freshness=freshness)
                    told = budget
                if not await wait_for(self._draining, _WATCH_SECONDS):
                    await refreshed.wait()
                if self._draining.is_set():
                    raise StoppingError("this server stops: watch on at another one")

    async def _budget(self, view: QuotaView, account: Account, now: datetime) -> Budget:
        budget = await self._budgeting.budget(view, account, now)
        if budget is None:
            raise NotFoundError("no limit and no cost ever touched this budget")
        return budget


def _asked(
    request: pb.GetBudgetRequest | pb.WatchBudgetRequest, view: QuotaView, now: datetime, period: str
) -> Account:
    """Read which budget is asked for.

    Raises
    ------
    InvalidRequestError
        Naming every field that is wrong.
    """
    kind = _KINDS.get(request.kind)
    violations = {} if kind else {"kind": _KIND}
    if not is_identifier(request.owner_id):
        violations["owner_id"] = IDENTIFIER
    of_period = None
    try:
        of_period = period_from_pb(period)
    except InvalidRequestError as error:
        violations |= error.violations
    if violations or kind is None:
        raise InvalidRequestError(violations)
    current = view.governance.calendars.at(now).period_of(now)
    return Account(kind, request.owner_id, Purpose.ALL, of_period or current)


def _authorize(view: QuotaView, account: Account, now: datetime) -> None:
    """Refuse persons who neither decide about the account nor govern."""
    person = current_identity().on_behalf_of
    if person is None or governs(view, person, now):
        return
    if person not in deciders(view.governance, account, now):
        raise PermissionDeniedError("only who owns the budget, or acts for who does, and governance see it")


def _budget_to_pb(budget: Budget) -> pb.Budget:
    written = pb.Budget(
        account=balance_to_pb(budget.balance),
        buffer_micro_usd=budget.buffer_micro_usd,
        experiment_posted_micro_usd=budget.experiment_micro_usd,
        owner_person_ids=budget.owners,
    )
    if budget.forecast is not None:
        written.forecast_micro_usd, written.forecast_low_micro_usd, written.forecast_high_micro_usd = (
            budget.forecast
        )
        written.forecast_method = METHOD
    return written
