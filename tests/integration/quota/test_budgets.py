"""Budgets are for who owns them: where they stand, where they will end, and each change as it happens."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta

import grpc
import pytest

from tests.integration.quota.serving import Served, refused, violated_fields
from tests.support.quota_events import NOW, person, price_book, project, quota_policy, team, usage
from tokenomics.quota.v1 import quota_pb2 as pb
from tokenomics_quota.rpc import budgets
from tokenomics_quota.storage.history import KEPT_FOR

DAY = timedelta(days=1)
TEAM = pb.ACCOUNT_KIND_TEAM
LIMIT = {"kind": "team", "owner_id": "red", "limit_micro_usd": 5_000}


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(budgets, "_WATCH_SECONDS", 0.01)


async def company(service: Served) -> None:
    quota = service.quota
    await quota.tell(price_book(), "book")
    await quota.tell(quota_policy(budgets=[LIMIT]), "policy")
    await quota.tell(team("red", owner_id="boss"), "t")
    await quota.tell(team("blue"), "t2")
    await quota.tell(person("ada", manager_id="boss"), "ada")
    await quota.tell(person("boss", team_id="blue"), "boss")
    await quota.tell(person("gov", team_id="blue", privileges=["governance"]), "gov")
    for age in range(1, 31):
        await quota.tell(usage("ada"), f"u{age}", time=NOW - age * DAY)
    await quota.tell(usage("ada", input_tokens=0, purpose="experiment"), "now")
    await service.refresh()


async def budget(service: Served, person_id: str | None = None, /, **fields: object) -> pb.Budget:
    request = pb.GetBudgetRequest(**({"kind": TEAM, "owner_id": "red"} | fields))  # type: ignore[arg-type] # the fields of the request
    answer = await service.stub.GetBudget(request, metadata=service.metadata(person_id))
    return answer.budget


async def test_a_budget_tells_where_it_stands_and_where_it_will_end(service: Served) -> None:
    await company(service)
    answer = await budget(service, "boss")
    assert answer.account.account_id == "team/red/all/2026-11"
    assert answer.account.limit_micro_usd == 5_000
    assert answer.account.posted_micro_usd == 19 * 100 + 40
    assert answer.experiment_posted_micro_usd == 40
    assert answer.owner_person_ids == ["boss"]
    assert answer.forecast_method == "weekday_medians"
    # A day costs 100; half of today and ten days are left.
    assert answer.forecast_micro_usd == 1_940 + 1_050
    assert answer.forecast_low_micro_usd < answer.forecast_micro_usd < answer.forecast_high_micro_usd


async def test_a_period_that_has_not_begun_has_no_forecast(service: Served) -> None:
    await company(service)
    answer = await budget(service, "boss", period="2026-12")
    assert (answer.account.limit_micro_usd, answer.account.posted_micro_usd) == (5_000, 0)
    assert (answer.forecast_method, answer.forecast_micro_usd) == ("", 0)


async def test_what_a_budget_keeps_back_is_beside_its_limit(service: Served) -> None:
    await company(service)
    await service.quota.tell(quota_policy(2, budgets=[{**LIMIT, "buffer_micro_usd": 1_500}]), "2")
    await service.refresh()
    answer = await budget(service, "boss")
    assert (answer.account.limit_micro_usd, answer.buffer_micro_usd) == (3_500, 1_500)


async def test_nobody_but_the_owner_governance_and_workloads_sees_a_budget(service: Served) -> None:
    await company(service)
    for person_id in ("boss", "gov", None):
        assert (await budget(service, person_id)).account.posted_micro_usd == 1_940
    for person_id in ("ada", "stranger"):
        assert await refused(budget(service, person_id)) is grpc.StatusCode.PERMISSION_DENIED
        unknown = budget(service, person_id, owner_id="nowhere")
        assert await refused(unknown) is grpc.StatusCode.PERMISSION_DENIED


async def test_what_no_limit_and_no_cost_touched_is_not_found(service: Served) -> None:
    await company(service)
    assert await refused(budget(service, owner_id="nowhere")) is grpc.StatusCode.NOT_FOUND
    assert await refused(budget(service, owner_id="blue")) is grpc.StatusCode.NOT_FOUND
    assert await refused(budget(service, kind=pb.ACCOUNT_KIND_PROJECT)) is grpc.StatusCode.NOT_FOUND
    unlimited = budget(service, owner_id="red", period="2026-09")
    assert (await unlimited).account.posted_micro_usd == 0


@pytest.mark.parametrize(
    ("fields", "wrong"),
    [
        ({"kind": pb.ACCOUNT_KIND_UNSPECIFIED}, {"kind"}),
        ({"kind": pb.ACCOUNT_KIND_SUBJECT}, {"kind"}),
        ({"kind": pb.ACCOUNT_KIND_UNATTRIBUTED}, {"kind"}),
        ({"kind": 99}, {"kind"}),
        ({"owner_id": ""}, {"owner_id"}),
        ({"owner_id": "a/b"}, {"owner_id"}),
        ({"period": "2026-13"}, {"period"}),
        ({"period": "November"}, {"period"}),
        ({"kind": 0, "owner_id": "x@y", "period": "now"}, {"kind", "owner_id", "period"}),
    ],
)
async def test_every_malformed_field_is_refused_by_name(
    service: Served, fields: dict[str, object], wrong: set[str]
) -> None:
    await service.refresh()
    with pytest.raises(grpc.aio.AioRpcError) as refusal:
        await budget(service, None, **fields)
    assert violated_fields(refusal.value) == wrong


async def test_periods_before_those_in_the_view_come_from_the_database(service: Served) -> None:
    await company(service)
    await service.quota.tell(usage("ada"), "aug", time=NOW - 61 * DAY)
    await service.quota.tell(usage("ada", purpose="experiment"), "aug2", time=NOW - 61 * DAY)
    await service.refresh()
    past = await budget(service, period="2026-09")
    assert past.account.posted_micro_usd == 200
    assert past.experiment_posted_micro_usd == 100
    # It has ended: what it came to is what is expected.
    assert (past.forecast_micro_usd, past.forecast_high_micro_usd) == (200, 200)


async def test_without_a_few_days_of_use_there_is_no_forecast(service: Served) -> None:
    await service.quota.tell(price_book(), "book")
    await service.quota.tell(project("apollo", owner_id="boss"), "p")
    await service.quota.tell(usage("ada", project="apollo"), "u")
    await service.refresh()
    answer = await budget(service, kind=pb.ACCOUNT_KIND_PROJECT, owner_id="apollo")
    assert answer.account.unlimited
    assert (answer.forecast_method, answer.forecast_micro_usd) == ("", 0)


async def test_late_usage_reaches_a_forecast_within_minutes(service: Served) -> None:
    await company(service)
    before = (await budget(service)).forecast_micro_usd
    for age in range(1, 15):
        await service.quota.tell(usage("ada"), f"late{age}", time=NOW - age * DAY)
    await service.refresh()
    at_once = (await budget(service)).forecast_micro_usd
    assert at_once == before + 14 * 100  # what is posted counts at once
    service.clock.time += KEPT_FOR + timedelta(seconds=1)
    assert (await budget(service)).forecast_micro_usd > at_once + 200


@asynccontextmanager
async def watching(service: Served, person_id: str = "boss") -> AsyncIterator[asyncio.Queue[pb.Budget]]:
    """Watch the team's budget, and refresh the view again and again."""
    told: asyncio.Queue[pb.Budget] = asyncio.Queue()

    async def watch() -> None:
        request = pb.WatchBudgetRequest(kind=TEAM, owner_id="red")
        async for answer in service.stub.WatchBudget(request, metadata=service.metadata(person_id)):
            told.put_nowait(answer.budget)

    async def refresh() -> None:
        while True:
            await service.refresh()
            await asyncio.sleep(0.01)

    tasks = [asyncio.create_task(watch()), asyncio.create_task(refresh())]
    try:
        yield told
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def test_who_watches_is_told_at_once_and_then_of_each_change_alone(service: Served) -> None:
    await company(service)
    async with watching(service) as told:
        assert (await told.get()).account.posted_micro_usd == 1_940
        await asyncio.sleep(0.2)
        assert told.empty()
        service.clock.time += timedelta(hours=1)  # moves the forecast, and nothing else
        await asyncio.sleep(0.2)
        assert told.empty()
        await service.quota.tell(usage("ada"), "more", partition=1)
        assert (await told.get()).account.posted_micro_usd == 2_040
        await service.quota.tell(quota_policy(2, budgets=[{**LIMIT, "limit_micro_usd": 9}]), "2")
        changed = await told.get()
        assert changed.account.limit_micro_usd == 9
        assert changed.account.band == pb.BAND_APPROVE
        await service.quota.tell(team("red", owner_id="boss", since=NOW, cost_centre_id="cc"), "t3")
        service.clock.time += timedelta(days=15)
        turned = await told.get()
        assert turned.account.account_id == "team/red/all/2026-12"


async def test_the_watch_of_who_is_no_owner_any_more_ends(service: Served) -> None:
    await company(service)
    request = pb.WatchBudgetRequest(kind=TEAM, owner_id="red")
    call = service.stub.WatchBudget(request, metadata=service.metadata("boss"))
    assert isinstance(await call.read(), pb.WatchBudgetResponse)
    await service.quota.tell(team("red", owner_id="eve", since=NOW - DAY), "t3")
    await service.refresh()
    assert await refused(call.read()) is grpc.StatusCode.PERMISSION_DENIED


async def test_a_watch_ends_when_the_server_stops(service: Served) -> None:
    await company(service)
    call = service.stub.WatchBudget(
        pb.WatchBudgetRequest(kind=TEAM, owner_id="red"), metadata=service.metadata()
    )
    await call.read()
    service.draining.set()
    assert await refused(call.read()) is grpc.StatusCode.UNAVAILABLE


async def test_no_more_watch_than_a_server_may_hold(service: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    await company(service)
    monkeypatch.setattr(budgets, "MOST_WATCHING", 1)
    request = pb.WatchBudgetRequest(kind=TEAM, owner_id="red")
    first = service.stub.WatchBudget(request, metadata=service.metadata())
    await first.read()
    second = service.stub.WatchBudget(request, metadata=service.metadata())
    assert await refused(second.read()) is grpc.StatusCode.UNAVAILABLE
    first.cancel()
    async with asyncio.timeout(5):
        while await _is_refused(service, request):
            await service.refresh()


async def _is_refused(service: Served, request: pb.WatchBudgetRequest) -> bool:
    call = service.stub.WatchBudget(request, metadata=service.metadata())
    try:
        await call.read()
    except grpc.aio.AioRpcError:
        return True
    return False
