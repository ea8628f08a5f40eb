"""A usage trail: what is counted on a subject, request by request, for that subject alone."""

from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from tests.integration.quota.harness import Quota
from tests.integration.quota.serving import Served, serve, violated_fields
from tests.support.quota_events import NOW, SOURCE, correction, person, price_book, usage
from tests.support.quota_events import quota_policy as policy
from tokenomics.quota.v1 import quota_pb2 as pb

ALIAS = f"alias:{'a' * 32}"
DAY = timedelta(days=1)


@pytest.fixture
async def served(quota: Quota, tmp_path: Path) -> AsyncIterator[Served]:
    await quota.tell(price_book(), "book")
    await quota.tell(policy(), "policy")
    await quota.tell(person("ada", aliases=[ALIAS], manager_id="boss"), "ada")
    await quota.tell(person("boss", privileges=["governance", "auditor", "operator"]), "boss")
    async with serve(quota, tmp_path) as made:
        await made.refresh()
        yield made


async def page(served: Served, viewer: str | None = "ada", **fields: Any) -> pb.ListUsageResponse:
    request = pb.ListUsageRequest(**({"subject": "ada"} | fields))
    answer: pb.ListUsageResponse = await served.stub.ListUsage(request, metadata=served.metadata(viewer))
    return answer


async def ids(served: Served, **fields: Any) -> list[str]:
    return [each.id for each in (await page(served, **fields)).usage]


def at(moment: Any) -> Timestamp:
    timestamp = Timestamp()
    timestamp.FromDatetime(moment)
    return timestamp


async def test_a_request_is_shown_as_it_is_counted(served: Served) -> None:
    event = usage(
        "ada",
        input_tokens=100,
        output_tokens=7,
        cached_input_tokens=20,
        reasoning_tokens=3,
        service_tier="batch",
        project="apollo",
        use_case="triage",
        purpose="experiment",
    )
    await served.quota.tell(event, "a")
    (shown,) = (await page(served)).usage
    assert (shown.source, shown.id, shown.tool) == (SOURCE, "a", "gateway")
    assert (shown.provider, shown.model, shown.project, shown.use_case) == ("acme", "one", "apollo", "triage")
    assert (shown.input_tokens, shown.cached_input_tokens) == (100, 20)
    assert (shown.output_tokens, shown.reasoning_tokens) == (7, 3)
    assert (shown.service_tier, shown.purpose) == (pb.SERVICE_TIER_BATCH, pb.PURPOSE_EXPERIMENT)
    assert shown.time == at(NOW)
    cost = await served.quota.pool.fetchval("SELECT cost_micro_usd FROM fact")
    assert (shown.cost_micro_usd, shown.pricing, shown.revision) == (cost, pb.PRICING_BOOK, 0)


async def test_a_corrected_request_has_the_quantities_that_count(served: Served) -> None:
    await served.quota.tell(usage("ada", input_tokens=100), "a")
    await served.quota.tell(correction("a", 2, 30), "c2")
    await served.quota.tell(correction("a", 1, 50), "c1")
    (shown,) = (await page(served)).usage
    assert (shown.id, shown.input_tokens, shown.output_tokens, shown.revision) == ("a", 30, 0, 2)
    assert shown.cost_micro_usd == await served.quota.pool.fetchval(
        "SELECT cost_micro_usd FROM fact WHERE event_kind = 'recorded'"
    )


async def test_what_was_reported_under_an_alias_is_shown_to_its_bearer_and_nobody_elses(
    served: Served,
) -> None:
    await served.quota.tell(usage(ALIAS), "mine")
    await served.quota.tell(usage(ALIAS), "before", time=NOW - 400 * DAY, appended_at=NOW - 400 * DAY)
    await served.quota.tell(usage("boss"), "boss")
    await served.refresh()
    assert await ids(served, since=at(NOW - 1000 * DAY)) == ["mine"]


async def test_it_goes_back_to_the_start_of_the_period_unless_asked_for_more(served: Served) -> None:
    for days in (0, 1, 19, 20, 40):
        moment = NOW - days * DAY
        await served.quota.tell(usage("ada"), f"u{days}", time=moment, appended_at=moment)
    assert await ids(served) == ["u0", "u1", "u19"]
    assert await ids(served, since=at(NOW - 40 * DAY)) == ["u0", "u1", "u19", "u20", "u40"]
    assert await ids(served, since=at(NOW - 20 * DAY), before=at(NOW - DAY)) == ["u19", "u20"]


async def test_pages_join_to_the_whole_newest_first_also_within_an_instant(served: Served) -> None:
    for number in range(9):
        moment = NOW - (number // 4) * DAY
        name = ALIAS if number % 2 else "ada"
        await served.quota.tell(usage(name), f"u{number}", time=moment, appended_at=moment)
    whole = await ids(served)
    assert sorted(whole) == [f"u{number}" for number in range(9)]
    assert {*whole[:4]} == {"u0", "u1", "u2", "u3"}
    joined, token = list[str](), ""
    while True:
        answer = await page(served, page_size=2, page_token=token)
        assert len(answer.usage) <= 2
        joined += [each.id for each in answer.usage]
        if not (token := answer.next_page_token):
            break
    assert joined == whole


async def test_what_the_log_holds_no_more_is_shown_without_names(served: Served) -> None:
    await served.quota.tell(usage("ada"), "a")
    served.quota.records.clear()
    (shown,) = (await page(served)).usage
    assert (shown.source, shown.id, shown.tool) == ("", "", "")
    assert shown.cost_micro_usd > 0


@pytest.mark.parametrize("consent_id", ["", "consent-1"])
@pytest.mark.parametrize("viewer", [None, "boss", "nobody"])
async def test_a_trail_is_for_the_subject_alone(served: Served, viewer: str | None, consent_id: str) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await page(served, viewer, consent_id=consent_id)
    assert caught.value.code() is grpc.StatusCode.PERMISSION_DENIED


@pytest.mark.parametrize(
    ("fields", "wrong"),
    [
        ({"subject": ""}, {"subject"}),
        ({"subject": "jane@example.com"}, {"subject"}),
        ({"consent_id": "a b"}, {"consent_id"}),
        ({"page_size": -1}, {"page_size"}),
        ({"page_token": "1"}, {"page_token"}),
        ({"page_token": f"99999999999999999.{'a' * 32}"}, {"page_token"}),
        ({"page_token": f"1.{'g' * 32}"}, {"page_token"}),
        ({"since": Timestamp(seconds=10**15)}, {"since"}),
        ({"before": Timestamp(seconds=0)}, {"before"}),
        ({"since": at(NOW), "before": at(NOW)}, {"since"}),
        ({"subject": "", "since": Timestamp(nanos=-1), "page_size": -1}, {"subject", "since", "page_size"}),
    ],
)
async def test_a_wrong_question_names_its_fields(
    served: Served, fields: dict[str, Any], wrong: set[str]
) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await page(served, **fields)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert violated_fields(caught.value) == wrong
