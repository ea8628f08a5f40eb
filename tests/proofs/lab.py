"""Where proofs take place: a stack, a quota database on it, and questions to both."""

import asyncio
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar

import asyncpg
from aiokafka import AIOKafkaConsumer, TopicPartition

from tests.proofs.recompute import APPROVALS, DIRECTORY, NOMINATIONS, POLICY, USAGE, RawRecord, read_topics
from tokenomics_tools.stack import ManagedProcess, Source, Stack, start_stack

INPUTS = (USAGE, DIRECTORY, POLICY, APPROVALS, NOMINATIONS)
REPOSITORY = Path(__file__).parents[2]
SCHEMAS = "quota_v1, quota"
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Verdict:
    """What came of a proof: figures to print, and what was wrong."""

    figures: Mapping[str, int]
    failures: Sequence[str]

    @property
    def ok(self) -> bool:
        """Whether nothing was wrong."""
        return not self.failures


@dataclass
class Lab:
    """What all proofs of one run share.

    Attributes
    ----------
    scale
        1 for full size.
    anchor
        The one moment from which all times in histories are reckoned.
    variant
        Name of a change of `tests.proofs.variant` to run the product with; None for the product as it is.
    """

    seed: int
    scale: float
    anchor: datetime
    resources: AsyncExitStack
    variant: str | None = None
    shared: dict[str, Any] = field(default_factory=dict)
    begun: float = field(default_factory=time.monotonic)

    def note(self, text: str) -> None:
        """Tell on standard error what is going on: some proofs take minutes."""
        sys.stderr.write(f"    {time.monotonic() - self.begun:6.1f} s  {text}\n")
        sys.stderr.flush()

    async def once(self, name: str, make: Callable[[], Awaitable[T]]) -> T:
        """Make something on first use that later proofs use again."""
        if name not in self.shared:
            self.shared[name] = await make()
        made: T = self.shared[name]
        return made


Prove = Callable[[Lab], Awaitable[Verdict]]


class Arena:
    """One stack with one quota database.

    All waiting is on what the database and the topics say, never on a guess of how long something takes.
    """

    def __init__(self, stack: Stack, database_url: str, variant: str | None) -> None:
        self.stack = stack
        self.database_url = database_url
        self.failpoint_log = stack.folder / "logs" / "failpoints.log"
        self.group = database_url.rpartition("/")[2]
        """What the names of this database's consumer groups begin with."""
        self._variant = variant
        self._connection: asyncpg.Connection[Any] | None = None

    @classmethod
    @asynccontextmanager
    async def open(
        cls,
        variant: str | None = None,
        source: Source | None = None,
        *,
        small_disks: Mapping[str, int] | None = None,
    ) -> AsyncIterator["Arena"]:
        """Start a stack, make topics and an empty database."""
        with start_stack(source, small_disks=small_disks) as stack:
            arena = cls(stack, stack.new_database("quota"), variant)
            await arena.migrate()
            yield arena

    async def migrate(self) -> None:
        """Bring the database to the current schema and create the topics."""
        migration = self.spawn("migrate", "migrate")
        if code := await asyncio.to_thread(migration.wait, 60):
            raise RuntimeError(f"migrate ended with {code}{migration.quote_log()}")

    def on_another_database(self) -> "Arena":
        """Return an arena on the same stack with an empty database of its own."""
        return Arena(self.stack, self.stack.new_database("quota"), self._variant)

    def as_variant(self, variant: str) -> "Arena":
        """Return an arena on the same database whose processes run with a change."""
        return Arena(self.stack, self.database_url, variant)

    def spawn(self, name: str, command: str, **variables: str) -> ManagedProcess:
        """Start `python -m tokenomics_quota <command>`, with the change if there is one."""
        module = ["tokenomics_quota"] if self._variant is None else ["tests.proofs.variant", self._variant]
        environment = self.stack.service_environment(self.database_url, group=self.group)
        return self.stack.spawn(
            name,
            [sys.executable, "-m", *module, command],
            {**environment, "TOKENOMICS_FAILPOINTS_LOG": str(self.failpoint_log), **variables},
            cwd=REPOSITORY,
        )

    async def fetch(self, query: str, *arguments: object) -> list[asyncpg.Record]:
        """Ask the database, however long it takes until it answers."""
        while True:
            try:
                if self._connection is None or self._connection.is_closed():
                    self._connection = await asyncpg.connect(
                        self.database_url, server_settings={"search_path": SCHEMAS}, timeout=5
                    )
                return await self._connection.fetch(query, *arguments, timeout=60)
            except (OSError, TimeoutError, asyncpg.PostgresConnectionError, asyncpg.CannotConnectNowError):
                await asyncio.sleep(0.2)
            except asyncpg.InterfaceError:
                self._connection = None

    async def positions(self, version: int = 1) -> dict[tuple[str, int], int]:
        """Return the next offset of each topic-partition that a version of the derived state knows."""
        rows = await self.fetch(f"SELECT topic, partition, next_offset FROM quota_v{version}.position")  # noqa: S608 - a number
        return {(row["topic"], row["partition"]): row["next_offset"] for row in rows}

    async def committed(self, places: Iterable[tuple[str, int]]) -> dict[tuple[str, int], int]:
        """Return the offset that Kafka holds for each topic-partition."""
        consumer = AIOKafkaConsumer(bootstrap_servers=self.stack.kafka.bootstrap, group_id=f"{self.group}_v1")
        await consumer.start()
        try:
            return {place: await consumer.committed(TopicPartition(*place)) or 0 for place in places}
        finally:
            await consumer.stop()

    async def committed_beyond_positions(self) -> list[str]:
        """Return the partitions whose offset in Kafka runs ahead of the position in the database."""
        positions = await self.positions()
        return [
            f"{place}: Kafka holds offset {offset}, the database position {positions[place]}"
            for place, offset in (await self.committed(positions)).items()
            if offset > positions[place]
        ]

    async def projected(
        self, ends: Mapping[tuple[str, int], int], *, within_seconds: float, version: int = 1
    ) -> None:
        """Wait until the positions have reached these ends.

        Raises
        ------
        TimeoutError
            Saying what is missing.
        """
        missing: dict[tuple[str, int], int] = {}
        try:
            async with asyncio.timeout(within_seconds):
                while True:
                    positions = await self.positions(version)
                    missing = {
                        place: end - positions.get(place, 0)
                        for place, end in ends.items()
                        if positions.get(place, 0) < end
                    }
                    if not missing:
                        return
                    await asyncio.sleep(0.1)
        except TimeoutError:
            raise TimeoutError(f"not projected after {within_seconds:g} s: {missing}") from None

    async def sent(self, *, within_seconds: float) -> None:
        """Wait until the outbox is empty."""
        async with asyncio.timeout(within_seconds):
            while (await self.fetch("SELECT count(*) FROM outbox"))[0][0]:  # noqa: ASYNC110 - the relay's work
                await asyncio.sleep(0.1)

    async def read(self, *topics: str) -> list[RawRecord]:
        """Read topics raw, to their present ends."""
        return await read_topics(self.stack.kafka.bootstrap, topics)

    def failpoint_hits(self) -> Counter[str]:
        """Count how often each failpoint killed a process."""
        return Counter(self.failpoint_log.read_text().split() if self.failpoint_log.exists() else ())
