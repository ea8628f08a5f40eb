"""What the quota topic says about thresholds, and what it ought to say."""

import asyncio
import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple

from tests.proofs.chaos import Feeder
from tests.proofs.lab import INPUTS, Arena
from tests.proofs.recompute import QUOTA, RawRecord, Recomputation, recompute

CROSSED = b"tokenomics.threshold.crossed.v1"
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


class Stage(NamedTuple):
    """A moment at which everything is projected, said and sent."""

    truth: Recomputation
    said: Said


async def settle(arena: Arena, feeder: Feeder, now: datetime) -> Stage:
    """Wait until everything sent is projected and everything due is said, and stays so for a while."""
    await arena.projected(feeder.ends, within_seconds=CATCH_UP_SECONDS)
    truth = recompute(await arena.read(*INPUTS))
    due = what_is_due(truth, now)
    quiet = 0
    deadline = asyncio.get_running_loop().time() + CATCH_UP_SECONDS
    while quiet < SETTLED_SECONDS and asyncio.get_running_loop().time() < deadline:
        unsent = (await arena.fetch("SELECT count(*) AS unsent FROM outbox"))[0]["unsent"]
        said = what_was_said(await arena.read(QUOTA))
        if said.failures:
            break
        missing = due - {each.due for each in said.announcements.values()}
        quiet = 0 if missing or unsent else quiet + 1
        await asyncio.sleep(1)
    return Stage(truth, said)


def what_is_due(truth: Recomputation, now: datetime) -> set[tuple[str, int, int]]:
    """Return (account id, threshold, limit) of each threshold that the totals have reached."""
    return {(*reached, limit) for reached, (limit, _) in truth.thresholds_due(now).items()}


def what_was_said(records: Sequence[RawRecord]) -> Said:
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
    due, said = what_is_due(stage.truth, now), {each.due for each in stage.said.announcements.values()}
    failures = [f"{each} was reached and never announced" for each in sorted(due - said)]
    return failures + [f"{each} was announced and never reached" for each in sorted(said - due)]
