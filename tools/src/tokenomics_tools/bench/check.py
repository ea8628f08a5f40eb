"""CheckQuota beside an empty handler of the same kind of server.

The server has one core to itself, the caller another. Both answer the same requests with messages of one
size; the service identifies the caller by its token, meters, traces one call in a hundred to a collector, and
maps errors.
"""

import os
import statistics
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import grpc
import msgspec

from tokenomics.quota.v1 import quota_pb2 as pb
from tokenomics.quota.v1.quota_pb2_grpc import QuotaServiceStub
from tokenomics_tools.bench.caller import Plan, Report
from tokenomics_tools.bench.plant import USAGE_TOPIC, Scale, cpu_seconds, plant, stop, usage_events
from tokenomics_tools.bench.rows import Bar, Pair, Row, paired
from tokenomics_tools.stack import GATEWAY, ManagedProcess, Stack
from tokenomics_tools.stack.processes import free_port

Metadata = tuple[tuple[str, str], ...]

_METHOD = "/tokenomics.quota.v1.QuotaService/CheckQuota"
_IN_FLIGHT = 64
_REQUESTS = 1_000
_START_SECONDS = 30
_TRACED = {"OTEL_TRACES_SAMPLER": "parentbased_traceidratio", "OTEL_TRACES_SAMPLER_ARG": "0.01"}


class _Measured(NamedTuple):
    report: Report
    cpu_micros: float
    """What the server used for a call."""


def measure(scale: Scale) -> list[Row]:
    """Measure throughput and p99 of a server that is kept busy on one core.

    It is the middle of the month: its first half is counted, calls of the second half are asked about.
    """
    with plant(events=int(scale.of(40_000, at_least=4_000))) as made, _collector() as collector:
        events = usage_events(made.simulation)
        made.publish_usage(events[: len(events) // 2])
        made.project(made.database_url, USAGE_TOPIC)
        quota = made.quota(TOKENOMICS_OTLP_ENDPOINT=collector, **_TRACED)
        quota.start_server()
        metadata = (("authorization", f"Bearer {made.stack.issuer.token(GATEWAY)}"),)
        requests = _requests(made.simulation.usage[len(events) // 2 :])
        answers = _answers(quota.address, metadata, requests)
        prepared = sorted((answer.SerializeToString() for answer in answers), key=len)[len(answers) // 2]
        floor_address = f"127.0.0.1:{free_port()}"
        floor_server = _start_floor(made.stack, floor_address, prepared)
        server_core, *_, caller_core = sorted(os.sched_getaffinity(0)) * 2

        def call(address: str, server: ManagedProcess) -> _Measured:
            plan = Plan(
                address=address,
                method=_METHOD,
                metadata=metadata,
                requests=[request.SerializeToString() for request in requests],
                in_flight=_IN_FLIGHT,
                warm_up_seconds=scale.of(1, at_least=0.3),
                seconds=scale.of(5, at_least=0.5),
            )
            _pin(server, server_core)
            cpu_before = cpu_seconds(server)
            report = _call(made.stack, plan, caller_core)
            return _Measured(report, (cpu_seconds(server) - cpu_before) / report.all_calls * 1e6)

        pairs = []
        for _ in range(scale.pairs):
            quota.server.pause()  # the floor has the core to itself
            floor = call(floor_address, floor_server)
            quota.server.resume()
            pairs.append((call(quota.address, quota.server), floor))
        stop(quota.server)
    plain = sum(answer.decision == pb.DECISION_ALLOW for answer in answers) / len(answers)

    def beside_floor(figure: Callable[[_Measured], float]) -> list[Pair]:
        return [Pair(figure(ours), figure(floor)) for ours, floor in pairs]

    rates = beside_floor(lambda measured: measured.report.calls_per_second)
    return [
        paired("check, 64 in flight", "calls/s", rates, Bar("ratio", ">=", 0.7)),
        Row(
            "check, per core",
            statistics.median(rate.value for rate in rates),
            "calls/s",
            bar=Bar("value", ">=", 1_500),
        ),
        paired(
            "check, p99", "ms", beside_floor(lambda measured: measured.report.p99_ms), Bar("ratio", "<=", 1.5)
        ),
        paired("check, server CPU", "µs/call", beside_floor(lambda measured: measured.cpu_micros)),
        paired("check, caller CPU", "cores", beside_floor(lambda measured: measured.report.caller_cpu_share)),
        Row("check, plain ALLOW", plain * 100, "% of answers"),
        Row("check, answer size", len(prepared), "B"),
    ]


def _requests(usage: Sequence[Mapping[str, Any]]) -> list[pb.CheckQuotaRequest]:
    """Ask before these calls, evenly chosen: who uses more asks more often."""
    return [
        pb.CheckQuotaRequest(
            subject=line["subject"],
            provider=line["provider"],
            model=line["model"],
            estimated_input_tokens=line["input_tokens"],
            estimated_output_tokens=line["output_tokens"],
            project=line.get("project", ""),
        )
        for line in usage[:: max(1, len(usage) // _REQUESTS)]
    ]


def _answers(
    address: str, metadata: Metadata, requests: Sequence[pb.CheckQuotaRequest]
) -> list[pb.CheckQuotaResponse]:
    with grpc.insecure_channel(address) as channel:
        stub = QuotaServiceStub(channel)
        return [stub.CheckQuota(request, metadata=metadata, timeout=_START_SECONDS) for request in requests]


def _start_floor(stack: Stack, address: str, answer: bytes) -> ManagedProcess:
    module = "tokenomics_tools.bench.prepared_server"
    server = stack.spawn("bench-floor", [sys.executable, "-m", module, address, answer.hex()], {})
    with grpc.insecure_channel(address) as channel:
        grpc.channel_ready_future(channel).result(_START_SECONDS)
    return server


def _call(stack: Stack, plan: Plan, core: int) -> Report:
    path = stack.folder / "plan.json"
    path.write_bytes(msgspec.json.encode(plan))
    caller = stack.spawn("bench-caller", [sys.executable, "-m", "tokenomics_tools.bench.caller", path], {})
    _pin(caller, core)
    if code := caller.wait(_START_SECONDS + plan.warm_up_seconds + plan.seconds):
        raise RuntimeError(f"the caller ended with exit code {code}{caller.quote_log()}")
    return msgspec.json.decode(caller.log_text(), type=Report)


def _pin(process: ManagedProcess, core: int) -> None:
    for thread in Path(f"/proc/{process.pid}/task").iterdir():  # later ones inherit it
        os.sched_setaffinity(int(thread.name), {core})


@contextmanager
def _collector() -> Iterator[str]:
    """Take in whatever telemetry is sent, and forget it."""
    server = grpc.server(ThreadPoolExecutor(1), handlers=[_TakesAnything()])
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        server.stop(None)


class _TakesAnything(grpc.GenericRpcHandler):
    def service(self, _details: grpc.HandlerCallDetails) -> Any:
        return grpc.unary_unary_rpc_method_handler(lambda _request, _context: b"")
