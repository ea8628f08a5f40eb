"""What each field of each request refuses, and in which words.

A field that a request gains fails the first test until it stands in the table, or among those that take
anything.
"""

from datetime import UTC, datetime
from typing import Any, Final

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.protobuf.struct_pb2 import Struct
from google.protobuf.timestamp_pb2 import Timestamp
from grpc_status import rpc_status

from tests.integration.quota.company import RED, hold_company
from tests.integration.quota.serving import Served
from tests.support.request_fields import Row, changed, fields_of, named, violations
from tokenomics.quota.v1 import quota_pb2 as pb
from tokenomics_chassis.rpc.parts import methods_of
from tokenomics_chassis.rpc.structs import to_struct
from tokenomics_quota.rpc.servicer import PARTS

SERVICE: Final = pb.DESCRIPTOR.services_by_name["QuotaService"]
SERVED: Final = frozenset().union(*map(methods_of, PARTS))

IDENTIFIER = "must be an identifier: letters, digits and . _ : -, at most 128, no e-mail address"
ID = "must be an identifier: letters, digits and . _ : -, at most 128"
KIND = "must be one of baseline, price_book, quota, sources, use_cases"
LABEL = "must be a name of 1 to 128 printable characters without spaces"
TOKENS = "must be 0 to 1000000000"
COST = "must be 0 to 1000000000000"
TIER = "is not a service tier of this contract"
CODE = "must be a code: lower-case letters, digits and . _ -, at most 64"
TICKET = "must be the id of a ticket"
PAGE_SIZE = "must not be negative"
FOREIGN = "is not of this call"
DRAW_FOR = "must be 1 s to 3600 s"
ACCOUNT = "account id '?' is not <kind>/<owner_id>/<purpose>/<period>"
PERIOD = "must be YYYY-MM"
YEARS = "must be a time between the years 2000 and 2199"

GOOD_CALL: Final = pb.CheckQuotaRequest(
    subject="ada", provider="acme", model="one", estimated_input_tokens=10
)
WHY: Final = {"reason_code": "incident", "ticket_id": "OPS-1"}
MONTH: Final = datetime(2150, 5, 1, tzinfo=UTC)


def at(instant: datetime) -> Timestamp:
    timestamp = Timestamp()
    timestamp.FromDatetime(instant)
    return timestamp


DOCUMENT: Final = to_struct({"time_zone": "UTC"})

GOOD: Final[dict[str, Message]] = {
    "CheckQuota": GOOD_CALL,
    "BatchCheckQuota": pb.BatchCheckQuotaRequest(checks=[GOOD_CALL]),
    "StreamCheckQuota": pb.StreamCheckQuotaRequest(sequence=1, check=GOOD_CALL),
    "PlaceHold": pb.PlaceHoldRequest(hold_id="h", call=GOOD_CALL),
    "SettleHold": pb.SettleHoldRequest(hold_id="h"),
    "ReleaseHold": pb.ReleaseHoldRequest(hold_id="h"),
    "ExtendHold": pb.ExtendHoldRequest(hold_id="h", expires_at=at(MONTH)),
    "AcquireLease": pb.AcquireLeaseRequest(lease_id="l", typical_call=GOOD_CALL, amount_micro_usd=100),
    "RenewLease": pb.RenewLeaseRequest(lease_id="l", renewal=1),
    "ReturnLease": pb.ReturnLeaseRequest(lease_id="l"),
    "EstimateCost": pb.EstimateCostRequest(provider="acme", model="one", input_tokens=10),
    "GetBalance": pb.GetBalanceRequest(subject="ada"),
    "ListBalances": pb.ListBalancesRequest(),
    "GetBudget": pb.GetBudgetRequest(kind=pb.ACCOUNT_KIND_TEAM, owner_id="red"),
    "WatchBudget": pb.WatchBudgetRequest(kind=pb.ACCOUNT_KIND_TEAM, owner_id="red"),
    "CheckDrift": pb.CheckDriftRequest(account_id=RED),
    "SuggestAlternatives": pb.SuggestAlternativesRequest(call=GOOD_CALL),
    "FreezeAccount": pb.FreezeAccountRequest(account_id=RED, **WHY),
    "UnfreezeAccount": pb.UnfreezeAccountRequest(account_id=RED, **WHY),
    "CloseAccount": pb.CloseAccountRequest(account_id=RED, **WHY),
    "StartBypass": pb.StartBypassRequest(
        bypass_id="b", scope_kind=pb.ACCOUNT_KIND_TEAM, scope_owner_id="red", until=at(MONTH), **WHY
    ),
    "EndBypass": pb.EndBypassRequest(bypass_id="b", **WHY),
    "ListHolds": pb.ListHoldsRequest(),
    "ListUsage": pb.ListUsageRequest(subject="ada"),
    "ListLooks": pb.ListLooksRequest(subject="ada"),
    "GetSourceStatus": pb.GetSourceStatusRequest(),
    "ListPolicies": pb.ListPoliciesRequest(),
    "TestPolicy": pb.TestPolicyRequest(kind="quota", document=DOCUMENT),
    "ProposePolicy": pb.ProposePolicyRequest(
        proposal_id="p",
        kind="quota",
        replaces=1,
        effective_from=at(MONTH),
        document=DOCUMENT,
    ),
    "ListPolicyProposals": pb.ListPolicyProposalsRequest(),
    "StartSimulation": pb.StartSimulationRequest(
        simulation_id="s",
        documents={"quota": DOCUMENT},
        since=at(MONTH),
        before=at(datetime(2150, 5, 2, tzinfo=UTC)),
    ),
    "WatchSimulation": pb.WatchSimulationRequest(simulation_id="s"),
    "GetSimulation": pb.GetSimulationRequest(simulation_id="s"),
}
"""Of each method a request with nothing wrong in it."""

CALL: Final[list[Row]] = [
    ("subject", "", IDENTIFIER),
    ("subject", "ada@example.org", IDENTIFIER),
    ("provider", "a b", LABEL),
    ("model", "", LABEL),
    ("estimated_input_tokens", -1, TOKENS),
    ("estimated_input_tokens", 10**9 + 1, TOKENS),
    ("estimated_output_tokens", -1, TOKENS),
    ("estimated_output_tokens", 10**9 + 1, TOKENS),
    ("estimated_cached_input_tokens", -1, "must be 0 to estimated_input_tokens"),
    ("estimated_cached_input_tokens", 11, "must be 0 to estimated_input_tokens"),
    ("service_tier", 9, TIER),
    ("project", "a/b", IDENTIFIER),
    ("use_case", " ", IDENTIFIER),
    ("purpose", pb.PURPOSE_ALL, "must be operational or experiment"),
    ("purpose", 9, "must be operational or experiment"),
    (
        "data_class",
        "Secret!",
        "must be a class such as `internal`: lower-case letters, digits and . _ -",
    ),
]
"""Of the call, wherever it stands: its field, a wrong value and the words."""

CONSISTENCY: Final[list[Row]] = [
    ("minimize_latency", False, "must be true when set"),
    ("fully_consistent", False, "must be true when set"),
    ("at_least_as_fresh.next_offsets[tokenomics.usage.v1/0]", -1, "must not be negative"),
    (
        "at_least_as_fresh.next_offsets[somewhere/0]",
        1,
        "must be keyed by a topic that quota reads and one of its partitions, as topic/partition",
    ),
    ("at_least_as_fresh.aggregate_id", "hold", "must be ledger, or empty"),
    ("at_least_as_fresh.aggregate_version", 1, "must not be negative, and goes with aggregate_id"),
]
"""Of the call where its consistency is looked at."""

CALLED: Final = {
    "CheckQuota": "",
    "BatchCheckQuota": "checks[].",
    "StreamCheckQuota": "check.",
    "PlaceHold": "call.",
    "AcquireLease": "typical_call.",
    "SuggestAlternatives": "call.",
}
"""Where a request has a call."""

CHECKS: Final = ("CheckQuota", "BatchCheckQuota", "StreamCheckQuota")

FIELDS: Final[list[Row]] = [
    *(
        (f"{method}.{place}{field}", value, message)
        for method, place in CALLED.items()
        for field, value, message in (*CALL, *(CONSISTENCY if method in CHECKS else ()))
    ),
    ("BatchCheckQuota.checks", [GOOD_CALL] * 1_001, "must be at most 1000"),
    ("PlaceHold.hold_id", "a b", ID),
    ("PlaceHold.amount_micro_usd", -1, COST),
    ("PlaceHold.amount_micro_usd", 10**12 + 1, COST),
    ("PlaceHold.ttl", Duration(nanos=999_999_999), "must be 1 s to 86400 s"),
    ("PlaceHold.ttl", Duration(seconds=86_400, nanos=1_000), "must be 1 s to 86400 s"),
    ("PlaceHold.ttl", Duration(seconds=2**62), "must be 1 s to 86400 s"),
    ("PlaceHold.parent_hold_id", "a b", ID),
    ("PlaceHold.parent_hold_id", "h", "must be another hold"),
    ("SettleHold.hold_id", "", ID),
    ("SettleHold.cost_micro_usd", -1, COST),
    ("ReleaseHold.hold_id", "", ID),
    ("ExtendHold.hold_id", "", ID),
    ("ExtendHold.expires_at", None, "must be set"),
    ("ExtendHold.expires_at", at(datetime(2200, 1, 1, tzinfo=UTC)), YEARS),
    ("AcquireLease.lease_id", "", ID),
    ("AcquireLease.amount_micro_usd", 0, "must be 1 to 1000000000000"),
    ("AcquireLease.draw_for", Duration(seconds=0), DRAW_FOR),
    ("AcquireLease.draw_for", Duration(seconds=3_601), DRAW_FOR),
    ("AcquireLease.longest_call", Duration(seconds=-1), "must be 0 s to 82800 s"),
    ("RenewLease.lease_id", "", ID),
    ("RenewLease.renewal", 0, "must be 1 to 2147483647"),
    ("RenewLease.drawn_micro_usd", -1, COST),
    ("RenewLease.amount_micro_usd", -1, COST),
    ("RenewLease.draw_for", Duration(seconds=3_601), DRAW_FOR),
    ("ReturnLease.lease_id", "", ID),
    ("ReturnLease.drawn_micro_usd", -1, COST),
    ("EstimateCost.provider", "", LABEL),
    ("EstimateCost.model", "a b", LABEL),
    ("EstimateCost.input_tokens", -1, TOKENS),
    ("EstimateCost.cached_input_tokens", -1, "must be 0 to input_tokens"),
    ("EstimateCost.cached_input_tokens", 11, "must be 0 to input_tokens"),
    ("EstimateCost.cache_creation_tokens", -1, "must be 0 to input_tokens less cached_input_tokens"),
    ("EstimateCost.cache_creation_tokens", 11, "must be 0 to input_tokens less cached_input_tokens"),
    ("EstimateCost.output_tokens", -1, TOKENS),
    ("EstimateCost.service_tier", 9, TIER),
    ("EstimateCost.at", Timestamp(seconds=-1), YEARS),
    ("GetBalance.account_id", "?", ACCOUNT),
    ("GetBalance.subject", "a b", IDENTIFIER),
    ("GetBalance.project", "a b", IDENTIFIER),
    ("ListBalances.subject", "a b", IDENTIFIER),
    ("ListBalances.owner_id", "a b", IDENTIFIER),
    ("ListBalances.kind", 9, "is not an account kind of this contract"),
    ("ListBalances.period", "2026-13", PERIOD),
    ("ListBalances.page_size", -1, PAGE_SIZE),
    ("ListBalances.page_token", "?", FOREIGN),
    ("ListBalances.page_token", "team/red/all/2149-05", FOREIGN),
    *(
        row
        for method in ("GetBudget", "WatchBudget")
        for row in (
            (f"{method}.kind", pb.ACCOUNT_KIND_SUBJECT, "must be a project, a team or a cost centre"),
            (f"{method}.owner_id", "", IDENTIFIER),
        )
    ),
    ("GetBudget.period", "May", PERIOD),
    ("CheckDrift.account_id", "?", ACCOUNT),
    ("SuggestAlternatives.limit", -1, "must be 1 to 20, or 0 for 3"),
    ("SuggestAlternatives.limit", 21, "must be 1 to 20, or 0 for 3"),
    *(
        row
        for method in ("FreezeAccount", "UnfreezeAccount", "CloseAccount")
        for row in (
            (f"{method}.account_id", "?", ACCOUNT),
            (
                f"{method}.account_id",
                "team/red/experiment/2150-05",
                "must be an account for all purposes: it takes both in",
            ),
            (f"{method}.reason_code", "", CODE),
            (f"{method}.ticket_id", "a b", TICKET),
        )
    ),
    ("StartBypass.bypass_id", "", IDENTIFIER),
    ("StartBypass.scope_kind", 0, "must be set"),
    ("StartBypass.scope_kind", 9, "is not an account kind of this contract"),
    ("StartBypass.scope_owner_id", "", IDENTIFIER),
    ("StartBypass.until", None, "must be set"),
    ("StartBypass.until", at(datetime(1999, 1, 1, tzinfo=UTC)), YEARS),
    ("StartBypass.reason_code", "Because!", CODE),
    ("StartBypass.ticket_id", "", TICKET),
    ("EndBypass.bypass_id", "", IDENTIFIER),
    ("EndBypass.reason_code", "", CODE),
    ("EndBypass.ticket_id", "", TICKET),
    ("ListHolds.subject", "a b", ID),
    ("ListHolds.account_id", "?", ACCOUNT),
    ("ListHolds.state", 9, "is not a state of this contract"),
    ("ListHolds.page_size", -1, PAGE_SIZE),
    ("ListHolds.page_token", "0", FOREIGN),
    ("ListUsage.subject", "", IDENTIFIER),
    ("ListUsage.since", at(datetime(1999, 1, 1, tzinfo=UTC)), YEARS),
    ("ListUsage.since", at(datetime(2151, 1, 1, tzinfo=UTC)), "must lie before `before`"),
    ("ListUsage.before", at(datetime(2200, 1, 1, tzinfo=UTC)), YEARS),
    ("ListUsage.consent_id", "a b", IDENTIFIER),
    ("ListUsage.page_size", -1, PAGE_SIZE),
    ("ListUsage.page_token", "7", FOREIGN),
    ("ListLooks.subject", "", IDENTIFIER),
    ("ListLooks.page_size", -1, PAGE_SIZE),
    ("ListLooks.page_token", "seven", FOREIGN),
    ("GetSourceStatus.source", "\n", "must have 1 to 256 printable characters"),
    ("ListPolicies.kind", "laws", KIND),
    ("ListPolicies.page_size", -1, PAGE_SIZE),
    ("ListPolicies.page_token", "quota", FOREIGN),
    ("TestPolicy.beside[quota]", DOCUMENT, "must be of another kind than the document"),
    (
        "TestPolicy.beside[laws].kind",
        Struct(),
        "should be one of quota, price_book, sources, baseline, use_cases",
    ),
    ("ProposePolicy.proposal_id", "", ID),
    ("ProposePolicy.kind", "laws", KIND),
    (
        "ProposePolicy.replaces",
        -1,
        "must be the version it was written against; 0 for the first of its kind",
    ),
    ("ProposePolicy.effective_from", None, "must be set"),
    ("ProposePolicy.effective_from", at(datetime(1999, 1, 1, tzinfo=UTC)), YEARS),
    ("ProposePolicy.document", None, "must be set"),
    ("ListPolicyProposals.kind", "laws", KIND),
    ("ListPolicyProposals.proposal_id", "a b", ID),
    ("ListPolicyProposals.page_size", -1, PAGE_SIZE),
    ("ListPolicyProposals.page_token", "0", FOREIGN),
    ("StartSimulation.simulation_id", "", ID),
    ("StartSimulation.documents", None, "must have one document or more"),
    (
        "StartSimulation.documents[use_cases]",
        Struct(),
        "decides about no recorded usage: simulate price_book or quota",
    ),
    ("StartSimulation.since", None, "must be set"),
    ("StartSimulation.since", at(datetime(1999, 1, 1, tzinfo=UTC)), YEARS),
    ("StartSimulation.before", None, "must be set"),
    ("StartSimulation.before", at(datetime(2200, 1, 1, tzinfo=UTC)), YEARS),
    ("StartSimulation.before", at(MONTH), "must be later than since"),
    (
        "StartSimulation.before",
        at(datetime(2152, 1, 1, tzinfo=UTC)),
        "must be at most 366 days after since",
    ),
    ("WatchSimulation.simulation_id", "", ID),
    ("GetSimulation.simulation_id", "a b", ID),
]
"""Of each field wrong values, and in which words they are refused by its name."""

TAKE_ANYTHING: Final = {
    "StreamCheckQuota.sequence": "is the caller's own number",
    "ListPolicies.include_superseded": "is yes or no",
    "TestPolicy.kind": "what is wrong with it is the answer",
    "TestPolicy.document": "what is wrong with it is the answer",
    **{
        f"{method}.{CALLED[method]}{field}": "isn't looked at"
        for method in ("PlaceHold", "AcquireLease", "SuggestAlternatives")
        for field in (
            "minimize_latency",
            "fully_consistent",
            "at_least_as_fresh.next_offsets",
            "at_least_as_fresh.aggregate_id",
            "at_least_as_fresh.aggregate_version",
        )
    },
}
"""Fields in which nothing is refused, and why."""


def test_every_field_of_every_request_is_in_the_table() -> None:
    served = [method for method in SERVICE.methods if method.name in SERVED]
    fields = {field for method in served for field in fields_of(method.input_type, method.name)}
    told = {named(field) for field, _, _ in FIELDS}
    assert told.isdisjoint(TAKE_ANYTHING)
    assert told | TAKE_ANYTHING.keys() == fields


async def told(service: Served, method: str, request: Any) -> dict[str, str]:
    """Return what is told of a request's fields."""
    call = getattr(service.stub, method)
    match method:
        case "BatchCheckQuota" if len(request.checks) == 1:
            (result,) = (await call(request, metadata=service.metadata())).results
            return violations(result.failure.details)
        case "StreamCheckQuota":
            (answer,) = [each async for each in call(iter([request]), metadata=service.metadata())]
            return violations(answer.result.failure.details)
    answering = call(request, metadata=service.metadata())
    if SERVICE.methods_by_name[method].server_streaming:
        answering = answering.read()
    with pytest.raises(grpc.aio.AioRpcError) as refusal:
        await answering
    status = rpc_status.from_call(refusal.value)  # type: ignore[arg-type] # an AioRpcError is a call, too
    assert status is not None
    return violations(status.details)


@pytest.mark.parametrize("method", GOOD)
async def test_a_wrong_field_is_refused_by_its_name(service: Served, method: str) -> None:
    await hold_company(service)
    place = CALLED[method] if method in {"BatchCheckQuota", "StreamCheckQuota"} else ""
    rows = [row for row in FIELDS if row[0].partition(".")[0] == method]
    paths = [field.removeprefix(f"{method}.") for field, _, _ in rows]
    found = [
        await told(service, method, changed(GOOD[method], path, value))
        for path, (_, value, _) in zip(paths, rows, strict=True)
    ]
    assert found == [
        {path.removeprefix(place): message} for path, (_, _, message) in zip(paths, rows, strict=True)
    ]
