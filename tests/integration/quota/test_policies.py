"""Policies over gRPC: what is published, what would hold, what somebody proposes."""

import asyncio
from typing import Any

import grpc
import pytest
from google.protobuf.json_format import MessageToDict, ParseDict
from google.protobuf.struct_pb2 import Struct
from google.protobuf.timestamp_pb2 import Timestamp
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo
from grpc_status import rpc_status

from tests.integration.quota.serving import Served, check_request, refused
from tests.support.quota_events import (
    LONG_AGO,
    NOW,
    person,
    price_book,
    published,
    quota_policy,
    sources,
    usage,
)
from tokenomics.quota.v1 import quota_pb2 as pb

HOLDS = {
    "name": "half",
    "role": "engineer",
    "expect": "ALLOW",
    "spent": [{"account": "subject", "basis_points": 5_000}],
}
FAILS = {
    "name": "all",
    "role": "engineer",
    "expect": "ALLOW",
    "spent": [{"account": "subject", "basis_points": 10_000}],
}
QUOTA: dict[str, Any] = {
    "time_zone": "UTC",
    "allowances": [{"role": "engineer", "limit_micro_usd": 10**15}],
}


def struct(document: dict[str, Any]) -> Struct:
    return ParseDict(document, Struct())


@pytest.fixture
async def served(service: Served) -> Served:
    for event, event_id in (
        (price_book(), "book"),
        (quota_policy(1), "quota-1"),
        (quota_policy(2, allowances=QUOTA["allowances"]), "quota-2"),
        (sources(), "sources"),
        (published("baseline", 1, LONG_AGO, {"acceptable_use": "Think first."}), "baseline"),
        (person("gov", privileges=["governance"]), "gov"),
        (person("ada"), "ada"),
    ):
        await service.quota.tell(event, event_id)
    await service.refresh()
    return service


async def listing(served: Served, person_id: str | None = None, **fields: Any) -> pb.ListPoliciesResponse:
    request = pb.ListPoliciesRequest(**fields)
    return await served.stub.ListPolicies(request, metadata=served.metadata(person_id))


def names(answer: pb.ListPoliciesResponse) -> list[tuple[str, int, bool, bool]]:
    return [(each.kind, each.version, each.in_force, each.superseded) for each in answer.policies]


async def test_everybody_may_list_what_is_in_force(served: Served) -> None:
    answer = await listing(served, "ada")
    assert names(answer) == [
        ("baseline", 1, True, False),
        ("price_book", 1, True, False),
        ("quota", 2, True, False),
        ("sources", 1, True, False),
    ]
    (quota,) = (each for each in answer.policies if each.kind == "quota")
    document = MessageToDict(quota.document)
    assert document["allowances"][0]["limit_micro_usd"] == 10**15
    assert document["thresholds"]["nudge_basis_points"] == 7_000
    assert quota.replaces == 1
    assert quota.effective_from.ToDatetime(LONG_AGO.tzinfo) == LONG_AGO


async def test_superseded_versions_come_when_asked_for_and_page_by_page(served: Served) -> None:
    assert names(await listing(served, kind="quota", include_superseded=True)) == [
        ("quota", 2, True, False),
        ("quota", 1, False, True),
    ]
    found, token = list[tuple[str, int, bool, bool]](), ""
    for _ in range(5):
        page = await listing(served, include_superseded=True, page_size=1, page_token=token)
        found += names(page)
        token = page.next_page_token
    assert token == ""
    assert found == names(await listing(served, include_superseded=True))
    assert len(found) == 5


def violations(error: grpc.aio.AioRpcError) -> dict[str, str]:
    status = rpc_status.from_call(error)  # type: ignore[arg-type] # an AioRpcError is a call, too
    assert status is not None
    bad = BadRequest()
    assert any(detail.Unpack(bad) for detail in status.details)
    return {each.field: each.description for each in bad.field_violations}


def differing_fields(error: grpc.aio.AioRpcError) -> str:
    status = rpc_status.from_call(error)  # type: ignore[arg-type] # as above
    assert status is not None
    info = ErrorInfo()
    assert any(detail.Unpack(info) for detail in status.details)
    return str(info.metadata["differing_fields"])


KIND = "must be one of baseline, price_book, quota, sources, use_cases"


@pytest.mark.parametrize(
    ("method", "request_", "expected"),
    [
        (
            "ListPolicies",
            pb.ListPoliciesRequest(kind="scoring", page_size=-1, page_token="quota"),  # noqa: S106 - a place in a listing
            {"kind": KIND, "page_size": "must not be negative", "page_token": "is not of this call"},
        ),
        (
            "ListPolicies",
            pb.ListPoliciesRequest(page_token="quota:0"),  # noqa: S106 - as above
            {"page_token": "is not of this call"},
        ),
        (
            "TestPolicy",
            pb.TestPolicyRequest(kind="quota", beside={"quota": struct(QUOTA)}),
            {"beside[quota]": "must be of another kind than the document"},
        ),
        (
            "TestPolicy",
            pb.TestPolicyRequest(
                kind="quota", beside={"use_cases": struct({"unregistered": "no"}), "x": Struct()}
            ),
            {
                "beside[use_cases].unregistered": "Input should be 'allow', 'nudge' or 'deny'",
                "beside[x].kind": "should be one of quota, price_book, sources, baseline, use_cases",
            },
        ),
        (
            "ProposePolicy",
            pb.ProposePolicyRequest(proposal_id="a b", kind="scoring", replaces=-1),
            {
                "proposal_id": "must be an identifier: letters, digits and . _ : -, at most 128",
                "kind": KIND,
                "replaces": "must be the version it was written against; 0 for the first of its kind",
                "effective_from": "must be set",
                "document": "must be set",
            },
        ),
        (
            "ProposePolicy",
            pb.ProposePolicyRequest(
                proposal_id="a",
                kind="quota",
                replaces=2,
                effective_from=Timestamp(seconds=1),
                document=struct(QUOTA),
            ),
            {"effective_from": "must be a time between the years 2000 and 2199"},
        ),
        (
            "ListPolicyProposals",
            pb.ListPolicyProposalsRequest(kind="x", proposal_id="a b", page_size=-1, page_token="-1"),  # noqa: S106 - as above
            {
                "kind": KIND,
                "proposal_id": "must be an identifier: letters, digits and . _ : -, at most 128",
                "page_size": "must not be negative",
                "page_token": "is not of this call",
            },
        ),
    ],
)
async def test_every_wrong_field_is_named(
    served: Served, method: str, request_: Any, expected: dict[str, str]
) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await getattr(served.stub, method)(request_, metadata=served.metadata("gov"))
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert violations(caught.value) == expected


async def tried(
    served: Served, document: dict[str, Any], kind: str = "quota", **beside: Any
) -> pb.TestPolicyResponse:
    request = pb.TestPolicyRequest(
        kind=kind, document=struct(document), beside={name: struct(each) for name, each in beside.items()}
    )
    return await served.stub.TestPolicy(request, metadata=served.metadata("gov"))


async def test_a_test_tells_problems_by_path(served: Served) -> None:
    answer = await tried(
        served, {"time_zone": "UTC", "allowances": [{"role": "engineer", "limit_micro_usd": 0.5}]}
    )
    assert not answer.ok
    (problem,) = answer.problems
    assert problem.path == "allowances.0.limit_micro_usd"
    unknown = await tried(served, {}, kind="scoring")
    assert [each.path for each in unknown.problems] == ["kind"]


async def test_a_test_tells_which_examples_hold(served: Served) -> None:
    assert (await tried(served, QUOTA)).ok
    answer = await tried(served, QUOTA | {"examples": [HOLDS, FAILS]})
    assert not answer.ok
    assert [(each.name, each.expected, each.actual, list(each.reason_codes)) for each in answer.examples] == [
        ("half", pb.DECISION_ALLOW, pb.DECISION_ALLOW, []),
        ("all", pb.DECISION_ALLOW, pb.DECISION_APPROVAL_REQUIRED, ["subject_in_approve_band"]),
    ]
    assert (await tried(served, QUOTA | {"examples": [HOLDS]})).ok
    homeless = HOLDS | {"role": "nobody"}
    assert [each.path for each in (await tried(served, QUOTA | {"examples": [homeless]})).problems] == [
        "examples.0.spent.0.basis_points"
    ]


@pytest.mark.parametrize("method", ["TestPolicy", "ProposePolicy", "ListPolicyProposals"])
async def test_of_people_only_governance_may(served: Served, method: str) -> None:
    request = getattr(pb, f"{method}Request")()
    for somebody in ("ada", "nobody-at-all"):
        call = getattr(served.stub, method)(request, metadata=served.metadata(somebody))
        assert await refused(call) is grpc.StatusCode.PERMISSION_DENIED


def proposal(proposal_id: str = "more", **fields: Any) -> pb.ProposePolicyRequest:
    defaults: dict[str, Any] = {
        "kind": "quota",
        "replaces": 2,
        "document": struct(QUOTA),
        "effective_from": NOW,
    }
    return pb.ProposePolicyRequest(proposal_id=proposal_id, **(defaults | fields))


async def propose(served: Served, request: pb.ProposePolicyRequest, person_id: str | None = "gov") -> None:
    answer = await served.stub.ProposePolicy(request, metadata=served.metadata(person_id))
    assert answer.proposal_id == request.proposal_id


async def proposals(served: Served, **fields: Any) -> pb.ListPolicyProposalsResponse:
    request = pb.ListPolicyProposalsRequest(**fields)
    return await served.stub.ListPolicyProposals(request, metadata=served.metadata())


async def test_a_proposal_is_kept_once_and_shown_with_its_author(served: Served) -> None:
    for _ in range(2):
        await propose(served, proposal())
    await propose(
        served, proposal("book", kind="baseline", replaces=1, document=struct({"acceptable_use": "x"})), None
    )
    book, quota = (await proposals(served)).proposals
    assert (quota.proposal_id, quota.kind, quota.replaces, quota.proposed_by) == ("more", "quota", 2, "gov")
    assert MessageToDict(quota.document) == QUOTA
    assert quota.effective_from.ToDatetime(NOW.tzinfo) == NOW
    assert (book.proposal_id, book.proposed_by) == ("book", "system:serviceaccount:ai:portal")
    assert not quota.outdated


async def test_an_id_stands_for_one_proposal(served: Served) -> None:
    await propose(served, proposal())
    other = proposal(document=struct(QUOTA | {"time_zone": "Asia/Tokyo"}), effective_from=LONG_AGO)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await served.stub.ProposePolicy(other, metadata=served.metadata("gov"))
    assert caught.value.code() is grpc.StatusCode.ALREADY_EXISTS
    assert differing_fields(caught.value) == "effective_from, document"


async def test_a_proposal_is_written_against_the_newest_version_and_grows_old(served: Served) -> None:
    for replaces in (0, 1, 3):
        call = served.stub.ProposePolicy(proposal(replaces=replaces), metadata=served.metadata("gov"))
        assert await refused(call) is grpc.StatusCode.FAILED_PRECONDITION
    first = proposal(kind="use_cases", document=struct({}))
    assert (
        await refused(served.stub.ProposePolicy(first, metadata=served.metadata()))
        is grpc.StatusCode.FAILED_PRECONDITION
    )
    await propose(served, proposal())
    await served.quota.tell(quota_policy(3), "quota-3")
    await served.refresh()
    assert [each.outdated for each in (await proposals(served)).proposals] == [True]
    await propose(served, proposal())  # what was answered once is answered again


async def test_a_proposal_that_could_not_be_published_is_refused_by_field(served: Served) -> None:
    wrong = QUOTA | {"time_zone": "Mars"}
    for document, expected in (
        (wrong, {"document.time_zone": "should be an IANA time zone, e.g. Europe/Berlin"}),
        (
            QUOTA | {"examples": [FAILS]},
            {"document.examples[all]": "promises ALLOW, its rules give APPROVAL_REQUIRED"},
        ),
    ):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await served.stub.ProposePolicy(proposal(document=struct(document)), metadata=served.metadata())
        assert violations(caught.value) == expected
    assert list((await proposals(served)).proposals) == []


async def test_proposals_come_page_by_page(served: Served) -> None:
    for number in range(25):
        await propose(served, proposal(f"p{number}"))
    found, token = list[str](), ""
    while True:
        page = await proposals(served, page_size=7, page_token=token)
        found += [each.proposal_id for each in page.proposals]
        if not (token := page.next_page_token):
            break
    assert found == [f"p{number}" for number in reversed(range(25))]
    (one,) = (await proposals(served, proposal_id="p3")).proposals
    assert one.proposal_id == "p3"
    assert list((await proposals(served, proposal_id="p3", kind="sources")).proposals) == []
    assert list((await proposals(served, proposal_id="nothing")).proposals) == []


async def test_a_page_of_large_documents_is_shorter(served: Served) -> None:
    restricted = [{"data_class": f"c{number}", "rule": "x" * 20_000} for number in range(12)]
    for version in range(2, 8):
        document = {"acceptable_use": str(version), "restricted_data": restricted}
        await served.quota.tell(published("baseline", version, LONG_AGO, document), f"baseline-{version}")
    await served.refresh()
    found, token, sizes = list[int](), "", list[int]()
    while True:
        page = await listing(served, kind="baseline", include_superseded=True, page_token=token)
        found += [each.version for each in page.policies]
        sizes.append(page.ByteSize())
        if not (token := page.next_page_token):
            break
    assert found == [7, 6, 5, 4, 3, 2, 1]
    assert len(sizes) == 2
    assert max(sizes) < 4 * 1024 * 1024, "what a client takes"


async def test_of_two_proposals_with_one_id_at_once_one_is_kept(served: Served) -> None:
    requests = [proposal(document=struct(QUOTA | {"time_zone": zone})) for zone in ("UTC", "Asia/Tokyo") * 4]
    answers = await asyncio.gather(
        *(served.stub.ProposePolicy(each, metadata=served.metadata("gov")) for each in requests),
        return_exceptions=True,
    )
    (kept,) = (await proposals(served)).proposals
    for request, answer in zip(requests, answers, strict=True):
        if request.document == kept.document:
            assert isinstance(answer, pb.ProposePolicyResponse)
        else:
            assert isinstance(answer, grpc.aio.AioRpcError)
            assert answer.code() is grpc.StatusCode.ALREADY_EXISTS


async def test_a_call_is_tried_with_the_use_cases_beside_it_or_else_those_in_force(served: Served) -> None:
    example = {"name": "x", "role": "engineer", "use_case": "x", "expect": "DENIED"}
    promising = QUOTA | {"examples": [example]}
    assert not (await tried(served, promising)).ok
    assert (await tried(served, promising, use_cases={"unregistered": "deny"})).ok
    await served.quota.tell(published("use_cases", 1, LONG_AGO, {"unregistered": "deny"}), "use-cases")
    await served.refresh()
    assert (await tried(served, promising)).ok
    assert not (await tried(served, promising, use_cases={"unregistered": "allow"})).ok


@pytest.mark.parametrize(
    ("account", "spent", "cost"),
    [
        ("subject", 7_000, 0),
        ("subject", 8_999, 500),
        ("subject", 10_000, 0),
        ("team", 9_999, 500),
        ("team", 10_000, 0),
    ],
)
async def test_an_example_gets_what_a_check_of_such_a_call_gets(
    served: Served, account: str, spent: int, cost: int
) -> None:
    policy: dict[str, Any] = {
        "time_zone": "UTC",
        "allowances": [{"role": "tester", "limit_micro_usd": 10_000}],
        "budgets": [{"kind": "team", "owner_id": "white", "limit_micro_usd": 100_000}],
    }
    example = {
        "name": "x",
        "role": "tester",
        "team_id": "white",
        "spent": [{"account": account, "basis_points": spent}],
        "cost_micro_usd": cost,
        "expect": "ALLOW",
    }
    (promised,) = (await tried(served, policy | {"examples": [example]})).examples
    await served.quota.tell(quota_policy(3, **policy), "quota-3")
    await served.quota.tell(person("tess", role="tester", team_id="white"), "tess")
    await served.quota.tell(person("tom", role="bystander", team_id="white"), "tom")
    if spent:
        who, tokens = ("tess", spent) if account == "subject" else ("tom", 10 * spent)
        await served.quota.tell(usage(who, input_tokens=tokens, output_tokens=0), "used")
    if account == "team":  # in an example a team has no members but the caller
        await served.quota.tell(person("tom", role="bystander", team_id="black", since=NOW), "tom-moves")
    await served.refresh()
    request = check_request("tess", estimated_input_tokens=cost)
    answer = await served.stub.CheckQuota(request, metadata=served.metadata())
    assert promised.actual == answer.decision
    assert list(promised.reason_codes) == [reason.code for reason in answer.reasons]
