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
    used_up = {"spent": [{"account": account, "basis_points": 10_000}]}
    assert decided(**place, **used_up) == "APPROVAL_REQUIRED"
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
    beside = {"use_cases": UseCasesDocument.model_validate({"unregistered": "allow"})}
    document = QuotaDocument.model_validate(
        POLICY | {"examples": [{"name": "x", "role": "r", "use_case": "x", "expect": "ALLOW"}]}
    )
    (one,) = judge_examples(document, beside, NOW)
    assert isinstance(one, Judged)
    assert one.holds
