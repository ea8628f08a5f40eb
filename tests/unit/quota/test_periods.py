"""A period turns at local midnight, whatever daylight saving does."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenomics_contracts.units import EARLIEST_TIME, LATEST_TIME, PeriodId
from tokenomics_quota.domain.periods import MonthCalendar, parse_period

ZONES = ("UTC", "Europe/Berlin", "America/New_York", "Pacific/Kiritimati", "Asia/Kathmandu")


@pytest.mark.parametrize(
    ("instant", "period"),
    [
        (datetime(2026, 10, 31, 22, 59, 59, tzinfo=UTC), "2026-10"),  # 23:59:59, winter time
        (datetime(2026, 10, 31, 23, tzinfo=UTC), "2026-11"),
        (datetime(2026, 3, 31, 21, 59, 59, tzinfo=UTC), "2026-03"),  # 23:59:59, summer time
        (datetime(2026, 3, 31, 22, tzinfo=UTC), "2026-04"),
        (datetime(2028, 2, 29, 12, tzinfo=UTC), "2028-02"),
        (datetime(2026, 12, 31, 23, tzinfo=UTC), "2027-01"),
    ],
)
def test_a_period_turns_at_local_midnight(instant: datetime, period: str) -> None:
    assert MonthCalendar("Europe/Berlin").period_of(instant) == period


@given(
    st.sampled_from(ZONES),
    st.lists(st.datetimes(datetime(2000, 1, 1), datetime(2199, 12, 31)), min_size=1),  # noqa: DTZ001 - made UTC below
)
def test_every_instant_lies_within_the_bounds_of_its_period(zone: str, instants: list[datetime]) -> None:
    calendar = MonthCalendar(zone)
    for instant in (each.replace(tzinfo=UTC) for each in instants):
        start, end = calendar.bounds(calendar.period_of(instant))
        assert start <= instant < end


def test_periods_follow_each_other_without_gap() -> None:
    calendar = MonthCalendar("America/New_York")
    _, end = calendar.bounds(PeriodId("2026-11"))
    assert calendar.period_of(end) == "2026-12"
    assert calendar.period_of(end - timedelta(microseconds=1)) == "2026-11"


@pytest.mark.parametrize(
    "text",
    ["", "2026", "2026-13", "2026-1x", "2026-1", "november", "2026-01\n", "٢٠٢٦-01", "9999-12", "0001-01"],
)
def test_what_is_no_month_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is not YYYY-MM"):
        parse_period(text)


@pytest.mark.parametrize(
    ("zone", "instant", "period"),
    [
        ("Pacific/Kiritimati", LATEST_TIME - timedelta(hours=1), "2200-01"),
        ("America/New_York", EARLIEST_TIME, "1999-12"),
    ],
)
def test_the_first_and_the_last_time_of_an_event_have_a_period(
    zone: str, instant: datetime, period: str
) -> None:
    calendar = MonthCalendar(zone)
    assert calendar.period_of(instant) == period
    start, end = calendar.bounds(PeriodId(period))
    assert start <= instant < end
