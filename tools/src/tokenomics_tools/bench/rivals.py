"""The service and its floor: two servers that take turns on one core, and a caller on another.

Both answer the same requests with messages of one size; the service identifies the caller by its token,
meters, traces one call in a hundred to a collector, and maps errors.
"""

import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import grpc
import msgspec

from tokenomics.quota.v1 import quota_pb2 as pb
from tokenomics.quota.v1.quota_pb2_grpc import QuotaServiceStub
from tokenomics_tools.bench.caller import Plan, Report
from tokenomics_tools.bench.plant import USAGE_TOPIC, Scale, cpu_seconds, plant, stop, usage_events
from tokenomics_tools.stack import GATEWAY, ManagedProcess, Stack
from tokenomics_tools.stack.processes import free_port

IN_FLIGHT = 64

_SERVICE = "/tokenomics.quota.v1.QuotaService"
_REQUESTS = 1_000
_START_SECONDS = 30
_TRACED = {"OTEL_TRACES_SAMPLER": "parentbased_traceidratio", "OTEL_TRACES_SAMPLER_ARG": "0.01"}


class Measured(NamedTuple):
    """What came of calling one of the two."""

    report: Report
    cpu_micros: float
    """What the server used for a call."""


@dataclass(frozen=True)
class Rival:
    """A server that waits for calls."""

    address: str
    server: ManagedProcess


@dataclass(frozen=True)
class Rivals:
    """Both servers, and what to ask them."""

    stack: Stack
    scale: Scale
    ours: Rival
    floor: Rival
    metadata: tuple[tuple[str, str], ...]
    requests: Sequence[pb.CheckQuotaRequest]
    answers: Sequence[pb.CheckQuotaResponse]
    """The service's to the requests."""
    prepared: bytes
    """The floor's to every request: the service's of median size."""

    def call_in_pairs(
        self, method: str, messages: Sequence[bytes], *, in_flight: int = IN_FLIGHT, streams: int = 0
    ) -> list[tuple[Measured, Measured]]:
        """Call a method of both, ours first in each pair, as often as the scale says.

        Parameters
        ----------
        streams
            Over how many streams the messages are sent; 0 for unary calls.
        """
        plan = Plan(
            address="",
            method=f"{_SERVICE}/{method}",
            metadata=self.metadata,
            requests=list(messages),
            in_flight=in_flight,
            streams=streams,
            warm_up_seconds=self.scale.of(1, at_least=0.3),
            seconds=self.scale.of(5, at_least=0.5),
        )
        pairs = []
        for _ in range(self.scale.pairs):
            self.ours.server.pause()  # the floor has the core to itself
            floor = self._call(self.floor, plan)
            self.ours.server.resume()
            pairs.append((self._call(self.ours, plan), floor))
        return pairs

    def call_ours(self, method: str, messages: Sequence[bytes]) -> Measured:
        """Call a unary method of the service alone."""
        return self.call_in_pairs(method, messages)[0][0]

    def _call(self, rival: Rival, plan: Plan) -> Measured:
        server_core, *_, caller_core = sorted(os.sched_getaffinity(0)) * 2
        _pin(rival.server, server_core)
        cpu_before = cpu_seconds(rival.server)
        report = _call(self.stack, msgspec.structs.replace(plan, address=rival.address), caller_core)
        return Measured(report, (cpu_seconds(rival.server) - cpu_before) / report.all_calls * 1e6)


@contextmanager
def rivals(scale: Scale) -> Iterator[Rivals]:
    """Start both servers in the middle of a month.

    Its first half is counted, calls of the second half are asked about.
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
        floor = _start_floor(made.stack, f"127.0.0.1:{free_port()}", prepared)
        ours = Rival(quota.address, quota.server)
        yield Rivals(made.stack, scale, ours, floor, metadata, requests, answers, prepared)
        stop(quota.server)


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
    address: str, metadata: tuple[tuple[str, str], ...], requests: Sequence[pb.CheckQuotaRequest]
) -> list[pb.CheckQuotaResponse]:
    with grpc.insecure_channel(address) as channel:
        stub = QuotaServiceStub(channel)
        return [stub.CheckQuota(request, metadata=metadata, timeout=_START_SECONDS) for request in requests]


def _start_floor(stack: Stack, address: str, answer: bytes) -> Rival:
    module = "tokenomics_tools.bench.prepared_server"
    server = stack.spawn("bench-floor", [sys.executable, "-m", module, address, answer.hex()], {})
    with grpc.insecure_channel(address) as channel:
        grpc.channel_ready_future(channel).result(_START_SECONDS)
    return Rival(address, server)


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
