"""A database's data folder is lost, copied and put back: under the same address, with what it then held."""

from collections.abc import Iterator
from pathlib import Path

import asyncpg
import pytest

from tokenomics_tools.stack import Source, Stack, StackError, start_stack
from tokenomics_tools.stack.external import ExternalPostgres
from tokenomics_tools.stack.probes import execute, postgres_answers


@pytest.fixture(scope="module")
def embedded() -> Iterator[Stack]:
    with start_stack(Source.EMBEDDED) as stack:
        yield stack


async def kept(url: str) -> list[str]:
    connection = await asyncpg.connect(url)
    try:
        return [row["value"] for row in await connection.fetch("SELECT value FROM kept ORDER BY value")]
    finally:
        await connection.close()


def test_lost_data_leaves_an_empty_server_at_the_same_address(embedded: Stack) -> None:
    before, url = embedded.postgres.url, embedded.new_database("lost")
    name = url.rpartition("/")[2]
    execute(url, "CREATE TABLE kept (value text)")
    embedded.postgres.lose_data()
    assert embedded.postgres.url == before
    assert postgres_answers(before)
    assert not postgres_answers(url)
    assert embedded.new_database(name, reuse=True) == url
    execute(url, "CREATE TABLE kept (value text)")


async def test_a_copy_put_back_holds_what_was_there_when_it_was_taken(
    embedded: Stack, tmp_path: Path
) -> None:
    url, copy = embedded.new_database("restored"), tmp_path / "copy"
    execute(url, "CREATE TABLE kept (value text)", "INSERT INTO kept VALUES ('before')")
    embedded.postgres.copy_data(copy)
    execute(url, "INSERT INTO kept VALUES ('after')")
    assert await kept(url) == ["after", "before"]
    for _ in range(2):
        embedded.postgres.restore_data(copy)
        assert await kept(url) == ["before"]
        execute(url, "INSERT INTO kept VALUES ('again')")
    embedded.postgres.restart()
    assert await kept(url) == ["again", "before"]


def test_servers_of_another_source_keep_their_data(tmp_path: Path) -> None:
    postgres = ExternalPostgres()
    for call in (
        postgres.lose_data,
        lambda: postgres.copy_data(tmp_path / "copy"),
        lambda: postgres.restore_data(tmp_path),
    ):
        with pytest.raises(StackError, match="only an embedded stack has its database's data folder"):
            call()
