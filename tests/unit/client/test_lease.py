"""A lease decides in the caller what the server would have decided, and never more."""

import threading
from datetime import UTC, datetime
from pathlib import Path

import pytest
from google.protobuf.duration_pb2 import Duration
from hypothesis import given
from hypothesis import strategies as st

from tokenomics.quota.v1 import quota_pb2 as pb
from tokenomics_client import Draw, Lease, Refusal, steady
from tokenomics_quota.domain.pricing import ModelPrice, PriceBook, Quantities, Rates, Steps, price

AT = datetime(2026, 11, 3, 9, tzinfo=UTC)
FLAT = pb.SizedRates(
    per_input_token=30_000_000_000, per_cached_input_token=3_000_000_000, per_output_token=150_000_000_000
)
"""3, 0.3 and 15 USD per million tokens."""


class Clock:
    def __init__(self) -> None:
        self.seconds = 1_000.0

    def __call__(self) -> float:
        return self.seconds


def answer(
    amount: int = 1_000_000,
    draw_for: float = 60,
    renewal: int = 0,
    steps: tuple[pb.SizedRates, ...] = (FLAT,),
) -> pb.Lease:
    lasting = Duration()
    lasting.FromNanoseconds(int(draw_for * 10**9))
    return pb.Lease(
        hold=pb.Hold(hold_id="lease-1", amount_micro_usd=amount),
        draw_for=lasting,
        renewal=renewal,
        price=pb.LeasePrice(steps=steps),
    )


def test_calls_are_drawn_until_one_does_not_fit() -> None:
    lease = Lease(answer(amount=10_000), asked_at=1_000, clock=Clock())
    assert lease.draw(input_tokens=1_000, output_tokens=100) == Draw(4_500, 5_500)
    assert lease.draw(input_tokens=1_000, output_tokens=100) == Draw(4_500, 1_000)
    refused = lease.draw(input_tokens=1_000, output_tokens=100)
    assert refused == Draw(4_500, 1_000, Refusal.EXHAUSTED)
    assert not refused
    assert lease.draw(input_tokens=0, output_tokens=66), "a smaller call still fits"


def test_cached_input_pays_its_own_rate() -> None:
    lease = Lease(answer(), asked_at=1_000, clock=Clock())
    assert lease.draw(input_tokens=1_000, cached_input_tokens=900, output_tokens=0).cost_micro_usd == 570


def test_drawing_ends_by_the_callers_clock_counted_from_before_the_request() -> None:
    clock = Clock()
    lease = Lease(answer(draw_for=0.5), asked_at=1_000, clock=clock)
    clock.seconds = 1_000.499
    assert lease.draw(input_tokens=1, output_tokens=1)
    clock.seconds = 1_000.5
    assert lease.draw(input_tokens=1, output_tokens=1).refusal is Refusal.ENDED


def test_the_clock_that_ends_a_lease_counts_the_time_that_the_machine_slept() -> None:
    since_boot = float(Path("/proc/uptime").read_text().split()[0])
    assert abs(steady() - since_boot) < 1
    lease = Lease(answer(draw_for=60), asked_at=since_boot - 60)
    assert lease.draw(input_tokens=1, output_tokens=1).refusal is Refusal.ENDED
    assert Lease(answer(draw_for=60), asked_at=steady()).draw(input_tokens=1, output_tokens=1)


def test_what_a_call_really_cost_takes_the_place_of_what_was_drawn() -> None:
    lease = Lease(answer(amount=10_000), asked_at=1_000, clock=Clock())
    dearer, cheaper = (lease.draw(input_tokens=1_000, output_tokens=100) for _ in range(2))
    lease.settle(dearer, 6_000)
    lease.settle(cheaper, 0)
    assert (lease.left_micro_usd, lease.drawn_micro_usd) == (4_000, 6_000)


def test_calls_that_cost_more_than_was_left_stop_the_lease() -> None:
    lease = Lease(answer(amount=5_000), asked_at=1_000, clock=Clock())
    lease.settle(lease.draw(input_tokens=1_000, output_tokens=100), 9_000)
    assert lease.left_micro_usd == -4_000
    assert lease.draw(input_tokens=1, output_tokens=0).refusal is Refusal.EXHAUSTED


def test_a_refused_draw_can_not_be_settled() -> None:
    lease = Lease(answer(amount=1), asked_at=1_000, clock=Clock())
    with pytest.raises(ValueError, match="not refused"):
        lease.settle(lease.draw(input_tokens=1_000, output_tokens=0), 5)


@pytest.mark.parametrize(
    "counts",
    [
        {"input_tokens": -1, "output_tokens": 0},
        {"input_tokens": 1, "output_tokens": -1},
        {"input_tokens": 1, "output_tokens": 0, "cached_input_tokens": 2},
        {"input_tokens": 1, "output_tokens": 0, "cached_input_tokens": -1},
    ],
)
def test_counts_that_can_not_be_are_refused(counts: dict[str, int]) -> None:
    lease = Lease(answer(), asked_at=1_000, clock=Clock())
    with pytest.raises(ValueError, match="token counts"):
        lease.draw(**counts)
    assert lease.drawn_micro_usd == 0


def test_a_renewal_adds_to_what_is_left_and_keeps_what_was_drawn_meanwhile() -> None:
    clock = Clock()
    lease = Lease(answer(amount=10_000), asked_at=1_000, clock=clock)
    assert lease.draw(input_tokens=1_000, output_tokens=100)
    request = lease.renewal_request(20_000)
    assert (request.lease_id, request.renewal, request.drawn_micro_usd, request.amount_micro_usd) == (
        "lease-1",
        1,
        4_500,
        20_000,
    )
    assert lease.draw(input_tokens=1_000, output_tokens=100)
    clock.seconds = 1_050
    lease.renewed(answer(amount=30_000, renewal=1), asked_at=1_050)
    assert lease.left_micro_usd == 21_000
    clock.seconds = 1_109
    assert lease.draw(input_tokens=1, output_tokens=1)


def test_an_older_answer_changes_nothing() -> None:
    lease = Lease(answer(amount=10_000), asked_at=1_000, clock=Clock())
    lease.renewed(answer(amount=30_000, renewal=2), asked_at=1_000)
    lease.renewed(answer(amount=20_000, renewal=1), asked_at=1_000)
    assert lease.left_micro_usd == 30_000


def test_an_ended_lease_refuses_and_says_what_was_drawn() -> None:
    lease = Lease(answer(), asked_at=1_000, clock=Clock())
    lease.draw(input_tokens=1_000, output_tokens=100)
    request = lease.end()
    assert (request.lease_id, request.drawn_micro_usd) == ("lease-1", 4_500)
    assert lease.draw(input_tokens=1, output_tokens=0).refusal is Refusal.ENDED


def test_a_renewal_that_is_answered_after_the_end_lets_nothing_be_drawn() -> None:
    lease = Lease(answer(), asked_at=1_000, clock=Clock())
    lease.renewal_request(20_000)
    lease.end()
    lease.renewed(answer(amount=20_000, renewal=1), asked_at=1_000)
    assert lease.draw(input_tokens=1, output_tokens=0).refusal is Refusal.ENDED


@pytest.mark.parametrize("borders", [[], [5], [0, 10, 10], [0, 10, 5]])
def test_an_answer_without_a_usable_price_is_no_lease(borders: list[int]) -> None:
    steps = tuple(pb.SizedRates(from_input_tokens=border) for border in borders)
    with pytest.raises(ValueError, match="price"):
        Lease(answer(steps=steps), asked_at=1_000)


RATES = st.integers(0, 10**9)
TOKENS = st.integers(0, 10**7)


@given(st.lists(st.tuples(RATES, RATES, RATES, RATES), min_size=1, max_size=4), TOKENS, TOKENS, TOKENS)
def test_a_draw_costs_what_the_price_book_charges(
    rates: list[tuple[int, int, int, int]], border: int, input_tokens: int, output_tokens: int
) -> None:
    borders = [border * (place + 1) + place + 1 for place in range(len(rates) - 1)]
    by_size = Steps(
        tuple(borders),
        tuple(
            Rates.of(input=input_, cached_input=cached, output=output, request=request)
            for input_, cached, output, request in rates
        ),
    )
    book = PriceBook(
        version=1,
        prices={("p", "m"): ModelPrice(Steps.constant(Steps.constant(by_size)))},
        default=NoPrices(),
        service_tier_basis_points={},
        fallback=Rates.of(input=0, output=0),
    )
    cached_input_tokens = input_tokens // 3
    charged = price(
        "p", "m", Quantities(input_tokens, cached_input_tokens, 0, output_tokens), book=book, at=AT
    )
    steps = tuple(
        pb.SizedRates(
            from_input_tokens=start,
            per_request=request * 10_000,
            per_input_token=input_ * 10_000,
            per_cached_input_token=cached * 10_000,
            per_output_token=output * 10_000,
        )
        for start, (input_, cached, output, request) in zip([0, *borders], rates, strict=True)
    )
    lease = Lease(answer(amount=2**62, steps=steps), asked_at=1_000, clock=Clock())
    drawn = lease.draw(
        input_tokens=input_tokens, cached_input_tokens=cached_input_tokens, output_tokens=output_tokens
    )
    assert drawn.cost_micro_usd == charged.cost_micro_usd


class NoPrices:
    def find(self, provider: str, model: str) -> None:
        return None


def test_threads_that_share_a_lease_never_draw_more_than_it_holds() -> None:
    lease = Lease(answer(amount=45_000_000), asked_at=1_000, clock=Clock())
    drawn = [0] * 8

    def draw(mine: int) -> None:
        while granted := lease.draw(input_tokens=1_000, output_tokens=100):
            drawn[mine] += granted.cost_micro_usd

    threads = [threading.Thread(target=draw, args=(mine,)) for mine in range(len(drawn))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(drawn) == 45_000_000 == lease.drawn_micro_usd
    assert lease.left_micro_usd == 0
