"""Processes to be started, watched and ended by tests, and a collector of what they tell."""

import json
import os
import signal
import subprocess
import sys
from concurrent import futures
from pathlib import Path
from typing import Any

import grpc
from opentelemetry.proto.collector.metrics.v1 import metrics_service_pb2, metrics_service_pb2_grpc
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc

PRELUDE = """
import asyncio, logging, sys, time
from tokenomics_chassis.process import *
from tokenomics_chassis.settings import ServiceSettings, load
from tokenomics_chassis.telemetry import span
from tokenomics_chassis.metrics import RPC_DURATION

log = logging.getLogger("test")
PATIENCE = 0

def task(name, *, lag=0.0, fail=None, ready=False):
    async def run(stopping):
        log.info("%s runs", name)
        if ready:
            sys.stdout.write("ready\\n"), sys.stdout.flush()
        if fail:
            await asyncio.sleep(0.1)
            raise fail
        await stopping.wait()
        await asyncio.sleep(lag)
        log.info("%s stopped", name)
    return run


def main():
    return run("test", load(ServiceSettings), start, patience_seconds=PATIENCE)
"""


class Running:
    """A started process."""

    def __init__(self, script: str, folder: Path, **environment: str) -> None:
        path = folder / "main.py"
        path.write_text(f"{PRELUDE}\n{script}\nexit_with(main)\n")
        self.popen = subprocess.Popen(  # noqa: S603 - our own script
            [sys.executable, path],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={
                **os.environ,
                "TOKENOMICS_DATABASE_URL": "postgresql://test:s3cret@127.0.0.1:1/test",
                "TOKENOMICS_KAFKA_BOOTSTRAP": "127.0.0.1:1",
                "TOKENOMICS_GRACE_SECONDS": "2",
                **environment,
            },
        )

    def when_ready(self) -> "Running":
        """Wait until the last task runs."""
        assert self.popen.stdout is not None
        assert self.popen.stdout.readline() == "ready\n"
        return self

    def finish(self, *signals: signal.Signals) -> tuple[int, list[dict[str, Any]]]:
        """Send signals, wait for the end, and return exit code and log lines."""
        for number in signals:
            self.popen.send_signal(number)
        _, err = self.popen.communicate(timeout=30)
        return self.popen.returncode, [json.loads(line) for line in err.splitlines()]


def messages(lines: list[dict[str, Any]]) -> list[str]:
    return [line["message"] for line in lines]


class Collector:
    """An OTLP collector that keeps what it is sent."""

    def __init__(self) -> None:
        self.spans: list[Any] = []
        self.metrics: dict[str, Any] = {}
        self._server = grpc.server(futures.ThreadPoolExecutor(2))
        add_traces: Any = trace_service_pb2_grpc.add_TraceServiceServicer_to_server
        add_traces(_Traces(self), self._server)
        add_metrics: Any = metrics_service_pb2_grpc.add_MetricsServiceServicer_to_server
        add_metrics(_Metrics(self), self._server)
        self.endpoint = f"http://127.0.0.1:{self._server.add_insecure_port('127.0.0.1:0')}"
        self._server.start()

    def stop(self) -> None:
        self._server.stop(None).wait()


class _Traces(trace_service_pb2_grpc.TraceServiceServicer):
    def __init__(self, collector: Collector) -> None:
        self._collector = collector

    def Export(self, request: Any, _context: Any) -> Any:  # noqa: N802
        self._collector.spans += [
            span for each in request.resource_spans for scope in each.scope_spans for span in scope.spans
        ]
        return trace_service_pb2.ExportTraceServiceResponse()


class _Metrics(metrics_service_pb2_grpc.MetricsServiceServicer):
    def __init__(self, collector: Collector) -> None:
        self._collector = collector

    def Export(self, request: Any, _context: Any) -> Any:  # noqa: N802
        self._collector.metrics |= {
            metric.name: metric
            for each in request.resource_metrics
            for scope in each.scope_metrics
            for metric in scope.metrics
        }
        return metrics_service_pb2.ExportMetricsServiceResponse()
