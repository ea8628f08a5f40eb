"""Topics as the commands use them: write with every guarantee on, read to the end without a group."""

import asyncio
from asyncio import Future
from collections.abc import AsyncIterator, Collection, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import TypeVar

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, ConsumerRecord, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import (
    ClusterAuthorizationFailedError,
    KafkaError,
    SaslAuthenticationFailed,
    TopicAuthorizationFailedError,
)
from aiokafka.structs import RecordMetadata

from tokenomics_chassis.lenient_records import read_leniently
from tokenomics_cli.failures import CommandError, Exit
from tokenomics_contracts.cloudevents import EncodedEvent, Envelope, decode
from tokenomics_contracts.events.base import Event
from tokenomics_contracts.registry import parse
from tokenomics_contracts.rejection import EventRejected

E = TypeVar("E", bound=Event)

_REFUSALS = (ClusterAuthorizationFailedError, SaslAuthenticationFailed, TopicAuthorizationFailedError)
_REQUEST_TIMEOUT_MS = 20_000
_READ_TIMEOUT_MS = 500
# An idempotent producer repeats a batch for ever by itself, and a consumer asks for ever.
_STALL_SECONDS = 60
_STOP_SECONDS = 10


@contextmanager
def kafka_failures(bootstrap: str) -> Iterator[None]:
    """Turn what Kafka's client raises into a :class:`CommandError`."""
    try:
        yield
    except _REFUSALS as error:
        raise CommandError(f"Kafka at {bootstrap} refuses: {error!r}", Exit.PERMISSION) from error
    except (KafkaError, ConnectionError, TimeoutError) as error:
        raise CommandError(
            f"Kafka at {bootstrap} can't be used: {error or 'it does not answer'}",
            Exit.UNAVAILABLE,
            hint="check TOKENOMICS_KAFKA_BOOTSTRAP and the broker, then run the same command again",
        ) from error


async def require_topic(bootstrap: str, topic: str) -> str:
    """Make sure that a topic is there, and return the cluster's id.

    Raises
    ------
    CommandError
        When it isn't: a write would wait for it in vain.
    """
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap, request_timeout_ms=_REQUEST_TIMEOUT_MS)
    with kafka_failures(bootstrap):
        try:
            await admin.start()
            if topic not in await admin.list_topics():
                raise CommandError(
                    f"Kafka at {bootstrap} has no topic {topic}",
                    Exit.UNAVAILABLE,
                    hint="topics are made from the catalogue when a service is migrated: run that first",
                )
            return str((await admin.describe_cluster())["cluster_id"])
        finally:
            await admin.close()


@asynccontextmanager
async def producer(bootstrap: str) -> AsyncIterator[AIOKafkaProducer]:
    """Give a producer whose retries can't duplicate or reorder, and that counts only what all replicas have.

    At the end it is given some seconds to send what nobody waited for.
    """
    with kafka_failures(bootstrap):
        client = AIOKafkaProducer(
            bootstrap_servers=bootstrap,
            acks="all",
            enable_idempotence=True,
            compression_type="gzip",
            linger_ms=5,
            max_batch_size=128 * 1024,
            # Above the largest event; readers refuse those by themselves, so the client must not guess.
            max_request_size=2 * 1024 * 1024,
            request_timeout_ms=_REQUEST_TIMEOUT_MS,
        )
        try:
            await client.start()
            yield client
        finally:
            with suppress(TimeoutError):
                async with asyncio.timeout(_STOP_SECONDS):
                    await client.stop()


async def send(client: AIOKafkaProducer, topic: str, event: EncodedEvent) -> "Future[RecordMetadata]":
    """Hand one event to the producer, waiting while its buffer is full; the result is the acknowledgement."""
    async with asyncio.timeout(_STALL_SECONDS):
        acknowledgement: Future[RecordMetadata] = await client.send(
            topic, value=event.value, key=event.key, headers=list(event.headers)
        )
        # Who gives up waiting leaves an error that nobody asks for.
        acknowledgement.add_done_callback(lambda done: done.cancelled() or done.exception())
        return acknowledgement


async def acknowledged(sent: "list[Future[RecordMetadata]]") -> None:
    """Wait until every replica has these events, for a minute at most."""
    async with asyncio.timeout(_STALL_SECONDS):
        await asyncio.gather(*sent)


async def publish(bootstrap: str, topic: str, events: list[EncodedEvent]) -> None:
    """Write events in order and return when every replica has them.

    Raises
    ------
    CommandError
        When not all could be written; those before the first failure may have been.
    """
    async with producer(bootstrap) as client:
        await acknowledged([await send(client, topic, event) for event in events])


async def records(bootstrap: str, topic: str) -> AsyncIterator[ConsumerRecord]:
    """Read a topic from its beginning to the end it had at the start, each partition in order.

    Raises
    ------
    CommandError
        When the topic doesn't exist or can't be read.
    """
    read_leniently()
    await require_topic(bootstrap, topic)
    with kafka_failures(bootstrap):
        consumer = AIOKafkaConsumer(
            topic,
            bootstrap_servers=bootstrap,
            enable_auto_commit=False,
            auto_offset_reset="earliest",
            isolation_level="read_committed",
            request_timeout_ms=_REQUEST_TIMEOUT_MS,
        )
        try:
            async with asyncio.timeout(_STALL_SECONDS):
                await consumer.start()
                ends = await consumer.end_offsets(list(consumer.assignment()))
            while polled := await _polled(consumer, ends):
                for batch in polled:
                    for record in batch:
                        yield record
        finally:
            await consumer.stop()


async def _polled(
    consumer: AIOKafkaConsumer, ends: Mapping[TopicPartition, int]
) -> Collection[Sequence[ConsumerRecord]]:
    """Return what comes next, of each partition; nothing when all are read to their ends."""
    async with asyncio.timeout(_STALL_SECONDS):
        while any([await consumer.position(partition) < end for partition, end in ends.items()]):
            if polled := await consumer.getmany(timeout_ms=_READ_TIMEOUT_MS):
                batches: Collection[Sequence[ConsumerRecord]] = polled.values()
                return batches
    return ()


async def read_events(bootstrap: str, topic: str, model: type[E]) -> list[tuple[Envelope, E]]:
    """Read a topic as :func:`records` does, and return its events of a model.

    What readers would park is left out.
    """
    found: list[tuple[Envelope, E]] = []
    async for record in records(bootstrap, topic):
        try:
            envelope = decode(record.headers, record.value)
            event = parse(envelope)
        except EventRejected:
            continue
        if isinstance(event, model):
            found.append((envelope, event))
    return found
