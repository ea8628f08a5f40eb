"""Versions come in any order and take each other's identities; answers follow from those in force alone."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from tests.support.quota_events import LONG_AGO, NOW, NoPrices, governing, person, team
from tokenomics_contracts.events.base import Event
from tokenomics_contracts.events.directory import PersonLeft, PersonUpserted, TeamUpserted
from tokenomics_quota.domain.directory import UNKNOWN, Attribution
from tokenomics_quota.domain.effective import GOVERNING_REACH
from tokenomics_quota.projections.governance import Governance, GoverningEvent

DAY = timedelta(days=1)
PEOPLE, TEAMS = ("ada", "bob"), ("red", "blue")
ALIASES = ("alias:" + "a" * 32, "alias:" + "b" * 32)
UNITS = (
    *(("team", team_id) for team_id in TEAMS),
    *(("project", project_id) for project_id in ("apollo", "atlas")),
    *(("cost_centre", cost_centre_id) for cost_centre_id in ("cc1", "cc2")),
)
STARTS = (NOW - GOVERNING_REACH - 9 * DAY, LONG_AGO, NOW - 5 * DAY, NOW + 5 * DAY)
INSTANTS = tuple(start + step for start in (*STARTS, NOW - GOVERNING_REACH) for step in (-DAY, DAY))


def histories() -> st.SearchStrategy[list[GoverningEvent]]:
    """Few people, teams, instants and identities: so that events meet."""
    starts, people = st.sampled_from(STARTS), st.sampled_from(PEOPLE)
    cost_centres = st.sampled_from([None, "cc1", "cc2"])
    described = st.builds(
        lambda who, since, team_id, role, cost_centre_id, aliases, project_ids: person(
            who,
            since=since,
            team_id=team_id,
            role=role,
            cost_centre_id=cost_centre_id,
            aliases=aliases,
            project_ids=project_ids,
        ),
        people,
        starts,
        st.sampled_from(TEAMS),
        st.sampled_from(["engineer", "lead"]),
        cost_centres,
        st.lists(st.sampled_from(ALIASES), unique=True),
        st.sampled_from([[], ["apollo"], ["apollo", "atlas"]]),
    )
    left = st.builds(lambda who, since: PersonLeft(person_id=who, effective_from=since), people, starts)
    teams = st.builds(
        lambda team_id, since, cost_centre_id: team(team_id, since=since, cost_centre_id=cost_centre_id),
        st.sampled_from(TEAMS),
        starts,
        cost_centres,
    )
    events = st.lists(st.tuples(st.one_of(described, described, left, teams), st.integers(0, 7)), max_size=12)
    return events.map(
        lambda listed: [
            governing(event, offset)._replace(identity=bytes([number]))
            for offset, (event, number) in enumerate(listed)
        ]
    )


class Plainly:
    """The same questions, answered from the list of events in force by what the rules say."""

    def __init__(self, events: Sequence[GoverningEvent]) -> None:
        self._in_force = list({event.identity: event for event in events}.values())

    def _latest(self, at: datetime, types: type[Event], key: str) -> GoverningEvent | None:
        return max(
            (
                each
                for each in self._in_force
                if isinstance(each.event, types)
                and each.event.key == key
                and max(_since(each), NOW - GOVERNING_REACH) <= at
            ),
            key=lambda each: (_since(each), each.order),
            default=None,
        )

    def member(self, subject: str, at: datetime) -> tuple[str, str, bool] | None:
        last = self._latest(at, PersonUpserted, subject)
        if last is None:
            return None
        left = self._latest(at, PersonLeft, subject)
        assert isinstance(last.event, PersonUpserted)
        has_left = left is not None and (_since(left), left.order) > (_since(last), last.order)
        return last.event.role, last.event.team_id, has_left

    def attribution(self, subject: str, at: datetime) -> Attribution:
        candidates = []
        for who in PEOPLE:
            last = self._latest(at, PersonUpserted, who)
            if last is None:
                continue
            assert isinstance(last.event, PersonUpserted)
            if subject == who or subject in last.event.aliases:
                candidates.append((_since(last), last.order, last.event))
        if not candidates:
            return UNKNOWN
        _, _, bearer = max(candidates, key=lambda each: each[:2])
        of_team = self._latest(at, TeamUpserted, bearer.team_id)
        inherited = of_team.event.cost_centre_id if of_team else None  # type: ignore[attr-defined]
        return Attribution(bearer.key, bearer.team_id, bearer.cost_centre_id or inherited)  # type: ignore[arg-type]

    def headcount(self, kind: str, unit_id: str, at: datetime) -> int:
        count = 0
        for who in PEOPLE:
            last, member = self._latest(at, PersonUpserted, who), self.member(who, at)
            if last is None or member is None or member[2]:
                continue
            assert isinstance(last.event, PersonUpserted)
            units = {
                "team": [last.event.team_id],
                "project": last.event.project_ids,
                "cost_centre": [self.attribution(who, at).cost_centre_id],
            }
            count += unit_id in units[kind]
        return count

    def ever_in_team(self, team_id: str) -> set[str]:
        people = [each.event for each in self._in_force if isinstance(each.event, PersonUpserted)]
        members = {each.key for each in people if each.team_id == team_id}
        return members | {alias for each in people if each.key in members for alias in each.aliases}

    def changes(self) -> list[datetime]:
        return [
            _since(each) for each in self._in_force if isinstance(each.event, PersonUpserted | PersonLeft)
        ]


def _since(governing: GoverningEvent) -> datetime:
    since: datetime = governing.event.effective_from  # type: ignore[attr-defined]
    return since


@given(histories(), st.sets(st.integers(0, 12)))
def test_any_history_in_any_batches_is_answered_as_its_events_in_force_say(
    events: list[GoverningEvent], borders: set[int]
) -> None:
    state = Governance(NoPrices())
    for version, (start, end) in enumerate(pairwise([0, *sorted(borders), len(events)])):
        batch = {event.identity: event for event in events[start:end]}
        state = state.with_events(batch.values(), version)
        for subject in (*PEOPLE, *ALIASES):
            state.attribution(subject)  # what is kept must not outlive what it rests on
        for unit in UNITS:
            state.directory.headcount(*unit)
    plainly = Plainly(events)
    for at in INSTANTS:
        for subject in (*PEOPLE, *ALIASES, "stranger"):
            assert state.attribution(subject).at(at) == plainly.attribution(subject, at)
            known = state.directory.member(subject).at(at)
            described = known and (known.value.role, known.value.team_id, known.value.left)
            assert described == plainly.member(subject, at)
        for unit in UNITS:
            assert state.directory.headcount(*unit).at(at) == plainly.headcount(*unit, at)
    for team_id in TEAMS:
        assert state.directory.ever_in_team(team_id) >= plainly.ever_in_team(team_id)
    assert sorted(state.directory.member_changes()) == sorted(plainly.changes())
