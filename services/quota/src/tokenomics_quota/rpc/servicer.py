"""QuotaService: what this version serves of it; the rest of the contract answers UNIMPLEMENTED."""

import asyncio
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from itertools import takewhile
from typing import Any

import grpc

from tokenomics.quota.v1 import quota_pb2 as pb
from tokenomics.quota.v1.quota_pb2_grpc import QuotaServiceServicer
from tokenomics_chassis.clock import Clock
from tokenomics_chassis.rpc.errors import (
    InvalidRequestError,
    NotFoundError,
    PermissionDeniedError,
    UnavailableError,
    UnimplementedError,
)
from tokenomics_chassis.rpc.identity import current_identity
from tokenomics_chassis.serving import Serving
from tokenomics_chassis.telemetry import current_traceparent
from tokenomics_contracts.units import AccountId, PeriodId
from tokenomics_quota.domain.accounts import Account, AccountKind, Purpose, parse_account_id
from tokenomics_quota.domain.checks import Decided
from tokenomics_quota.domain.friction import Decision
from tokenomics_quota.domain.periods import parse_period
from tokenomics_quota.ports import DecisionLog
from tokenomics_quota.projections.balances import QuotaView
from tokenomics_quota.rpc.convert import (
    FreshnessWriter,
    answer_to_bytes,
    balance_to_pb,
    call_from_pb,
    check_bound,
    estimate_from_pb,
    is_identifier,
    kind_from_pb,
    pricing_to_pb,
    time_from_pb,
)
from tokenomics_quota.usecases.checking import Sight, check, estimate_cost, everything, sight_of

_PAGE_SIZE = 100
_LARGEST_PAGE_SIZE = 1_000
_YIELD_EVERY = 1_000
"""Accounts that one listing looks at before others get their turn."""

Context = grpc.aio.ServicerContext[Any, Any]


class QuotaServicer(QuotaServiceServicer):
    """Answers from the in-memory view; waits for nothing but room in the decision log."""

    def __init__(
        self,
        serving: Serving[QuotaView],
        freshness: FreshnessWriter,
        decisions: DecisionLog,
        clock: Clock,
        new_id: Callable[[], str],
    ) -> None:
        self._serving = serving
        self._freshness = freshness
        self._decisions = decisions
        self._clock = clock
        self._new_id = new_id

    async def CheckQuota(  # type: ignore[override]  # noqa: N802 - its answer comes serialized; the contract's name
        self, request: pb.CheckQuotaRequest, _context: Context
    ) -> bytes:
        """Decide one call; an answer other than a plain ALLOW leaves a decision record."""
        now = self._clock.now()
        if request.WhichOneof("consistency") not in {None, "minimize_latency"}:
            raise UnimplementedError("this version answers with minimize_latency only")
        call, purpose = call_from_pb(request)
        identity, sees, view = current_identity(), self._sight(now), self._view
        answer = check(view, call, now, sees)
        _authorize(sees, answer.balances[0].account)
        check_bound(answer.estimate.cost_micro_usd, "estimated_input_tokens", "estimated_output_tokens")
        decision_id, freshness = self._new_id(), self._freshness.in_answer(view)
        if answer.decision is not Decision.ALLOW:
            await self._decisions.add(
                Decided(
                    decision_id,
                    call,
                    purpose,
                    identity.caller,
                    answer,
                    dict(view.next_offsets),
                    now,
                    current_traceparent(),
                )
            )
        return answer_to_bytes(answer, decision_id, freshness, sees)

    async def EstimateCost(  # noqa: N802 - the contract's name
        self, request: pb.EstimateCostRequest, _context: Context
    ) -> pb.EstimateCostResponse:
        """Price a call as usage at that time is priced."""
        now = self._clock.now()
        quantities = estimate_from_pb(request)
        at = time_from_pb(request.at, "at") if request.HasField("at") else now
        priced, book = estimate_cost(self._view.governance, request.provider, request.model, quantities, at)
        check_bound(priced.cost_micro_usd, "input_tokens", "output_tokens")
        return pb.EstimateCostResponse(
            cost_micro_usd=priced.cost_micro_usd,
            pricing=pricing_to_pb(priced.pricing),
            price_book_version=book.version,
        )

    async def GetBalance(  # noqa: N802 - the contract's name
        self, request: pb.GetBalanceRequest, _context: Context
    ) -> pb.GetBalanceResponse:
        """Return one account, or those that a subject's calls are counted on and the person asking may see.

        A person must be allowed to see the account or, with a subject, the subject's own and the project's.
        """
        now = self._clock.now()
        sees = self._sight(now)
        if request.WhichOneof("target") == "account_id":
            if request.project:
                raise InvalidRequestError({"project": "goes with subject only"})
            accounts = [_account("account_id", request.account_id)]
            # Before looking whether it exists: that, too, would tell whether somebody has used anything.
            _authorize(sees, accounts[0])
            self._require_existing(accounts[0], now)
        else:
            carrying = self._accounts_of(request.subject, request.project, now)
            asked_for = 2 if request.project else 1
            _authorize(sees, *carrying[:asked_for])
            accounts = [account for account in carrying if sees(account)]
        return pb.GetBalanceResponse(
            accounts=[balance_to_pb(self._view.balance(account, now)) for account in accounts],
            freshness=self._freshness.now(self._view),
            quota_policy_version=self._view.governance.quota_policies.at(now).version,
        )

    async def ListBalances(  # noqa: N802 - the contract's name
        self, request: pb.ListBalancesRequest, _context: Context
    ) -> pb.ListBalancesResponse:
        """Return a page of balances that the person asking may see, by account id."""
        now = self._clock.now()
        period = _period(request.period) or self._view.governance.calendars.at(now).period_of(now)
        self._require_at_hand(period)
        kind = kind_from_pb(request.kind)
        size = min(request.page_size or _PAGE_SIZE, _LARGEST_PAGE_SIZE)
        if size < 0:
            raise InvalidRequestError({"page_size": "must not be negative"})
        if request.page_token and _account("page_token", request.page_token).period != period:
            raise InvalidRequestError({"page_token": "is of another period"})
        sees = self._sight(now)
        found: list[Account] = []
        for count, account in enumerate(self._candidates(request, kind, period, now), start=1):
            if sees(account):
                found.append(account)
                if len(found) > size:
                    break
            if count % _YIELD_EVERY == 0:
                await asyncio.sleep(0)
        # From here on nothing awaits: the balances are of one moment, the one that the freshness tells of.
        page = found[:size]
        return pb.ListBalancesResponse(
            accounts=[balance_to_pb(self._view.balance(account, now)) for account in page],
            next_page_token=page[-1].account_id if len(found) > size else "",
            freshness=self._freshness.now(self._view),
        )

    def _candidates(
        self, request: pb.ListBalancesRequest, kind: AccountKind | None, period: PeriodId, now: datetime
    ) -> Iterable[Account]:
        """Return the touched accounts behind the page token that the filters let through, by id."""
        if request.subject or request.owner_id:
            # A handful: asked for one by one instead of searched for among all.
            owned = {Account(each, request.owner_id, Purpose.ALL, period) for each in AccountKind}
            if request.subject:
                carrying = self._accounts_of(request.subject, "", self._view.instant_in(period, now))
                named = {account._replace(period=period) for account in carrying}
                owned = named & owned if request.owner_id else named
            ids: Sequence[AccountId] = sorted(
                account.account_id
                for account in owned
                if (kind is None or account.kind is kind) and self._view.is_touched(account)
            )
        else:
            ids = self._view.touched(period)
        prefix = f"{kind}/" if kind else ""
        start = max(bisect_right(ids, request.page_token), bisect_left(ids, prefix))
        following = (ids[place] for place in range(start, len(ids)))
        return map(parse_account_id, takewhile(lambda each: each.startswith(prefix), following))

    @property
    def _view(self) -> QuotaView:
        """The view that answers now; after an await it may be another one."""
        view = self._serving.current
        if view is None:
            raise UnavailableError("the view is being loaded")
        return view

    def _accounts_of(self, subject: str, project: str, now: datetime) -> list[Account]:
        violations = {
            field: "must be an identifier"
            for field, text in (("subject", subject), ("project", project))
            if not is_identifier(text) and (text or field == "subject")
        }
        if violations:
            raise InvalidRequestError(violations)
        return self._view.accounts_of(subject, project or None, now)

    def _require_existing(self, account: Account, now: datetime) -> None:
        self._require_at_hand(account.period)
        limit = self._view.governance.limit(account.kind, account.owner_id, now)
        if limit is None and not self._view.is_touched(account):
            raise NotFoundError("no limit and no cost ever touched this account")

    def _require_at_hand(self, period: PeriodId) -> None:
        if period < self._view.horizon:
            raise NotFoundError(f"balances are at hand from {self._view.horizon} on")

    def _sight(self, now: datetime) -> Sight:
        person = current_identity().on_behalf_of
        return everything if person is None else sight_of(self._view.governance, person, now)


def _authorize(sees: Sight, *accounts: Account) -> None:
    if not all(map(sees, accounts)):
        raise PermissionDeniedError("this person neither owns the account nor decides about it")


def _account(field: str, account_id: str) -> Account:
    try:
        account = parse_account_id(account_id)
        parse_period(account.period)
    except ValueError as error:
        raise InvalidRequestError({field: str(error)}) from error
    return account


def _period(text: str) -> PeriodId | None:
    if not text:
        return None
    try:
        parse_period(text)
    except ValueError as error:
        raise InvalidRequestError({"period": "must be YYYY-MM"}) from error
    return PeriodId(text)
