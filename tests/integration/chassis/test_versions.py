"""Versions of the derived state: filled beside what serves, promoted, rolled back, retired and verified."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import NamedTuple
from uuid import uuid4

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition

from tests.integration.chassis.harness import consuming, send, until
from tests.support import toy_projection as toy
from tokenomics_chassis.clock import SystemClock
from tokenomics_chassis.consumer import ProjectionConsumer
from tokenomics_chassis.migrations import Migrations, MigrationSource
from tokenomics_chassis.postgres import Pool, Schemas, create_pool, session
from tokenomics_chassis.process import FatalError
from tokenomics_chassis.projector import FrozenError, Projector
from tokenomics_chassis.rebuilds import NoSuchRebuildError, NotReachedError, RebuildRefusedError, Rebuilds
from tokenomics_chassis.records import Record
from tokenomics_chassis.replay import Replay
from tokenomics_chassis.serving import LoadedVersions, Serving
from tokenomics_chassis.state_hash import state_hash
from tokenomics_chassis.verification import Verdict, Verification, Verifications
from tokenomics_chassis.versions import (
    FED,
    EachVersion,
    VersionState,
    VersionWork,
    Why,
    active_version,
    hold_active,
    list_versions,
)
from tokenomics_tools.stack import Stack

WHY = Why("reader_mended", "OPS-1", "operator", "console")
TOPICS = frozenset({toy.AMOUNTS, toy.STEPS, toy.OWN})
pytestmark = pytest.mark.usefixtures("topics")


def schemas(version: int | None) -> Schemas:
    return Schemas("toy", version)


def migrations(of: Schemas) -> Migrations:
    return Migrations(of, [MigrationSource("tests.support", "toy_migrations")])


def projector(pool: Pool, of: Schemas, projection: toy.Toy | None = None) -> Projector:
    return Projector(pool, of, projection or toy.Toy(), skips=toy.skips(), max_parked_in_a_row=20)


class Service(NamedTuple):
    stack: Stack
    url: str
    pool: Pool
    group: str
    rebuilds: Rebuilds
    verifications: Verifications

    def consumer(self, pool: Pool, version: int) -> ProjectionConsumer:
        return ProjectionConsumer(
            self.stack.kafka.bootstrap,
            f"{self.group}_v{version}",
            projector(pool, schemas(version)),
            SystemClock(),
            read_first=(frozenset({toy.OWN}),),
        )

    def feed(self, version: int) -> VersionWork:
        async def work(stopping: asyncio.Event) -> None:
            async with await create_pool(self.url, schemas(version), application_name="feed") as pool:
                await self.consumer(pool, version).run(stopping)

        async def ready() -> None:
            return None

        return VersionWork(work, ready)

    def replay(self, projection: toy.Toy | None = None) -> Replay:
        async def mend(_pool: Pool, _schemas: Schemas) -> None:
            return None

        return Replay(
            self.url,
            "toy",
            self.stack.kafka.bootstrap,
            migrations=migrations,
            projector=lambda pool, of: projector(pool, of, projection),
            read_first=(frozenset({toy.OWN}),),
            group=lambda version: f"{self.group}_v{version}",
            mend=mend,
            hashed_part=toy.hashed_part,
        )

    async def hash(self, version: int) -> str:
        async with session(self.url, schemas(version), application_name="test") as connection:
            return await state_hash(connection, f"toy_v{version}", toy.HASHED, toy.NOT_HASHED)

    async def in_state(self, version: int, state: VersionState) -> None:
        async with asyncio.timeout(60):
            while (found := await self.state(version)) is not state:
                assert found is not VersionState.FAILED
                await asyncio.sleep(0.05)

    async def state(self, version: int) -> VersionState:
        return next(each.state for each in await list_versions(self.pool) if each.version == version)

    async def total(self, version: int) -> int | None:
        found: int | None = await self.pool.fetchval(f"SELECT sum(total)::int FROM toy_v{version}.tally")  # noqa: S608 - a number
        return found


def amount_at(offset: int) -> Record:
    return Record(toy.AMOUNTS, 0, offset, 1_000 + offset, b"a", b"1", ())


async def tell(server: LoadedVersions) -> None:
    """Let a server say once what it holds, and go on living."""
    running = asyncio.create_task(server.run(asyncio.Event()))
    await asyncio.sleep(0.5)
    running.cancel()


async def verdict(service: Service, verify_id: str) -> Verification:
    async with asyncio.timeout(60):
        while (found := await service.verifications.get(verify_id)).verdict is Verdict.RUNNING:  # noqa: ASYNC110 - another process's doing
            await asyncio.sleep(0.05)
        return found


@contextlib.asynccontextmanager
async def running(*tasks: "Replay | EachVersion") -> AsyncIterator[None]:
    stopping = asyncio.Event()
    started = [asyncio.create_task(task.run(stopping)) for task in tasks]
    try:
        yield
    finally:
        stopping.set()
        await asyncio.gather(*started)


@pytest.fixture
async def service(stack: Stack, database: str, group: str) -> AsyncIterator[Service]:
    async with await create_pool(database, schemas(None), application_name="test") as pool:
        async with pool.acquire() as connection:
            await toy.TRAIL.open(connection)
        yield Service(
            stack,
            database,
            pool,
            group,
            Rebuilds(pool, database, "toy", stack.kafka.bootstrap, TOPICS, trail=toy.TRAIL),
            Verifications(pool, "toy", toy.hashed_part, toy.TRAIL),
        )


async def test_a_version_is_filled_promoted_rolled_back_and_retired(
    service: Service, producer: AIOKafkaProducer
) -> None:
    await send(producer, *[b"1"] * 300)
    await send(producer, *[b"1"] * 200, partition=1)
    feeds = EachVersion(service.pool, FED, service.feed)
    async with running(service.replay(), feeds):
        await until(lambda: service.total(1), 500)
        started = await service.rebuilds.start("second", WHY)
        assert (started.version.version, started.version.state) == (2, VersionState.CATCHING_UP)
        assert (await service.rebuilds.start("second", WHY)).version.version == 2
        await service.in_state(2, VersionState.CAUGHT_UP)
        assert await service.hash(2) == await service.hash(1)

        await send(producer, *[b"1"] * 50)
        await until(lambda: service.total(2), 550)
        promoted = await service.rebuilds.promote("second", WHY)
        assert promoted.version.state is VersionState.ACTIVE
        assert (await service.rebuilds.promote("second", WHY)).version == promoted.version
        assert await service.state(1) is VersionState.STANDBY

        await send(producer, *[b"1"] * 50)
        await until(lambda: service.total(1), 600)  # it was frozen for a moment only
        back = await service.rebuilds.roll_back("second", WHY)
        assert back.version.version == 1
        assert await active_version(service.pool) == 1

        with pytest.raises(RebuildRefusedError, match="serves"):
            await service.rebuilds.retire("initial", WHY)
        retired = await service.rebuilds.retire("second", WHY)
        assert retired.version.state is VersionState.RETIRED
        await send(producer, *[b"1"] * 50)
        await until(lambda: service.total(1), 650)
    assert not await service.pool.fetchval("SELECT to_regnamespace('toy_v2') IS NOT NULL")
    changes = await service.pool.fetch("SELECT version, to_state, asked_by FROM version_change ORDER BY id")
    assert [tuple(row) for row in changes] == [
        (1, "standby", "operator"),
        (2, "active", "operator"),
        (2, "standby", "operator"),
        (1, "active", "operator"),
        (2, "retired", "operator"),
    ]
    recorded = await toy.TRAIL.entries(service.pool, oldest_first=True, limit=10)
    assert [(each.action, each.target, each.details) for each in recorded] == [
        ("rebuild.started", "second", {}),
        ("rebuild.promoted", "second", {"version": "2", "instead_of": "1"}),
        ("rebuild.rolled_back", "initial", {"version": "1", "instead_of": "2"}),
        ("rebuild.retired", "second", {}),
    ]
    assert {(each.actor, each.caller, each.ticket_id) for each in recorded} == {
        ("operator", "console", "OPS-1")
    }


async def test_a_rebuild_that_is_killed_goes_on_where_it_was(
    service: Service, producer: AIOKafkaProducer, monkeypatch: pytest.MonkeyPatch
) -> None:
    await send(producer, *[b"1"] * 3_000)
    await service.rebuilds.start("second", WHY)
    process, batches = Projector.process, 0

    async def breaks_down(self: Projector, *arguments: object, **named: object) -> int:
        nonlocal batches
        batches += 1
        if batches == 2:
            raise ConnectionError("the network is gone")
        return await process(self, *arguments, **named)  # type: ignore[arg-type] # passed on as they came

    monkeypatch.setattr(Projector, "process", breaks_down)
    async with running(service.replay()):
        await service.in_state(2, VersionState.CAUGHT_UP)
    assert await service.total(2) == 3_000


async def test_the_group_that_will_feed_a_version_begins_where_the_rebuild_ended(
    service: Service, producer: AIOKafkaProducer
) -> None:
    await send(producer, *[b"1"] * 30)
    await service.rebuilds.start("second", WHY)
    async with running(service.replay()):
        await service.in_state(2, VersionState.CAUGHT_UP)
    async with AIOKafkaConsumer(
        bootstrap_servers=service.stack.kafka.bootstrap, group_id=f"{service.group}_v2"
    ) as consumer:
        assert await consumer.committed(TopicPartition(toy.AMOUNTS, 0)) == 30


async def test_nothing_is_promoted_that_is_not_caught_up_or_not_loaded(service: Service) -> None:
    with pytest.raises(NoSuchRebuildError):
        await service.rebuilds.promote("second", WHY)
    await service.rebuilds.start("second", WHY)
    with pytest.raises(RebuildRefusedError, match="catching up"):
        await service.rebuilds.promote("second", WHY)
    with pytest.raises(RebuildRefusedError, match="another version"):
        await service.rebuilds.start("third", WHY)
    async with running(service.replay()):
        await service.in_state(2, VersionState.CAUGHT_UP)

    view, serving = View({}), Serving[View]()
    serving.put(1, view, 1)
    server = LoadedVersions(service.pool, uuid4(), serving)
    await tell(server)
    with pytest.raises(RebuildRefusedError, match="1 of 1 live servers"):
        await service.rebuilds.promote("second", WHY)
    serving.put(2, View({}), 1)
    await tell(server)
    assert (await service.rebuilds.promote("second", WHY)).version.state is VersionState.ACTIVE


async def test_a_promotion_that_is_not_reached_changes_nothing(
    service: Service, producer: AIOKafkaProducer, pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    await service.rebuilds.start("second", WHY)
    async with running(service.replay()):
        await service.in_state(2, VersionState.CAUGHT_UP)
    monkeypatch.setattr("tokenomics_chassis.rebuilds.FREEZE_SECONDS", 3)
    async with consuming(service.consumer(pool, 1)):
        await send(producer, *[b"1"] * 10)
        await until(lambda: service.total(1), 10)
        with pytest.raises(NotReachedError, match="10 records behind"):  # nobody feeds it
            await service.rebuilds.promote("second", WHY)
        await send(producer, *[b"1"] * 10)
        await until(lambda: service.total(1), 20)
    assert await active_version(service.pool) == 1


async def test_nothing_is_projected_into_a_frozen_version_and_the_freeze_runs_out(pool: Pool) -> None:
    frozen = projector(pool, schemas(1))
    record = amount_at(0)
    await frozen.process(toy.AMOUNTS, 0, [record])
    await pool.execute("UPDATE position SET frozen_until = clock_timestamp() + interval '1 second'")
    with pytest.raises(FrozenError):
        await frozen.process(toy.AMOUNTS, 0, [amount_at(1)])
    await frozen.pass_over(toy.AMOUNTS, 0, nothing_since=1, until=5)
    assert (await frozen.positions())[toy.AMOUNTS, 0] == 1
    await asyncio.sleep(1.1)
    assert await frozen.process(toy.AMOUNTS, 0, [amount_at(1)]) == 2


async def test_a_version_that_serves_can_be_held_and_another_cannot(service: Service) -> None:
    async with service.pool.acquire() as connection, connection.transaction():
        assert await hold_active(connection, 1)
        assert not await hold_active(connection, 2)


async def test_what_fails_beside_the_version_that_serves_costs_only_itself(service: Service) -> None:
    await service.rebuilds.start("second", WHY)
    async with running(service.replay()):
        await service.in_state(2, VersionState.CAUGHT_UP)
    begun: list[int] = []

    def begin(version: int) -> VersionWork:
        async def work(stopping: asyncio.Event) -> None:
            begun.append(version)
            if version == 2:
                raise FatalError("its schema is another")
            await stopping.wait()

        async def ready() -> None:
            return None

        return VersionWork(work, ready)

    each = EachVersion(service.pool, FED, begin)
    async with running(each):
        await service.in_state(2, VersionState.FAILED)
        assert await each.not_ready_because() is None
    assert begun == [1, 2]
    assert (await service.rebuilds.get("second")).version.error_message == "FatalError: its schema is another"
    assert (await service.rebuilds.start("third", WHY)).version.version == 3


async def test_what_fails_for_the_version_that_serves_ends_the_process(service: Service) -> None:
    def begin(_version: int) -> VersionWork:
        async def work(_stopping: asyncio.Event) -> None:
            raise FatalError("its schema is another")

        async def ready() -> None:
            return None

        return VersionWork(work, ready)

    with pytest.raises(FatalError, match="another"):
        await EachVersion(service.pool, FED, begin).run(asyncio.Event())


async def test_a_projection_that_cannot_be_filled_is_marked_and_its_neighbour_goes_on(
    service: Service, producer: AIOKafkaProducer
) -> None:
    await send(producer, *[None] * 25)
    await service.rebuilds.start("second", WHY)
    async with running(service.replay()):
        await service.in_state(2, VersionState.FAILED)
    message = (await service.rebuilds.get("second")).version.error_message
    assert message is not None
    assert message.startswith("TooManyParkedError: 20 records in a row")


async def test_a_verification_finds_equal_what_is_equal_and_names_the_table_that_is_not(
    service: Service, producer: AIOKafkaProducer, pool: Pool
) -> None:
    await send(producer, *[b"1"] * 100)
    async with consuming(service.consumer(pool, 1)), running(service.replay()):
        await until(lambda: service.total(1), 100)
        await service.verifications.start("first", "", WHY)
        found = await verdict(service, "first")
        assert (found.verdict, found.applied_records, found.total_records) == (Verdict.EQUAL, 100, 100)

        await pool.execute("UPDATE tally SET total = total + 1")
        await service.verifications.start("again", "", WHY)
        found = await verdict(service, "again")
        assert (found.verdict, found.different_tables) == (Verdict.DIFFERENT, ["tally"])
        await service.verifications.start("of-another", "z", WHY)
        assert (await verdict(service, "of-another")).verdict is Verdict.EQUAL
        await service.verifications.start("of-one", "a", WHY)
        assert (await verdict(service, "of-one")).verdict is Verdict.DIFFERENT
        with pytest.raises(ValueError, match="name"):
            await service.verifications.start("bad", "1", WHY)
    assert [each.version.version for each in await service.rebuilds.list(include_retired=True)] == [1]
    leftover = await service.pool.fetch(
        "SELECT nspname FROM pg_namespace WHERE nspname LIKE 'toy!_v%' ESCAPE '!'"
    )
    assert [row[0] for row in leftover] == ["toy_v1"]


class View:
    """As much of a view as serving knows."""

    refreshed_at = None

    def __init__(self, next_offsets: dict[str, int]) -> None:
        self.next_offsets = next_offsets


def test_answers_never_go_back_when_another_version_is_promoted() -> None:
    serving, old, new = Serving[View](), View({"t/0": 10, "t/1": 5}), View({"t/0": 9, "t/1": 50})
    serving.put(2, new, 1)
    assert serving.loaded == [2]
    serving.put(1, old, 1)
    assert serving.current is old
    assert not serving.may_move(1, 2)
    assert serving.may_move(2, 2)
    serving.put(2, new, 2)
    assert serving.current is old
    new.next_offsets["t/0"] = 10
    serving.put(2, new, 2)
    assert serving.version == 2
    assert serving.may_move(1, 2)
    serving.put(1, old, 2)
    assert serving.current is new
    assert serving.loaded == [1, 2]


def test_a_view_whose_version_is_gone_answers_until_another_is_at_hand() -> None:
    serving, gone, left = Serving[View](), View({"t/0": 10}), View({"t/0": 3})
    serving.put(2, gone, 2)
    serving.drop(2)
    assert serving.current is gone
    serving.put(1, left, 1)
    assert serving.current is left
