"""QuotaService: what this version serves of it; the rest of the contract answers UNIMPLEMENTED."""

import asyncio
from bisect import bisect_left, bisect_right
from collections.abc import Awaitable, Callable, Iterable, Sequence
from datetime import datetime
from itertools import takewhile
from typing import Any, cast

import grpc

from tokenomics.quota.v1 import quota_pb2 as pb
from tokenomics.quota.v1.quota_pb2_grpc import QuotaServiceServicer
from tokenomics_chassis.clock import Clock
from tokenomics_chassis.rpc.errors import (
    InvalidRequestError,
    NotFoundError,
    PermissionDeniedError,
    RpcError,
    UnavailableError,
)
from tokenomics_chassis.rpc.identity import current_identity
from tokenomics_chassis.rpc.interceptor import to_rpc_error
from tokenomics_chassis.rpc.streams import exchange
from tokenomics_chassis.serving import Serving
from tokenomics_chassis.telemetry import current_traceparent
from tokenomics_contracts.units import AccountId, PeriodId
from tokenomics_contracts.units import Purpose as CallPurpose
from tokenomics_quota.domain.accounts import Account, AccountKind, Purpose, parse_account_id
from tokenomics_quota.domain.balance import Touched
from tokenomics_quota.domain.checks import Call, Decided
from tokenomics_quota.domain.friction import Decision
from tokenomics_quota.domain.periods import parse_period
from tokenomics_quota.domain.pricing import price
from tokenomics_quota.ports import DecisionLog
from tokenomics_quota.projections.balances import QuotaView
from tokenomics_quota.rpc.consistency import as_fresh_as_asked, is_content
from tokenomics_quota.rpc.convert import (
    answer_to_bytes,
    answer_to_result,
    balance_to_pb,
    batch_to_bytes,
    call_from_pb,
    check_bound,
    estimate_from_pb,
    failure_to_result,
    is_identifier,
    kind_from_pb,
    pricing_to_pb,
    streamed_failure_to_bytes,
    streamed_to_bytes,
    time_from_pb,
)
from tokenomics_quota.rpc.moments import Moment, Moments
from tokenomics_quota.usecases.checking import Sight, check, everything, sight_of
from tokenomics_quota.usecases.freshening import Freshening

_PAGE_SIZE = 100
_LARGEST_PAGE_SIZE = 1_000
_YIELD_EVERY = 1_000
"""Accounts that one listing looks at before others get their turn."""

_LARGEST_BATCH = 1_000
_YIELD_EVERY_CHECKS = 25
"""Checks of one batch that are decided before others get their turn: some milliseconds."""

Context = grpc.aio.ServicerContext[Any, Any]


_Asked = tuple[Call, CallPurpose, Touched]
"""A call to decide, with the accounts that decide it."""


class QuotaServicer(QuotaServiceServicer):
    """Answers from the in-memory view.

    A call waits for nothing but room in the decision log, unless it asks for more freshness than there is.

    Parameters
    ----------
    serving
        Has the view that answers. Another may take its place at any time: it is asked for anew after a wait.
    longest_wait_seconds
        How long a call without a deadline waits for the freshness that it asks for.
    draining
        Set when the process stops: streams come to their end.
    """

    def __init__(
        self,
        serving: Serving[QuotaView],
        moments: Moments,
        freshening: Freshening,
        decisions: DecisionLog,
        *,
        clock: Clock,
        new_id: Callable[[], str],
        longest_wait_seconds: float,
        draining: asyncio.Event,
    ) -> None:
        self._serving = serving
        self._moments = moments
        self._freshening = freshening
        self._decisions = decisions
        self._clock = clock
        self._new_id = new_id
        self._longest_wait_seconds = longest_wait_seconds
        self._draining = draining

    async def CheckQuota(  # type: ignore[override]  # noqa: N802 - its answer comes serialized; the contract's name
        self, request: pb.CheckQuotaRequest, context: Context
    ) -> bytes:
        """Decide one call; an answer other than a plain ALLOW leaves a decision record."""
        if not is_content(request) and (failures := await self._freshen([request], context)):
            raise failures[0]
        answer, record = self._check(request)
        if record is not None:
            await self._decisions.add(record)
        return answer

    async def BatchCheckQuota(  # type: ignore[override]  # noqa: N802 - as above
        self, request: pb.BatchCheckQuotaRequest, context: Context
    ) -> bytes:
        """Decide many calls from one state of the view; in between, other calls get their turn."""
        if len(request.checks) > _LARGEST_BATCH:
            raise InvalidRequestError({"checks": f"must be at most {_LARGEST_BATCH}"})
        failures: dict[int, RpcError] = {}
        if not all(map(is_content, request.checks)):
            failures = await self._freshen(request.checks, context)
        view, now = self._ready()
        moment, sees = self._moments.at(view, now), _sight(view, now)
        results = [b""] * len(request.checks)
        asked: list[tuple[int, _Asked]] = []
        for place, each in enumerate(request.checks):
            if place in failures:
                results[place] = failure_to_result(failures[place])
                continue
            try:
                call, purpose = call_from_pb(each)
                touched = view.touched_by(call.subject, call.project_id, now)
                asked.append((place, (call, purpose, touched)))
            except Exception as error:  # noqa: BLE001 - mapped and logged as a call's error is; the others go on
                results[place] = failure_to_result(to_rpc_error("BatchCheckQuota", error))
        # From here on the view isn't looked at: it may move on while others have their turn.
        for count, (place, one) in enumerate(asked, start=1):
            try:
                answer, record = self._decide(one, moment, sees, now)
                if record is not None:
                    await self._decisions.add(record)
                results[place] = answer_to_result(answer)
            except Exception as error:  # noqa: BLE001 - as above
                results[place] = failure_to_result(to_rpc_error("BatchCheckQuota", error))
            if count % _YIELD_EVERY_CHECKS == 0:
                await asyncio.sleep(0)
        return batch_to_bytes(results)

    async def StreamCheckQuota(  # type: ignore[override]  # noqa: N802 - as above, and it writes them itself
        self, _requests: object, context: Context
    ) -> None:
        """Decide calls as they come; those that wait for the view hold up no other."""

        def answer(request: pb.StreamCheckQuotaRequest) -> bytes | Awaitable[bytes]:
            check = request.check
            if not is_content(check):
                return answer_in_time(request.sequence, self.CheckQuota(check, context))
            try:
                answered, record = self._check(check)
            except Exception as error:  # noqa: BLE001 - as above
                return failure(request.sequence, error)
            if record is not None:
                return answer_in_time(request.sequence, self._recorded(answered, record))
            return streamed_to_bytes(request.sequence, answered)

        async def answer_in_time(sequence: int, answering: Awaitable[bytes]) -> bytes:
            try:
                return streamed_to_bytes(sequence, await answering)
            except Exception as error:  # noqa: BLE001 - as above
                return failure(sequence, error)

        def failure(sequence: int, error: Exception) -> bytes:
            return streamed_failure_to_bytes(sequence, to_rpc_error("StreamCheckQuota", error))

        await exchange(
            context,
            answer,
            may_wait=lambda request: not is_content(request.check),
            draining=self._draining,
        )

    async def _recorded(self, answer: bytes, record: Decided) -> bytes:
        await self._decisions.add(record)
        return answer

    def _check(self, request: pb.CheckQuotaRequest) -> tuple[bytes, Decided | None]:
        """Decide one call from the view as it is: see :meth:`_decide`."""
        view, now = self._ready()
        call, purpose = call_from_pb(request)
        asked = (call, purpose, view.touched_by(call.subject, call.project_id, now))
        return self._decide(asked, self._moments.at(view, now), _sight(view, now), now)

    async def _freshen(self, checks: Sequence[pb.CheckQuotaRequest], context: Context) -> dict[int, RpcError]:
        self._ready()
        left = cast("float | None", context.time_remaining())  # its stub leaves out that there may be none
        if left is None:
            left = self._longest_wait_seconds
        return await as_fresh_as_asked(self._freshening, checks, left)

    def _decide(
        self, asked: _Asked, moment: Moment, sees: Sight, now: datetime
    ) -> tuple[bytes, Decided | None]:
        """Decide one call: return the answer, serialized, and the record to leave before it is given."""
        call, purpose, touched = asked
        terms, next_offsets, _, freshness, lag, tab = moment
        answer = check(terms, touched, call, now, sees)
        if sees is not everything:
            _authorize(sees, touched.balances[0].account)
        check_bound(answer.estimate.cost_micro_usd, "estimated_input_tokens", "estimated_output_tokens")
        degraded = None
        if tab is not None:
            degraded = tab.admit(answer, terms.quota_policy.degrade, lag, sees)
        decision_id = self._new_id()
        record = None
        if answer.decision is not Decision.ALLOW:
            record = Decided(
                decision_id,
                call,
                purpose,
                current_identity().caller,
                answer,
                next_offsets,
                tab is not None,
                now,
                current_traceparent(),
            )
        return answer_to_bytes(answer, touched, decision_id, freshness, degraded, sees), record

    async def EstimateCost(  # noqa: N802 - the contract's name
        self, request: pb.EstimateCostRequest, _context: Context
    ) -> pb.EstimateCostResponse:
        """Price a call as usage at that time is priced."""
        view, now = self._ready()
        quantities = estimate_from_pb(request)
        at = time_from_pb(request.at, "at") if request.HasField("at") else now
        book = view.governance.price_books.at(at)
        priced = price(request.provider, request.model, quantities, book=book, at=at)
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
        view, now = self._ready()
        sees = _sight(view, now)
        if request.WhichOneof("target") == "account_id":
            if request.project:
                raise InvalidRequestError({"project": "goes with subject only"})
            accounts = [_account("account_id", request.account_id)]
            # Before looking whether it exists: that, too, would tell whether somebody has used anything.
            _authorize(sees, accounts[0])
            _require_existing(view, accounts[0], now)
        else:
            carrying = _accounts_of(view, request.subject, request.project, now)
            asked_for = 2 if request.project else 1
            _authorize(sees, *carrying[:asked_for])
            accounts = [account for account in carrying if sees(account)]
        return pb.GetBalanceResponse(
            accounts=[balance_to_pb(view.balance(account, now)) for account in accounts],
            freshness=self._moments.at(view, now).freshness,
            quota_policy_version=view.governance.quota_policies.at(now).version,
        )

    async def ListBalances(  # noqa: N802 - the contract's name
        self, request: pb.ListBalancesRequest, _context: Context
    ) -> pb.ListBalancesResponse:
        """Return a page of balances that the person asking may see, by account id."""
        view, now = self._ready()
        period = _period(request.period) or view.governance.calendars.at(now).period_of(now)
        _require_at_hand(view, period)
        kind = kind_from_pb(request.kind)
        size = min(request.page_size or _PAGE_SIZE, _LARGEST_PAGE_SIZE)
        if size < 0:
            raise InvalidRequestError({"page_size": "must not be negative"})
        if request.page_token and _account("page_token", request.page_token).period != period:
            raise InvalidRequestError({"page_token": "is of another period"})
        sees = _sight(view, now)
        found: list[Account] = []
        for count, account in enumerate(_candidates(view, request, kind, period, now), start=1):
            if sees(account):
                found.append(account)
                if len(found) > size:
                    break
            if count % _YIELD_EVERY == 0:
                await asyncio.sleep(0)
        # From here on nothing awaits: the balances are of one moment, the one that the freshness tells of.
        view, now = self._ready()
        page = found[:size]
        return pb.ListBalancesResponse(
            accounts=[balance_to_pb(view.balance(account, now)) for account in page],
            next_page_token=page[-1].account_id if len(found) > size else "",
            freshness=self._moments.at(view, now).freshness,
        )

    def _ready(self) -> tuple[QuotaView, datetime]:
        view = self._serving.current
        if view is None:
            raise UnavailableError("the view is being loaded")
        return view, self._clock.now()


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
            carrying = _accounts_of(view, request.subject, "", view.instant_in(period, now))
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
        field: "must be an identifier"
        for field, text in (("subject", subject), ("project", project))
        if not is_identifier(text) and (text or field == "subject")
    }
    if violations:
        raise InvalidRequestError(violations)
    return view.accounts_of(subject, project or None, now)


def _require_existing(view: QuotaView, account: Account, now: datetime) -> None:
    _require_at_hand(view, account.period)
    limit = view.governance.limit(account.kind, account.owner_id, now)
    if limit is None and not view.is_touched(account):
        raise NotFoundError("no limit and no cost ever touched this account")


def _require_at_hand(view: QuotaView, period: PeriodId) -> None:
    if period < view.horizon:
        raise NotFoundError(f"balances are at hand from {view.horizon} on")


def _sight(view: QuotaView, now: datetime) -> Sight:
    person = current_identity().on_behalf_of
    return everything if person is None else sight_of(view.governance, person, now)


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
