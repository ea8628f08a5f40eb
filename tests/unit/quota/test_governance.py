"""Who carries a usage, under which prices and limits, as of any instant and however late it becomes known."""

from datetime import datetime, timedelta

import pytest

from tests.support.quota_events import (
    LONG_AGO,
    NOW,
    SOURCE,
    NoPrices,
    governance,
    governing,
    person,
    price_book,
    quota_policy,
    sources,
    team,
)
from tokenomics_contracts.events.base import Event
from tokenomics_contracts.events.directory import PersonLeft
from tokenomics_quota.domain.accounts import AccountKind
from tokenomics_quota.domain.directory import UNKNOWN
from tokenomics_quota.domain.effective import GOVERNING_REACH
from tokenomics_quota.projections.governance import Governance, Scope

DAY = timedelta(days=1)
ALIAS = "alias:" + "c" * 32


def teams_over_time(state: Governance, *instants: datetime) -> list[str | None]:
    timeline = state.attribution("ada")
    return [timeline.at(instant).team_id for instant in instants]


def test_a_move_counts_from_its_effective_time_whenever_it_is_told() -> None:
    moved = person("ada", since=NOW - 5 * DAY, team_id="blue")
    for events in ([person("ada"), moved], [moved, person("ada")]):
        assert teams_over_time(
            governance(*events), LONG_AGO - DAY, LONG_AGO, NOW - 6 * DAY, NOW - 5 * DAY, NOW
        ) == [None, "red", "red", "blue", "blue"]


def test_a_correction_of_the_past_does_not_undo_a_later_move() -> None:
    state = governance(
        person("ada", since=NOW - 5 * DAY, team_id="blue"),
        person("ada", since=NOW - 9 * DAY, team_id="green"),
    )
    assert teams_over_time(state, NOW - 9 * DAY, NOW) == ["green", "blue"]


def test_of_two_versions_with_one_effective_time_the_later_in_the_log_holds() -> None:
    assert teams_over_time(governance(person("ada"), person("ada", team_id="green")), NOW) == ["green"]


def test_the_teams_cost_centre_stands_in_where_the_person_names_none() -> None:
    state = governance(
        team("red", cost_centre_id="cc1"),
        team("red", since=NOW - 5 * DAY, cost_centre_id="cc2"),
        person("ada"),
        person("bob", cost_centre_id="own"),
    )
    assert state.attribution("ada").at(NOW - 6 * DAY).cost_centre_id == "cc1"
    assert state.attribution("ada").at(NOW).cost_centre_id == "cc2"
    assert tuple(state.attribution("bob").at(NOW)) == ("bob", "red", "own")


def test_an_alias_stands_for_whoever_bears_it_at_the_time() -> None:
    state = governance(
        person("ada", aliases=[ALIAS]),
        person("ada", since=NOW - 5 * DAY),
        person("bob", since=NOW - 2 * DAY, team_id="blue", aliases=[ALIAS]),
    )
    timeline = state.attribution(ALIAS)
    assert timeline.at(NOW - 6 * DAY).subject_id == "ada"
    assert timeline.at(NOW - 3 * DAY) == UNKNOWN
    assert timeline.at(NOW).subject_id == "bob"


def test_a_governing_event_leaves_facts_beyond_its_reach_alone() -> None:
    since = NOW - GOVERNING_REACH - 100 * DAY
    state = governance(person("ada", since=since))
    assert teams_over_time(state, NOW - GOVERNING_REACH - DAY, NOW - GOVERNING_REACH + DAY) == [None, "red"]


def test_the_latest_published_policy_in_force_decides() -> None:
    state = governance(
        quota_policy(1, default_allowance_micro_usd=1),
        quota_policy(2, since=NOW - 2 * DAY, default_allowance_micro_usd=2),
        quota_policy(3, since=NOW - 9 * DAY, default_allowance_micro_usd=3),
        person("ada"),
    )
    limits = [
        state.limit(AccountKind.SUBJECT, "ada", instant) for instant in (NOW - 10 * DAY, NOW - 5 * DAY, NOW)
    ]
    assert [limit and limit.micro_usd for limit in limits] == [1, 3, 3]


def test_neither_a_stranger_nor_an_alias_has_an_allowance() -> None:
    state = governance(quota_policy(default_allowance_micro_usd=1), person("ada", aliases=[ALIAS]))
    limits = [state.limit(AccountKind.SUBJECT, owner, NOW) for owner in ("ada", "nobody", ALIAS)]
    assert [limit and limit.micro_usd for limit in limits] == [1, None, None]


def test_a_limit_is_hard_only_where_the_policy_says_so() -> None:
    state = governance(
        quota_policy(
            allowances=[
                {"role": "bot", "limit_micro_usd": 1, "enforcement": "hard"},
                {"role": "lead", "limit_micro_usd": 2},
            ],
            default_allowance_micro_usd=3,
            default_allowance_enforcement="hard",
            budgets=[
                {"kind": "team", "owner_id": "red", "limit_micro_usd": 4, "enforcement": "hard"},
                {"kind": "team", "owner_id": "blue", "limit_micro_usd": 5},
            ],
        ),
        *(person(subject, role=role) for subject, role in (("c3", "bot"), ("boss", "lead"), ("ada", "any"))),
        person("left", role="bot"),
        PersonLeft.model_validate({"person_id": "left", "effective_from": NOW - DAY}),
    )
    limits = {
        owner: limit and limit[:2]
        for kind, owners in (
            (AccountKind.SUBJECT, ("c3", "boss", "ada", "left")),
            (AccountKind.TEAM, ("red", "blue")),
        )
        for owner in owners
        for limit in (state.limit(kind, owner, NOW),)
    }
    assert limits == {
        "c3": (1, True),
        "boss": (2, False),
        "ada": (3, True),
        "left": (0, True),
        "red": (4, True),
        "blue": (5, False),
    }


def test_only_facts_that_may_change_are_in_scope() -> None:
    before = governance(person("ada", aliases=[ALIAS]), team("red"), quota_policy(1), price_book(1))

    def scopes(event: Event) -> list[Scope]:
        described = governing(event, 99)
        return list(before.with_events([described], 2).scopes(before, [described]))

    (moved,) = scopes(person("ada", since=NOW, team_id="blue"))
    assert moved == Scope(NOW, frozenset({"ada", ALIAS}))
    (of_team,) = scopes(team("red", cost_centre_id="cc1"))
    assert of_team.subjects == {"ada", ALIAS}
    (repriced,) = scopes(price_book(2, since=NOW))
    assert repriced.priced
    (turned,) = scopes(quota_policy(2, time_zone="Asia/Kathmandu"))
    assert turned.everything
    assert scopes(quota_policy(2, default_allowance_micro_usd=1)) == []


@pytest.mark.parametrize(
    ("policies", "allowed"),
    [
        ([], False),
        ([sources(may_backfill=True)], True),
        ([sources(since=NOW + DAY, may_backfill=True)], False),
        ([sources(may_backfill=False)], False),
        ([sources(may_backfill=True, backfill_until=NOW)], False),
        ([sources(may_backfill=True, backfill_until=NOW + DAY)], True),
        # What counts already is never taken out again.
        ([sources(may_backfill=True), sources(2, may_backfill=False)], True),
    ],
)
def test_a_permission_to_backfill_holds_from_its_effective_time_to_its_own_end(
    policies: list[Event], *, allowed: bool
) -> None:
    described = [
        governing(event, offset, appended_at=NOW + 30 * DAY) for offset, event in enumerate(policies)
    ]
    state = Governance(NoPrices()).with_events(described, 1)
    assert state.backfill(SOURCE, NOW).allowed is allowed


def test_a_policy_must_replace_the_version_before_it_in_the_log() -> None:
    state = governance(quota_policy(1), quota_policy(2))
    first, second = (governing(quota_policy(1), offset).order for offset in (0, 1))
    assert state.replaceable("quota", first) is None
    assert state.replaceable("quota", second) == 1
    assert state.replaceable("quota", second._replace(offset=9)) == 2
