"""Every threshold that was reached is announced once, and nothing else, whatever dies in between."""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise

from tests.proofs.announced import Stage, exactly_what_was_reached, settle, what_is_due
from tests.proofs.chaos import Chaos, Feeder, Fleet
from tests.proofs.lab import Arena, Lab, Verdict
from tests.proofs.scene import Scene

FAILPOINTS = (
    "relay.after_read",
    "relay.after_send",
    "relay.after_delete",
    "announcer.after_judge",
    "announcer.after_commit",
)
PROJECTORS, RELAYS = 2, 2


@dataclass(frozen=True, slots=True)
class Ordeal:
    """How much is spent and who is killed meanwhile."""

    events: int
    faults: Sequence[str]
    """`projector`, `relay`, or a failpoint's name; in any order."""

    @classmethod
    def scaled(cls, scale: float) -> "Ordeal":
        """Return the full one for scale 1; every failpoint is hit at any size."""
        kills = max(2, round(6 * scale))
        faults = (*FAILPOINTS, *["relay", "projector"] * kills)
        return cls(events=max(4_000, round(30_000 * scale)), faults=faults)


async def prove(lab: Lab) -> Verdict:
    """Prove it with limits that stay, then with limits that move and corrections."""
    return await endure(lab, Ordeal.scaled(lab.scale))


async def endure(lab: Lab, ordeal: Ordeal) -> Verdict:
    """Spend, kill, and compare what was said with what was reached."""
    rng = random.Random(lab.seed)
    scene = Scene(rng, lab.anchor, ordeal.events)
    faults = rng.sample(ordeal.faults, len(ordeal.faults))
    async with Arena.open(lab.variant) as arena, Feeder(arena.stack.kafka.bootstrap) as feeder:
        chaos = Chaos(arena, feeder, rng, pause_seconds=0)
        await feeder.send([draft.binary() for draft in scene.founding()])
        async with Fleet(arena, "project", PROJECTORS) as projectors, Fleet(arena, "relay", RELAYS) as relays:
            first, *chunks = scene.usage(len(faults) + 1)
            await feeder.send(first)
            for number, (fault, chunk) in enumerate(zip(faults, chunks, strict=True), start=1):
                lab.note(f"thresholds-once: {fault} ({number} of {len(faults)})")
                match fault:
                    case "projector":
                        await chaos.sigkill(projectors, chunk)
                    case "relay":
                        await chaos.sigkill(relays, chunk)
                    case failpoint:
                        # Announcements come seldom: the first must do.
                        await chaos.hit(failpoint, relays, chunk, probability=1)
            stages = [await settle(arena, feeder, lab.anchor)]
            failures = stages[0].said.failures + exactly_what_was_reached(stages[0], lab.anchor)
            if failures:
                return Verdict({"events": ordeal.events}, failures)
            for messages in scene.moves():
                lab.note(f"thresholds-once: stage {len(stages)} of moving limits and corrections")
                await chaos.sigkill(rng.choice((projectors, relays)), messages)
                stages.append(await settle(arena, feeder, lab.anchor))
            failures += _each_true_when_made(stages, lab.anchor)
            hits = arena.failpoint_hits()
            failures += [*projectors.unexpected, *relays.unexpected]
    said = stages[-1].said
    failures += said.failures
    failures += [
        f"failpoint {name} was never hit" for name in FAILPOINTS if name in faults and not hits[name]
    ]
    unchanged = len(stages[0].said.announcements)
    figures = {
        "events": ordeal.events,
        "announced_with_limits_unchanged": unchanged,
        "announced_with_moving_limits": len(said.announcements) - unchanged,
        "repeats": said.repeats,
        "projector_kills": faults.count("projector"),
        "relay_kills": faults.count("relay"),
        **{name: hits[name] for name in FAILPOINTS},
    }
    return Verdict(figures, failures)


def _each_true_when_made(stages: Sequence[Stage], now: datetime) -> list[str]:
    """Every later announcement names a limit and a total that the account had in the stage it was made in."""
    failures = []
    for before, after in pairwise(stages):
        for identity in after.said.announcements.keys() - before.said.announcements.keys():
            each = after.said.announcements[identity]
            limits = {state.truth.limit_micro_usd(each.account_id, now) for state in (before, after)}
            totals = sorted(state.truth.totals.get(each.account_id, 0) for state in (before, after))
            if each.limit_micro_usd not in limits or not totals[0] <= each.posted_micro_usd <= totals[1]:
                failures.append(f"{each}: the limits were {limits}, the total between {totals}")
        missing = what_is_due(after.truth, now) - {each.due for each in after.said.announcements.values()}
        failures += [f"{each} was reached and never announced" for each in sorted(missing)]
    return failures
