"""What governs facts and limits: the directory and the policies, folded from their events."""

from collections.abc import Callable, Iterable, Sequence
from copy import copy
from datetime import datetime
from typing import NamedTuple, TypeVar

from tokenomics_contracts.events.base import Event
from tokenomics_contracts.events.directory import (
    CostCentreUpserted,
    DirectoryEvent,
    PersonLeft,
    PersonUpserted,
    ProjectUpserted,
    ServiceUpserted,
    TeamUpserted,
)
from tokenomics_contracts.events.policy import (
    PolicyPublished,
    PriceBookDocument,
    QuotaDocument,
    SourcesDocument,
)
from tokenomics_contracts.units import MicroUsd, SubjectId
from tokenomics_quota.domain.accounts import AccountKind
from tokenomics_quota.domain.degradation import Degrade
from tokenomics_quota.domain.directory import Attribution, Directory, Member, MemberVersion, Unit
from tokenomics_quota.domain.effective import Effective, LogOrder, in_force, latest_published
from tokenomics_quota.domain.friction import Thresholds
from tokenomics_quota.domain.periods import MonthCalendar, calendar
from tokenomics_quota.domain.policies import NO_POLICY, BackfillPermission, QuotaPolicy
from tokenomics_quota.domain.pricing import PriceBook, PriceSource
from tokenomics_quota.domain.timeline import Timeline

Value = TypeVar("Value")

DIRECTORY_EVENTS = (
    PersonUpserted,
    PersonLeft,
    ServiceUpserted,
    TeamUpserted,
    ProjectUpserted,
    CostCentreUpserted,
)
POLICY_KINDS = frozenset({"quota", "price_book", "sources"})
"""Policy kinds that quota reads; it passes the others by."""


class GoverningEvent(NamedTuple):
    """A directory or policy event in force."""

    topic: str
    identity: bytes
    digest: bytes
    order: LogOrder
    event: Event


class Scope(NamedTuple):
    """Which facts a governing event may change: all it touches, and hardly more."""

    since: datetime
    """Event time from which on facts may change."""
    subjects: frozenset[str] = frozenset()
    """Facts of these subject ids and aliases."""
    priced: bool = False
    """Facts that a price book or its fallback prices: all but those whose cost was reported."""
    everything: bool = False
    """All facts."""


Entity = tuple[str, str]
"""What a governing event describes: ("member", id), (kind of unit, id) or ("policy", kind)."""


class Governance:
    """Directory and policies as of every instant.

    A value: events make another, which shares what they don't touch.

    Parameters
    ----------
    default_prices
        Asked for models that no published price book names.

    Attributes
    ----------
    version
        Number of the transaction that made this state.
    """

    def __init__(self, default_prices: PriceSource) -> None:
        self.version = 0
        self._default_prices = default_prices
        self._events: dict[tuple[str, bytes], GoverningEvent] = {}
        self._by_entity: dict[Entity, dict[bytes, GoverningEvent]] = {}
        self._policies: dict[str, Sequence[Effective[PolicyPublished]]] = dict.fromkeys(POLICY_KINDS, ())
        self.directory = Directory()
        self.quota_policies: Timeline[QuotaPolicy] = Timeline((), before=NO_POLICY)
        self.calendars: Timeline[MonthCalendar] = Timeline((), before=calendar(NO_POLICY.time_zone))
        self.price_books: Timeline[PriceBook] = Timeline(
            (), before=PriceBook.before_any_policy(default_prices)
        )

    def with_events(self, events: Iterable[GoverningEvent], version: int) -> "Governance":
        """Return the state after these events have come into force or taken another's identity."""
        after = copy(self)
        after.version = version
        after._events = self._events.copy()
        after._by_entity = self._by_entity.copy()
        touched: set[Entity] = set()
        for event in events:
            key = (event.topic, event.identity)
            former = after._events.get(key)
            after._events[key] = event
            for entity in {_entity(event), *([_entity(former)] if former else [])}:
                if entity not in touched:
                    touched.add(entity)
                    after._by_entity[entity] = dict(after._by_entity.get(entity, {}))
            if former:
                del after._by_entity[_entity(former)][event.identity]
            after._by_entity[_entity(event)][event.identity] = event
        after._describe(touched)
        return after

    def _describe(self, touched: Iterable[Entity]) -> None:
        members: dict[str, Sequence[MemberVersion]] = {}
        units: dict[tuple[str, str], Sequence[Effective[Unit]]] = {}
        for kind, owner_id in touched:
            described = self._by_entity[kind, owner_id].values()
            if kind == _MEMBER:
                members[owner_id] = [_effective(each, _member) for each in described]
            elif kind == _POLICY:
                versions = [_effective(each, _policy) for each in described]
                self._policies = {**self._policies, owner_id: versions}
                self._convert(owner_id)
            else:
                units[kind, owner_id] = [_effective(each, _unit) for each in described]
        if members or units:
            self.directory = self.directory.changed(members, units)

    def _convert(self, kind: str) -> None:
        if kind == "quota":
            self.quota_policies = self._timeline(kind, _quota_policy, NO_POLICY)
            self.calendars = Timeline(
                [(start, calendar(policy.time_zone)) for start, policy in self.quota_policies.steps()],
                before=calendar(NO_POLICY.time_zone),
            )
        elif kind == "price_book":
            self.price_books = self._timeline(
                kind, self._price_book, PriceBook.before_any_policy(self._default_prices)
            )

    def holder(self, topic: str, identity: bytes) -> GoverningEvent | None:
        """Return the event that holds an identity."""
        return self._events.get((topic, identity))

    def attribution(self, subject: str) -> Timeline[Attribution]:
        """Return who carries the usage of a subject id or alias, over time."""
        return self.directory.attribution(subject)

    def limit(self, kind: AccountKind, owner_id: str, at: datetime) -> MicroUsd | None:
        """Return the limit of an account at an instant; ``None`` is unlimited.

        Who left has an allowance of zero. A subject the directory doesn't know, or an alias, has no account
        of its own to limit: what it uses is counted elsewhere.
        """
        policy = self.quota_policies.at(at)
        if kind is AccountKind.SUBJECT:
            member = self.directory.member(owner_id).at(at)
            if member is None:
                return None
            return MicroUsd(0) if member.value.left else policy.allowance(member.value.role)
        return policy.budget(kind, owner_id)

    def next_change(self, after: datetime) -> datetime:
        """Return when time alone may change a limit next: a version takes effect, or the period turns."""
        calendar = self.calendars.at(after)
        _, turn = calendar.bounds(calendar.period_of(after))
        starts = (
            _effective_from(governing)
            for (kind, owner_id), described in self._by_entity.items()
            if kind == _MEMBER or (kind, owner_id) == (_POLICY, "quota")
            for governing in described.values()
        )
        return min([turn, *(start for start in starts if start > after)])

    def replaceable(self, kind: str, order: LogOrder) -> int | None:
        """Return the version that a policy event at this place of the log must replace."""
        earlier = [version for version in self._policies[kind] if version.order < order]
        return max(earlier, key=latest_published).value.version if earlier else None

    def backfill(self, source: str, appended_at: datetime) -> BackfillPermission:
        """Return whether a source may bring in an event, appended then, that is too late.

        The first permission in the log that covers the append time counts, from its effective time to its own
        end. Later versions may add permissions and never take one back: what counts already stays, and the
        answer is the same whether policy or usage was read first.
        """
        for version in sorted(self._policies["sources"], key=latest_published):
            document = version.value.document
            assert isinstance(document, SourcesDocument)
            for entry in document.sources:
                if (
                    entry.source == source
                    and entry.may_backfill
                    and version.effective_from <= appended_at
                    and (entry.backfill_until is None or appended_at < entry.backfill_until)
                ):
                    return BackfillPermission(True, entry.backfill_counts_in_balances)
        return BackfillPermission(allowed=False, counts_in_balances=False)

    def scopes(self, before: "Governance", events: Iterable[GoverningEvent]) -> list[Scope]:
        """Return which facts these events may have changed since another state: one scope of a kind."""
        found = [scope for event in events if (scope := self._scope(before, event)) is not None]
        merged = []
        if of_subjects := [scope for scope in found if scope.subjects]:
            since = min(scope.since for scope in of_subjects)
            merged.append(Scope(since, _union(scope.subjects for scope in of_subjects)))
        if of_prices := [scope.since for scope in found if scope.priced]:
            merged.append(Scope(min(of_prices), priced=True))
        if of_everything := [scope.since for scope in found if scope.everything]:
            merged.append(Scope(min(of_everything), everything=True))
        return merged

    def _scope(self, before: "Governance", governing: GoverningEvent) -> Scope | None:
        event = governing.event
        if isinstance(event, PolicyPublished):
            since = Effective(event.effective_from, governing.order, event).applies_from
            if event.kind == "price_book":
                return Scope(since, priced=True)
            if event.kind == "quota" and before.calendars.steps() != self.calendars.steps():
                return Scope(since, everything=True)
            return None
        assert isinstance(event, DIRECTORY_EVENTS)
        since = Effective(event.effective_from, governing.order, event).applies_from
        if isinstance(event, TeamUpserted):
            return Scope(since, _union(state.directory.ever_in_team(event.key) for state in (before, self)))
        if isinstance(event, PersonUpserted | PersonLeft | ServiceUpserted):
            aliases = _union(state.directory.aliases(event.key) for state in (before, self))
            return Scope(since, aliases | {event.key})
        return None

    def _timeline(
        self, kind: str, convert: Callable[[PolicyPublished], Value], before: Value
    ) -> Timeline[Value]:
        """Convert each version once, however many instants it is in force from."""
        converted = {version.order: convert(version.value) for version in self._policies[kind]}
        steps = in_force(self._policies[kind], latest_published).steps()
        return Timeline(
            [(start, converted[version.order]) for start, version in steps if version is not None], before
        )

    def _price_book(self, published: PolicyPublished) -> PriceBook:
        assert isinstance(published.document, PriceBookDocument)
        return PriceBook.from_document(
            published.document, version=published.version, default=self._default_prices
        )


def _union(sets: Iterable[Iterable[str]]) -> frozenset[str]:
    return frozenset().union(*sets)


_MEMBER = "member"
_POLICY = "policy"


def _entity(governing: GoverningEvent) -> Entity:
    event = governing.event
    if isinstance(event, PolicyPublished):
        return _POLICY, event.kind
    if isinstance(event, PersonUpserted | PersonLeft | ServiceUpserted):
        return _MEMBER, event.key
    return event.key_field.removesuffix("_id"), event.key


def _effective_from(governing: GoverningEvent) -> datetime:
    assert isinstance(governing.event, PolicyPublished | DirectoryEvent)
    return governing.event.effective_from


def _effective(governing: GoverningEvent, describe: Callable[[Event], Value]) -> Effective[Value]:
    return Effective(_effective_from(governing), governing.order, describe(governing.event))


def _policy(event: Event) -> PolicyPublished:
    assert isinstance(event, PolicyPublished)
    return event


def _unit(event: Event) -> Unit:
    assert isinstance(event, TeamUpserted | ProjectUpserted | CostCentreUpserted)
    cost_centre_id = None if isinstance(event, CostCentreUpserted) else event.cost_centre_id
    return Unit(SubjectId(event.owner_id) if event.owner_id else None, cost_centre_id)


def _member(event: Event) -> Member | None:
    if isinstance(event, PersonLeft):
        return None
    assert isinstance(event, PersonUpserted | ServiceUpserted)
    if isinstance(event, PersonUpserted):
        responsible_id, cost_centre_id = event.manager_id, event.cost_centre_id
        privileges = frozenset[str](event.privileges)
    else:
        responsible_id, cost_centre_id, privileges = event.responsible_person_id, None, frozenset()
    return Member(
        subject_id=SubjectId(event.key),
        role=event.role,
        team_id=event.team_id,
        cost_centre_id=cost_centre_id,
        responsible_id=SubjectId(responsible_id) if responsible_id else None,
        project_ids=frozenset(event.project_ids),
        aliases=frozenset(event.aliases),
        privileges=privileges,
    )


def _quota_policy(published: PolicyPublished) -> QuotaPolicy:
    document = published.document
    assert isinstance(document, QuotaDocument)
    return QuotaPolicy(
        version=published.version,
        time_zone=document.time_zone,
        thresholds=Thresholds.from_policy(document.thresholds),
        allowances={allowance.role: allowance.limit_micro_usd for allowance in document.allowances},
        default_allowance=document.default_allowance_micro_usd,
        budgets={
            (AccountKind(budget.kind), budget.owner_id): budget.limit_micro_usd for budget in document.budgets
        },
        degrade=Degrade.from_policy(document.degrade),
    )
