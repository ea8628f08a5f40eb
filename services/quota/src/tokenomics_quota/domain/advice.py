"""Better ways to make a call: what would cost less, how much less, and from when on it pays."""

from collections.abc import Sequence
from datetime import datetime
from functools import partial
from operator import itemgetter
from typing import Final

from tokenomics_contracts.units import MicroUsd
from tokenomics_quota.domain.approvals import Unlocks
from tokenomics_quota.domain.balance import Headroom
from tokenomics_quota.domain.checks import (
    NO_ADVICE,
    Advice,
    Batched,
    CachedInput,
    Call,
    CheaperModel,
    ReusableAsset,
    ShorterContext,
)
from tokenomics_quota.domain.findings import Rule
from tokenomics_quota.domain.friction import Decision
from tokenomics_quota.domain.permits import Permits
from tokenomics_quota.domain.pricing import PriceBook, Quantities, Steps, Tariff, counted, in_micro_usd
from tokenomics_quota.domain.rollout import Stage
from tokenomics_quota.domain.standing import Standing

DEFAULT_MOST: Final = 3
"""How much of each kind an answer advises."""

_WORTH_CACHING_TOKENS: Final = 1_024
"""Providers cache no shorter beginning."""

_SAVING: Final = itemgetter(3)

_cheaper = partial(tuple.__new__, CheaperModel)
_cached = partial(tuple.__new__, CachedInput)
_batch = partial(tuple.__new__, Batched)
_advised = partial(tuple.__new__, Advice)
"""Constructors for where they run once an answer: a named tuple's own is Python code."""


def advise(  # noqa: PLR0917 - what it rests on
    call: Call,
    tariff: Tariff,
    book: PriceBook,
    now: datetime,
    standing: Standing,
    headroom: Headroom | None,
    assets: Sequence[ReusableAsset] = (),
    *,
    most: int = DEFAULT_MOST,
) -> Advice:
    """Return what would make a call cheaper. Savings of different kinds don't add up.

    Parameters
    ----------
    tariff
        What the call is charged by as it is.
    standing
        The caller's, who is told of no model that isn't permitted. Where policy says nothing of models, it
        names none that would do as well. Where a rule that enforces refuses the model, others are the only
        way; one that lets the call go on takes no advice away.
    headroom
        Of the accounts that the caller may see.
    assets
        What is offered for the call's use case, the best first.
    """
    exact_cost = tariff.exact_cost(call.quantities)
    cost = in_micro_usd(exact_cost)
    models: tuple[CheaperModel, ...] = ()
    best = tuple(assets[:most])
    permits, unlocks = standing.permits, standing.unlocks
    if permits is not None:
        models = _cheaper_models(call, cost, book, now, permits, unlocks)[:most]
        if objections := permits.objections(call.provider, call.model, call.data_class, None):
            gravest = objections[0]
            if gravest.rule is Rule.PROHIBITED_DATA:
                return NO_ADVICE
            awaits_approval = gravest.decision is Decision.APPROVAL_REQUIRED
            unlocked = awaits_approval and unlocks.open(call.provider, call.model, call.data_class)
            if standing.asking.of(gravest.rule) is Stage.ENFORCE and not unlocked:
                return Advice(models, assets=best)  # nothing else makes it permitted
    if tariff.pricing == "fallback":
        return Advice(models, assets=best)  # what isn't known of a model can't be said to cost less
    return _advised(
        (
            models,
            _cached_input(call.quantities, tariff, exact_cost, cost),
            _batched(call, cost, book, now),
            _shorter_context(call, cost, book, now, headroom),
            best,
        )
    )


def _cheaper_models(  # noqa: PLR0917 - what it rests on
    call: Call, cost: MicroUsd, book: PriceBook, now: datetime, permits: Permits, unlocks: Unlocks
) -> tuple[CheaperModel, ...]:
    found = []
    for provider, model, awaits_approval in permits.substitutes(
        call.provider, call.model, call.data_class, call.use_case_id
    ):
        if awaits_approval and not unlocks.open(provider, model, call.data_class):
            continue
        tariff = book.tariff(provider, model, call.quantities, now)
        theirs = in_micro_usd(tariff.exact_cost(call.quantities))
        if theirs < cost and tariff.pricing == "book":
            found.append(_cheaper((provider, model, theirs, cost - theirs)))
    found.sort(key=_SAVING, reverse=True)
    return tuple(found)


def _cached_input(
    quantities: Quantities, tariff: Tariff, exact_cost: int, cost: MicroUsd
) -> CachedInput | None:
    uncached = quantities.input_tokens - quantities.cached_input_tokens - quantities.cache_creation_tokens
    if uncached < _WORTH_CACHING_TOKENS or tariff.cached_input >= 0:
        return None
    cached_cost = in_micro_usd(exact_cost + uncached * tariff.cached_input)
    # One call writes, the others read: dear(write) <= (calls - 1) * saved(read).
    pays_from_calls = max(2, 1 - tariff.cache_creation // tariff.cached_input)
    return _cached((cached_cost, cost - cached_cost, pays_from_calls))


def _batched(call: Call, cost: MicroUsd, book: PriceBook, now: datetime) -> Batched | None:
    *amounts, service_tier = call.quantities
    if service_tier == "batch":
        return None
    quantities = counted((*amounts, "batch"))
    tariff = book.tariff(call.provider, call.model, quantities, now)
    batch_cost = in_micro_usd(tariff.exact_cost(quantities))
    return _batch((batch_cost, cost - batch_cost)) if batch_cost < cost else None


def _shorter_context(
    call: Call, cost: MicroUsd, book: PriceBook, now: datetime, headroom: Headroom | None
) -> ShorterContext | None:
    """Return the longest context that asks for no more than now, else that of a cheaper step of the price."""
    quantities = call.quantities
    by_size = book.by_size(call.provider, call.model, quantities.service_tier, now)
    room = cost if headroom is None else headroom.within_bands
    fits = None
    if 0 <= room < cost:
        fits = _most_input_tokens(quantities, by_size, room)
    if fits is None:
        fits = _before_the_step(quantities, by_size)
    if fits is None:
        return None
    shorter = quantities._replace(input_tokens=fits)
    shorter_cost = in_micro_usd(by_size.at(fits).exact_cost(shorter))
    return ShorterContext(fits, shorter_cost, MicroUsd(cost - shorter_cost), shorter_cost <= room)


def _most_input_tokens(quantities: Quantities, by_size: Steps[Tariff], room: MicroUsd) -> int | None:
    """Return the largest input, smaller than that of the call, whose cost fits."""
    high = quantities.input_tokens - 1
    for low, tariff in reversed(list(zip((0, *by_size.borders), by_size.values, strict=True))):
        if low <= high:
            fits = tariff.input_tokens_within(room, quantities, most=high)
            if fits >= low:
                return _if_the_same_call(fits, quantities)
            high = low - 1
    return None


def _before_the_step(quantities: Quantities, by_size: Steps[Tariff]) -> int | None:
    """Return the largest input at the next lower step of the price, if a token is cheaper there."""
    step = by_size.step_at(quantities.input_tokens)
    if step == 0 or by_size.values[step - 1].input >= by_size.values[step].input:
        return None
    return _if_the_same_call(by_size.borders[step - 1] - 1, quantities)


def _if_the_same_call(input_tokens: int, quantities: Quantities) -> int | None:
    """Return so many input tokens, unless so few would be another call."""
    as_cached = quantities.cached_input_tokens + quantities.cache_creation_tokens
    return input_tokens if input_tokens >= max(as_cached, -(-quantities.input_tokens // 2)) else None
