"""What it means that a view is as fresh as wanted."""

from hypothesis import given
from hypothesis import strategies as st

from tests.support.quota_events import NoPrices
from tokenomics_quota.projections.balances import QuotaView
from tokenomics_quota.projections.governance import Governance
from tokenomics_quota.usecases.freshening import Want

OFFSETS = st.dictionaries(st.sampled_from("abc"), st.integers(0, 3))
WANTS = st.builds(Want, OFFSETS, st.none() | st.floats(0, 3))


@given(first=WANTS, second=WANTS, applied=OFFSETS, began=st.none() | st.floats(0, 3))
def test_two_wishes_together_are_fulfilled_when_both_are(
    first: Want, second: Want, applied: dict[str, int], began: float | None
) -> None:
    view = QuotaView(Governance(NoPrices()))
    view.next_offsets, view.refresh_began = applied, began
    both = [want.missing_in(view) is None for want in (first, second)]
    assert (first.and_also(second).missing_in(view) is None) == all(both)


def test_what_is_missing_is_said() -> None:
    view = QuotaView(Governance(NoPrices()))
    view.next_offsets = {"usage/0": 7}
    assert Want({"usage/0": 7, "usage/1": 0}).missing_in(view) is None
    assert Want({"usage/0": 8}).missing_in(view) == "usage/0 is applied up to offset 7, 8 is asked for"
