"""Seeded, awkward histories: a company that sends everything late, twice and in the worst order.

The same seed and anchor give the same messages.
"""

import random
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

from tests.proofs.events import (
    MODELS,
    UNPRICED_MODEL,
    Draft,
    Message,
    asset_event,
    correction_event,
    directory_event,
    policy_event,
    price_book,
    quota_policy,
    reuse_event,
    settled_event,
    source_test,
    usage_event,
)
from tests.proofs.poison import POISONS, Brew

WINDOW = timedelta(days=45)
"""Usage lies this far back at most, so that it never comes too late by accident."""

HUGE_PAYLOADS = 4


@dataclass(frozen=True, slots=True)
class History:
    """Messages in the order they are sent.

    Attributes
    ----------
    chunks
        Usage with whatever governs it strewn in between; each chunk may be sent at a moment of its own.
    usage_events
        How many distinct usage events (without duplicates, corrections and poison) it holds.
    """

    chunks: tuple[tuple[Message, ...], ...]
    usage_events: int

    def messages(self) -> Iterator[Message]:
        """Return all of them in order."""
        for chunk in self.chunks:
            yield from chunk


class Company:
    """Draws the people, teams and rules of a made-up company."""

    def __init__(self, rng: random.Random, now: datetime, holds: int) -> None:
        self.rng, self.now, self.holds = rng, now, holds
        self.long_ago = now - timedelta(days=380)
        self.cost_centres = [f"cc-{number}" for number in range(6)]
        self.teams = [f"team-{number:02d}" for number in range(24)]
        self.projects = [f"project-{number}" for number in range(8)]
        self.people = [f"p{rng.getrandbits(40):010x}" for _ in range(300)]
        self.bots = [f"bot-{number}" for number in range(10)]
        self.aliases = {each: f"alias:{rng.getrandbits(128):032x}" for each in self.people[:120]}
        self.late = set(rng.sample(self.people, 20))
        """Learned long after they began to use something."""

    def within(self) -> datetime:
        return self.now - timedelta(seconds=self.rng.randrange(int(WINDOW.total_seconds())))

    def person(self, person_id: str, id_: str, effective_from: datetime) -> Draft:
        aliases = [self.aliases[person_id]] if person_id in self.aliases else []
        return directory_event(
            person_id,
            "person.upserted",
            effective_from,
            id_,
            self.now,
            role=self.rng.choice(("engineer", "support", "analyst")),
            team_id=self.rng.choice(self.teams),
            aliases=aliases,
            **({"cost_centre_id": self.rng.choice(self.cost_centres)} if self.rng.random() < 0.3 else {}),
        )

    def founding(self) -> list[Draft]:
        """Return what stands before the first usage."""
        drafts = [policy_event("price_book", 1, self.long_ago, self.now, price_book(1))]
        budgets = [("team", team, 40_000_000) for team in self.teams[::2]]
        drafts += [policy_event("quota", 1, self.long_ago, self.now, quota_policy("UTC", 2_000_000, budgets))]
        sources = [
            {"source": source, "owner_id": "hr", "may_backfill": True, "backfill_counts_in_balances": counts}
            for source, counts in (("/archive/counted", True), ("/archive/reported", False))
        ]
        drafts += [policy_event("sources", 1, self.long_ago, self.now, {"sources": sources})]
        for number, team in enumerate(self.teams):
            # Every fourth team has no cost centre yet.
            known = {"cost_centre_id": self.cost_centres[number % 6]} if number % 4 else {}
            drafts.append(
                directory_event(team, "team.upserted", self.long_ago, f"{team}-1", self.now, **known)
            )
        drafts += [
            directory_event(
                bot,
                "service.upserted",
                self.long_ago,
                f"{bot}-1",
                self.now,
                role="bot",
                team_id=self.rng.choice(self.teams),
                responsible_person_id=self.people[0],
            )
            for bot in self.bots
        ]
        drafts += [
            self.person(each, f"{each}-1", self.long_ago) for each in self.people if each not in self.late
        ]
        return drafts

    def afterthoughts(self) -> list[Draft]:
        """Return what governs usage that may already be counted; chains of policies stay in order."""
        zones = [
            self._policy("quota", number, back, quota_policy(zone, 3_000_000))
            for number, zone, back in ((2, "Europe/Berlin", 33), (3, "America/New_York", 12))
        ]
        books = [
            self._policy("price_book", 2, 40, price_book(2)),
            self._policy("price_book", 3, 15, price_book(3)),
            self._policy("price_book", 4, 28, price_book(4, knows_all=True)),
        ]
        learned = [self.person(each, f"{each}-1", self.long_ago) for each in sorted(self.late)]
        moves = [
            self.person(each, f"{each}-{number}", self.within())
            for number in (2, 3)
            for each in self.rng.sample(self.people[:100], 30)
        ]
        reorganised = [
            directory_event(
                team,
                "team.upserted",
                self.within(),
                f"{team}-2",
                self.now,
                cost_centre_id=self.rng.choice(self.cost_centres),
            )
            for team in self.teams[::3]
        ]
        leavers = [
            directory_event(each, "person.left", self.within(), f"{each}-left", self.now)
            for each in self.rng.sample(self.people, 8)
        ]
        erased = [
            directory_event(self.people[7], "person.erased", self.now, f"{self.people[7]}-erased", self.now)
        ]
        shared = [
            asset_event(f"asset-{number % 6}", self.people[number % 3], use_cases, f"{number}", self.within())
            for number, use_cases in enumerate((["replies"], ["replies", "code"], []) * 4)
        ]
        strewn = learned + moves + reorganised + leavers + erased + shared
        self.rng.shuffle(strewn)
        # Chains stay in order; everything else may come whenever it likes.
        for chain in (zones, books):
            for place, draft in zip(
                sorted(self.rng.sample(range(len(strewn)), len(chain))), chain, strict=True
            ):
                strewn.insert(place, draft)
        return strewn

    def _policy(self, kind: str, version: int, days_ago: int, document: dict[str, Any]) -> Draft:
        return policy_event(kind, version, self.now - timedelta(days=days_ago), self.now, document)

    def subject(self) -> str:
        drawn = self.rng.random()
        if drawn < 0.02:
            return f"stranger-{self.rng.randrange(5)}"
        if drawn < 0.08:
            return self.rng.choice(self.bots)
        person = self.rng.choice(self.people)
        return self.aliases.get(person, person) if self.rng.random() < 0.3 else person

    def reuse(self, number: int) -> Draft:
        asset_id = f"asset-{self.rng.randrange(len(self.teams))}"
        return reuse_event(f"reuse-{number}", self.within(), self.subject(), asset_id)

    def usage(self, number: int) -> Draft:
        rng = self.rng
        read = min(int(rng.lognormvariate(6.5, 1.6)) + 1, 200_000)
        written = min(int(rng.lognormvariate(5.0, 1.0)) + 1, 16_000)
        data: dict[str, object] = {
            "subject": self.subject(),
            "tool": rng.choice(("ide", "chat", "ci", "gateway")),
            "model": UNPRICED_MODEL if rng.random() < 0.03 else rng.choice(MODELS),
            "input_tokens": read,
            "output_tokens": written,
        }
        if rng.random() < 0.3:
            data["cached_input_tokens"] = rng.randrange(read)
        if rng.random() < 0.1:
            data["cache_creation_tokens"] = rng.randrange(read - int(str(data.get("cached_input_tokens", 0))))
        if rng.random() < 0.2:
            data["reasoning_tokens"] = rng.randrange(written)
        if rng.random() < 0.2:
            data["service_tier"] = rng.choice(("batch", "priority", "standard"))
        if rng.random() < 0.4:
            data["project"] = rng.choice(self.projects)
        if rng.random() < 0.15:
            data["purpose"] = rng.choice(("experiment", "operational"))
        if rng.random() < 0.1:
            data["cost_micro_usd"] = rng.randrange(50_000)
        if rng.random() < 0.1:
            data["hold_id"] = f"h{rng.randrange(self.holds)}"
        if rng.random() < 0.02:
            data["vendor_remark"] = {"unknown": ["fields", "are", "ignored"]}
        return usage_event(f"/tools/{number % 7}", f"u{number:07d}", self.within(), **data)

    def settlement(self, number: int, said: int) -> Draft:
        """Draft what a hold's caller said; usage may name the hold as well, or have named it."""
        rng = self.rng
        data: dict[str, object] = {"subject": self.subject(), "cost_micro_usd": rng.randrange(20_000)}
        if rng.random() < 0.4:
            data["project"] = rng.choice(self.projects)
        if rng.random() < 0.15:
            data["purpose"] = "experiment"
        return settled_event(f"h{number}", f"s{number}-{said}", self.within(), **data)

    def correction(self, original: Draft, revision: int) -> Draft:
        read = self.rng.randrange(1, 50_000)
        quantities: dict[str, object] = {"input_tokens": read, "output_tokens": self.rng.randrange(5_000)}
        if self.rng.random() < 0.5:
            quantities["cached_input_tokens"] = self.rng.randrange(read)
        if self.rng.random() < 0.3:
            quantities["service_tier"] = "batch"
        if self.rng.random() < 0.2:
            quantities["cost_micro_usd"] = self.rng.randrange(20_000)
        return correction_event(original, revision, f"{original.id}-r{revision}", self.now, **quantities)

    def archived(self, number: int) -> Draft:
        """Draft usage from an archive, past the bound of lateness; the oldest beyond any policy's reach."""
        age = timedelta(days=self.rng.choice((80, 200, 350, 450, 700)), hours=self.rng.randrange(24))
        source = self.rng.choice(("/archive/counted", "/archive/reported"))
        person = self.rng.choice(self.people)
        return usage_event(source, f"a{number}", self.now - age, subject=person, cost_micro_usd=1000 + number)


def make_history(seed: int, now: datetime, usage_events: int, chunks: int) -> History:
    """Make the history of the exactly-once proof.

    Parameters
    ----------
    now
        Anchor of all times; not after the moment of sending, and at most a day before it.
    """
    rng = random.Random(seed)
    company = Company(rng, now, holds=max(10, usage_events // 20))
    originals = [company.usage(number) for number in range(usage_events)]
    # (when in the feed, what): arrival follows business time loosely, and some things come at any moment.
    sent: list[tuple[float, Message]] = []
    for draft in originals:
        arrival = 1 - (now - draft.time) / WINDOW + rng.gauss(0, 0.03)
        sent += [(arrival, _in_some_mode(rng, draft)), *_echoes(company, draft)]
    for number in range(0, company.holds, 2):  # of the others only usage says what they cost
        said = company.settlement(number, 1)
        sent.append((rng.random(), said.binary()))
        if rng.random() < 0.2:  # and once more
            again = said if rng.random() < 0.5 else company.settlement(number, 2)
            sent.append((rng.random(), again.binary()))
    for number in range(max(20, usage_events // 2000)):
        orphan = usage_event("/tools/lost", f"never-sent-{number}", now, subject=company.people[0])
        strays = (
            company.archived(number),
            company.correction(orphan, 1),
            source_test(f"test-{number}", now, company.people[0]),
            company.reuse(number),
        )
        sent += [(rng.random(), _in_some_mode(rng, stray)) for stray in strays]
    for serial in range(max(3 * len(POISONS), usage_events // 400)):
        kind = list(POISONS)[serial % len(POISONS)]
        if kind != "huge payload" or serial < HUGE_PAYLOADS * len(POISONS):
            _, make = POISONS[kind]
            sent.append((rng.random(), make(Brew(rng, rng.choice(originals), serial, now))))
    afterthoughts = company.afterthoughts()
    for number, draft in enumerate(afterthoughts, start=1):
        sent.append((number / (len(afterthoughts) + 1), _in_some_mode(rng, draft)))
        if rng.random() < 0.2:
            sent.append((2, _in_some_mode(rng, draft)))
    sent.sort(key=lambda each: each[0])
    ordered = [draft.binary() for draft in company.founding()] + [message for _, message in sent]
    size = -(-len(ordered) // chunks)
    return History(tuple(tuple(ordered[at : at + size]) for at in range(0, len(ordered), size)), usage_events)


def _in_some_mode(rng: random.Random, draft: Draft) -> Message:
    return draft.structured() if rng.random() < 0.05 else draft.binary()


def _echoes(company: Company, draft: Draft) -> list[tuple[float, Message]]:
    """Return what follows some events, or precedes them: repetitions and corrections."""
    rng = company.rng
    drawn = rng.random()
    echoes: list[Draft] = []
    if drawn < 0.03:
        defaults = {"cached_input_tokens": 0, "purpose": "operational", "service_tier": "standard"}
        spelt_out = replace(draft, data={**defaults, **draft.data})
        echoes = [rng.choice((draft, spelt_out)) for _ in range(rng.choice((1, 1, 2)))]
    elif drawn < 0.05:
        revisions = rng.sample((1, 2, 3), rng.choice((1, 1, 2, 3)))
        echoes = [company.correction(draft, revision) for revision in revisions]
    return [(rng.random(), _in_some_mode(rng, echo)) for echo in echoes]
