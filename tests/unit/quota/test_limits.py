"""What projects make of an allowance, what a budget keeps back, and what it has for experiments."""

from collections.abc import Mapping
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.quota_events import NOW, approved, governance, person, price_book, quota_policy, team
from tokenomics_contracts.events.base import Event
from tokenomics_contracts.events.directory import PersonLeft
from tokenomics_contracts.units import MAX_LIMIT_MICRO_USD, AccountId, MicroUsd
from tokenomics_quota.domain.accounts import AccountKind, parse_account_id
from tokenomics_quota.domain.checks import Answer, Call
from tokenomics_quota.domain.friction import Decision
from tokenomics_quota.domain.policies import NO_POLICY, Limit, Override, QuotaPolicy
from tokenomics_quota.domain.pricing import Quantities
from tokenomics_quota.projections.balances import QuotaView
from tokenomics_quota.usecases import checking
from tokenomics_quota.usecases.checking import Terms

PERIOD = "2026-11"
BUDGET = {"kind": "team", "owner_id": "red", "limit_micro_usd": 1_000}


def replaces(project_id: str, limit: int) -> dict[str, Any]:
    return {"project_id": project_id, "mode": "replace", "limit_micro_usd": limit}


def adds(project_id: str, limit: int) -> dict[str, Any]:
    return {"project_id": project_id, "mode": "add", "limit_micro_usd": limit}


OVERRIDES = [replaces("apollo", 500), replaces("atlas", 50), adds("argo", 7), adds("ares", 20)]


def view(posted: Mapping[str, int], *events: Event, **policy: Any) -> QuotaView:
    made = QuotaView(governance(quota_policy(**policy), price_book(), *events))
    made.put_totals({AccountId(f"{line}/{PERIOD}"): MicroUsd(amount) for line, amount in posted.items()})
    return made


def check(state: QuotaView, call: Call) -> Answer:
    touched = state.touched_by(call.subject, call.project_id, NOW, call.purpose)
    return checking.check(Terms.at(state.governance, NOW), touched, call, NOW)


def call(subject: str = "ada", tokens: int = 0, purpose: Any = "operational") -> Call:
    return Call(subject, "acme", "one", Quantities(tokens), None, purpose)


@pytest.mark.parametrize(
    ("projects", "allowance", "limit"),
    [
        ([], 100, 100),
        (["elsewhere"], 100, 100),
        (["apollo"], 100, 500),
        (["atlas"], 100, 50),
        (["argo"], 100, 107),
        (["argo", "ares"], 100, 127),
        (["apollo", "atlas"], 100, 500),
        (["atlas", "argo", "apollo", "ares"], 100, 527),
        ([], None, None),
        (["argo"], None, None),
        (["atlas"], None, 50),
        (["atlas", "argo"], None, 57),
    ],
)
def test_projects_replace_an_allowance_or_add_to_it(
    projects: list[str], allowance: int | None, limit: int | None
) -> None:
    state = view(
        {}, person("ada", project_ids=projects), default_allowance_micro_usd=allowance, overrides=OVERRIDES
    )
    balance = state.touched_by("ada", None, NOW).balances[0]
    assert balance.limit_micro_usd == balance.base_limit_micro_usd == limit
    assert balance.bounds.allowance_micro_usd == allowance


@given(
    st.dictionaries(
        st.sampled_from("abcdef"),
        st.builds(Override, st.booleans(), st.integers(0, MAX_LIMIT_MICRO_USD).map(MicroUsd)),
    ),
    st.permutations("abcdefgh"),
    st.none() | st.builds(Limit, st.integers(0, MAX_LIMIT_MICRO_USD).map(MicroUsd), st.booleans()),
)
def test_the_order_in_which_projects_are_named_changes_no_limit(
    overrides: dict[str, Override], projects: list[str], allowance: Limit | None
) -> None:
    policy: QuotaPolicy = NO_POLICY._replace(overrides=overrides)
    limit = policy.overridden(allowance, projects)
    assert limit == policy.overridden(allowance, sorted(projects))
    replaced = [each.micro_usd for each in overrides.values() if each.replaces]
    added = sum(each.micro_usd for each in overrides.values() if not each.replaces)
    if not replaced and allowance is None:
        assert limit is None
    else:
        assert limit is not None
        base = max(replaced) if replaced or allowance is None else allowance.micro_usd
        assert limit.micro_usd == min(base + added, MAX_LIMIT_MICRO_USD)
        assert limit.hard is (allowance is not None and allowance.hard)


def test_a_limit_follows_membership_of_the_instant_and_never_the_single_call() -> None:
    change = NOW + timedelta(hours=1)
    state = view(
        {},
        person("ada", project_ids=["apollo"]),
        person("ada", since=change),
        default_allowance_micro_usd=100,
        overrides=OVERRIDES,
    )
    limits = [
        state.touched_by("ada", project, instant).balances[0].limit_micro_usd
        for instant in (NOW, change, NOW)
        for project in (None, "apollo", "atlas")
    ]
    assert limits == [500] * 3 + [100] * 3 + [500] * 3


def test_grants_come_on_top_of_what_projects_make_of_an_allowance() -> None:
    state = view(
        {},
        person("ada", project_ids=["apollo", "argo"]),
        approved(),
        default_allowance_micro_usd=100,
        overrides=OVERRIDES,
    )
    balance = state.touched_by("ada", None, NOW).balances[0]
    assert (balance.limit_micro_usd, balance.base_limit_micro_usd, balance.bounds.allowance_micro_usd) == (
        607,
        507,
        100,
    )


def test_who_left_keeps_no_project_either() -> None:
    left = PersonLeft.model_validate({"person_id": "ada", "effective_from": NOW - timedelta(days=1)})
    state = view({}, person("ada", project_ids=["apollo"]), left, overrides=OVERRIDES)
    assert state.governance.limit(AccountKind.SUBJECT, "ada", NOW) == Limit(MicroUsd(0))


def test_what_a_budget_keeps_back_is_no_members_to_use() -> None:
    budget = BUDGET | {"buffer_micro_usd": 300}
    posted = {"team/red/operational": 700, "subject/ada/operational": 700}
    state = view(posted, team(owner_id="boss"), person("ada"), budgets=[budget])
    answer = check(state, call())
    assert answer.decision is Decision.APPROVAL_REQUIRED
    assert answer.balances[1].limit_micro_usd == answer.balances[1].base_limit_micro_usd == 700
    limit = state.governance.limit(AccountKind.TEAM, "red", NOW)
    assert limit is not None
    assert (limit.micro_usd, limit.buffer_micro_usd) == (700, 300)


EXPERIMENTS = {"budgets": [BUDGET | {"experiment_limit_micro_usd": 100}]}
IN_EXPERIMENTS = [
    "subject/ada/all/2026-11",
    "team/red/all/2026-11",
    "subject/ada/experiment/2026-11",
    "team/red/experiment/2026-11",
]


def test_an_experiment_is_judged_by_what_its_budget_has_for_experiments_too() -> None:
    posted = {
        "team/red/operational": 500,
        "team/red/experiment": 90,
        "subject/ada/experiment": 90,
    }
    state = view(posted, team(owner_id="boss"), person("ada"), **EXPERIMENTS)
    assert check(state, call(tokens=10)).decision is Decision.ALLOW
    assert check(state, call(tokens=9, purpose="experiment")).decision is Decision.ALLOW
    answer = check(state, call(tokens=10, purpose="experiment"))
    assert answer.decision is Decision.APPROVAL_REQUIRED
    assert [each.account.account_id for each in answer.balances] == IN_EXPERIMENTS
    assert [(each.code, each.account_id) for each in answer.reasons] == [
        ("team_experiments_in_approve_band", "team/red/experiment/2026-11")
    ]
    assert answer.unblocks[0].who_can_unblock == ("boss",)


def test_a_fair_share_of_what_is_for_experiments_is_used_by_experiments_alone() -> None:
    posted = {
        "team/red/operational": 800,
        "team/red/experiment": 100,
        "subject/ada/operational": 300,
        "subject/ada/experiment": 40,
        "subject/bob/experiment": 60,
    }
    state = view(posted, team(), person("ada"), person("bob"), **EXPERIMENTS)
    decisions = [check(state, call(each, purpose="experiment")).decision for each in ("ada", "bob")]
    assert decisions == [Decision.ALLOW, Decision.APPROVAL_REQUIRED]


def test_a_budget_without_a_limit_for_experiments_takes_them_as_any_other_use() -> None:
    state = view({}, team(), person("ada"), budgets=[BUDGET])
    of_both = [
        [each.account.account_id for each in state.touched_by("ada", None, NOW, purpose).balances]
        for purpose in ("operational", "experiment")
    ]
    assert of_both[0] == of_both[1] == IN_EXPERIMENTS[:2]


def test_what_is_kept_of_a_callers_experiments_follows_totals_and_policies() -> None:
    state = view({"team/red/experiment": 1}, team(), person("ada"), **EXPERIMENTS)
    for amount in (1, 50, 2):
        state.put_totals({AccountId("team/red/experiment/2026-11"): MicroUsd(amount)})
        kept = state.touched_by("ada", None, NOW, "experiment")
        anew = [state.balance(each, NOW) for each in state.accounts_of("ada", None, NOW, "experiment")]
        assert list(kept.balances) == anew
        assert kept.balances[-1].posted_micro_usd == amount
        assert state.touched_by("ada", None, NOW) is not kept
    state.governance = governance(quota_policy(budgets=[BUDGET]), team(), person("ada"))
    assert len(state.touched_by("ada", None, NOW, "experiment").balances) == 2


def test_a_grant_to_a_budget_leaves_what_it_has_for_experiments_alone() -> None:
    state = view({}, team(), person("ada"), approved(target="team/red"), **EXPERIMENTS)
    limits = [
        state.balance(parse_account_id(account_id), NOW).limit_micro_usd for account_id in IN_EXPERIMENTS
    ]
    assert limits == [None, 1_100, None, 100]
