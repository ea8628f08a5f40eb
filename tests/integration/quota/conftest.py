"""A quota database anew for each test, and a projector on it."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.integration.quota.harness import TRAIL, Quota
from tests.integration.quota.serving import Served, serve
from tokenomics_chassis.postgres import Schemas, create_pool
from tokenomics_quota.bootstrap import migrations
from tokenomics_tools.stack import Stack


@pytest.fixture
async def quota(stack: Stack) -> AsyncIterator[Quota]:
    url, schemas = stack.new_database("quota"), Schemas("quota")
    await migrations(schemas).migrate(url)
    async with await create_pool(url, schemas, application_name="test") as pool:
        async with pool.acquire() as connection:
            await TRAIL.open(connection)
        yield Quota(url, schemas, pool)


@pytest.fixture
async def service(quota: Quota, tmp_path: Path) -> AsyncIterator[Served]:
    async with serve(quota, tmp_path) as made:
        yield made
