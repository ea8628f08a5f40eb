"""Everything is restarted at random under load: the state is right, and nobody is told anything wrong."""

import asyncio
import random
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from functools import partial
from itertools import chain, count
from time import monotonic

from tests.proofs.announced import exactly_what_was_reached, settle
from tests.proofs.chaos import Feeder, Fleet, staffed
from tests.proofs.checks import Checks
from tests.proofs.compare import compare
from tests.proofs.lab import INPUTS, Arena, Lab, Verdict
from tests.proofs.recompute import QUOTA
from tests.proofs.scene import Scene
from tokenomics_tools.stack import Component
from tokenomics_tools.stack.processes import free_port

PROJECTORS, RELAYS, SERVERS = 2, 1, 2
START_SECONDS = 60
RECOVERY_SECONDS = 120
EVENTS_PER_SECOND = 300
CHUNK = 100
LONGEST_PAUSE_SECONDS = 3.0
LONGEST_OUTAGE_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class Ordeal:
    """How long everything is restarted; every kind of fault strikes at least once."""

    seconds: float

    @classmethod
    def scaled(cls, scale: float) -> "Ordeal":
        """Return the full one for scale 1."""
        return cls(max(20, 180 * scale))


async def prove(lab: Lab) -> Verdict:
    """Prove it with every process, the broker and the database."""
    return await endure(lab, Ordeal.scaled(lab.scale))


async def endure(lab: Lab, ordeal: Ordeal) -> Verdict:
    """Restart everything at random, then hold the state against the recomputation."""
    rng = random.Random(lab.seed)
    scene = Scene(rng, lab.anchor, round(ordeal.seconds * EVENTS_PER_SECOND))
    addresses = [f"127.0.0.1:{free_port()}" for _ in range(SERVERS)]
    async with AsyncExitStack() as resources:
        arena = await resources.enter_async_context(Arena.open(lab.variant))
        feeder = await resources.enter_async_context(Feeder(arena.stack.kafka.bootstrap))
        await feeder.send([draft.binary() for draft in scene.founding()])
        fleets = await staffed(resources, arena, addresses, projectors=PROJECTORS, relays=RELAYS)
        storm = Storm(arena, fleets, rng)
        async with Checks(arena.stack.issuer, addresses, scene.people, rng) as checks:
            await checks.level(feeder.ends, within_seconds=START_SECONDS)
            load = Load(feeder, scene)
            loading = asyncio.create_task(load.run())
            await storm.rage(lab, ordeal.seconds)
            calm_at, ends = monotonic(), dict(feeder.ends)
            await checks.level(ends, within_seconds=RECOVERY_SECONDS)
            recovery_ms = round((monotonic() - calm_at) * 1000)
            load.stop()
            await loading
        stage = await settle(arena, feeder, lab.anchor)
        failures = [*checks.wrong[:3], *stage.said.failures, *exactly_what_was_reached(stage, lab.anchor)]
        figures, differing = await compare(arena, stage.truth, await arena.read(*INPUTS, QUOTA))
        failures += [*differing, *await arena.committed_beyond_positions()]
        # A server has one call at a time from us: it can cancel one as it ends, and none before.
        if checks.outcomes["cancelled"] > storm.struck["serve_sigterms"]:
            failures.append(f"{checks.outcomes['cancelled']} checks were cancelled")
        for fleet in fleets:
            await fleet.stop()
            failures += fleet.unexpected
    return Verdict(
        {
            "recovery_ms": recovery_ms,
            "events": load.sent,
            **figures,
            "announced": len(stage.said.announcements),
            "checks": checks.asked,
            **checks.outcomes,
            **storm.struck,
        },
        failures,
    )


class Load:
    """Usage that keeps coming."""

    def __init__(self, feeder: Feeder, scene: Scene) -> None:
        self._feeder, self._scene = feeder, scene
        self._stopped = False
        self.sent = 0

    def stop(self) -> None:
        """Let the chunk under way be the last."""
        self._stopped = True

    async def run(self) -> None:
        """Send chunk after chunk, each until the broker has it."""
        numbers = count()
        while not self._stopped:
            await self._feeder.send(
                [self._scene.usage_event(f"u{next(numbers)}").binary() for _ in range(CHUNK)]
            )
            self.sent += CHUNK
            await asyncio.sleep(CHUNK / EVENTS_PER_SECOND)


class Storm:
    """Faults on everything that runs, broker and database among it."""

    def __init__(self, arena: Arena, fleets: Iterable[Fleet], rng: random.Random) -> None:
        self._rng = rng
        self._outages: dict[Component, asyncio.Task[None]] = {}
        self.struck: Counter[str] = Counter()
        kafka, postgres = arena.stack.kafka, arena.stack.postgres
        self._faults: dict[str, Callable[[], Awaitable[None]]] = {
            "kafka_stops": lambda: self._outage(kafka, kafka.stop),
            "kafka_kills": lambda: self._outage(kafka, kafka.kill),
            "postgres_stops": lambda: self._outage(postgres, lambda: postgres.stop(immediate=True)),
            "postgres_kills": lambda: self._outage(postgres, postgres.kill),
        }
        for fleet in fleets:
            self._faults[f"{fleet.command}_sigterms"] = partial(fleet.terminate_one_soon, rng)
            self._faults[f"{fleet.command}_sigkills"] = partial(fleet.kill_one_soon, rng)

    async def rage(self, lab: Lab, seconds: float) -> None:
        """Strike for so long, each kind of fault at least once; return when broker and database run again."""
        kinds = sorted(self._faults)
        until = monotonic() + seconds
        for kind in chain(self._rng.sample(kinds, len(kinds)), iter(lambda: self._rng.choice(kinds), None)):
            if monotonic() > until and len(self.struck) == len(kinds):
                break
            lab.note(f"restart-storm: {kind.replace('_', ' ')} ({self.struck.total() + 1})")
            await self._faults[kind]()
            self.struck[kind] += 1
            await asyncio.sleep(self._rng.uniform(0, LONGEST_PAUSE_SECONDS))
        await asyncio.gather(*self._outages.values())

    async def _outage(self, server: Component, end: Callable[[], None]) -> None:
        """End a server and start it again later, beside the faults that follow."""
        if server in self._outages:
            await self._outages[server]
        seconds = self._rng.uniform(0, LONGEST_OUTAGE_SECONDS)

        async def outage() -> None:
            await asyncio.to_thread(end)
            await asyncio.sleep(seconds)
            await asyncio.to_thread(server.start)

        self._outages[server] = asyncio.create_task(outage())
