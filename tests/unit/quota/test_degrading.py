"""What a stale view still lets through: no more than the cap on any account, and no less."""

from collections import Counter
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.quota_events import NOW, governance, person, quota_policy
from tokenomics_contracts.events.policy import QuotaDocument, validate_document
from tokenomics_contracts.units import AccountId, MicroUsd, PeriodId
from tokenomics_quota.domain.accounts import Account, AccountKind, Purpose
from tokenomics_quota.domain.balance import Balance, Bounds
from tokenomics_quota.domain.checks import Answer
from tokenomics_quota.domain.degradation import DEFAULT_DEGRADE, Degrade
from tokenomics_quota.domain.friction import DEFAULT_THRESHOLDS, Decision
from tokenomics_quota.domain.pricing import Priced
from tokenomics_quota.usecases.degrading import StaleCapReachedError, StaleTab, StaleViewError
from tokenomics_quota.usecases.seeing import everything

OWNERS = [(AccountKind.SUBJECT, "ada"), (AccountKind.SUBJECT, "eve"), (AccountKind.TEAM, "red")]


def balance(kind: AccountKind, owner_id: str) -> Balance:
    account = Account(kind, owner_id, Purpose.ALL, PeriodId("2026-11"))
    return Balance(account, Bounds(None, NOW, DEFAULT_THRESHOLDS), MicroUsd(0), MicroUsd(0))


def answer(owners: list[tuple[AccountKind, str]], cost: int, decision: Decision = Decision.ALLOW) -> Answer:
    priced = Priced(MicroUsd(cost), "book")
    return Answer(decision, [], [balance(*owner) for owner in owners], priced, None, [], 1, 1)


def open_to(cap: int) -> Degrade:
    return Degrade(timedelta(seconds=10), MicroUsd(cap))


@given(
    cap=st.integers(0, 50),
    calls=st.lists(
        st.tuples(st.lists(st.sampled_from(OWNERS), min_size=1, max_size=3, unique=True), st.integers(0, 30)),
        max_size=40,
    ),
)
def test_a_call_is_refused_exactly_when_it_would_exceed_the_cap_on_one_of_its_accounts(
    cap: int, calls: list[tuple[list[tuple[AccountKind, str]], int]]
) -> None:
    tab, let_through = StaleTab(), Counter[AccountId]()
    for owners, cost in calls:
        asked = answer(owners, cost)
        accounts = [each.account.account_id for each in asked.balances]
        fits = all(let_through[account] + cost <= cap for account in accounts)
        if fits:
            let_through.update(dict.fromkeys(accounts, cost))
            degraded = tab.admit(asked, open_to(cap), None, everything)
            assert degraded.remaining_micro_usd == min(cap - let_through[account] for account in accounts)
        else:
            with pytest.raises(StaleCapReachedError):
                tab.admit(asked, open_to(cap), None, everything)


def test_a_refusal_at_the_cap_names_the_account_that_has_least_left() -> None:
    tab = StaleTab()
    tab.admit(answer(OWNERS, 10), open_to(10), None, everything)
    with pytest.raises(StaleCapReachedError) as refused:
        tab.admit(answer(OWNERS[:1], 1), open_to(10), None, everything)
    assert refused.value.metadata == {"account_id": "subject/ada/all/2026-11"}


@pytest.mark.parametrize("decision", [Decision.JUSTIFICATION_REQUIRED, Decision.APPROVAL_REQUIRED])
def test_what_holds_a_call_back_lets_nothing_through(decision: Decision) -> None:
    tab = StaleTab()
    assert tab.admit(answer(OWNERS, 11, decision), open_to(10), None, everything).remaining_micro_usd == 10


def test_what_is_left_tells_nothing_of_an_account_that_may_not_be_seen() -> None:
    tab = StaleTab()
    tab.admit(answer(OWNERS[2:], 9), open_to(10), None, everything)
    own = tab.admit(answer(OWNERS[::2], 1), open_to(10), None, lambda account: account.owner_id == "ada")
    assert own.remaining_micro_usd == 9


def test_closed_lets_nothing_through_not_even_what_costs_nothing() -> None:
    with pytest.raises(StaleViewError, match="12 s behind"):
        StaleTab().admit(
            answer(OWNERS, 0), Degrade(timedelta(seconds=10), None), timedelta(seconds=12), everything
        )


def test_a_view_is_stale_when_it_never_was_level_or_not_for_longer_than_policy_allows() -> None:
    degrade = Degrade(timedelta(seconds=10), None)
    assert degrade.is_stale(None)
    assert not degrade.is_stale(timedelta(seconds=10))
    assert degrade.is_stale(timedelta(seconds=10, microseconds=1))


@pytest.mark.parametrize(
    ("document", "degrade"),
    [
        ({}, DEFAULT_DEGRADE),
        ({"degrade": {}}, DEFAULT_DEGRADE),
        (
            {"degrade": {"stale_after_seconds": 3, "cap_micro_usd": 0}},
            Degrade(timedelta(seconds=3), MicroUsd(0)),
        ),
        ({"degrade": {"mode": "closed"}}, Degrade(timedelta(seconds=10), None)),
    ],
)
def test_a_policy_says_how_a_stale_view_degrades_and_its_silence_means_the_default(
    document: dict[str, Any], degrade: Degrade
) -> None:
    state = governance(quota_policy(**document), person("ada"))
    assert state.quota_policies.at(NOW).degrade == degrade
    again = QuotaDocument.model_validate_json(
        QuotaDocument.model_validate({"time_zone": "UTC"} | document).model_dump_json()
    )
    assert again.degrade.let_through_micro_usd == degrade.cap_micro_usd


@pytest.mark.parametrize(
    "degrade",
    [
        {"mode": "closed", "cap_micro_usd": 1},
        {"mode": "ajar"},
        {"stale_after_seconds": 0},
        {"cap_micro_usd": -1},
        {"cap": 5},
    ],
)
def test_a_way_to_degrade_that_makes_no_sense_is_not_published(degrade: dict[str, Any]) -> None:
    assert validate_document("quota", {"time_zone": "UTC", "degrade": degrade})
