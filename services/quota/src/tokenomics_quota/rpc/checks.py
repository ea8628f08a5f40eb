"""Checks, one by one, many at once or on a stream."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime
from typing import Any, Final

import grpc

from tokenomics.quota.v1 import quota_pb2 as pb
from tokenomics_chassis.rpc.errors import InvalidRequestError, RpcError
from tokenomics_chassis.rpc.identity import current_identity
from tokenomics_chassis.rpc.interceptor import to_rpc_error
from tokenomics_chassis.rpc.streams import exchange
from tokenomics_quota.domain.accounts import Account
from tokenomics_quota.domain.balance import Touched
from tokenomics_quota.domain.checks import Call, decided
from tokenomics_quota.domain.friction import Decision
from tokenomics_quota.ports import DecisionLog
from tokenomics_quota.rpc.consistency import as_fresh_as_asked, is_content, seconds_left
from tokenomics_quota.rpc.convert import (
    answer_to_bytes,
    answer_to_result,
    batch_to_bytes,
    call_from_pb,
    check_bound,
    failure_to_result,
    streamed_failure_to_bytes,
    streamed_to_bytes,
)
from tokenomics_quota.rpc.looks import Looks
from tokenomics_quota.rpc.moments import Moment, Moments
from tokenomics_quota.rpc.views import Views, authorize, sight
from tokenomics_quota.usecases.checking import check
from tokenomics_quota.usecases.freshening import Freshening
from tokenomics_quota.usecases.friction import FrictionCounts
from tokenomics_quota.usecases.seeing import Sight, everything

_LARGEST_BATCH: Final = 1_000
_YIELD_EVERY_CHECKS: Final = 25
"""Checks of one batch that are decided before others get their turn: some milliseconds."""

Context = grpc.aio.ServicerContext[Any, Any]

_Asked = tuple[Call, Touched]
"""A call to decide, with the accounts that decide it."""


class Checks:
    """Answers checks from the in-memory view.

    A call waits for nothing, unless it asks for more freshness than there is.

    Parameters
    ----------
    longest_wait_seconds
        How long a call without a deadline waits for the freshness that it asks for.
    draining
        Set when the process stops: streams come to their end.
    """

    def __init__(
        self,
        views: Views,
        moments: Moments,
        freshening: Freshening,
        decisions: DecisionLog,
        looks: Looks,
        *,
        friction: FrictionCounts,
        new_id: Callable[[], str],
        longest_wait_seconds: float,
        draining: asyncio.Event,
    ) -> None:
        self._views = views
        self._moments = moments
        self._freshening = freshening
        self._decisions = decisions
        self._looks = looks
        self._friction = friction
        self._new_id = new_id
        self._longest_wait_seconds = longest_wait_seconds
        self._draining = draining

    async def CheckQuota(  # noqa: N802 - the contract's name; its answer comes serialized
        self, request: pb.CheckQuotaRequest, context: Context
    ) -> bytes:
        """Decide one call; an answer that isn't plainly ALLOW leaves a decision record."""
        if not is_content(request):
            return await self._check_fresh(request, "CheckQuota", context)
        if current_identity().on_behalf_of is None:
            return self._check(request)
        return await self._check_for_person(request, "CheckQuota")

    async def BatchCheckQuota(  # noqa: N802 - as above
        self, request: pb.BatchCheckQuotaRequest, context: Context
    ) -> bytes:
        """Decide many calls from one state of the view; in between, other calls get their turn."""
        if len(request.checks) > _LARGEST_BATCH:
            raise InvalidRequestError({"checks": f"must be at most {_LARGEST_BATCH}"})
        failures: dict[int, RpcError] = {}
        if not all(map(is_content, request.checks)):
            failures = await self._freshen(request.checks, context)
        view, now = self._views.at_hand()
        moment, sees = self._moments.at(view, now), sight(view, now)
        results = [b""] * len(request.checks)
        asked: list[tuple[int, _Asked]] = []
        shown: list[Account] = []
        for place, each in enumerate(request.checks):
            if place in failures:
                results[place] = failure_to_result(failures[place])
                continue
            try:
                call = call_from_pb(each)
                touched = view.touched_by(call.subject, call.project_id, now, call.purpose)
                asked.append((place, (call, touched)))
            except Exception as error:  # noqa: BLE001 - mapped and logged as a call's error is; the others go on
                results[place] = failure_to_result(to_rpc_error("BatchCheckQuota", error))
        # From here on the view isn't looked at: it may move on while others have their turn.
        for count, (place, one) in enumerate(asked, start=1):
            try:
                results[place] = answer_to_result(self._decide(one, moment, sees, now))
                shown.append(one[1].balances[0].account)
            except Exception as error:  # noqa: BLE001 - as above
                results[place] = failure_to_result(to_rpc_error("BatchCheckQuota", error))
            if count % _YIELD_EVERY_CHECKS == 0:
                await asyncio.sleep(0)
        await self._looks.record(sees, shown, "BatchCheckQuota")
        return batch_to_bytes(results)

    async def StreamCheckQuota(  # noqa: N802 - as above, and it writes them itself
        self, _requests: object, context: Context
    ) -> None:
        """Decide calls as they come; those that wait for the view hold up no other."""
        for_person = current_identity().on_behalf_of is not None

        def answer(request: pb.StreamCheckQuotaRequest) -> bytes | Awaitable[bytes]:
            check = request.check
            if not is_content(check):
                fresh = self._check_fresh(check, "StreamCheckQuota", context)
                return answer_in_time(request.sequence, fresh)
            if for_person:
                return answer_in_time(request.sequence, self._check_for_person(check, "StreamCheckQuota"))
            try:
                return streamed_to_bytes(request.sequence, self._check(check))
            except Exception as error:  # noqa: BLE001 - as above
                return failure(request.sequence, error)

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

    async def _check_fresh(self, request: pb.CheckQuotaRequest, method: str, context: Context) -> bytes:
        """Decide one call as soon as the view is as fresh as it asks for."""
        if failures := await self._freshen([request], context):
            raise failures[0]
        if current_identity().on_behalf_of is None:
            return self._check(request)
        return await self._check_for_person(request, method)

    async def _check_for_person(self, request: pb.CheckQuotaRequest, method: str) -> bytes:
        """Decide one call, and record that it shows who asks another's account where it does."""
        view, now = self._views.at_hand()
        call, sees = call_from_pb(request), sight(view, now)
        touched = view.touched_by(call.subject, call.project_id, now, call.purpose)
        answer = self._decide((call, touched), self._moments.at(view, now), sees, now)
        await self._looks.record(sees, [touched.balances[0].account], method)
        return answer

    def _check(self, request: pb.CheckQuotaRequest) -> bytes:
        """Decide one call from the view as it is: see :meth:`_decide`."""
        view, now = self._views.at_hand()
        call = call_from_pb(request)
        asked = (call, view.touched_by(call.subject, call.project_id, now, call.purpose))
        return self._decide(asked, self._moments.at(view, now), sight(view, now), now)

    async def _freshen(self, checks: Sequence[pb.CheckQuotaRequest], context: Context) -> dict[int, RpcError]:
        self._views.at_hand()
        left = seconds_left(context, self._longest_wait_seconds)
        return await as_fresh_as_asked(self._freshening, checks, left)

    def _decide(self, asked: _Asked, moment: Moment, sees: Sight, now: datetime) -> bytes:
        """Decide one call: return the answer, serialized; other than a plain ALLOW, it leaves a record."""
        call, touched = asked
        terms, next_offsets, _, freshness, lag, tab = moment
        answer = check(terms, touched, call, now, sees)
        if sees is not everything:
            authorize(sees, touched.balances[0].account)
        check_bound(answer.estimate.cost_micro_usd, "estimated_input_tokens", "estimated_output_tokens")
        if budgets := terms.quota_policy.friction:
            self._friction.check(answer.interrupting, touched.balances[0].account.owner_id, budgets, now)
        degraded = None
        if tab is not None and touched.standing.bypass is None:
            degraded = tab.admit(answer, terms.quota_policy.degrade, lag, sees)
        if answer.decision is Decision.ALLOW and answer.shadow is None:
            decision_id = self._new_id()
        else:
            kept = (call, current_identity().caller, answer, next_offsets, tab is not None, now)
            decision_id = self._decisions.add(decided(kept))
        return answer_to_bytes(answer, touched, decision_id, freshness, degraded, sees)
