"""What comes after a month was closed counts in it, and is told as what it adds; nothing is rewritten."""

import random
from collections.abc import Sequence
from dataclasses import dataclass

from tests.proofs.chaos import Chaos, Feeder, Fleet
from tests.proofs.closings import Months, Stage, settle, wrong
from tests.proofs.compare import compare
from tests.proofs.lab import Arena, Lab, Verdict

FAILPOINTS = ("announcer.after_judge", "announcer.after_commit", "relay.after_send")
PROJECTORS, RELAYS = 2, 2
SHOWN = 10


@dataclass(frozen=True, slots=True)
class Ordeal:
    """How much comes, and who is killed meanwhile."""

    events: int
    faults: Sequence[str]
    """`projector`, `relay`, or a failpoint's name."""

    @classmethod
    def scaled(cls, scale: float) -> "Ordeal":
        """Return the full one for scale 1; every failpoint is hit at any size."""
        faults = (*FAILPOINTS, *["relay", "projector"] * max(1, round(4 * scale)))
        return cls(events=max(2_000, round(20_000 * scale)), faults=faults)


async def prove(lab: Lab) -> Verdict:
    """Prove it while projectors and relays are killed."""
    return await endure(lab, Ordeal.scaled(lab.scale))


async def endure(lab: Lab, ordeal: Ordeal) -> Verdict:
    """Use, close, and let a quarter come late: usage, corrections, and where people had belonged."""
    rng = random.Random(lab.seed)
    months = Months(rng, lab.anchor, ordeal.events)
    faults = rng.sample(ordeal.faults, len(ordeal.faults))
    late = max(300, ordeal.events // (4 * max(1, len(faults))))
    async with Arena.open(lab.variant) as arena, Feeder(arena.stack.kafka.bootstrap) as feeder:
        chaos = Chaos(arena, feeder, rng, pause_seconds=0)
        await feeder.send([draft.binary() for draft in months.founding()])
        async with Fleet(arena, "project", PROJECTORS) as projectors, Fleet(arena, "relay", RELAYS) as relays:
            await feeder.send(months.usage(ordeal.events))
            await feeder.send([months.policy(2, close_after_days=0).binary()])
            stages = [await settle(arena, feeder, lab.anchor)]
            for number, fault in enumerate(faults, start=1):
                lab.note(f"late-usage-adjusts: {fault} ({number} of {len(faults)})")
                messages = months.usage(late)
                match fault:
                    case "projector":
                        await chaos.sigkill(projectors, messages)
                    case "relay":
                        await chaos.sigkill(relays, messages)
                    case failpoint:
                        await chaos.hit(failpoint, relays, messages, probability=1)
            stages.append(await settle(arena, feeder, lab.anchor))
            for messages in (months.corrections(late, 1), months.learned(), months.corrections(late, 2)):
                lab.note(f"late-usage-adjusts: stage {len(stages)} of corrections and moves")
                await chaos.sigkill(rng.choice((projectors, relays)), messages)
                stages.append(await settle(arena, feeder, lab.anchor))
            hits = arena.failpoint_hits()
            failures = [*projectors.unexpected, *relays.unexpected]
        last = stages[-1]
        figures, differing = await compare(arena, last.truth, last.records)
    failures += [*_failures(stages, lab, rng), *differing]
    failures += [
        f"failpoint {name} was never hit" for name in FAILPOINTS if name in faults and not hits[name]
    ]
    counted = {"facts": figures["facts"], "late_events": late * len(faults), **last.closings.figures}
    return Verdict({**counted, **{name: hits[name] for name in FAILPOINTS}}, failures[:SHOWN])


def _failures(stages: Sequence[Stage], lab: Lab, rng: random.Random) -> list[str]:
    last = stages[-1]
    failures = wrong(last.records, last.truth, last.closings, lab.anchor, rng)
    failures += [each for stage in stages for each in stage.owing]
    figures = last.closings.figures
    failures += [f"there is nothing of {name} to judge" for name, count in figures.items() if not count]
    for stage in stages:  # what was told stays, and adjustments are what came
        for account, told in stage.closings.by_account.items():
            if last.closings.by_account[account][: len(told)] != told:
                failures.append(f"{account}: what had been told was rewritten")
    return failures
