"""Real processes: what they do on signals, and the exit code and last words they leave to an SRE."""

import json
import signal
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from tests.integration.chassis_rpc.processes import Collector, Running, messages
from tokenomics_tools.stack.processes import free_port, poll


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_tasks_one_by_one_last_started_first_then_closes_resources(
    tmp_path: Path, number: signal.Signals
) -> None:
    script = """
from contextlib import asynccontextmanager

@asynccontextmanager
async def pool():
    yield
    log.info("pool closed")

async def start(process):
    await process.enter(pool())
    process.supervise("relay", task("relay"))
    process.supervise("projector", task("projector", lag=0.1))
    process.supervise("grpc", task("grpc", lag=0.1, ready=True))
"""
    code, lines = Running(script, tmp_path).when_ready().finish(number)
    assert code == 0
    assert messages(lines)[-6:] == [
        "stopping",
        "grpc stopped",
        "projector stopped",
        "relay stopped",
        "pool closed",
        "stopped",
    ]


def test_a_task_that_outlasts_the_grace_period_is_cancelled(tmp_path: Path) -> None:
    script = """
async def start(process):
    process.supervise("first", task("first"))
    process.supervise("slow", task("slow", lag=60, ready=True))
"""
    code, lines = Running(script, tmp_path, TOKENOMICS_GRACE_SECONDS="1").when_ready().finish(signal.SIGTERM)
    assert code == 0
    assert "a task did not stop in time, cancelled" in messages(lines)
    assert "slow stopped" not in messages(lines)


def test_what_does_not_even_end_when_cancelled_does_not_keep_the_process(tmp_path: Path) -> None:
    script = """
from contextlib import asynccontextmanager

@asynccontextmanager
async def pool():
    yield
    await asyncio.sleep(60)

async def stubborn(stopping):
    await stopping.wait()
    try:
        await asyncio.sleep(60)
    finally:
        await asyncio.sleep(60)

async def start(process):
    await process.enter(pool())
    process.supervise("stubborn", stubborn)
    process.supervise("last", task("last", ready=True))
"""
    code, lines = Running(script, tmp_path, TOKENOMICS_GRACE_SECONDS="1").when_ready().finish(signal.SIGTERM)
    assert code == 0
    assert messages(lines)[-4:] == [
        "a task did not stop in time, cancelled",
        "a task did not end when cancelled, left",
        "a resource did not close in time, left",
        "stopped",
    ]


def test_a_signal_before_the_start_is_over_cancels_it_and_is_no_success(tmp_path: Path) -> None:
    script = """
async def start(process):
    sys.stdout.write("ready\\n"), sys.stdout.flush()
    await asyncio.sleep(60)
    log.info("migrated")
"""
    code, lines = Running(script, tmp_path).when_ready().finish(signal.SIGTERM)
    assert code == 69
    assert messages(lines)[-3:] == ["stopping", "stopped before it was ready", "stopped"]


def test_a_task_that_fails_while_stopping_is_no_success(tmp_path: Path) -> None:
    script = """
async def flush(stopping):
    await stopping.wait()
    raise ConnectionResetError("broker")

async def start(process):
    process.supervise("first", task("first"))
    process.supervise("flush", flush)
    process.supervise("last", task("last", ready=True))
"""
    code, lines = Running(script, tmp_path).when_ready().finish(signal.SIGTERM)
    assert code == 69
    assert messages(lines)[-4:] == [
        "a task failed while stopping",
        "first stopped",
        "a dependency is unavailable: ConnectionResetError: broker",
        "stopped",
    ]


def test_a_second_signal_exits_at_once(tmp_path: Path) -> None:
    script = """
async def start(process):
    process.supervise("slow", task("slow", lag=60, ready=True))
"""
    running = Running(script, tmp_path, TOKENOMICS_GRACE_SECONDS="60").when_ready()
    running.popen.send_signal(signal.SIGTERM)
    assert running.popen.stderr is not None
    while json.loads(running.popen.stderr.readline())["message"] != "stopping":
        pass
    code, lines = running.finish(signal.SIGINT)
    assert code == 128 + signal.SIGINT
    assert messages(lines) == ["second signal, exiting at once"]


@pytest.mark.parametrize(
    ("failure", "code", "words"),
    [
        (
            "FatalError('100 events parked in a row', ExitCode.TOO_MANY_PARKED)",
            4,
            "100 events parked in a row",
        ),
        (
            "ConnectionRefusedError('no broker')",
            69,
            "a dependency is unavailable: ConnectionRefusedError: no broker",
        ),
        ("KeyError('surprise')", 70, "the process failed"),
    ],
)
def test_the_first_failure_stops_the_others_and_decides_the_exit_code(
    tmp_path: Path, failure: str, code: int, words: str
) -> None:
    script = f"""
async def start(process):
    process.supervise("healthy", task("healthy", lag=0.1))
    process.supervise("failing", task("failing", fail={failure}))
"""
    exit_code, lines = Running(script, tmp_path).finish()
    assert exit_code == code
    assert messages(lines)[-3:] == ["healthy stopped", words, "stopped"]
    assert lines[-1]["exit_code"] == code


def test_a_task_that_ends_unasked_is_a_failure(tmp_path: Path) -> None:
    script = """
async def ends(stopping):
    pass

async def start(process):
    process.supervise("view", ends)
"""
    code, lines = Running(script, tmp_path).finish()
    assert code == 70
    assert "view ended unasked" in messages(lines)


def test_a_process_without_tasks_ends_when_its_work_is_done(tmp_path: Path) -> None:
    script = """
async def start(process):
    log.info("migrated")
"""
    code, lines = Running(script, tmp_path).finish()
    assert code == 0
    assert messages(lines) == ["starting", "migrated", "stopped"]
    assert "s3cret" not in json.dumps(lines)


def test_an_unreachable_database_at_start_is_told_in_one_line(tmp_path: Path) -> None:
    script = """
import asyncpg

async def start(process):
    await asyncpg.connect(load(ServiceSettings).database_url)
"""
    code, lines = Running(script, tmp_path).finish()
    assert code == 69
    assert messages(lines)[-2].startswith("a dependency is unavailable: ")
    assert "exception" not in lines[-2]


def test_a_start_waits_for_what_is_away_with_growing_pauses_and_opens_everything_anew(tmp_path: Path) -> None:
    script = """
from contextlib import asynccontextmanager

PATIENCE = 60
attempts = []

@asynccontextmanager
async def pool():
    yield
    log.info("pool closed")

async def start(process):
    attempts.append(process)
    await process.enter(pool())
    process.readiness[f"check {len(attempts)}"] = lambda: None
    if len(attempts) == 1:
        raise ConnectionRefusedError("no database")
    if len(attempts) == 2:
        raise FatalError("no issuer", ExitCode.UNAVAILABLE)
    log.info(" ".join(process.readiness))
    process.supervise("work", task("work", ready=True))
"""
    code, lines = Running(script, tmp_path).when_ready().finish(signal.SIGTERM)
    assert code == 0
    assert messages(lines)[1:] == [
        "pool closed",
        "starting failed, trying again: ConnectionRefusedError: no database",
        "pool closed",
        "starting failed, trying again: FatalError: no issuer",
        "check 3",
        "work runs",
        "stopping",
        "work stopped",
        "pool closed",
        "stopped",
    ]


def test_a_start_that_waits_can_be_stopped(tmp_path: Path) -> None:
    script = """
PATIENCE = 60

async def start(process):
    sys.stdout.write("ready\\n"), sys.stdout.flush()
    raise ConnectionRefusedError("no database")
"""
    code, lines = Running(script, tmp_path).when_ready().finish(signal.SIGTERM)
    assert code == 69
    assert messages(lines)[-2:] == ["stopped before it was ready", "stopped"]


def test_probes_are_answered_before_the_start_is_over_and_until_the_end(tmp_path: Path) -> None:
    script = """
PATIENCE = 60
allowed = asyncio.Event()

async def check():
    return None if allowed.is_set() else "not yet"

async def start(process):
    if not allowed.is_set():
        sys.stdout.write("ready\\n"), sys.stdout.flush()
        await asyncio.to_thread(sys.stdin.readline)
        allowed.set()
        raise ConnectionRefusedError("no database")
    process.readiness["check"] = check
    process.supervise("slow", task("slow", lag=1))
"""
    address = f"127.0.0.1:{free_port()}"
    running = Running(script, tmp_path, TOKENOMICS_HEALTH_LISTEN=address, TOKENOMICS_GRACE_SECONDS="10")
    running.when_ready()
    with grpc.insecure_channel(address) as channel:
        health: Any = health_pb2_grpc.HealthStub(channel)

        def says(name: str) -> bool:
            answer = health.Check(health_pb2.HealthCheckRequest(service=name), timeout=5)
            return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)

        assert (says("liveness"), says("startup"), says("readiness")) == (True, False, False)
        assert running.popen.stdin is not None
        running.popen.stdin.write("\n")
        running.popen.stdin.flush()
        assert poll(lambda: says("readiness"), timeout_seconds=10)
        assert says("startup")
        running.popen.send_signal(signal.SIGTERM)
        assert poll(lambda: not says("readiness"), timeout_seconds=5)
        assert says("liveness")
    code, lines = running.finish()
    assert code == 0
    assert [each.get("reasons") for each in lines if each["message"] == "not ready"] == [
        ["starting"],
        ["stopping"],
    ]


def test_bad_settings_are_one_line_each_and_code_2(tmp_path: Path) -> None:
    running = Running(
        "start = None", tmp_path, TOKENOMICS_DATABASE_URL="sqlite://", TOKENOMICS_KAFKA_BOOTSTRAP=""
    )
    _, err = running.popen.communicate(timeout=30)
    assert running.popen.returncode == 2
    assert err.splitlines() == [
        "TOKENOMICS_DATABASE_URL: must be a postgresql:// URL",
        "TOKENOMICS_KAFKA_BOOTSTRAP is not set",
    ]


def test_telemetry_is_flushed_on_the_way_out_and_joins_the_callers_trace(
    tmp_path: Path, collector: Collector
) -> None:
    script = """
TRACEPARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"

async def start(process):
    RPC_DURATION.series({"rpc.method": "m"}).record(0.002)
    try:
        with span("outer", traceparent=TRACEPARENT):
            with span("inner", links=["00-" + "c" * 32 + "-" + "d" * 16 + "-01", None]):
                log.info("working")
            raise KeyError("someone@example.com")
    except KeyError:
        pass
"""
    code, lines = Running(script, tmp_path, TOKENOMICS_OTLP_ENDPOINT=collector.endpoint).finish()
    assert code == 0
    by_name = {span.name: span for span in collector.spans}
    outer, inner = by_name["outer"], by_name["inner"]
    assert outer.trace_id.hex() == inner.trace_id.hex() == "4bf92f3577b34da6a3ce929d0e0e4736"
    assert outer.parent_span_id.hex() == "00f067aa0ba902b7"
    assert inner.parent_span_id == outer.span_id
    assert outer.status.message == "KeyError"
    assert "example.com" not in str(outer)
    assert [link.trace_id.hex() for link in inner.links] == ["c" * 32]
    working = next(line for line in lines if line["message"] == "working")
    assert working["span_id"] == inner.span_id.hex()
    (point,) = collector.metrics["rpc.server.call.duration"].histogram.data_points
    assert (point.count, sum(point.bucket_counts), point.sum) == (1, 1, 0.002)
    assert "process.cpu.time" in collector.metrics


def test_a_collector_that_is_away_keeps_no_process_from_ending(tmp_path: Path) -> None:
    script = """
async def start(process):
    with span("work"):
        pass
"""
    code, _ = Running(script, tmp_path, TOKENOMICS_OTLP_ENDPOINT="http://127.0.0.1:1").finish()
    assert code == 0
