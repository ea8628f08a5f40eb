"""The ledger in memory, for tests of rules; the conformance suite holds it equal to PostgreSQL's."""

from collections.abc import AsyncIterator, Collection, Iterable, Mapping, Sequence
from operator import itemgetter
from typing import Any
from uuid import uuid4

from tokenomics_chassis.projection import Source
from tokenomics_contracts.units import AccountId, HoldId
from tokenomics_quota.domain.effective import LogOrder
from tokenomics_quota.domain.identity import Rival
from tokenomics_quota.ports import Corrections, GoverningVersion
from tokenomics_quota.projections.facts import AssetReuse, Fact, Postings, Received
from tokenomics_quota.projections.governance import GoverningEvent, Scope


class MemoryLedger:
    """Everything commits at once; nothing is concurrent."""

    def __init__(self) -> None:
        self.rows: dict[bytes, Fact] = {}
        self.posted: dict[AccountId, int] = {}
        self.by_day: dict[tuple[str, int], int] = {}
        self.known_rivals: dict[tuple[str, bytes], dict[LogOrder, Rival]] = {}
        self.reuses: set[tuple[int, AssetReuse]] = set()
        self.versions = [GoverningVersion(0, uuid4())]
        self.governing: dict[tuple[str, bytes], tuple[int, GoverningEvent]] = {}

    async def lock_governance(self, *, exclusive: bool) -> None:
        """Alone, a lock is free."""

    async def governing_version(self) -> GoverningVersion:
        return self.versions[-1]

    async def went_through(self, version: GoverningVersion) -> bool:
        return version in self.versions

    async def governing_events(self, *, after: int) -> Sequence[GoverningEvent]:
        in_order = sorted(self.governing.values(), key=itemgetter(0))
        return [event for version, event in in_order if version > after]

    async def governing_holders(
        self, topic: str, identities: Iterable[bytes]
    ) -> Mapping[bytes, GoverningEvent]:
        held = {identity: self.governing.get((topic, identity)) for identity in identities}
        return {identity: holder[1] for identity, holder in held.items() if holder}

    async def put_governing_events(self, events: Iterable[GoverningEvent], version: int) -> None:
        for event in events:
            self.governing[event.topic, event.identity] = (version, event)
        self.versions.append(GoverningVersion(version, uuid4()))

    async def put_reuses(self, reuses: Iterable[AssetReuse], source: Source) -> None:
        self.reuses |= {(source.source_id, reuse) for reuse in reuses}

    async def await_originals(self, identities: Iterable[bytes]) -> None:
        for identity in set(identities) - self.rows.keys():
            nothing: Any = (None,) * (len(Received._fields) - 3)
            self.rows[identity] = Fact(Received(identity, b"", "awaited", *nothing), None)

    async def facts(self, identities: Iterable[bytes]) -> dict[bytes, Fact]:
        return {identity: self.rows[identity] for identity in identities if identity in self.rows}

    async def corrections(self, originals: Iterable[bytes]) -> Corrections:
        wanted, found = set(originals), Corrections()
        for fact in self.rows.values():
            if fact.received.corrects in wanted:
                found.setdefault(fact.received.corrects, {})[fact.received.identity] = fact.received
        return found

    async def provisional(self, holds: Iterable[HoldId]) -> Sequence[Fact]:
        wanted = set(holds)
        return [
            fact
            for fact in self.rows.values()
            if fact.received.event_kind == "provisional" and fact.received.hold_id in wanted
        ]

    async def named(self, holds: Iterable[HoldId]) -> Collection[HoldId]:
        return set(holds) & {fact.received.names for fact in self.rows.values()}

    async def facts_in(self, scope: Scope) -> AsyncIterator[Sequence[Fact]]:
        yield [
            fact
            for fact in self.rows.values()
            if fact.received.event_kind in {"recorded", "provisional"}
            and fact.received.occurred_at >= scope.since
            and (
                scope.everything
                or (scope.priced and fact.derived is not None and fact.derived.pricing != "reported")
                or fact.received.subject in scope.subjects
            )
        ]

    async def insert(self, facts: Iterable[Fact]) -> None:
        for fact in facts:
            assert fact.received.identity not in self.rows
            self.rows[fact.received.identity] = fact

    async def update(self, facts: Iterable[Fact]) -> None:
        self.rows |= {fact.received.identity: fact for fact in facts}

    async def put_rivals(self, topic: str, rivals: Mapping[bytes, Iterable[Rival]]) -> None:
        for identity, each in rivals.items():
            known = self.known_rivals.setdefault((topic, identity), {})
            known |= {rival.order: rival for rival in each if rival.order not in known}

    async def rivals(self, topic: str, identities: Iterable[bytes]) -> Mapping[bytes, Sequence[Rival]]:
        known = {identity: self.known_rivals.get((topic, identity)) for identity in identities}
        return {identity: list(rivals.values()) for identity, rivals in known.items() if rivals}

    async def post(self, postings: Postings, source: Source) -> None:
        for account_id, amount in postings.by_account.items():
            self.posted[account_id] = self.posted.get(account_id, 0) + amount
        for day, amount in postings.by_day.items():
            self.by_day[day] = self.by_day.get(day, 0) + amount

    def totals(self) -> dict[AccountId, int]:
        return {account_id: total for account_id, total in self.posted.items() if total}

    def days(self) -> dict[tuple[str, int], int]:
        return {day: total for day, total in self.by_day.items() if total}
