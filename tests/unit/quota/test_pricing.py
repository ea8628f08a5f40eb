"""What a usage event costs."""

from datetime import UTC, datetime
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.quota_events import governance, price_book, record, usage
from tokenomics_contracts.events.policy import PriceBookDocument
from tokenomics_contracts.units import MAX_COST_MICRO_USD, MAX_TOKENS, MicroUsd, ServiceTier
from tokenomics_quota.domain.pricing import ModelPrice, PriceBook, Quantities, Rates, Steps, price
from tokenomics_quota.projections.facts import Received
from tokenomics_quota.projections.usage import derive
from tokenomics_quota.streams.decoding import usage_from_record

MILLION = 10**6
NOON = datetime(2026, 11, 17, 12, tzinfo=UTC)


class ListedPrices(dict[tuple[str, str], ModelPrice]):
    """A default book of few prices."""

    def find(self, provider: str, model: str) -> ModelPrice | None:
        return self.get((provider, model))


def flat(model: str, rate: int, **more: Any) -> dict[str, Any]:
    """Write an entry of a price book document: all tokens cost the same."""
    return {"provider": "acme", "model": model, "rates": {"input": rate, "output": rate}, **more}


def book(*prices: dict[str, Any], default: ListedPrices | None = None, **factors: int) -> PriceBook:
    document = {
        "prices": prices,
        "service_tier_basis_points": factors,
        "fallback": {"input": 9, "output": 9},
    }
    return PriceBook.from_document(
        PriceBookDocument.model_validate(document), version=3, default=default or ListedPrices()
    )


def charging(listed: Rates, **factors: int) -> PriceBook:
    """Make a book in which model `m` has those rates."""
    return book(default=ListedPrices({("acme", "m"): ModelPrice.flat(listed)}), **factors)


def cost(prices: PriceBook, quantities: Quantities, at: datetime = NOON) -> int:
    return price("acme", "m", quantities, book=prices, at=at).cost_micro_usd


@st.composite
def usages(draw: st.DrawFn) -> Quantities:
    input_tokens, output_tokens = draw(st.integers(0, 10**9)), draw(st.integers(0, 10**9))
    cached = draw(st.integers(0, input_tokens))
    creation = draw(st.integers(0, input_tokens - cached))
    reasoning = draw(st.integers(0, output_tokens))
    return Quantities(input_tokens, cached, creation, output_tokens, reasoning)


rates = st.builds(Rates, *[st.integers(0, 10**9)] * 6)
service_tiers = st.sampled_from(["standard", "batch", "priority"])


@pytest.mark.parametrize(
    ("quantities", "micro_usd"),
    [
        (Quantities(0), 600),
        (Quantities(10), 600 + 10 * 1),
        (Quantities(10, cached_input_tokens=4), 600 + 6 * 1 + 4 * 20),
        (Quantities(10, 4, cache_creation_tokens=3), 600 + 3 * 1 + 4 * 20 + 3 * 300),
        (Quantities(0, output_tokens=10), 600 + 10 * 4_000),
        (Quantities(0, output_tokens=10, reasoning_tokens=7), 600 + 3 * 4_000 + 7 * 50_000),
    ],
)
def test_each_token_is_charged_once_at_the_rate_of_its_kind(quantities: Quantities, micro_usd: int) -> None:
    listed = Rates(*(each * MILLION for each in (1, 20, 300, 4_000, 50_000, 600)))
    assert cost(charging(listed), quantities) == micro_usd


def test_a_kind_without_a_rate_pays_that_of_the_whole_it_is_part_of() -> None:
    assert Rates.of(input=5, output=7) == Rates(5, 5, 5, 7, 7, 0)
    assert Rates.of(input=5, output=7, cached_input=0, cache_creation=6) == Rates(5, 0, 6, 7, 7, 0)


@pytest.mark.parametrize(
    ("tokens", "pico_usd", "micro_usd"),
    [(3, 166_666, 0), (3, 166_667, 1), (1, 499_999, 0), (1, 500_000, 1), (1, 1_500_000, 2), (0, 10**9, 0)],
)
def test_a_cost_is_rounded_half_up_once(tokens: int, pico_usd: int, micro_usd: int) -> None:
    assert cost(book(flat("m", pico_usd)), Quantities(tokens)) == micro_usd


@given(rates, usages(), service_tiers, st.integers(0, 30_000))
def test_a_cost_is_the_exact_sum_times_the_factor_of_its_service_tier(
    listed: Rates, usage: Quantities, tier: ServiceTier, factor: int
) -> None:
    pico_usd = (
        listed.input * (usage.input_tokens - usage.cached_input_tokens - usage.cache_creation_tokens)
        + listed.cached_input * usage.cached_input_tokens
        + listed.cache_creation * usage.cache_creation_tokens
        + listed.output * (usage.output_tokens - usage.reasoning_tokens)
        + listed.reasoning * usage.reasoning_tokens
        + listed.request
    )
    exact = Fraction(pico_usd * factor, MILLION * 10_000)
    assert (
        -1
        < 2 * (exact - cost(charging(listed, **{tier: factor}), usage._replace(service_tier=tier))) * -1
        <= 1
    )


@given(rates, usages(), st.integers(0, 10**6), st.integers(0, 10**6), service_tiers)
def test_more_tokens_in_one_tier_never_cost_less(
    listed: Rates, usage: Quantities, more_input: int, more_output: int, tier: ServiceTier
) -> None:
    prices = charging(listed, batch=5_000, priority=17_500)
    fewer = usage._replace(service_tier=tier)
    more = fewer._replace(
        input_tokens=usage.input_tokens + more_input, output_tokens=usage.output_tokens + more_output
    )
    assert cost(prices, fewer) <= cost(prices, more)


@pytest.mark.parametrize(("size", "rate"), [(1, 100), (200, 100), (201, 200), (300, 200), (301, 50)])
def test_the_whole_request_pays_the_rate_of_its_inputs_size(size: int, rate: int) -> None:
    tiers = [
        {"above_input_tokens": above, "rates": {"input": rate * MILLION, "output": rate * MILLION}}
        for above, rate in ((200, 200), (300, 50))
    ]
    prices = book(flat("m", 100 * MILLION, tiers=tiers))
    assert cost(prices, Quantities(size, cached_input_tokens=1, output_tokens=1)) == (size + 1) * rate


@pytest.mark.parametrize(
    ("hour", "minute", "second", "rate"),
    [
        (21, 59, 59, 100),
        (22, 0, 0, 10),
        (0, 0, 0, 10),
        (6, 29, 59, 10),
        (6, 30, 0, 100),
        (12, 0, 0, 30),
        (12, 1, 0, 100),
    ],
)
def test_a_window_wins_over_tiers_from_its_first_second_to_just_before_its_end(
    hour: int, minute: int, second: int, rate: int
) -> None:
    windows = [
        {"from": start, "until": end, "rates": {"input": rate * MILLION, "output": 0}}
        for start, end, rate in (("22:00", "06:30", 10), ("12:00", "12:01", 30))
    ]
    tiers = [{"above_input_tokens": 1, "rates": {"input": 100 * MILLION, "output": 0}}]
    prices = book(flat("m", 1, windows=windows, tiers=tiers))
    assert cost(prices, Quantities(2), datetime(2026, 11, 17, hour, minute, second, tzinfo=UTC)) == 2 * rate


@pytest.mark.parametrize(
    ("model", "rate"),
    [("gpt", 3), ("gpt-5", 4), ("gpt-5-mini", 5), ("gpt-5-mini-1", 4), ("gp", 2), ("", 2), ("GPT", 2)],
)
def test_the_exact_name_wins_then_the_longest_prefix(model: str, rate: int) -> None:
    entries = {"*": 2, "gpt*": 3, "gpt-5*": 4, "gpt-5-mini": 5}
    prices = book(*(flat(name, entry * MILLION) for name, entry in entries.items()))
    assert price("acme", model, Quantities(1), book=prices, at=NOON) == (rate, "book")
    assert price("other", model, Quantities(1), book=prices, at=NOON).pricing == "fallback"


def test_the_policys_entry_goes_before_the_default_book_and_that_before_the_fallback() -> None:
    listed = ListedPrices({("acme", name): ModelPrice.flat(Rates.of(input=7, output=7)) for name in "mn"})
    prices = book(flat("m", 5), default=listed)
    costs = [price("acme", name, Quantities(MILLION), book=prices, at=NOON) for name in "mno"]
    assert costs == [(5, "book"), (7, "book"), (9, "fallback")]


def test_before_any_policy_an_unknown_model_costs_nothing_and_is_flagged() -> None:
    listed = ListedPrices({("acme", "m"): ModelPrice.flat(Rates.of(input=7, output=7))})
    prices = PriceBook.before_any_policy(listed)
    costs = [price("acme", name, Quantities(MILLION), book=prices, at=NOON) for name in "mn"]
    assert (prices.version, costs) == (0, [(7, "book"), (0, "fallback")])


def test_a_reported_cost_is_taken_as_it_is() -> None:
    usage = Quantities(MILLION, service_tier="batch")
    for reported in (MicroUsd(0), MicroUsd(123)):
        priced = price(
            "acme", "m", usage, book=book(flat("m", 5), batch=5_000), at=NOON, reported_micro_usd=reported
        )
        assert priced == (reported, "reported")


def test_a_fact_costs_no_more_than_a_tool_may_report() -> None:
    received = usage_from_record(record(usage(input_tokens=MAX_TOKENS, output_tokens=MAX_TOKENS), "a"))
    assert isinstance(received, Received)
    books = [governance(price_book(rate=rate)) for rate in (10**8, 10**12)]
    costs = [derive(received, None, governing).cost_micro_usd for governing in books]
    assert costs == [2 * 10**11, MAX_COST_MICRO_USD]


def test_a_listed_price_of_the_service_tier_wins_over_the_factor() -> None:
    standard, batch = (ModelPrice.flat(Rates.of(input=rate, output=rate)).standard for rate in (100, 40))
    listed = ListedPrices({("acme", "m"): ModelPrice(standard, {"batch": batch})})
    prices = book(default=listed, standard=20_000, batch=1, priority=30_000)
    costs = {
        tier: cost(prices, Quantities(MILLION, service_tier=tier))
        for tier in ("standard", "batch", "priority")
    }
    assert costs == {"standard": 200, "batch": 40, "priority": 300}


@given(st.sets(st.integers(0, 50)), st.dictionaries(st.integers(0, 60), st.integers(0, 2)))
def test_a_sampled_step_function_equals_what_it_sampled(borders: set[int], changes: dict[int, int]) -> None:
    def value_at(point: int) -> int:
        """Change at the borders only."""
        reached = [border for border in borders if border <= point]
        return changes.get(max(reached, default=0), 0)

    steps = Steps.sample(borders, value_at)
    assert [steps.at(point) for point in range(60)] == [value_at(point) for point in range(60)]
    assert all(left != right for left, right in zip(steps.values, steps.values[1:], strict=False))
