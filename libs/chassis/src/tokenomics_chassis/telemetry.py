"""OpenTelemetry for one process, and the trace context that joins call, outbox row, record and projection.

With an OTLP endpoint traces and metrics are exported in the background; the standard ``OTEL_TRACES_SAMPLER``
variables decide what is sampled. Without one nothing is recorded: trace ids only travel, and are not even
read before a log line, a row or a record wants them, so that the logs of all processes still join.
"""

import random
import re
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar, Token
from dataclasses import dataclass, replace
from typing import Any

from opentelemetry import metrics, trace
from opentelemetry.exporter.otlp.proto.grpc.metric_exporter import OTLPMetricExporter
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import (
    InMemoryMetricReader,
    Metric,
    MetricExportResult,
    MetricReader,
    MetricsData,
    PeriodicExportingMetricReader,
    ScopeMetrics,
)
from opentelemetry.sdk.resources import SERVICE_NAME, Resource
from opentelemetry.sdk.trace import TracerProvider, sampling
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import (
    INVALID_SPAN,
    Link,
    NonRecordingSpan,
    Span,
    SpanContext,
    SpanKind,
    StatusCode,
    TraceFlags,
)
from opentelemetry.util.types import Attributes

from tokenomics_chassis.clock import Clock, SystemClock
from tokenomics_chassis.metrics import DURATIONS

TRACEPARENT = "traceparent"
"""Name of the W3C header, the same in gRPC metadata, outbox rows and Kafka headers."""

_TRACEPARENT = re.compile(r"00-(?P<trace>[0-9a-f]{32})-(?P<span>[0-9a-f]{16})-(?P<flags>[0-9a-f]{2})")
_RATIO = re.compile(r"root:TraceIdRatioBased\{([^}]+)\}")
_SCOPE = "tokenomics"
_SEND_SECONDS = 2
_ids = random.Random()  # noqa: S311 - seeded by the system; trace ids are unique, and no secret


@dataclass
class _Tracing:
    """Whether this process records spans: decided once, looked at on every call."""

    tracer: trace.Tracer | None = None

    share: float | None = None
    """Of the traces begun here, where nothing else decides what is recorded: see ``_share_drawn_here``."""


_tracing = _Tracing()


@dataclass(frozen=True)
class Telemetry:
    """The process's telemetry, started once."""

    durations: "_DurationsSource"
    meter_provider: MeterProvider
    tracer_provider: TracerProvider | None
    kept: InMemoryMetricReader | None

    def metrics(self) -> list[Metric]:
        """Read the metrics of a process that exports none; empty when they are exported."""
        data = self.kept.get_metrics_data() if self.kept is not None else None
        if data is None:
            return []
        return [
            metric
            for resource in self.durations.completed(data).resource_metrics
            for scope in resource.scope_metrics
            for metric in scope.metrics
        ]

    def shut_down(self) -> None:
        """Send what is still held, in five seconds at most; failures to send are only logged."""
        if self.tracer_provider is not None:
            self.tracer_provider.shutdown()
        self.meter_provider.shutdown(timeout_millis=5_000)


def start_telemetry(service_name: str, otlp_endpoint: str | None) -> Telemetry:
    """Install the process's providers; the endpoint is plaintext unless it begins with ``https://``."""
    resource = Resource.create({SERVICE_NAME: service_name})
    durations = _DurationsSource(SystemClock())
    kept: InMemoryMetricReader | None = None
    tracer_provider: TracerProvider | None = None
    reader: MetricReader
    if otlp_endpoint is None:
        reader = kept = InMemoryMetricReader()
    else:
        insecure = not otlp_endpoint.startswith("https://")
        reader = PeriodicExportingMetricReader(_Exporter(durations, otlp_endpoint, insecure=insecure))
        tracer_provider = _tracer_provider(resource)
        tracer_provider.add_span_processor(
            BatchSpanProcessor(
                OTLPSpanExporter(endpoint=otlp_endpoint, insecure=insecure, timeout=_SEND_SECONDS)
            )
        )
    meter_provider = MeterProvider([reader], resource=resource, shutdown_on_exit=False)
    metrics.set_meter_provider(meter_provider)
    return Telemetry(durations, meter_provider, tracer_provider, kept)


def span(
    name: str,
    *,
    traceparent: str | None = None,
    kind: SpanKind = SpanKind.INTERNAL,
    attributes: Attributes = None,
    links: Iterable[str | None] = (),
    drawn: bool = False,
) -> AbstractContextManager[Span]:
    """Do work under a span that is current in the body: a child of ``traceparent``, else of the current span.

    Parameters
    ----------
    attributes
        Ids in them must be pseudonymous.
    links
        ``traceparent`` of other causes, for work on a batch of records; malformed ones are left out.
    drawn
        Whether it has been drawn already from those that are recorded.
    """
    if _tracing.tracer is None or (traceparent is None and _carried.get() is not None):
        return _Carried(traceparent)
    parent = parse_traceparent(traceparent)
    if _tracing.share is not None and not drawn and not _is_drawn(parent, _tracing.share):
        return _Carried(traceparent)
    started = _tracing.tracer.start_span(
        name,
        context=trace.set_span_in_context(NonRecordingSpan(parent)) if parent else None,
        kind=kind,
        attributes=attributes,
        links=[Link(context) for context in map(parse_traceparent, links) if context is not None],
    )
    if not started.is_recording():  # not sampled: its ids travel on, and nothing else costs anything
        return _Carried(traceparent, started.get_span_context())
    return _recorded(started)


def call_span(name: str, traceparent: str | bytes | None) -> AbstractContextManager[Span] | None:
    """Begin the span of a call that this process serves, in a task of its own.

    Returns
    -------
    AbstractContextManager
        The span, current in its body. ``None``: nobody records it, and its ids are the task's from here on.
    """
    share = _tracing.share
    if traceparent is None and share is not None and random.random() >= share:  # noqa: S311 - no secret
        _carried.set(_Carried(None))  # by far the most calls: a short way for them
        return None
    parent = traceparent if isinstance(traceparent, str) else None
    made = span(name, traceparent=parent, kind=SpanKind.SERVER, drawn=parent is None)
    if not isinstance(made, _Carried):
        return made
    _carried.set(made)
    return None


def _tracer_provider(resource: Resource) -> TracerProvider:
    """Begin to record spans, as the standard variables ask for."""
    provider = TracerProvider(resource=resource, shutdown_on_exit=False)
    _tracing.share = _share_drawn_here(provider.sampler)
    if _tracing.share is not None:
        provider = TracerProvider(sampling.DEFAULT_ON, resource=resource, shutdown_on_exit=False)
    _tracing.tracer = provider.get_tracer(_SCOPE)
    return provider


def _share_drawn_here(sampler: sampling.Sampler) -> float | None:
    """Return the share of ``parentbased_traceidratio``, the sampler of busy services; ``None`` for any other.

    Most spans of such a service are recorded by nobody. The SDK finds that out after it has begun them, which
    was a tenth of what a call ran of our code.
    """
    if not isinstance(sampler, sampling.ParentBasedTraceIdRatio):
        return None
    ratio = _RATIO.search(sampler.get_description())  # type: ignore[no-untyped-call]
    return None if ratio is None else float(ratio[1])


def _is_drawn(parent: SpanContext | None, share: float) -> bool:
    if parent is not None:
        return parent.trace_flags.sampled
    if _is_recording.get():
        return True
    return random.random() < share  # noqa: S311 - which traces are recorded is no secret


def current_span_context() -> SpanContext | None:
    """Ids of the span at hand; ``None`` outside of any."""
    if (carried := _carried.get()) is not None:
        return carried.context
    context = trace.get_current_span().get_span_context()
    return context if context.is_valid else None


def current_traceparent() -> str | None:
    """W3C header of the span at hand, to be sent along in metadata, a row or a record; ``None`` outside."""
    if (context := current_span_context()) is None:
        return None
    return f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}"


def parse_traceparent(traceparent: str | None) -> SpanContext | None:
    """Read a W3C header; whatever is malformed counts as absent, as the standard asks."""
    if traceparent is None or (match := _TRACEPARENT.fullmatch(traceparent)) is None:
        return None
    context = SpanContext(
        trace_id=int(match["trace"], 16),
        span_id=int(match["span"], 16),
        is_remote=True,
        trace_flags=TraceFlags(int(match["flags"], 16)),
    )
    return context if context.is_valid else None


@contextmanager
def _recorded(started: Span) -> Iterator[Span]:
    """Make the span current; of an error it keeps the type alone: messages may quote what is personal."""
    with trace.use_span(started, end_on_exit=True, record_exception=False, set_status_on_exception=False):
        outer = _is_recording.set(True)
        try:
            yield started
        except Exception as error:
            started.set_status(StatusCode.ERROR, type(error).__name__)
            raise
        finally:
            _is_recording.reset(outer)


class _Carried:
    """A span that nobody records: its ids are read, or made up, when someone asks for them."""

    __slots__ = ("_context", "_token", "_traceparent")

    def __init__(self, traceparent: str | None, context: SpanContext | None = None) -> None:
        self._traceparent = traceparent
        self._context = context

    def __enter__(self) -> Span:
        outer = _carried.get() if self._traceparent is None else None
        self._token: Token[_Carried | None] = _carried.set(outer or self)
        return INVALID_SPAN

    def __exit__(self, *_exception: object) -> None:
        _carried.reset(self._token)

    @property
    def context(self) -> SpanContext:
        if self._context is None:
            self._context = parse_traceparent(self._traceparent) or SpanContext(
                _ids.getrandbits(128), _ids.getrandbits(64), is_remote=False
            )
        return self._context


_carried: ContextVar[_Carried | None] = ContextVar("carried", default=None)
_is_recording: ContextVar[bool] = ContextVar("is_recording", default=False)
"""Whether the span at hand is recorded; to ask the SDK takes six functions."""


class _DurationsSource:
    """Adds our own histograms to what the SDK has collected."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._since_ns = self._now_ns()

    def completed(self, data: MetricsData) -> MetricsData:
        now_ns = self._now_ns()
        ours = [durations.metric(self._since_ns, now_ns) for durations in DURATIONS]
        # A scope of its own in the same resource: exporters keep one entry for each.
        scope = ScopeMetrics(InstrumentationScope(f"{_SCOPE}.durations"), ours, schema_url="")
        (sdk,) = data.resource_metrics
        return MetricsData([replace(sdk, scope_metrics=[*sdk.scope_metrics, scope])])

    def _now_ns(self) -> int:
        return int(self._clock.now().timestamp() * 1_000_000) * 1_000


class _Exporter(OTLPMetricExporter):
    def __init__(self, durations: _DurationsSource, endpoint: str, *, insecure: bool) -> None:
        super().__init__(endpoint=endpoint, insecure=insecure, timeout=_SEND_SECONDS)
        self._durations = durations

    def export(
        self, metrics_data: MetricsData, timeout_millis: float = 10_000, **kwargs: Any
    ) -> MetricExportResult:
        return super().export(self._durations.completed(metrics_data), timeout_millis, **kwargs)
