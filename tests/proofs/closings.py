"""What the quota topic says of closed periods, and what it ought to say."""

import asyncio
import json
import random
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final, NamedTuple

from tests.proofs.chaos import Feeder
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
from tests.proofs.lab import INPUTS, Arena
from tests.proofs.recompute import QUOTA, RawRecord, Recomputation, recompute

CLOSED: Final = b"tokenomics.period.closed.v1"
CATCH_UP_SECONDS: Final = 180
SETTLED_SECONDS: Final = 2
"""So long nothing may be left to say before we believe that all is said."""
SLICES: Final = 6
"""Moments at which totals are recomputed from just what had been projected then."""
REACH: Final = timedelta(days=55)
PEOPLE, TEAMS = 60, 5
CAP_MICRO_USD: Final = 300_000


class Told(NamedTuple):
    """One announcement of one account's closing."""

    at: datetime
    data: Mapping[str, Any]

    @property
    def positions(self) -> tuple[tuple[str, int], ...]:
        """How far each partition was projected when the total was read."""
        return tuple(sorted(self.data["positions"].items()))


@dataclass(frozen=True, slots=True)
class Closings:
    """What was told, by account id, in the order of versions."""

    by_account: dict[str, list[Told]]
    failures: list[str]

    def total(self, account_id: str) -> int:
        """Return the total that was told last; 0 where nothing was."""
        told = self.by_account.get(account_id)
        return int(told[-1].data["posted_micro_usd"]) if told else 0

    @property
    def figures(self) -> dict[str, int]:
        """How much was told."""
        told = [each for versions in self.by_account.values() for each in versions]
        return {
            "accounts_closed": len(self.by_account),
            "adjustments": sum(each.data["version"] > 1 for each in told),
            "adjusted_down": sum(each.data["adjustment_micro_usd"] < 0 for each in told),
            "carried_over": sum("carry_over" in each.data for each in told),
        }


def read_closings(records: Sequence[RawRecord]) -> Closings:
    """Read them; the same may come again, but only with the same bytes, and versions follow one another."""
    spelling: dict[tuple[bytes, bytes], tuple[object, ...]] = {}
    by_account: dict[str, dict[int, Told]] = defaultdict(dict)
    failures = []
    for record in records:
        headers = dict(record.headers)
        if headers.get("ce_type") != CLOSED:
            continue
        identity = (headers["ce_source"], headers["ce_id"])
        spelled = (record.key, record.value, record.headers)
        if spelling.setdefault(identity, spelled) != spelled:
            failures.append(f"{identity} was repeated with other bytes")
        data = json.loads(record.value or b"")
        told = Told(datetime.fromisoformat(headers["ce_time"].decode()), data)
        known = by_account[data["account_id"]].setdefault(data["version"], told)
        if known.data != data:
            failures.append(f"version {data['version']} of {data['account_id']} was told in two ways")
    found = {
        account: [versions[each] for each in sorted(versions)] for account, versions in by_account.items()
    }
    for account, told_of in found.items():
        failures += _chain_failures(account, told_of)
    return Closings(found, failures)


def _chain_failures(account_id: str, told: Sequence[Told]) -> list[str]:
    failures, before = [], 0
    for number, each in enumerate(told, start=1):
        data = each.data
        if data["version"] != number:
            failures.append(f"{account_id}: version {number} is missing")
            break
        expected = data["posted_micro_usd"] - before if number > 1 else 0
        adjusts = data["adjustment_micro_usd"]
        if adjusts != expected:
            failures.append(f"{account_id} v{number}: adjusts by {adjusts}, not {expected}")
        if number > 1 and not adjusts:
            failures.append(f"{account_id} v{number}: told again, and nothing came")
        if number > 1 and "carry_over" in data:
            failures.append(f"{account_id} v{number}: an adjustment carries something over")
        before = data["posted_micro_usd"]
    return failures


def owing(truth: Recomputation, closings: Closings, now: datetime) -> list[str]:
    """Say what is still to be told: totals of closed periods, and what unused budgets carry over."""
    accounts = {each for each in truth.totals if each.split("/")[2] == "all"} | closings.by_account.keys()
    begun, _ = truth.bounds(truth.period_of(now), now)
    latest = truth.period_of(begun - timedelta(days=1))
    carrying = [f"{owner}/all/{latest}" for owner in _budgets(truth, now)]
    return [
        f"{account}: told of {closings.total(account)}, {truth.totals.get(account, 0)} is posted"
        for account in sorted({*accounts, *carrying})
        if truth.closed_by(account.split("/")[3], now)
        and (
            closings.total(account) != truth.totals.get(account, 0)
            or (account in carrying and account not in closings.by_account)
        )
    ]


def _budgets(truth: Recomputation, now: datetime) -> Iterable[str]:
    quota = truth.policies.in_force("quota", now) or {}
    return (
        f"{each['kind']}/{each['owner_id']}"
        for each in quota.get("budgets", [])
        if each.get("carry_over_cap_micro_usd")
    )


def wrong(
    records: Sequence[RawRecord], truth: Recomputation, closings: Closings, now: datetime, rng: random.Random
) -> list[str]:
    """Say what was told that isn't so; totals are recomputed from just what had been projected."""
    failures = list(closings.failures)
    by_positions: dict[tuple[tuple[str, int], ...], list[Told]] = defaultdict(list)
    for account, told in closings.by_account.items():
        period, first = account.split("/")[3], told[0]
        begins, ends = truth.bounds(truth.period_of(truth.bounds(period, now)[1]), now)
        left = truth.carry_over_micro_usd(account, now, first.data["posted_micro_usd"])
        expected = (left, begins, ends) if left and ends > first.at else None
        carried = first.data.get("carry_over")
        said = carried and (
            carried["amount_micro_usd"],
            datetime.fromisoformat(carried["starts_at"]),
            datetime.fromisoformat(carried["ends_at"]),
        )
        if said != expected:
            failures.append(f"{account} carries over {said}, not {expected}")
        for each in told:
            if each.at < begins:
                failures.append(f"{account} was told of before its period had ended, at {each.at}")
            by_positions[each.positions].append(each)
    for positions in rng.sample(sorted(by_positions), min(SLICES, len(by_positions))):
        failures += _wrong_at(records, dict(positions), by_positions[positions], now)
    return failures


def _wrong_at(
    records: Sequence[RawRecord], positions: Mapping[str, int], told: Iterable[Told], now: datetime
) -> list[str]:
    projected = [
        record for record in records if record.offset < positions.get(f"{record.topic}/{record.partition}", 0)
    ]
    then = recompute(projected)
    failures = []
    for each in told:
        data, account = each.data, each.data["account_id"]
        experiment = account.replace("/all/", "/experiment/")
        expected = (
            then.totals.get(account, 0),
            then.totals.get(experiment, 0),
            then.limit_micro_usd(account, now),
        )
        said = (data["posted_micro_usd"], data["experiment_micro_usd"], data.get("limit_micro_usd"))
        if said != expected:
            failures.append(f"{account} v{data['version']}: told {said}, by what was projected {expected}")
    return failures


class Stage(NamedTuple):
    """A moment at which everything is projected, told and sent."""

    records: list[RawRecord]
    truth: Recomputation
    closings: Closings
    owing: list[str]


async def settle(arena: Arena, feeder: Feeder, now: datetime) -> Stage:
    """Wait until everything sent is projected and told, what was told is projected, and it stays so."""
    await arena.projected(feeder.ends, within_seconds=CATCH_UP_SECONDS)
    quiet, deadline = 0, asyncio.get_running_loop().time() + CATCH_UP_SECONDS
    while True:
        unsent = (await arena.fetch("SELECT count(*) AS unsent FROM outbox"))[0]["unsent"]
        records = await arena.read(*INPUTS, QUOTA)
        ends: dict[tuple[str, int], int] = defaultdict(int)
        for record in records:
            ends[record.topic, record.partition] = record.offset + 1
        positions = await arena.positions()
        projected = all(positions.get(place, 0) >= end for place, end in ends.items())
        truth, closings = recompute(records), read_closings(records)
        left = owing(truth, closings, now)
        quiet = 0 if left or unsent or not projected or closings.failures else quiet + 1
        over = asyncio.get_running_loop().time() > deadline or bool(closings.failures)
        if quiet >= SETTLED_SECONDS or over:
            return Stage(records, truth, closings, left)
        await asyncio.sleep(1)


class Months:
    """People of a few teams, and what they used in this month and in those that may still be added to."""

    def __init__(self, rng: random.Random, now: datetime, events: int) -> None:
        self._rng, self._now, self._events = rng, now, events
        self._long_ago = now - timedelta(days=300)
        self.people = [f"p{rng.getrandbits(40):010x}" for _ in range(PEOPLE)]
        self._strangers = [f"s{rng.getrandbits(40):010x}" for _ in range(PEOPLE // 10)]
        self._drafts: list[Draft] = []
        self._told = 0

    def founding(self) -> list[Draft]:
        """Return the directory and the policies under which nothing is closed before the month after."""
        drafts = [self.book(1, 1, self._long_ago), self.policy(1, close_after_days=27)]
        for number in range(TEAMS):
            team = f"team-{number}"
            centre = {"cost_centre_id": f"cc-{number % 2}"}
            drafts.append(directory_event(team, "team.upserted", self._long_ago, team, self._now, **centre))
        return drafts + [self._person(each, number) for number, each in enumerate(self.people)]

    def policy(self, version: int, *, close_after_days: int) -> Draft:
        """Return a quota policy in force since long ago; what is unused is carried over up to a cap."""
        document = quota_policy(
            "Europe/Berlin",
            self._events * 20,
            [("team", f"team-{number}", self._events * 100 * (number + 1)) for number in range(TEAMS)]
            + [("team", "idle", 500_000), ("cost_centre", "cc-0", self._events * 400)],
        )
        document |= {"close_after_days": close_after_days, "forecast_from_day": 31}
        for each in (*document["budgets"], *document["allowances"]):
            each["carry_over_cap_micro_usd"] = CAP_MICRO_USD
        return policy_event("quota", version, self._long_ago, self._now, document)

    def book(self, version: int, factor: int, since: datetime) -> Draft:
        """Return a price book in force since an instant."""
        return policy_event("price_book", version, since, self._now, price_book(factor, knows_all=True))

    def usage(self, count: int) -> list[Message]:
        """Return usage of some day of the months that may still be added to, or of this one."""
        return [self._usage().binary() for _ in range(count)]

    def corrections(self, count: int, revision: int) -> list[Message]:
        """Return corrections of some of the usage, up and down."""
        return [
            correction_event(
                draft,
                revision,
                f"{draft.id}-r{revision}",
                self._now,
                input_tokens=self._rng.randrange(3_000),
                output_tokens=self._rng.randrange(300),
            ).binary()
            for draft in self._rng.sample(self._drafts, min(count, len(self._drafts)))
        ]

    def learned(self) -> list[Message]:
        """Return what the directory learns late: strangers, and moves between teams within a month."""
        drafts = [self._person(each, number) for number, each in enumerate(self._strangers)]
        for number in self._rng.sample(range(PEOPLE), PEOPLE // 6):
            person, since = self.people[number], self._now - REACH * self._rng.random()
            data = {"role": _role(number), "team_id": f"team-{(number + 1) % TEAMS}"}
            event_id = f"{person}-moves"
            drafts.append(directory_event(person, "person.upserted", since, event_id, self._now, **data))
        return [draft.binary() for draft in drafts]

    def _person(self, person: str, number: int) -> Draft:
        data = {"role": _role(number), "team_id": f"team-{number % TEAMS}"}
        return directory_event(person, "person.upserted", self._long_ago, person, self._now, **data)

    def _usage(self) -> Draft:
        self._told += 1
        who = self._strangers if self._rng.random() < 0.05 else self.people
        data: dict[str, Any] = {"input_tokens": self._rng.randrange(4_000)}
        if self._rng.random() < 0.3:
            data["cost_micro_usd"] = self._rng.randrange(2_000)
        if self._rng.random() < 0.2:
            data["purpose"] = "experiment"
        if self._rng.random() < 0.3:
            data["project"] = "atlas"
        time = self._now - REACH * self._rng.random()
        draft = usage_event("/tool", f"u{self._told}", time, subject=self._rng.choice(who), **data)
        self._drafts.append(draft)
        return draft


def _role(number: int) -> str:
    return ("engineer", "guest")[number % 2]
