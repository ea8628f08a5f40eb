"""What an SRE watches of a projecting service: batches as spans and counts, lag, parked events, outbox."""

import asyncio
import logging
from collections.abc import Iterator, Sequence
from itertools import islice
from time import perf_counter

from opentelemetry.trace import SpanKind

from tokenomics_chassis.dependencies import is_dependency_away
from tokenomics_chassis.metrics import (
    OUTBOX_EVENTS,
    PARKED_EVENTS,
    PROJECTED_RECORDS,
    PROJECTION_DURATION,
    PROJECTION_LAG,
)
from tokenomics_chassis.operations import OperationsBackend
from tokenomics_chassis.postgres import Pool, wait_for
from tokenomics_chassis.projection import Batch, Connection, Outcome, Projection
from tokenomics_chassis.records import Record
from tokenomics_chassis.telemetry import TRACEPARENT, span

log = logging.getLogger(__name__)

_LOOK_EVERY_SECONDS = 15
_MOST_LINKS = 32


class ObservedProjection:
    """A projection, each of whose batches is a span linked to the traces its records come from.

    Batches are counted as they are tried: one that is undone and tried again counts twice.
    """

    def __init__(self, projection: Projection) -> None:
        self._projection = projection
        self.name = projection.name
        self.topics = projection.topics
        self.ordered_topics = projection.ordered_topics
        self.understood_codes = projection.understood_codes

    async def apply(self, connection: Connection, batch: Batch) -> Outcome:
        """See :meth:`Projection.apply`."""
        begun = perf_counter()
        topic = batch.source.topic
        attributes: dict[str, str | int] = {
            "messaging.system": "kafka",
            "messaging.destination.name": topic,
            "messaging.destination.partition.id": str(batch.source.partition),
            "messaging.batch.message_count": len(batch.records),
        }
        links = islice(_traceparents(batch.records), _MOST_LINKS)
        with span(f"process {topic}", kind=SpanKind.CONSUMER, attributes=attributes, links=links):
            outcome = await self._projection.apply(connection, batch)
        PROJECTION_DURATION.series({"topic": topic}).record(perf_counter() - begun)
        PROJECTED_RECORDS.add(len(batch.records), {"topic": topic})
        return outcome


class StateMetrics:
    """Keeps the gauges of what stands in the database, and beside it in the log, current."""

    def __init__(self, pool: Pool, backend: OperationsBackend) -> None:
        self._pool = pool
        self._backend = backend

    async def run(self, stopping: asyncio.Event) -> None:
        """Look every 15 seconds until stopped; while a dependency is away the gauges keep their values."""
        while not stopping.is_set():
            try:
                await self.look()
            except Exception as error:
                if not is_dependency_away(error):
                    raise
                log.warning("the gauges could not be read", extra={"error": repr(error)})
            await wait_for(stopping, _LOOK_EVERY_SECONDS)

    async def look(self) -> None:
        """Set the gauges once."""
        for position in await self._backend.positions(()):
            attributes = {"topic": position.topic, "partition": str(position.partition)}
            PARKED_EVENTS.set(position.parked_records, attributes)
            if position.end_offset is not None:
                PROJECTION_LAG.set(position.end_offset - position.next_offset, attributes)
        OUTBOX_EVENTS.set(await self._pool.fetchval("SELECT count(*) FROM outbox"))


def _traceparents(records: Sequence[Record]) -> Iterator[str]:
    seen = set()
    for record in records:
        for name, value in record.headers:
            if name == TRACEPARENT and value is not None and value not in seen:
                seen.add(value)
                yield value.decode(errors="replace")
