"""The announcer: one leader at a time, every change judged, nothing said twice."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import asyncpg
import pytest

from tests.integration.chassis.harness import Log
from tests.support import toy_projection as toy
from tests.support.toy_projection import Toy
from tokenomics_chassis.announcer import PACE_SECONDS, Announcer
from tokenomics_chassis.changes import POLL_SECONDS, Change
from tokenomics_chassis.postgres import Connection, Pool, Session
from tokenomics_chassis.projector import Projector

THRESHOLD = 100


@pytest.fixture
async def said(pool: Pool) -> None:
    await pool.execute("CREATE TABLE toy.announcement (id text PRIMARY KEY)")


class Judge:
    """Announces each name whose total reached the threshold."""

    def __init__(self) -> None:
        self.calls: list[Sequence[Change]] = []
        self.fail_once: Exception | None = None

    async def __call__(self, connection: Connection, changes: Sequence[Change]) -> None:
        self.calls.append(changes)
        for change in changes:
            await connection.execute(
                "INSERT INTO announcement (id) SELECT name FROM tally"
                " WHERE source_id = $1 AND change_seq > $2 AND total >= $3 ON CONFLICT DO NOTHING",
                change.position.source_id,
                change.old_change_seq,
                THRESHOLD,
            )
        failure, self.fail_once = self.fail_once, None
        if failure:
            raise failure


async def ready(_connection: Session, _stopping: asyncio.Event) -> None:
    """Let a term begin to judge at once."""


@asynccontextmanager
async def running(database: str, judge: Judge, *, tick_seconds: float = 60.0) -> AsyncIterator[None]:
    stopping = asyncio.Event()
    announcer = Announcer(database, toy.SCHEMAS, ready, judge, tick_seconds=tick_seconds)
    task = asyncio.create_task(announcer.run(stopping))
    try:
        yield
    finally:
        stopping.set()
        await task


async def announced(pool: Pool, *expected: str) -> None:
    async with asyncio.timeout(30):
        while await said_so_far(pool) != list(expected):  # noqa: ASYNC110 - another session's doing
            await asyncio.sleep(0.02)


async def said_so_far(pool: Pool) -> list[str]:
    return [row["id"] for row in await pool.fetch("SELECT id FROM announcement ORDER BY id")]


@pytest.mark.usefixtures("said")
async def test_what_is_due_is_announced_once_also_by_the_next_leader(database: str, pool: Pool) -> None:
    log = Log(Projector(pool, toy.SCHEMAS, Toy()))
    await log.project(b"100")
    async with running(database, Judge()):
        await announced(pool, "a")
        await log.project(b"99", first=1, key=b"b")
        await log.project(b"1", first=2, key=b"b")
        await announced(pool, "a", "b")
    judge = Judge()
    async with running(database, judge):
        await log.project(b"100", first=3, key=b"c")
        await announced(pool, "a", "b", "c")
    assert judge.calls[0][0].restarted


@pytest.mark.usefixtures("said")
async def test_a_lost_notification_delays_a_judgement_by_less_than_1_s(database: str, pool: Pool) -> None:
    assert PACE_SECONDS + POLL_SECONDS < 1
    judge = Judge()
    await Log(Projector(pool, toy.SCHEMAS, Toy())).project(b"1")
    async with running(database, judge):
        async with asyncio.timeout(30):
            while not judge.calls:  # noqa: ASYNC110 - another session's doing
                await asyncio.sleep(0.02)
        await pool.execute("UPDATE tally SET total = 100, change_seq = 2")
        await pool.execute("UPDATE position SET change_seq = 2")
        await announced(pool, "a")


@pytest.mark.usefixtures("said")
async def test_a_judgement_that_failed_is_repeated_with_the_same_changes(database: str, pool: Pool) -> None:
    judge = Judge()
    judge.fail_once = asyncpg.DeadlockDetectedError("somebody crossed us")
    await Log(Projector(pool, toy.SCHEMAS, Toy())).project(b"100")
    async with running(database, judge):
        await announced(pool, "a")
    assert judge.calls[0] == judge.calls[1]


@pytest.mark.usefixtures("said")
async def test_time_alone_is_judged_on_every_tick(database: str) -> None:
    judge = Judge()
    async with running(database, judge, tick_seconds=0.2), asyncio.timeout(30):
        while len(judge.calls) < 3:  # noqa: ASYNC110 - another session's doing
            await asyncio.sleep(0.02)
    assert judge.calls[:3] == [[], [], []]


@pytest.mark.usefixtures("said")
async def test_a_deposed_leader_cannot_commit(database: str, pool: Pool) -> None:
    """Two announcers; the leader's session dies inside its judgement while the other takes over."""
    entered, resume = asyncio.Event(), asyncio.Event()

    class Slow(Judge):
        async def __call__(self, connection: Connection, changes: Sequence[Change]) -> None:
            if not self.calls:
                self.calls.append(changes)
                await connection.execute("INSERT INTO announcement (id) VALUES ('zombie')")
                entered.set()
                await resume.wait()
            else:
                await super().__call__(connection, changes)

    await Log(Projector(pool, toy.SCHEMAS, Toy())).project(b"100")
    async with running(database, Slow()):
        await entered.wait()
        async with running(database, Judge()):
            killed = await pool.fetchval(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE application_name = 'toy announcer' AND state = 'idle in transaction'"
            )
            assert killed
            await announced(pool, "a")
            resume.set()
            await asyncio.sleep(0.2)
    assert await said_so_far(pool) == ["a"]
