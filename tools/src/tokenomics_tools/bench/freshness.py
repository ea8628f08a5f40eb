"""From the moment an event is handed to the producer until a check's answer rests on it.

Events are sent at a steady rate while one caller keeps asking. The freshness token of each answer says which
offsets it rests on; a plain consumer beside it shows what Kafka alone takes.
"""

import asyncio
from collections.abc import Iterator
from contextlib import AsyncExitStack
from functools import partial
from statistics import median
from time import monotonic
from typing import Any

import grpc
import uvloop
from aiokafka import AIOKafkaConsumer
from aiokafka.structs import RecordMetadata

from tokenomics.quota.v1 import quota_pb2 as pb
from tokenomics.quota.v1.quota_pb2_grpc import QuotaServiceStub
from tokenomics_cli.kafka import producer, send
from tokenomics_contracts.cloudevents import EncodedEvent
from tokenomics_tools.bench.plant import USAGE_TOPIC, Scale, plant, stop, usage_events
from tokenomics_tools.bench.rows import Bar, Pair, Row, paired
from tokenomics_tools.stack import GATEWAY

_EVENTS_PER_SECOND = 1_000
_TICK_SECONDS = 0.01
_ASK_SECONDS = 0.005
_WARM_UP_SECONDS = 2
_LAST_SECONDS = 60
_POLL_MS = 200

Place = tuple[int, int]
"""Partition and offset."""


def measure(scale: Scale) -> list[Row]:
    """Measure one steady stream and report the median of the p99 of its parts."""
    seconds = scale.of(20, at_least=2)
    events = int((_WARM_UP_SECONDS + seconds) * _EVENTS_PER_SECOND)
    with plant(events=events) as made:
        quota = made.quota()
        quota.start_projector()
        quota.start_relay()
        quota.start_server()
        stream = _Stream(
            made.stack.kafka.bootstrap,
            quota.address,
            made.stack.issuer.token(GATEWAY),
            made.simulation.usage[0]["subject"],
        )
        uvloop.run(stream.run(usage_events(made.simulation)))
        stop(quota.server, quota.relay, *quota.projectors)
    parts = list(stream.parts(scale.pairs))
    return [
        paired(
            "freshness, p99",
            "ms",
            [Pair(_percentile(visible, 99), _percentile(read, 99)) for visible, read in parts],
            Bar("value", "<=", 250),
        ),
        paired(
            "freshness, median",
            "ms",
            [Pair(median(visible), median(read)) for visible, read in parts],
        ),
    ]


class _Stream:
    """Sends, reads and asks at once, and keeps the times."""

    def __init__(self, bootstrap: str, address: str, token: str, subject: str) -> None:
        self._bootstrap = bootstrap
        self._address = address
        self._metadata = (("authorization", f"Bearer {token}"),)
        self._request = pb.CheckQuotaRequest(subject=subject, provider="openai", model="gpt-4o")
        self._sent: dict[Place, float] = {}
        self._read: dict[Place, float] = {}
        self._visible: dict[Place, float] = {}

    async def run(self, events: list[EncodedEvent]) -> None:
        """Send all events; return when each was read and has become visible."""
        async with AsyncExitStack() as resources:
            consumer = AIOKafkaConsumer(
                USAGE_TOPIC, bootstrap_servers=self._bootstrap, auto_offset_reset="earliest"
            )
            await consumer.start()
            resources.push_async_callback(consumer.stop)
            channel = await resources.enter_async_context(grpc.aio.insecure_channel(self._address))
            watching = [
                asyncio.create_task(self._consume(consumer)),
                asyncio.create_task(self._ask(channel)),
            ]
            for task in watching:
                resources.callback(task.cancel)
            await self._send_all(events)
            async with asyncio.timeout(_LAST_SECONDS):
                while min(map(len, (self._sent, self._read, self._visible))) < len(events):
                    await asyncio.sleep(_TICK_SECONDS)
                    for task in watching:
                        if task.done():
                            task.result()

    def parts(self, number: int) -> Iterator[tuple[list[float], list[float]]]:
        """Yield the milliseconds until visible, and until read, of each part of the stream."""
        places = sorted(self._sent, key=self._sent.__getitem__)[_WARM_UP_SECONDS * _EVENTS_PER_SECOND :]
        for part in range(number):
            of_part = places[part * len(places) // number : (part + 1) * len(places) // number]
            yield (
                [(self._visible[place] - self._sent[place]) * 1000 for place in of_part],
                [(self._read[place] - self._sent[place]) * 1000 for place in of_part],
            )

    async def _send_all(self, events: list[EncodedEvent]) -> None:
        begun = monotonic()
        async with producer(self._bootstrap) as client:
            for number, event in enumerate(events):
                if (early := begun + number / _EVENTS_PER_SECOND - monotonic()) > 0:
                    await asyncio.sleep(early)
                sent = monotonic()
                acknowledgement = await send(client, USAGE_TOPIC, event)
                acknowledgement.add_done_callback(partial(self._keep_sent, sent))

    def _keep_sent(self, sent: float, acknowledgement: "asyncio.Future[RecordMetadata]") -> None:
        record = acknowledgement.result()
        self._sent[record.partition, record.offset] = sent

    async def _consume(self, consumer: AIOKafkaConsumer) -> None:
        while True:
            polled = await consumer.getmany(timeout_ms=_POLL_MS)
            now = monotonic()
            for tp, records in polled.items():
                self._read.update(((tp.partition, record.offset), now) for record in records)

    async def _ask(self, channel: grpc.aio.Channel) -> None:
        stub: Any = QuotaServiceStub(channel)  # typed for synchronous channels only
        applied: dict[int, int] = {}
        while True:
            answer = await stub.CheckQuota(self._request, metadata=self._metadata)
            now = monotonic()
            for place, next_offset in answer.freshness.token.next_offsets.items():
                topic, _, partition = place.rpartition("/")
                if topic == USAGE_TOPIC:
                    first = applied.get(int(partition), 0)
                    self._visible.update(((int(partition), each), now) for each in range(first, next_offset))
                    applied[int(partition)] = next_offset
            await asyncio.sleep(_ASK_SECONDS)


def _percentile(milliseconds: list[float], percent: int) -> float:
    return sorted(milliseconds)[len(milliseconds) * percent // 100]
