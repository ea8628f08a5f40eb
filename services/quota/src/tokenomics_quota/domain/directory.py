"""Who a subject is, and which team and cost centre carry its usage, at any instant."""

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import NamedTuple, TypeVar

from tokenomics_contracts.units import CostCentreId, ProjectId, SubjectId, TeamId
from tokenomics_quota.domain.effective import Effective, effective_dated, in_force
from tokenomics_quota.domain.timeline import Timeline


class Member(NamedTuple):
    """A person or a service as the directory describes it from an instant on."""

    subject_id: SubjectId
    role: str
    team_id: TeamId
    cost_centre_id: CostCentreId | None
    responsible_id: SubjectId | None
    """Who decides for it: a person's manager, a service's responsible person."""
    project_ids: frozenset[ProjectId]
    aliases: frozenset[str]
    privileges: frozenset[str]
    left: bool = False
    """Left the company: what it still uses keeps its team, its allowance is gone."""


class Unit(NamedTuple):
    """A team, project or cost centre."""

    owner_id: SubjectId | None
    cost_centre_id: CostCentreId | None


class Attribution(NamedTuple):
    """Who carries a usage: all ``None`` while the directory doesn't know the subject."""

    subject_id: SubjectId | None
    team_id: TeamId | None
    cost_centre_id: CostCentreId | None


Key = TypeVar("Key")
Value = TypeVar("Value")

UNKNOWN = Attribution(None, None, None)

MemberVersion = Effective[Member | None]
"""``None`` marks the moment of leaving."""


class Directory:
    """The directory as of every instant. A value: changes make another, which shares what they don't touch.

    Timelines are worked out on first use, since most subjects of a large directory are quiet on any one day.
    """

    def __init__(self) -> None:
        self._members: dict[str, Sequence[MemberVersion]] = {}
        self._units: dict[tuple[str, str], Sequence[Effective[Unit]]] = {}
        self._bearers: dict[str, frozenset[str]] = {}
        """Who ever bore an alias."""
        self._team_members: dict[str, frozenset[str]] = {}
        """Who ever belonged to a team."""
        self._member_timelines: dict[str, Timeline[Effective[Member] | None]] = {}
        self._unit_timelines: dict[tuple[str, str], Timeline[Effective[Unit] | None]] = {}
        self._attributions: dict[str, Timeline[Attribution]] = {}

    def changed(
        self,
        members: Mapping[str, Sequence[MemberVersion]],
        units: Mapping[tuple[str, str], Sequence[Effective[Unit]]],
    ) -> "Directory":
        """Return the directory in which these have these versions.

        Parameters
        ----------
        members
            All versions of each person and service that changed; a ``None`` value means that it left.
        units
            All versions of each (kind, id) that changed; a kind is ``team``, ``project`` or ``cost_centre``.
        """
        after = Directory()
        after._members = {**self._members, **members}
        after._units = {**self._units, **units}
        after._bearers = self._bearers.copy()
        after._team_members = self._team_members.copy()
        outdated: set[str] = set()
        for subject_id, versions in members.items():
            described = [version.value for version in versions if version.value is not None]
            outdated |= {subject_id, *self.aliases(subject_id)}
            for member in described:
                outdated |= member.aliases
                for alias in member.aliases:
                    after._bearers[alias] = after._bearers.get(alias, frozenset()) | {subject_id}
                team_members = after._team_members.get(member.team_id, frozenset())
                after._team_members[member.team_id] = team_members | {subject_id}
        for kind, unit_id in units:
            if kind == "team":
                outdated |= after.ever_in_team(unit_id)
        after._member_timelines = _without(self._member_timelines, members)
        after._unit_timelines = _without(self._unit_timelines, units)
        after._attributions = _without(self._attributions, outdated)
        return after

    def member(self, subject: str) -> Timeline[Effective[Member] | None]:
        """Return what is known of a subject id over time."""
        versions = self._members.get(subject)
        if versions is None:
            return _NOBODY
        timeline = self._member_timelines.get(subject)
        if timeline is None:
            timeline = self._member_timelines[subject] = _member_timeline(versions)
        return timeline

    def unit(self, kind: str, unit_id: str) -> Timeline[Effective[Unit] | None]:
        """Return what is known of a team, project or cost centre over time."""
        key = (kind, unit_id)
        versions = self._units.get(key)
        if versions is None:
            return _NO_UNIT
        timeline = self._unit_timelines.get(key)
        if timeline is None:
            timeline = self._unit_timelines[key] = in_force(versions, effective_dated)
        return timeline

    def attribution(self, subject: str) -> Timeline[Attribution]:
        """Return who carries the usage of a subject id or an alias, over time."""
        timeline = self._attributions.get(subject)
        if timeline is not None:
            return timeline
        if subject not in self._members and subject not in self._bearers:
            return _UNATTRIBUTED  # kept for nobody: unknown names are without number
        timeline = self._attributions[subject] = self._attribute(subject)
        return timeline

    def ever_in_team(self, team_id: str) -> frozenset[str]:
        """Return every subject that ever belonged to a team, and its aliases."""
        members = self._team_members.get(team_id, frozenset())
        return members.union(*(self.aliases(subject_id) for subject_id in members))

    def aliases(self, subject: str) -> set[str]:
        """Return every alias that any version of a subject lists."""
        versions = self._members.get(subject, ())
        return {alias for version in versions if version.value is not None for alias in version.value.aliases}

    def _attribute(self, subject: str) -> Timeline[Attribution]:
        # An id stands for itself, an alias for whoever bears it at the instant.
        bearers = (subject, *sorted(self._bearers.get(subject, ())))
        candidates = [self.member(bearer) for bearer in bearers]
        instants = {start for candidate in candidates for start in candidate.starts}
        teams = {
            version.value.team_id
            for candidate in candidates
            for _, version in candidate.steps()
            if version is not None
        }
        instants |= {start for team_id in teams for start in self.unit("team", team_id).starts}
        return Timeline(
            [(instant, self._attribution_at(subject, candidates, instant)) for instant in instants],
            before=UNKNOWN,
        )

    def _attribution_at(
        self, subject: str, candidates: Iterable[Timeline[Effective[Member] | None]], instant: datetime
    ) -> Attribution:
        known = [
            version
            for candidate in candidates
            if (version := candidate.at(instant)) is not None
            and (version.value.subject_id == subject or subject in version.value.aliases)
        ]
        if not known:
            return UNKNOWN
        member = max(known, key=effective_dated).value
        team = self.unit("team", member.team_id).at(instant)
        cost_centre_id = member.cost_centre_id or (team.value.cost_centre_id if team else None)
        return Attribution(member.subject_id, member.team_id, cost_centre_id)


_NOBODY: Timeline[Effective[Member] | None] = Timeline((), before=None)
_NO_UNIT: Timeline[Effective[Unit] | None] = Timeline((), before=None)
_UNATTRIBUTED: Timeline[Attribution] = Timeline((), before=UNKNOWN)


def _without(kept: Mapping[Key, Value], outdated: Iterable[Key]) -> dict[Key, Value]:
    left = dict(kept)
    for key in outdated:
        left.pop(key, None)
    return left


def _member_timeline(versions: Iterable[MemberVersion]) -> Timeline[Effective[Member] | None]:
    """Resolve leaving: who left stays what they were last, marked as left."""
    versions = list(versions)
    described = [Effective(v.effective_from, v.order, v.value) for v in versions if v.value is not None]
    latest, last_described = in_force(versions, effective_dated), in_force(described, effective_dated)
    steps: list[tuple[datetime, Effective[Member] | None]] = []
    for instant, version in latest.steps():
        member = last_described.at(instant)
        if member is not None and version is not None and version.value is None:
            member = member._replace(value=member.value._replace(left=True))
        steps.append((instant, member))
    return Timeline(steps, before=None)
