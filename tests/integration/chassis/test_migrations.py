"""Migrations: each file once, from any number of processes, and never edited afterwards."""

import asyncio
import sys
from collections.abc import Callable
from pathlib import Path

import asyncpg
import pytest

from tests.support import toy_projection as toy
from tokenomics_chassis.migrations import Migrations, MigrationSource, WrongSchemaError
from tokenomics_chassis.postgres import Schemas, session
from tokenomics_chassis.process import ExitCode
from tokenomics_tools.stack import Stack

SCHEMAS = Schemas("shop", 1)

Write = Callable[[str, str], None]


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Write:
    """Put a migration into a package of the test's own, ``shop_package``."""
    package = tmp_path / "shop_package"
    package.mkdir()
    (package / "__init__.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "shop_package", raising=False)

    def write(path: str, sql: str) -> None:
        file = package / "migrations" / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(sql)

    return write


def migrations(version: int = 1) -> Migrations:
    return Migrations(Schemas("shop", version), [MigrationSource("shop_package", "migrations")])


async def verify(url: str) -> None:
    async with session(url, SCHEMAS, application_name="test") as connection:
        await migrations().verify(connection)


async def test_each_file_is_applied_once_in_order_the_chassis_first(stack: Stack, write: Write) -> None:
    url = stack.new_database("shop")
    write("derived/001_orders.sql", "CREATE TABLE orders (id int REFERENCES position (source_id));")
    write("derived/002_index.sql", "CREATE INDEX ON orders (id);")
    write("service/001_receipt.sql", "CREATE TABLE receipt (id int);")
    applied = await migrations().migrate(url)
    assert applied == [
        "shop: tokenomics_chassis/001_outbox.sql",
        "shop: tokenomics_chassis/002_derived_version.sql",
        "shop: tokenomics_chassis/003_recalled.sql",
        "shop: tokenomics_chassis/004_audit.sql",
        "shop: shop_package/001_receipt.sql",
        "shop_v1: tokenomics_chassis/001_positions.sql",
        "shop_v1: tokenomics_chassis/002_frozen.sql",
        "shop_v1: tokenomics_chassis/003_parked_in_a_row.sql",
        "shop_v1: tokenomics_chassis/004_event_sources.sql",
        "shop_v1: shop_package/001_orders.sql",
        "shop_v1: shop_package/002_index.sql",
    ]
    assert await migrations().migrate(url) == []
    await verify(url)


async def test_processes_that_migrate_at_once_do_not_collide(stack: Stack, write: Write) -> None:
    url = stack.new_database("shop")
    write("derived/001_orders.sql", "CREATE TABLE orders (id int);")
    applied = await asyncio.gather(*(migrations().migrate(url) for _ in range(4)))
    assert sorted(map(len, applied)) == [0, 0, 0, 9]


async def test_versions_of_derived_state_stand_beside_each_other(stack: Stack, write: Write) -> None:
    url = stack.new_database("shop")
    write("derived/001_orders.sql", "CREATE TABLE orders (id int);")
    await migrations(1).migrate(url)
    assert await migrations(2).migrate(url) == [
        "shop_v2: tokenomics_chassis/001_positions.sql",
        "shop_v2: tokenomics_chassis/002_frozen.sql",
        "shop_v2: tokenomics_chassis/003_parked_in_a_row.sql",
        "shop_v2: tokenomics_chassis/004_event_sources.sql",
        "shop_v2: shop_package/001_orders.sql",
    ]


async def test_a_failing_migration_leaves_nothing_of_itself_and_can_be_repeated(
    stack: Stack, write: Write
) -> None:
    url = stack.new_database("shop")
    write("derived/001_orders.sql", "CREATE TABLE orders (id int); SELECT 1 / 0;")
    with pytest.raises(asyncpg.DivisionByZeroError):
        await migrations().migrate(url)
    with pytest.raises(WrongSchemaError, match=r"shop_v1 lacks shop_package/001_orders\.sql"):
        await verify(url)
    write("derived/001_orders.sql", "CREATE TABLE orders (id int);")
    assert await migrations().migrate(url) == ["shop_v1: shop_package/001_orders.sql"]


async def test_an_edited_migration_is_refused_and_nothing_is_changed(stack: Stack, write: Write) -> None:
    url = stack.new_database("shop")
    write("derived/001_orders.sql", "CREATE TABLE orders (id int);")
    await migrations().migrate(url)
    write("derived/001_orders.sql", "CREATE TABLE orders (id bigint);")
    with pytest.raises(WrongSchemaError, match=r"shop_package/001_orders.sql was edited"):
        await verify(url)
    write("service/001_receipt.sql", "CREATE TABLE receipt (id int);")
    with pytest.raises(WrongSchemaError, match=r"shop_package/001_orders.sql was edited"):
        await migrations().migrate(url)
    async with session(url, SCHEMAS, application_name="test") as connection:
        assert await connection.fetchval("SELECT to_regclass('shop.receipt') IS NULL")


async def test_a_database_newer_than_the_code_is_refused(stack: Stack, write: Write) -> None:
    url = stack.new_database("shop")
    write("derived/001_orders.sql", "CREATE TABLE orders (id int);")
    await migrations().migrate(url)
    older = Migrations(SCHEMAS)
    with pytest.raises(
        WrongSchemaError, match=r"newer than this code: it has shop_package/001_orders.sql"
    ) as wrong:
        async with session(url, SCHEMAS, application_name="test") as connection:
            await older.verify(connection)
    assert wrong.value.exit_code == ExitCode.SCHEMA


async def test_an_empty_database_is_refused_and_told_what_to_do(stack: Stack) -> None:
    url = stack.new_database("shop")
    with pytest.raises(WrongSchemaError, match="run the `migrate` command first"):
        async with session(url, toy.SCHEMAS, application_name="test") as connection:
            await toy.MIGRATIONS.verify(connection)


@pytest.mark.parametrize("name", ["002_orders.sql", "1_orders.sql", "001-orders.sql"])
def test_files_out_of_sequence_are_refused(write: Write, name: str) -> None:
    write(f"derived/{name}", "SELECT 1;")
    with pytest.raises(ValueError, match=name):
        migrations()


def test_schema_names_cannot_carry_sql() -> None:
    with pytest.raises(ValueError, match="not a schema name"):
        Migrations(Schemas("shop; DROP TABLE orders", 1))
