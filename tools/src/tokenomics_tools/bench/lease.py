"""Decisions inside a lease, in the caller."""

import time
from statistics import median

from google.protobuf.duration_pb2 import Duration

from tokenomics.quota.v1 import quota_pb2 as pb
from tokenomics_client import Lease, steady
from tokenomics_tools.bench.plant import Scale
from tokenomics_tools.bench.rows import Bar, Row

_DRAWS = 500_000
_BAR = Bar("value", ">=", 300_000)
_USD_A_MILLION = 10**10


def measure(scale: Scale) -> list[Row]:
    """Measure how many calls one core decides by the public interface, each priced by its input's size."""
    rates = [_draws_per_second(int(scale.of(_DRAWS, at_least=10_000))) for _ in range(scale.pairs)]
    return [Row("lease, in the caller", median(rates), "decisions/s", bar=_BAR)]


def _draws_per_second(draws: int) -> float:
    steps = [
        pb.SizedRates(
            from_input_tokens=start,
            per_input_token=3 * factor * _USD_A_MILLION,
            per_cached_input_token=factor * _USD_A_MILLION,
            per_output_token=15 * factor * _USD_A_MILLION,
        )
        for start, factor in ((0, 1), (200_001, 2))
    ]
    answer = pb.Lease(
        hold=pb.Hold(hold_id="bench", amount_micro_usd=2**62),
        draw_for=Duration(seconds=3_600),
        price=pb.LeasePrice(steps=steps),
    )
    lease = Lease(answer, steady())
    began = time.perf_counter()
    for _ in range(draws):
        if not lease.draw(input_tokens=4_000, cached_input_tokens=3_000, output_tokens=500):
            raise AssertionError("the lease holds far more than is drawn")
    return draws / (time.perf_counter() - began)
