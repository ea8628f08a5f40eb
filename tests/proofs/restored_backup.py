"""An older copy of the database comes back under newer commits in Kafka: no silent gap, nothing twice."""

import asyncio
import time

from tests.proofs.announced import what_was_said
from tests.proofs.chaos import Feeder, Fleet
from tests.proofs.compare import compare
from tests.proofs.history import make_history
from tests.proofs.lab import INPUTS, Arena, Lab, Verdict
from tests.proofs.recompute import QUOTA, recompute
from tests.proofs.replay_equals_live import hash_settles
from tokenomics_tools.stack import Source

PROJECTORS, RELAYS = 2, 1
CATCH_UP_SECONDS = 240


async def prove(lab: Lab) -> Verdict:
    """Go back by a third of the history."""
    return await endure(lab, max(2_000, round(60_000 * lab.scale)))


async def endure(lab: Lab, usage_events: int) -> Verdict:
    """Copy the data folder, go on, put the copy back under everything that runs, and compare."""
    history = make_history(lab.seed, lab.anchor, usage_events, chunks=3)
    first, second, last = history.chunks
    async with (
        Arena.open(lab.variant, source=Source.EMBEDDED) as arena,
        Feeder(arena.stack.kafka.bootstrap) as feeder,
    ):
        copy = arena.stack.folder / "copy"
        async with (
            Fleet(arena, "project", PROJECTORS) as projectors,
            Fleet(arena, "relay", RELAYS) as relays,
        ):
            await feeder.send(first)
            await arena.projected(feeder.ends, within_seconds=CATCH_UP_SECONDS)
            await asyncio.to_thread(arena.stack.postgres.copy_data, copy)
            copied = await arena.positions()
            lab.note("restored-backup: the copy is taken")
            await feeder.send(second)
            await arena.projected(feeder.ends, within_seconds=CATCH_UP_SECONDS)
            await arena.sent(within_seconds=CATCH_UP_SECONDS)
            live = await hash_settles(arena, with_positions=False)
            committed = await arena.committed(feeder.ends)
            lab.note("restored-backup: putting the copy back")
            restored_at = time.monotonic()
            await asyncio.to_thread(arena.stack.postgres.restore_data, copy)
            await arena.projected(feeder.ends, within_seconds=CATCH_UP_SECONDS)
            recovered_seconds = round(time.monotonic() - restored_at)
            failures = []
            if await hash_settles(arena, live, with_positions=False) != live:
                failures.append("the derived state has another hash than before the copy was put back")
            await feeder.send(last)
            await arena.projected(feeder.ends, within_seconds=CATCH_UP_SECONDS)
            await arena.sent(within_seconds=CATCH_UP_SECONDS)
            await hash_settles(arena)
            failures += await arena.committed_beyond_positions()
            failures += [*projectors.unexpected, *relays.unexpected]
        records = await arena.read(*INPUTS, QUOTA)
        figures, differing = await compare(arena, recompute(records), records)
    said = what_was_said(records)
    behind = sum(max(0, offset - copied.get(place, 0)) for place, offset in committed.items())
    if not behind:
        failures.append("the copy was not older than what Kafka had committed")
    return Verdict(
        {
            "usage_events": usage_events,
            "records": len(records),
            **figures,
            "records_behind_the_commits": behind,
            "announced": len(said.announcements),
            "repeats": said.repeats,
            "recovered_seconds": recovered_seconds,
        },
        [*failures, *differing, *said.failures],
    )
