"""Leases through the gRPC service and the client's own decider, on a real database."""

from datetime import timedelta
from typing import Any

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration

from tests.integration.quota.company import ADA, NOW, RED, hold_company, refused, stand_at
from tests.integration.quota.serving import Served, check_request, violated_fields
from tests.support.quota_events import price_book
from tokenomics.quota.v1 import quota_pb2 as pb
from tokenomics_client import Lease, Refusal


@pytest.fixture
async def holds(service: Served) -> Served:
    return await hold_company(service)


class Clock:
    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self) -> float:
        return self.seconds


def seconds(count: float) -> Duration:
    duration = Duration()
    duration.FromTimedelta(timedelta(seconds=count))
    return duration


def acquiring(lease_id: str = "l", amount: int = 600, **fields: Any) -> pb.AcquireLeaseRequest:
    call = check_request(fields.pop("subject", "ada"), estimated_input_tokens=10, **fields.pop("call", {}))
    times = {"draw_for": seconds(60), "longest_call": seconds(30), **fields}
    return pb.AcquireLeaseRequest(lease_id=lease_id, typical_call=call, amount_micro_usd=amount, **times)


async def acquire(service: Served, lease_id: str = "l", amount: int = 600, **fields: Any) -> Any:
    request = acquiring(lease_id, amount, **fields)
    return await service.stub.AcquireLease(request, metadata=service.metadata())


async def renew(service: Served, request: pb.RenewLeaseRequest) -> Any:
    return await service.stub.RenewLease(request, metadata=service.metadata())


async def give_back(service: Served, request: pb.ReturnLeaseRequest) -> Any:
    return await service.stub.ReturnLease(request, metadata=service.metadata())


async def pending(service: Served) -> int:
    await service.refresh()
    request = pb.GetBalanceRequest(account_id=RED)
    balance = await service.stub.GetBalance(request, metadata=service.metadata())
    return int(balance.accounts[0].pending_micro_usd)


async def test_a_client_draws_what_the_service_holds_and_gives_the_rest_back(holds: Served) -> None:
    answer = await acquire(holds)
    assert answer.check.decision == pb.DECISION_ALLOW
    assert answer.lease.hold.account_ids == [ADA, RED, "cost_centre/cc/all/2150-05"]
    assert answer.lease.draw_for.ToTimedelta() == timedelta(seconds=60)
    assert await pending(holds) == 600
    lease = Lease(answer.lease, asked_at=0, clock=Clock())
    drawn = [lease.draw(input_tokens=100, output_tokens=0) for _ in range(7)]
    assert [each.cost_micro_usd for each in drawn] == [100] * 7
    assert drawn[-1].refusal is Refusal.EXHAUSTED
    lease.settle(drawn[0], 40)
    returned = await give_back(holds, lease.end())
    assert returned.lease.hold.amount_micro_usd == 540
    assert await pending(holds) == 540, "what was drawn, until usage tells of it"


async def test_a_lease_that_does_not_fit_under_a_hard_limit_is_refused(holds: Served) -> None:
    await acquire(holds, amount=600)
    error = await refused(holds.stub.AcquireLease(acquiring("m", 401), metadata=holds.metadata()))
    assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    await acquire(holds, "m", amount=400)


async def test_a_renewal_adds_and_asks_the_limit_again(holds: Served) -> None:
    answer, clock = await acquire(holds, amount=600), Clock()
    lease = Lease(answer.lease, asked_at=0, clock=clock)
    assert lease.draw(input_tokens=500, output_tokens=0)
    request = lease.renewal_request(400)
    request.draw_for.CopyFrom(seconds(120))
    await stand_at(holds.quota, NOW + timedelta(seconds=50))
    renewed = await renew(holds, request)
    assert (await renew(holds, request)).lease == renewed.lease, "the same renewal again"
    clock.seconds = 70
    lease.renewed(renewed.lease, asked_at=50)
    assert lease.draw(input_tokens=500, output_tokens=0)
    more = lease.renewal_request(1)
    error = await refused(holds.stub.RenewLease(more, metadata=holds.metadata()))
    assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert await pending(holds) == 1_000


async def test_who_asks_again_has_only_the_time_that_is_left(holds: Served) -> None:
    first = await acquire(holds)
    await stand_at(holds.quota, NOW + timedelta(seconds=45))
    again = await acquire(holds)
    assert again.lease.hold == first.lease.hold
    assert again.check == first.check
    assert again.lease.draw_for.ToTimedelta() == timedelta(seconds=15)
    await stand_at(holds.quota, NOW + timedelta(seconds=61))
    assert (await acquire(holds)).lease.draw_for.ToTimedelta() == timedelta()
    error = await refused(holds.stub.AcquireLease(acquiring("l", 601), metadata=holds.metadata()))
    assert error.code() is grpc.StatusCode.ALREADY_EXISTS


async def test_a_lease_whose_client_died_comes_back_by_itself(holds: Served) -> None:
    answer = await acquire(holds)
    end = answer.lease.hold.expires_at.ToDatetime(tzinfo=NOW.tzinfo)
    assert end == NOW + timedelta(seconds=90)
    await stand_at(holds.quota, end - timedelta(microseconds=1))
    holds.clock.time = end - timedelta(microseconds=1)
    assert await pending(holds) == 600
    holds.clock.time = end
    await stand_at(holds.quota, end)
    await acquire(holds, "m", amount=1_000)


async def test_drawing_stops_before_a_price_book_that_is_to_come(holds: Served) -> None:
    dearer = price_book(2, since=NOW + timedelta(seconds=20), rate=2_000_000)
    await holds.quota.tell(dearer, "dearer")
    await holds.refresh()
    answer = await acquire(holds)
    assert answer.lease.draw_for.ToTimedelta() == timedelta(seconds=20)


@pytest.mark.parametrize(
    ("request_", "field"),
    [
        (acquiring(""), "lease_id"),
        (acquiring(amount=0), "amount_micro_usd"),
        (acquiring(amount=10**12 + 1), "amount_micro_usd"),
        (acquiring(draw_for=seconds(0.5)), "draw_for"),
        (acquiring(draw_for=seconds(3_601)), "draw_for"),
        (acquiring(longest_call=seconds(-1)), "longest_call"),
        (acquiring(longest_call=seconds(86_400)), "longest_call"),
        (acquiring(subject="no one"), "typical_call.subject"),
    ],
)
async def test_a_lease_that_can_not_be_meant_is_refused_by_its_field(
    holds: Served, request_: pb.AcquireLeaseRequest, field: str
) -> None:
    error = await refused(holds.stub.AcquireLease(request_, metadata=holds.metadata()))
    assert violated_fields(error) == {field}


@pytest.mark.parametrize(
    ("wrong", "field"),
    [
        ({"lease_id": "@"}, "lease_id"),
        ({"renewal": 0}, "renewal"),
        ({"drawn_micro_usd": -1}, "drawn_micro_usd"),
        ({"amount_micro_usd": -1}, "amount_micro_usd"),
        ({"draw_for": seconds(0)}, "draw_for"),
    ],
)
async def test_a_renewal_that_can_not_be_meant_is_refused_by_its_field(
    holds: Served, wrong: dict[str, Any], field: str
) -> None:
    request = pb.RenewLeaseRequest(**{"lease_id": "l", "renewal": 1, **wrong})
    error = await refused(holds.stub.RenewLease(request, metadata=holds.metadata()))
    assert violated_fields(error) == {field}


@pytest.mark.parametrize("wrong", [{"lease_id": ""}, {"drawn_micro_usd": -1}])
async def test_a_return_that_can_not_be_meant_is_refused_by_its_field(
    holds: Served, wrong: dict[str, Any]
) -> None:
    request = pb.ReturnLeaseRequest(**{"lease_id": "l", **wrong})
    error = await refused(holds.stub.ReturnLease(request, metadata=holds.metadata()))
    assert violated_fields(error) == wrong.keys()


@pytest.mark.parametrize(
    ("lease_id", "code"),
    [("h", grpc.StatusCode.FAILED_PRECONDITION), ("unknown", grpc.StatusCode.NOT_FOUND)],
)
async def test_what_is_no_lease_is_neither_renewed_nor_returned(
    holds: Served, lease_id: str, code: grpc.StatusCode
) -> None:
    place = pb.PlaceHoldRequest(hold_id="h", call=check_request("ada", estimated_input_tokens=5))
    await holds.stub.PlaceHold(place, metadata=holds.metadata())
    renewal = await refused(renew(holds, pb.RenewLeaseRequest(lease_id=lease_id, renewal=1)))
    assert renewal.code() is code
    returned = await refused(give_back(holds, pb.ReturnLeaseRequest(lease_id=lease_id)))
    assert returned.code() is code


async def test_a_renewed_lease_is_listed_once_and_hides_no_other_hold_of_its_account(holds: Served) -> None:
    answer = await acquire(holds, amount=100)
    lease = Lease(answer.lease, asked_at=0, clock=Clock())
    for number in range(4):
        request = pb.PlaceHoldRequest(hold_id=f"h{number}", call=check_request("ada"), amount_micro_usd=10)
        await holds.stub.PlaceHold(request, metadata=holds.metadata())
        if number == 1:
            await renew(holds, lease.renewal_request(10))
    pages, token = list[list[str]](), ""
    while not pages or token:
        page = await holds.stub.ListHolds(
            pb.ListHoldsRequest(account_id=RED, page_size=2, page_token=token), metadata=holds.metadata()
        )
        pages.append([hold.hold_id for hold in page.holds])
        token = page.next_page_token
    assert pages == [["h3", "h2"], ["h1", "h0"], ["l"]]
