"""Where accounts stand."""

import asyncio
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Sequence
from datetime import datetime
from itertools import takewhile
from typing import Any, Final

import grpc

from tokenomics.quota.v1 import quota_pb2 as pb
from tokenomics_chassis.rpc.errors import InvalidRequestError, NotFoundError
from tokenomics_chassis.rpc.paging import page_size, wrong_page_size
from tokenomics_contracts.units import AccountId, PeriodId
from tokenomics_quota.domain.accounts import Account, AccountKind, Purpose, parse_account_id
from tokenomics_quota.domain.periods import parse_period
from tokenomics_quota.projections.balances import QuotaView
from tokenomics_quota.rpc.convert import (
    IDENTIFIER,
    balance_to_pb,
    is_identifier,
    kind_from_pb,
    period_from_pb,
)
from tokenomics_quota.rpc.looks import Looks
from tokenomics_quota.rpc.moments import Moments
from tokenomics_quota.rpc.views import Views, authorize, sight
from tokenomics_quota.usecases.seeing import PersonSight

_FOREIGN_TOKEN: Final = {"page_token": "is not of this call"}
_YIELD_EVERY: Final = 1_000
"""Accounts that one listing looks at before others get their turn."""

Context = grpc.aio.ServicerContext[Any, Any]


class Balances:
    """Gives balances from the in-memory view to who may see them."""

    def __init__(self, views: Views, moments: Moments, looks: Looks) -> None:
        self._views = views
        self._moments = moments
        self._looks = looks

    async def GetBalance(  # noqa: N802 - the contract's name
        self, request: pb.GetBalanceRequest, _context: Context
    ) -> pb.GetBalanceResponse:
        """Return one account, or those that a subject's calls are counted on and the person asking may see.

        A person must be allowed to see the account or, with a subject, the subject's own and the project's.
        """
        view, now = self._views.at_hand()
        sees = sight(view, now)
        if request.WhichOneof("target") == "account_id":
            if request.project:
                raise InvalidRequestError({"project": "goes with subject only"})
            accounts = [account_from_text("account_id", request.account_id)]
            # Before looking whether it exists: that, too, would tell whether somebody has used anything.
            authorize(sees, accounts[0])
            require_existing(view, accounts[0], now)
        else:
            carrying = _accounts_of(view, request.subject, request.project, now)
            asked_for = 2 if request.project else 1
            authorize(sees, *carrying[:asked_for])
            accounts = [account for account in carrying if sees(account)]
        await self._looks.record(sees, accounts, "GetBalance")
        view, now = self._views.at_hand()
        return pb.GetBalanceResponse(
            accounts=[balance_to_pb(view.balance(account, now)) for account in accounts],
            freshness=self._moments.at(view, now).freshness,
            quota_policy_version=view.governance.quota_policies.at(now).version,
        )

    async def ListBalances(  # noqa: N802 - the contract's name
        self, request: pb.ListBalancesRequest, _context: Context
    ) -> pb.ListBalancesResponse:
        """Return a page of balances that the person asking may see, by account id.

        Named by no filter, few people's are shown to those only who decide about them.
        """
        view, now = self._views.at_hand()
        period, kind = _asked(request, view.governance.calendars.at(now).period_of(now))
        _require_at_hand(view, period)
        size = page_size(request.page_size)
        sees = sight(view, now)
        may_list = sees
        if isinstance(sees, PersonSight) and not (request.subject or request.owner_id):
            may_list = sees.may_list
        found: list[Account] = []
        for count, account in enumerate(_candidates(view, request, kind, period, now), start=1):
            if may_list(account):
                found.append(account)
                if len(found) > size:
                    break
            # Whether a cost centre may be listed depends on all its people.
            if count % _YIELD_EVERY == 0 or account.kind is AccountKind.COST_CENTRE:
                await asyncio.sleep(0)
        page = found[:size]
        await self._looks.record(sees, page, "ListBalances")
        # From here on nothing awaits: the balances are of one moment, the one that the freshness tells of.
        view, now = self._views.at_hand()
        return pb.ListBalancesResponse(
            accounts=[balance_to_pb(view.balance(account, now)) for account in page],
            next_page_token=page[-1].account_id if len(found) > size else "",
            freshness=self._moments.at(view, now).freshness,
        )


def _asked(request: pb.ListBalancesRequest, current: PeriodId) -> tuple[PeriodId, AccountKind | None]:
    """Read which period is asked for, and which kind alone.

    Raises
    ------
    InvalidRequestError
        Naming every field that is wrong.
    """
    wrong = {
        field: IDENTIFIER
        for field, text in (("subject", request.subject), ("owner_id", request.owner_id))
        if text and not is_identifier(text)
    } | wrong_page_size(request.page_size)
    period, kind = current, None
    try:
        period = period_from_pb(request.period) or current
    except InvalidRequestError as error:
        wrong |= error.violations
    try:
        kind = kind_from_pb(request.kind)
    except InvalidRequestError as error:
        wrong |= error.violations
    if request.page_token and "period" not in wrong and _period_of(request.page_token) != period:
        wrong |= _FOREIGN_TOKEN
    if wrong:
        raise InvalidRequestError(wrong)
    return period, kind


def _period_of(account_id: str) -> str | None:
    try:
        return parse_account_id(account_id).period
    except ValueError:
        return None


def _candidates(
    view: QuotaView,
    request: pb.ListBalancesRequest,
    kind: AccountKind | None,
    period: PeriodId,
    now: datetime,
) -> Iterable[Account]:
    """Return the touched accounts behind the page token that the filters let through, by id."""
    if request.subject or request.owner_id:
        # A handful: asked for one by one instead of searched for among all.
        owned = {Account(each, request.owner_id, Purpose.ALL, period) for each in AccountKind}
        if request.subject:
            carrying = _accounts_of(view, request.subject, "", view.governance.instant_in(period, now))
            named = {account._replace(period=period) for account in carrying}
            owned = named & owned if request.owner_id else named
        ids: Sequence[AccountId] = sorted(
            account.account_id
            for account in owned
            if (kind is None or account.kind is kind) and view.is_touched(account)
        )
    else:
        ids = view.touched(period)
    prefix = f"{kind}/" if kind else ""
    start = max(bisect_right(ids, request.page_token), bisect_left(ids, prefix))
    following = (ids[place] for place in range(start, len(ids)))
    return map(parse_account_id, takewhile(lambda each: each.startswith(prefix), following))


def _accounts_of(view: QuotaView, subject: str, project: str, now: datetime) -> list[Account]:
    violations = {
        field: IDENTIFIER
        for field, text in (("subject", subject), ("project", project))
        if not is_identifier(text) and (text or field == "subject")
    }
    if violations:
        raise InvalidRequestError(violations)
    return view.accounts_of(subject, project or None, now)


def require_existing(view: QuotaView, account: Account, now: datetime) -> None:
    """Refuse an account that nothing ever touched, or that is of a period no longer at hand.

    Raises
    ------
    NotFoundError
        It is one.
    """
    _require_at_hand(view, account.period)
    limit = view.governance.limit(account.kind, account.owner_id, now, account.purpose)
    held = view.pending(account).at(now)
    if limit is None and not held and not view.is_touched(account):
        raise NotFoundError("no limit, no hold and no cost ever touched this account")


def _require_at_hand(view: QuotaView, period: PeriodId) -> None:
    if period < view.horizon:
        raise NotFoundError(f"balances are at hand from {view.horizon} on")


def account_from_text(field: str, account_id: str) -> Account:
    """Read an account's id.

    Raises
    ------
    InvalidRequestError
        It is none.
    """
    try:
        account = parse_account_id(account_id)
        parse_period(account.period)
    except ValueError as error:
        raise InvalidRequestError({field: str(error)}) from error
    return account
