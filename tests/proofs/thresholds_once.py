"""Every threshold that was reached is announced once, and nothing else, whatever dies in between."""

import asyncio
import json
import random
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import pairwise
from typing import Any, NamedTuple

from tests.proofs.chaos import Chaos, Feeder, Fleet
from tests.proofs.events import (
    Draft,
    Message,
    correction_event,
    directory_event,
    policy_event,
    price_book,
    quota_policy,
    usage_event,
)
from tests.proofs.lab import INPUTS, Arena, Lab, Verdict
from tests.proofs.recompute import QUOTA, RawRecord, Recomputation, recompute

FAILPOINTS = (
    "relay.after_read",
    "relay.after_send",
    "relay.after_delete",
    "announcer.after_judge",
    "announcer.after_commit",
)
CROSSED = b"tokenomics.threshold.crossed.v1"
PROJECTORS, RELAYS = 2, 2
PEOPLE, TEAMS, ROLES = 120, 6, 12
MEAN_COST_MICRO_USD = 500
CATCH_UP_SECONDS = 120
SETTLED_SECONDS = 3
"""So long nothing may be left to say before we believe that all is said."""


class Announcement(NamedTuple):
    """One distinct announcement."""

    account_id: str
    threshold: int
    limit_micro_usd: int
    posted_micro_usd: int

    @property
    def due(self) -> tuple[str, int, int]:
        """What it is about: said once for each."""
        return (self.account_id, self.threshold, self.limit_micro_usd)

    @property
    def holds(self) -> bool:
        """Whether it is true in itself."""
        return self.posted_micro_usd * 10_000 >= self.limit_micro_usd * self.threshold


@dataclass(frozen=True, slots=True)
class Said:
    """What the quota topic says about thresholds."""

    announcements: dict[tuple[str, str], Announcement]
    """By (source, id)."""
    repeats: int
    failures: list[str]


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


class Scene:
    """People of a few teams, on all partitions, spending towards their limits."""

    def __init__(self, rng: random.Random, now: datetime, events: int) -> None:
        self._rng, self._now, self._events = rng, now, events
        self.people = [f"p{rng.getrandbits(40):010x}" for _ in range(PEOPLE)]
        self._long_ago = now - timedelta(days=300)
        self._drafts: list[Draft] = []
        self._version = 0

    def founding(self) -> list[Draft]:
        """Return directory and policies; every limit is about what will be spent."""
        drafts = [
            policy_event("price_book", 1, self._long_ago, self._now, price_book(1)),
            self._policy(percent=100),
        ]
        for number in range(TEAMS):
            team, since = f"team-{number}", self._long_ago
            centre = {"cost_centre_id": f"cc-{number % 2}"}
            drafts.append(directory_event(team, "team.upserted", since, team, self._now, **centre))
        for number, person in enumerate(self.people):
            data = {"role": f"role-{number % ROLES}", "team_id": f"team-{number % TEAMS}"}
            drafts.append(
                directory_event(person, "person.upserted", self._long_ago, person, self._now, **data)
            )
        return drafts

    def usage(self, chunks: int) -> Iterable[list[Message]]:
        """Return usage in so many chunks."""
        for number in range(chunks):
            share = range(number * self._events // chunks, (number + 1) * self._events // chunks)
            yield [self.usage_event(f"u{each}").binary() for each in share]

    def moves(self) -> Iterable[list[Message]]:
        """Return one stage after another; in each the totals move in one direction, or the limits do."""
        some = self._rng.sample(self._drafts, len(self._drafts) // 10)
        extra = max(300, self._events // 20)
        yield [self._policy(percent=130).binary()]
        yield [self.usage_event(f"more-{each}").binary() for each in range(extra)]
        yield [self._correction(draft, 1, cost_micro_usd=0).binary() for draft in some]
        yield [self._policy(percent=80).binary()]
        yield [self._correction(draft, 2, cost_micro_usd=4 * MEAN_COST_MICRO_USD).binary() for draft in some]
        yield [self._policy(percent=130).binary()]

    def usage_event(self, id_: str, **data: object) -> Draft:
        """Draft usage by one of the people."""
        cost = self._rng.randrange(2 * MEAN_COST_MICRO_USD)
        person = self._rng.choice(self.people)
        draft = usage_event("/tool", id_, self._now, subject=person, cost_micro_usd=cost, **data)
        self._drafts.append(draft)
        return draft

    def _policy(self, percent: int) -> Draft:
        self._version += 1
        expected = self._events * MEAN_COST_MICRO_USD * percent // 100
        # Limits from a tenth to somewhat more than what will be spent: something is crossed at every moment.
        budgets = [
            ("team", f"team-{number}", expected // TEAMS * (2 * number + 1) // 10) for number in range(TEAMS)
        ]
        budgets.append(("cost_centre", "cc-0", expected // 2))
        allowances = [(f"role-{number}", expected // PEOPLE * (number + 1) // 10) for number in range(ROLES)]
        document = quota_policy("UTC", expected, budgets, allowances)
        return policy_event("quota", self._version, self._long_ago, self._now, document)

    def _correction(self, draft: Draft, revision: int, **quantities: Any) -> Draft:
        return correction_event(draft, revision, f"{draft.id}-r{revision}", self._now, **quantities)


class Stage(NamedTuple):
    """A moment at which everything is projected, said and sent."""

    truth: Recomputation
    said: Said


async def settle(arena: Arena, feeder: Feeder, now: datetime) -> Stage:
    """Wait until everything sent is projected and everything due is said, and stays so for a while."""
    await arena.projected(feeder.ends, within_seconds=CATCH_UP_SECONDS)
    truth = recompute(await arena.read(*INPUTS))
    due = _due(truth, now)
    quiet = 0
    deadline = asyncio.get_running_loop().time() + CATCH_UP_SECONDS
    while quiet < SETTLED_SECONDS and asyncio.get_running_loop().time() < deadline:
        unsent = (await arena.fetch("SELECT count(*) AS unsent FROM outbox"))[0]["unsent"]
        said = _said(await arena.read(QUOTA))
        if said.failures:
            break
        missing = due - {each.due for each in said.announcements.values()}
        quiet = 0 if missing or unsent else quiet + 1
        await asyncio.sleep(1)
    return Stage(truth, said)


def _due(truth: Recomputation, now: datetime) -> set[tuple[str, int, int]]:
    return {(*reached, limit) for reached, (limit, _) in truth.thresholds_due(now).items()}


def _said(records: Sequence[RawRecord]) -> Said:
    """Read the announcements; a (source, id) may come again, but only with the same bytes."""
    announcements: dict[tuple[str, str], Announcement] = {}
    spelling: dict[tuple[str, str], tuple[object, ...]] = {}
    repeats, failures = 0, []
    for record in records:
        headers = dict(record.headers)
        if headers.get("ce_type") != CROSSED:
            continue
        identity = (headers["ce_source"].decode(), headers["ce_id"].decode())
        if identity in spelling:
            repeats += 1
            if spelling[identity] != (record.key, record.value, record.headers):
                failures.append(f"{identity} was repeated with other bytes")
            continue
        spelling[identity] = (record.key, record.value, record.headers)
        data = json.loads(record.value or b"")
        names = ("account_id", "threshold_basis_points", "limit_micro_usd", "posted_micro_usd")
        announcements[identity] = Announcement(*(data[name] for name in names))
    ids = defaultdict(list)
    for identity, each in announcements.items():
        ids[each.due].append(identity)
        if not each.holds:
            failures.append(f"{each} is not true in itself")
    failures += [
        f"{due} was announced {len(same)} times: {same}" for due, same in ids.items() if len(same) > 1
    ]
    return Said(announcements, repeats, failures)


def exactly_what_was_reached(stage: Stage, now: datetime) -> list[str]:
    """Limits unchanged, nothing corrected: what was said is what the final totals reached."""
    due, said = _due(stage.truth, now), {each.due for each in stage.said.announcements.values()}
    failures = [f"{each} was reached and never announced" for each in sorted(due - said)]
    return failures + [f"{each} was announced and never reached" for each in sorted(said - due)]


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
        missing = _due(after.truth, now) - {each.due for each in after.said.announcements.values()}
        failures += [f"{each} was reached and never announced" for each in sorted(missing)]
    return failures
