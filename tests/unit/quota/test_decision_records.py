"""Decisions that are summed: nothing is lost in a sum, and nothing unlike comes together."""

from collections import Counter
from collections.abc import Iterator
from datetime import datetime, timedelta
from itertools import chain, count

from hypothesis import given
from hypothesis import strategies as st

from tests.support.quota_events import NOW, NoPrices
from tokenomics_contracts.units import AccountId, MicroUsd
from tokenomics_quota.domain.checks import Answer, Call, Decided, Reason, Shadow
from tokenomics_quota.domain.decision_records import DecisionRecord, DecisionSums
from tokenomics_quota.domain.friction import Decision
from tokenomics_quota.domain.pricing import Priced, Quantities
from tokenomics_quota.projections.balances import QuotaView
from tokenomics_quota.projections.governance import Governance

BALANCES = QuotaView(Governance(NoPrices())).touched_by("ada", None, NOW).balances
SHADOWS = Shadow(Decision.DENIED, []), Shadow(Decision.DENIED, [Reason("c", "", None)])
Told = tuple[object, ...]

decisions = st.builds(
    Decided,
    st.builds(
        Call,
        subject=st.sampled_from(["ada", "eve"]),
        provider=st.sampled_from(["acme", "bolt"]),
        model=st.sampled_from(["one", "two"]),
        quantities=st.builds(Quantities, st.integers(0, 9)),
        project_id=st.sampled_from([None, "apollo"]),
        purpose=st.sampled_from(["operational", "experiment"]),
        data_class=st.sampled_from(["public", "internal"]),
        use_case_id=st.sampled_from([None, "triage"]),
    ),
    caller=st.sampled_from(["ide", "bot"]),
    answer=st.builds(
        Answer,
        st.sampled_from([Decision.ALLOW_WITH_NUDGE, Decision.APPROVAL_REQUIRED]),
        st.lists(
            st.builds(
                Reason,
                st.sampled_from(["a", "b"]),
                message=st.text(max_size=1),
                account_id=st.just(AccountId("")),
            ),
            max_size=2,
        ),
        st.just(BALANCES),
        st.builds(Priced, st.integers(0, 10).map(MicroUsd), st.just("book")),
        st.none(),
        st.just(()),
        st.integers(0, 1),
        st.integers(0, 1),
        st.sampled_from(
            [None, Shadow(Decision.DENIED, []), Shadow(Decision.DENIED, [Reason("c", "", None)])]
        ),
        st.sampled_from([None, "pilot"]),
    ),
    next_offsets=st.just({}),
    stale=st.booleans(),
    decided_at=st.integers(-150, 150).map(lambda seconds: NOW + timedelta(seconds=seconds)),
)


def told(decided: Decided) -> Told:
    """Return what a record tells of a decision, beside what it saw; in which minute it was; no more."""
    call, answer = decided.call, decided.answer
    return (
        (call._replace(quantities=Quantities(0)), decided.caller, decided.stale),
        (answer.decision, answer.quota_policy_version, answer.price_book_version),
        tuple(reason.code for reason in answer.reasons),
        (repr(answer.shadow), answer.cohort),
        minute(decided.decided_at),
    )


def minute(at: datetime) -> datetime:
    return at.replace(second=0, microsecond=0)


def add(sums: DecisionSums, decided: Decided, numbers: Iterator[int]) -> str:
    alike = sums.of(decided) or sums.begin(decided, f"s{next(numbers)}")
    alike.add(decided)
    return alike.next_id()


@given(st.lists(st.lists(decisions, max_size=20), max_size=6), st.integers(1, 5))
def test_sums_tell_of_every_decision_once_however_they_are_taken(
    groups: list[list[Decided]], most: int
) -> None:
    sums, numbers, ids = DecisionSums(), count(), list[str]()
    taken: list[DecisionRecord] = []
    for group in groups:
        ids += [add(sums, each, numbers) for each in group]
        taken += sums.take(most)
    while sums:
        taken += sums.take(most)
    counts, costs = Counter[Told](), Counter[Told]()
    for each in chain(*groups):
        counts[told(each)] += 1
        costs[told(each)] += each.answer.estimate.cost_micro_usd
    for record in taken:
        counts[told(record.decided)] -= record.decisions
        costs[told(record.decided)] -= record.estimated_cost_micro_usd
        assert minute(record.first_decided_at) == minute(record.decided.decided_at)
    assert not counts.total()
    assert not any(counts.values())
    assert not any(costs.values())
    expected = [f"{each.decision_id}.{number}" for each in taken for number in range(1, each.decisions + 1)]
    assert sorted(ids) == sorted(expected)


@given(st.lists(decisions, min_size=1, max_size=20))
def test_a_sum_tells_what_its_last_decision_saw(group: list[Decided]) -> None:
    sums = DecisionSums()
    last, numbers = {}, count()
    for each in group:
        add(sums, each, numbers)
        last[told(each)] = each
    for record in sums.take(len(group)):
        assert record.decided is last[told(record.decided)]


@given(st.lists(st.tuples(decisions, st.booleans()), min_size=1, max_size=20))
def test_what_was_begun_and_did_not_hold_is_in_no_sum(group: list[tuple[Decided, bool]]) -> None:
    sums, numbers, ids = DecisionSums(), count(), list[str]()
    for each, holds in group:
        alike = sums.of(each) or sums.begin(each, f"s{next(numbers)}")
        ids.append(alike.next_id())
        if holds:
            alike.add(each)
    assert len(set(ids)) == len(ids)
    taken = sums.take(len(group))
    assert Counter(told(each) for each, holds in group if holds) == Counter(
        {told(record.decided): record.decisions for record in taken}
    )
