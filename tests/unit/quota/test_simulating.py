"""Simulating: two courses of the same usage, alike but for what governs them."""

from collections.abc import Sequence
from datetime import timedelta
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from tests.support.quota_events import (
    NOW,
    approved,
    governance,
    person,
    price_book,
    quota_policy,
    record,
    team,
    usage,
)
from tokenomics_contracts.events.base import Event
from tokenomics_contracts.events.policy import PolicyDocument, PolicyPublished
from tokenomics_quota.domain.simulations import SimulationResult
from tokenomics_quota.projections.facts import Fact, Received
from tokenomics_quota.projections.governance import Governance
from tokenomics_quota.projections.usage import derive
from tokenomics_quota.streams.decoding import usage_from_record
from tokenomics_quota.usecases.simulating import Simulating

DAY = timedelta(days=1)
SINCE = NOW - 10 * DAY
OTHER_MODEL = {"models": [{"provider": "acme", "model": "two"}], "access": "approved"}
SPIKES = {"minimum_micro_usd": 60, "window_days": 14, "fewest_days": 5}


def document(event: PolicyPublished) -> PolicyDocument:
    assert not isinstance(event.document, dict)
    return event.document


def fact(governing: Governance, number: int, age: timedelta, subject: str, **fields: Any) -> Fact:
    told = record(usage(subject, **fields), f"u{number}", offset=number, time=NOW - age)
    received = usage_from_record(told)
    assert isinstance(received, Received)
    return Fact(received, derive(received, None, governing))


def simulated(
    governing: Governance, policy: PolicyPublished, facts: Sequence[Fact], *, since: Any = SINCE
) -> SimulationResult:
    simulating = Simulating(governing, {policy.kind: document(policy)}, since)
    ordered = sorted(facts, key=lambda each: (each.received.occurred_at, each.received.identity))
    for each in ordered:
        simulating.add(each, {})
    return simulating.result()


def company(*more: Event, teams: Sequence[int] = (6,), **policy: Any) -> Governance:
    people = [
        person(f"p{place}.{number}", team_id=f"t{place}", role=f"r{place}")
        for place, size in enumerate(teams)
        for number in range(size)
    ]
    return governance(price_book(), quota_policy(**policy), *people, *more)


SUBJECTS = ["p0.0", "p0.1", "p0.2", "stranger"]


@given(
    st.lists(
        st.tuples(
            st.integers(0, 60 * 24),
            st.sampled_from(SUBJECTS),
            st.integers(0, 90),
            st.sampled_from([None, "apollo"]),
            st.sampled_from(["operational", "experiment"]),
        ),
        max_size=30,
    ),
    st.sampled_from([None, SPIKES]),
    st.sampled_from(["UTC", "Asia/Tokyo"]),
)
def test_simulating_the_policies_in_force_changes_nothing(
    used: list[tuple[int, str, int, str | None, Any]], spikes: dict[str, int] | None, time_zone: str
) -> None:
    policy = quota_policy(
        time_zone=time_zone,
        allowances=[{"role": "r0", "limit_micro_usd": 500}],
        budgets=[{"kind": "project", "owner_id": "apollo", "limit_micro_usd": 300}],
        spikes=spikes,
    )
    governing = governance(
        price_book(),
        policy,
        team("t0", cost_centre_id="cc"),
        *(person(subject, team_id="t0", role="r0") for subject in SUBJECTS[:3]),
        approved(target="subject/p0.0", since=NOW - 5 * DAY),
    )
    facts = [
        fact(
            governing,
            number,
            timedelta(hours=hours),
            subject,
            input_tokens=tokens,
            project=project,
            purpose=purpose,
        )
        for number, (hours, subject, tokens, project, purpose) in enumerate(used)
    ]
    for simulated_policy in (policy, price_book()):
        result = simulated(governing, simulated_policy, facts)
        assert all(each.actual == each.simulated for each in result.decisions)
        assert all(each.actual_micro_usd == each.simulated_micro_usd for each in result.decisions)
        assert result.posted_micro_usd == result.simulated_posted_micro_usd
        assert result.changed_subjects == result.changes.stricter == result.changes.milder == 0
        judged = [each for each in facts if each.received.occurred_at >= SINCE]
        assert result.changes.calls == sum(each.actual for each in result.decisions) == len(judged)


def test_what_was_used_of_the_period_before_counts_and_what_of_another_does_not() -> None:
    allowances = [{"role": "r0", "limit_micro_usd": 200}]
    governing = company(allowances=allowances)
    for age, newly_interrupted in ((12 * DAY, 1), (25 * DAY, 0)):
        facts = [
            fact(governing, 1, age, "p0.0", input_tokens=100, output_tokens=0),
            fact(governing, 2, DAY, "p0.0", input_tokens=1, output_tokens=0),
        ]
        lower = quota_policy(2, allowances=[{"role": "r0", "limit_micro_usd": 101}])
        result = simulated(governing, lower, facts)
        assert result.changes.newly_interrupted == newly_interrupted
        assert (result.interrupted_subjects, result.simulated_interrupted_subjects) == (0, newly_interrupted)


def test_all_that_matters_to_the_first_call_is_asked_for() -> None:
    policies = quota_policy(2, spikes={"window_days": 28})
    plain = Simulating(company(), {"quota": document(quota_policy(2))}, SINCE)
    assert plain.begins <= SINCE.replace(day=1, hour=0)
    assert Simulating(company(), {"quota": document(policies)}, SINCE).begins <= SINCE - 28 * DAY


def test_documents_govern_from_since_on_and_outlast_versions_that_came_later() -> None:
    between = quota_policy(2, since=SINCE + DAY, allowances=[{"role": "r0", "limit_micro_usd": 7}])
    governing = company(between)
    supposed = governing.supposing({"quota": document(quota_policy(9, default_allowance_micro_usd=5))}, SINCE)
    before, after = (supposed.quota_policies.at(at) for at in (SINCE - DAY, SINCE + 2 * DAY))
    assert before == governing.quota_policies.at(SINCE - DAY)
    assert after.default_allowance is not None
    assert after.version == 3
    assert supposed.version == governing.version
    assert governing.quota_policies.at(SINCE + 2 * DAY).version == 2


def test_a_first_policy_of_its_kind_can_be_simulated() -> None:
    governing = governance(person("p0.0"))
    used = [fact(governing, 1, DAY, "p0.0")]
    assert simulated(governing, price_book(), used).simulated_posted_micro_usd == 100
    assert simulated(governing, quota_policy(default_allowance_micro_usd=0), used).changes.calls == 1


def test_what_the_newly_denied_cost_is_told_and_takes_no_usage_away() -> None:
    governing = company()
    facts = [fact(governing, number, number * timedelta(hours=1), "p0.0") for number in range(1, 4)]
    nothing = quota_policy(2, models=[OTHER_MODEL])
    result = simulated(governing, nothing, facts)
    assert result.newly_denied_micro_usd == 300
    assert result.posted_micro_usd == result.simulated_posted_micro_usd == 300


def test_a_dearer_price_book_fills_allowances_sooner_and_leaves_what_tools_reported() -> None:
    governing = company(allowances=[{"role": "r0", "limit_micro_usd": 390}])
    facts = [fact(governing, number, DAY - timedelta(hours=number), "p0.0") for number in range(1, 4)]
    facts.append(fact(governing, 9, timedelta(0), "p0.1", cost_micro_usd=5))
    result = simulated(governing, price_book(2, rate=3_000_000), facts)
    assert (result.posted_micro_usd, result.simulated_posted_micro_usd) == (305, 905)
    assert result.changes.newly_interrupted == 2


def shown(*teams: int) -> dict[str, tuple[int, int]]:
    governing = company(teams=teams)
    facts = [
        fact(governing, 100 * place + number, DAY, f"p{place}.{number}")
        for place, size in enumerate(teams)
        for number in range(size)
    ]
    result = simulated(governing, quota_policy(2, models=[OTHER_MODEL]), facts)
    for groups in (result.teams, result.roles):
        assert all(each.stricter == each.calls for each in groups)
    told = {each.name: (each.people, each.calls) for each in result.teams}
    assert told == {
        name.replace("r", "t"): numbers
        for name, numbers in {each.name: (each.people, each.calls) for each in result.roles}.items()
    }
    return told


def test_groups_of_too_few_are_rolled_up_so_that_no_sum_tells_them() -> None:
    assert shown(5, 6) == {"t0": (5, 5), "t1": (6, 6)}
    assert shown(8, 3, 2) == {"t0": (8, 8), "": (5, 5)}
    assert shown(8, 6, 3) == {"t0": (8, 8), "": (9, 9)}
    assert shown(7, 1) == {"": (8, 8)}
    assert shown(3, 1) == {}


def test_a_role_is_not_told_that_is_of_one_team_with_few_of_another_role() -> None:
    analysts, engineers = ([f"{role}.{number}" for number in range(9)] for role in "ae")
    for in_red, roles in ((2, {"": 14}), (0, {"a": 5, "e": 9})):
        crew = [
            person(
                subject,
                team_id="red" if subject in (*analysts, *engineers[:in_red]) else "blue",
                role=subject[0],
            )
            for subject in (*analysts[:5], *engineers)
        ]
        governing = governance(price_book(), quota_policy(), *crew)
        facts = [fact(governing, number, DAY, each.key) for number, each in enumerate(crew)]
        result = simulated(governing, quota_policy(2), facts)
        assert {each.name: each.people for each in result.teams} == {"red": 5 + in_red, "blue": 9 - in_red}
        assert {each.name: each.people for each in result.roles} == roles


def test_who_the_directory_does_not_know_counts_as_a_person() -> None:
    governing = company(teams=(6,))
    facts = [fact(governing, number, DAY, f"p0.{number}") for number in range(6)]
    facts.append(fact(governing, 99, DAY, "stranger"))
    result = simulated(governing, quota_policy(2), facts)
    assert [(each.name, each.people) for each in result.teams] == [("", 7)]
