"""Every usage event counts once, whatever dies: the totals are those of an independent recomputation."""

import random
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

from tests.proofs.chaos import Chaos, Feeder, Fleet
from tests.proofs.compare import compare
from tests.proofs.history import make_history
from tests.proofs.lab import INPUTS, Arena, Lab, Verdict
from tests.proofs.recompute import QUOTA, RawRecord, Recomputation, recompute

FAILPOINTS = (
    "projector.after_read",
    "projector.after_apply",
    "projector.before_commit",
    "projector.after_commit",
    "projector.after_kafka_commit",
)
CATCH_UP_SECONDS = 240


@dataclass(frozen=True, slots=True)
class Ordeal:
    """How much is sent and how much goes wrong meanwhile."""

    usage_events: int
    faults: Sequence[str]
    """In any order; a failpoint goes by its name."""

    projectors: int = 3
    pause_seconds: float = 13
    """Longer than a consumer's session lives."""

    @classmethod
    def scaled(cls, scale: float) -> "Ordeal":
        """Return the full one for scale 1; below, every kind of fault stays, but fewer of each."""
        return cls(
            usage_events=max(2_000, round(200_000 * scale)),
            faults=(
                *["sigkill"] * max(2, round(20 * scale)),
                *["kill broker"] * max(1, round(2 * scale)),
                "stop database",
                "pause",
                *FAILPOINTS,
            ),
        )


@dataclass(frozen=True, slots=True)
class LiveRun:
    """A run that has caught up; the stack still runs, the projectors have ended."""

    arena: Arena
    records: Sequence[RawRecord]
    truth: Recomputation
    figures: dict[str, int]
    failures: Sequence[str]


async def prove(lab: Lab) -> Verdict:
    """Prove that nothing is lost and nothing counted twice."""
    run = await live_run(lab)
    return Verdict(run.figures, run.failures)


async def live_run(lab: Lab) -> LiveRun:
    """Run the ordeal once for all proofs that start from its result."""

    async def make() -> LiveRun:
        return await lab.resources.enter_async_context(endure(lab, Ordeal.scaled(lab.scale)))

    return await lab.once("live run", make)


@asynccontextmanager
async def endure(lab: Lab, ordeal: Ordeal) -> AsyncIterator[LiveRun]:
    """Send a history while everything fails, wait until it is projected, and compare."""
    rng = random.Random(lab.seed)
    faults = rng.sample(ordeal.faults, len(ordeal.faults))
    history = make_history(lab.seed, lab.anchor, ordeal.usage_events, chunks=len(faults) + 2)
    first, *middle, last = history.chunks
    async with Arena.open(lab.variant) as arena, Feeder(arena.stack.kafka.bootstrap) as feeder:
        chaos = Chaos(arena, feeder, rng, pause_seconds=ordeal.pause_seconds)
        async with Fleet(arena, "project", ordeal.projectors) as fleet:
            await feeder.send(first)
            await arena.projected(feeder.ends, within_seconds=CATCH_UP_SECONDS)
            for number, (fault, chunk) in enumerate(zip(faults, middle, strict=True), start=1):
                lab.note(f"exactly-once: {fault} ({number} of {len(faults)})")
                match fault:
                    case "sigkill":
                        await chaos.sigkill(fleet, chunk)
                    case "kill broker":
                        await chaos.kill_broker(chunk)
                    case "stop database":
                        await chaos.stop_database(chunk)
                    case "pause":
                        await chaos.pause(fleet, chunk)
                    case failpoint:
                        await chaos.hit(failpoint, fleet, chunk)
            await feeder.send(last)
            records = await arena.read(*INPUTS, QUOTA)
            lab.note(f"exactly-once: {len(records):,} records are sent, waiting until they are projected")
            await arena.projected(ends_of(records), within_seconds=CATCH_UP_SECONDS)
            await fleet.stop()
        truth = recompute(records)
        figures, failures = await compare(arena, truth, records)
        failures += await arena.committed_beyond_positions()
        hits = arena.failpoint_hits()
        figures = {
            "usage_events": history.usage_events,
            "records": len(records),
            **figures,
            **Counter(fault.replace(" ", "_") + "s" for fault in faults if fault not in FAILPOINTS),
            **{name: hits[name] for name in FAILPOINTS},
        }
        failures += [
            f"failpoint {name} was never hit" for name in FAILPOINTS if name in faults and not hits[name]
        ]
        yield LiveRun(arena, records, truth, figures, [*failures, *fleet.unexpected])


def ends_of(records: Sequence[RawRecord]) -> dict[tuple[str, int], int]:
    """Return the next offset after the last record of each partition."""
    ends: dict[tuple[str, int], int] = {}
    for record in records:
        place = (record.topic, record.partition)
        ends[place] = max(ends.get(place, 0), record.offset + 1)
    return ends
