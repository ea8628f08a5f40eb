"""A comparison of policies says what changes by its meaning, and whom that is about."""

from datetime import timedelta
from typing import Any

import pytest

from tests.support.quota_events import NOW, published
from tokenomics_cli.policy_changes import Change, Comparison, compare
from tokenomics_cli.policy_log import State, states
from tokenomics_contracts.events.policy import PolicyPublished

OLD: dict[str, Any] = {
    "time_zone": "UTC",
    "allowances": [{"role": "engineer", "limit_micro_usd": 1}, {"role": "support", "limit_micro_usd": 2}],
    "budgets": [
        {"kind": "team", "owner_id": "team-1", "limit_micro_usd": 3},
        {"kind": "cost_centre", "owner_id": "cc-1", "limit_micro_usd": 4},
    ],
}
RATES = {"input": 1, "output": 2}


def compared(old: dict[str, Any] | None, new: dict[str, Any], kind: str = "quota") -> Comparison:
    before = None if old is None else published(kind, 1, NOW, old)
    return compare(before, published(kind, 2, NOW, new))


def test_values_that_change_come_in_the_order_of_the_document_with_old_and_new() -> None:
    new = {
        "time_zone": "UTC",
        "thresholds": {"nudge_basis_points": 8_000},
        "allowances": [{"role": "support", "limit_micro_usd": 5}, {"role": "bot", "limit_micro_usd": 6}],
        "budgets": OLD["budgets"][::-1],
        "default_allowance_micro_usd": 7,
    }
    found = compared(OLD, new)
    assert found.changes == (
        Change("thresholds.nudge_basis_points", 7_000, 8_000),
        Change("allowances[support].limit_micro_usd", 2, 5),
        Change("allowances[bot]", None, {"role": "bot", "limit_micro_usd": 6}),
        Change("allowances[engineer]", {"role": "engineer", "limit_micro_usd": 1}, None),
        Change("default_allowance_micro_usd", None, 7),
    )
    assert found.touches == {"everybody": ["everybody"], "roles": ["support", "bot", "engineer"]}


def test_a_shared_budget_touches_its_owner_and_no_other() -> None:
    found = compared(OLD, OLD | {"budgets": [OLD["budgets"][0] | {"limit_micro_usd": 9}, OLD["budgets"][1]]})
    assert found.changes == (Change("budgets[team/team-1].limit_micro_usd", 3, 9),)
    assert found.touches == {"teams": ["team-1"]}


def test_the_order_of_a_list_of_named_entries_means_nothing() -> None:
    assert compared(OLD, OLD | {"allowances": OLD["allowances"][::-1]}) == ((), {})


def test_what_is_left_to_a_default_is_the_default() -> None:
    assert compared(OLD, OLD | {"thresholds": {"nudge_basis_points": 7_000}}).changes == ()


def test_a_list_of_names_says_whom_it_lets_in_and_whom_it_had() -> None:
    def rule(*roles: str) -> dict[str, Any]:
        return OLD | {"models": [{"models": [{"provider": "acme", "model": "*"}], "roles": list(roles)}]}

    found = compared(rule("a", "b"), rule("b", "c"))
    assert found.changes == (Change("models[0].roles", ["a", "b"], ["b", "c"]),)
    assert found.touches == {"roles": ["a", "b", "c"]}


def test_an_empty_list_that_gets_its_first_entry_says_which() -> None:
    first = OLD | {"prohibited_data": [{"data_class": "secret", "permitted_way": "Keep it."}]}
    assert [each.path for each in compared(OLD, first).changes] == ["prohibited_data[secret]"]
    assert [each.path for each in compared(first, OLD).changes] == ["prohibited_data[secret]"]
    shadow = OLD | {"rollout": {"shadow": ["models"]}}
    assert compared(OLD, shadow).changes == (Change("rollout.shadow", [], ["models"]),)
    assert compared(shadow, OLD).changes == (Change("rollout.shadow", ["models"], []),)


def test_where_one_of_the_nameless_comes_or_goes_the_others_stay_what_they_are() -> None:
    first, second, third = ({"models": [{"provider": "acme", "model": name}]} for name in "abc")
    found = compared(OLD | {"models": [first, second]}, OLD | {"models": [third, first, second]})
    assert [(each.path, each.old is None) for each in found.changes] == [("models[0]", True)]
    found = compared(OLD | {"models": [first, second, third]}, OLD | {"models": [first, third]})
    assert [(each.path, each.new is None) for each in found.changes] == [("models[1]", True)]


def test_entries_within_entries_have_names_too() -> None:
    def book(*above: int, rates: dict[str, int] = RATES) -> dict[str, Any]:
        tiers = [{"above_input_tokens": each, "rates": rates} for each in above]
        price = {"provider": "acme", "model": "m*", "rates": RATES, "tiers": tiers}
        return {"prices": [price], "fallback": RATES}

    found = compared(book(5), book(3, 5, rates={"input": 9, "output": 2}), "price_book")
    assert [each.path for each in found.changes] == [
        "prices[acme/m*].tiers[3]",
        "prices[acme/m*].tiers[5].rates.input",
    ]
    assert found.touches == {"models": ["m*"]}


def test_what_is_new_as_a_whole_is_shown_as_one_would_write_it() -> None:
    example = {
        "name": "x",
        "role": "support",
        "spent": [{"account": "subject", "basis_points": 1}],
        "expect": "ALLOW",
    }
    rule = {"models": [{"provider": "acme", "model": "*"}]}
    found = compared(OLD, OLD | {"examples": [example], "models": [rule]})
    assert [each.new for each in found.changes] == [[rule], example]


def test_examples_touch_nobody() -> None:
    found = compared(OLD, OLD | {"examples": [{"name": "x", "role": "support", "expect": "ALLOW"}]})
    assert [each.path for each in found.changes] == ["examples[x]"]
    assert found.touches == {}


def test_a_first_version_is_all_new() -> None:
    found = compared(None, {"acceptable_use": "Think first."}, "baseline")
    assert [each.path for each in found.changes] == ["acceptable_use", "approved_tools", "restricted_data"]


def version(number: int, days: int) -> PolicyPublished:
    return published("use_cases", number, NOW + timedelta(days=days), {})


@pytest.mark.parametrize(
    ("days", "expected"),
    [
        ([-1], ["in force"]),
        ([1], ["to come"]),
        ([-2, -1], ["superseded", "in force"]),
        ([-1, 1], ["in force", "to come"]),
        ([2, 1], ["superseded", "to come"]),
        ([-1, -2], ["superseded", "in force"]),
        ([-3, 2, -1, 1], ["superseded", "superseded", "in force", "to come"]),
    ],
)
def test_a_version_counts_unless_a_later_one_holds_in_its_place(
    days: list[int], expected: list[State]
) -> None:
    assert states([version(place + 1, day) for place, day in enumerate(days)], NOW) == expected
