"""How fresh an answer is: as the caller asks, or not given; and what a stale view still lets through."""

import asyncio
from collections.abc import Awaitable
from datetime import timedelta
from typing import Any

import grpc
import pytest
from google.rpc.error_details_pb2 import ErrorInfo, RetryInfo
from grpc_status import rpc_status

from tests.integration.quota.serving import Served, check_request, company, refused, violated_fields
from tests.support.quota_events import NOW, quota_policy, usage
from tokenomics.quota.v1 import quota_pb2 as pb
from tokenomics_quota.usecases import freshening
from tokenomics_quota.usecases.freshening import SILENCE_SECONDS

USAGE = "tokenomics.usage.v1/0"


def fresh(offset: int, partition: str = USAGE) -> pb.FreshnessToken:
    return pb.FreshnessToken(next_offsets={partition: offset})


def asking(service: Served, seconds: float = 5, **fields: Any) -> Awaitable[pb.CheckQuotaResponse]:
    return service.stub.CheckQuota(check_request(**fields), metadata=service.metadata(), timeout=seconds)


async def refusal(answering: Awaitable[object]) -> tuple[grpc.StatusCode, str, bool]:
    """Return code, reason and whether there is a RetryInfo."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await answering
    status = rpc_status.from_call(caught.value)  # type: ignore[arg-type] # an AioRpcError is a call, too
    assert status is not None
    info = ErrorInfo()
    assert status.details[0].Unpack(info)
    return caught.value.code(), info.reason, any(each.Is(RetryInfo.DESCRIPTOR) for each in status.details)


UNAVAILABLE = grpc.StatusCode.UNAVAILABLE


async def waits(service: Served) -> None:
    async with asyncio.timeout(3):
        while not service.freshening._waiting:  # noqa: ASYNC110 - a call that waits tells nobody
            await asyncio.sleep(0.01)


async def test_a_call_waits_for_its_own_write_and_for_nothing_else(service: Served) -> None:
    await company(service.quota)
    await service.refresh()
    answering = asyncio.ensure_future(asking(service, at_least_as_fresh=fresh(2)))
    await waits(service)
    assert (await asking(service)).accounts[0].posted_micro_usd == 150
    await service.quota.tell(usage("ada", input_tokens=7, output_tokens=0), "b")
    assert not answering.done()
    await service.refresh()
    answer = await answering
    assert answer.accounts[0].posted_micro_usd == 157
    assert answer.freshness.token.next_offsets[USAGE] == 2
    assert (await asking(service, at_least_as_fresh=fresh(2))).accounts[0].posted_micro_usd == 157


async def test_what_is_never_reached_is_told_before_the_calls_time_is_over(service: Served) -> None:
    await company(service.quota)
    await service.refresh()
    code, reason, retry = await refusal(asking(service, 0.5, at_least_as_fresh=fresh(99)))
    assert (code, reason, retry) == (UNAVAILABLE, "NOT_FRESH_YET", True)
    without_deadline = service.stub.CheckQuota(
        check_request(at_least_as_fresh=fresh(99)), metadata=service.metadata()
    )
    assert (await refusal(without_deadline))[1] == "NOT_FRESH_YET"
    assert not service.freshening._waiting


@pytest.mark.parametrize(
    ("partition", "offset"),
    [
        ("tokenomics.usage.v1/99", 1),
        ("tokenomics.usage.v1/00", 1),
        ("tokenomics.usage.v1", 1),
        ("tokenomics.unknown.v1/0", 1),
        ("", 1),
        (USAGE, -1),
    ],
)
async def test_a_token_that_none_of_our_answers_could_have_is_refused_by_its_entry(
    service: Served, partition: str, offset: int
) -> None:
    await service.refresh()
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await asking(service, at_least_as_fresh=fresh(offset, partition))
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert violated_fields(caught.value) == {f"at_least_as_fresh.next_offsets[{partition}]"}


@pytest.mark.parametrize("field", ["fully_consistent", "minimize_latency"])
async def test_a_choice_that_is_set_and_false_is_no_choice(service: Served, field: str) -> None:
    await service.refresh()
    assert await refused(asking(service, **{field: False})) is grpc.StatusCode.INVALID_ARGUMENT


async def test_only_so_many_calls_wait_at_a_time(service: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(freshening, "MOST_WAITING", 1)
    await service.refresh()
    first = asyncio.ensure_future(asking(service, 1, at_least_as_fresh=fresh(99)))
    await waits(service)
    code, reason, retry = await refusal(asking(service, at_least_as_fresh=fresh(99)))
    assert (code, reason, retry) == (UNAVAILABLE, "TOO_MANY_WAITING", True)
    assert (await refusal(first))[1] == "NOT_FRESH_YET"


async def test_who_waits_when_the_server_stops_is_sent_to_another(service: Served) -> None:
    await service.refresh()
    stopping = asyncio.Event()
    running = asyncio.create_task(service.freshening.run(stopping))
    answering = asyncio.ensure_future(asking(service, at_least_as_fresh=fresh(99)))
    await waits(service)
    stopping.set()
    await running
    assert (await refusal(answering))[1] == "STOPPING"
    assert (await refusal(asking(service, at_least_as_fresh=fresh(99))))[1] == "STOPPING"


async def test_a_fully_consistent_answer_rests_on_a_refresh_that_began_after_the_call(
    service: Served,
) -> None:
    await company(service.quota)
    await service.refresh()
    await service.ends.next()
    service.ends.offsets = {USAGE: 1}
    answering = asyncio.ensure_future(asking(service, fully_consistent=True))
    await waits(service)
    async with service.quota.pool.acquire() as connection:  # committed, and nothing on the log tells of it
        await connection.execute(
            "UPDATE posted SET posted_micro_usd = 175, change_seq = change_seq + 1"
            " WHERE account_id LIKE 'subject/ada/%'"
        )
        await connection.execute("UPDATE position SET change_seq = change_seq + 1 WHERE topic LIKE '%usage%'")
    service.freshening.view_moved()
    assert not answering.done()
    await service.refresh()
    assert (await answering).accounts[0].posted_micro_usd == 175


async def test_a_fully_consistent_answer_has_all_that_was_in_the_log(service: Served) -> None:
    await company(service.quota)
    await service.refresh()
    await service.ends.next()
    service.ends.offsets = {USAGE: 2}
    answering = asyncio.ensure_future(asking(service, fully_consistent=True))
    await waits(service)
    await service.refresh()
    await asyncio.sleep(0.05)
    assert not answering.done()
    await service.quota.tell(usage("ada", input_tokens=7, output_tokens=0), "b")
    await service.refresh()
    assert (await answering).accounts[0].posted_micro_usd == 157


async def test_a_dependency_known_to_be_away_for_longer_than_the_call_may_take_is_told_at_once(
    service: Served,
) -> None:
    await service.refresh()
    code, reason, retry = await refusal(asking(service, fully_consistent=True))
    assert (code, reason, retry) == (UNAVAILABLE, "DEPENDENCY_UNAVAILABLE", True)
    assert service.ends.asked == 0
    await service.ends.next()
    assert service.view.refresh_began is not None
    service.view.refresh_began -= 5 + SILENCE_SECONDS
    assert (await refusal(asking(service, fully_consistent=True)))[1] == "DEPENDENCY_UNAVAILABLE"


async def degrading(service: Served, **degrade: Any) -> None:
    await service.quota.tell(quota_policy(2, degrade=degrade), "degrade")
    await service.refresh()


async def test_a_stale_view_lets_calls_go_on_up_to_the_cap_of_each_account_and_says_so(
    service: Served,
) -> None:
    await company(service.quota)
    await degrading(service, stale_after_seconds=3, cap_micro_usd=100)
    service.level()
    assert not (await asking(service, estimated_input_tokens=60)).HasField("degradation")
    service.clock.time = NOW + timedelta(seconds=3)
    assert not (await asking(service, estimated_input_tokens=60)).freshness.stale
    service.clock.time = NOW + timedelta(seconds=4)
    answer = await asking(service, subject="ada", estimated_input_tokens=60)
    assert answer.freshness.stale
    assert answer.freshness.lag.ToMilliseconds() == 4_000
    assert answer.degradation == pb.Degradation(cap_micro_usd=100, remaining_micro_usd=40)
    over = await refusal(asking(service, subject="ada", estimated_input_tokens=41))
    assert over == (UNAVAILABLE, "STALE_CAP_REACHED", True)
    last = await asking(service, subject="ada", estimated_input_tokens=40)
    assert last.degradation.remaining_micro_usd == 0
    other = await asking(service, subject="eve", estimated_input_tokens=100)
    assert other.degradation.remaining_micro_usd == 0
    service.level()
    assert not (await asking(service, subject="ada", estimated_input_tokens=60)).HasField("degradation")
    service.clock.time += timedelta(seconds=4)
    again = await asking(service, subject="ada", estimated_input_tokens=60)
    assert again.degradation.remaining_micro_usd == 40


async def test_a_call_held_back_by_its_band_uses_up_nothing_and_its_record_tells_of_the_stale_view(
    service: Served,
) -> None:
    await company(service.quota)
    await service.quota.tell(
        quota_policy(
            2, allowances=[{"role": "engineer", "limit_micro_usd": 100}], degrade={"cap_micro_usd": 10}
        ),
        "limit",
    )
    await service.refresh()
    answer = await asking(service, estimated_input_tokens=60)
    assert answer.decision == pb.DECISION_APPROVAL_REQUIRED
    assert answer.degradation.remaining_micro_usd == 10
    (kept,) = service.decisions.kept
    assert kept.stale


async def test_a_policy_that_closes_lets_nothing_through_while_the_view_is_stale(service: Served) -> None:
    await company(service.quota)
    await degrading(service, mode="closed")
    assert await refusal(asking(service)) == (UNAVAILABLE, "VIEW_STALE", True)
    balance = await service.stub.GetBalance(pb.GetBalanceRequest(subject="ada"), metadata=service.metadata())
    assert balance.freshness.stale
    service.level()
    assert (await asking(service)).decision == pb.DECISION_ALLOW
