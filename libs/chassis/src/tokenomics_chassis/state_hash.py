"""A canonical hash of derived state: equal states hash equal, whatever order they were built in."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

from tokenomics_chassis.postgres import Session

_PREFETCH_ROWS = 2000

_COLUMNS = """
SELECT table_name, array_agg(column_name::text ORDER BY ordinal_position) AS columns
FROM information_schema.columns
JOIN information_schema.tables USING (table_schema, table_name)
WHERE table_schema = $1 AND table_type = 'BASE TABLE'
GROUP BY table_name
"""


class StateNotCoveredError(Exception):
    """A table or column is neither hashed nor left out by name: the hash would silently ignore it."""


@dataclass(frozen=True, slots=True)
class HashedTable:
    """One table's part of the hash."""

    table: str
    """Unqualified name in the derived schema."""

    sql: str
    """Query without ORDER BY. It selects the table's columns under their own names, and may add others."""

    left_out: Mapping[str, str] = field(default_factory=dict)
    """Columns the query doesn't select, each with the reason."""

    arguments: Sequence[object] = ()
    """For the query's placeholders: what limits it to a part of the state."""


_OF_POSITION = {"source_id": "depends on the order in which partitions were first seen"}
POSITIONS = HashedTable(
    "position",
    "SELECT topic, partition, next_offset, as_of FROM position",
    {
        "source_id": "depends on the order in which partitions were first seen",
        "change_seq": "counts transactions, which depend on the borders of batches",
        "frozen_until": "is a promotion's, while it lasts",
        "parked_in_a_row": "begins anew when an operator retries or skips",
        "newest_hour": "follows from event_source_hour",
        "event_sources": "counts the rows of event_source",
    },
)
PARKED = HashedTable(
    "parked",
    "SELECT topic, partition, record_offset, append_ms, key, value, header_names, header_values, error_code,"
    " error_message FROM parked",
    {"attempts": "counts an operator's retries", "parked_at": "is the time of this copy, not of the record"},
)
SKIPPED = HashedTable(
    "skipped", "SELECT topic, partition, record_offset, reason_code, ticket_id FROM skipped"
)


EVENT_SOURCES = (
    HashedTable(
        "event_source",
        "SELECT topic, partition, source, last_append_ms FROM event_source JOIN position USING (source_id)",
        _OF_POSITION,
    ),
    HashedTable(
        "event_source_hour",
        "SELECT topic, partition, hour, source, delay_bin, events"
        " FROM event_source_hour JOIN position USING (source_id)",
        _OF_POSITION,
    ),
)


async def state_hash(
    connection: Session,
    schema: str,
    tables: Sequence[HashedTable],
    left_out: Mapping[str, str],
) -> str:
    """Hash derived state as of one snapshot; rows are streamed, never held all at once.

    Parameters
    ----------
    connection
        Not in a transaction; ``schema`` first in its search path.
    tables, left_out
        See :func:`table_hashes`.

    Returns
    -------
    str
        SHA-256 in hex.

    Raises
    ------
    StateNotCoveredError, TypeError
        See :func:`table_hashes`.
    """
    async with connection.transaction(isolation="repeatable_read", readonly=True):
        hashes = await table_hashes(connection, schema, tables, left_out)
    return combined(hashes)


def combined(hashes: Mapping[str, str]) -> str:
    """Hash the hashes of tables, given in the order of their names."""
    return hashlib.sha256(_encode([part for pair in sorted(hashes.items()) for part in pair])).hexdigest()


async def table_hashes(
    connection: Session,
    schema: str,
    tables: Sequence[HashedTable],
    left_out: Mapping[str, str],
) -> Mapping[str, str]:
    """Hash tables one by one, in the order of their names, inside the caller's transaction: a snapshot.

    Parameters
    ----------
    left_out
        Tables that are not hashed, each with the reason. ``schema_migration`` need not be named.

    Returns
    -------
    Mapping
        Table to SHA-256 in hex.

    Raises
    ------
    StateNotCoveredError
        A base table of the schema, or a column of a hashed table, is neither hashed nor left out.
    TypeError
        A query returns a type without a canonical form, such as a float.
    """
    uncovered = {row["table_name"]: set(row["columns"]) for row in await connection.fetch(_COLUMNS, schema)}
    for name in ("schema_migration", *left_out):
        uncovered.pop(name, None)
    hashes = {}
    for table in sorted(tables, key=lambda each: each.table):
        digest = hashlib.sha256()
        # Ordered by the whole row's text in byte order: independent of insertion, collation and query.
        statement = await connection.prepare(
            f'SELECT state.* FROM ({table.sql}) AS state ORDER BY state::text COLLATE "C"'  # noqa: S608
        )
        columns = [attribute.name for attribute in statement.get_attributes()]
        if missing := uncovered.pop(table.table, set()) - {*columns, *table.left_out}:
            raise StateNotCoveredError(f"not hashed: columns {sorted(missing)} of {table.table}")
        digest.update(_encode([table.table, *columns]))
        count = 0
        async for row in statement.cursor(*table.arguments, prefetch=_PREFETCH_ROWS):
            digest.update(_encode(tuple(row)))
            count += 1
        digest.update(_encode(count))
        hashes[table.table] = digest.hexdigest()
    if uncovered:
        raise StateNotCoveredError(f"not hashed: tables {sorted(uncovered)} of {schema}")
    return hashes


def _encode(value: Any) -> bytes:
    """Encode a value so that no two different values share an encoding: type, length, content."""
    encoder = _ENCODERS.get(type(value))
    if encoder is None:
        raise TypeError(f"{type(value).__name__} has no canonical form")
    return encoder(value)


def _sized(tag: bytes, content: bytes) -> bytes:
    return tag + b"%d:" % len(content) + content


def _encode_decimal(value: Decimal) -> bytes:
    digits = format(value, "f")
    return _sized(b"d", (digits.rstrip("0").rstrip(".") if "." in digits else digits).encode())


def _encode_sequence(value: Sequence[Any]) -> bytes:
    return b"l%d:" % len(value) + b"".join(map(_encode, value))


_ENCODERS: Mapping[type, Callable[[Any], bytes]] = {
    type(None): lambda _: b"n;",
    bool: lambda value: b"t;" if value else b"f;",
    int: lambda value: b"i%d;" % value,
    str: lambda value: _sized(b"s", value.encode()),
    bytes: lambda value: _sized(b"b", value),
    Decimal: _encode_decimal,
    UUID: lambda value: _sized(b"u", value.bytes),
    datetime: lambda value: _sized(b"T", value.astimezone(UTC).isoformat(timespec="microseconds").encode()),
    date: lambda value: _sized(b"D", value.isoformat().encode()),
    list: _encode_sequence,
    tuple: _encode_sequence,
}
