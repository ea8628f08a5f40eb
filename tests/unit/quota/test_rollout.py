"""How far rules are rolled out, for whom and from when; and what a stage lets a rule ask for."""

from datetime import datetime, timedelta
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.quota_events import NOW
from tokenomics_contracts.events import policy
from tokenomics_contracts.units import RuleName
from tokenomics_quota.domain.findings import Finding, Rule
from tokenomics_quota.domain.friction import Decision
from tokenomics_quota.domain.rollout import ENFORCED, Rollout, Stage, Stages, judge

DAY = timedelta(days=1)
UNSTAGED = (Rule.PROHIBITED_DATA, Rule.SHUT_ACCOUNTS)
STAGED = [rule for rule in Rule if rule not in UNSTAGED]


def rollout(**stated: Any) -> Rollout:
    return Rollout(policy.Rollout.model_validate(stated))


def step(stage: str, since: datetime, *rules: str) -> dict[str, Any]:
    return {"stage": stage, "from": since} | ({"rules": rules} if rules else {})


def over_time(made: Rollout, team_id: str | None, first_seen: datetime | None, rule: str) -> list[str]:
    """Give the stage a day before, on, and a day after NOW."""
    timeline = made.stages(team_id, first_seen)
    instants = (NOW - DAY, NOW, NOW + DAY)
    return [getattr(timeline.at(instant), rule).name.lower() for instant in instants]


@pytest.mark.parametrize(
    ("stated", "first_seen", "expected"),
    [
        ({}, None, ["enforce", "enforce", "enforce"]),
        ({"stages": [step("nudge", NOW)]}, None, ["observe", "nudge", "nudge"]),
        (
            {"stages": [step("enforce", NOW + DAY), step("nudge", NOW)]},
            None,
            ["observe", "nudge", "enforce"],
        ),
        # A step of other rules says nothing of this one.
        ({"stages": [step("nudge", NOW, "models")]}, None, ["enforce", "enforce", "enforce"]),
        ({"stages": [step("nudge", NOW, "budgets", "models")]}, None, ["observe", "nudge", "nudge"]),
        # A team's own steps before its cohort's before everybody's.
        (
            {
                "stages": [step("enforce", NOW)],
                "cohorts": [{"cohort": "pilot", "stages": [step("nudge", NOW)]}],
                "teams": [{"team_id": "red", "cohort": "pilot"}],
            },
            None,
            ["observe", "nudge", "nudge"],
        ),
        (
            {
                "cohorts": [{"cohort": "pilot", "stages": [step("nudge", NOW)]}],
                "teams": [
                    {"team_id": "red", "cohort": "pilot", "stages": [step("enforce", NOW - DAY)]},
                    {"team_id": "blue", "cohort": "pilot"},
                ],
            },
            None,
            ["enforce", "enforce", "enforce"],
        ),
        (
            {
                "cohorts": [{"cohort": "pilot", "stages": [step("nudge", NOW)]}],
                "teams": [{"team_id": "red", "cohort": "comparison"}],
            },
            None,
            ["enforce", "enforce", "enforce"],
        ),
        # A new team's first days, unless steps of its own speak of the rule.
        ({"first_days_observe": 30}, NOW - 30 * DAY, ["observe", "enforce", "enforce"]),
        ({"first_days_observe": 30}, None, ["enforce", "enforce", "enforce"]),
        (
            {"first_days_observe": 30, "stages": [step("nudge", NOW - DAY)]},
            NOW - 29 * DAY,
            ["observe", "observe", "nudge"],
        ),
        (
            {"first_days_observe": 30, "stages": [step("nudge", NOW + DAY)]},
            NOW - 30 * DAY,
            ["observe", "observe", "nudge"],
        ),
        (
            {"first_days_observe": 30, "teams": [{"team_id": "red", "stages": [step("nudge", NOW)]}]},
            NOW,
            ["observe", "nudge", "nudge"],
        ),
        # In the shadow, whatever the steps say.
        (
            {"shadow": ["budgets"], "teams": [{"team_id": "red", "stages": [step("enforce", NOW)]}]},
            None,
            ["observe", "observe", "observe"],
        ),
    ],
)
def test_the_steps_that_are_closest_to_a_team_say_how_far_a_rule_is(
    stated: dict[str, Any], first_seen: datetime | None, expected: list[str]
) -> None:
    assert over_time(rollout(**stated), "red", first_seen, "budgets") == expected


def test_who_belongs_to_no_team_is_as_far_as_everybody() -> None:
    made = rollout(
        stages=[step("nudge", NOW)], teams=[{"team_id": "red", "stages": [step("enforce", NOW - DAY)]}]
    )
    assert over_time(made, None, None, "models") == ["observe", "nudge", "nudge"]
    assert (made.cohort(None), rollout(teams=[{"team_id": "red", "cohort": "pilot"}]).cohort("red")) == (
        None,
        "pilot",
    )


def test_every_rule_but_prohibited_data_and_shut_accounts_has_a_stage_and_a_name_in_policies() -> None:
    assert list(Stages._fields) == [rule.value for rule in STAGED] == list(get_args(RuleName))
    for stage in Stage:
        assert [Stages.all(stage).of(rule) for rule in UNSTAGED] == [Stage.ENFORCE] * 2


steps = st.lists(
    st.builds(
        step,
        st.sampled_from(["observe", "nudge", "enforce"]),
        st.integers(0, 9).map(lambda days: NOW + days * DAY),
        st.sampled_from(list(get_args(RuleName))),
    ),
    max_size=3,
    unique_by=lambda each: (each["from"], *each["rules"]),
)


@given(
    everybody=steps,
    pilot=steps,
    own=steps,
    rule=st.sampled_from(get_args(RuleName)),
    day=st.integers(-1, 10),
)
def test_the_last_step_that_has_begun_counts_and_none_begun_means_observed(
    everybody: list[Any], pilot: list[Any], own: list[Any], rule: str, day: int
) -> None:
    made = rollout(
        stages=everybody,
        cohorts=[{"cohort": "pilot", "stages": pilot}] if pilot else [],
        teams=[{"team_id": "red", "cohort": "pilot"} | ({"stages": own} if own else {})],
    )
    now = NOW + day * DAY
    expected = "enforce"
    for group in (own, pilot, everybody):
        if speaking := [each for each in group if rule in each["rules"]]:
            begun = [each for each in speaking if each["from"] <= now]
            expected = max(begun, key=lambda each: each["from"])["stage"] if begun else "observe"
            break
    assert getattr(made.stages("red", None).at(now), rule).name.lower() == expected


findings = st.builds(
    Finding,
    st.sampled_from(Rule),
    st.sampled_from([each for each in Decision if each is not Decision.ALLOW]),
    st.text("ab", max_size=3),
    st.just("message"),
    st.just(""),
    st.none(),
)
all_stages = st.builds(Stages, *[st.sampled_from(Stage)] * len(Stages._fields))


@given(st.lists(findings, max_size=6), all_stages)
def test_a_stage_takes_from_what_a_rule_asks_and_tells_what_it_took(
    found: list[Finding], stages: Stages
) -> None:
    asked, shadow = judge(found, stages)
    for each in asked:
        stage = stages.of(each.rule)
        assert stage is not Stage.OBSERVE
        assert stage is Stage.ENFORCE or each.decision is Decision.ALLOW_WITH_NUDGE
    assert all(stages.of(each.rule) < Stage.ENFORCE and each in found for each in shadow)
    assert [each.decision for each in asked] == sorted((each.decision for each in asked), reverse=True)
    worst = max((each.decision for each in (*asked, *shadow)), default=Decision.ALLOW)
    assert worst == max((each.decision for each in found), default=Decision.ALLOW)
    prohibited = [each for each in found if each.rule is Rule.PROHIBITED_DATA]
    assert [each for each in asked if each.rule is Rule.PROHIBITED_DATA] == sorted(
        prohibited, key=lambda each: -each.decision
    )


@given(st.lists(findings, max_size=6))
def test_where_all_is_enforced_nothing_is_left_in_the_shadow(found: list[Finding]) -> None:
    asked, shadow = judge(found, ENFORCED)
    assert (sorted(asked), list(shadow)) == (sorted(found), [])
