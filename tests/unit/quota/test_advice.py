"""Better ways to make a call: what is advised is permitted, costs what is said, and is worth it."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.quota_events import NOW, approved, governance, person, published, quota_policy
from tests.unit.quota.test_pricing import ListedPrices, book, flat
from tokenomics_contracts.units import AccountId, MicroUsd
from tokenomics_quota.domain.advice import advise
from tokenomics_quota.domain.approvals import NOTHING_UNLOCKED, ModelAccess, Unlocks
from tokenomics_quota.domain.balance import Headroom
from tokenomics_quota.domain.checks import NO_ADVICE, Advice, Answer, CachedInput, Call
from tokenomics_quota.domain.friction import Decision
from tokenomics_quota.domain.permits import Permits
from tokenomics_quota.domain.policies import NO_USE_CASES, AlternativeRule, ModelName, ModelRule
from tokenomics_quota.domain.pricing import ModelPrice, PriceBook, Quantities, Rates, price
from tokenomics_quota.domain.rollout import ENFORCED, Stage, Stages
from tokenomics_quota.domain.standing import Standing
from tokenomics_quota.projections.balances import QuotaView
from tokenomics_quota.usecases.checking import Terms, check

MILLION = 1_000_000
PRICES = book(
    flat("big", 10 * MILLION),
    flat("small", MILLION),
    flat("medium", 5 * MILLION),
    flat("tiny", MILLION // 10),
    flat("huge", 20 * MILLION),
)
ROOMY = Headroom(MicroUsd(10**9), MicroUsd(10**9), MicroUsd(10**9))


def call(model: str = "big", use_case: str | None = None, **quantities: Any) -> Call:
    counted = Quantities(**({"input_tokens": 100, "output_tokens": 10} | quantities))
    return Call("ada", "acme", model, counted, None, use_case_id=use_case)


def sufficient(
    *models: str, instead_of: str = "*", use_cases: frozenset[str] | None = None
) -> AlternativeRule:
    return AlternativeRule(
        (ModelName("acme", instead_of),), tuple(("acme", model) for model in models), use_cases
    )


def permits(*alternatives: AlternativeRule, models: list[ModelRule] | None = None, **more: Any) -> Permits:
    return Permits(models, more.get("prohibited", {}), NO_USE_CASES, "engineer", alternatives)


def rule(model: str, **fields: Any) -> ModelRule:
    return ModelRule(
        (ModelName("acme", model),), **({"access": "approved", "roles": None, "data_classes": None} | fields)
    )


def advised(
    asked: Call,
    prices: PriceBook = PRICES,
    *,
    may: Permits | None = None,
    unlocks: Unlocks = NOTHING_UNLOCKED,
    headroom: Headroom | None = ROOMY,
    stages: Stages = ENFORCED,
    most: int = 3,
) -> Advice:
    tariff = prices.tariff(asked.provider, asked.model, asked.quantities, NOW)
    standing = Standing(None, None, may, unlocks, stages)
    return advise(asked, tariff, prices, NOW, standing, headroom, most=most)


def models(advice: Advice) -> list[str]:
    return [each.model for each in advice.cheaper_models]


def cost(quantities: Quantities, model: str = "big", prices: PriceBook = PRICES) -> int:
    return price("acme", model, quantities, book=prices, at=NOW).cost_micro_usd


def test_models_that_policy_holds_sufficient_are_named_with_the_largest_saving_first() -> None:
    may = permits(sufficient("small", "medium", "huge", "big"), sufficient("tiny", "small"))
    advice = advised(call(), may=may)
    assert models(advice) == ["tiny", "small", "medium"]
    assert [each.saving_micro_usd for each in advice.cheaper_models] == [1_089, 990, 550]
    assert models(advised(call(), may=may, most=1)) == ["tiny"]


def test_a_lower_price_alone_makes_no_model_sufficient() -> None:
    assert models(advised(call(), may=permits())) == []
    assert models(advised(call(), may=None)) == []


def test_alternatives_are_for_the_models_and_use_cases_that_they_name() -> None:
    of_big = permits(sufficient("small", instead_of="big", use_cases=frozenset({"triage"})))
    assert models(advised(call(use_case="triage"), may=of_big)) == ["small"]
    assert models(advised(call(use_case="law"), may=of_big)) == []
    assert models(advised(call(), may=of_big)) == []
    assert models(advised(call("huge", use_case="triage"), may=of_big)) == []


def test_no_model_is_named_that_the_caller_may_not_call() -> None:
    public = frozenset({"public"})
    rules = [rule("big"), rule("medium"), rule("tiny", access="refused"), rule("small", data_classes=public)]
    may = permits(sufficient("tiny", "small", "medium"), models=rules)
    assert models(advised(call(), may=may)) == ["medium"]
    assert models(advised(call()._replace(data_class="public"), may=may)) == ["small", "medium"]


def test_a_model_that_needs_an_approval_is_named_to_who_has_it() -> None:
    may = permits(sufficient("small"), models=[rule("*"), rule("small", access="on_approval")])
    assert models(advised(call(), may=may)) == []
    access = ModelAccess((("acme", "small"),), ("internal",))
    assert models(advised(call(), may=may, unlocks=Unlocks(None, (access,)))) == ["small"]


def test_who_has_an_approval_for_the_model_is_told_of_every_cheaper_way() -> None:
    half = book(flat("big", MILLION), batch=5_000)
    may = permits(models=[rule("big", access="on_approval")])
    assert advised(call(), half, may=may).batched is None
    access = ModelAccess((("acme", "big"),), ("internal",))
    assert advised(call(), half, may=may, unlocks=Unlocks(None, (access,))).batched is not None


def test_a_model_without_a_price_is_not_said_to_cost_less() -> None:
    may = permits(sufficient("unknown"))
    assert cost(call().quantities, "unknown") < cost(call().quantities)
    assert advised(call(), may=may) == NO_ADVICE


@given(st.integers(1, 50), st.integers(0, 60), st.integers(1, 120), st.integers(1_024, 5_000))
def test_caching_pays_from_the_very_number_of_calls_that_is_named(
    input_rate: int, cached_rate: int, creation_rate: int, input_tokens: int
) -> None:
    rates = Rates.of(
        input=input_rate * MILLION,
        cached_input=cached_rate * MILLION,
        cache_creation=creation_rate * MILLION,
        output=MILLION,
    )
    prices = book(default=ListedPrices({("acme", "big"): ModelPrice.flat(rates)}))
    asked = call(input_tokens=input_tokens)
    plain, cached, creating = (
        cost(Quantities(input_tokens, read, written, 10), prices=prices)
        for read, written in ((0, 0), (input_tokens, 0), (0, input_tokens))
    )
    advice = advised(asked, prices).cached_input
    if cached_rate >= input_rate:
        assert advice is None
        return
    pays = next(calls for calls in range(2, 200) if creating + (calls - 1) * cached <= calls * plain)
    assert advice == CachedInput(MicroUsd(cached), MicroUsd(plain - cached), pays)


def test_what_is_cached_already_or_too_short_is_not_advised_to_be_cached() -> None:
    rates = Rates.of(input=MILLION, cached_input=MILLION // 10, output=MILLION)
    prices = book(default=ListedPrices({("acme", "big"): ModelPrice.flat(rates)}))
    assert advised(call(input_tokens=1_023), prices).cached_input is None
    assert advised(call(input_tokens=1_024), prices).cached_input is not None
    assert advised(call(input_tokens=1_100, cached_input_tokens=100), prices).cached_input is None


def test_a_batch_is_advised_where_it_is_cheaper_and_the_call_is_none() -> None:
    half = book(flat("big", MILLION), batch=5_000)
    advice = advised(call(), half).batched
    assert advice is not None
    assert (advice.cost_micro_usd, advice.saving_micro_usd) == (55, 55)
    assert advised(call(service_tier="batch"), half).batched is None
    assert advised(call()).batched is None


@given(
    st.integers(0, 400),
    st.integers(0, 100),
    st.integers(0, 20),
    st.integers(-10, 500),
    st.dictionaries(st.integers(0, 300), st.integers(0, 3 * MILLION), max_size=3),
)
def test_the_context_advised_is_the_longest_that_stays_within_the_bands(
    input_tokens: int, cached: int, output: int, room: int, rates: dict[int, int]
) -> None:
    tiers = [
        {"above_input_tokens": above, "rates": {"input": rate, "output": rate}}
        for above, rate in sorted(rates.items())
        if above
    ]
    prices = book(flat("big", rates.get(0, MILLION), tiers=tiers))
    asked = call(
        input_tokens=input_tokens, cached_input_tokens=min(cached, input_tokens), output_tokens=output
    )
    headroom = Headroom(MicroUsd(room), MicroUsd(room), MicroUsd(room))
    advice = advised(asked, prices, headroom=headroom).shorter_context

    def costs(tokens: int) -> int:
        return cost(asked.quantities._replace(input_tokens=tokens), prices=prices)

    least = max(-(-input_tokens // 2), asked.quantities.cached_input_tokens)
    fitting = [tokens for tokens in range(least, input_tokens) if costs(tokens) <= room]
    if advice is not None:
        assert least <= advice.input_tokens < input_tokens
        assert advice.cost_micro_usd == costs(advice.input_tokens)
        assert advice.saving_micro_usd == costs(input_tokens) - advice.cost_micro_usd
        assert advice.within_bands == (advice.cost_micro_usd <= room)
    if 0 <= room < costs(input_tokens) and fitting:
        assert advice is not None
        assert advice.input_tokens == max(fitting)


def test_a_context_just_above_a_dearer_step_is_advised_to_end_before_it() -> None:
    tier = {"above_input_tokens": 200, "rates": {"input": 2 * MILLION, "output": 0}}
    prices = book(flat("big", MILLION, tiers=[tier]))
    advice = advised(call(input_tokens=210, output_tokens=0), prices).shorter_context
    assert advice is not None
    assert (advice.input_tokens, advice.cost_micro_usd, advice.saving_micro_usd) == (200, 200, 220)
    assert advice.within_bands
    assert advised(call(input_tokens=401, output_tokens=0), prices).shorter_context is None
    assert advised(call(input_tokens=200, output_tokens=0), prices).shorter_context is None


LIMIT = 1_000_000
POLICY: dict[str, Any] = {
    "allowances": [{"role": "engineer", "limit_micro_usd": LIMIT}],
    "models": [
        {"models": [{"provider": "acme", "model": "*"}]},
        {"models": [{"provider": "acme", "model": "huge"}], "access": "refused"},
    ],
    "prohibited_data": [{"data_class": "secret", "permitted_way": "Ask."}],
    "alternatives": [
        {
            "models": [{"provider": "acme", "model": "*"}],
            "sufficient": [{"provider": "acme", "model": "small"}],
        }
    ],
}


def answer(asked: Call, posted: int = 0, *more: Any, **fields: Any) -> Answer:
    prices = [flat("big", 10 * MILLION), flat("small", MILLION), flat("huge", 20 * MILLION)]
    state = governance(
        quota_policy(**POLICY | fields),
        published(
            "price_book",
            1,
            NOW.replace(year=2026, month=1),
            {
                "prices": prices,
                "service_tier_basis_points": {"batch": 5_000},
                "fallback": {"input": 0, "output": 0},
            },
        ),
        person("ada"),
        *more,
    )
    view = QuotaView(state)
    view.put_totals({AccountId("subject/ada/operational/2026-11"): MicroUsd(posted)})
    return check(Terms.at(state, NOW), view.touched_by("ada", None, NOW), asked, NOW)


def test_a_plain_allow_has_no_advice() -> None:
    assert answer(call()).advice == NO_ADVICE


def test_a_call_that_is_nudged_is_told_of_cheaper_ways() -> None:
    nudged = answer(call(), 7 * LIMIT // 10)
    assert nudged.decision is Decision.ALLOW_WITH_NUDGE
    assert models(nudged.advice) == ["small"]
    assert nudged.advice.batched is not None


def test_a_model_that_is_refused_has_permitted_ones_in_its_place_and_no_other_advice() -> None:
    refused = answer(call("huge"))
    assert refused.decision is Decision.DENIED
    assert models(refused.advice) == ["small"]
    assert refused.advice == Advice(refused.advice.cheaper_models)


@pytest.mark.parametrize("stage", [Stage.OBSERVE, Stage.NUDGE])
def test_a_model_that_a_rule_does_not_hold_back_yet_is_advised_as_any_other(stage: Stage) -> None:
    staged = {"stages": [{"stage": stage.name.lower(), "from": "2026-01-01T00:00:00Z", "rules": ["models"]}]}
    held_back = answer(call("huge"), 7 * LIMIT // 10)
    assert held_back.advice == Advice(held_back.advice.cheaper_models)
    goes_on = answer(call("huge"), 7 * LIMIT // 10, rollout=staged)
    unruled = answer(call("huge"), 7 * LIMIT // 10, models=None)
    assert {each.decision for each in (goes_on, unruled)} == {Decision.ALLOW_WITH_NUDGE}
    assert goes_on.advice == unruled.advice
    assert unruled.advice.batched is not None


def test_no_way_is_advised_for_data_that_no_model_may_have() -> None:
    assert answer(call()._replace(data_class="secret")).advice == NO_ADVICE
    secret = call()._replace(data_class="secret")
    observed = Stages.all(Stage.OBSERVE)
    may = permits(sufficient("small"), prohibited={"secret": "Ask."})
    assert advised(secret, may=may, stages=observed) == NO_ADVICE


@pytest.mark.parametrize("kind", ["justification", "model_access"])
def test_who_has_an_approval_is_advised_all_the_same(kind: str) -> None:
    assert models(answer(call(), 9 * LIMIT // 10, approved(kind=kind)).advice) == ["small"]
