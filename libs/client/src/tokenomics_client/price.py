"""What one call costs, by the price that came with a lease."""

from bisect import bisect_right
from typing import Final, NamedTuple, Self

from tokenomics.quota.v1 import quota_pb2 as pb

PER_MICRO_USD: Final = 10**10
"""Units of a rate, 10^-16 USD, in a micro-USD."""

HALF: Final = PER_MICRO_USD // 2


class Rates(NamedTuple):
    """In 10^-16 USD. A cached token adds what it costs beyond the input's rate: mostly a negative number."""

    request: int
    input: int
    cached_input: int
    output: int


class Price:
    """The price of one model, by size of the input; never changes.

    Parameters
    ----------
    steps
        (first input size, rates), ascending, the first from 0 on.
    """

    __slots__ = ("_borders", "_rates", "only")

    def __init__(self, steps: list[tuple[int, Rates]]) -> None:
        if not steps or steps[0][0] != 0:
            raise ValueError("a price should begin at 0 input tokens")
        self._borders = [border for border, _ in steps[1:]]
        if self._borders != sorted(set(self._borders)):
            raise ValueError("a price's steps should rise strictly by input tokens")
        self._rates = [rates for _, rates in steps]
        self.only = None if self._borders else self._rates[0]
        """The rates where size doesn't matter."""

    @classmethod
    def from_pb(cls, price: pb.LeasePrice) -> Self:
        """Read the price of an answer.

        Raises
        ------
        ValueError
            It is none.
        """
        return cls(
            [
                (
                    step.from_input_tokens,
                    Rates(
                        step.per_request,
                        step.per_input_token,
                        step.per_cached_input_token - step.per_input_token,
                        step.per_output_token,
                    ),
                )
                for step in price.steps
            ]
        )

    def rates(self, input_tokens: int) -> Rates:
        """Return the rates of a request with so many input tokens."""
        return self._rates[bisect_right(self._borders, input_tokens)]
