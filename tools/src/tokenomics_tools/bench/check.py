"""CheckQuota, one by one, in batches and on streams, beside empty handlers of the same kind of server."""

import statistics
from collections.abc import Callable, Sequence

from tokenomics.quota.v1 import quota_pb2 as pb
from tokenomics_tools.bench.plant import Scale
from tokenomics_tools.bench.rivals import Measured, rivals
from tokenomics_tools.bench.rows import Bar, Pair, Row, paired

_BATCH = 100
_BATCHES_IN_FLIGHT = 4
_STREAMS = 8

Pairs = Sequence[tuple[Measured, Measured]]


def measure(scale: Scale) -> list[Row]:
    """Measure throughput and p99 of a server that is kept busy on one core."""
    with rivals(scale) as both:
        alone = both.call_in_pairs("CheckQuota", [each.SerializeToString() for each in both.requests])
        plain = sum(answer.decision == pb.DECISION_ALLOW for answer in both.answers) / len(both.answers)
        prepared = len(both.prepared)
    rates = _beside_floor(alone, _rate)
    return [
        paired("check, 64 in flight", "calls/s", rates, Bar("ratio", ">=", 0.7)),
        Row(
            "check, per core",
            statistics.median(rate.value for rate in rates),
            "calls/s",
            bar=Bar("value", ">=", 1_500),
        ),
        paired(
            "check, p99",
            "ms",
            _beside_floor(alone, lambda measured: measured.report.p99_ms),
            Bar("ratio", "<=", 1.5),
        ),
        paired("check, server CPU", "µs/call", _beside_floor(alone, lambda measured: measured.cpu_micros)),
        paired(
            "check, caller CPU",
            "cores",
            _beside_floor(alone, lambda measured: measured.report.caller_cpu_share),
        ),
        Row("check, plain ALLOW", plain * 100, "% of answers"),
        Row("check, answer size", prepared, "B"),
    ]


def measure_batch(scale: Scale) -> list[Row]:
    """Measure batches of 100 beside 100 prepared answers, and beside the service's own single calls."""
    with rivals(scale) as both:
        batches = [
            pb.BatchCheckQuotaRequest(checks=both.requests[begin : begin + _BATCH]).SerializeToString()
            for begin in range(0, len(both.requests) - _BATCH + 1, _BATCH)
        ]
        together = both.call_in_pairs("BatchCheckQuota", batches, in_flight=_BATCHES_IN_FLIGHT)
        alone = both.call_ours("CheckQuota", [each.SerializeToString() for each in both.requests])
    rates = _beside_floor(together, lambda measured: _rate(measured) * _BATCH)
    return [
        paired("batch, of 100", "decisions/s", rates, Bar("ratio", ">=", 0.5)),
        paired(
            "batch, beside single calls",
            "decisions/s",
            [Pair(rate.value, _rate(alone)) for rate in rates],
            Bar("ratio", ">=", 10),
        ),
        paired(
            "batch, server CPU",
            "µs/decision",
            _beside_floor(together, lambda measured: measured.cpu_micros / _BATCH),
        ),
    ]


def measure_stream(scale: Scale) -> list[Row]:
    """Measure eight streams, 64 checks in flight, beside streams that return a prepared answer to each."""
    with rivals(scale) as both:
        messages = [
            pb.StreamCheckQuotaRequest(sequence=number, check=check).SerializeToString()
            for number, check in enumerate(both.requests, start=1)
        ]
        pairs = both.call_in_pairs("StreamCheckQuota", messages, streams=_STREAMS)
    return [
        paired("stream, 64 in flight", "decisions/s", _beside_floor(pairs, _rate), Bar("ratio", ">=", 0.7)),
        paired(
            "stream, server CPU", "µs/decision", _beside_floor(pairs, lambda measured: measured.cpu_micros)
        ),
    ]


def _rate(measured: Measured) -> float:
    return measured.report.calls_per_second


def _beside_floor(pairs: Pairs, figure: Callable[[Measured], float]) -> list[Pair]:
    return [Pair(figure(ours), figure(floor)) for ours, floor in pairs]
