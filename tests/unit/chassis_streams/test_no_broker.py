"""While a dependency is away it is asked ever less often, and nothing is left open."""

import asyncio
import gc
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from aiokafka import TopicPartition
from aiokafka.errors import KafkaConnectionError, TopicAuthorizationFailedError

from tokenomics_chassis import leadership
from tokenomics_chassis.consumer import _Witness
from tokenomics_chassis.leadership import lead
from tokenomics_chassis.postgres import Schemas
from tokenomics_chassis.relay import Relay
from tokenomics_chassis.topics import end_offsets

NOBODY_LISTENS = "127.0.0.1:1"
SCHEMAS = Schemas("toy")


class Database:
    """Gives everyone the lock who asks."""

    async def fetchval(self, *_: object) -> bool:
        return True


@pytest.fixture(autouse=True)
def _database(monkeypatch: pytest.MonkeyPatch) -> None:
    @asynccontextmanager
    async def session(*_: Any, **__: Any) -> AsyncIterator[Database]:
        yield Database()

    monkeypatch.setattr(leadership, "session", session)


async def terms(count: int) -> None:
    """Lead as often, each time until the broker is found to be away."""
    stopping = asyncio.Event()
    begun = 0

    async def work(_connection: object, _stopping: asyncio.Event) -> None:
        nonlocal begun
        begun += 1
        if begun == count:
            stopping.set()
        raise KafkaConnectionError("no broker")

    await lead("", SCHEMAS, "relay", work, stopping)


def attempts(caplog: pytest.LogCaptureFixture) -> list[int]:
    return [record.attempt for record in caplog.records if hasattr(record, "attempt")]


async def test_a_leader_without_a_broker_tries_ever_more_seldom(caplog: pytest.LogCaptureFixture) -> None:
    await terms(4)
    assert attempts(caplog) == [1, 2, 3, 4]


async def test_after_a_steady_term_the_next_is_sought_at_once(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leadership, "STEADY_SECONDS", -1.0)
    await terms(3)
    assert attempts(caplog) == [1, 1, 1]


async def test_what_a_broker_refuses_for_good_ends_the_leader() -> None:
    async def work(_connection: object, _stopping: asyncio.Event) -> None:
        raise TopicAuthorizationFailedError("toy.own")

    with pytest.raises(TopicAuthorizationFailedError):
        await lead("", SCHEMAS, "relay", work, asyncio.Event())


async def read_ends() -> None:
    await end_offsets(NOBODY_LISTENS, ["toy.own"])


async def look_into_a_gap() -> None:
    await _Witness(NOBODY_LISTENS).first_offset(TopicPartition("toy.own", 0), 1, 2)


async def relay() -> None:
    await Relay("", SCHEMAS, NOBODY_LISTENS)._relay(Database(), asyncio.Event())  # type: ignore[arg-type]


@pytest.mark.parametrize("work", [read_ends, look_into_a_gap, relay])
async def test_a_client_that_never_came_up_is_closed(
    work: Callable[[], Awaitable[None]], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.ERROR)
    with pytest.raises(KafkaConnectionError):
        await work()
    gc.collect()
    assert "Unclosed" not in caplog.text
