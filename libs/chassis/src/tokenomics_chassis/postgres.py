"""PostgreSQL: pools on a service's schemas, transactions worth repeating, errors by their meaning."""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import asyncpg
import tenacity

if TYPE_CHECKING:  # asyncpg's classes are generic in its stubs alone
    Pool = asyncpg.Pool[Any]
    Session = asyncpg.Connection[Any]
    Connection = Session | asyncpg.pool.PoolConnectionProxy[Any]
else:
    Pool, Session, Connection = asyncpg.Pool, asyncpg.Connection, asyncpg.Connection

log = logging.getLogger(__name__)

T = TypeVar("T")

STATEMENT_TIMEOUT_MS = 30_000
IDLE_IN_TRANSACTION_TIMEOUT_MS = 30_000
COMMAND_TIMEOUT_SECONDS = 35.0
"""For a server that doesn't even answer that a statement timed out."""

ATTEMPTS = 8
"""How often a transaction that lost a race is run before the error is taken to be no race."""

_RACES = (asyncpg.SerializationError, asyncpg.DeadlockDetectedError, asyncpg.UniqueViolationError)

# SQLSTATE classes (PostgreSQL manual, appendix A) that say: the server, not the statement, is in trouble.
_AWAY_CLASSES = frozenset({"08", "53", "57", "58", "XX"})
_AWAY_STATES = frozenset(
    {
        "25006",  # read_only_sql_transaction: after a failover, still on the old primary
        "25P03",  # idle_in_transaction_session_timeout: this process was paused
        "25P04",  # transaction_timeout
        "40001",  # serialization_failure
        "40003",  # statement_completion_unknown
        "40P01",  # deadlock_detected
        "55P03",  # lock_not_available
        "57P05",  # idle_session_timeout
    }
)

DATA_CLASSES = frozenset({"21", "22", "23", "54", "P0"})
"""SQLSTATE classes that speak of the data a statement was given: cardinality, data, integrity, limits, PL."""


@dataclass(frozen=True, slots=True)
class Schemas:
    """Where a service keeps its tables."""

    service: str
    """Name of the service, and of the schema of what is never rebuilt."""

    version: int | None = 1
    """Version of the derived state; ``None`` for work on what is never rebuilt."""

    @property
    def derived(self) -> str:
        """Schema of this version of the derived state."""
        if self.version is None:
            raise ValueError(f"no version of the derived state of {self.service} is named")
        return f"{self.service}_v{self.version}"

    @property
    def search_path(self) -> str:
        """First derived, then service tables; SQL names tables unqualified."""
        return self.service if self.version is None else f"{self.derived}, {self.service}"

    @property
    def changed_channel(self) -> str:
        """NOTIFY channel that hints at moved positions."""
        return f"{self.service}_changed"

    @property
    def outbox_channel(self) -> str:
        """NOTIFY channel that hints at new rows in the outbox."""
        return f"{self.service}_outbox"


def _server_settings(schemas: Schemas, application_name: str) -> dict[str, str]:
    return {
        "application_name": application_name,
        "search_path": schemas.search_path,
        "TimeZone": "UTC",
        "jit": "off",  # compiling costs more than these short statements take
        "statement_timeout": str(STATEMENT_TIMEOUT_MS),
        "idle_in_transaction_session_timeout": str(IDLE_IN_TRANSACTION_TIMEOUT_MS),
    }


async def create_pool(
    url: str, schemas: Schemas, *, application_name: str, min_size: int = 1, max_size: int = 8
) -> Pool:
    """Open a pool; use it as a context manager or close it.

    Statements are limited to 30 s, transactions idle for 30 s lose their locks.
    """
    return await asyncpg.create_pool(
        url,
        min_size=min_size,
        max_size=max_size,
        timeout=10,
        command_timeout=COMMAND_TIMEOUT_SECONDS,
        reset=_leave,
        server_settings=_server_settings(schemas, application_name),
    )


async def _leave(connection: Connection) -> None:
    """Save the round trip of a reset: nothing outlives a transaction on a pooled connection."""


@asynccontextmanager
async def session(
    url: str, schemas: Schemas, *, application_name: str, idle_timeout_ms: int = 0, patient: bool = False
) -> AsyncIterator[Session]:
    """Open one connection of its own, for what lives on a session: advisory locks and LISTEN.

    Parameters
    ----------
    idle_timeout_ms
        When not 0, PostgreSQL ends the session, and with it its locks, after that long without a statement.
    patient
        Let statements take as long as they need: for what reads whole tables.
    """
    settings = _server_settings(schemas, application_name)
    settings["idle_session_timeout"] = str(idle_timeout_ms)
    if patient:
        settings["statement_timeout"] = "0"
    connection = await asyncpg.connect(
        url,
        timeout=10,
        command_timeout=None if patient else COMMAND_TIMEOUT_SECONDS,
        server_settings=settings,
    )
    try:
        yield connection
    finally:
        await _close(connection)


async def _close(connection: Session) -> None:
    try:
        await connection.close(timeout=2)
    except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError):
        connection.terminate()


def is_away(error: BaseException) -> bool:
    """Whether the database could not be reached or was in trouble itself: the same again later may work."""
    if isinstance(error, asyncpg.PostgresError):
        state = getattr(error, "sqlstate", None) or ""
        return state[:2] in _AWAY_CLASSES or state in _AWAY_STATES
    if isinstance(error, asyncpg.InterfaceError):
        # asyncpg says so when a connection broke under a statement; its other InterfaceErrors are misuse.
        return "connection" in str(error) and "closed" in str(error)
    return isinstance(error, OSError | asyncpg.InternalClientError)


async def in_transaction(pool: Pool, work: Callable[[Connection], Awaitable[T]]) -> T:
    """Run ``work`` in a transaction and commit; the whole again when it lost a race.

    A race is a serialization failure, a deadlock or a uniqueness violation. ``work`` must be repeatable.
    After :data:`ATTEMPTS` the last error is raised; all other errors are raised at once.
    """
    async for attempt in tenacity.AsyncRetrying(
        retry=tenacity.retry_if_exception_type(_RACES),
        stop=tenacity.stop_after_attempt(ATTEMPTS),
        wait=tenacity.wait_random_exponential(multiplier=0.005, max=0.5),
        reraise=True,
    ):
        with attempt:
            async with pool.acquire() as connection, connection.transaction():
                return await work(connection)
    raise AssertionError("tenacity either returns or raises")


class Backoff:
    """Growing pauses with full jitter between attempts, cut short by a stop; one per loop that retries."""

    def __init__(self, *, first_seconds: float = 0.1, max_seconds: float = 5.0) -> None:
        self._wait = tenacity.wait_random_exponential(multiplier=first_seconds, max=max_seconds)
        self._attempts = 0

    def reset(self) -> None:
        """Begin anew after a success."""
        self._attempts = 0

    async def pause(self, stopping: asyncio.Event, error: BaseException, doing: str) -> None:
        """Log the error and wait; returns at once when ``stopping`` is set."""
        self._attempts += 1
        state = tenacity.RetryCallState(tenacity.Retrying(), None, (), {})
        state.attempt_number = self._attempts
        seconds = self._wait(state)
        log.warning(
            "%s failed, trying again: %s: %s",
            doing,
            type(error).__name__,
            error,
            extra={"attempt": self._attempts, "pause_seconds": round(seconds, 3)},
        )
        await wait_for(stopping, seconds)


async def wait_for(event: asyncio.Event, seconds: float) -> bool:
    """Wait until the event is set, at most so long; whether it is set."""
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        return False
    return True
