"""People of a few teams who spend towards limits: what announcements are proved with."""

import random
from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Any

from tests.proofs.events import (
    Draft,
    Message,
    approval_event,
    correction_event,
    directory_event,
    ending_event,
    policy_event,
    price_book,
    quota_policy,
    usage_event,
)

PEOPLE, TEAMS, ROLES = 120, 6, 12
MEAN_COST_MICRO_USD = 500


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
        yield [self._grant(target).binary() for target in self._granted()]
        yield [self.usage_event(f"granted-{each}").binary() for each in range(extra)]
        yield [self._revocation(target).binary() for target in self._granted()]

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

    def _granted(self) -> list[str]:
        """Return for whom limits rise by grants, and fall again when those are revoked."""
        teams = [f"team/team-{number}" for number in range(0, TEAMS, 2)]
        return [*teams, *(f"subject/{person}" for person in self.people[::3])]

    def _grant(self, target: str) -> Draft:
        share = TEAMS if target.startswith("team/") else PEOPLE
        amount = self._events * MEAN_COST_MICRO_USD // share // 5
        holds = (self._now - timedelta(hours=1), self._now + timedelta(days=9))
        return approval_event(
            _request(target),
            "boost",
            target,
            holds,
            self._now,
            amount_micro_usd=amount,
            counts_in="each_period",
        )

    def _revocation(self, target: str) -> Draft:
        request_id = _request(target)
        return ending_event(request_id, "revoked", self._now, self._now, f"{request_id}-revoked")

    def usage_event(self, id_: str, **data: object) -> Draft:
        """Draft usage by one of the people."""
        cost = self._rng.randrange(2 * MEAN_COST_MICRO_USD)
        person = self._rng.choice(self.people)
        draft = usage_event("/tool", id_, self._now, subject=person, cost_micro_usd=cost, **data)
        self._drafts.append(draft)
        return draft

    def _correction(self, draft: Draft, revision: int, **quantities: Any) -> Draft:
        return correction_event(draft, revision, f"{draft.id}-r{revision}", self._now, **quantities)


def _request(target: str) -> str:
    return target.replace("/", "-")
