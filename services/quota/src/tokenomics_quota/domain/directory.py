"""Who a subject is, and which team and cost centre carry its usage, at any instant."""

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from copy import copy
from datetime import datetime
from itertools import chain
from typing import NamedTuple, TypeVar, cast

from tokenomics_contracts.units import CostCentreId, ProjectId, SubjectId, TeamId
from tokenomics_quota.domain.effective import Effective, effective_dated, in_force
from tokenomics_quota.domain.timeline import Timeline, total, while_holding


class Member(NamedTuple):
    """A person or a service as the directory describes it from an instant on."""

    subject_id: SubjectId
    role: str
    team_id: TeamId
    cost_centre_id: CostCentreId | None
    responsible_id: SubjectId | None
    """Who decides for it: a person's manager, a service's responsible person."""
    project_ids: tuple[ProjectId, ...]
    aliases: tuple[str, ...]
    privileges: tuple[str, ...]
    left: bool = False
    """Left the company: what it still uses keeps its team, its allowance is gone."""
    is_person: bool = True


class Unit(NamedTuple):
    """A team, project or cost centre."""

    owner_id: SubjectId | None
    cost_centre_id: CostCentreId | None


class Delegation(NamedTuple):
    """Somebody may decide for somebody else."""

    delegator_id: SubjectId
    delegate_id: SubjectId
    ends_at: datetime
    """Exclusive."""


class Attribution(NamedTuple):
    """Who carries a usage: all ``None`` while the directory doesn't know the subject."""

    subject_id: SubjectId | None
    team_id: TeamId | None
    cost_centre_id: CostCentreId | None


Key = TypeVar("Key", bound="str | UnitKey")
Value = TypeVar("Value")

UNKNOWN = Attribution(None, None, None)

MemberVersion = Effective[Member | None]
"""``None`` marks the moment of leaving."""

UnitKey = tuple[str, str]
"""(kind, id); a kind is ``team``, ``project`` or ``cost_centre``."""

GroupVersion = Effective[tuple[str, ...]]
"""Its members."""

DelegationVersion = Effective[Delegation | None]
"""``None`` marks the moment at which it ended before its time."""


class Directory:
    """The directory as of every instant. A value: changes make another, which shares what they don't touch.

    It keeps the versions and works out what is asked at every call: most subjects of a large directory are
    quiet, and who asks often for the same keeps the answer.
    """

    def __init__(self) -> None:
        self._members: dict[str, tuple[MemberVersion, ...]] = {}
        self._units: dict[UnitKey, tuple[Effective[Unit], ...]] = {}
        self._groups: dict[UnitKey, tuple[GroupVersion, ...]] = {}
        self._delegations: dict[UnitKey, tuple[DelegationVersion, ...]] = {}
        self._described: dict[bytes, str | UnitKey] = {}
        """Whose version each event states, by the event's identity."""
        self._bearers: dict[str, tuple[str, ...]] = {}
        """Who ever bore an alias."""
        self._members_of: dict[UnitKey, tuple[str, ...]] = {}
        """Who ever named a team, a project, or a cost centre of their own."""
        self._teams_of: dict[str, tuple[str, ...]] = {}
        """Teams that ever named a cost centre."""
        self._headcounts: dict[UnitKey, Timeline[int]] = {}
        """What was asked and still holds."""
        self._groups_of: dict[str, tuple[str, ...]] = {}
        """Groups that somebody was ever a member of."""
        self._delegations_of: dict[str, tuple[str, ...]] = {}
        """Delegations that somebody ever gave."""

    def changed(
        self,
        members: Iterable[tuple[str, MemberVersion]] = (),
        units: Iterable[tuple[UnitKey, Effective[Unit]]] = (),
        groups: Iterable[tuple[str, GroupVersion]] = (),
        delegations: Iterable[tuple[str, DelegationVersion]] = (),
    ) -> "Directory":
        """Return the directory with these versions too; each replaces the version with its identity.

        Parameters
        ----------
        members
            Versions with the person or service that they describe; a ``None`` value means that it left.
        units, groups, delegations
            Versions with what they describe.
        """
        after = copy(self)
        for name, index in vars(self).items():
            setattr(after, name, index.copy())
        teams_of, groups_of, delegations_of = (dict[str, set[str]]() for _ in range(3))
        after._put_members(members)
        for unit_key, unit_version in units:
            after._put(after._units, unit_key, unit_version)
            if (cost_centre_id := unit_version.value.cost_centre_id) and unit_key[0] == _TEAM:
                teams_of.setdefault(cost_centre_id, set()).add(unit_key[1])
        for group_id, group in groups:
            after._put(after._groups, (_GROUP, group_id), group)
            for member_id in group.value:
                groups_of.setdefault(member_id, set()).add(group_id)
        for delegation_id, delegation in delegations:
            after._put(after._delegations, (_DELEGATION, delegation_id), delegation)
            if delegation.value:
                delegations_of.setdefault(delegation.value.delegator_id, set()).add(delegation_id)
        _add(after._teams_of, teams_of)
        _add(after._groups_of, groups_of)
        _add(after._delegations_of, delegations_of)
        for key in [key for key in after._headcounts if key[0] == _COST_CENTRE]:
            del after._headcounts[key]
        return after

    def _put_members(self, members: Iterable[tuple[str, MemberVersion]]) -> None:
        bearers, members_of = dict[str, set[str]](), dict[UnitKey, set[str]]()
        for subject_id, version in members:
            self._put(self._members, subject_id, version)
            self._forget_headcounts(subject_id)
            if member := version.value:
                for unit in _units_of(member):
                    members_of.setdefault(unit, set()).add(subject_id)
                for alias in member.aliases:
                    bearers.setdefault(alias, set()).add(subject_id)
        _add(self._bearers, bearers)
        _add(self._members_of, members_of)

    def _forget_headcounts(self, subject: str) -> None:
        """Forget those of every team and project that somebody ever named."""
        for version in self._members[subject]:
            for unit in _units_of(version.value) if version.value else ():
                self._headcounts.pop(unit, None)
                self._headcounts.pop((_HEIRS, unit[1]), None)

    def _put(
        self, versions: dict[Key, tuple[Effective[Value], ...]], key: Key, version: Effective[Value]
    ) -> None:
        former = self._described.get(version.identity)
        if isinstance(former, str):
            self._forget_headcounts(former)
            self._members[former] = _without(self._members[former], version.identity)
        elif former is not None and former[0] == _GROUP:
            self._groups[former] = _without(self._groups[former], version.identity)
        elif former is not None and former[0] == _DELEGATION:
            self._delegations[former] = _without(self._delegations[former], version.identity)
        elif former is not None:
            self._units[former] = _without(self._units[former], version.identity)
        self._described[version.identity] = key
        versions[key] = (*versions.get(key, ()), version)

    def member(self, subject: str) -> Timeline[Effective[Member] | None]:
        """Return what is known of a subject id over time."""
        return _member_timeline(self._members.get(subject, ()))

    def subjects(self) -> Collection[str]:
        """Return every person and service there ever was."""
        return self._members.keys()

    def member_changes(self) -> Iterator[datetime]:
        """Return from when each version of each person and service is to hold."""
        return (version.effective_from for versions in self._members.values() for version in versions)

    def unit(self, kind: str, unit_id: str) -> Timeline[Effective[Unit] | None]:
        """Return what is known of a team, project or cost centre over time."""
        return in_force(self._units.get((kind, unit_id), ()), effective_dated)

    def has_privilege(self, subject: str, at: datetime, *privileges: str) -> bool:
        """Whether a person who has not left has one of these privileges."""
        member = self.member(subject).at(at)
        return (
            member is not None
            and not member.value.left
            and not set(privileges).isdisjoint(member.value.privileges)
        )

    def has_left(self, subject: str, at: datetime) -> bool:
        """Whether a person or service is known to have left; of strangers it isn't."""
        member = self.member(subject).at(at)
        return member is not None and member.value.left

    def presence(self, subject: str) -> Timeline[bool]:
        """Return when a person or service was known and had not left."""
        steps = self.member(subject).steps()
        return Timeline(
            [(start, version is not None and not version.value.left) for start, version in steps],
            before=False,
        )

    def groups_of(self, subject: str) -> Iterator[tuple[str, Timeline[bool]]]:
        """Return the groups that somebody was ever a member of, each with when that was."""
        for group_id in self._groups_of.get(subject, ()):
            steps = in_force(self._groups[_GROUP, group_id], effective_dated).steps()
            membership = [
                (start, version is not None and subject in version.value) for start, version in steps
            ]
            yield group_id, Timeline(membership, before=False)

    def ever_in_group(self, group_id: str) -> frozenset[str]:
        """Return every subject that was ever a member of a group."""
        versions = self._groups.get((_GROUP, group_id), ())
        return frozenset(member_id for version in versions for member_id in version.value)

    def group_changes(self) -> Iterator[datetime]:
        """Return from when each version of each group is to hold."""
        return (version.effective_from for versions in self._groups.values() for version in versions)

    def delegates(self, person: str, at: datetime) -> list[SubjectId]:
        """Return who may decide for somebody at an instant, by id; a delegation can't be delegated."""
        found = set[SubjectId]()
        for delegation_id in self._delegations_of.get(person, ()):
            version = in_force(self._delegations[_DELEGATION, delegation_id], effective_dated).at(at)
            delegation = version.value if version else None
            if delegation and delegation.delegator_id == person and at < delegation.ends_at:
                found.add(delegation.delegate_id)
        return sorted(found)

    def first_seen(self, kind: str, unit_id: str) -> datetime | None:
        """Return from when the directory has a team, project or cost centre; ``None``: it never has."""
        versions = self._units.get((kind, unit_id), ())
        return min((version.effective_from for version in versions), default=None)

    def headcount(self, kind: str, unit_id: str) -> Timeline[int]:
        """Return how many people and services belong to a team, project or cost centre, over time.

        Who has left belongs nowhere. A member's own cost centre goes before the team's. Worked out when it is
        first asked for, from the members; asking again costs a look-up until one of them changes.
        """
        key = (kind, unit_id)
        known = self._headcounts.get(key)
        if known is not None:
            return known
        counted = self._count(kind, unit_id)
        if counted.starts:  # kept of nothing unknown: such names are without number
            self._headcounts[key] = counted
        return counted

    def ever_in(self, kind: str, unit_id: str) -> Iterator[str]:
        """Return, each once, whoever may ever have belonged to a team, project or cost centre."""
        seen = set[str]()
        of_teams = self._teams_of.get(unit_id, ()) if kind == _COST_CENTRE else ()
        for unit in [(kind, unit_id), *((_TEAM, team_id) for team_id in of_teams)]:
            for subject in self._members_of.get(unit, ()):
                if subject not in seen:
                    seen.add(subject)
                    yield subject

    def _count(self, kind: str, unit_id: str) -> Timeline[int]:
        if kind == _HEIRS:
            return total(
                self._while(subject, lambda member: _inherits(member, unit_id))
                for subject in self._members_of.get((_TEAM, unit_id), ())
            )
        own = (
            self._while(subject, lambda member: (kind, unit_id) in _units_of(member))
            for subject in self._members_of.get((kind, unit_id), ())
        )
        if kind != _COST_CENTRE:
            return total(own)
        teams = ((team_id, self.unit(_TEAM, team_id)) for team_id in self._teams_of.get(unit_id, ()))
        inherited = (
            while_holding(
                self.headcount(_HEIRS, team_id),
                team,
                lambda version: version is not None and version.value.cost_centre_id == unit_id,
            )
            for team_id, team in teams
        )
        return total(chain(own, inherited))

    def _while(self, subject: str, belongs: Callable[[Member], bool]) -> Timeline[int]:
        """Return 1 while somebody belongs, else 0."""
        steps = self.member(subject).steps()
        return Timeline(
            [
                (start, int(version is not None and not version.value.left and belongs(version.value)))
                for start, version in steps
            ],
            before=0,
        )

    def attribution(self, subject: str) -> Timeline[Attribution]:
        """Return who carries the usage of a subject id or an alias, over time."""
        if subject not in self._members and subject not in self._bearers:
            return _UNATTRIBUTED
        # An id stands for itself, an alias for whoever bears it at the instant.
        bearers = (subject, *sorted(self._bearers.get(subject, ())))
        candidates = [self.member(bearer) for bearer in bearers]
        instants = {start for candidate in candidates for start in candidate.starts}
        team_ids = {
            version.value.team_id
            for candidate in candidates
            for _, version in candidate.steps()
            if version is not None
        }
        teams = {team_id: self.unit("team", team_id) for team_id in team_ids}
        instants |= {start for team in teams.values() for start in team.starts}

        def at(instant: datetime) -> Attribution:
            known = [
                version
                for candidate in candidates
                if (version := candidate.at(instant)) is not None
                and (version.value.subject_id == subject or subject in version.value.aliases)
            ]
            if not known:
                return UNKNOWN
            member = max(known, key=effective_dated).value
            team = teams[member.team_id].at(instant)
            cost_centre_id = member.cost_centre_id or (team.value.cost_centre_id if team else None)
            return Attribution(member.subject_id, member.team_id, cost_centre_id)

        return Timeline([(instant, at(instant)) for instant in instants], before=UNKNOWN)

    def ever_in_team(self, team_id: str) -> frozenset[str]:
        """Return every subject that ever belonged to a team, and its aliases."""
        members = self._members_of.get((_TEAM, team_id), ())
        return frozenset(members).union(*(self.aliases(subject_id) for subject_id in members))

    def aliases(self, subject: str) -> set[str]:
        """Return every alias that any version of a subject lists."""
        versions = self._members.get(subject, ())
        return {alias for version in versions if version.value is not None for alias in version.value.aliases}


_TEAM, _PROJECT, _COST_CENTRE = "team", "project", "cost_centre"
_GROUP, _DELEGATION = "group", "delegation"
"""Kinds of entities that are no units."""

_HEIRS = "heirs"
"""Of a team: the members whose cost centre is the team's."""


def _units_of(member: Member) -> list[UnitKey]:
    """Return the team, the projects and the cost centre that somebody names."""
    units = [(_TEAM, member.team_id), *((_PROJECT, project_id) for project_id in member.project_ids)]
    if member.cost_centre_id:
        units.append((_COST_CENTRE, member.cost_centre_id))
    return units


def _inherits(member: Member, team_id: str) -> bool:
    return member.team_id == team_id and not member.cost_centre_id


_UNATTRIBUTED: Timeline[Attribution] = Timeline((), before=UNKNOWN)


def _add(kept: dict[Key, tuple[str, ...]], added: dict[Key, set[str]]) -> None:
    # Tuples, because the many that are small take much less memory than sets.
    for key, values in added.items():
        kept[key] = tuple(values.union(kept.get(key, ())))


def _without(versions: Iterable[Effective[Value]], identity: bytes) -> tuple[Effective[Value], ...]:
    return tuple(version for version in versions if version.identity != identity)


def _member_timeline(versions: Sequence[MemberVersion]) -> Timeline[Effective[Member] | None]:
    """Resolve leaving: who left stays what they were last, marked as left."""
    described = cast(
        "list[Effective[Member]]", [version for version in versions if version.value is not None]
    )
    if len(described) == len(versions):
        return in_force(described, effective_dated)
    latest, last_described = in_force(versions, effective_dated), in_force(described, effective_dated)
    steps: list[tuple[datetime, Effective[Member] | None]] = []
    for instant, version in latest.steps():
        member = last_described.at(instant)
        if member is not None and version is not None and version.value is None:
            member = member._replace(value=member.value._replace(left=True))
        steps.append((instant, member))
    return Timeline(steps, before=None)
