"""What calls cost, before they are made, and what would make them cheaper."""

from typing import Any

import grpc

from tokenomics.quota.v1 import quota_pb2 as pb
from tokenomics_quota.domain.advice import advise
from tokenomics_quota.domain.balance import headroom_of
from tokenomics_quota.domain.pricing import in_micro_usd, price
from tokenomics_quota.rpc.convert import (
    check_bound,
    estimate_from_pb,
    pricing_to_pb,
    suggestion_from_pb,
    write_advice,
)
from tokenomics_quota.rpc.looks import Looks
from tokenomics_quota.rpc.views import Views, authorize, sight

Context = grpc.aio.ServicerContext[Any, Any]


class Advice:
    """Prices calls from the in-memory view, and what could be made instead."""

    def __init__(self, views: Views, looks: Looks) -> None:
        self._views = views
        self._looks = looks

    async def EstimateCost(  # noqa: N802 - the contract's name
        self, request: pb.EstimateCostRequest, _context: Context
    ) -> pb.EstimateCostResponse:
        """Price a call as usage at that time is priced."""
        view, now = self._views.at_hand()
        quantities, at = estimate_from_pb(request)
        at = at or now
        book = view.governance.price_books.at(at)
        priced = price(request.provider, request.model, quantities, book=book, at=at)
        check_bound(priced.cost_micro_usd, "input_tokens", "output_tokens")
        return pb.EstimateCostResponse(
            cost_micro_usd=priced.cost_micro_usd,
            pricing=pricing_to_pb(priced.pricing),
            price_book_version=book.version,
        )

    async def SuggestAlternatives(  # noqa: N802 - the contract's name
        self, request: pb.SuggestAlternativesRequest, _context: Context
    ) -> pb.SuggestAlternativesResponse:
        """Name what would make a call cheaper, whatever a check would decide about it."""
        view, now = self._views.at_hand()
        (call, most), sees = suggestion_from_pb(request), sight(view, now)
        touched = view.touched_by(call.subject, call.project_id, now, call.purpose)
        authorize(sees, touched.balances[0].account)
        book, standing = view.governance.price_books.at(now), touched.standing
        tariff = book.tariff(call.provider, call.model, call.quantities, now)
        cost = in_micro_usd(tariff.exact_cost(call.quantities))
        check_bound(cost, "call.estimated_input_tokens", "call.estimated_output_tokens")
        headroom = headroom_of(touched.balances, standing, sees)
        assets = view.governance.assets.serving(call.use_case_id, view.asset_users, now)
        advice = advise(call, tariff, book, now, standing, headroom, assets, most=most)
        answer = pb.SuggestAlternativesResponse(
            estimated_cost_micro_usd=cost,
            pricing=pricing_to_pb(tariff.pricing),
            quota_policy_version=view.governance.quota_policies.at(now).version,
            price_book_version=book.version,
        )
        write_advice(advice, answer.nudge)
        await self._looks.record(sees, [touched.balances[0].account], "SuggestAlternatives")
        return answer
