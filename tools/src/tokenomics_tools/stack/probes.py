"""Questions to running servers, asked synchronously, also from a thread that runs an event loop."""

import asyncio
import contextlib
import socket
import struct
from collections.abc import Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import asyncpg

_Result = TypeVar("_Result")
_PROBE_SECONDS = 2
_METADATA_API_KEY, _METADATA_VERSION = 3, 1


def kafka_answers(bootstrap: str) -> bool:
    """Whether the broker answers and offers itself to clients.

    Asked with one Metadata request written by hand: a client library would log each failure.
    """
    host, _, port = bootstrap.rpartition(":")
    request = struct.pack(">hhih0si", _METADATA_API_KEY, _METADATA_VERSION, 1, 0, b"", 0)
    with (
        contextlib.suppress(OSError),
        socket.create_connection((host, int(port)), _PROBE_SECONDS) as connection,
    ):
        connection.sendall(struct.pack(">i", len(request)) + request)
        with connection.makefile("rb") as answer:
            head = answer.read(12)  # length, correlation id, number of brokers
        return len(head) == 12 and struct.unpack(">iii", head)[2] > 0
    return False


def postgres_answers(url: str) -> bool:
    """Whether the server accepts this login and a query."""
    with contextlib.suppress(OSError, asyncpg.PostgresError, asyncpg.InterfaceError, TimeoutError):
        execute(url, "SELECT 1", timeout_seconds=_PROBE_SECONDS)
        return True
    return False


def execute(url: str, *statements: str, timeout_seconds: float = 60) -> None:
    """Run SQL statements one by one, each in its own transaction and within the time.

    Raises
    ------
    asyncpg.PostgresError, OSError
        As the driver raises them.
    TimeoutError
        The server did not answer.
    """

    async def run() -> None:
        connection = await asyncpg.connect(url, timeout=timeout_seconds, command_timeout=timeout_seconds)
        try:
            for statement in statements:
                await connection.execute(statement)
        finally:
            await connection.close(timeout=timeout_seconds)

    run_async(run())


def run_async(coroutine: Coroutine[Any, Any, _Result]) -> _Result:
    """Run a coroutine to its end on an event loop in a thread of its own."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(asyncio.run, coroutine).result()
