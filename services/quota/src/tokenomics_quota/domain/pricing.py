"""What one usage event costs.

Rates are whole pico-USD per token, which is the same number as micro-USD per million tokens. A cost is summed
exactly in pico-USD and rounded half up to micro-USD once per fact, so that the same event costs the same in
every run: 3 tokens at 166,666 pico-USD are 499,998 pico-USD and cost 0 micro-USD, 3 tokens at 166,667 are
500,001 and cost 1, one token at 1,500,000 costs 2.

Prices may depend on the event's UTC date, on its UTC time of day, and on the size of its input: three step
functions, one in another. So a cost is computed per event, never from a sum of tokens.
"""

from bisect import bisect_right
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import date, datetime, time, timedelta
from functools import partial
from typing import Generic, Literal, NamedTuple, Protocol, Self, TypeAlias, TypeVar

from tokenomics_contracts.events import policy
from tokenomics_contracts.units import MAX_TOKENS, MicroUsd, ServiceTier

Pricing: TypeAlias = Literal["reported", "book", "fallback"]

_PER_MICRO = 1_000_000 * policy.FULL
"""Pico-USD times basis points in a micro-USD."""

_HALF = _PER_MICRO // 2
_REMEMBERED_MODELS = 4_096
_SECONDS_A_DAY = 86_400
_STANDARD_FOR_ALL: dict[ServiceTier, int] = dict.fromkeys(("standard", "batch", "priority"), policy.FULL)

T = TypeVar("T")
U = TypeVar("U")


class Quantities(NamedTuple):
    """The billable part of one usage event, in tokens.

    Cached and cache-creation tokens are part of the input, reasoning tokens part of the output.
    """

    input_tokens: int
    cached_input_tokens: int = 0
    cache_creation_tokens: int = 0
    output_tokens: int = 0
    reasoning_tokens: int = 0
    service_tier: ServiceTier = "standard"


class Priced(NamedTuple):
    """A cost and where it comes from."""

    cost_micro_usd: MicroUsd
    pricing: Pricing


counted = partial(tuple.__new__, Quantities)
priced = partial(tuple.__new__, Priced)
"""Constructors for where they run per event or call: a named tuple's own is Python code."""


class Rates(NamedTuple):
    """Pico-USD per token (= micro-USD per million tokens), and pico-USD for the request itself."""

    input: int
    cached_input: int
    cache_creation: int
    output: int
    reasoning: int
    request: int = 0

    @classmethod
    def of(
        cls,
        *,
        input: int,  # noqa: A002 - the word of the price list
        output: int,
        cached_input: int | None = None,
        cache_creation: int | None = None,
        reasoning: int | None = None,
        request: int = 0,
    ) -> Self:
        """Rates where a kind of token without a rate of its own pays that of the whole it is part of."""
        return cls(
            input=input,
            cached_input=input if cached_input is None else cached_input,
            cache_creation=input if cache_creation is None else cache_creation,
            output=output,
            reasoning=output if reasoning is None else reasoning,
            request=request,
        )

    @classmethod
    def from_policy(cls, rates: policy.Rates) -> Self:
        """Take over the rates that a policy states."""
        return cls.of(
            input=rates.input,
            output=rates.output,
            cached_input=rates.cached_input,
            cache_creation=rates.cache_creation,
        )


@dataclass(frozen=True, slots=True)
class Steps(Generic[T]):
    """A step function over integers: ``values[i + 1]`` holds from ``borders[i]`` on."""

    borders: tuple[int, ...]
    values: tuple[T, ...]

    @classmethod
    def constant(cls, value: T) -> "Steps[T]":
        """One value everywhere."""
        return cls((), (value,))

    @classmethod
    def sample(cls, borders: Iterable[int], value_at: Callable[[int], T]) -> "Steps[T]":
        """Evaluate ``value_at`` at 0 and at each border, joining neighbours that are equal."""
        kept: list[int] = []
        values = [value_at(0)]
        for border in sorted(set(borders) - {0}):
            value = value_at(border)
            if value != values[-1]:
                kept.append(border)
                values.append(value)
        return cls(tuple(kept), tuple(values))

    def at(self, point: int) -> T:
        """Return the value that holds at ``point``."""
        return self.values[bisect_right(self.borders, point)]

    def step_at(self, point: int) -> int:
        """Return the number of the step that ``point`` is on, from 0."""
        return bisect_right(self.borders, point)

    def map(self, convert: Callable[[T], U]) -> "Steps[U]":
        """Return the same steps to converted values."""
        return Steps(self.borders, tuple(map(convert, self.values)))


BySize: TypeAlias = Steps[Rates]
"""Over input tokens: the whole request pays the rates of its input's size."""
ByTimeOfDay: TypeAlias = Steps[BySize]
"""Over seconds since midnight UTC."""
ByDate: TypeAlias = Steps[ByTimeOfDay]
"""Over the proleptic ordinal of the UTC date."""


def second_of_day(at: datetime | time) -> int:
    """Whole seconds since midnight."""
    return at.hour * 3_600 + at.minute * 60 + at.second


@dataclass(frozen=True, slots=True)
class ModelPrice:
    """The price of one model for ever: by date, time of day and input size, and by service tier where listed.

    A service tier with a price of its own is charged exactly that; only a tier without one is charged the
    standard price times the book's basis points for it.
    """

    standard: ByDate
    service_tiers: Mapping[ServiceTier, ByDate] = field(default_factory=dict)

    @classmethod
    def from_entry(cls, entry: policy.Price) -> Self:
        """Make the price that a policy's entry states."""

        def at_size(size: int) -> Rates:
            tiers = (tier.rates for tier in reversed(entry.tiers) if size > tier.above_input_tokens)
            return Rates.from_policy(next(tiers, entry.rates))

        by_size = Steps.sample((tier.above_input_tokens + 1 for tier in entry.tiers), at_size)

        def at_second(second: int) -> BySize:
            windows = (window.rates for window in entry.windows if window.covers(second // 60))
            rates = next(windows, None)
            return by_size if rates is None else Steps.constant(Rates.from_policy(rates))

        minutes = range(0, 86_400, 60) if entry.windows else ()
        return cls(Steps.constant(Steps.sample(minutes, at_second)))

    @classmethod
    def flat(cls, rates: Rates) -> Self:
        """Make a price that never changes."""
        return cls(Steps.constant(Steps.constant(Steps.constant(rates))))


class Tariff(NamedTuple):
    """What each token of one request adds to its exact cost, which is in pico-USD times basis points.

    A token that is part of another kind adds what it costs beyond that.
    """

    request: int
    input: int
    cached_input: int
    cache_creation: int
    output: int
    reasoning: int
    pricing: Pricing

    @classmethod
    def of(cls, rates: Rates, basis_points: int, pricing: Pricing) -> Self:
        """Charge so many basis points of these rates."""
        return cls(
            request=rates.request * basis_points,
            input=rates.input * basis_points,
            cached_input=(rates.cached_input - rates.input) * basis_points,
            cache_creation=(rates.cache_creation - rates.input) * basis_points,
            output=rates.output * basis_points,
            reasoning=(rates.reasoning - rates.output) * basis_points,
            pricing=pricing,
        )

    def exact_cost(self, quantities: Quantities) -> int:
        """Return what these quantities cost; :func:`in_micro_usd` rounds it."""
        input_tokens, cached, creation, output_tokens, reasoning, _ = quantities
        request, per_input, per_cached, per_creation, per_output, per_reasoning, _ = self
        return (
            request
            + input_tokens * per_input
            + cached * per_cached
            + creation * per_creation
            + output_tokens * per_output
            + reasoning * per_reasoning
        )

    def output_tokens_within(self, micro_usd: MicroUsd, exact_cost: int, output_tokens: int) -> int:
        """Return how many output tokens may be, at most, for the cost to round to no more than this.

        0 where not even the input fits; never more than an event may have. Output must not be free.

        Parameters
        ----------
        exact_cost, output_tokens
            Of the same quantities, with some output.
        """
        most = output_tokens + (micro_usd * _PER_MICRO + _HALF - 1 - exact_cost) // self.output
        return 0 if most < 0 else min(most, MAX_TOKENS)

    def input_tokens_within(self, micro_usd: MicroUsd, quantities: Quantities, *, most: int) -> int:
        """Return how many input tokens, at most so many, cost no more than this with all else as it is.

        Negative where not even none fits.
        """
        if not self.input:
            return most if in_micro_usd(self.exact_cost(quantities)) <= micro_usd else -1
        without = self.exact_cost(quantities._replace(input_tokens=0))
        return min(most, (micro_usd * _PER_MICRO + _HALF - 1 - without) // self.input)


def in_micro_usd(exact_cost: int) -> MicroUsd:
    """Round half up."""
    return (exact_cost + _HALF) // _PER_MICRO  # type: ignore[return-value] # MicroUsd() would be a call


Tariffs: TypeAlias = Steps[Steps[Steps[Tariff]]]
"""Of one model and service tier, as ``ByDate``."""


def _next(borders: tuple[int, ...], point: int, otherwise: int) -> int:
    """Return the first border beyond a point."""
    following = bisect_right(borders, point)
    return borders[following] if following < len(borders) else otherwise


class PriceSource(Protocol):
    """Anything that knows prices of models."""

    def find(self, provider: str, model: str) -> ModelPrice | None:
        """Return the price of that provider's model, or None where it has none. Never raises."""


class PriceBook:
    """One version of the company's prices, layered over a default book and, last, fallback rates.

    Parameters
    ----------
    version
        The policy's version.
    prices
        By (provider, model), case-sensitive; a model that ends in ``*`` is a prefix. The exact name wins,
        then the longest prefix.
    default
        Asked for what `prices` doesn't list.
    service_tier_basis_points
        What a service tier without a price of its own pays of the standard price; 10,000 where not named.
    fallback
        Charged, and flagged, where neither knows the model.
    """

    def __init__(
        self,
        *,
        version: int,
        prices: Mapping[tuple[str, str], ModelPrice],
        default: PriceSource,
        service_tier_basis_points: dict[ServiceTier, int],
        fallback: Rates,
    ) -> None:
        self.version = version
        self._fallback = ModelPrice.flat(fallback)
        self._service_tier_basis_points = _STANDARD_FOR_ALL | service_tier_basis_points
        self._exact = {key: price for key, price in prices.items() if not key[1].endswith("*")}
        self._prefixes = sorted(
            (
                (provider, model[:-1], price)
                for (provider, model), price in prices.items()
                if model.endswith("*")
            ),
            key=lambda entry: -len(entry[1]),
        )
        self._default = default
        self._tariffs: dict[tuple[str, str, ServiceTier], Tariffs] = {}

    @classmethod
    def from_document(cls, document: policy.PriceBookDocument, *, version: int, default: PriceSource) -> Self:
        """Make the book that a policy states, layered over the default book."""
        return cls(
            version=version,
            prices={(entry.provider, entry.model): ModelPrice.from_entry(entry) for entry in document.prices},
            default=default,
            service_tier_basis_points={
                tier: getattr(document.service_tier_basis_points, tier) for tier in _STANDARD_FOR_ALL
            },
            fallback=Rates.from_policy(document.fallback),
        )

    @classmethod
    def before_any_policy(cls, default: PriceSource) -> Self:
        """Make the book that holds until a policy states one: an unknown model costs nothing, flagged."""
        return cls(
            version=0,
            prices={},
            default=default,
            service_tier_basis_points={},
            fallback=Rates.of(input=0, output=0),
        )

    def tariff(self, provider: str, model: str, quantities: Quantities, at: datetime) -> Tariff:
        """Return what a request of this size at this time, in UTC, is charged by."""
        key = (provider, model, quantities.service_tier)
        by_date = self._tariffs.get(key)
        if by_date is None:
            by_date = self._remember(key)
        # Most prices have no borders at all: asking first saves a third of the time.
        by_time = by_date.at(at.toordinal()) if by_date.borders else by_date.values[0]
        by_size = by_time.at(second_of_day(at)) if by_time.borders else by_time.values[0]
        return by_size.at(quantities.input_tokens) if by_size.borders else by_size.values[0]

    def by_size(self, provider: str, model: str, service_tier: ServiceTier, at: datetime) -> Steps[Tariff]:
        """Return what requests are charged by at a time, in UTC, by their input tokens."""
        key = (provider, model, service_tier)
        by_date = self._tariffs.get(key) or self._remember(key)
        by_time = by_date.at(at.toordinal()) if by_date.borders else by_date.values[0]
        return by_time.at(second_of_day(at)) if by_time.borders else by_time.values[0]

    def same_until(self, provider: str, model: str, service_tier: ServiceTier, at: datetime) -> datetime:
        """Return until when, exclusive, a model's price of a time, in UTC, surely holds by this book.

        The last of all times for never.
        """
        key = (provider, model, service_tier)
        by_date = self._tariffs.get(key) or self._remember(key)
        day, midnight = at.toordinal(), at.replace(hour=0, minute=0, second=0, microsecond=0)
        if borders := by_date.at(day).borders:
            # At midnight the day after is looked at, even where its night goes on like the one before.
            return midnight + timedelta(seconds=_next(borders, second_of_day(at), _SECONDS_A_DAY))
        return midnight + timedelta(days=_next(by_date.borders, day, date.max.toordinal()) - day)

    def _remember(self, key: tuple[str, str, ServiceTier]) -> Tariffs:
        if len(self._tariffs) >= _REMEMBERED_MODELS:
            self._tariffs.clear()
        tariffs = self._tariffs[key] = self._work_out_tariffs(*key)
        return tariffs

    def _work_out_tariffs(self, provider: str, model: str, service_tier: ServiceTier) -> Tariffs:
        pricing: Pricing = "book"
        model_price = self.find(provider, model)
        if model_price is None:
            model_price, pricing = self._fallback, "fallback"
        own = model_price.service_tiers.get(service_tier)
        basis_points = policy.FULL if own else self._service_tier_basis_points[service_tier]

        def tariff(rates: Rates) -> Tariff:
            return Tariff.of(rates, basis_points, pricing)

        by_date = own or model_price.standard
        return by_date.map(lambda by_time: by_time.map(lambda by_size: by_size.map(tariff)))

    def find(self, provider: str, model: str) -> ModelPrice | None:
        """Return the price by this book, else by the default book, else None."""
        if exact := self._exact.get((provider, model)):
            return exact
        for prefix_provider, prefix, price_of_prefix in self._prefixes:
            if prefix_provider == provider and model.startswith(prefix):
                return price_of_prefix
        return self._default.find(provider, model)


def price(
    provider: str,
    model: str,
    quantities: Quantities,
    *,
    book: PriceBook,
    at: datetime,
    reported_micro_usd: MicroUsd | None = None,
) -> Priced:
    """Cost of one usage event.

    Parameters
    ----------
    provider, model
        As the event names them.
    quantities
        As the event reports them; the contract holds cached + creation <= input and reasoning <= output.
    book
        The price book in force at `at`.
    at
        The event's own time, in UTC.
    reported_micro_usd
        The cost the tool reports; it is taken as it is, whatever the book says.

    Returns
    -------
    Priced
        Rounded half up to micro-USD. ``fallback`` says that no book knows the model.
    """
    if reported_micro_usd is not None:
        return Priced(reported_micro_usd, "reported")
    tariff = book.tariff(provider, model, quantities, at)
    return priced((in_micro_usd(tariff.exact_cost(quantities)), tariff.pricing))
