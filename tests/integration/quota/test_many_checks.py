"""Many checks in one call or on one stream: each on its own, and none holds up the others."""

import asyncio

import grpc
import pytest
from google.rpc.error_details_pb2 import BadRequest

from tests.integration.quota.serving import Served, check_request, company, refused
from tests.integration.quota.test_freshness import USAGE, fresh, waits
from tests.support.quota_events import usage
from tokenomics.quota.v1 import quota_pb2 as pb
from tokenomics_chassis.rpc import streams
from tokenomics_contracts.units import AccountId, MicroUsd


async def batch(service: Served, *checks: pb.CheckQuotaRequest, seconds: float = 5) -> list[pb.CheckResult]:
    answer = await service.stub.BatchCheckQuota(
        pb.BatchCheckQuotaRequest(checks=checks), metadata=service.metadata(), timeout=seconds
    )
    return list(answer.results)


async def test_a_batch_answers_each_check_as_if_it_were_alone_and_in_order(service: Served) -> None:
    await company(service.quota)
    await service.refresh()
    service.level()
    checks = [
        check_request("eve"),
        check_request("ada", estimated_input_tokens=10),
        check_request("who"),
    ] * 50
    results = await batch(service, *checks)
    alone = [await service.stub.CheckQuota(check, metadata=service.metadata()) for check in checks[:3]]
    answers = [result.answer for result in results]
    for answer in (*answers, *alone):
        answer.ClearField("decision_id")
    assert answers == alone * 50
    assert len(service.decisions.kept) == 51
    assert await batch(service) == []


async def test_a_check_that_fails_fails_no_other_of_its_batch(service: Served) -> None:
    await company(service.quota)
    await service.refresh()
    service.level()
    results = await batch(
        service,
        check_request("ada"),
        check_request("a@b", provider=""),
        check_request("ada", at_least_as_fresh=fresh(1, "nonsense")),
        check_request("ada", at_least_as_fresh=fresh(99)),
        check_request("ada", at_least_as_fresh=fresh(1)),
        seconds=0.5,
    )
    failures = [result.failure.reason for result in results]
    assert failures == ["", "INVALID_REQUEST", "INVALID_REQUEST", "NOT_FRESH_YET", ""]
    assert results[1].failure.code == grpc.StatusCode.INVALID_ARGUMENT.value[0]
    named = BadRequest()
    assert results[1].failure.details[0].Unpack(named)
    assert {violation.field for violation in named.field_violations} == {"subject", "provider"}


async def test_a_batch_that_asks_for_a_person_gives_nothing_about_another(service: Served) -> None:
    await company(service.quota)
    await service.refresh()
    service.level()
    request = pb.BatchCheckQuotaRequest(checks=[check_request("ada"), check_request("eve")])
    answer = await service.stub.BatchCheckQuota(request, metadata=service.metadata("eve"))
    assert answer.results[0].failure.reason == "NOT_PERMITTED"
    assert answer.results[1].answer.decision == pb.DECISION_ALLOW


async def test_more_than_a_thousand_checks_are_no_batch(service: Served) -> None:
    await service.refresh()
    service.level()
    most = [check_request("ada")] * 1_000
    assert len(await batch(service, *most)) == 1_000
    assert await refused(batch(service, *most, check_request("ada"))) is grpc.StatusCode.INVALID_ARGUMENT


async def test_a_batch_answers_from_one_state_of_the_view(service: Served) -> None:
    await company(service.quota)
    await service.refresh()
    service.level()
    view = service.view

    def move() -> None:
        view.put_totals({AccountId("subject/ada/operational/2026-11"): MicroUsd(151)})
        view.next_offsets = view.next_offsets | {USAGE: 2}

    service.decisions.on_add = move
    answers = [result.answer for result in await batch(service, *[check_request("ada")] * 10)]
    assert len(service.decisions.kept) == 10
    assert {answer.accounts[0].posted_micro_usd for answer in answers} == {150}
    assert {answer.freshness.token.next_offsets[USAGE] for answer in answers} == {1}


async def test_others_have_their_turn_while_a_batch_is_decided(service: Served) -> None:
    await company(service.quota)
    await service.refresh()
    service.level()
    turns, seen = 0, set[int]()

    async def take_turns() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    service.decisions.on_add = lambda: seen.add(turns)
    other = asyncio.create_task(take_turns())
    assert len(await batch(service, *[check_request("ada")] * 1_000)) == 1_000
    other.cancel()
    assert len(service.decisions.kept) == 1_000
    assert len(seen) >= 1_000 // 25


class Stream:
    """A stream of checks, asked and answered one by one."""

    def __init__(self, service: Served, *, seconds: float | None = None) -> None:
        self._call = service.stub.StreamCheckQuota(metadata=service.metadata(), timeout=seconds)

    async def ask(self, sequence: int, check: pb.CheckQuotaRequest) -> None:
        await self._call.write(pb.StreamCheckQuotaRequest(sequence=sequence, check=check))

    async def answer(self) -> pb.StreamCheckQuotaResponse:
        async with asyncio.timeout(5):
            answer = await self._call.read()
        assert answer is not grpc.aio.EOF
        assert isinstance(answer, pb.StreamCheckQuotaResponse)
        return answer

    async def end(self) -> None:
        await self._call.done_writing()

    async def is_over(self) -> bool:
        return await self._call.read() is grpc.aio.EOF

    async def code(self) -> grpc.StatusCode:
        return await self._call.code()


async def test_a_stream_answers_what_it_is_asked_and_ends_when_the_caller_does(service: Served) -> None:
    await company(service.quota)
    await service.refresh()
    service.level()
    stream = Stream(service)
    for sequence, subject in ((7, "ada"), (3, "not@all"), (7, "eve")):
        await stream.ask(sequence, check_request(subject))
        answer = await stream.answer()
        assert answer.sequence == sequence
        assert answer.result.WhichOneof("result") == ("failure" if "@" in subject else "answer")
    await stream.end()
    assert await stream.is_over()
    assert await stream.code() is grpc.StatusCode.OK


async def test_a_check_that_waits_is_overtaken_on_its_stream(service: Served) -> None:
    await company(service.quota)
    await service.refresh()
    service.level()
    stream = Stream(service)
    await stream.ask(1, check_request("ada", at_least_as_fresh=fresh(2)))
    await stream.ask(2, check_request("ada"))
    assert (await stream.answer()).sequence == 2
    await service.quota.tell(usage("ada", input_tokens=7, output_tokens=0), "b")
    await service.refresh()
    last = await stream.answer()
    assert (last.sequence, last.result.answer.accounts[0].posted_micro_usd) == (1, 157)


async def test_a_stream_whose_checks_wait_is_read_no_further_than_its_bound(
    service: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streams, "MOST_WAITING", 2)
    await company(service.quota)
    await service.refresh()
    service.level()
    stream = Stream(service)
    for sequence in range(5):
        await stream.ask(sequence, check_request("ada", at_least_as_fresh=fresh(2)))
    await waits(service)
    await asyncio.sleep(0.1)
    assert len(service.freshening._waiting) == 2
    await service.quota.tell(usage("ada"), "b")
    await service.refresh()
    assert {(await stream.answer()).sequence for _ in range(5)} == set(range(5))


async def test_a_stream_outlives_a_wait_that_failed(service: Served) -> None:
    await service.refresh()
    service.level()
    stream = Stream(service)
    await stream.ask(1, check_request("ada", at_least_as_fresh=fresh(99)))
    assert (await stream.answer()).result.failure.reason == "NOT_FRESH_YET"
    await stream.ask(2, check_request("ada"))
    assert (await stream.answer()).result.HasField("answer")


async def test_a_server_that_stops_answers_what_it_has_read_and_ends_the_stream(service: Served) -> None:
    await company(service.quota)
    await service.refresh()
    service.level()
    idle, busy = Stream(service), Stream(service)
    await idle.ask(1, check_request("ada"))
    assert (await idle.answer()).sequence == 1
    await busy.ask(1, check_request("ada", at_least_as_fresh=fresh(2)))
    await waits(service)
    service.draining.set()
    assert await idle.code() is grpc.StatusCode.UNAVAILABLE
    await service.quota.tell(usage("ada"), "b")
    await service.refresh()
    assert (await busy.answer()).result.HasField("answer")
    assert await busy.code() is grpc.StatusCode.UNAVAILABLE
    late = Stream(service)
    assert await late.code() is grpc.StatusCode.UNAVAILABLE


async def test_a_stream_needs_the_same_identity_as_a_call(service: Served) -> None:
    call = service.stub.StreamCheckQuota(metadata=())
    assert await call.code() is grpc.StatusCode.UNAUTHENTICATED


async def test_a_stream_is_cut_at_its_deadline_and_nothing_of_it_is_left_waiting(service: Served) -> None:
    await service.refresh()
    service.level()
    stream = Stream(service, seconds=0.5)
    await stream.ask(1, check_request("ada", at_least_as_fresh=fresh(99)))
    assert (await stream.answer()).result.failure.reason == "NOT_FRESH_YET"
    assert await stream.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    assert not service.freshening._waiting


async def test_who_cancels_a_stream_leaves_nothing_waiting(service: Served) -> None:
    await service.refresh()
    service.level()
    stream = Stream(service)
    await stream.ask(1, check_request("ada", at_least_as_fresh=fresh(99)))
    await waits(service)
    stream._call.cancel()
    async with asyncio.timeout(3):
        while service.freshening._waiting:  # noqa: ASYNC110 - the call's end tells nobody
            await asyncio.sleep(0.01)
