"""A policy's examples are judged by the rules that a check is."""

from typing import Any

import pytest

from tests.support.quota_events import NOW
from tokenomics_contracts.events.policy import Problem, QuotaDocument, UseCasesDocument
from tokenomics_quota.usecases.examples import Judged, judge_examples

POLICY: dict[str, Any] = {
    "time_zone": "Europe/Berlin",
    "allowances": [{"role": "support", "limit_micro_usd": 30_000_001}],
    "budgets": [
        {"kind": "team", "owner_id": "team-1", "limit_micro_usd": 100},
        {"kind": "cost_centre", "owner_id": "cc-1", "limit_micro_usd": 1_000},
        {"kind": "project", "owner_id": "apollo", "limit_micro_usd": 500},
    ],
}


def judged(**example: Any) -> Judged | Problem:
    fields = {"name": "one", "role": "support", "expect": "ALLOW"} | example
    document = QuotaDocument.model_validate(POLICY | {"examples": [fields]})
    (one,) = judge_examples(document, {}, NOW)
    return one


def decided(**example: Any) -> str:
    one = judged(**example)
    assert isinstance(one, Judged)
    return one.actual


def of_subject(basis_points: int) -> dict[str, Any]:
    return {"spent": [{"account": "subject", "basis_points": basis_points}]}


@pytest.mark.parametrize(
    ("basis_points", "decision"),
    [
        (0, "ALLOW"),
        (6_999, "ALLOW"),
        (7_000, "ALLOW_WITH_NUDGE"),
        (8_999, "ALLOW_WITH_NUDGE"),
        (9_000, "JUSTIFICATION_REQUIRED"),
        (10_000, "APPROVAL_REQUIRED"),
    ],
)
def test_a_share_of_the_callers_limit_gives_the_band_that_begins_there(
    basis_points: int, decision: str
) -> None:
    assert decided(**of_subject(basis_points)) == decision


def test_an_example_says_what_it_promised_what_came_and_why() -> None:
    one = judged(**of_subject(9_500), expect="ALLOW_WITH_NUDGE")
    assert one == Judged("one", "ALLOW_WITH_NUDGE", "JUSTIFICATION_REQUIRED", ("subject_in_justify_band",))
    assert not one.holds
    assert isinstance(kept := judged(**of_subject(9_500), expect="JUSTIFICATION_REQUIRED"), Judged)
    assert kept.holds


def test_the_calls_own_cost_counts_whatever_the_prices() -> None:
    spent = {"spent": [{"account": "subject", "micro_usd": 30_000_000}]}
    assert decided(**spent, cost_micro_usd=0, provider="acme", model="dear") == "JUSTIFICATION_REQUIRED"
    assert decided(**spent, cost_micro_usd=1, provider="acme", model="dear") == "APPROVAL_REQUIRED"


@pytest.mark.parametrize(
    ("account", "place", "limit"),
    [
        ("team", {"team_id": "team-1"}, 100),
        ("cost_centre", {"cost_centre_id": "cc-1"}, 1_000),
        ("project", {"project_id": "apollo"}, 500),
    ],
)
def test_a_shared_budget_decides_for_who_is_counted_on_it(
    account: str, place: dict[str, str], limit: int
) -> None:
    used_up: list[dict[str, Any]] = [{"account": account, "basis_points": 10_000}]
    by_caller = [*used_up, {"account": "subject", "micro_usd": limit // 4}]
    assert decided(**place, members=4, spent=by_caller) == "APPROVAL_REQUIRED"
    assert decided(**place, members=3, spent=by_caller) == "ALLOW"
    assert decided(**place, members=4, spent=used_up) == "ALLOW"
    assert decided(**place, spent=[{"account": account, "micro_usd": limit - 1}]) == "ALLOW"
    assert decided(**place) == "ALLOW"


def test_examples_share_nothing_but_the_policy() -> None:
    document = QuotaDocument.model_validate(
        POLICY
        | {
            "examples": [
                {"name": "spent", "role": "support", "expect": "APPROVAL_REQUIRED", **of_subject(10_000)},
                {"name": "fresh", "role": "support", "expect": "ALLOW"},
            ]
        }
    )
    assert [one.holds for one in judge_examples(document, {}, NOW) if isinstance(one, Judged)] == [True, True]


def test_the_purpose_is_that_of_what_was_spent() -> None:
    assert decided(**of_subject(10_000), purpose="experiment") == "APPROVAL_REQUIRED"


def test_a_share_of_no_limit_is_a_problem_with_its_place() -> None:
    assert judged(role="engineer", spent=[{"account": "subject", "basis_points": 1}]) == Problem(
        "examples.0.spent.0.basis_points", "should be micro_usd: the subject has no limit to be a share of"
    )
    assert decided(role="engineer", spent=[{"account": "subject", "micro_usd": 10**15}]) == "ALLOW"


def test_policies_beside_it_are_in_force() -> None:
    example = {"name": "x", "role": "r", "use_case": "x", "expect": "DENIED"}
    document = QuotaDocument.model_validate(POLICY | {"examples": [example]})
    for unregistered, decision in (("deny", "DENIED"), ("nudge", "ALLOW_WITH_NUDGE"), ("allow", "ALLOW")):
        beside = {"use_cases": UseCasesDocument.model_validate({"unregistered": unregistered})}
        (one,) = judge_examples(document, beside, NOW)
        assert isinstance(one, Judged)
        assert one.actual == decision


@pytest.mark.parametrize("at", [None, "2000-01-01T00:00:00Z", "2199-12-31T23:59:59.999999Z"])
def test_what_is_approved_counts_at_the_instant_of_the_call(at: str | None) -> None:
    launch = {"at": at, "granted": [{"account": "subject", "micro_usd": 10_000_000}]}
    assert decided(**of_subject(9_500)) == "JUSTIFICATION_REQUIRED"
    assert decided(**of_subject(9_500), **launch) == "ALLOW_WITH_NUDGE"
    assert decided(**of_subject(9_500), at=at, justified=True) == "ALLOW_WITH_NUDGE"


@pytest.mark.parametrize(
    ("account", "place"),
    [
        ("team", {"team_id": "team-1"}),
        ("cost_centre", {"cost_centre_id": "cc-1"}),
        ("project", {"project_id": "apollo"}),
    ],
)
def test_a_grant_reaches_a_shared_account(account: str, place: dict[str, str]) -> None:
    used_up = {"spent": [{"account": account, "basis_points": 10_000}]}
    granted = {"granted": [{"account": account, "micro_usd": 1_000}]}
    assert decided(**place, **used_up, **granted) == "ALLOW"


def test_a_model_is_unlocked_for_the_calls_own_class_of_data() -> None:
    policy = POLICY | {
        "models": [{"models": [{"provider": "acme", "model": "big"}], "access": "on_approval"}],
        "prohibited_data": [{"data_class": "secret", "permitted_way": "Keep it."}],
    }

    def decisions(**example: Any) -> str:
        fields = {"name": "x", "role": "r", "provider": "acme", "model": "big", "expect": "ALLOW"} | example
        (one,) = judge_examples(QuotaDocument.model_validate(policy | {"examples": [fields]}), {}, NOW)
        assert isinstance(one, Judged)
        return one.actual

    assert decisions() == "APPROVAL_REQUIRED"
    assert decisions(model_unlocked=True) == "ALLOW"
    assert decisions(model_unlocked=True, data_class="secret") == "DENIED"
    assert decisions(model="other") == "DENIED"


def test_a_rollout_is_as_far_as_it_is_when_the_call_is_made() -> None:
    rollout = {
        "stages": [
            {"stage": "nudge", "from": "2026-11-01T00:00:00Z"},
            {"stage": "enforce", "from": "2026-12-01T00:00:00Z"},
        ],
        "first_days_observe": 30,
    }

    def decided_then(**example: Any) -> str:
        fields = {"name": "x", "role": "support", "expect": "ALLOW"} | of_subject(10_000) | example
        document = QuotaDocument.model_validate(POLICY | {"rollout": rollout, "examples": [fields]})
        (one,) = judge_examples(document, {}, NOW)
        assert isinstance(one, Judged)
        return one.actual

    assert decided_then(at="2026-10-31T00:00:00Z") == "ALLOW"
    assert decided_then(at="2026-11-01T00:00:00Z") == "ALLOW_WITH_NUDGE"
    assert decided_then(at="2026-12-01T00:00:00Z") == "APPROVAL_REQUIRED"
    new = {"at": "2026-12-15T00:00:00Z", "team_since": "2026-12-01T00:00:00Z"}
    assert decided_then(**new) == "ALLOW"
    assert decided_then(**new | {"at": "2026-12-31T00:00:00Z"}) == "APPROVAL_REQUIRED"


@pytest.mark.parametrize(
    ("usual_day", "used_today", "cost", "decision"),
    [
        (2_000_000, 9_000_000, 0, "ALLOW"),
        (2_000_000, 9_000_000, 1_000_000, "JUSTIFICATION_REQUIRED"),
        (2_000_000, 10_000_000, 0, "JUSTIFICATION_REQUIRED"),
        (4_000_000, 10_000_000, 0, "ALLOW"),
        (0, 20_000_000, 0, "ALLOW"),
    ],
)
def test_a_day_far_above_the_usual_asks_for_a_reason(
    usual_day: int, used_today: int, cost: int, decision: str
) -> None:
    policy = POLICY | {"spikes": {"factor_basis_points": 50_000, "minimum_micro_usd": 8_000_000}}
    example = {
        "name": "x",
        "role": "support",
        "usual_day_micro_usd": usual_day,
        "used_today_micro_usd": used_today,
        "cost_micro_usd": cost,
        "expect": decision,
    }
    (one,) = judge_examples(QuotaDocument.model_validate(policy | {"examples": [example]}), {}, NOW)
    assert isinstance(one, Judged)
    assert one.holds, one
    (justified,) = judge_examples(
        QuotaDocument.model_validate(policy | {"examples": [example | {"justified": True}]}), {}, NOW
    )
    assert isinstance(justified, Judged)
    assert justified.actual in {"ALLOW", "ALLOW_WITH_NUDGE"}
