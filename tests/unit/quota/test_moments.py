"""What answers of one moment share is what each would have worked out by itself."""

from datetime import timedelta

from hypothesis import given
from hypothesis import strategies as st

from tests.support.clocks import SetClock
from tests.support.quota_events import NOW, governance, price_book, quota_policy
from tokenomics_quota.projections.balances import QuotaView
from tokenomics_quota.projections.freshness import FreshnessMeter
from tokenomics_quota.rpc.moments import Moment, Moments

STALE_AFTER_SECONDS = 2
STALE_AFTER = {"stale_after_seconds": STALE_AFTER_SECONDS}
POLICIES = [
    governance(
        quota_policy(degrade=STALE_AFTER),
        price_book(rate=rate, since=NOW + timedelta(seconds=1)),
    )
    for rate in (1, 2)
]

STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("pass"), st.integers(1, 3_000)),
        st.tuples(st.just("set back"), st.sampled_from([1_000, 3_600_000])),
        st.tuples(st.just("level"), st.just(0)),
        st.tuples(st.just("refresh"), st.just(0)),
        st.tuples(st.just("govern"), st.sampled_from([0, 1])),
    ),
    max_size=30,
)


def told(moment: Moment) -> tuple[object, ...]:
    terms = moment.terms
    return (
        terms.governance,
        terms.quota_policy,
        terms.price_book,
        moment.next_offsets,
        moment.freshness,
        moment.freshness_in_answer,
        moment.tab is None,
    )


@given(STEPS)
def test_a_kept_moment_is_the_one_that_would_be_made_now(steps: list[tuple[str, int]]) -> None:
    clock, meter, view = SetClock(), FreshnessMeter(), QuotaView(POLICIES[0])
    moments = Moments(meter, clock)
    for number, (step, argument) in enumerate(steps, start=1):
        moments.at(view, clock.now())
        milliseconds = timedelta(milliseconds=argument)
        match step:
            case "pass":
                clock.time += milliseconds
            case "set back":
                clock.time -= milliseconds
                clock.set_back_by += milliseconds
            case "level":
                meter.observe_ends({}, clock.steady())
                meter.observe_view({})
            case "refresh":
                # The event loop's clock may stand still between two refreshes: it counts in milliseconds.
                view.refresh_began, view.as_of = float(number // 2), clock.now()
                view.next_offsets = {"tokenomics.usage.v1/0": number}
            case _:
                view.governance = POLICIES[argument]
        kept, anew = moments.at(view, clock.now()), Moments(meter, clock).at(view, clock.now())
        assert told(kept) == told(anew)


def test_what_was_let_through_is_kept_while_the_view_is_stale_and_forgotten_once_it_is_level() -> None:
    clock, meter, view = SetClock(), FreshnessMeter(), QuotaView(POLICIES[0])
    moments = Moments(meter, clock)

    def at_once() -> Moment:
        return moments.at(view, clock.now())

    never_level = at_once().tab
    assert never_level is not None
    clock.time += timedelta(seconds=60)
    assert at_once().tab is never_level
    meter.observe_ends({}, clock.steady())
    meter.observe_view({})
    assert at_once().tab is None
    clock.time += timedelta(seconds=STALE_AFTER_SECONDS)
    assert at_once().tab is None
    clock.time += timedelta(microseconds=1)
    stale_again = at_once().tab
    assert stale_again is not None
    assert stale_again is not never_level


def test_answers_of_one_moment_share_it() -> None:
    clock, meter, view = SetClock(), FreshnessMeter(), QuotaView(POLICIES[0])
    moments = Moments(meter, clock)
    assert moments.at(view, clock.now()) is moments.at(view, clock.now())
