"""Traces join across processes, lines carry them, and durations come out as an ordinary histogram."""

import json
import logging
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, cast
from unittest.mock import AsyncMock, Mock

import grpc
import pytest
from google.protobuf.wrappers_pb2 import StringValue
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from tokenomics_chassis import telemetry
from tokenomics_chassis.logs import configure_logging
from tokenomics_chassis.metrics import Durations, Watched
from tokenomics_chassis.rpc.identity import Identity
from tokenomics_chassis.rpc.interceptor import Interceptor
from tokenomics_chassis.settings import LogFormat, LogLevel
from tokenomics_chassis.telemetry import current_traceparent, parse_traceparent, span

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
TRACEPARENT = f"00-{TRACE}-00f067aa0ba902b7-01"


def test_the_trace_goes_on_where_it_came_from() -> None:
    with span("work", traceparent=TRACEPARENT):
        assert current_traceparent() == TRACEPARENT
        with span("inner"):
            assert current_traceparent() == TRACEPARENT
    assert current_traceparent() is None


@pytest.mark.parametrize(
    "traceparent", [None, "", "garbage", f"00-{'0' * 32}-00f067aa0ba902b7-01", f"ff-{TRACE}"]
)
def test_work_without_a_readable_cause_begins_a_trace_of_its_own(traceparent: str | None) -> None:
    with span("work", traceparent=traceparent):
        begun = current_traceparent()
        assert parse_traceparent(begun) is not None
        with span("inner"):
            assert current_traceparent() == begun
    with span("other"):
        assert current_traceparent() != begun


@pytest.fixture
def recorded(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> InMemorySpanExporter:
    """Record as the standard variables ask for a sampler of that share."""
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", "parentbased_traceidratio")
    monkeypatch.setenv("OTEL_TRACES_SAMPLER_ARG", str(request.param))
    exporter = InMemorySpanExporter()
    monkeypatch.setattr(telemetry, "_tracing", telemetry._Tracing())
    provider = telemetry._tracer_provider(Resource.get_empty())
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    return exporter


def names(recorded: InMemorySpanExporter) -> list[str]:
    return [each.name for each in recorded.get_finished_spans()]


@pytest.mark.parametrize("recorded", [0.0], indirect=True)
def test_of_traces_begun_elsewhere_just_the_sampled_are_recorded(recorded: InMemorySpanExporter) -> None:
    with span("sampled", traceparent=TRACEPARENT), span("inner"):
        assert (current_traceparent() or "").startswith(f"00-{TRACE}")
    with span("not sampled", traceparent=f"{TRACEPARENT[:-1]}0"), span("inner of it"):
        pass
    with span("begun here"), span("inner of that"):
        pass
    assert names(recorded) == ["inner", "sampled"]


@pytest.mark.parametrize("recorded", [0.3], indirect=True)
def test_of_traces_begun_here_the_share_is_recorded_each_whole(recorded: InMemorySpanExporter) -> None:
    for _ in range(1_000):
        with span("outer"), span("inner"):
            pass
    found = recorded.get_finished_spans()
    assert 200 < names(recorded).count("outer") < 400
    assert set(Counter(each.context.trace_id for each in found if each.context).values()) == {2}


@pytest.mark.parametrize("recorded", [0.0], indirect=True)
async def test_a_call_whose_request_cant_be_read_leaves_its_span(recorded: InMemorySpanExporter) -> None:
    async def never(_request: Any, _context: Any) -> None:
        raise AssertionError

    handler: Any = grpc.unary_unary_rpc_method_handler(never, StringValue.FromString)
    authenticator = Mock(identify=AsyncMock(return_value=Identity("gateway")))
    wrapped = Interceptor(authenticator, default_deadline_seconds=1).wrap("/test.v1.Toy/Get", handler)
    context = Mock(
        invocation_metadata=lambda: (("traceparent", TRACEPARENT),),
        time_remaining=lambda: 1.0,
        abort_with_status=AsyncMock(side_effect=grpc.aio.AbortError),
    )
    with pytest.raises(grpc.aio.AbortError):
        await cast("Any", wrapped.unary_unary)(b"\xff", context)
    assert names(recorded) == ["test.v1.Toy/Get"]


@contextmanager
def _root_logger() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    try:
        yield
    finally:
        root.handlers[:], root.level = handlers, level
        logging.captureWarnings(capture=False)


def test_a_line_is_json_with_its_values_and_its_trace(capsys: pytest.CaptureFixture[str]) -> None:
    with _root_logger():
        configure_logging("quota", LogLevel.INFO, LogFormat.JSON)
        log = logging.getLogger("test")
        with span("work", traceparent=TRACEPARENT):
            log.info("applied %s", "it", extra={"offset": 7})
        try:
            raise ValueError("boom")  # noqa: TRY301 - the traceback is what the test is about
        except ValueError:
            log.exception("failed")
        log.debug("never written")
    first, second = map(json.loads, capsys.readouterr().err.splitlines())
    assert {
        "message": "applied it",
        "offset": 7,
        "service": "quota",
        "level": "INFO",
    }.items() <= first.items()
    assert (first["trace_id"], first["span_id"]) == (TRACE, "00f067aa0ba902b7")
    assert "ValueError: boom" in second["exception"]
    assert "trace_id" not in second


def test_a_series_that_has_no_duration_yet_is_no_point() -> None:
    durations = Durations("d", "a test", (0.001,))
    series = durations.series({"a": "1"})
    assert durations.points(0, 1) == []
    series.record(0.5)
    (point,) = durations.points(0, 1)
    assert (point.count, point.min) == (1, 0.5)


def test_durations_fall_into_their_buckets() -> None:
    durations = Durations("d", "a test", (0.001, 0.01))
    for seconds in (0.0005, 0.001, 0.005, 3.0):
        durations.series({"b": "2", "a": "1"}).record(seconds)
    durations.series({"a": "other", "b": "2"}).record(0.5)
    first, second = durations.points(1, 2)
    assert dict(first.attributes or {}) == {"a": "1", "b": "2"}
    assert (first.count, tuple(first.bucket_counts), first.min, first.max) == (4, (2, 1, 1), 0.0005, 3.0)
    assert first.sum == pytest.approx(3.0065)
    assert tuple(second.bucket_counts) == (0, 0, 1)


def test_a_gauge_tells_what_a_leader_knows_while_it_leads() -> None:
    gauge = Watched()
    with gauge.told_by(lambda: 0):
        assert gauge.read() == 0
    assert gauge.read() is None
    first, second = gauge.told_by(lambda: 1), gauge.told_by(lambda: 2)
    with first, pytest.raises(ZeroDivisionError), second:
        raise ZeroDivisionError
    assert gauge.read() is None


def test_who_ends_late_does_not_silence_who_has_taken_over() -> None:
    gauge, before, after = Watched(), ExitStack(), ExitStack()
    before.enter_context(gauge.told_by(lambda: 1))
    after.enter_context(gauge.told_by(lambda: 2))
    before.close()
    assert gauge.read() == 2
    after.close()
    assert gauge.read() is None
