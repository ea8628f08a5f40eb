"""The relay: sends the outbox to Kafka in id order and deletes what the broker has acknowledged."""

import asyncio
from collections.abc import Sequence
from typing import Any

import asyncpg
from aiokafka import AIOKafkaProducer

from tokenomics_chassis.changes import listen
from tokenomics_chassis.failpoints import failpoint
from tokenomics_chassis.leadership import lead
from tokenomics_chassis.postgres import Schemas, Session

BATCH_ROWS = 500
BATCH_BYTES = 8 * 1024 * 1024
"""What the values of a batch hold at most, one row more."""

REQUEST_TIMEOUT_MS = 10_000
SEND_SECONDS = 10.0
"""What isn't acknowledged so soon is given up, to be sent again: well before the leader's lease ends, and
before a stop's grace period does. The client alone would wait for a broker without end."""

# The head of the outbox, up to the row that makes the batch full.
_READ = """
SELECT id, topic, key, header_names, header_values, value
FROM (
    SELECT *, sum(bytes) OVER (ORDER BY id) - bytes AS bytes_before
    FROM (SELECT *, coalesce(octet_length(value), 0) AS bytes FROM outbox ORDER BY id LIMIT $1) AS head
) AS sized
WHERE bytes_before < $2
ORDER BY id
"""
_DELETE = "DELETE FROM outbox WHERE id = ANY($1)"


class Relay:
    """Sends at least once, byte-identical each time; consumers drop what they have seen.

    Any number may run; one leads. What one aggregate wrote arrives in the order it was written; after a fault
    a stretch of it may arrive again from its start.
    """

    def __init__(self, url: str, schemas: Schemas, bootstrap: str) -> None:
        self._url = url
        self._schemas = schemas
        self._bootstrap = bootstrap

    async def run(self, stopping: asyncio.Event) -> None:
        """Relay until ``stopping`` is set; what is in the outbox then is sent first, if this one leads.

        Raises
        ------
        aiokafka.errors.KafkaError
            The broker refuses the head of the outbox for good: until that is mended nothing can be sent.
        """
        await lead(self._url, self._schemas, "relay", self._relay, stopping)

    async def _relay(self, connection: Session, stopping: asyncio.Event) -> None:
        producer = AIOKafkaProducer(
            bootstrap_servers=self._bootstrap,
            enable_idempotence=True,
            acks="all",
            client_id="outbox-relay",
            request_timeout_ms=REQUEST_TIMEOUT_MS,
        )
        try:
            await producer.start()
            async with listen(connection, self._schemas.outbox_channel) as signal:
                while True:
                    if await _send_batch(connection, producer):
                        continue
                    if stopping.is_set():
                        return
                    await signal.wait()
        finally:
            await _close(producer)


async def _send_batch(connection: Session, producer: AIOKafkaProducer) -> bool:
    """Send the head of the outbox; whether it was a full batch, so that there may be more."""
    rows = await connection.fetch(_READ, BATCH_ROWS, BATCH_BYTES)
    if not rows:
        return False
    failpoint("relay.after_read")
    sent = await _send(producer, rows)
    failpoint("relay.after_send")
    # Only what lies before the first failure: what follows it must follow it again.
    failed = next((index for index, each in enumerate(sent) if isinstance(each, BaseException)), len(sent))
    await connection.execute(_DELETE, [row["id"] for row in rows[:failed]])
    failpoint("relay.after_delete")
    if failed < len(sent):
        error = sent[failed]
        assert isinstance(error, BaseException)
        raise error
    return len(rows) == BATCH_ROWS or sum(len(row["value"] or b"") for row in rows) >= BATCH_BYTES


async def _send(producer: AIOKafkaProducer, rows: Sequence[asyncpg.Record]) -> Sequence[Any]:
    """Send rows and return what came of each: an exception, or anything else."""
    futures: list[asyncio.Future[Any]] = []
    try:
        async with asyncio.timeout(SEND_SECONDS):
            for row in rows:
                headers = list(zip(row["header_names"], row["header_values"], strict=True))
                future = await producer.send(
                    row["topic"], value=row["value"], key=row["key"], headers=headers
                )
                futures.append(future)
            return await asyncio.gather(*futures, return_exceptions=True)
    finally:
        for future in futures:
            future.cancel()


async def _close(producer: AIOKafkaProducer) -> None:
    """Close a producer and forget what it has not sent. Its own `stop` waits, without end, for all that."""
    producer._closed = True  # noqa: SLF001 - see above
    await producer._sender.close()  # noqa: SLF001
    await producer.client.close()
