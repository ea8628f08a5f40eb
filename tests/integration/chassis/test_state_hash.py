"""The canonical hash: equal for equal states, different for different ones, and blind to nothing."""

from collections.abc import AsyncIterator

import pytest

from tokenomics_chassis.postgres import Schemas, Session, session
from tokenomics_chassis.state_hash import HashedTable, StateNotCoveredError, state_hash
from tokenomics_tools.stack import Stack

ITEM = HashedTable("item", "SELECT id, name, amount, data, at FROM item")


@pytest.fixture
async def connection(stack: Stack) -> AsyncIterator[Session]:
    async with session(stack.new_database("hash"), Schemas("shop"), application_name="test") as connection:
        await connection.execute(
            "CREATE SCHEMA shop_v1;"
            "CREATE TABLE item (id int PRIMARY KEY, name text, amount numeric, data bytea, at timestamptz)"
        )
        yield connection


async def hash_of(connection: Session, *tables: HashedTable, **left_out: str) -> str:
    return await state_hash(connection, "shop_v1", tables or [ITEM], left_out)


async def fill(connection: Session, *, shuffled: bool = False) -> None:
    await connection.execute("TRUNCATE item")
    await connection.execute(
        "INSERT INTO item SELECT n, 'É' || n, n / 4.0, decode('00ff', 'hex'), to_timestamp(n)"
        " FROM generate_series(1, 5000) n ORDER BY CASE WHEN $1 THEN md5(n::text) END, n",
        shuffled,
    )


async def test_the_order_of_insertion_does_not_matter(connection: Session) -> None:
    await fill(connection)
    ascending = await hash_of(connection)
    await fill(connection, shuffled=True)
    assert await hash_of(connection) == ascending


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE item SET amount = amount + 0.000001 WHERE id = 4999",
        "UPDATE item SET name = NULL WHERE id = 1",
        "UPDATE item SET data = '' WHERE id = 1",
        "UPDATE item SET at = at + interval '1 microsecond' WHERE id = 1",
        "DELETE FROM item WHERE id = 5000",
        "INSERT INTO item VALUES (5001)",
    ],
)
async def test_any_difference_shows(connection: Session, change: str) -> None:
    await fill(connection)
    before = await hash_of(connection)
    await connection.execute(change)
    assert await hash_of(connection) != before


async def test_values_cannot_run_into_each_other(connection: Session) -> None:
    await connection.execute("CREATE TABLE pair (a text, b text)")
    pair = HashedTable("pair", "SELECT a, b FROM pair")
    hashes = set()
    for row in ("('ab', 'c')", "('a', 'bc')", "(NULL, 'abc')", "('', 'abc')", "('n;', 'abc')"):
        await connection.execute(f"TRUNCATE pair; INSERT INTO pair VALUES {row}")  # noqa: S608 - literals above
        hashes.add(await hash_of(connection, pair, item="of other tests"))
    assert len(hashes) == 5


async def test_a_new_table_or_column_cannot_be_forgotten(connection: Session) -> None:
    await connection.execute("CREATE TABLE extra (id int)")
    with pytest.raises(StateNotCoveredError, match=r"tables \['extra'\] of shop_v1"):
        await hash_of(connection)
    await hash_of(connection, extra="has a reason")
    await connection.execute("ALTER TABLE item ADD COLUMN note text")
    with pytest.raises(StateNotCoveredError, match=r"columns \['note'\] of item"):
        await hash_of(connection, extra="has a reason")
    excused = HashedTable(ITEM.table, ITEM.sql, {"note": "has a reason"})
    await hash_of(connection, excused, extra="has a reason")


async def test_floats_have_no_canonical_form(connection: Session) -> None:
    await connection.execute("INSERT INTO item (id) VALUES (1)")
    item = HashedTable("item", "SELECT id::float8 AS id, name, amount, data, at FROM item")
    with pytest.raises(TypeError, match="float has no canonical form"):
        await hash_of(connection, item)
