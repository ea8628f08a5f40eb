"""Every metric of the chassis: name, unit, meaning, attributes. Nothing else makes instruments.

Names follow the OpenTelemetry conventions where they have one. Attributes never carry a subject, a key or an
account: their values are few.
"""

import math
import resource
from bisect import bisect_left
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from threading import Lock

from opentelemetry import metrics
from opentelemetry.metrics import CallbackOptions, Observation
from opentelemetry.sdk.metrics.export import AggregationTemporality, Histogram, HistogramDataPoint, Metric


class Series:
    """The durations recorded under one set of attributes.

    They are added up some at a time: between other work, one by one, that costs several times as much.
    """

    __slots__ = (
        "_adding",
        "_pending",
        "bounds_seconds",
        "counts",
        "largest_seconds",
        "smallest_seconds",
        "total_seconds",
    )

    def __init__(self, bounds_seconds: tuple[float, ...]) -> None:
        self.bounds_seconds = bounds_seconds
        self.counts = [0] * (len(bounds_seconds) + 1)
        self.total_seconds = 0.0
        self.smallest_seconds = math.inf
        self.largest_seconds = 0.0
        self._pending: deque[float] = deque()
        self._adding = Lock()

    def record(self, seconds: float) -> None:
        """Count one duration."""
        pending = self._pending
        pending.append(seconds)
        if len(pending) >= _MOST_PENDING:
            self.add_up()

    def add_up(self) -> None:
        """Bring the figures up to what was recorded."""
        with self._adding:
            while self._pending:
                seconds = self._pending.popleft()
                self.counts[bisect_left(self.bounds_seconds, seconds)] += 1
                self.total_seconds += seconds
                self.largest_seconds = max(self.largest_seconds, seconds)
                self.smallest_seconds = min(self.smallest_seconds, seconds)


_MOST_PENDING = 500
"""Durations of one series: adding them up takes less than a millisecond."""


class Durations:
    """A histogram for paths where the SDK's own, some 20 µs a record, would be most of the work.

    Recorded from the event loop's thread only; exported as an ordinary cumulative histogram.
    """

    def __init__(self, name: str, description: str, bounds_seconds: tuple[float, ...]) -> None:
        self.name = name
        self._description = description
        self._bounds_seconds = bounds_seconds
        self._series: dict[tuple[tuple[str, str], ...], Series] = {}

    def series(self, attributes: dict[str, str]) -> Series:
        """Find or begin the series of these attributes; keep it, the look-up is the slow part."""
        return self._series.setdefault(tuple(sorted(attributes.items())), Series(self._bounds_seconds))

    def points(self, since_ns: int, now_ns: int) -> list[HistogramDataPoint]:
        """Read everything recorded between the two times, in nanoseconds since 1970; a point a series.

        A series that has nothing yet is left out: it has no smallest duration.
        """
        points = []
        for attributes, series in tuple(self._series.items()):
            series.add_up()
            counts = tuple(series.counts)
            if not any(counts):
                continue
            points.append(
                HistogramDataPoint(
                    attributes=dict(attributes),
                    start_time_unix_nano=since_ns,
                    time_unix_nano=now_ns,
                    count=sum(counts),
                    sum=series.total_seconds,
                    bucket_counts=counts,
                    explicit_bounds=self._bounds_seconds,
                    min=series.smallest_seconds,
                    max=series.largest_seconds,
                )
            )
        return points

    def metric(self, since_ns: int, now_ns: int) -> Metric:
        """Put the points into the form that exporters take."""
        histogram = Histogram(self.points(since_ns, now_ns), AggregationTemporality.CUMULATIVE)
        return Metric(self.name, self._description, "s", histogram)


class Watched:
    """A gauge whose value is asked for at each export: it tells the truth when whoever would set it hangs."""

    def __init__(self) -> None:
        self.read: Callable[[], float | None] = _nothing
        """To be replaced; ``None`` tells nothing. Called in a thread of the exporter's."""

    @contextmanager
    def told_by(self, read: Callable[[], float | None]) -> Iterator[None]:
        """Tell what this reads until the block is left, and nothing from then on.

        For what a leader knows: the next one may be another process, and its value is the one that holds.
        """
        self.read = read
        try:
            yield
        finally:
            if self.read is read:  # else somebody else has begun to tell
                self.read = _nothing

    def __call__(self, _options: CallbackOptions) -> Iterable[Observation]:
        """Tell the SDK."""
        value = self.read()
        return [] if value is None else [Observation(value)]


def _nothing() -> None:
    return None


def _cpu_seconds(_options: CallbackOptions) -> Iterable[Observation]:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return [
        Observation(usage.ru_utime, {"cpu.mode": "user"}),
        Observation(usage.ru_stime, {"cpu.mode": "system"}),
    ]


_meter = metrics.get_meter("tokenomics")

PROCESS_CPU = _meter.create_observable_counter(
    "process.cpu.time", [_cpu_seconds], unit="s", description="CPU used by the process. Attributes: cpu.mode."
)

PROJECTED_RECORDS = _meter.create_counter(
    "tokenomics.projection.records",
    unit="{record}",
    description="Records given to the projection, tries that were undone included. Attributes: topic.",
)

PROJECTION_LAG = _meter.create_gauge(
    "tokenomics.projection.lag",
    unit="{record}",
    description="Records between the stored position and the end of the log. Attributes: topic, partition.",
)

PARKED_EVENTS = _meter.create_gauge(
    "tokenomics.parked.events",
    unit="{event}",
    description="Events that are parked. Attributes: topic, partition.",
)

VIEW_LAG = Watched()
_meter.create_observable_gauge(
    "tokenomics.view.lag",
    [VIEW_LAG],
    unit="s",
    description="How long ago the view that serves was last known to be level with the log.",
)

DEGRADED_CALLS = _meter.create_counter(
    "tokenomics.view.degraded_calls",
    unit="{call}",
    description=(
        "Calls that met a view older than policy allows. Attributes: outcome (open: answered; capped: refused"
        " at the cap; closed: refused)."
    ),
)

DECISIONS_UNRECORDED = _meter.create_counter(
    "tokenomics.decisions.unrecorded",
    unit="{decision}",
    description=(
        "Decisions that were answered and left no record. Attributes: cause (contract: can't be told as an"
        " event; database: refused; room: too many wait for a database that is away)."
    ),
)

OUTBOX_EVENTS = _meter.create_gauge(
    "tokenomics.outbox.events", unit="{event}", description="Events that the relay has not sent yet."
)

DRIFTING_TOTALS = Watched()
_meter.create_observable_gauge(
    "tokenomics.totals.drifting",
    [DRIFTING_TOTALS],
    unit="{total}",
    description="Kept totals that were not what their parts add up to when both were last compared.",
)

ANNOUNCEMENTS_HELD_UP = Watched()
_meter.create_observable_gauge(
    "tokenomics.announcements.held_up",
    [ANNOUNCEMENTS_HELD_UP],
    unit="{record}",
    description="Records that must be projected before the announcer begins to judge; none once it does.",
)

PROJECTION_DURATION = Durations(
    "tokenomics.projection.batch.duration",
    "Folding one batch into the database, without the commit. Attributes: topic.",
    (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10),
)

RPC_DURATION = Durations(
    "rpc.server.call.duration",
    "From a call's headers to its last answer. Attributes: rpc.method, rpc.response.status_code.",
    (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10),
)

DURATIONS = (PROJECTION_DURATION, RPC_DURATION)
"""What the telemetry adds to the SDK's own metrics at each export."""
