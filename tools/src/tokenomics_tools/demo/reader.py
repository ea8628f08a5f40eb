"""What quota says of itself, over gRPC."""

from collections import Counter
from collections.abc import Callable
from types import TracebackType
from typing import NamedTuple, Self

import grpc

from tokenomics.operations.v1 import operations_pb2
from tokenomics.operations.v1.operations_pb2_grpc import OperationsServiceStub
from tokenomics.quota.v1 import quota_pb2
from tokenomics.quota.v1.quota_pb2_grpc import QuotaServiceStub
from tokenomics_tools.stack import OPERATOR, PORTAL, Issuer
from tokenomics_tools.stack.processes import poll

_TIMEOUT_SECONDS = 10
_POLL_SECONDS = 0.2


class Progress(NamedTuple):
    """How far the projection is."""

    applied: Counter[str]
    """Records by topic that were applied, parked or skipped."""
    lag: int
    """Records that were not, of the partitions that have begun."""


class QuotaReader:
    """Reads balances and positions, as the portal and the operator."""

    def __init__(self, address: str, issuer: Issuer) -> None:
        self._channel = grpc.insecure_channel(address)
        self._portal = _bearer(issuer.token(PORTAL))
        self._operator = _bearer(issuer.token(OPERATOR))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._channel.close()

    def progress(self) -> Progress:
        """Return how far the projection is; everything counts as lag while the broker can't be asked."""
        answer = OperationsServiceStub(self._channel).GetPositions(
            operations_pb2.GetPositionsRequest(), metadata=self._operator, timeout=_TIMEOUT_SECONDS
        )
        applied: Counter[str] = Counter()
        for position in answer.positions:
            applied[position.topic] += position.next_offset
        return Progress(applied, sum(one.lag if one.HasField("lag") else 1 for one in answer.positions))

    def posted(self, period: str) -> dict[str, int]:
        """Return what is posted to each account of a period that usage touched, in micro-USD."""
        posted: dict[str, int] = {}
        page_token = ""
        while True:
            page = QuotaServiceStub(self._channel).ListBalances(
                quota_pb2.ListBalancesRequest(period=period, page_size=1_000, page_token=page_token),
                metadata=self._portal,
                timeout=_TIMEOUT_SECONDS,
            )
            posted |= {one.account_id: one.posted_micro_usd for one in page.accounts}
            page_token = page.next_page_token
            if not page_token:
                return posted


def wait_for(condition: Callable[[], bool], *, timeout_seconds: float) -> bool:
    """Ask until the condition holds, seldom enough not to slow down what is waited for."""
    return poll(condition, timeout_seconds=timeout_seconds, every_seconds=_POLL_SECONDS)


def _bearer(token: str) -> tuple[tuple[str, str | bytes], ...]:
    return (("authorization", f"Bearer {token}"),)
