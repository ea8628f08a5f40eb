"""The price book of the simulated company, and what a call costs by it."""

from collections.abc import Mapping
from typing import Any, NamedTuple


class Rates(NamedTuple):
    """Micro-USD per million tokens."""

    input: int
    cached_input: int
    cache_creation: int
    output: int


# List prices as genai-prices 0.2.3 has them; where writing to the cache has no price, input pays.
PRICES = {
    ("openai", "gpt-4o"): Rates(2_500_000, 1_250_000, 2_500_000, 10_000_000),
    ("openai", "gpt-4o-mini"): Rates(150_000, 75_000, 150_000, 600_000),
    ("openai", "gpt-5"): Rates(1_250_000, 125_000, 1_250_000, 10_000_000),
    ("anthropic", "claude-opus-4-5"): Rates(5_000_000, 500_000, 6_250_000, 25_000_000),
    ("anthropic", "claude-sonnet-4-5"): Rates(3_000_000, 300_000, 3_750_000, 15_000_000),
    ("google", "gemini-2.5-pro"): Rates(1_250_000, 125_000, 1_250_000, 10_000_000),
    ("google", "gemini-2.5-flash"): Rates(300_000, 30_000, 300_000, 2_500_000),
    ("mistral", "codestral-2508"): Rates(300_000, 30_000, 300_000, 900_000),
}
FALLBACK = Rates(3_000_000, 3_000_000, 3_000_000, 15_000_000)
SERVICE_TIER_BASIS_POINTS = {"standard": 10_000, "batch": 5_000, "priority": 20_000}

_PICO_PER_MICRO_BASIS_POINTS = 10**6 * 10**4


def cost_micro_usd(call: Mapping[str, Any]) -> int:
    """Return what one usage line costs by the price book, rounded half up to micro-USD."""
    rates = PRICES[call["provider"], call["model"]]
    cached, creation = call.get("cached_input_tokens", 0), call.get("cache_creation_tokens", 0)
    pico_usd: int = (
        (call["input_tokens"] - cached - creation) * rates.input
        + cached * rates.cached_input
        + creation * rates.cache_creation
        + call["output_tokens"] * rates.output
    )
    scaled: int = pico_usd * SERVICE_TIER_BASIS_POINTS[call.get("service_tier", "standard")]
    return (scaled + _PICO_PER_MICRO_BASIS_POINTS // 2) // _PICO_PER_MICRO_BASIS_POINTS


def price_book() -> dict[str, Any]:
    """Return the document of the ``price_book`` policy."""
    return {
        "prices": [
            {"provider": provider, "model": model, "rates": rates._asdict()}
            for (provider, model), rates in PRICES.items()
        ],
        "service_tier_basis_points": SERVICE_TIER_BASIS_POINTS,
        "fallback": FALLBACK._asdict(),
    }
