"""A company that holds amounts, whose ledger's clock is in the tests' hands."""

import asyncio
from collections.abc import Awaitable
from datetime import UTC, datetime

import grpc
import pytest

from tests.integration.quota.harness import Quota
from tests.integration.quota.serving import Served
from tests.support.quota_events import person, price_book, project, quota_policy, team
from tokenomics_quota.storage.hold_ledger import open_ledger

# Far ahead of any clock: the ledger's now stands still there, until a test moves it.
NOW = datetime(2150, 5, 15, 12, tzinfo=UTC)
RED = "team/red/all/2150-05"
ADA = "subject/ada/all/2150-05"
CC = "cost_centre/cc/all/2150-05"
ATLAS = "project/atlas/all/2150-05"


_END_WHO_WAITS = """
SELECT pg_terminate_backend(pid) FROM pg_locks
WHERE NOT granted AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
"""


async def stand_at(quota: Quota, instant: datetime) -> None:
    await quota.pool.execute("UPDATE ledger SET last_now = $1", instant)


async def hold_company(service: Served) -> Served:
    """Serve a company whose team has a hard limit of 1,000 micro-USD; a token costs 1."""
    quota = service.quota
    await quota.tell(price_book(), "book")
    await quota.tell(
        quota_policy(
            allowances=[{"role": "engineer", "limit_micro_usd": 2_000}],
            budgets=[
                {"kind": "team", "owner_id": "red", "limit_micro_usd": 1_000, "enforcement": "hard"},
            ],
        ),
        "policy",
    )
    await quota.tell(team("red", owner_id="lead", cost_centre_id="cc"), "red")
    await quota.tell(project("atlas", owner_id="lead"), "atlas")
    await quota.tell(person("ada", manager_id="boss"), "ada")
    await quota.tell(person("eve", manager_id="boss"), "eve")
    for name in ("bob", "boss", "lead"):
        await quota.tell(person(name, team_id="blue"), name)
    await stand_at(quota, NOW)
    service.clock.time = NOW
    async with quota.pool.acquire() as connection:
        await open_ledger(connection)
    await service.refresh()
    return service


async def refused(answering: Awaitable[object]) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as refusal:
        await answering
    return refusal.value


async def broken_off(quota: Quota, placing: Awaitable[object]) -> grpc.aio.AioRpcError:
    """Let the connection of a turn that places break when all is judged and nothing committed."""
    async with quota.pool.acquire() as connection, connection.transaction():
        await connection.execute("LOCK TABLE placed_hold IN EXCLUSIVE MODE")  # it can be read
        answering = asyncio.ensure_future(refused(placing))
        async with asyncio.timeout(10):
            while not await connection.fetchval(_END_WHO_WAITS):  # noqa: ASYNC110 - nothing says that one waits
                await asyncio.sleep(0.01)
        return await answering
