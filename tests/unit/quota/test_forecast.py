"""A month's total is forecast from the days before: exactly where they repeat, robustly where they don't."""

from datetime import UTC, date, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from tokenomics_contracts.units import MicroUsd
from tokenomics_quota.domain.forecast import FEWEST_DAYS, HISTORY, Forecast, forecast
from tokenomics_tools.forecast.backtest import AFTER_DAYS, score
from tokenomics_tools.forecast.spend import months

START, END = datetime(2026, 11, 1, tzinfo=UTC), datetime(2026, 12, 1, tzinfo=UTC)
NOW = datetime(2026, 11, 11, tzinfo=UTC)
DAY = timedelta(days=1)
WEEK = (1_000, 1_000, 1_000, 1_000, 800, 100, 0)


def month(first: date, *, factor: int = 1) -> dict[date, MicroUsd]:
    """Return a month of the same week again and again, from a day on."""
    count = (END.date() - first).days
    days = [first + number * DAY for number in range(count)]
    return {day: MicroUsd(WEEK[day.weekday()] * factor) for day in days if WEEK[day.weekday()]}


def before(days: dict[date, MicroUsd], now: datetime) -> dict[date, MicroUsd]:
    return {day: amount for day, amount in days.items() if day < now.date()}


def posted(days: dict[date, MicroUsd], now: datetime) -> MicroUsd:
    return MicroUsd(sum(amount for day, amount in days.items() if START.date() <= day < now.date()))


def total(days: dict[date, MicroUsd]) -> MicroUsd:
    return MicroUsd(sum(amount for day, amount in days.items() if day >= START.date()))


def expected(days: dict[date, MicroUsd], now: datetime = NOW) -> Forecast:
    made = forecast(before(days, now), posted(days, now), now, END)
    assert made is not None
    return made


def test_a_week_that_repeats_itself_is_forecast_to_the_micro_usd() -> None:
    days = month(date(2026, 9, 20))
    assert expected(days).total_micro_usd == total(days)


def test_one_outage_and_one_wild_day_hardly_move_it() -> None:
    days = month(date(2026, 9, 20))
    spoiled = days | {date(2026, 11, 9): MicroUsd(0), date(2026, 11, 10): MicroUsd(20_000)}
    rest = expected(days).total_micro_usd - posted(days, NOW)
    assert abs(expected(spoiled).total_micro_usd - posted(spoiled, NOW) - rest) < rest // 10


def test_a_level_that_changed_for_good_is_followed_within_two_weeks() -> None:
    days = month(date(2026, 9, 20))
    doubled = days | {day: MicroUsd(2 * amount) for day, amount in days.items() if day >= START.date()}
    now = START + 14 * DAY
    made = expected(doubled, now)
    assert abs(made.total_micro_usd - total(doubled)) < total(doubled) // 10
    assert made.low_micro_usd < total(doubled) < made.high_micro_usd


def test_the_interval_narrows_to_nothing_at_the_end() -> None:
    days = month(date(2026, 9, 20))
    wild = {day: MicroUsd(amount * (1 + day.day % 3)) for day, amount in days.items()}
    widths = [
        made.high_micro_usd - made.low_micro_usd
        for after in (5, 15, 25)
        for made in [expected(wild, START + after * DAY)]
    ]
    assert widths == sorted(widths, reverse=True)
    assert forecast(before(wild, END), total(wild), END, END) == Forecast(*[total(wild)] * 3)


def test_what_is_left_of_today_counts_by_its_share() -> None:
    days = month(date(2026, 9, 20))
    noon = datetime(2026, 11, 30, 12, tzinfo=UTC)
    made = forecast(before(days, noon), MicroUsd(0), noon, END)
    assert made is not None
    assert made.total_micro_usd == WEEK[noon.weekday()] // 2


def test_a_month_that_ends_within_a_day_in_utc_counts_the_part_of_it() -> None:
    days = month(date(2026, 9, 20))
    kiritimati = END - timedelta(hours=14)
    made = forecast(before(days, END - DAY), MicroUsd(0), END - DAY, kiritimati)
    assert made is not None
    assert made.total_micro_usd == 1_000 * 10 // 24


def test_too_few_days_are_no_pattern() -> None:
    first = NOW.date() - FEWEST_DAYS * DAY
    assert forecast({first + DAY: MicroUsd(5)}, MicroUsd(5), NOW, END) is None
    assert forecast({first: MicroUsd(5)}, MicroUsd(5), NOW, END) is not None
    assert forecast({}, MicroUsd(5), NOW, END) is None


def test_what_lies_far_back_is_not_looked_at() -> None:
    days = before(month(date(2026, 9, 20)), NOW)
    older = {NOW.date() - HISTORY - DAY: MicroUsd(10**12)}
    assert forecast(days | older, MicroUsd(0), NOW, END) == forecast(days, MicroUsd(0), NOW, END)
    assert forecast(older, MicroUsd(0), NOW, END) is None


def test_an_account_used_now_and_then_is_expected_to_be_used_so_again() -> None:
    days = {date(2026, 10, 7): MicroUsd(700), date(2026, 11, 3): MicroUsd(700)}
    made = forecast(days, MicroUsd(700), NOW, END)
    assert made is not None
    assert made.total_micro_usd > 700


@given(
    st.dictionaries(st.integers(1, 70), st.integers(0, 10**9), min_size=1),
    st.integers(0, 10**12),
    st.integers(0, 60 * 24 * 30),
)
def test_whatever_was_used_the_forecast_lies_in_its_interval_above_what_is_used(
    amounts: dict[int, int], used: int, minutes: int
) -> None:
    now = START + timedelta(minutes=minutes)
    days = {now.date() - age * DAY: MicroUsd(amount) for age, amount in amounts.items()}
    made = forecast(days, MicroUsd(used), now, END)
    if made is not None:
        assert used <= made.low_micro_usd <= made.total_micro_usd <= made.high_micro_usd
        assert all(isinstance(each, int) for each in made)


@given(st.integers(1, 1_000), st.lists(st.integers(0, 10**6), min_size=40, max_size=40))
def test_ten_times_the_use_is_ten_times_the_forecast(factor: int, amounts: list[int]) -> None:
    one, many = (
        forecast(
            {NOW.date() - age * DAY: MicroUsd(amount * times) for age, amount in enumerate(amounts, start=1)},
            MicroUsd(0),
            NOW,
            END,
        )
        for times in (1, factor)
    )
    assert one is not None
    assert many is not None
    assert all(abs(large - small * factor) <= factor for small, large in zip(one, many, strict=True))


def test_on_simulated_months_four_of_five_totals_lie_in_the_interval_and_the_error_falls() -> None:
    scores = score(forecast, months(seed=11, count=150))
    assert [each.after_days for each in scores] == list(AFTER_DAYS)
    assert all(0.7 < each.covered < 0.9 for each in scores)
    errors = [each.mean_error for each in scores]
    assert errors == sorted(errors, reverse=True)
    assert errors[0] < 0.2
    assert errors[-1] < 0.05
