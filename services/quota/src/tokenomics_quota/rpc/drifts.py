"""Whether kept totals are what they are the totals of."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing
from typing import Any, Final

import grpc

from tokenomics.quota.v1 import quota_pb2 as pb
from tokenomics_chassis.rpc.errors import InvalidRequestError, StoppingError, UnavailableError
from tokenomics_quota.domain.accounts import Account, parse_account_id
from tokenomics_quota.domain.drift import Compared, Kept
from tokenomics_quota.domain.periods import parse_period
from tokenomics_quota.rpc.views import Views, require_operators

MOST_DRIFTS: Final = 1_000
_RETRY_AFTER_MS: Final = 30_000
_KEPT: Final = {
    Kept.POSTED: pb.KEPT_TOTAL_POSTED,
    Kept.DAY: pb.KEPT_TOTAL_DAY,
    Kept.LIVE: pb.KEPT_TOTAL_LIVE,
    Kept.ENDING: pb.KEPT_TOTAL_ENDING,
    Kept.SETTLING: pb.KEPT_TOTAL_SETTLING,
}

Context = grpc.aio.ServicerContext[Any, Any]
Compare = Callable[[Account | None], AsyncGenerator[Compared, None]]
"""Compares what is kept of an account, or of all, in one snapshot."""


class ComparisonUnderWayError(UnavailableError):
    """A comparison reads whole tables, and one is under way."""

    reason = "COMPARISON_UNDER_WAY"


class Drifts:
    """Lets operators have totals added up anew, one comparison at a time.

    Parameters
    ----------
    draining
        Set when the process stops: a comparison ends after the step it is at.
    """

    def __init__(self, views: Views, compare: Compare, draining: asyncio.Event) -> None:
        self._views = views
        self._compare = compare
        self._draining = draining
        self._under_way = asyncio.Lock()

    async def CheckDrift(  # noqa: N802 - the contract's name
        self, request: pb.CheckDriftRequest, _context: Context
    ) -> AsyncIterator[pb.CheckDriftResponse]:
        """Compare step by step, and tell of each."""
        require_operators(*self._views.at_hand())
        account = _account(request.account_id) if request.account_id else None
        if self._under_way.locked():
            raise ComparisonUnderWayError("another comparison is under way", retry_after_ms=_RETRY_AFTER_MS)
        async with self._under_way, aclosing(self._compare(account)) as steps:
            async for compared in steps:
                yield _compared_to_pb(compared)
                if self._draining.is_set():
                    raise StoppingError("this server stops: compare on another one")


def _account(account_id: str) -> Account:
    try:
        account = parse_account_id(account_id)
        parse_period(account.period)
    except ValueError as error:
        raise InvalidRequestError({"account_id": str(error)}) from error
    return account


def _compared_to_pb(compared: Compared) -> pb.CheckDriftResponse:
    return pb.CheckDriftResponse(
        period=compared.period,
        compared_totals=compared.amounts,
        step=compared.step,
        steps=compared.steps,
        drifting_totals=len(compared.drifts),
        drifts=[
            pb.Drift(
                kept=_KEPT[each.kept],
                name=each.name,
                kept_micro_usd=each.kept_micro_usd,
                recomputed_micro_usd=each.recomputed_micro_usd,
            )
            for each in compared.drifts[:MOST_DRIFTS]
        ],
    )
