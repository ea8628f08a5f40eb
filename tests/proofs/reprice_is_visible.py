"""A price book that comes late changes what closed months cost, and each account is told by how much."""

import random
from collections.abc import Sequence
from datetime import timedelta

from tests.proofs.chaos import Chaos, Feeder, Fleet
from tests.proofs.closings import Months, Stage, settle, wrong
from tests.proofs.compare import compare
from tests.proofs.lab import Arena, Lab, Verdict

PROJECTORS, RELAYS = 2, 2
SHOWN = 10
BOOKS = ((3, 40), (2, 200))
"""Factor of the prices, and since how many days they hold: the second one takes the first one's place."""


async def prove(lab: Lab) -> Verdict:
    """Prove it while projectors and relays are killed."""
    return await endure(lab, events=max(2_000, round(20_000 * lab.scale)), killed=("projector", "relay"))


async def endure(lab: Lab, *, events: int, killed: Sequence[str]) -> Verdict:
    """Use, close, and publish one price book after the other, each in force since another instant."""
    rng = random.Random(lab.seed)
    months = Months(rng, lab.anchor, events)
    async with Arena.open(lab.variant) as arena, Feeder(arena.stack.kafka.bootstrap) as feeder:
        chaos = Chaos(arena, feeder, rng, pause_seconds=0)
        await feeder.send([draft.binary() for draft in months.founding()])
        async with Fleet(arena, "project", PROJECTORS) as projectors, Fleet(arena, "relay", RELAYS) as relays:
            await feeder.send(months.usage(events))
            await feeder.send([months.policy(2, close_after_days=0).binary()])
            stage = await settle(arena, feeder, lab.anchor)
            failures = list(stage.owing)
            moved = 0
            for version, (factor, days) in enumerate(BOOKS, start=2):
                lab.note(f"reprice-is-visible: price book {version}")
                book = months.book(version, factor, lab.anchor - timedelta(days=days))
                fleet = projectors if rng.choice(killed) == "projector" else relays
                await chaos.sigkill(fleet, [book.binary()])
                before, stage = stage, await settle(arena, feeder, lab.anchor)
                repriced, wrongly = _told_of(before, stage, lab)
                moved += repriced
                failures += [*stage.owing, *wrongly]
            failures += [*projectors.unexpected, *relays.unexpected]
        figures, differing = await compare(arena, stage.truth, stage.records)
    failures += [*differing, *wrong(stage.records, stage.truth, stage.closings, lab.anchor, rng)]
    if not moved:
        failures.append("no closed account was priced anew")
    return Verdict(
        {"facts": figures["facts"], "repriced_accounts": moved, **stage.closings.figures}, failures[:SHOWN]
    )


def _told_of(before: Stage, after: Stage, lab: Lab) -> tuple[int, list[str]]:
    """Return how many closed accounts a book moved, and those of which another amount was told than that."""
    moved, failures = 0, []
    for account, posted in after.truth.totals.items():
        _, _, purpose, period = account.split("/")
        if purpose != "all" or not after.truth.closed_by(period, lab.anchor):
            continue
        difference = posted - before.truth.totals.get(account, 0)
        known = len(before.closings.by_account.get(account, ()))
        news = after.closings.by_account.get(account, [])[known:]
        told = sum(each.data["adjustment_micro_usd"] for each in news)
        moved += difference != 0
        if told != difference:
            failures.append(f"{account}: the book moved it by {difference}, told was {told}")
    return moved, failures
