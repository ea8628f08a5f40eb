"""Bands begin exactly at their share, and a shared account asks its members only at its limit."""

from hypothesis import given
from hypothesis import strategies as st

from tokenomics_contracts.units import BasisPoints, MicroUsd
from tokenomics_quota.domain.friction import DEFAULT_THRESHOLDS, Band, Decision, Thresholds, ask

LIMIT = MicroUsd(1_000_000)
THRESHOLDS = Thresholds(BasisPoints(6_000), BasisPoints(8_500), BasisPoints(11_000))


def test_a_band_begins_exactly_at_its_share() -> None:
    bands = {
        used: DEFAULT_THRESHOLDS.band(MicroUsd(used), LIMIT)
        for used in (0, 699_999, 700_000, 899_999, 900_000, 999_999, 1_000_000, 5_000_000)
    }
    assert bands == {
        0: Band.NORMAL,
        699_999: Band.NORMAL,
        700_000: Band.NUDGE,
        899_999: Band.NUDGE,
        900_000: Band.JUSTIFY,
        999_999: Band.JUSTIFY,
        1_000_000: Band.APPROVE,
        5_000_000: Band.APPROVE,
    }


def test_without_a_limit_no_threshold_is_ever_reached() -> None:
    assert DEFAULT_THRESHOLDS.reached(MicroUsd(10**15), None) == []


def test_under_a_limit_of_zero_the_first_micro_usd_reaches_all_thresholds() -> None:
    assert DEFAULT_THRESHOLDS.reached(MicroUsd(0), MicroUsd(0)) == []
    assert [band for band, _ in DEFAULT_THRESHOLDS.reached(MicroUsd(1), MicroUsd(0))] == [
        Band.NUDGE,
        Band.JUSTIFY,
        Band.APPROVE,
    ]


@given(st.integers(0, 3_000_000), st.integers(1, 2_000_000))
def test_what_fits_the_room_stays_in_the_band_and_one_more_leaves_it(used: int, limit: int) -> None:
    band = DEFAULT_THRESHOLDS.band(MicroUsd(used), MicroUsd(limit))
    room = DEFAULT_THRESHOLDS.room(MicroUsd(used), MicroUsd(limit))
    assert DEFAULT_THRESHOLDS.band(MicroUsd(used + room), MicroUsd(limit)) is band
    if band is not Band.APPROVE:
        assert DEFAULT_THRESHOLDS.band(MicroUsd(used + room + 1), MicroUsd(limit)) > band


def test_a_shared_account_asks_its_members_only_at_its_limit() -> None:
    asked = [ask(band, shared=True) for band in Band]
    assert asked == [Decision.ALLOW, Decision.ALLOW, Decision.ALLOW, Decision.APPROVAL_REQUIRED]


@given(
    st.sampled_from([Band.NUDGE, Band.JUSTIFY, Band.APPROVE]), st.integers(0, 3_000), st.integers(0, 2_000)
)
def test_the_room_before_a_band_stays_below_it_and_one_more_begins_it(
    band: Band, used: int, limit: int
) -> None:
    room = THRESHOLDS.room_before(band, MicroUsd(used), MicroUsd(limit))
    begun = THRESHOLDS.band(MicroUsd(used), MicroUsd(limit)) >= band
    assert begun == (room < 0)
    if not begun:
        assert THRESHOLDS.band(MicroUsd(used + room), MicroUsd(limit)) < band
        assert THRESHOLDS.band(MicroUsd(used + room + 1), MicroUsd(limit)) >= band
