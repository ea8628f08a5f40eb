"""Database and broker are slow, then full: bounded memory, nothing lost, and nobody has to help."""

import asyncio
import random
import re
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from itertools import count
from time import monotonic

import asyncpg

from tests.proofs.announced import exactly_what_was_reached, settle
from tests.proofs.chaos import Feeder, Fleet
from tests.proofs.checks import Checks
from tests.proofs.compare import compare
from tests.proofs.events import Message
from tests.proofs.lab import INPUTS, Arena, Lab, Verdict
from tests.proofs.recompute import QUOTA
from tests.proofs.scene import Scene
from tokenomics_tools.stack import Component, Source
from tokenomics_tools.stack.probes import execute
from tokenomics_tools.stack.processes import free_port

MIB = 1024 * 1024
DISKS = {"postgres": 512 * MIB, "kafka": 1536 * MIB}
LEFT_BYTES = MIB // 4
"""So much is left for the load to use up when a disk is filled."""

PROJECTORS, RELAYS, SERVERS = 1, 2, 1
"""One projector, so that all that waits for the database is its own."""

MEMORY_BOUND_BYTES = 400 * MIB
"""Resident memory that none of our processes may exceed."""

LARGE_BYTES = 180_000
"""Payload of a large event, which the contract allows: a backlog is to be counted in bytes, too."""
LARGE_EVENTS = 2_500
"""More of them than fit the bound, whatever the scale."""

CYCLE_SECONDS, STOPPED_SHARE = 10.0, 0.95
"""A slow server: stopped for so much of each cycle, so that it does a twentieth of its work."""

SAMPLE_SECONDS = 0.2
WALL_SECONDS = 90
"""Within so long the load must meet the end of the disk."""
CATCH_UP_SECONDS = 240

PIECE = 200
NO_SPACE = "No space left on device"
OURS = [f"{command}-{number}" for command in ("relay", "project", "serve") for number in range(2)]
TROUBLE = "trying again: "
"""What our processes say when they wait for a server, and then why."""


@dataclass(frozen=True, slots=True)
class Ordeal:
    """How much is sent, and for how long servers are slow or full."""

    events: int
    """Small ones, in each of the five parts."""
    seconds: float
    """For which a server is slow, or stays full after it was found to be."""

    @classmethod
    def scaled(cls, scale: float) -> "Ordeal":
        """Return the full one for scale 1."""
        return cls(max(2_000, round(20_000 * scale)), max(5, 30 * scale))


async def prove(lab: Lab) -> Verdict:
    """Prove it for both servers."""
    return await endure(lab, Ordeal.scaled(lab.scale))


async def endure(lab: Lab, ordeal: Ordeal) -> Verdict:
    """Slow down and fill one server after the other, then hold the state against the recomputation."""
    rng = random.Random(lab.seed)
    scene = Scene(rng, lab.anchor, 5 * ordeal.events + LARGE_EVENTS)
    address = f"127.0.0.1:{free_port()}"
    async with AsyncExitStack() as resources:
        arena = await resources.enter_async_context(
            Arena.open(lab.variant, source=Source.EMBEDDED, small_disks=DISKS)
        )
        feeder = await resources.enter_async_context(Feeder(arena.stack.kafka.bootstrap))
        await feeder.send([draft.binary() for draft in scene.founding()])
        fleets = [
            await resources.enter_async_context(fleet)
            for fleet in (
                Fleet(arena, "relay", RELAYS),
                Fleet(arena, "project", PROJECTORS),
                Fleet(arena, "serve", SERVERS, lambda _: {"TOKENOMICS_GRPC_LISTEN": address}),
            )
        ]
        memory = await resources.enter_async_context(sampling(fleets))
        checks = await resources.enter_async_context(Checks(arena.stack.issuer, [address], scene.people, rng))
        await checks.level(feeder.ends, within_seconds=CATCH_UP_SECONDS)
        checks.outcomes.clear()
        hardship = Hardship(lab, arena, feeder, checks, ordeal.seconds)
        load = _load(scene, ordeal.events)
        await hardship.slow("postgres", next(load))
        await hardship.slow("kafka", next(load))
        await hardship.full("postgres", next(load), "ERROR:")
        await hardship.full("postgres", next(load), "PANIC:", exhaust=hardship.exhaust_log)
        await hardship.full("kafka", next(load), "ERROR")
        stage = await settle(arena, feeder, lab.anchor)
        failures = [*hardship.failures, *checks.wrong[:3], *stage.said.failures]
        failures += exactly_what_was_reached(stage, lab.anchor)
        figures, differing = await compare(arena, stage.truth, await arena.read(*INPUTS, QUOTA))
        failures += [*differing, *await arena.committed_beyond_positions()]
    for fleet in fleets:
        failures += fleet.unexpected
        if fleet.ends:
            failures.append(f"{fleet.command} ended {fleet.ends} times: it did not recover by itself")
    failures += [
        f"{command} took {peak // MIB} MiB, more than {MEMORY_BOUND_BYTES // MIB}"
        for command, peak in memory.items()
        if peak > MEMORY_BOUND_BYTES
    ]
    return Verdict(
        {
            **figures,
            **{f"{command}_peak_mib": peak // MIB for command, peak in memory.items()},
            **hardship.figures,
            "checks": checks.asked,
            **checks.outcomes,
        },
        failures,
    )


def _load(scene: Scene, events: int) -> Iterator[Iterable[Sequence[Message]]]:
    """Return usage for each of the five parts, in pieces; large events wait for a slow database."""
    numbers = count()

    def piece(size: int, **data: object) -> Sequence[Message]:
        return [scene.usage_event(f"u{next(numbers)}", **data).binary() for _ in range(size)]

    def part(large: int) -> Iterable[Sequence[Message]]:
        for at in range(0, events, PIECE):
            yield piece(min(PIECE, events - at))
            if large:
                yield piece(large * PIECE // events, vendor_remark="x" * LARGE_BYTES)

    return (part(large) for large in (LARGE_EVENTS, 0, 0, 0, 0))


def _nothing() -> None:
    """Leave it to the load to bring the end about."""


@asynccontextmanager
async def sampling(fleets: Sequence[Fleet]) -> AsyncIterator[Counter[str]]:
    """Keep the largest resident memory of any process of each fleet."""
    peaks: Counter[str] = Counter()

    async def sample() -> None:
        while True:
            for fleet in fleets:
                peaks[fleet.command] = max(peaks[fleet.command], *fleet.resident_bytes())
            await asyncio.sleep(SAMPLE_SECONDS)

    sampler = asyncio.create_task(sample())
    try:
        yield peaks
    finally:
        sampler.cancel()


class Hardship:
    """What is done to a server while usage keeps coming."""

    def __init__(self, lab: Lab, arena: Arena, feeder: Feeder, checks: Checks, seconds: float) -> None:
        self._lab, self._arena, self._feeder, self._checks = lab, arena, feeder, checks
        self._seconds = seconds
        self.figures: Counter[str] = Counter()
        self.failures: list[str] = []

    async def slow(self, name: str, load: Iterable[Sequence[Message]]) -> None:
        """Let a server work a twentieth of the time until all is sent, and for some seconds at least."""
        self._lab.note(f"slow-and-full: {name} is slow")
        until = monotonic() + max(self._seconds, CYCLE_SECONDS)
        crawling = asyncio.create_task(self._crawl(self._server(name)))
        try:
            await self._send(load)
            await asyncio.sleep(max(0.0, until - monotonic()))
        finally:
            crawling.cancel()
            await asyncio.wait([crawling])
        await self._recovered(f"slow_{name}")

    async def full(
        self,
        name: str,
        load: Iterable[Sequence[Message]],
        severity: str,
        *,
        exhaust: Callable[[], None] = _nothing,
    ) -> None:
        """Leave a server little room, and give it back some seconds after it ran out of it.

        Parameters
        ----------
        severity
            With which the server says so in its log.
        exhaust
            Called time and again until then, to bring the end about.
        """
        server = self._server(name)
        assert server.disk is not None
        what = f"full_{name}_{severity.strip(':').lower()}"
        self._lab.note(f"slow-and-full: {what.replace('_', ' ')}")
        said, told = self._says(name, severity), self._tells()
        server.disk.fill(leaving_bytes=LEFT_BYTES)
        sending = asyncio.create_task(self._send(load))
        until = monotonic() + WALL_SECONDS
        # A client learns of a broker that is gone by waiting for it: some seconds later than the broker.
        while (self._says(name, severity) == said or self._tells() == told) and monotonic() < until:
            await asyncio.to_thread(exhaust)
            await asyncio.sleep(SAMPLE_SECONDS)
        await asyncio.sleep(self._seconds)
        self.figures[f"{what}_said"] = self._says(name, severity) - said
        self.figures[f"{what}_told"] = self._tells() - told
        self.failures += [
            f"{what}: no log {whose} so" for whose in ("said", "told") if not self.figures[f"{what}_{whose}"]
        ]
        server.disk.make_room()
        await asyncio.to_thread(server.start)  # its keeper does that, if it has ended
        await sending
        await self._recovered(what)

    def exhaust_log(self) -> None:
        """Make PostgreSQL begin another file of its write-ahead log: it can't go on without."""
        with suppress(asyncpg.PostgresError, asyncpg.InterfaceError, OSError):
            execute(self._arena.stack.postgres.url, "CHECKPOINT", "SELECT pg_switch_wal()", timeout_seconds=5)

    async def _send(self, load: Iterable[Sequence[Message]]) -> None:
        for piece in load:
            await self._feeder.send(piece)

    async def _crawl(self, server: Component) -> None:
        try:
            while True:
                await asyncio.to_thread(server.pause)
                await asyncio.sleep(CYCLE_SECONDS * STOPPED_SHARE)
                await asyncio.to_thread(server.resume)
                await asyncio.sleep(CYCLE_SECONDS * (1 - STOPPED_SHARE))
        finally:
            server.resume()

    async def _recovered(self, what: str) -> None:
        """Wait until the server's clients have caught up without anybody's help."""
        begun = monotonic()
        await self._arena.projected(self._feeder.ends, within_seconds=CATCH_UP_SECONDS)
        await self._checks.level(self._feeder.ends, within_seconds=CATCH_UP_SECONDS)
        self.figures[f"{what}_recovery_ms"] = round((monotonic() - begun) * 1000)

    def _server(self, name: str) -> Component:
        return self._arena.stack.postgres if name == "postgres" else self._arena.stack.kafka

    def _says(self, name: str, severity: str) -> int:
        """Count the lines in which the server says that its disk is full."""
        return len(re.findall(f"{severity}.*(?:{NO_SPACE}|all log dirs in .* have failed)", self._log(name)))

    def _tells(self) -> int:
        """Count the lines in which our processes tell that they wait."""
        return sum(self._log(each).count(TROUBLE) for each in OURS)

    def _log(self, name: str) -> str:
        path = self._arena.stack.folder / "logs" / f"{name}.log"
        return path.read_text(errors="replace") if path.exists() else ""
