"""What a check answers from the view, and who may see what."""

import json
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.quota_events import (
    LONG_AGO,
    NOW,
    approved,
    governance,
    governing,
    person,
    price_book,
    project,
    published,
    quota_policy,
    team,
)
from tokenomics_contracts.events.directory import PersonLeft
from tokenomics_contracts.units import MAX_TOKENS, AccountId, MicroUsd, PeriodId, ServiceTier
from tokenomics_quota.domain.accounts import AccountKind, parse_account_id
from tokenomics_quota.domain.balance import headroom_of
from tokenomics_quota.domain.checks import Answer, Call, Decided
from tokenomics_quota.domain.decision_records import DecisionRecord
from tokenomics_quota.domain.friction import Band, Decision, ask
from tokenomics_quota.domain.pricing import Quantities
from tokenomics_quota.domain.timeline import Timeline
from tokenomics_quota.projections.balances import QuotaView
from tokenomics_quota.projections.governance import Governance
from tokenomics_quota.streams.events import decision_event
from tokenomics_quota.usecases import checking
from tokenomics_quota.usecases.checking import Terms
from tokenomics_quota.usecases.seeing import Sight, everything

LIMIT = 1_000_000
PERIOD = PeriodId("2026-11")
ALIAS, UNBORNE = "alias:" + "b" * 32, "alias:" + "c" * 32


def company(*, rate: int = 1_000_000, **policy: Any) -> Governance:
    return governance(
        quota_policy(**({"allowances": [{"role": "engineer", "limit_micro_usd": LIMIT}]} | policy)),
        price_book(rate=rate),
        team(owner_id="boss", cost_centre_id="cc1"),
        person("ada", manager_id="boss", aliases=[ALIAS], project_ids=["apollo"]),
        person("boss", role="lead"),
        person("eve", team_id="blue"),
        person("gov", team_id="blue", privileges=["governance"]),
        project("apollo", owner_id="eve"),
    )


def view(posted: Mapping[str, int], state: Governance | None = None, **policy: Any) -> QuotaView:
    made = QuotaView(state or company(**policy))
    made.put_totals({AccountId(f"{line}/{PERIOD}"): MicroUsd(amount) for line, amount in posted.items()})
    return made


def call(subject: str = "ada", tokens: int = 0, output: int = 0) -> Call:
    return Call(subject, "acme", "one", Quantities(tokens, 0, 0, output, 0, "standard"), None)


def check(state: QuotaView, asked: Call, now: datetime, sees: Sight = everything) -> Answer:
    touched = state.touched_by(asked.subject, asked.project_id, now)
    return checking.check(Terms.at(state.governance, now), touched, asked, now, sees)


@pytest.mark.parametrize(
    ("posted", "decision", "band"),
    [
        (500_000, Decision.ALLOW, Band.NORMAL),
        (750_000, Decision.ALLOW_WITH_NUDGE, Band.NUDGE),
        (950_000, Decision.JUSTIFICATION_REQUIRED, Band.JUSTIFY),
        (1_050_000, Decision.APPROVAL_REQUIRED, Band.APPROVE),
    ],
)
def test_friction_grows_with_what_is_used(posted: int, decision: Decision, band: Band) -> None:
    answer = check(view({"subject/ada/operational": posted}), call(), NOW)
    assert answer.decision is decision
    assert answer.balances[0].band is band
    assert [reason.account_id for reason in answer.reasons] == (
        [] if decision is Decision.ALLOW else ["subject/ada/all/2026-11"]
    )


def test_what_is_kept_of_a_caller_is_what_would_be_worked_out_anew() -> None:
    """Limits, bands, teams and periods change with time and with governance, and time may go back."""
    change = NOW + timedelta(hours=1)
    events = (
        quota_policy(allowances=[{"role": "engineer", "limit_micro_usd": LIMIT}], time_zone="Asia/Tokyo"),
        price_book(),
        team(cost_centre_id="cc1"),
        team("blue", cost_centre_id="cc2"),
        person("ada"),
    )
    later = (
        person("ada", since=change, role="lead", team_id="blue"),
        quota_policy(
            2,
            since=change + timedelta(hours=1),
            allowances=[{"role": "lead", "limit_micro_usd": 2 * LIMIT}],
            budgets=[{"kind": "team", "owner_id": "blue", "limit_micro_usd": 3 * LIMIT}],
        ),
        team("blue", since=change + timedelta(hours=2), cost_centre_id="cc1"),
    )
    made = QuotaView(governance(*events))
    month = timedelta(days=31)
    instants = [NOW + timedelta(minutes=30) * step for step in range(12)] + [NOW + month, NOW - month, NOW]
    seen = set()
    for state in (made.governance, governance(*events, *later), governance(*events, *later[:1])):
        made.governance = state
        for posted, instant in enumerate(instants):
            line = f"subject/ada/operational/{PERIOD}"
            made.put_totals({AccountId(line): MicroUsd(posted)})
            kept = made.touched_by("ada", "apollo", instant)
            anew = [made.balance(each, instant) for each in made.accounts_of("ada", "apollo", instant)]
            assert (kept.balances, kept.headroom) == (tuple(anew), headroom_of(anew, kept.standing))
            seen.add(tuple((each.account, each.limit_micro_usd) for each in kept.balances))
    assert len(seen) >= 5


def test_both_purposes_count_against_one_limit() -> None:
    answer = check(view({"subject/ada/operational": 400_000, "subject/ada/experiment": 400_000}), call(), NOW)
    assert answer.balances[0].posted_micro_usd == 800_000
    assert answer.decision is Decision.ALLOW_WITH_NUDGE


def test_a_large_call_is_judged_with_its_own_cost() -> None:
    answer = check(view({"subject/ada/operational": 500_000}), call(tokens=600_000), NOW)
    assert answer.estimate.cost_micro_usd == 600_000
    assert answer.decision is Decision.APPROVAL_REQUIRED
    assert answer.balances[0].band is Band.NORMAL


def test_the_caps_say_what_still_fits() -> None:
    answer = check(view({"subject/ada/operational": 500_000}), call(tokens=100_000), NOW)
    assert answer.caps is not None
    assert answer.caps.output_tokens_within_band == 99_999
    assert answer.caps.output_tokens_within_limit == 400_000


def test_a_shared_account_caps_where_it_asks_for_approval() -> None:
    budget: dict[str, Any] = {
        "thresholds": {
            "nudge_basis_points": 5_000,
            "justify_basis_points": 6_000,
            "approve_basis_points": 9_500,
        },
        "budgets": [{"kind": "team", "owner_id": "red", "limit_micro_usd": 100}],
    }
    made = view({"subject/ada/operational": 90, "team/red/operational": 90}, **budget)
    caps = check(made, call(), NOW).caps
    assert caps is not None
    assert (caps.output_tokens_within_band, caps.output_tokens_within_limit) == (4, 10)
    assert check(made, call(output=4), NOW).decision is Decision.ALLOW
    assert check(made, call(output=5), NOW).decision is Decision.APPROVAL_REQUIRED


@given(
    used=st.integers(0, 1_200_000),
    team_used=st.integers(0, 1_200_000),
    team_limit=st.integers(0, 1_000_000),
    output=st.integers(0, 1_000_000),
    rate=st.sampled_from([1, 40_000, 999_999, 1_000_000, 3_333_333, 75_000_000]),
)
def test_what_fits_the_caps_stays_in_its_decision_and_more_leaves_it(
    used: int, team_used: int, team_limit: int, output: int, rate: int
) -> None:
    state = company(
        rate=rate,
        thresholds={
            "nudge_basis_points": 6_000,
            "justify_basis_points": 8_500,
            "approve_basis_points": 11_000,
        },
        budgets=[{"kind": "team", "owner_id": "red", "limit_micro_usd": team_limit}],
    )
    made = view({"subject/ada/operational": used, "team/red/operational": team_used}, state=state)
    caps = check(made, call(output=output), NOW).caps
    assert caps is not None
    fits = caps.output_tokens_within_band
    without = check(made, call(), NOW).decision
    assert check(made, call(output=fits), NOW).decision is without
    if without is not Decision.APPROVAL_REQUIRED and fits < MAX_TOKENS:
        assert check(made, call(output=fits + 1), NOW).decision > without


@given(
    used=st.integers(0, 1_200_000),
    held=st.integers(0, 400_000),
    team_held=st.integers(0, 400_000),
    output=st.integers(0, 500_000),
    tier=st.sampled_from(["standard", "batch", "priority"]),
)
def test_the_caps_count_what_is_held_and_the_price_of_the_service_tier(
    used: int, held: int, team_held: int, output: int, tier: ServiceTier
) -> None:
    rates = {"input": 1_000_003, "output": 3_000_017}
    prices = {
        "prices": [{"provider": "acme", "model": "*", "rates": rates}],
        "service_tier_basis_points": {"batch": 5_000, "priority": 17_501},
        "fallback": rates,
    }
    budget = {"kind": "team", "owner_id": "red", "limit_micro_usd": 900_000}
    made = view({"subject/ada/operational": used, "team/red/operational": used}, budgets=[budget])
    book = governing(published("price_book", 2, LONG_AGO, prices), 100)
    made.governance = made.governance.with_events([book], 2)
    made.put_pending(
        {
            AccountId(f"subject/ada/all/{PERIOD}"): Timeline((), before=MicroUsd(held)),
            AccountId(f"team/red/all/{PERIOD}"): Timeline((), before=MicroUsd(team_held)),
        }
    )

    def answer(output_tokens: int) -> Answer:
        quantities = Quantities(1_000, 0, 0, output_tokens, 0, tier)
        return check(made, call()._replace(quantities=quantities), NOW)

    asked = answer(output)
    assert [each.pending_micro_usd for each in asked.balances[:2]] == [held, team_held]
    without = answer(0).decision
    assert asked.caps is not None
    within_band, within_limit = asked.caps
    assert answer(within_band).decision is without
    if without is not Decision.APPROVAL_REQUIRED:
        assert answer(within_band + 1).decision > without
    left = min(LIMIT - used - held, 900_000 - used - team_held)
    if answer(0).estimate.cost_micro_usd <= left:
        assert answer(within_limit).estimate.cost_micro_usd <= left
        assert answer(within_limit + 1).estimate.cost_micro_usd > left
    else:
        assert within_limit == 0


@given(
    used=st.integers(-5, 1_200_000),
    team_used=st.integers(-5, 1_200_000),
    team_limit=st.none() | st.integers(0, 1_000_000),
    tokens=st.integers(0, 1_200_000),
)
def test_a_call_that_fits_the_headroom_is_one_that_no_account_asks_anything_of(
    used: int, team_used: int, team_limit: int | None, tokens: int
) -> None:
    budget: Any = {"kind": "team", "owner_id": "red", "limit_micro_usd": team_limit}
    made = view(
        {"subject/ada/operational": used, "team/red/operational": team_used},
        budgets=[] if team_limit is None else [budget],
    )
    answer = check(made, call(tokens=tokens), NOW)
    own, team_account, _ = answer.balances
    asked = [ask(own.band_with(MicroUsd(tokens)), shared=False)]
    if team_limit is None or (used + tokens) * 2 >= team_limit:  # the team has two members
        asked.append(ask(team_account.band_with(MicroUsd(tokens)), shared=True))
    assert answer.decision == max(asked)
    assert len(answer.reasons) == sum(each is not Decision.ALLOW for each in asked)


def test_a_cap_is_never_longer_than_a_call_may_be() -> None:
    state = company(rate=1, allowances=[{"role": "engineer", "limit_micro_usd": 10**15}])
    caps = check(view({}, state=state), call(), NOW).caps
    assert caps is not None
    assert (caps.output_tokens_within_band, caps.output_tokens_within_limit) == (MAX_TOKENS, MAX_TOKENS)


def test_the_caps_tell_nothing_of_what_may_not_be_seen() -> None:
    budget: dict[str, Any] = {"budgets": [{"kind": "team", "owner_id": "red", "limit_micro_usd": 100}]}
    made = view({"subject/ada/operational": 500_000, "team/red/operational": 90}, **budget)
    caps = check(made, call(), NOW, lambda account: account.kind is AccountKind.SUBJECT).caps
    assert caps is not None
    assert caps.output_tokens_within_limit == LIMIT - 500_000


def test_the_strictest_account_decides() -> None:
    budget: dict[str, Any] = {"budgets": [{"kind": "team", "owner_id": "red", "limit_micro_usd": 100}]}
    made = view({"subject/ada/operational": 750_000, "team/red/operational": 100}, **budget)
    answer = check(made, call(), NOW)
    assert answer.decision is Decision.APPROVAL_REQUIRED
    assert [reason.code for reason in answer.reasons] == ["team_in_approve_band", "subject_in_nudge_band"]


def test_the_accounts_touched_are_listed_by_id_as_they_come_and_go() -> None:
    made = view({"team/a.b/experiment": 1, "team/a/operational": 1, "subject/z/operational": 1})
    first = made.touched(PERIOD)
    assert first == ["subject/z/all/2026-11", "team/a.b/all/2026-11", "team/a/all/2026-11"]
    made.put_totals({AccountId("team/a/experiment/2026-11"): MicroUsd(5)})
    assert made.touched(PERIOD) is first
    made.put_totals({AccountId("subject/b/operational/2026-11"): MicroUsd(1)})
    assert made.touched(PERIOD) == ["subject/b/all/2026-11", *first]
    made.drop_before(PeriodId("2026-12"))
    assert not made.touched(PERIOD)


def test_a_team_near_its_limit_interrupts_nobody_and_at_its_limit_names_its_owner() -> None:
    budget: dict[str, Any] = {"budgets": [{"kind": "team", "owner_id": "red", "limit_micro_usd": 100}]}
    own = {"subject/ada/operational": 60}
    assert check(view(own | {"team/red/operational": 95}, **budget), call(), NOW).decision is Decision.ALLOW
    answer = check(view(own | {"team/red/operational": 100}, **budget), call(), NOW)
    assert answer.decision is Decision.APPROVAL_REQUIRED
    assert [unblock.who_can_unblock for unblock in answer.unblocks] == [("boss",)]


MODELS: dict[str, Any] = {
    "models": [
        {"models": [{"provider": "acme", "model": "one"}], "data_classes": ["internal"]},
        {"models": [{"provider": "acme", "model": "big*"}], "access": "on_approval"},
    ],
    "prohibited_data": [{"data_class": "health", "permitted_way": "Use the clinic's own system."}],
}


@pytest.mark.parametrize("posted", [0, 750_000, 950_000, 1_050_000])
def test_prohibited_data_is_refused_at_every_level_with_the_permitted_way(posted: int) -> None:
    made = view({"subject/ada/operational": posted}, **MODELS)
    answer = check(made, call()._replace(data_class="health"), NOW)
    assert answer.decision is Decision.DENIED
    assert answer.reasons[0][::2] == ("data_class_prohibited", None)
    assert [reason.code for reason in answer.reasons[1:]] == [
        f"subject_in_{balance.band.label}_band"
        for balance in answer.balances
        if balance.band is not Band.NORMAL
    ]
    assert answer.unblocks[0] == (Decision.DENIED, "Use the clinic's own system.", ())


def test_a_model_that_is_not_approved_is_denied_and_one_on_approval_names_who_approves() -> None:
    made = view({}, **MODELS)
    assert check(made, call(), NOW).decision is Decision.ALLOW
    denied = check(made, call()._replace(data_class="public"), NOW)
    assert (denied.decision, [each.code for each in denied.reasons]) == (
        Decision.DENIED,
        ["model_not_approved"],
    )
    asked = check(made, call()._replace(model="big-1"), NOW)
    assert asked.decision is Decision.APPROVAL_REQUIRED
    assert asked.unblocks == [(Decision.APPROVAL_REQUIRED, "Ask for access to acme big-1.", ("boss",))]


@pytest.mark.parametrize(
    ("model", "data_class", "opened"),
    [("big-1", "internal", True), ("big-1", "public", False), ("small", "internal", False)],
)
def test_an_approval_opens_a_model_that_needs_one_for_its_data_and_none_that_is_refused(
    model: str, data_class: str, *, opened: bool
) -> None:
    access = approved(kind="model_access")
    state = governance(quota_policy(**MODELS), person("ada"), access)
    answer = check(QuotaView(state), call()._replace(model=model, data_class=data_class), NOW)
    assert (answer.decision is Decision.ALLOW) is opened


def test_no_approval_opens_a_model_for_prohibited_data() -> None:
    access = approved(kind="model_access", data_classes=["health", "internal"])
    state = governance(quota_policy(**MODELS), person("ada"), access)
    answer = check(QuotaView(state), call()._replace(model="big-1", data_class="health"), NOW)
    assert answer.decision is Decision.DENIED


def staged(stage: str, **fields: Any) -> dict[str, Any]:
    return {"rollout": {"stages": [{"stage": stage, "from": LONG_AGO}]} | fields}


@pytest.mark.parametrize(
    ("stage", "decision", "codes"),
    [
        ("observe", Decision.ALLOW, []),
        ("nudge", Decision.ALLOW_WITH_NUDGE, ["model_not_approved", "subject_in_approve_band"]),
        ("enforce", Decision.DENIED, ["model_not_approved", "subject_in_approve_band"]),
    ],
)
def test_a_rule_asks_for_no_more_than_its_stage_and_tells_what_it_would_have_said(
    stage: str, decision: Decision, codes: list[str]
) -> None:
    made = view({"subject/ada/operational": LIMIT}, **MODELS, **staged(stage))
    answer = check(made, call()._replace(model="huge"), NOW)
    assert answer.decision is decision
    assert [each.code for each in answer.reasons] == codes
    if stage == "enforce":
        assert answer.shadow is None
        assert len(answer.unblocks) == 2
    else:
        assert answer.shadow is not None
        assert answer.shadow.decision is Decision.DENIED
        assert [each.code for each in answer.shadow.reasons] == [
            "model_not_approved",
            "subject_in_approve_band",
        ]
        assert not answer.unblocks


def test_prohibited_data_is_refused_where_everything_is_only_observed() -> None:
    made = view({}, **MODELS, **staged("observe", shadow=["models", "budgets", "allowances", "use_cases"]))
    answer = check(made, call()._replace(data_class="health"), NOW)
    assert (answer.decision, answer.shadow) == (Decision.DENIED, None)


def test_a_stage_begins_on_its_instant_for_who_was_checked_before() -> None:
    steps = [{"stage": "enforce", "from": NOW}]
    made = view({"subject/ada/operational": LIMIT}, rollout={"stages": steps})
    before = NOW - timedelta(microseconds=1)
    decisions = [check(made, call(), instant).decision for instant in (before, NOW, before)]
    assert decisions == [Decision.ALLOW, Decision.APPROVAL_REQUIRED, Decision.ALLOW]


@pytest.mark.parametrize(
    ("rollout", "hard"),
    [
        ({}, [True, True, False]),
        ({"shadow": ["allowances"]}, [False, True, False]),
        ({"shadow": ["budgets"]}, [True, False, False]),
        ({"stages": [{"stage": "nudge", "from": LONG_AGO}]}, [False, False, False]),
        ({"teams": [{"team_id": "red", "stages": [{"stage": "observe", "from": LONG_AGO}]}]}, [False] * 3),
    ],
)
def test_a_hard_limit_refuses_nothing_to_whom_it_is_not_enforced_for(
    rollout: dict[str, Any], hard: list[bool]
) -> None:
    made = view(
        {},
        allowances=[{"role": "engineer", "limit_micro_usd": 1, "enforcement": "hard"}],
        budgets=[
            {"kind": "team", "owner_id": "red", "limit_micro_usd": 1, "enforcement": "hard"},
            {"kind": "cost_centre", "owner_id": "cc1", "limit_micro_usd": 1},
        ],
        rollout=rollout,
    )
    touched = made.touched_by("ada", None, NOW)
    assert [touched.is_hard(each) for each in touched.balances] == hard


def test_what_may_be_called_follows_the_role_and_the_policies_of_the_moment() -> None:
    change = NOW + timedelta(hours=1)
    rules = {"models": [{"models": [{"provider": "acme", "model": "one"}], "roles": ["lead"]}]}
    made = QuotaView(
        governance(
            quota_policy(),
            quota_policy(2, since=NOW, **rules),
            person("ada"),
            person("ada", since=change, role="lead"),
        )
    )
    decisions = [
        check(made, call(), instant).decision
        for instant in (NOW - timedelta(hours=1), NOW, change, NOW, NOW - timedelta(hours=1))
    ]
    assert decisions == [Decision.ALLOW, Decision.DENIED, Decision.ALLOW, Decision.DENIED, Decision.ALLOW]


TEN = [f"p{number}" for number in range(10)]


def shared_budget(posted: Mapping[str, int], kind: str = "team", **policy: Any) -> QuotaView:
    """Ten people of one team, project and cost centre, whose budget there is 1,000 micro-USD."""
    owner_id = {"team": "red", "project": "apollo", "cost_centre": "cc1"}[kind]
    budget = {"kind": kind, "owner_id": owner_id, "limit_micro_usd": 1_000}
    state = governance(
        quota_policy(**({"budgets": [budget]} | policy)),
        price_book(),
        team(owner_id="boss", cost_centre_id="cc1"),
        *(person(subject, project_ids=["apollo"]) for subject in TEN),
        person("guest", team_id="blue"),
    )
    return view(posted, state)


@pytest.mark.parametrize(
    ("kind", "owner_id"), [("team", "red"), ("project", "apollo"), ("cost_centre", "cc1")]
)
def test_one_who_uses_most_of_a_budget_is_asked_at_its_limit_and_the_others_go_on(
    kind: str, owner_id: str
) -> None:
    def decisions(hog: int, others: int) -> dict[str, Decision]:
        posted = {f"subject/{subject}/operational": others for subject in TEN} | {
            "subject/p0/operational": hog,
            f"{kind}/{owner_id}/operational": hog + 9 * others,
        }
        state = shared_budget(posted, kind)
        return {
            subject: check(state, call(subject)._replace(project_id="apollo"), NOW).decision
            for subject in TEN
        }

    assert set(decisions(hog=900, others=10).values()) == {Decision.ALLOW}
    used_up = decisions(hog=910, others=10)
    assert [subject for subject, decision in used_up.items() if decision is not Decision.ALLOW] == ["p0"]
    # A fair share is used once it is reached: at the limit, to which all have used as much, all are asked.
    assert set(decisions(hog=100, others=100).values()) == {Decision.APPROVAL_REQUIRED}


def test_a_large_call_that_uses_up_a_fair_share_is_asked_for_at_the_limit() -> None:
    state = shared_budget({"team/red/operational": 1_000, "subject/p1/operational": 60})
    assert check(state, call("p1", tokens=39), NOW).decision is Decision.ALLOW
    answer = check(state, call("p1", tokens=40), NOW)
    assert answer.decision is Decision.APPROVAL_REQUIRED
    assert answer.reasons[0].account_id == "team/red/all/2026-11"
    assert answer.unblocks[0].who_can_unblock == ("boss",)
    assert answer.caps is not None
    caps = check(state, call("p1"), NOW).caps
    assert caps is not None
    assert caps == (39, 0)


def test_so_far_beyond_its_limit_as_policy_says_a_budget_asks_everybody() -> None:
    thresholds = {"everybody_basis_points": 12_000}
    for used, decision in ((1_199, Decision.ALLOW), (1_200, Decision.APPROVAL_REQUIRED)):
        state = shared_budget({"team/red/operational": used}, thresholds=thresholds)
        assert check(state, call("p1"), NOW).decision is decision
    caps = check(shared_budget({"team/red/operational": 1_150}, thresholds=thresholds), call("p1"), NOW).caps
    assert caps is not None
    assert caps.output_tokens_within_band == 49


def test_who_is_no_member_of_a_project_has_no_share_of_it() -> None:
    state = shared_budget({"project/apollo/operational": 1_000}, "project")
    for subject, decision in (("p1", Decision.ALLOW), ("guest", Decision.APPROVAL_REQUIRED)):
        assert check(state, call(subject)._replace(project_id="apollo"), NOW).decision is decision


def test_a_fair_share_is_one_of_those_who_are_there() -> None:
    left = [PersonLeft.model_validate({"person_id": subject, "effective_from": NOW}) for subject in TEN[5:]]
    state = QuotaView(
        shared_budget({}).governance.with_events(
            [governing(each, 50 + place) for place, each in enumerate(left)], 2
        )
    )
    posted = {"team/red/operational": 1_000, "subject/p1/operational": 150, "subject/p7/operational": 1}
    state.put_totals({AccountId(f"{line}/{PERIOD}"): MicroUsd(amount) for line, amount in posted.items()})
    before = NOW - timedelta(seconds=1)
    decisions = [check(state, call(who), at).decision for who in ("p1", "p7") for at in (before, NOW)]
    assert decisions == [
        Decision.APPROVAL_REQUIRED,
        Decision.ALLOW,
        Decision.ALLOW,
        Decision.APPROVAL_REQUIRED,
    ]


@given(
    own=st.integers(0, 300),
    others=st.integers(0, 2_500),
    cost=st.integers(0, 300),
    everybody=st.none() | st.integers(10_000, 20_000),
)
def test_at_its_limit_a_budget_asks_who_has_used_a_fair_share_and_nobody_else(
    own: int, others: int, cost: int, everybody: int | None
) -> None:
    thresholds = {} if everybody is None else {"everybody_basis_points": everybody}
    posted = {"team/red/operational": own + others, "subject/p1/operational": own}
    state = shared_budget(posted, thresholds=thresholds)
    answer = check(state, call("p1", tokens=cost), NOW)
    used = own + others + cost
    asked = used >= 1_000 and (
        (own + cost) * 10 >= 1_000 or (everybody is not None and used * 10_000 >= 1_000 * everybody)
    )
    assert answer.decision is (Decision.APPROVAL_REQUIRED if asked else Decision.ALLOW)


def test_an_alias_is_checked_as_the_person_who_bears_it() -> None:
    answer = check(view({"subject/ada/operational": 950_000}), call(ALIAS), NOW)
    assert answer.balances[0].account.owner_id == "ada"
    assert answer.decision is Decision.JUSTIFICATION_REQUIRED


def test_a_stranger_is_checked_against_the_unattributed_account() -> None:
    answer = check(view({}), call("stranger"), NOW)
    assert [balance.account.account_id for balance in answer.balances] == [
        "unattributed/unattributed/all/2026-11"
    ]
    assert answer.decision is Decision.ALLOW


def test_an_account_of_a_past_period_keeps_the_limit_it_ended_with() -> None:
    raised = quota_policy(2, since=NOW, allowances=[{"role": "engineer", "limit_micro_usd": 5 * LIMIT}])
    state = governance(
        quota_policy(allowances=[{"role": "engineer", "limit_micro_usd": LIMIT}]), raised, person("ada")
    )
    made = QuotaView(state)
    past = made.balance(parse_account_id("subject/ada/all/2026-10"), NOW)
    present = made.balance(parse_account_id("subject/ada/all/2026-11"), NOW)
    assert (past.limit_micro_usd, present.limit_micro_usd) == (LIMIT, 5 * LIMIT)


def test_who_left_has_no_allowance_and_keeps_the_team() -> None:
    left = PersonLeft.model_validate({"person_id": "ada", "effective_from": NOW - timedelta(days=1)})
    state = governance(
        quota_policy(allowances=[{"role": "engineer", "limit_micro_usd": LIMIT}]), person("ada"), left
    )
    made = QuotaView(state)
    answer = check(made, call("ada", tokens=1), NOW)
    assert answer.balances[0].limit_micro_usd == 0
    assert [balance.account.owner_id for balance in answer.balances] == ["ada", "red"]


@pytest.mark.parametrize(("subject", "recorded"), [(ALIAS, "ada"), ("ada", "ada"), (UNBORNE, UNBORNE)])
def test_a_decision_is_recorded_of_the_person_behind_an_alias(subject: str, recorded: str) -> None:
    asked = call(subject)._replace(data_class="secret", use_case_id="triage")
    pilot = {"teams": [{"team_id": "red", "cohort": "pilot"}], "shadow": ["allowances"]}
    answer = check(view({"subject/ada/operational": LIMIT}, rollout=pilot), asked, NOW)
    decided = Decided(asked, "caller", answer, {}, stale=False, decided_at=NOW)
    event = decision_event(DecisionRecord("d", decided, 1, answer.estimate.cost_micro_usd, NOW))
    assert event.key == recorded.encode()
    told = json.loads(event.value or b"")
    assert told["subject"] == recorded
    assert (told["data_class"], told["use_case"]) == ("secret", "triage")
    if recorded == "ada":
        assert (told["cohort"], told["decision"]) == ("pilot", "ALLOW")
        assert told["shadow_decision"] == "APPROVAL_REQUIRED"
        assert told["shadow_reason_codes"] == ["subject_in_approve_band"]
