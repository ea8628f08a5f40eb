"""A rule that interrupts more of a week's checks than it may only advises until the next week."""

from collections.abc import Iterable
from datetime import UTC, date, datetime, timedelta
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.quota_events import NOW, governance, person, price_book, quota_policy
from tokenomics_contracts.units import AccountId, BasisPoints, MicroUsd
from tokenomics_quota.domain.checks import Answer, Call
from tokenomics_quota.domain.findings import Rule
from tokenomics_quota.domain.friction import Decision
from tokenomics_quota.domain.friction_budgets import (
    NOBODY_FELL_BACK,
    Friction,
    FrictionBudget,
    FrictionBudgets,
    Interruption,
    exceeded,
    fallen_back,
    week_begins,
    week_of,
)
from tokenomics_quota.domain.pricing import Quantities
from tokenomics_quota.domain.rollout import ENFORCED, Stage, Stages
from tokenomics_quota.projections.balances import QuotaView
from tokenomics_quota.usecases.checking import Terms, check
from tokenomics_quota.usecases.friction import FrictionCounts

MONDAY = datetime(2026, 11, 16, tzinfo=UTC)
MOMENT, HOUR, WEEK = timedelta(microseconds=1), timedelta(hours=1), timedelta(days=7)
STAGED = [Rule(name) for name in Stages._fields]
RULES: dict[str, Any] = {
    "allowances": [{"role": "engineer", "limit_micro_usd": 100, "enforcement": "hard"}],
    "models": [{"models": [{"provider": "acme", "model": "one"}]}],
    "prohibited_data": [{"data_class": "health", "permitted_way": "Ask the clinic."}],
}


def budget(rule: Rule = Rule.MODELS, most: int = 300, fewest: int = 1_000) -> FrictionBudget:
    stated: Any = rule.value
    return FrictionBudget(stated, BasisPoints(most), fewest, "boss")


def budgets(*rules: Rule) -> FrictionBudgets:
    return {rule: budget(rule) for rule in rules}


def view(**document: Any) -> QuotaView:
    made = QuotaView(governance(quota_policy(**RULES, **document), price_book(), person("ada")))
    made.put_totals({AccountId("subject/ada/operational/2026-11"): MicroUsd(100)})
    return made


def fall_back(state: QuotaView, rules: Iterable[Rule]) -> None:
    of_rules = budgets(*rules)
    told = [(rule.value, BasisPoints(300)) for rule in of_rules]
    state.put_fallen_back(fallen_back(of_rules, MONDAY.date(), told))


def answer(state: QuotaView, now: datetime = NOW, model: str = "two", data_class: str = "internal") -> Answer:
    call = Call("ada", "acme", model, Quantities(0), None, data_class=data_class)
    return check(Terms.at(state.governance, now), state.touched_by("ada", None, now), call, now)


@given(st.integers(0, 10**6), st.integers(0, 10**6), st.integers(1, 10_000), st.integers(1, 10**5))
def test_a_budget_is_exceeded_by_more_than_its_share_of_enough_checks(
    passed: int, interrupted: int, most: int, fewest: int
) -> None:
    checks = passed + interrupted
    too_many = checks >= fewest and checks > 0 and Fraction(interrupted, checks) > Fraction(most, 10_000)
    of_models = budget(most=most, fewest=fewest)
    found = Friction(passed, {"models": interrupted, "spikes": 10**9})
    expected = [(of_models, checks, interrupted)] if too_many else []
    assert list(exceeded({Rule.MODELS: of_models}, found)) == expected


@pytest.mark.parametrize(
    ("instant", "week"),
    [
        (MONDAY, date(2026, 11, 16)),
        (MONDAY - MOMENT, date(2026, 11, 9)),
        (MONDAY + WEEK - MOMENT, date(2026, 11, 16)),
        (datetime(2027, 1, 1, tzinfo=UTC), date(2026, 12, 28)),
    ],
)
def test_a_week_is_named_by_its_monday(instant: datetime, week: date) -> None:
    assert week_of(instant) == week
    assert week_begins(week) <= instant < week_begins(week) + WEEK


def test_a_rule_that_fell_back_advises_until_the_week_ends_and_the_others_go_on() -> None:
    state = view()
    asked = [Decision.DENIED, Decision.APPROVAL_REQUIRED]
    assert [answer(state).decision, answer(state, model="one").decision] == asked
    fall_back(state, [Rule.MODELS])
    milder = answer(state)
    assert [reason.code for reason in milder.reasons] == ["subject_in_approve_band", "model_not_approved"]
    assert milder.shadow is not None
    assert milder.shadow.decision is Decision.DENIED
    fall_back(state, [Rule.MODELS, Rule.ALLOWANCES])
    last = MONDAY + WEEK - MOMENT
    decisions = [answer(state, now=now).decision for now in (NOW, last, MONDAY + WEEK, last, MONDAY - MOMENT)]
    nudge = Decision.ALLOW_WITH_NUDGE
    assert decisions == [nudge, nudge, Decision.DENIED, nudge, Decision.DENIED]
    fall_back(state, [])
    assert answer(state).decision is Decision.DENIED


@pytest.mark.parametrize(
    ("told", "advising"),
    [
        ([], []),
        ([("spikes", 300)], []),
        ([("models", 300)], [Rule.MODELS]),
        ([("models", 299)], []),
        ([("models", 1_000), ("models", 200)], [Rule.MODELS]),
    ],
)
def test_a_rule_with_a_larger_budget_than_it_exceeded_goes_on(
    told: list[tuple[str, BasisPoints]], advising: list[Rule]
) -> None:
    over_time = fallen_back(budgets(Rule.MODELS), MONDAY.date(), told)
    assert over_time.at(NOW) == set(advising)


def test_what_is_kept_of_callers_stays_while_nothing_falls_back() -> None:
    state = view()
    kept = state.touched_by("ada", None, NOW)
    state.put_fallen_back(NOBODY_FELL_BACK)
    assert state.touched_by("ada", None, NOW) is kept


def test_prohibited_data_is_refused_however_often_and_a_rule_that_is_observed_stays_so() -> None:
    state = view(rollout={"shadow": ["models"]})
    fall_back(state, STAGED)
    assert answer(state, data_class="health").decision is Decision.DENIED
    stages = state.touched_by("ada", None, NOW).standing.asking
    assert (stages.models, stages.allowances) == (Stage.OBSERVE, Stage.NUDGE)


def test_a_hard_limit_refuses_holds_though_its_rule_only_advises() -> None:
    state = view()
    fall_back(state, STAGED)
    assert answer(state, model="one").decision is Decision.ALLOW_WITH_NUDGE
    touched = state.touched_by("ada", None, NOW)
    assert touched.is_hard(touched.balances[0])


@given(st.lists(st.sampled_from(STAGED)))
def test_advising_takes_from_the_named_rules_alone(rules: list[Rule]) -> None:
    stages = ENFORCED.advising(rules)
    for rule in Rule:
        assert stages.of(rule) is (Stage.NUDGE if rule in rules else Stage.ENFORCE)


def test_an_answer_names_the_rules_that_hold_the_call_back() -> None:
    state = view()
    assert set(answer(state).interrupting) == {Rule.MODELS, Rule.ALLOWANCES}
    refused = answer(state, data_class="health")
    assert set(refused.interrupting) == {Rule.ALLOWANCES, Rule.PROHIBITED_DATA}
    fall_back(state, STAGED)
    assert not answer(state).interrupting


def test_who_asks_again_within_the_hour_is_not_interrupted_again() -> None:
    counts, of_rules = FrictionCounts(), budgets(Rule.MODELS, Rule.SPIKES)
    assert counts.take() == (0, set())
    for subject in ("ada", "ada", "bob"):
        counts.check({Rule.MODELS, Rule.ALLOWANCES}, subject, of_rules, MONDAY)
    counts.check((), "ada", of_rules, MONDAY)
    counts.check({Rule.MODELS, Rule.SPIKES}, "ada", of_rules, MONDAY + HOUR - MOMENT)
    counts.check({Rule.MODELS}, "ada", of_rules, MONDAY + HOUR)
    assert counts.take() == (
        1,
        {
            Interruption(MONDAY, Rule.MODELS, "ada"),
            Interruption(MONDAY, Rule.MODELS, "bob"),
            Interruption(MONDAY, Rule.SPIKES, "ada"),
            Interruption(MONDAY + HOUR, Rule.MODELS, "ada"),
        },
    )
    counts.check({Rule.MODELS}, "ada", of_rules, MONDAY + HOUR + MOMENT)
    assert counts.take() == (0, set())


def test_a_check_that_passed_and_the_hold_that_follows_it_are_one_call() -> None:
    counts, of_models = FrictionCounts(), budgets(Rule.MODELS)

    def passed(*asked: tuple[str, str], now: datetime = MONDAY) -> int:
        for what, subject in asked:
            (counts.check if what == "check" else counts.hold)((), subject, of_models, now)
        return counts.take()[0]

    check, hold = ("check", "ada"), ("hold", "ada")
    assert passed(check, hold, check, hold) == 2
    assert passed(hold, hold) == 2, "who doesn't check is counted by holds"
    assert passed(check, check) == 2, "who doesn't hold is counted by checks"
    assert passed(hold, hold, hold) == 1, "though the counts were taken in between"
    assert passed(check, ("hold", "bob")) == 2
    assert passed(hold, now=MONDAY + HOUR) == 1, "of an hour ago nothing is known"


def test_a_hold_is_interrupted_once_an_hour_as_a_check_is() -> None:
    counts, of_models = FrictionCounts(), budgets(Rule.MODELS)
    counts.check({Rule.MODELS}, "ada", of_models, MONDAY)
    counts.hold({Rule.MODELS, Rule.ALLOWANCES}, "ada", of_models, MONDAY)
    counts.hold({Rule.MODELS}, "bob", of_models, MONDAY)
    assert counts.take() == (
        0,
        {Interruption(MONDAY, Rule.MODELS, "ada"), Interruption(MONDAY, Rule.MODELS, "bob")},
    )
    counts.check({Rule.MODELS}, "bob", of_models, MONDAY)
    assert counts.take() == (0, set())
    counts.hold({Rule.MODELS}, "bob", of_models, MONDAY + HOUR)
    assert counts.take() == (0, {Interruption(MONDAY + HOUR, Rule.MODELS, "bob")})
