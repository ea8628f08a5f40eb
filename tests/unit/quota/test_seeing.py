"""Who is shown which accounts, and by which right: every viewer with every kind of target."""

from datetime import datetime, timedelta
from typing import Any

import pytest

from tests.support.quota_events import NOW, delegation, governance, person, project, team
from tokenomics_contracts.events.directory import CostCentreUpserted, PersonLeft, ServiceUpserted
from tokenomics_contracts.units import PersonId
from tokenomics_quota.domain.accounts import parse_account_id
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
    """Return a red team of five people, a blue one of two, one who left and a bot, and a project of four.

    Together both teams are the cost centre `cc`.
    """
    crew = [person(f"red-{number}", team_id="red", manager_id="boss") for number in range(1, 4)]
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
    "ada": ("own", None, None, "member", None, "member", None, None),
    "red-1": (None, None, None, "member", None, "member", None, None),
    "red-owner": (None, None, None, "owner", None, "member", None, None),
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
        ("gov", {"team/red", "cost_centre/cc", "unattributed/unattributed"}),
        ("boss", {"subject/ada", "subject/eve", "project/apollo"}),
        ("blue-owner", {"team/blue", "cost_centre/cc"}),
        ("ada", {"subject/ada", "team/red", "cost_centre/cc"}),
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
        *(person(f"red-{number}") for number in range(5)),
        left("red-4", leaves),
    )
    account = parse_account_id("team/red/all/2026-11")
    assert PersonSight(state, "red-0", leaves - timedelta(seconds=1))(account)
    assert not PersonSight(state, "red-0", leaves)(account)


def test_services_do_not_make_a_team_large() -> None:
    bots = [service(f"bot-{number}", responsible_person_id="ada") for number in range(9)]
    state = governance(person("ada"), *bots)
    assert not PersonSight(state, "ada", NOW)(parse_account_id("team/red/all/2026-11"))


def test_who_has_a_cost_centre_of_their_own_is_not_counted_in_their_teams() -> None:
    crew = [person(f"red-{number}") for number in range(4)]
    apart = person("red-4", cost_centre_id="own")
    account = parse_account_id("cost_centre/cc/all/2026-11")
    assert not PersonSight(governance(team(cost_centre_id="cc"), *crew, apart), "red-0", NOW)(account)
    joined = person("red-4", cost_centre_id="cc")
    assert PersonSight(governance(team(cost_centre_id="cc"), *crew, joined), "red-0", NOW)(account)
