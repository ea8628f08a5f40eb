"""Days that are far above what is usual for their subject: weekends, first weeks and noise are none."""

from collections.abc import Mapping
from datetime import UTC, date, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.quota_events import NOW, approved, governance, person, price_book, quota_policy
from tokenomics_contracts.events import policy
from tokenomics_contracts.events.base import Event
from tokenomics_contracts.units import BasisPoints, MicroUsd
from tokenomics_quota.domain.checks import Answer, Call
from tokenomics_quota.domain.friction import Decision
from tokenomics_quota.domain.pricing import Quantities
from tokenomics_quota.domain.spikes import DayUse, SpikeRule, Usual, usual
from tokenomics_quota.projections.balances import QuotaView
from tokenomics_quota.usecases.checking import Terms, check

DAY = timedelta(days=1)
MONDAY = date(2026, 11, 16)
TODAY = NOW.date()
USD = 1_000_000
RULE = SpikeRule.from_policy(policy.Spikes())


def history(today: date, *amounts: int) -> dict[date, MicroUsd]:
    """Give what was used on the days before, yesterday first; nothing where it is 0."""
    return {today - DAY * age: MicroUsd(amount) for age, amount in enumerate(amounts, start=1) if amount}


def spike_from(today: date, *amounts: int, rule: SpikeRule = RULE) -> int | None:
    known = usual(history(today, *amounts), today, rule)
    return known and known.spike_micro_usd


def weeks(number: int, *, working: int, weekend: int = 0) -> list[int]:
    """Give the weeks before a Monday, yesterday (a Sunday) first."""
    return [weekend, weekend, *[working] * 5] * number


def test_a_day_is_a_spike_from_the_factor_times_the_usual_day_on() -> None:
    known = usual(history(MONDAY, *weeks(4, working=10 * USD)), MONDAY, RULE)
    assert known == Usual(MicroUsd(10 * USD), MicroUsd(30 * USD), 20)


def test_days_off_make_no_working_day_look_unusual_and_no_work_at_a_weekend_a_spike() -> None:
    for today in (MONDAY, MONDAY + 5 * DAY):  # a Saturday
        amounts = weeks(4, working=10 * USD)
        shifted = [10 * USD] * 5 + amounts if today != MONDAY else amounts
        assert spike_from(today, *shifted) == 30 * USD


def test_until_there_have_been_a_few_days_no_day_is_a_spike() -> None:
    assert spike_from(MONDAY) is None
    assert spike_from(MONDAY, *[0] * 3, *[USD] * 4) is None
    assert spike_from(MONDAY, *[0] * 3, *[USD] * 5) == RULE.minimum_micro_usd


def test_little_is_never_a_spike_however_unusual() -> None:
    assert spike_from(MONDAY, *weeks(4, working=1_000)) == RULE.minimum_micro_usd == 5 * USD


def test_what_happens_on_every_such_weekday_is_usual_and_once_is_not_every() -> None:
    mondays = [USD] * 6 + [100 * USD]
    assert spike_from(MONDAY, *mondays * 4) == 300 * USD
    assert spike_from(MONDAY, *mondays, *[USD] * 21) == 5 * USD
    assert spike_from(MONDAY + DAY, USD, *mondays * 4) == 5 * USD


def test_a_subject_whose_days_differ_widely_is_given_more_room() -> None:
    steady, wild = [6 * USD] * 28, [1 * USD, 6 * USD, 11 * USD, 19 * USD] * 7
    assert spike_from(MONDAY, *steady) == 18 * USD
    # Half of the days are off by 5 USD or more.
    assert spike_from(MONDAY, *wild) == 6 * USD + 5 * 5 * USD


def test_one_spike_does_not_make_the_next_one_usual() -> None:
    assert spike_from(MONDAY, 500 * USD, *[10 * USD] * 27) == 30 * USD


def test_nothing_before_the_window_and_nothing_of_today_counts() -> None:
    days = history(MONDAY, *[USD] * 5, *[0] * 23, *[900 * USD] * 20)
    assert usual(days | {MONDAY: MicroUsd(900 * USD)}, MONDAY, RULE) == usual(days, MONDAY, RULE)
    assert spike_from(MONDAY, *[USD] * 5, *[0] * 23, *[900 * USD] * 20) == 5 * USD


@given(
    st.dictionaries(
        st.integers(-3, 40).map(lambda age: MONDAY - DAY * age),
        st.integers(-USD, 50 * USD).map(MicroUsd),
        max_size=40,
    ),
    st.integers(2, 10),
)
def test_a_day_like_any_of_half_the_days_before_is_no_spike(
    days: Mapping[date, MicroUsd], factor: int
) -> None:
    rule = RULE._replace(factor=BasisPoints(factor * 10_000))
    known = usual(days, MONDAY, rule)
    used = sorted(amount for day, amount in days.items() if MONDAY - 28 * DAY <= day < MONDAY and amount > 0)
    if known is None:
        assert len(used) < 5
        return
    assert known.days == len(used) >= 5
    assert known.micro_usd in used
    assert known.spike_micro_usd >= max(5 * USD, factor * used[(len(used) - 1) // 2])
    assert known.spike_micro_usd > used[(len(used) - 1) // 2]


SPIKES: dict[str, Any] = {"spikes": {"minimum_micro_usd": 100}}
USUAL = Usual(MicroUsd(1_100_000), MicroUsd(3_300_000), 19)


def view(posted: int, *events: Event, day: date = TODAY, **document: Any) -> QuotaView:
    made = QuotaView(
        governance(
            quota_policy(**SPIKES, **document), price_book(), person("ada", manager_id="boss"), *events
        )
    )
    made.put_day_uses(["ada"], {"ada": DayUse(day, MicroUsd(posted), USUAL)})
    return made


def answer(state: QuotaView, tokens: int = 0, now: datetime = NOW) -> Answer:
    call = Call("ada", "acme", "one", Quantities(tokens), None)
    touched = state.touched_by("ada", None, now)
    return check(Terms.at(state.governance, now), touched, call, now)


def test_a_spike_asks_for_a_reason_and_tells_the_numbers() -> None:
    assert answer(view(3_200_000), 99_999).decision is Decision.ALLOW
    asked = answer(view(3_200_000), 100_000)
    assert asked.decision is Decision.JUSTIFICATION_REQUIRED
    (reason,) = asked.reasons
    assert reason == (
        "spike",
        "Today 3.20 USD were used; 1.10 USD are usual on such a day, by 19 days before.",
        "subject/ada/all/2026-11",
    )
    (way,) = asked.unblocks
    assert (way.decision, way.who_can_unblock) == (Decision.JUSTIFICATION_REQUIRED, ())


def test_who_has_given_a_reason_goes_on() -> None:
    asked = answer(view(9_000_000, approved(kind="justification")))
    assert asked.decision is Decision.ALLOW_WITH_NUDGE
    assert [reason.code for reason in asked.reasons] == ["justified_until_expiry"]


def test_a_spike_ends_with_its_day_for_who_was_checked_on_it() -> None:
    state, midnight = view(9_000_000), datetime(2026, 11, 21, tzinfo=UTC)
    last = midnight - timedelta(microseconds=1)
    decisions = [answer(state, now=now).decision for now in (NOW, last, midnight, last, NOW - DAY)]
    asked, free = Decision.JUSTIFICATION_REQUIRED, Decision.ALLOW
    assert decisions == [asked, asked, free, asked, free]


def test_what_is_kept_of_a_caller_follows_the_use_of_the_day() -> None:
    state = view(9_000_000)
    assert answer(state).decision is Decision.JUSTIFICATION_REQUIRED
    state.put_day_uses(["ada"], {"ada": DayUse(TODAY, MicroUsd(5), USUAL)})
    assert answer(state).decision is Decision.ALLOW
    state.put_day_uses(["ada"], {"ada": DayUse(TODAY, MicroUsd(9_000_000), USUAL)})
    assert answer(state).decision is Decision.JUSTIFICATION_REQUIRED
    state.put_day_uses(["ada"], {})
    assert answer(state).decision is Decision.ALLOW


def test_a_spike_in_the_shadow_asks_for_nothing_and_is_told() -> None:
    asked = answer(view(9_000_000, rollout={"shadow": ["spikes"]}))
    assert asked.decision is Decision.ALLOW
    assert asked.shadow is not None
    assert [reason.code for reason in asked.shadow.reasons] == ["spike"]


@pytest.mark.parametrize(
    ("micro_usd", "written"), [(0, "0.00"), (4_999, "0.00"), (5_000, "0.01"), (12_345_678, "12.35")]
)
def test_amounts_are_told_to_the_cent(micro_usd: int, written: str) -> None:
    message = DayUse(TODAY, MicroUsd(micro_usd), USUAL).message
    assert message.startswith(f"Today {written} USD")
