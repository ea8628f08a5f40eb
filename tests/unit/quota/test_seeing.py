"""Who is shown which accounts, and by which right: every viewer with every kind of target."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tests.support.differencing import groups_told
from tests.support.quota_events import NOW, delegation, governance, person, project, team
from tokenomics_contracts.events.base import Event
from tokenomics_contracts.events.directory import (
    CostCentreUpserted,
    PersonLeft,
    PersonUpserted,
    ServiceUpserted,
)
from tokenomics_contracts.units import PersonId
from tokenomics_quota.domain.accounts import parse_account_id
from tokenomics_quota.domain.privacy import FEWEST_PEOPLE
from tokenomics_quota.projections.governance import Governance
from tokenomics_quota.usecases.seeing import PersonSight

LONG_AGO = NOW - timedelta(days=300)
ALIAS = f"alias:{'a' * 32}"


def service(service_id: str, **fields: Any) -> ServiceUpserted:
    defaults: dict[str, Any] = {"role": "bot", "team_id": "red", "effective_from": LONG_AGO}
    return ServiceUpserted(**({"service_id": service_id} | defaults | fields))


def cost_centre(cost_centre_id: str, **fields: Any) -> CostCentreUpserted:
    defaults: dict[str, Any] = {"cost_centre_id": cost_centre_id, "effective_from": LONG_AGO}
    return CostCentreUpserted(**(defaults | fields))


def left(person_id: str, since: datetime) -> PersonLeft:
    return PersonLeft(person_id=PersonId(person_id), effective_from=since)


def company() -> Governance:
    """Return a red team of six people, a blue one of two, one who left and a bot, and a project of four.

    Together both teams are the cost centre `cc`.
    """
    crew = [person(f"red-{number}", team_id="red", manager_id="boss") for number in range(1, 5)]
    return governance(
        team("red", owner_id="red-owner", cost_centre_id="cc"),
        team("blue", owner_id="blue-owner", cost_centre_id="cc"),
        cost_centre("cc", owner_id="cfo"),
        project("apollo", owner_id="boss"),
        *crew,
        person("ada", manager_id="boss", aliases=[ALIAS], project_ids=["apollo"]),
        person("red-owner", manager_id="cfo", project_ids=["apollo"]),
        person("eve", team_id="blue", manager_id="boss", project_ids=["apollo"]),
        person("blue-owner", team_id="blue", project_ids=["apollo"]),
        person("gone", team_id="blue"),
        left("gone", NOW - timedelta(days=1)),
        service("bot", team_id="blue", responsible_person_id="eve"),
        person("boss", team_id="heads"),
        person("deputy", team_id="heads"),
        person("cfo", team_id="heads"),
        person("gov", team_id="heads", privileges=["governance"]),
        person("aud", team_id="heads", privileges=["auditor"]),
        person("ops", team_id="staff", privileges=["operator"]),
        delegation("boss", "deputy", since=NOW - timedelta(days=1), until=NOW + timedelta(days=1)),
    )


TARGETS = (
    "subject/ada",
    "subject/eve",
    "subject/bot",
    "team/red",
    "team/blue",
    "cost_centre/cc",
    "project/apollo",
    "unattributed/unattributed",
)
SEEN = {
    #              ada        eve       bot       red      blue     cc       apollo   unattributed
    "ada": ("own", None, None, "member", None, None, None, None),  # cc less red would be blue
    "red-1": (None, None, None, "member", None, None, None, None),
    "red-owner": (None, None, None, "owner", None, None, None, None),
    "eve": (None, "own", "manager", None, None, "member", None, None),
    "blue-owner": (None, None, None, None, "owner", "member", None, None),
    "gone": (None,) * 8,
    "boss": ("manager", "manager", None, None, None, None, "owner", None),
    "deputy": ("manager", "manager", None, None, None, None, "owner", None),
    "cfo": (None, None, None, None, None, "owner", None, None),
    "gov": ("governance",) * 8,
    "aud": (None,) * 8,
    "ops": (None,) * 8,
    "nobody": (None,) * 8,
    ALIAS: (None,) * 8,
}


@pytest.mark.parametrize(
    ("viewer", "target", "basis"),
    [
        (viewer, target, basis)
        for viewer, row in SEEN.items()
        for target, basis in zip(TARGETS, row, strict=True)
    ],
)
def test_an_account_is_shown_to_the_person_and_who_decides_and_a_total_to_members_of_enough(
    viewer: str, target: str, basis: str | None
) -> None:
    account = parse_account_id(f"{target}/all/2026-11")
    sees = PersonSight(company(), viewer, NOW)
    assert sees.basis(account) == basis
    assert sees(account) is (basis is not None)


@pytest.mark.parametrize(
    ("viewer", "listed"),
    [
        ("gov", {"team/red", "unattributed/unattributed"}),
        ("boss", {"subject/ada", "subject/eve", "project/apollo"}),
        ("blue-owner", {"team/blue", "cost_centre/cc"}),
        ("ada", {"subject/ada", "team/red"}),
    ],
)
def test_a_list_that_names_nobody_shows_governance_no_total_of_few(viewer: str, listed: set[str]) -> None:
    sees = PersonSight(company(), viewer, NOW)
    shown = {target for target in TARGETS if sees.may_list(parse_account_id(f"{target}/all/2026-11"))}
    assert shown == listed


@pytest.mark.parametrize(("days", "seen"), [(-2, False), (0, True), (2, False)])
def test_a_delegate_sees_for_as_long_as_it_holds(days: int, *, seen: bool) -> None:
    sees = PersonSight(company(), "deputy", NOW + timedelta(days=days))
    assert sees(parse_account_id("subject/ada/all/2026-11")) is seen


def test_a_team_that_shrinks_is_no_longer_shown_to_its_members() -> None:
    leaves = NOW + timedelta(days=3)
    state = governance(
        *(person(f"red-{number}") for number in range(6)),
        left("red-5", leaves),
    )
    account = parse_account_id("team/red/all/2026-11")
    assert PersonSight(state, "red-0", leaves - timedelta(seconds=1))(account)
    assert not PersonSight(state, "red-0", leaves)(account)


def test_services_do_not_make_a_team_large() -> None:
    bots = [service(f"bot-{number}", responsible_person_id="ada") for number in range(9)]
    state = governance(person("ada"), *bots)
    assert not PersonSight(state, "ada", NOW)(parse_account_id("team/red/all/2026-11"))


def test_who_has_a_cost_centre_of_their_own_is_not_counted_in_their_teams() -> None:
    crew = [person(f"red-{number}") for number in range(5)]
    apart = person("red-5", cost_centre_id="own")
    account = parse_account_id("cost_centre/cc/all/2026-11")
    assert not PersonSight(governance(team(cost_centre_id="cc"), *crew, apart), "red-0", NOW)(account)
    joined = person("red-5", cost_centre_id="cc")
    assert PersonSight(governance(team(cost_centre_id="cc"), *crew, joined), "red-0", NOW)(account)


def sees(viewer: str, *events: Event, now: datetime = NOW, period: str = "2026-11") -> set[str]:
    """Return which of the teams red and blue, the cost centre and the project somebody is shown."""
    sight = PersonSight(governance(*events), viewer, now)
    targets = ("team/red", "team/blue", "cost_centre/cc", "project/apollo")
    return {each for each in targets if sight(parse_account_id(f"{each}/all/{period}"))}


def crew(team_id: str, size: int, **fields: Any) -> list[PersonUpserted]:
    return [person(f"{team_id}-{number}", team_id=team_id, **fields) for number in range(size)]


TEAMS = (team("red", cost_centre_id="cc"), team("blue", cost_centre_id="cc"))


@pytest.mark.parametrize(
    ("red", "blue", "shown"),
    [
        (5, 9, {"cost_centre/cc"}),
        (6, 0, {"team/red", "cost_centre/cc"}),
        (6, 1, {"team/red"}),
        (6, 4, {"team/red"}),
        (6, 5, {"team/red", "cost_centre/cc"}),
    ],
)
def test_a_member_is_shown_the_cost_centre_only_where_it_tells_of_no_few_beyond_the_team(
    red: int, blue: int, shown: set[str]
) -> None:
    assert sees("red-0", *TEAMS, *crew("red", red), *crew("blue", blue)) == shown


def test_whom_a_member_decides_about_does_not_hide_the_others() -> None:
    boss = person("boss", team_id="red", project_ids=["apollo"])
    reports = crew("red", 5, manager_id="boss", project_ids=["apollo"])
    others = [person(f"other-{number}", project_ids=["apollo"]) for number in range(5)]
    assert sees("boss", *TEAMS, boss, *reports, *others[:4]) == set()
    assert sees("boss", *TEAMS, boss, *reports, *others) == {"team/red", "cost_centre/cc", "project/apollo"}


def test_a_team_is_not_shown_to_a_member_who_owns_the_cost_centre_where_few_are_beyond_it() -> None:
    owned = cost_centre("cc", owner_id="red-0")
    assert sees("red-0", owned, *TEAMS, *crew("red", 6), *crew("blue", 2)) == {"cost_centre/cc"}
    assert sees("red-0", owned, *TEAMS, *crew("red", 6), *crew("blue", 5)) == {"team/red", "cost_centre/cc"}


def test_who_left_or_moved_in_the_period_is_one_of_few_still() -> None:
    company = (*TEAMS, *crew("red", 6), *crew("blue", 1))
    in_october = datetime(2026, 10, 31, tzinfo=UTC)
    for gone in (left, lambda who, since: person(who, team_id="elsewhere", since=since)):
        assert sees("red-0", *company, gone("blue-0", NOW - timedelta(days=2))) == {"team/red"}
        assert sees("red-0", *company, gone("blue-0", in_october)) == {"team/red", "cost_centre/cc"}


def test_people_of_a_past_period_are_counted_as_it_ended() -> None:
    since = datetime(2026, 11, 1, tzinfo=UTC)
    joined = [person(f"red-{number}", since=since) for number in range(1, 6)]
    assert sees("red-0", person("red-0"), *joined) == {"team/red"}
    assert sees("red-0", person("red-0"), *joined, period="2026-10") == set()


UNITS = [f"{kind}/{name}" for kind in ("team", "cost_centre") for name in "abc"]
PLACES = [(team_id, own) for team_id in "abc" for own in ("", *"abc")]


@example(
    sizes={("a", "b"): (4, 0), ("a", "c"): (1, 0)},
    centres=("a", "a", "a"),
    place=("a", ""),
    owned={"cost_centre/c"},
    governs=False,
)
@example(
    sizes={("a", ""): (6, 0), ("b", ""): (3, 0)},
    centres=("a", "a", "a"),
    place=("c", ""),
    owned=set(),
    governs=True,
)
@given(
    sizes=st.dictionaries(
        st.sampled_from(PLACES), st.tuples(st.sampled_from([0, 1, 4, 5, 6, 7]), st.integers(0, 2)), max_size=6
    ),
    centres=st.tuples(*[st.sampled_from("abc")] * 3),
    place=st.sampled_from(PLACES),
    owned=st.sets(st.sampled_from(UNITS), max_size=2),
    governs=st.booleans(),
)
def test_nobody_works_out_the_total_of_few_from_what_is_shown_beside_what_they_see_in_any_case(
    sizes: dict[tuple[str, str], tuple[int, int]],
    centres: tuple[str, str, str],
    place: tuple[str, str],
    owned: set[str],
    governs: bool,  # noqa: FBT001 - drawn
) -> None:
    centre_of = dict(zip("abc", centres, strict=True))
    owner = dict.fromkeys(owned, "viewer")
    people = [
        person(
            f"{team_id}{own}-{number}",
            team_id=team_id,
            cost_centre_id=own or None,
            manager_id="viewer" if number < managed else None,
        )
        for (team_id, own), (size, managed) in sizes.items()
        for number in range(size)
    ]
    state = governance(
        *(team(each, cost_centre_id=centre_of[each], owner_id=owner.get(f"team/{each}")) for each in "abc"),
        *(cost_centre(each, owner_id=owner.get(f"cost_centre/{each}")) for each in "abc"),
        person(
            "viewer",
            team_id=place[0],
            cost_centre_id=place[1] or None,
            privileges=["governance"] if governs else [],
        ),
        *people,
    )
    unknown = dict[tuple[str, str], set[str]]()
    for each in people:
        if each.manager_id is None:
            cell = (f"team/{each.team_id}", f"cost_centre/{each.cost_centre_id or centre_of[each.team_id]}")
            unknown.setdefault(cell, set()).add(each.key)
    sight = PersonSight(state, "viewer", NOW)
    shown = [unit for unit in UNITS if sight.may_list(parse_account_id(f"{unit}/all/2026-11"))]
    told, by_right = (
        groups_told(
            unknown, [{cell for cell in unknown if unit in cell} for unit in units], fewer_than=FEWEST_PEOPLE
        )
        for units in (shown, owned)
    )
    assert owned <= set(shown)
    assert told <= by_right
