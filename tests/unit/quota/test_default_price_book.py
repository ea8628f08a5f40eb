"""The default price book, with its own source as the oracle."""

import itertools
import random
from collections.abc import Iterator
from datetime import UTC, datetime, time, timedelta
from decimal import ROUND_HALF_UP, Decimal

import genai_prices
import pytest
from genai_prices.data import providers
from genai_prices.data_snapshot import DataSnapshot, set_custom_snapshot
from genai_prices.types import (
    ClauseAnd,
    ClauseContains,
    ClauseEndsWith,
    ClauseEquals,
    ClauseOr,
    ClauseRegex,
    ClauseStartsWith,
    ConditionalPrice,
    ModelInfo,
    PriceVariant,
    Provider,
    StartDateConstraint,
    TieredPrices,
    TimeOfDateConstraint,
)
from genai_prices.types import ModelPrice as ListPrice

from tokenomics_contracts.units import ServiceTier
from tokenomics_quota.domain.pricing import PriceBook, Quantities, Rates, price
from tokenomics_quota.storage.default_price_book import DefaultPriceBook

SECOND = timedelta(seconds=1)
NOON = datetime(2026, 11, 17, 12, tzinfo=UTC)
CONTEXTS: dict[ServiceTier, dict[str, str]] = {
    "standard": {},
    "batch": {"processing": "batch"},
    "priority": {"service_tier": "priority"},
}
FALLBACK = Rates.of(input=7, output=7)
BOOK = PriceBook(
    version=0, prices={}, default=DefaultPriceBook(), service_tier_basis_points={}, fallback=FALLBACK
)
PACKAGE = DataSnapshot(providers=providers, from_auto_update=False)

Clause = (
    ClauseAnd | ClauseContains | ClauseEndsWith | ClauseEquals | ClauseOr | ClauseRegex | ClauseStartsWith
)


def names(clause: Clause) -> Iterator[str]:
    """Model names that may satisfy a rule of the package."""
    match clause:
        case ClauseEquals(text) | ClauseStartsWith(text) | ClauseEndsWith(text) | ClauseContains(text):
            yield text
        case ClauseOr(clauses):
            yield from itertools.chain.from_iterable(map(names, clauses))
        case ClauseAnd(clauses):
            yield from map("-".join, itertools.product(*([*names(each)] or [""] for each in clauses)))


def name_of(provider: Provider, model: ModelInfo) -> str | None:
    """Return a name under which the package finds just this model."""
    for name in (model.id, *names(model.match)):
        try:
            _, found = PACKAGE.find_provider_model(name, None, provider.id, None)
        except LookupError:
            continue
        if found is model:
            return name
    return None


def listed_prices(model: ModelInfo) -> list[ListPrice]:
    standard = (
        [model.prices] if isinstance(model.prices, ListPrice) else [each.prices for each in model.prices]
    )
    return [*standard, *(each.prices for each in model.price_variants or [])]


def listed_rates(model: ModelInfo) -> list[tuple[str, Decimal | TieredPrices]]:
    return [
        (unit, rate)
        for prices in listed_prices(model)
        for unit, rate in vars(prices).items()
        if rate is not None
    ]


def in_whole_pico_usd(model: ModelInfo) -> bool:
    """Whether every token rate of the model can be told in whole pico-USD per token."""
    rates = [
        rate
        for unit, listed in listed_rates(model)
        if unit.endswith("_mtok")
        for rate in (
            (listed.base, *(tier.price for tier in listed.tiers))
            if isinstance(listed, TieredPrices)
            else (listed,)
        )
    ]
    return all(rate * 10**6 % 1 == 0 for rate in rates)


def instants(model: ModelInfo) -> list[datetime]:
    """Both sides of every moment at which the model's price may change."""
    standard = model.prices if isinstance(model.prices, list) else [ConditionalPrice(prices=model.prices)]
    terms: list[ConditionalPrice | PriceVariant] = [*standard, *(model.price_variants or [])]
    constraints = [each.constraint for each in terms]
    starts = [
        datetime.combine(each.start_date, time(), UTC)
        for each in constraints
        if isinstance(each, StartDateConstraint)
    ]
    days = [NOON, *starts, *(start - SECOND for start in starts)]
    borders = [
        datetime.combine(day, border)
        for each in constraints
        if isinstance(each, TimeOfDateConstraint)
        for border in (each.start_time, each.end_time)
        for day in days
    ]
    return [*days, *borders, *(border - SECOND for border in borders)]


def input_sizes(model: ModelInfo) -> list[int]:
    """Both sides of every tier's border, and nothing."""
    starts = {
        tier.start for _, rate in listed_rates(model) if isinstance(rate, TieredPrices) for tier in rate.tiers
    }
    return [0, 1_234, *starts, *(start + 1 for start in starts)]


def generated_usages(model: ModelInfo, generator: random.Random) -> Iterator[Quantities]:
    for size, tier in itertools.product(input_sizes(model), CONTEXTS):
        cached = generator.randint(0, size)
        output = generator.choice([0, 1, 777, 10**9])
        yield Quantities(
            size, cached, generator.randint(0, size - cached), output, generator.randint(0, output), tier
        )


def cost_by_the_package(provider: str, model: str, quantities: Quantities, at: datetime) -> int:
    calculated = genai_prices.calc_price(
        genai_prices.Usage(
            input_tokens=quantities.input_tokens,
            cache_read_tokens=quantities.cached_input_tokens,
            cache_write_tokens=quantities.cache_creation_tokens,
            output_tokens=quantities.output_tokens,
            output_reasoning_tokens=quantities.reasoning_tokens,
        ),
        model,
        provider_id=provider,
        genai_request_timestamp=at,
        price_context=CONTEXTS[quantities.service_tier],
    )
    return int((calculated.total_price * 10**6).to_integral_value(ROUND_HALF_UP))


@pytest.mark.parametrize("provider", providers, ids=lambda provider: provider.id)
def test_every_model_sold_by_tokens_costs_what_the_package_says_to_the_micro_usd(provider: Provider) -> None:
    generator = random.Random(provider.id)
    unnamed = []
    for model in provider.models:
        units = {unit for unit, _ in listed_rates(model)}
        if units and not units & {"input_mtok", "output_mtok"}:
            continue
        name = name_of(provider, model)
        if name is None:
            unnamed.append(model.id)
            continue
        whole = in_whole_pico_usd(model)
        for at in instants(model):
            for quantities in generated_usages(model, generator):
                cost, pricing = price(provider.id, name, quantities, book=BOOK, at=at)
                expected = cost_by_the_package(provider.id, name, quantities, at)
                # A rate finer than one pico-USD per token is off by at most half of one for each token.
                tokens = quantities.input_tokens + quantities.output_tokens
                tolerance = 0 if whole else tokens // (2 * 10**6) + 1
                assert abs(cost - expected) <= tolerance, (name, at, quantities)
                assert pricing == "book"
    assert unnamed == []


@pytest.mark.parametrize(
    ("provider", "model"),
    [
        ("azure", "gpt-4o"),
        ("google", "claude-sonnet-4-5"),
        ("vertex_ai", "gemini-2.5-pro"),
        ("aws.bedrock", "anthropic.claude-sonnet-4-5-20250929-v1:0"),
        ("litellm", "anthropic/claude-sonnet-4-5"),
        ("openai", "GPT-4o-20241120"),
    ],
)
@pytest.mark.parametrize("tier", CONTEXTS)
def test_names_are_matched_as_the_package_matches_them(provider: str, model: str, tier: ServiceTier) -> None:
    quantities = Quantities(123_457, 1_000, 500, 4_321, 21, tier)
    cost, pricing = price(provider, model, quantities, book=BOOK, at=NOON)
    assert cost == cost_by_the_package(provider, model, quantities, NOON) > 0
    assert pricing == "book"


@pytest.mark.parametrize(
    ("conventional", "listed", "model"),
    [
        ("gcp.gen_ai", "google", "gemini-2.5-pro"),
        ("x_ai", "x-ai", "grok-4"),
        ("azure.ai.inference", "azure", "gpt-4o"),
        ("fireworks_ai", "fireworks", "accounts/fireworks/models/gpt-oss-120b"),
    ],
)
def test_names_of_the_telemetry_conventions_are_known(conventional: str, listed: str, model: str) -> None:
    assert BOOK.find(listed, model) is not None
    assert BOOK.find(conventional, model) == BOOK.find(listed, model)


@pytest.mark.parametrize(
    ("provider", "model"), [("nobody", "gpt-4o"), ("openai", "no-such-model"), ("openai", "whisper-1")]
)
def test_what_has_no_price_by_the_token_falls_back_and_says_so(provider: str, model: str) -> None:
    priced = price(provider, model, Quantities(1_000_000), book=BOOK, at=NOON)
    assert priced == (FALLBACK.input, "fallback")


def test_free_models_are_free_by_the_book() -> None:
    assert price("github-copilot", "gpt-4o", Quantities(10**6), book=BOOK, at=NOON) == (0, "book")


def test_an_update_of_the_package_at_run_time_changes_no_price() -> None:
    set_custom_snapshot(DataSnapshot(providers=[], from_auto_update=True))
    try:
        assert DefaultPriceBook().find("openai", "gpt-4o") == BOOK.find("openai", "gpt-4o") is not None
    finally:
        set_custom_snapshot(None)
