"""The public list prices of the `genai-prices` package as our default price book.

The package's data are part of the pinned dependencies: prices change only with the lock, never by themselves
(the package's own online update isn't used), so live and replayed events cost the same.
"""

from collections.abc import Iterable
from datetime import UTC, date, datetime, time, timedelta
from decimal import ROUND_HALF_UP, Decimal
from functools import lru_cache

from genai_prices import data
from genai_prices.data_snapshot import DataSnapshot
from genai_prices.types import (
    ConditionalPrice,
    ModelInfo,
    PriceVariant,
    StartDateConstraint,
    TieredPrices,
    TimeOfDateConstraint,
)
from genai_prices.types import ModelPrice as ListPrice

from tokenomics_contracts.units import ServiceTier
from tokenomics_quota.domain.pricing import (
    ByDate,
    BySize,
    ByTimeOfDay,
    ModelPrice,
    Rates,
    Steps,
    second_of_day,
)

_REMEMBERED_MODELS = 4_096
_SNAPSHOT_TAKEN = datetime.min.replace(tzinfo=UTC)

# Provider names of the OpenTelemetry GenAI conventions and of common gateways that the package doesn't match.
_PROVIDER_ALIASES = {
    "azure.ai.inference": "azure",
    "fireworks_ai": "fireworks",
    "gcp.gen_ai": "google",
    "x_ai": "x-ai",
}

# How the package names the context in which a service tier has prices of its own.
_PRICE_CONTEXTS: dict[ServiceTier, dict[str, str]] = {
    "batch": {"processing": "batch"},
    "priority": {"service_tier": "priority"},
}


class DefaultPriceBook:
    """List prices by provider and model, matched exactly as `genai-prices` matches them.

    Rates finer than one pico-USD per token are rounded half up to it. A model sold only by other units than
    tokens (seconds, characters, pages) has no price here: zero would hide its spend.
    """

    def __init__(self) -> None:
        self._find = lru_cache(_REMEMBERED_MODELS)(_find)

    def find(self, provider: str, model: str) -> ModelPrice | None:
        """Return the list price, or None where the package knows none. The first call per model is slow."""
        return self._find(provider, model)


def _find(provider: str, model: str) -> ModelPrice | None:
    # A snapshot of its own for each lookup: the package's caches grow with every name ever asked for.
    snapshot = DataSnapshot(providers=data.providers, from_auto_update=False, timestamp=_SNAPSHOT_TAKEN)
    try:
        matched_provider, info = snapshot.find_provider_model(
            model, None, _PROVIDER_ALIASES.get(provider.lower(), provider), None
        )
    except LookupError:
        return None
    if _sold_by_other_units_only(info):
        return None
    # As in the package: variants are the terms of the provider whose model it is, not of one that resells it.
    own_model = any(info is listed for listed in matched_provider.models)
    variants = info.price_variants or [] if own_model else []
    return ModelPrice(
        standard=_by_date(info, {}),
        service_tiers={
            tier: _by_date(info, context)
            for tier, context in _PRICE_CONTEXTS.items()
            if any(variant.when == context for variant in variants)
        },
    )


def _sold_by_other_units_only(info: ModelInfo) -> bool:
    listed = [
        {unit for unit, rate in vars(terms.prices).items() if rate is not None} for terms in _terms(info)
    ]
    return any(listed) and not any(units & {"input_mtok", "output_mtok"} for units in listed)


def _terms(info: ModelInfo) -> list[ConditionalPrice]:
    return [ConditionalPrice(prices=info.prices)] if isinstance(info.prices, ListPrice) else info.prices


def _by_date(info: ModelInfo, context: dict[str, str]) -> ByDate:
    """Ask the package at every instant at which its answer can change."""
    terms: Iterable[ConditionalPrice | PriceVariant] = [*_terms(info), *(info.price_variants or [])]
    constraints = [each.constraint for each in terms]
    dates = [each.start_date.toordinal() for each in constraints if isinstance(each, StartDateConstraint)]
    seconds = [
        second_of_day(border)
        for each in constraints
        if isinstance(each, TimeOfDateConstraint)
        for border in (each.start_time, each.end_time)
    ]

    def on(day: int) -> ByTimeOfDay:
        midnight = datetime.combine(date.fromordinal(day or 1), time(), UTC)
        return Steps.sample(
            seconds, lambda second: _by_size(info.get_prices(midnight + timedelta(seconds=second), context))
        )

    return Steps.sample(dates, on)


def _by_size(prices: ListPrice) -> BySize:
    tiers = [
        tier.start for rate in vars(prices).values() if isinstance(rate, TieredPrices) for tier in rate.tiers
    ]

    def rates_at(size: int) -> Rates:
        def rate(key: str, pico_usd: int = 1_000_000) -> int | None:
            return _pico_usd(getattr(prices, key), size, pico_usd)

        return Rates.of(
            input=rate("input_mtok") or 0,
            cached_input=rate("cache_read_mtok"),
            cache_creation=rate("cache_write_mtok"),
            output=rate("output_mtok") or 0,
            reasoning=rate("output_reasoning_mtok"),
            request=rate("requests_kcount", 1_000_000_000) or 0,
        )

    return Steps.sample((start + 1 for start in tiers), rates_at)


def _pico_usd(listed: Decimal | TieredPrices | None, size: int, scale: int) -> int | None:
    """USD per million tokens (or per thousand requests) as whole pico-USD per one, at that input size."""
    if isinstance(listed, TieredPrices):
        listed = next((tier.price for tier in reversed(listed.tiers) if size > tier.start), listed.base)
    return None if listed is None else int((listed * scale).to_integral_value(ROUND_HALF_UP))
