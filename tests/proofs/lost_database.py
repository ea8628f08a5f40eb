"""PostgreSQL's data folder is deleted under all that runs: the log brings back all but what was unsent."""

import asyncio
import random
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import asyncpg

from tests.proofs.announced import (
    CATCH_UP_SECONDS,
    exactly_what_was_reached,
    settle,
    what_is_due,
    what_was_said,
)
from tests.proofs.chaos import EXPECTED_EXITS, Feeder, Fleet
from tests.proofs.compare import compare
from tests.proofs.lab import INPUTS, Arena, Lab, Verdict
from tests.proofs.recompute import QUOTA, recompute
from tests.proofs.replay_equals_live import hash_of, hash_settles
from tests.proofs.scene import Scene
from tokenomics_tools.stack import Source

PROJECTORS, RELAYS = 2, 2
LACKS_THE_DATABASE = EXPECTED_EXITS | {3}
"""What a process may end with while role, database or tables are missing."""

_CAMPAIGN = "SELECT pg_advisory_lock(hashtextextended('quota relay', 0))"
_DEPOSE = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'quota relay'"
_UNSENT = "SELECT header_names, header_values FROM outbox ORDER BY id"


async def prove(lab: Lab) -> Verdict:
    """Lose the database between two thirds and the end of what is spent."""
    return await endure(lab, max(4_000, round(60_000 * lab.scale)))


async def endure(lab: Lab, events: int) -> Verdict:
    """Spend and announce, keep some announcements from being sent, delete the data, and compare."""
    scene = Scene(random.Random(lab.seed), lab.anchor, events)
    heard, unheard, later = scene.usage(3)
    async with (
        Arena.open(lab.variant, source=Source.EMBEDDED) as arena,
        Feeder(arena.stack.kafka.bootstrap) as feeder,
    ):
        await feeder.send([draft.binary() for draft in scene.founding()])
        async with (
            Fleet(arena, "project", PROJECTORS, expected_exits=LACKS_THE_DATABASE) as projectors,
            Fleet(arena, "relay", RELAYS, expected_exits=LACKS_THE_DATABASE) as relays,
        ):
            await feeder.send(heard)
            first = await settle(arena, feeder, lab.anchor)
            async with nothing_sent(arena):
                await feeder.send(unheard)
                lost = await _unsent(arena, feeder, lab)
                live = await hash_of(arena, with_positions=False)
                lab.note(f"lost-database: deleting it, {len(lost)} announcements are in the outbox only")
                deleted_at = time.monotonic()
                await asyncio.to_thread(arena.stack.postgres.lose_data)
            arena.stack.new_database(arena.group, reuse=True)
            await arena.migrate()
            await arena.projected(feeder.ends, within_seconds=CATCH_UP_SECONDS)
            recovered_seconds = round(time.monotonic() - deleted_at)
            failures = [*first.said.failures, *exactly_what_was_reached(first, lab.anchor)]
            if await hash_settles(arena, live, with_positions=False) != live:
                failures.append("the derived state has another hash than before the loss")
            await feeder.send(later)
            last = await settle(arena, feeder, lab.anchor)
            failures += await arena.committed_beyond_positions()
            failures += [*projectors.unexpected, *relays.unexpected]
        records = await arena.read(*INPUTS, QUOTA)
        figures, differing = await compare(arena, recompute(records), records)
    failures += [*differing, *last.said.failures, *exactly_what_was_reached(last, lab.anchor)]
    said = {id_ for _, id_ in last.said.announcements}
    failures += [f"{id_} was lost with the outbox and never announced" for id_ in sorted(lost - said)]
    if not lost:
        failures.append("nothing was in the outbox only")
    return Verdict(
        {
            "events": events,
            **figures,
            "announced_before": len(first.said.announcements),
            "lost_with_the_outbox": len(lost),
            "announced_after": len(last.said.announcements) - len(first.said.announcements),
            "repeats": last.said.repeats,
            "recovered_seconds": recovered_seconds,
        },
        failures,
    )


@asynccontextmanager
async def nothing_sent(arena: Arena) -> AsyncIterator[None]:
    """Be the leader of the relay, and send nothing, for as long as the database lives."""
    connection = await asyncpg.connect(arena.database_url)
    leading = asyncio.create_task(connection.execute(_CAMPAIGN))
    while not leading.done():
        await arena.fetch(_DEPOSE)
        await asyncio.sleep(0.1)
    await leading
    try:
        yield
    finally:
        connection.terminate()


async def _unsent(arena: Arena, feeder: Feeder, lab: Lab) -> set[str]:
    """Wait until everything due is announced, and return the ids that are in the outbox alone."""
    await arena.projected(feeder.ends, within_seconds=CATCH_UP_SECONDS)
    due = what_is_due(recompute(await arena.read(*INPUTS)), lab.anchor)
    async with asyncio.timeout(CATCH_UP_SECONDS):
        while due - {tuple(row) for row in await arena.fetch(_ANNOUNCED)}:  # noqa: ASYNC110 - another process's work
            await asyncio.sleep(0.2)
    sent = {id_ for _, id_ in what_was_said(await arena.read(QUOTA)).announcements}
    rows = await arena.fetch(_UNSENT)
    headers = [dict(zip(row["header_names"], row["header_values"], strict=True)) for row in rows]
    return {each["ce_id"].decode() for each in headers} - sent


_ANNOUNCED = "SELECT key, basis_points, bound FROM announcement"
