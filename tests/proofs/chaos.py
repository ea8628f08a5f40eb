"""Feeding a stack while things die on it."""

import asyncio
import os
import random
import signal
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack, suppress
from typing import Self

import psutil
from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError

from tests.proofs.events import Message
from tests.proofs.lab import Arena
from tokenomics_tools.stack import ManagedProcess

PATIENCE_SECONDS = 20
PROJECTED_SECONDS = 60
SLICES = 50
SECONDS_BETWEEN_SLICES = 1.5
EXPECTED_EXITS = frozenset({-signal.SIGKILL, 69})
"""Killed, or the broker or database was gone when it started."""


class Feeder:
    """Writes messages and never gives up; what is sent twice for that is a duplicate like any other."""

    def __init__(self, bootstrap: str) -> None:
        self._bootstrap = bootstrap
        self._producer: AIOKafkaProducer | None = None
        self.ends: dict[tuple[str, int], int] = {}
        """Next offset after what was acknowledged, by topic-partition."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._let_go()

    async def send(self, messages: Sequence[Message]) -> None:
        """Return when every message is acknowledged by the broker."""
        pending: Sequence[Message] = messages
        while pending:
            pending = await self._send(pending)

    async def _let_go(self) -> None:
        if self._producer is not None:
            with suppress(KafkaError, TimeoutError):
                await asyncio.wait_for(self._producer.stop(), 5)
            self._producer = None

    async def _send(self, messages: Sequence[Message]) -> Sequence[Message]:
        """Try once; return what was not acknowledged."""
        try:
            if self._producer is None:
                self._producer = AIOKafkaProducer(
                    bootstrap_servers=self._bootstrap,
                    acks="all",
                    linger_ms=5,
                    max_batch_size=256 * 1024,
                    request_timeout_ms=5_000,
                )
                await self._producer.start()
            futures = [
                await self._producer.send(
                    each.topic, key=each.key, value=each.value, headers=list(each.headers)
                )
                for each in messages
            ]
            results = await asyncio.gather(*futures, return_exceptions=True)
        except (KafkaError, OSError):
            await self._let_go()
            await asyncio.sleep(0.5)
            return messages
        failed = []
        for message, result in zip(messages, results, strict=True):
            if isinstance(result, BaseException):
                failed.append(message)
            else:
                place = (result.topic, result.partition)
                self.ends[place] = max(self.ends.get(place, 0), result.offset + 1)
        if failed:
            await self._let_go()
            await asyncio.sleep(0.5)
        return failed


def _alike(_number: int) -> Mapping[str, str]:
    return {}


class Fleet:
    """Quota processes of one command; whoever dies is started again."""

    def __init__(
        self,
        arena: Arena,
        command: str,
        size: int,
        variables: Callable[[int], Mapping[str, str]] = _alike,
        *,
        expected_exits: frozenset[int] = EXPECTED_EXITS,
    ) -> None:
        self.arena, self.command, self.size = arena, command, size
        self._expected_exits = expected_exits
        self.ends = 0
        """How often one ended while it was kept, for whatever reason."""
        self.unexpected: list[str] = []
        """Ends that were not our doing, with the last lines of the log."""
        self._variables = variables
        self._asked: set[ManagedProcess] = set()
        self._processes: list[ManagedProcess] = []
        self.always_armed: str | None = None
        """A failpoint, with its probability, that every process started from now on dies at."""
        self._armed: set[ManagedProcess] = set()
        self._keeper: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        self._processes = [self._spawn(number) for number in range(self.size)]
        self._keeper = asyncio.create_task(self._keep())
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._let_die()
        for process in self._processes:
            await asyncio.to_thread(process.kill)

    def kill_one(self, rng: random.Random) -> None:
        """SIGKILL a process, whatever it is doing."""
        os.kill(self._processes[self._running(rng)].pid, signal.SIGKILL)

    async def kill_one_soon(self, rng: random.Random) -> None:
        """SIGKILL a process, as soon as one runs again."""
        while not any(process.running for process in self._processes):  # noqa: ASYNC110 - the keeper's work
            await asyncio.sleep(0.05)
        self.kill_one(rng)

    async def terminate_one_soon(self, rng: random.Random) -> None:
        """Ask a process to end, as soon as one runs that was not asked before: twice means at once."""
        while not (left := self._unasked()):  # noqa: ASYNC110 - the keeper's work
            await asyncio.sleep(0.05)
        process = rng.choice(left)
        self._asked.add(process)
        process.terminate()

    def resident_bytes(self) -> Iterable[int]:
        """Return the memory of each process that runs."""
        for process in self._processes:
            with suppress(psutil.NoSuchProcess):
                yield psutil.Process(process.pid).memory_info().rss

    async def pause_one(self, rng: random.Random, seconds: float) -> None:
        """SIGSTOP a process, and let it go on later as if nothing had happened."""
        process = self._processes[self._running(rng)]
        process.pause()
        await asyncio.sleep(seconds)
        process.resume()

    def arm(self, failpoint: str, probability: float) -> None:
        """Replace every process by one that dies at a failpoint, as soon as it has work that leads there."""
        for number, process in enumerate(self._processes):
            process.kill()
            self._replace(number, TOKENOMICS_FAILPOINTS=f"{failpoint}={probability}")
            self._armed.add(self._processes[number])

    async def stop(self) -> None:
        """Ask all to end in order; who does not end well is unexpected."""
        await self._let_die()
        for process in self._processes:
            process.terminate()
        for process in self._processes:
            # A process that has just begun dies of SIGTERM before it knows better, one that is still armed
            # at its failpoint.
            expected = {0, -signal.SIGTERM, *([-signal.SIGKILL] if process in self._armed else ())}
            if (code := await asyncio.to_thread(process.wait, 40)) not in expected:
                self.unexpected.append(f"{process.name} ended with {code} on SIGTERM{process.quote_log()}")

    def _unasked(self) -> list[ManagedProcess]:
        return [each for each in self._processes if each.running and each not in self._asked]

    def _running(self, rng: random.Random) -> int:
        return rng.choice([number for number, process in enumerate(self._processes) if process.running])

    def _spawn(self, number: int, **variables: str) -> ManagedProcess:
        if self.always_armed is not None:
            variables = {"TOKENOMICS_FAILPOINTS": self.always_armed, **variables}
        variables = {**self._variables(number), **variables}
        return self.arena.spawn(f"{self.command}-{number}", self.command, **variables)

    def _replace(self, number: int, **variables: str) -> None:
        ended = self._processes[number]
        # A process that has just begun dies of SIGTERM before it knows better.
        when_asked = {0, -signal.SIGTERM} if ended in self._asked else set()
        if ended.returncode not in self._expected_exits | when_asked:
            self.unexpected.append(f"{ended.name} ended with {ended.returncode}{ended.quote_log()}")
        self._processes[number] = self._spawn(number, **variables)

    async def _let_die(self) -> None:
        if self._keeper is not None:
            self._keeper.cancel()
            with suppress(asyncio.CancelledError):
                await self._keeper
            self._keeper = None

    async def _keep(self) -> None:
        while True:
            for number, process in enumerate(self._processes):
                if not process.running:
                    self.ends += 1
                    self._replace(number)
            await asyncio.sleep(0.1)


async def project_killed(arena: Arena, feeder: Feeder, messages: Sequence[Message]) -> None:
    """Send and project; the projector is killed meanwhile, and at the end."""
    half = len(messages) // 2
    projector = arena.spawn("project", "project")
    await feeder.send(messages[:half])
    await asyncio.to_thread(projector.kill)
    projector = arena.spawn("project", "project")
    await feeder.send(messages[half:])
    await arena.projected(feeder.ends, within_seconds=PROJECTED_SECONDS)
    await asyncio.to_thread(projector.kill)


async def staffed(
    resources: AsyncExitStack,
    arena: Arena,
    addresses: Sequence[str],
    *,
    projectors: int = 1,
    relays: int = 1,
) -> list[Fleet]:
    """Run everything a service consists of until the resources are given back; the servers are the last."""
    return [
        await resources.enter_async_context(fleet)
        for fleet in (
            Fleet(arena, "relay", relays),
            Fleet(arena, "project", projectors),
            Fleet(arena, "serve", len(addresses), lambda n: {"TOKENOMICS_GRPC_LISTEN": addresses[n]}),
        )
    ]


class Chaos:
    """Sends messages and lets a fault strike at a random moment of their projection."""

    def __init__(self, arena: Arena, feeder: Feeder, rng: random.Random, *, pause_seconds: float) -> None:
        self._arena, self._feeder, self._rng = arena, feeder, rng
        self._pause_seconds = pause_seconds

    async def sigkill(self, fleet: Fleet, messages: Sequence[Message]) -> None:
        """SIGKILL one of the fleet's processes."""
        sending = await self._under_way(messages)
        fleet.kill_one(self._rng)
        await sending

    async def kill_broker(self, messages: Sequence[Message]) -> None:
        """Kill the broker and start it again."""
        sending = await self._under_way(messages)
        kafka = self._arena.stack.kafka
        await asyncio.to_thread(kafka.kill)
        await asyncio.sleep(self._rng.random())
        await asyncio.to_thread(kafka.start)
        await sending

    async def stop_database(self, messages: Sequence[Message]) -> None:
        """Stop PostgreSQL at once, without a checkpoint, and start it again."""
        sending = await self._under_way(messages)
        postgres = self._arena.stack.postgres
        await asyncio.to_thread(postgres.stop, immediate=True)
        await asyncio.sleep(self._rng.random())
        await asyncio.to_thread(postgres.start)
        await sending

    async def pause(self, fleet: Fleet, messages: Sequence[Message]) -> None:
        """Pause a process past its session timeout; it wakes up believing it still owns its partitions."""
        sending = await self._under_way(messages)
        await fleet.pause_one(self._rng, self._pause_seconds)
        await sending

    async def hit(
        self, failpoint: str, fleet: Fleet, messages: Sequence[Message], *, probability: float = 0.5
    ) -> None:
        """Send little by little until a process has died at the failpoint, then the rest."""
        before = self._arena.failpoint_hits()[failpoint]
        fleet.arm(failpoint, probability)
        for number in range(SLICES):
            await self._feeder.send(messages[number::SLICES])
            if self._arena.failpoint_hits()[failpoint] == before:
                await asyncio.sleep(SECONDS_BETWEEN_SLICES)

    async def _under_way(self, messages: Sequence[Message]) -> asyncio.Task[None]:
        """Begin to send, and return when a random part is projected; or after a while, at rest."""
        until = sum((await self._arena.positions()).values()) + self._rng.randint(1, len(messages))
        sending = asyncio.create_task(self._feeder.send(messages))
        with suppress(TimeoutError):
            async with asyncio.timeout(PATIENCE_SECONDS):
                while sum((await self._arena.positions()).values()) < until:  # noqa: ASYNC110 - another process's work
                    await asyncio.sleep(0.02)
        return sending
