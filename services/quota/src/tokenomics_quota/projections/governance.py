"""What governs facts and limits: directory, policies and approvals, folded from their events."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from copy import copy
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import lru_cache
from itertools import chain
from typing import Any, Final, NamedTuple, TypeVar

from tokenomics_contracts.events.approvals import ApprovalApproved, ApprovalLapsed, ApprovalRevoked
from tokenomics_contracts.events.base import Event
from tokenomics_contracts.events.directory import (
    CostCentreUpserted,
    DelegationEnded,
    DelegationUpserted,
    DirectoryEvent,
    GroupUpserted,
    PersonLeft,
    PersonUpserted,
    ProjectUpserted,
    ServiceUpserted,
    TeamUpserted,
)
from tokenomics_contracts.events.nominations import AssetPublished
from tokenomics_contracts.events.policy import (
    BaselineDocument,
    PolicyDocument,
    PolicyPublished,
    PriceBookDocument,
    QuotaDocument,
    SourcesDocument,
    UseCasesDocument,
)
from tokenomics_contracts.events.quota import PeriodClosed
from tokenomics_contracts.units import CostCentreId, MicroUsd, PeriodId, ProjectId, SubjectId, TeamId
from tokenomics_quota.domain.accounts import Account, AccountKind, Purpose
from tokenomics_quota.domain.approvals import (
    Approval,
    Approvals,
    CarriedOver,
    Ending,
    Grant,
    Granted,
    Justification,
    Leftovers,
    ModelAccess,
    Stretch,
    Target,
    Unlocks,
    granted_over_time,
    unlocked_over_time,
    while_reached,
)
from tokenomics_quota.domain.assets import NO_ASSETS, AssetVersion
from tokenomics_quota.domain.degradation import Degrade
from tokenomics_quota.domain.directory import (
    Attribution,
    Delegation,
    DelegationVersion,
    Directory,
    GroupVersion,
    Member,
    MemberVersion,
    Unit,
    UnitKey,
)
from tokenomics_quota.domain.effective import Effective, LogOrder, effective, in_force, latest_published
from tokenomics_quota.domain.findings import Rule
from tokenomics_quota.domain.friction import Thresholds
from tokenomics_quota.domain.friction_budgets import FrictionBudget
from tokenomics_quota.domain.periods import MonthCalendar, calendar
from tokenomics_quota.domain.permits import Permits
from tokenomics_quota.domain.policies import (
    NO_POLICY,
    NO_SOURCES,
    NO_USE_CASES,
    AlternativeRule,
    BackfillPermission,
    Limit,
    ListedVersion,
    ModelRule,
    Override,
    Published,
    QuotaPolicy,
    RegisteredUseCase,
    SourceMayBackfill,
    SourceRule,
    SourcesPolicy,
    UseCasesPolicy,
)
from tokenomics_quota.domain.pricing import PriceBook, PriceSource
from tokenomics_quota.domain.rollout import Rollout, Stages
from tokenomics_quota.domain.spikes import SpikeRule
from tokenomics_quota.domain.standing import Standing
from tokenomics_quota.domain.timeline import Timeline

Value = TypeVar("Value")

DIRECTORY_EVENTS = (
    PersonUpserted,
    PersonLeft,
    ServiceUpserted,
    TeamUpserted,
    ProjectUpserted,
    CostCentreUpserted,
    GroupUpserted,
    DelegationUpserted,
    DelegationEnded,
)
APPROVAL_EVENTS = (ApprovalApproved, ApprovalRevoked, ApprovalLapsed)
GRANTING_EVENTS = (*APPROVAL_EVENTS, PeriodClosed)
_CHANGES_KEPT = 100
_RESOLUTION = timedelta(microseconds=1)
POLICY_KINDS = frozenset({"quota", "price_book", "sources", "baseline", "use_cases"})
"""Policy kinds that quota reads; it passes the others by."""


class GoverningEvent(NamedTuple):
    """An event that others depend on, as log and ledger hold it; a state keeps what it says.

    Of the directory, of policies, approvals and what people share, or a closed period that carries something
    over.
    """

    topic: str
    identity: bytes
    digest: bytes
    order: LogOrder
    event: Event


@dataclass(frozen=True, slots=True, eq=False)
class _Change:
    """What one version changed. One object stands for one version: it equals itself."""

    targets: frozenset[Target] | None
    """For whom something holds that didn't, or the reverse; ``None``: for anybody."""


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


class Governance:
    """Directory, policies and approvals as of every instant.

    A value: events make another, which shares what they don't touch. It holds what the events say, ready for
    look-ups; the events themselves are the ledger's.

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
        self._changes: tuple[_Change, ...] = (_Change(None),)
        """Those that led here, of the last versions: states that were made of one another share them."""
        self._default_prices = default_prices
        self._policies: Mapping[str, tuple[Effective[Published], ...]] = dict.fromkeys(POLICY_KINDS, ())
        self._attributions: dict[str, Timeline[Attribution]] = {}
        self._texts: dict[str, str] = {}
        """One object for each id and name; states made of one another share the table, which only grows."""
        self.directory = Directory()
        self.approvals = Approvals()
        self.leftovers = Leftovers()
        self.quota_policies: Timeline[QuotaPolicy] = Timeline((), before=NO_POLICY)
        self.calendars: Timeline[MonthCalendar] = Timeline((), before=calendar(NO_POLICY.time_zone))
        self.price_books: Timeline[PriceBook] = Timeline(
            (), before=PriceBook.before_any_policy(default_prices)
        )
        self.use_cases: Timeline[UseCasesPolicy] = Timeline((), before=NO_USE_CASES)
        self.sources: Timeline[SourcesPolicy] = Timeline((), before=NO_SOURCES)
        self.assets = NO_ASSETS
        self._permits: dict[tuple[int, int, str | None], Permits | None] = {}
        """By version of the quota policy, version of the use cases policy, and role."""

    def with_events(self, events: Iterable[GoverningEvent], version: int) -> "Governance":
        """Return the state after these events, one of an identity, have come into force.

        One that takes another's identity takes its place.
        """
        known = list(events)
        described = [each for each in known if isinstance(each.event, DIRECTORY_EVENTS)]
        published = [each for each in known if isinstance(each.event, PolicyPublished)]
        decided = [each for each in known if isinstance(each.event, GRANTING_EVENTS)]
        shared = [each for each in known if isinstance(each.event, AssetPublished)]
        after = copy(self)
        after.version = version
        if described:
            after.directory = self._directory_with(described)
            after._attributions = {}
        if published:
            after._publish(published)
        if shared:
            after.assets = self.assets.with_versions(map(_asset, shared))
        targets = after._decide(decided) if decided else frozenset[Target]()
        change = _Change(None if described or published else targets)
        after._changes = (*self._changes[-_CHANGES_KEPT:], change)
        return after

    def changed_since(self, before: "Governance") -> frozenset[Target] | None:
        """Return whose accounts and calls may be governed otherwise than by another state.

        Of groups their members, whenever they were. ``None``: anybody's.
        """
        last = before._changes[-1]
        for place, change in enumerate(self._changes):
            if change is last:
                return self._all_of(each.targets for each in self._changes[place + 1 :])
        return None

    def changed_between(self, after: datetime, until: datetime) -> frozenset[Target] | None:
        """Return whose limits time alone may have changed after an instant and by another.

        ``None``: anybody's.
        """
        calendar = self.calendars.at(after)
        _, turn = calendar.bounds(calendar.period_of(after))
        if any(after < border <= until for border in chain([turn], self._changes_for_many())):
            return None
        return self._all_of([self.approvals.turning(after, until)])

    def _all_of(self, changes: Iterable[frozenset[Target] | None]) -> frozenset[Target] | None:
        found = set[Target]()
        for targets in changes:
            if targets is None:
                return None
            for kind, target_id in targets:
                if kind == "group":
                    found |= {("subject", each) for each in self.directory.ever_in_group(target_id)}
                else:
                    found.add((kind, target_id))
        return frozenset(found)

    def _directory_with(self, events: Iterable[GoverningEvent]) -> Directory:
        members: list[tuple[str, MemberVersion]] = []
        units: list[tuple[UnitKey, Effective[Unit]]] = []
        groups: list[tuple[str, GroupVersion]] = []
        delegations: list[tuple[str, DelegationVersion]] = []
        for governing in events:
            event, one = governing.event, self._remember
            if isinstance(event, PersonUpserted | PersonLeft | ServiceUpserted):
                members.append((one(event.key), _effective(governing, _member(event, one))))
            elif isinstance(event, GroupUpserted):
                groups.append((one(event.key), _effective(governing, tuple(map(one, event.member_ids)))))
            elif isinstance(event, DelegationUpserted | DelegationEnded):
                delegations.append((one(event.key), _effective(governing, _delegation(event, one))))
            else:
                unit_key = (one(event.key_field.removesuffix("_id")), one(event.key))
                units.append((unit_key, _effective(governing, _unit(event, one))))
        return self.directory.changed(members, units, groups, delegations)

    def _decide(self, events: Iterable[GoverningEvent]) -> frozenset[Target]:
        """Take in what was approved, ended and left over; return for whom that changes something."""
        approved, ended = list[Approval](), list[Ending]()
        left: list[tuple[Target, datetime, datetime, MicroUsd]] = []
        for governing in events:
            event, one = governing.event, self._remember
            if isinstance(event, ApprovalApproved):
                approved.append(_approval(governing, event, one))
            elif isinstance(event, ApprovalRevoked | ApprovalLapsed):
                ended.append(Ending(one(event.key), event.ended_at, governing.identity))
            elif isinstance(event, PeriodClosed) and (carried := event.carry_over):
                owner = (one(event.kind), one(event.owner_id))
                left.append((owner, carried.starts_at, carried.ends_at, carried.amount_micro_usd))
        self.approvals, decided_for = self.approvals.changed(approved, ended)
        if not left:
            return decided_for
        self.leftovers, left_to = self.leftovers.changed(left)
        return decided_for | left_to

    def forgetting(self, before: datetime) -> "Governance":
        """Return the state without what was carried over to periods that had ended by an instant."""
        after = copy(self)
        after.leftovers = self.leftovers.since(before)
        return after

    def supposing(self, documents: Mapping[str, PolicyDocument], since: datetime) -> "Governance":
        """Return the state that would be had these documents, by kind, been published last, from then on.

        They leave what governed before that instant as it was, and the version of the state, too.
        """
        published = []
        for kind, document in documents.items():
            newest = max(self._policies[kind], key=latest_published, default=None)
            order = newest.order if newest else LogOrder(int(since.timestamp() * 1000), 0, 0)
            version = newest.value.version if newest else 0
            event = PolicyPublished.model_construct(
                kind=kind,
                version=version + 1,
                replaces=version or None,
                effective_from=since,
                document=document,
            )
            later = order._replace(offset=order.offset + 1)
            published.append(GoverningEvent("", f"supposed {kind}".encode(), b"", later, event))
        return self.with_events(published, self.version)

    def _publish(self, events: Iterable[GoverningEvent]) -> None:
        published = dict(self._policies)
        for governing in events:
            event = governing.event
            assert isinstance(event, PolicyPublished)
            policy = _effective(governing, self._published(event))
            for kind, versions in published.items():
                published[kind] = tuple(each for each in versions if each.identity != policy.identity)
            published[event.kind] += (policy,)
        self._policies = published
        self.quota_policies = self._timeline("quota", NO_POLICY)
        self.calendars = Timeline(
            [(start, calendar(policy.time_zone)) for start, policy in self.quota_policies.steps()],
            before=calendar(NO_POLICY.time_zone),
        )
        self.price_books = self._timeline("price_book", PriceBook.before_any_policy(self._default_prices))
        self.use_cases = self._timeline("use_cases", NO_USE_CASES)
        self.sources = self._timeline("sources", NO_SOURCES)
        self._permits = {}

    def _timeline(self, kind: str, before: Value) -> Timeline[Value]:
        steps: list[tuple[datetime, Any]] = [
            (start, version.value.rules) for start, version in self._in_force(kind).steps() if version
        ]
        return Timeline(steps, before)

    def _in_force(self, kind: str) -> Timeline[Effective[Published] | None]:
        return in_force(self._policies[kind], latest_published)

    def _published(self, published: PolicyPublished) -> Published:
        document, version = published.document, published.version
        assert not isinstance(document, dict), "of a kind that quota doesn't read"
        text = document.model_dump_json(by_alias=True, exclude_none=True).encode()
        return Published(version, published.replaces, text, self._rules(document, version))

    def _rules(
        self, document: PolicyDocument, version: int
    ) -> QuotaPolicy | PriceBook | SourcesPolicy | UseCasesPolicy | None:
        match document:
            case QuotaDocument():
                return _quota_policy(document, version, self._remember)
            case PriceBookDocument():
                return PriceBook.from_document(document, version=version, default=self._default_prices)
            case SourcesDocument():
                return _sources_policy(document, version)
            case UseCasesDocument():
                return _use_cases_policy(document, version)
            case BaselineDocument():
                return None

    def _remember(self, text: str) -> str:
        return self._texts.setdefault(text, text)

    def remembered(self, text: str) -> str:
        """Return the directory's own object for an id that it has, the text itself for another.

        An id stands in many places: in each it takes 8 bytes when all hold one object.
        """
        return self._texts.get(text, text)

    def attribution(self, subject: str) -> Timeline[Attribution]:
        """Return who carries the usage of a subject id or alias, over time.

        Kept for who asks again, as the fold does with every event; who asks once asks the directory.
        """
        timeline = self._attributions.get(subject)
        if timeline is None:
            timeline = self.directory.attribution(subject)
            if timeline.starts:  # kept for nobody unknown: such names are without number
                self._attributions[subject] = timeline
        return timeline

    def people_of(self, kind: AccountKind, unit_id: str, at: datetime) -> Iterator[Member]:
        """Return the people (no services) counted in a team, project or cost centre at an instant.

        Looks at members one by one, no further than it is asked to.
        """
        for subject in self.directory.ever_in(kind.value, unit_id):
            version = self.directory.member(subject).at(at)
            if version is None or version.value.left or not version.value.is_person:
                continue
            _, team_id, cost_centre_id = self.attribution(subject).at(at)
            counted_on = {
                (AccountKind.TEAM, team_id),
                (AccountKind.COST_CENTRE, cost_centre_id),
                *((AccountKind.PROJECT, project_id) for project_id in version.value.project_ids),
            }
            if (kind, unit_id) in counted_on:
                yield version.value

    def carriers(
        self, kind: AccountKind, unit_id: str, since: datetime, until: datetime
    ) -> Iterator[tuple[str, Sequence[Attribution]]]:
        """Return who may have been counted in a unit, and was there, from one instant to another.

        People alone, each with who carried their usage meanwhile.
        """
        for subject in self.directory.ever_in(kind.value, unit_id):
            versions = [each for each in self.directory.member(subject).during(since, until) if each]
            if any(each.value.is_person and not each.value.left for each in versions):
                yield subject, self.attribution(subject).during(since, until)

    def limit(
        self, kind: AccountKind, owner_id: str, at: datetime, purpose: Purpose = Purpose.ALL
    ) -> Limit | None:
        """Return the limit of an account at an instant without its grants; ``None`` is unlimited.

        A person or service has one for all purposes together: the role's allowance, and what the projects
        make of it whose member they are at the instant, whatever a call is for. Who left has an allowance of
        zero. A subject the directory doesn't know, or an alias, has no account of its own to limit: what it
        uses is counted elsewhere.
        """
        policy = self.quota_policies.at(at)
        if kind is AccountKind.SUBJECT:
            member = self.directory.member(owner_id).at(at) if purpose is Purpose.ALL else None
            if member is None:
                return None
            allowance = policy.allowance(member.value.role)
            if not member.value.left:
                return policy.overridden(allowance, member.value.project_ids)
            return Limit(MicroUsd(0), hard=allowance is not None and allowance.hard)
        return policy.budget(kind, owner_id, purpose)

    def granted(self, account: Account) -> Timeline[Granted]:
        """Return what grants add to the limit of an account, for all purposes, over time; it has to have one.

        A grant to a group is there for each of its members. Nothing is granted to who has left.
        """
        grants = (
            (stretch, what)
            for stretch in self._reaching(account.kind, account.owner_id)
            if isinstance(what := stretch.held.what, Grant)
            and (what.each_period or self._period_of(stretch.held.starts_at) == account.period)
        )
        return granted_over_time(grants)

    def unlocks(self, carrier: Attribution, project_id: str | None) -> Timeline[Unlocks]:
        """Return what is unlocked over time for calls that are counted so."""
        owners = (
            (AccountKind.SUBJECT, carrier.subject_id),
            (AccountKind.PROJECT, project_id),
            (AccountKind.TEAM, carrier.team_id),
            (AccountKind.COST_CENTRE, carrier.cost_centre_id),
        )
        return unlocked_over_time(
            stretch for kind, owner_id in owners if owner_id for stretch in self._reaching(kind, owner_id)
        )

    def _reaching(self, kind: AccountKind, owner_id: str) -> Iterator[Stretch]:
        """Return when what is approved, and what was carried over, reaches the owner of an account."""
        if not self.approvals and not self.leftovers:
            return
        person_or_service = kind is AccountKind.SUBJECT
        targets: list[tuple[Target, list[Timeline[bool]]]] = [((kind, owner_id), [])]
        if person_or_service:
            groups = self.directory.groups_of(owner_id)
            targets += [(("group", group_id), [membership]) for group_id, membership in groups]
        for target, conditions in targets:
            found: list[Approval | CarriedOver] = [*self.approvals.of_target(target)]
            found += self.leftovers.of(target)
            if found and person_or_service:
                conditions.append(self.directory.presence(owner_id))
            for held in found:
                yield from while_reached(held, *conditions)

    def _period_of(self, instant: datetime) -> PeriodId:
        return self.calendars.at(instant).period_of(instant)

    def standing(self, carrier: Attribution, project_id: str | None, at: datetime) -> Standing:
        """Return what somebody whose calls are counted so is to the rules."""
        unlocks = self.unlocks(carrier, project_id).at(at)
        member = self.directory.member(carrier.subject_id).at(at) if carrier.subject_id else None
        role, team_id = (member.value.role, member.value.team_id) if member else (None, None)
        rollout = self.quota_policies.at(at).rollout
        return Standing(
            role,
            team_id,
            self._permits_of(role, at),
            unlocks,
            self.stages(team_id, at).at(at),
            rollout.cohort(team_id),
            _shares(member.value, project_id) if member else _NO_SHARE,
        )

    def members(self, account: Account) -> Timeline[int]:
        """Return how many share a shared account over time; a person's or service's own has no members."""
        if account.kind is AccountKind.SUBJECT:
            return _NOBODY
        return self.directory.headcount(account.kind.value, account.owner_id)

    def stages(self, team_id: str | None, at: datetime) -> Timeline[Stages]:
        """Return how far each rule is rolled out for a team over time, by the policy of an instant."""
        first_seen = self.directory.first_seen("team", team_id) if team_id else None
        return self.quota_policies.at(at).rollout.stages(team_id, first_seen)

    def _permits_of(self, role: str | None, at: datetime) -> Permits | None:
        """Return what a role may call, one object for all who have it; ``None``: anything."""
        policy, use_cases = self.quota_policies.at(at), self.use_cases.at(at)
        key = (policy.version, use_cases.version, role)
        if key not in self._permits:
            stated = (
                policy.models is not None
                or policy.prohibited_data
                or policy.alternatives
                or use_cases.unregistered != "allow"
            )
            self._permits[key] = (
                Permits(policy.models, policy.prohibited_data, use_cases, role, policy.alternatives)
                if stated
                else None
            )
        return self._permits[key]

    def instant_in(self, period: PeriodId, now: datetime) -> datetime:
        """Return the instant of a period that is nearest to now: a past one is judged as it ended."""
        start, end = self.calendars.at(now).bounds(period)
        return min(max(now, start), end - _RESOLUTION)

    def next_change(self, after: datetime) -> datetime:
        """Return when time alone may change a limit next: by a version, a grant or a period."""
        calendar = self.calendars.at(after)
        _, turn = calendar.bounds(calendar.period_of(after))
        starts = chain(self._changes_for_many(), self.approvals.changes())
        return min([turn, *(start for start in starts if start > after)])

    def _changes_for_many(self) -> Iterator[datetime]:
        """Return the instants at which something else may begin or end to hold than what was approved."""
        return chain(
            self.directory.member_changes(),
            self.directory.group_changes(),
            self.leftovers.changes(),
            (version.effective_from for version in self._policies["quota"]),
        )

    def replaceable(self, kind: str, order: LogOrder) -> int | None:
        """Return the version that a policy event at this place of the log must replace."""
        earlier = [version for version in self._policies[kind] if version.order < order]
        return max(earlier, key=latest_published).value.version if earlier else None

    def newest(self, kind: str) -> int | None:
        """Return the version that the next one must replace."""
        versions = self._policies[kind]
        return max(versions, key=latest_published).value.version if versions else None

    def published(self, kind: str, now: datetime) -> Sequence[ListedVersion]:
        """Return the versions of a kind that were written against one another, the newest first."""
        timeline = self._in_force(kind)
        in_force = timeline.at(now)
        counting = [in_force, *(version for start, version in timeline.steps() if start > now)]
        return [
            ListedVersion(
                each.value, each.effective_from, in_force=each is in_force, superseded=each not in counting
            )
            for each in sorted(self._policies[kind], key=latest_published, reverse=True)
        ]

    def backfill(self, source: str, appended_at: datetime) -> BackfillPermission:
        """Return whether a source may bring in an event, appended then, that is too late.

        The first permission in the log that covers the append time counts, from its effective time to its own
        end. Later versions may add permissions and never take one back: what counts already stays, and the
        answer is the same whether policy or usage was read first.
        """
        for version in sorted(self._policies["sources"], key=latest_published):
            assert isinstance(version.value.rules, SourcesPolicy)
            for entry in version.value.rules.may_backfill:
                if (
                    entry.source == source
                    and version.effective_from <= appended_at
                    and (entry.until is None or appended_at < entry.until)
                ):
                    return BackfillPermission(True, entry.counts_in_balances)
        return BackfillPermission(allowed=False, counts_in_balances=False)

    def scopes(self, before: "Governance", events: Iterable[GoverningEvent]) -> list[Scope]:
        """Return which facts these events may have changed since another state: one scope of a kind.

        What grants something changes none, for it is about limits; nor does what is shared.
        """
        of_no_fact = (*GRANTING_EVENTS, AssetPublished)
        described = [event for event in events if not isinstance(event.event, of_no_fact)]
        found = [scope for event in described if (scope := self._scope(before, event)) is not None]
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
        event, since = governing.event, _effective(governing, None).applies_from
        if isinstance(event, PolicyPublished):
            if event.kind == "price_book":
                return Scope(since, priced=True)
            if event.kind == "quota" and before.calendars.steps() != self.calendars.steps():
                return Scope(since, everything=True)
            return None
        if isinstance(event, TeamUpserted):
            return Scope(since, _union(state.directory.ever_in_team(event.key) for state in (before, self)))
        if isinstance(event, PersonUpserted | PersonLeft | ServiceUpserted):
            aliases = _union(state.directory.aliases(event.key) for state in (before, self))
            return Scope(since, aliases | {event.key})
        return None


_NOBODY: Final[Timeline[int]] = Timeline((), before=0)
_NO_SHARE: Final = frozenset[AccountKind]()
_SHARE: Final = frozenset({AccountKind.TEAM, AccountKind.COST_CENTRE})
_SHARE_OF_PROJECT_TOO: Final = _SHARE | {AccountKind.PROJECT}


def _shares(member: Member, project_id: str | None) -> frozenset[AccountKind]:
    """Return the kinds of the shared accounts that somebody has a fair share of."""
    if member.left:
        return _NO_SHARE
    return _SHARE_OF_PROJECT_TOO if project_id in member.project_ids else _SHARE


def _union(sets: Iterable[Iterable[str]]) -> frozenset[str]:
    return frozenset().union(*sets)


def _effective(governing: GoverningEvent, value: Value) -> Effective[Value]:
    assert isinstance(governing.event, PolicyPublished | DirectoryEvent)
    since = _one_of_equals(governing.event.effective_from)
    return effective(value, since, governing.order, governing.identity)


@lru_cache(maxsize=1_024)
def _one_of_equals(instant: datetime) -> datetime:
    """Return one object for instants that are the same: most of a company's versions begin on few days."""
    return instant


def _asset(governing: GoverningEvent) -> AssetVersion:
    event = governing.event
    assert isinstance(event, AssetPublished)
    use_cases = frozenset(event.use_cases)
    return AssetVersion(
        event.asset_id, event.nominee, use_cases, event.published_at, governing.order, governing.identity
    )


def _approval(governing: GoverningEvent, event: ApprovalApproved, one: Callable[[str], str]) -> Approval:
    what: Grant | Justification | ModelAccess
    if event.kind == "justification":
        what = Justification()
    elif event.kind == "model_access":
        models = tuple((model.provider, model.model) for model in event.models)
        what = ModelAccess(models, event.data_classes)
    else:
        assert event.amount_micro_usd is not None
        what = Grant(event.amount_micro_usd, event.overdraft, event.counts_in == "each_period")
    target = (one(event.target.kind), one(event.target.id))
    return Approval(
        one(event.key), target, event.starts_at, event.expires_at, what, governing.order, governing.identity
    )


def _delegation(event: DelegationUpserted | DelegationEnded, one: Callable[[str], str]) -> Delegation | None:
    if isinstance(event, DelegationEnded):
        return None
    return Delegation(SubjectId(one(event.delegator_id)), SubjectId(one(event.delegate_id)), event.ends_at)


def _unit(event: Event, one: Callable[[str], str]) -> Unit:
    assert isinstance(event, TeamUpserted | ProjectUpserted | CostCentreUpserted)
    cost_centre_id = None if isinstance(event, CostCentreUpserted) else event.cost_centre_id
    return Unit(
        owner_id=SubjectId(one(event.owner_id)) if event.owner_id else None,
        cost_centre_id=CostCentreId(one(cost_centre_id)) if cost_centre_id else None,
    )


def _member(event: PersonUpserted | PersonLeft | ServiceUpserted, one: Callable[[str], str]) -> Member | None:
    if isinstance(event, PersonLeft):
        return None
    if isinstance(event, PersonUpserted):
        responsible_id, cost_centre_id = event.manager_id, event.cost_centre_id
        privileges: tuple[str, ...] = event.privileges
    else:
        responsible_id, cost_centre_id, privileges = event.responsible_person_id, None, ()
    return Member(
        subject_id=SubjectId(one(event.key)),
        role=one(event.role),
        team_id=TeamId(one(event.team_id)),
        cost_centre_id=CostCentreId(one(cost_centre_id)) if cost_centre_id else None,
        responsible_id=SubjectId(one(responsible_id)) if responsible_id else None,
        project_ids=tuple(ProjectId(one(project_id)) for project_id in event.project_ids),
        aliases=event.aliases,
        privileges=privileges,
        is_person=isinstance(event, PersonUpserted),
    )


def _quota_policy(document: QuotaDocument, version: int, one: Callable[[str], str]) -> QuotaPolicy:
    return QuotaPolicy(
        version=version,
        time_zone=document.time_zone,
        thresholds=Thresholds.from_policy(document.thresholds),
        allowances={allowance.role: Limit.from_policy(allowance) for allowance in document.allowances},
        default_allowance=_default_allowance(document),
        budgets={
            (AccountKind(budget.kind), one(budget.owner_id)): Limit.from_policy(budget)
            for budget in document.budgets
        },
        degrade=Degrade.from_policy(document.degrade),
        rollout=Rollout(document.rollout),
        friction={Rule(each.rule): FrictionBudget.from_policy(each) for each in document.friction},
        spikes=SpikeRule.from_policy(document.spikes) if document.spikes else None,
        models=None if document.models is None else tuple(map(ModelRule.from_policy, document.models)),
        overrides={
            one(each.project_id): Override(each.mode == "replace", each.limit_micro_usd)
            for each in document.overrides
        },
        experiments={
            (AccountKind(budget.kind), one(budget.owner_id)): Limit(limit, budget.enforcement == "hard")
            for budget in document.budgets
            if (limit := budget.experiment_limit_micro_usd) is not None
        },
        prohibited_data={each.data_class: each.permitted_way for each in document.prohibited_data},
        alternatives=tuple(map(AlternativeRule.from_policy, document.alternatives)),
        forecast_from_day=document.forecast_from_day,
        close_after=timedelta(days=document.close_after_days),
    )


def _default_allowance(document: QuotaDocument) -> Limit | None:
    amount = document.default_allowance_micro_usd
    if amount is None:
        return None
    hard = document.default_allowance_enforcement == "hard"
    cap = document.default_allowance_carry_over_cap_micro_usd
    return Limit(amount, hard, allowance_micro_usd=amount, carry_over_cap=cap)


def _sources_policy(document: SourcesDocument, version: int) -> SourcesPolicy:
    return SourcesPolicy(
        version,
        tuple(
            SourceMayBackfill(entry.source, entry.backfill_until, entry.backfill_counts_in_balances)
            for entry in document.sources
            if entry.may_backfill
        ),
        {
            entry.source: SourceRule(
                entry.owner_id,
                None if entry.silent_after_seconds is None else timedelta(seconds=entry.silent_after_seconds),
            )
            for entry in document.sources
        },
    )


def _use_cases_policy(document: UseCasesDocument, version: int) -> UseCasesPolicy:
    return UseCasesPolicy(
        version,
        {
            each.use_case_id: RegisteredUseCase(
                each.approved, None if each.data_classes is None else frozenset(each.data_classes)
            )
            for each in document.use_cases
        },
        document.unregistered,
    )
