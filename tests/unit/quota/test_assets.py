"""What people share: the latest version counts, from its instant on, in whatever order it is read."""

from datetime import timedelta
from random import Random

from hypothesis import given
from hypothesis import strategies as st

from tests.support.quota_events import LONG_AGO, NOW, NoPrices, governing, shared
from tokenomics_contracts.events.nominations import AssetPublished
from tokenomics_quota.domain.checks import ReusableAsset
from tokenomics_quota.projections.governance import Governance, GoverningEvent

SECOND = timedelta(seconds=1)


def state(*events: GoverningEvent) -> Governance:
    return Governance(NoPrices()).with_events(events, 1)


def offered(published: Governance, use_case: str | None = "triage", **users: int) -> list[str]:
    return [each.asset_id for each in published.assets.serving(use_case, users, NOW)]


def test_what_most_have_used_comes_first_then_by_name() -> None:
    found = state(*(governing(shared(name, "triage"), place) for place, name in enumerate("cab")))
    assert offered(found) == ["a", "b", "c"]
    assert offered(found, c=2, b=1) == ["c", "b", "a"]
    assert found.assets.serving("triage", {"c": 2}, NOW)[0] == ReusableAsset("c", "triage", 2)


def test_a_call_without_a_use_case_or_with_another_is_offered_nothing() -> None:
    found = state(governing(shared("a", "triage"), 0))
    assert offered(found, None) == []
    assert offered(found, "replies") == []


def test_a_version_counts_from_the_instant_it_is_published() -> None:
    first, later = governing(shared("a", "triage"), 0), governing(shared("a", since=NOW), 1)
    assert [each.asset_id for each in state(first, later).assets.serving("triage", {}, NOW - SECOND)] == ["a"]
    assert offered(state(first, later)) == []


def test_of_versions_published_at_once_the_latest_in_the_log_counts() -> None:
    one, other = governing(shared("a", "triage"), 0), governing(shared("a"), 1)
    assert offered(state(one, other)) == offered(state(other, one)) == []
    one, other = governing(shared("a"), 0), governing(shared("a", "triage"), 1)
    assert offered(state(one, other)) == offered(state(other, one)) == ["a"]


def test_an_event_that_takes_anothers_identity_takes_its_place() -> None:
    first = governing(shared("a", "triage"), 0)
    second = governing(shared("b", "triage"), 1)._replace(identity=first.identity)
    assert offered(state(first, second)) == ["b"]


publications = st.lists(
    st.builds(
        AssetPublished,
        nominee=st.sampled_from(["ada", "eve"]),
        asset_id=st.sampled_from(["a", "b"]),
        use_cases=st.lists(st.sampled_from(["triage", "replies"]), max_size=2).map(tuple),
        published_at=st.sampled_from([LONG_AGO, NOW - SECOND, NOW, NOW + SECOND]),
    ),
    max_size=6,
)


@given(publications, st.randoms(use_true_random=False), st.integers(0, 6))
def test_neither_order_nor_repetition_nor_batches_change_what_is_offered(
    events: list[AssetPublished], rng: Random, cut: int
) -> None:
    told = [governing(event, place) for place, event in enumerate(events)]
    at_once = state(*told)
    shuffled = rng.sample([*told, *told], 2 * len(told))
    in_parts = state(*shuffled[:cut]).with_events(shuffled[cut:], 2)
    for use_case in ("triage", "replies"):
        for at in (LONG_AGO, NOW, NOW + SECOND):
            expected = at_once.assets.serving(use_case, {}, at)
            assert in_parts.assets.serving(use_case, {}, at) == expected
    assert in_parts.assets.nominees == at_once.assets.nominees
