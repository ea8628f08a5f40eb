"""A lease: many small decisions from one held amount, in the caller, without a call."""

import time
from collections.abc import Callable
from enum import Enum
from functools import partial
from threading import Lock
from typing import Final, NamedTuple

from tokenomics.quota.v1 import quota_pb2 as pb
from tokenomics_client.price import HALF, PER_MICRO_USD, Price

_COUNTING_SLEEP: Final[int | None] = getattr(time, "CLOCK_BOOTTIME", getattr(time, "CLOCK_MONOTONIC", None))
"""The clock that goes on while the machine sleeps: on Linux one of its own. Windows has none of these; there
:func:`time.monotonic` does."""

steady: Final[Callable[[], float]] = (
    time.monotonic if _COUNTING_SLEEP is None else partial(time.clock_gettime, _COUNTING_SLEEP)
)
"""Seconds that never step back, and go on while the machine sleeps, as the server's do: a laptop that was
shut for an hour must not draw from what others have got meanwhile."""


class Refusal(Enum):
    """Why a draw is refused. Either is mended by renewing the lease or acquiring another one."""

    ENDED = "the lease's time to draw is over"
    EXHAUSTED = "less is left of the lease than the call costs"


class Draw(NamedTuple):
    """What came of a draw; true when the call may go ahead."""

    cost_micro_usd: int
    """What the call is expected to cost; drawn unless refused."""
    left_micro_usd: int
    """Of the lease, after the draw."""
    refusal: Refusal | None = None

    def __bool__(self) -> bool:
        return self.refusal is None


_drawn = partial(tuple.__new__, Draw)
"""A named tuple's own constructor is Python code; this one runs once a call."""


class Lease:
    """Decides calls from what a lease holds. Threads may share it; it never blocks on anything but them.

    It stops by the caller's steady clock, counted from before the lease was asked for: so it never draws past
    what the server holds for it, whatever either wall clock does.

    Parameters
    ----------
    lease
        As the server answered.
    asked_at
        When the request was about to be sent, by the clock.
    clock
        Seconds, never stepping back.

    Raises
    ------
    ValueError
        The answer has no usable price.
    """

    __slots__ = ("_clock", "_drawn", "_ended", "_ends_at", "_left", "_lock", "_price", "_renewal", "lease_id")

    def __init__(self, lease: pb.Lease, asked_at: float, clock: Callable[[], float] = steady) -> None:
        self.lease_id: str = lease.hold.hold_id
        """What usage events drawn from it name as their hold."""
        self._clock = clock
        self._lock = Lock()
        self._drawn = self._left = self._renewal = 0
        self._ended = False
        self._take(lease, asked_at)

    def draw(self, *, input_tokens: int, output_tokens: int, cached_input_tokens: int = 0) -> Draw:
        """Draw one call's expected cost, all of it or nothing.

        Raises
        ------
        ValueError
            A count is negative, or more is cached than there is input.
        """
        if not (0 <= cached_input_tokens <= input_tokens and output_tokens >= 0):
            raise ValueError("token counts should be 0 or more, cached ones at most the input's")
        request, per_input, per_cached, per_output = self._price.only or self._price.rates(input_tokens)
        exact = (
            request + input_tokens * per_input + cached_input_tokens * per_cached + output_tokens * per_output
        )
        cost = (exact + HALF) // PER_MICRO_USD
        with self._lock:
            if self._clock() >= self._ends_at:
                return Draw(cost, self._left, Refusal.ENDED)
            left = self._left - cost
            if left < 0:
                return Draw(cost, self._left, Refusal.EXHAUSTED)
            self._left = left
            self._drawn += cost
        return _drawn((cost, left, None))

    def settle(self, draw: Draw, cost_micro_usd: int) -> None:
        """Tell what a call that was drawn really cost: the difference is left for other calls, or missing.

        Call it at most once a draw. A call that wasn't made cost 0.

        Raises
        ------
        ValueError
            The cost is negative, or the draw was refused.
        """
        if not draw or cost_micro_usd < 0:
            raise ValueError("only a draw that was not refused is settled, with a cost of 0 or more")
        with self._lock:
            self._left += draw.cost_micro_usd - cost_micro_usd
            self._drawn += cost_micro_usd - draw.cost_micro_usd

    def renewal_request(self, amount_micro_usd: int) -> pb.RenewLeaseRequest:
        """Return what asks for a further stretch with so much to draw from; ``draw_for`` is left to set.

        When its answer is lost, send the same again: another request for a stretch that was given is refused.
        """
        with self._lock:
            return pb.RenewLeaseRequest(
                lease_id=self.lease_id,
                renewal=self._renewal + 1,
                drawn_micro_usd=self._drawn,
                amount_micro_usd=amount_micro_usd,
            )

    def renewed(self, lease: pb.Lease, asked_at: float) -> None:
        """Take over what the server answered; an answer older than what is known changes nothing.

        Draws made since the request stay drawn. A lease that was ended meanwhile stays so.
        """
        with self._lock:
            if lease.renewal > self._renewal and not self._ended:
                self._take(lease, asked_at)

    def end(self) -> pb.ReturnLeaseRequest:
        """Refuse every further draw, and return what gives the rest back."""
        with self._lock:
            self._ended, self._ends_at = True, float("-inf")
            return pb.ReturnLeaseRequest(lease_id=self.lease_id, drawn_micro_usd=self._drawn)

    @property
    def left_micro_usd(self) -> int:
        """What may still be drawn; negative when calls cost more than was drawn for them."""
        with self._lock:
            return self._left

    @property
    def drawn_micro_usd(self) -> int:
        """What was drawn since the lease was acquired."""
        with self._lock:
            return self._drawn

    def _take(self, lease: pb.Lease, asked_at: float) -> None:
        self._price = Price.from_pb(lease.price)
        self._renewal = lease.renewal
        self._left = lease.hold.amount_micro_usd - self._drawn
        self._ends_at = asked_at + lease.draw_for.ToTimedelta().total_seconds()
