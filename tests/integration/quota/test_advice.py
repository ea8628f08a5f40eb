"""What would make a call cheaper: with a check's answer, and asked for by itself."""

import json
from pathlib import Path

import grpc
import pytest

from tests.integration.quota.serving import Served, check_request, company, refused, serve, violated_fields
from tests.support.quota_events import LONG_AGO, NOW, published, quota_policy, reused, shared
from tokenomics.quota.v1 import quota_pb2 as pb
from tokenomics_quota.domain.decision_records import DecisionRecord
from tokenomics_quota.streams.events import decision_event

PRICES = {
    "prices": [
        {"provider": "acme", "model": model, "rates": {"input": rate * 1_000_000, "output": rate * 1_000_000}}
        for model, rate in (("one", 1), ("two", 2), ("three", 3))
    ],
    "service_tier_basis_points": {"batch": 5_000},
    "fallback": {"input": 0, "output": 0},
}
ALTERNATIVES = [
    {
        "models": [{"provider": "acme", "model": "*"}],
        "sufficient": [{"provider": "acme", "model": "one"}, {"provider": "acme", "model": "two"}],
    }
]


@pytest.fixture
async def advising(service: Served) -> Served:
    await company(service.quota)
    await service.quota.tell(published("price_book", 2, LONG_AGO, PRICES), "book 2")
    allowances = [{"role": "engineer", "limit_micro_usd": 200}]
    await service.quota.tell(quota_policy(2, allowances=allowances, alternatives=ALTERNATIVES), "policy 2")
    await service.refresh()
    service.level()
    return service


async def suggested(
    service: Served, call: pb.CheckQuotaRequest, limit: int = 0, person: str | None = None
) -> pb.SuggestAlternativesResponse:
    request = pb.SuggestAlternativesRequest(call=call, limit=limit)
    return await service.stub.SuggestAlternatives(request, metadata=service.metadata(person))


async def test_a_call_that_is_nudged_is_told_of_cheaper_ways_and_its_record_says_so(advising: Served) -> None:
    request = check_request(model="three", estimated_input_tokens=4, estimated_output_tokens=2)
    answer = await advising.stub.CheckQuota(request, metadata=advising.metadata())
    assert answer.decision == pb.DECISION_ALLOW_WITH_NUDGE
    assert answer.nudge.text.endswith(" acme one would cost less.")
    named = [
        (each.model, each.estimated_cost_micro_usd, each.saving_micro_usd)
        for each in answer.nudge.cheaper_models
    ]
    assert named == [("one", 6, 12), ("two", 12, 6)]
    batch = answer.nudge.batch_tier
    assert (batch.estimated_cost_micro_usd, batch.saving_micro_usd) == (9, 9)
    assert not answer.nudge.HasField("cached_input")
    (kept,) = advising.decisions.kept
    assert [each.model for each in kept.answer.advice.cheaper_models] == ["one", "two"]


async def test_a_plain_allow_is_not_told_how_to_do_better(advising: Served) -> None:
    request = check_request("eve", model="three", estimated_input_tokens=4)
    answer = await advising.stub.CheckQuota(request, metadata=advising.metadata())
    assert answer.decision == pb.DECISION_ALLOW
    assert not answer.HasField("nudge")


async def test_a_suggestion_costs_before_the_call_and_leaves_no_record(advising: Served) -> None:
    call = check_request("eve", model="three", estimated_input_tokens=4, estimated_output_tokens=2)
    answer = await suggested(advising, call)
    assert (answer.estimated_cost_micro_usd, answer.pricing) == (18, pb.PRICING_BOOK)
    assert (answer.quota_policy_version, answer.price_book_version) == (2, 2)
    assert [each.model for each in answer.nudge.cheaper_models] == ["one", "two"]
    assert [each.model for each in (await suggested(advising, call, 1)).nudge.cheaper_models] == ["one"]
    assert advising.decisions.kept == []


async def test_a_suggestion_shortens_a_call_to_what_asks_for_no_more_than_now(advising: Served) -> None:
    # 150 of 200 are used: the justify band begins at 180.
    call = check_request("ada", model="one", estimated_input_tokens=40)
    shorter = (await suggested(advising, call)).nudge.shorter_context
    assert (shorter.input_tokens, shorter.saving_micro_usd, shorter.within_bands) == (29, 11, True)


async def test_a_person_is_advised_about_their_own_calls_and_those_they_decide_about(
    advising: Served,
) -> None:
    call = check_request("ada", model="three", estimated_input_tokens=4)
    assert (await suggested(advising, call, person="ada")).nudge.cheaper_models
    assert await refused(suggested(advising, call, person="eve")) is grpc.StatusCode.PERMISSION_DENIED


@pytest.mark.parametrize(
    ("call", "limit", "fields"),
    [
        ({}, -1, {"limit"}),
        ({}, 21, {"limit"}),
        ({"subject": ""}, 0, {"call.subject"}),
        ({"provider": "a b"}, 0, {"call.provider"}),
        ({"model": ""}, 0, {"call.model"}),
        ({"estimated_input_tokens": 10**10}, 0, {"call.estimated_input_tokens"}),
        ({"estimated_output_tokens": 10**10}, 0, {"call.estimated_output_tokens"}),
        ({"estimated_cached_input_tokens": 5}, 0, {"call.estimated_cached_input_tokens"}),
        ({"service_tier": 9}, 0, {"call.service_tier"}),
        ({"purpose": pb.PURPOSE_ALL}, 0, {"call.purpose"}),
        ({"project": "a/b"}, 0, {"call.project"}),
        ({"use_case": " "}, 0, {"call.use_case"}),
        ({"data_class": "Secret!"}, 0, {"call.data_class"}),
        ({"subject": "a@b", "model": ""}, 30, {"call.subject", "call.model", "limit"}),
    ],
)
async def test_a_suggestion_names_every_wrong_field(
    service: Served, call: dict[str, object], limit: int, fields: set[str]
) -> None:
    await service.refresh()
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await suggested(service, check_request(**call), limit)  # type: ignore[arg-type] # wrong on purpose
    assert error.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert violated_fields(error.value) == fields


async def assets(service: Served, use_case: str = "triage") -> list[tuple[str, int]]:
    answer = await suggested(service, check_request("eve", use_case=use_case))
    return [(each.asset_id, each.distinct_users) for each in answer.nudge.reusable_assets]


async def test_what_others_shared_for_the_use_case_is_suggested_and_how_many_used_it(
    advising: Served,
) -> None:
    quota = advising.quota
    assert await assets(advising) == []
    await quota.tell(reused("ada", "prompt-2"), "before it was known")
    await quota.tell(shared("prompt-1", "triage", "replies"), "1")
    await quota.tell(shared("prompt-2", "triage"), "2")
    await quota.tell(shared("prompt-3", "replies"), "3")
    await advising.refresh()
    assert await assets(advising) == [("prompt-2", 1), ("prompt-1", 0)]
    for number, (subject, partition) in enumerate((("ada", 0), ("bob", 1), ("ada", 2), ("eve", 0))):
        await quota.tell(reused(subject), f"reuse {number}", partition=partition)
    await advising.refresh()
    assert await assets(advising) == [("prompt-1", 2), ("prompt-2", 1)]
    assert await assets(advising, "other") == []


async def test_a_check_names_assets_and_its_record_says_which(advising: Served) -> None:
    for number in range(5):
        await advising.quota.tell(shared(f"prompt-{number}", "triage"), f"asset {number}")
    await advising.refresh()
    request = check_request(use_case="triage", estimated_input_tokens=4)
    answer = await advising.stub.CheckQuota(request, metadata=advising.metadata())
    named = [each.asset_id for each in answer.nudge.reusable_assets]
    assert named == ["prompt-0", "prompt-1", "prompt-2"]
    (kept,) = advising.decisions.kept
    event = decision_event(DecisionRecord("d", kept, 1, kept.answer.estimate.cost_micro_usd, NOW))
    assert json.loads(event.value or b"")["advice"]["asset_ids"] == named


async def test_a_reload_finds_the_same_users(advising: Served, tmp_path: Path) -> None:
    await advising.quota.tell(shared("prompt-1", "triage"), "1")
    for number, subject in enumerate(("ada", "bob")):
        await advising.quota.tell(reused(subject), f"reuse {number}")
    await advising.refresh()
    assert await assets(advising) == [("prompt-1", 2)]
    async with serve(advising.quota, tmp_path) as anew:
        await anew.refresh()
        assert await assets(anew) == [("prompt-1", 2)]
