"""A request with more wrong in it than an answer holds is refused as any other, with what fits told."""

from datetime import UTC, datetime
from typing import Any, Final

import grpc
import pytest
from google.protobuf.struct_pb2 import Struct
from google.protobuf.timestamp_pb2 import Timestamp
from grpc_status import rpc_status

from tests.integration.quota.company import hold_company
from tests.integration.quota.serving import Served, check_request
from tests.support.request_fields import violations
from tokenomics.quota.v1 import quota_pb2 as pb
from tokenomics_chassis.rpc.structs import to_struct

WRONG: Final = [f"wrong_{number}" for number in range(1_000)]
LONG: Final = [name + "x" * 600 for name in WRONG]
STATUS_BYTES: Final = 6_000
"""In base64 it fits into the 8 KiB of metadata that gRPC takes without fail."""


def at(day: int) -> Timestamp:
    return Timestamp(seconds=int(datetime(2150, 5, day, tzinfo=UTC).timestamp()))


def proposing(document: Struct) -> pb.ProposePolicyRequest:
    return pb.ProposePolicyRequest(
        proposal_id="p", kind="quota", replaces=1, effective_from=at(1), document=document
    )


def simulating(document: Struct) -> pb.StartSimulationRequest:
    return pb.StartSimulationRequest(
        simulation_id="s", documents={"quota": document}, since=at(1), before=at(2)
    )


def beside(document: Struct) -> pb.TestPolicyRequest:
    return pb.TestPolicyRequest(kind="use_cases", document=Struct(), beside={"quota": document})


def nested(depth: int) -> Struct:
    """Return a document that says nothing but objects in objects."""
    inner = Struct()
    for _ in range(depth):
        outer = Struct()
        outer.fields["in"].struct_value.CopyFrom(inner)
        inner = outer
    return inner


ASKED: Final = [
    ("ProposePolicy", proposing),
    ("StartSimulation", simulating),
    ("TestPolicy", beside),
]


async def refusal(service: Served, method: str, request: Any) -> Any:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await getattr(service.stub, method)(request, metadata=service.metadata())
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT, caught.value.details()
    status: Any = rpc_status.from_call(caught.value)  # type: ignore[arg-type] # an AioRpcError is a call, too
    assert status.ByteSize() <= STATUS_BYTES
    return status


@pytest.mark.parametrize(("method", "asking"), ASKED)
async def test_a_document_with_a_thousand_wrong_fields_is_refused_with_as_many_named_as_fit(
    service: Served, method: str, asking: Any
) -> None:
    await hold_company(service)
    for names in (WRONG, LONG):
        document = to_struct({"time_zone": "UTC"} | dict.fromkeys(names, 1))
        told = violations((await refusal(service, method, asking(document))).details)
        assert told.pop("*") == f"{1_000 - len(told)} more are wrong"
        assert told


@pytest.mark.parametrize(("method", "asking"), ASKED)
async def test_a_document_nested_as_deep_as_a_message_may_be_is_refused(
    service: Served, method: str, asking: Any
) -> None:
    await hold_company(service)
    await refusal(service, method, asking(nested(30)))


async def test_a_test_of_a_document_tells_a_thousand_of_its_problems_and_how_many_more_there_are(
    service: Served,
) -> None:
    await hold_company(service)
    document = to_struct({"time_zone": "UTC", "allowances": [{}] * 20_000})
    request = pb.TestPolicyRequest(kind="quota", document=document)
    answer = await service.stub.TestPolicy(request, metadata=service.metadata())
    *told, rest = answer.problems
    assert not answer.ok
    assert len(told) == 1_000
    assert (rest.path, rest.message) == ("*", "39000 more are wrong")


async def test_a_batch_in_which_much_is_wrong_with_each_check_is_answered(service: Served) -> None:
    await hold_company(service)
    token = pb.FreshnessToken(next_offsets={f"wrong/{number}": -1 for number in range(60)})
    checks = [check_request("ada", at_least_as_fresh=token)] * 1_000
    request = pb.BatchCheckQuotaRequest(checks=checks)
    results = (await service.stub.BatchCheckQuota(request, metadata=service.metadata())).results
    assert {each.failure.code for each in results} == {grpc.StatusCode.INVALID_ARGUMENT.value[0]}
    for each in results:
        told = violations(each.failure.details)
        assert told.pop("*") == f"{60 - len(told)} more are wrong"
        assert told


@pytest.mark.parametrize("method", ["BatchCheckQuota", "TestPolicy", "ProposePolicy", "StartSimulation"])
async def test_what_is_nested_deeper_than_a_message_may_be_is_no_message(
    service: Served, method: str
) -> None:
    inner = b""
    for _ in range(500):  # groups of an unknown field, which a reader has to look through
        inner = b"\x9b\x06" + inner + b"\x9c\x06"
    call: Any = service.channel.unary_unary(f"/tokenomics.quota.v1.QuotaService/{method}")
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call(inner, metadata=service.metadata())
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
