"""What calls cost, before they are made."""

from typing import Any

import grpc

from tokenomics.quota.v1 import quota_pb2 as pb
from tokenomics_quota.domain.pricing import price
from tokenomics_quota.rpc.convert import check_bound, estimate_from_pb, pricing_to_pb, time_from_pb
from tokenomics_quota.rpc.views import Views

Context = grpc.aio.ServicerContext[Any, Any]


class Advice:
    """Prices calls from the in-memory view."""

    def __init__(self, views: Views) -> None:
        self._views = views

    async def EstimateCost(  # noqa: N802 - the contract's name
        self, request: pb.EstimateCostRequest, _context: Context
    ) -> pb.EstimateCostResponse:
        """Price a call as usage at that time is priced."""
        view, now = self._views.at_hand()
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
