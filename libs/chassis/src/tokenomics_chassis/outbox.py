"""The outbox: events written together with the change they tell of, sent to Kafka by the relay."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from tokenomics_chassis.postgres import Connection


class OutboxEvent(NamedTuple):
    """A record to be: where to and with which bytes."""

    topic: str
    key: bytes | None
    headers: Sequence[tuple[str, bytes]]
    """A ``traceparent`` belongs here: the relay sends what the row says."""
    value: bytes | None


_COLUMNS = ("aggregate_id", "version", "topic", "key", "header_names", "header_values", "value")
_INSERT = """
INSERT INTO outbox (aggregate_id, version, topic, key, header_names, header_values, value)
VALUES ($1, $2, $3, $4, $5, $6, $7)
"""


async def append(
    connection: Connection,
    aggregate_id: str,
    version: int,
    *,
    topic: str,
    key: bytes | None,
    headers: Sequence[tuple[str, bytes]],
    value: bytes | None,
) -> None:
    """Append an event inside the caller's transaction.

    The caller must hold the aggregate's lock, so that ids ascend with versions: the relay sends in id order.
    The bytes given here are the bytes sent, each time they are sent.

    Raises
    ------
    asyncpg.UniqueViolationError
        This version of the aggregate is already written.
    asyncpg.CheckViolationError
        The value is larger than the broker takes.
    """
    await connection.execute(_INSERT, *_row(aggregate_id, version, OutboxEvent(topic, key, headers, value)))


async def append_all(connection: Connection, events: Iterable[tuple[str, int, OutboxEvent]]) -> None:
    """Append events, each with its aggregate's id and version, in one round trip; see :func:`append`.

    All or none of them, also where the caller has no transaction open.
    """
    # COPY: it costs PostgreSQL less than half of what as many INSERTs do.
    await connection.copy_records_to_table(
        "outbox", records=[_row(*each) for each in events], columns=_COLUMNS
    )


def _row(aggregate_id: str, version: int, event: OutboxEvent) -> tuple[object, ...]:
    names = [name for name, _ in event.headers]
    values = [data for _, data in event.headers]
    return (aggregate_id, version, event.topic, event.key, names, values, event.value)
