"""Asking servers for checks all the time, whatever becomes of them."""

import asyncio
import random
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any, Self

import grpc

from tests.proofs.events import MODELS, PROVIDER
from tests.proofs.serving import bearer
from tokenomics.quota.v1 import quota_pb2 as pb
from tokenomics.quota.v1 import quota_pb2_grpc
from tokenomics_tools.stack import GATEWAY, Issuer

CHECK_SECONDS = 2
PAUSE_SECONDS = 0.02
_LATER = frozenset({grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED})
RECONNECT = [
    (f"grpc.{which}_reconnect_backoff_ms", milliseconds)
    for which, milliseconds in (("initial", 100), ("min", 100), ("max", 500))
]


def is_right_refusal(error: grpc.aio.AioRpcError) -> bool:
    """Whether a caller may be told this by a server that can't answer: that later is another matter.

    Also CANCELLED without a word of ours: so gRPC answers what comes in at the moment at which a server ends
    (https://github.com/grpc/grpc/issues/41785).
    """
    cancelled = error.code() is grpc.StatusCode.CANCELLED and error.details() == "CANCELLED"
    return cancelled or error.code() in _LATER


class Checks:
    """Callers of CheckQuota, one a server, who ask for one of the people after the other."""

    def __init__(
        self, issuer: Issuer, addresses: Sequence[str], people: Sequence[str], rng: random.Random
    ) -> None:
        self._metadata = bearer(issuer.token(GATEWAY))
        self._addresses, self._people = addresses, people
        self._rng = random.Random(rng.random())
        self._callers: list[asyncio.Task[None]] = []
        self._last: dict[str, pb.CheckQuotaResponse] = {}
        self._answered = asyncio.Condition()
        self.outcomes: Counter[str] = Counter()
        """How often each code came."""
        self.wrong: list[str] = []
        """Refusals with a code that they must not have."""

    @property
    def asked(self) -> int:
        """How many checks came to an end."""
        return self.outcomes.total()

    async def __aenter__(self) -> Self:
        self._callers = [asyncio.create_task(self._ask(address)) for address in self._addresses]
        return self

    async def __aexit__(self, *_: object) -> None:
        for caller in self._callers:
            caller.cancel()
        for caller in self._callers:
            with suppress(asyncio.CancelledError):
                await caller

    async def level(self, ends: Mapping[tuple[str, int], int], *, within_seconds: float) -> None:
        """Wait until every server answers from a view that is not stale and has reached these ends.

        Raises
        ------
        TimeoutError
            Saying who is not there.
        """
        needed = {f"{topic}/{partition}": end for (topic, partition), end in ends.items()}
        self._last.clear()
        try:
            async with asyncio.timeout(within_seconds), self._answered:
                await self._answered.wait_for(lambda: not self._behind(needed))
        except TimeoutError:
            raise TimeoutError(
                f"not level after {within_seconds:g} s: {self._behind(needed)}; {dict(self.outcomes)}"
            ) from None

    def _behind(self, needed: Mapping[str, int]) -> list[str]:
        behind = []
        for address in self._addresses:
            answer = self._last.get(address)
            if answer is None:
                behind.append(f"{address} has not answered")
                continue
            reached = answer.freshness.token.next_offsets
            missing = {place: end - reached[place] for place, end in needed.items() if reached[place] < end}
            if missing or answer.freshness.stale:
                behind.append(f"{address} lacks {missing}, stale: {answer.freshness.stale}")
        return behind

    async def _ask(self, address: str) -> None:
        async with grpc.aio.insecure_channel(address, options=RECONNECT) as channel:
            stub: Any = quota_pb2_grpc.QuotaServiceStub(channel)
            while True:
                try:
                    answer = await stub.CheckQuota(
                        self._request(), metadata=self._metadata, timeout=CHECK_SECONDS
                    )
                except grpc.aio.AioRpcError as error:
                    self._last.pop(address, None)
                    self._count(error.code())
                    if not is_right_refusal(error):
                        self.wrong.append(f"a check was refused with {error.code().name}: {error.details()}")
                else:
                    self._last[address] = answer
                    self._count(grpc.StatusCode.OK)
                    async with self._answered:
                        self._answered.notify_all()
                await asyncio.sleep(PAUSE_SECONDS)

    def _request(self) -> pb.CheckQuotaRequest:
        return pb.CheckQuotaRequest(
            subject=self._rng.choice(self._people),
            provider=PROVIDER,
            model=self._rng.choice(MODELS),
            estimated_input_tokens=self._rng.randrange(10_000),
            estimated_output_tokens=self._rng.randrange(1_000),
        )

    def _count(self, code: grpc.StatusCode) -> None:
        self.outcomes[code.name.lower()] += 1
