"""Holds through the gRPC service, on a real database whose ledger's clock is in the tests' hands."""

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp
from google.rpc.error_details_pb2 import ErrorInfo, QuotaFailure, RetryInfo
from grpc_status import rpc_status

from tests.integration.quota.company import (
    ADA,
    ATLAS,
    CC,
    NOW,
    RED,
    broken_off,
    hold_company,
    refused,
    stand_at,
)
from tests.integration.quota.serving import Served, check_request, violated_fields
from tests.support.quota_events import person, price_book, quota_policy, usage
from tokenomics.quota.v1 import quota_pb2 as pb


@pytest.fixture
async def holds(service: Served) -> Served:
    return await hold_company(service)


def placing(hold_id: str = "h", tokens: int = 100, **fields: Any) -> pb.PlaceHoldRequest:
    subject = fields.pop("subject", "ada")
    call = check_request(subject, estimated_input_tokens=tokens, **fields.pop("call", {}))
    return pb.PlaceHoldRequest(hold_id=hold_id, call=call, **fields)


def extending(hold_id: str, end: datetime) -> pb.ExtendHoldRequest:
    request = pb.ExtendHoldRequest(hold_id=hold_id)
    request.expires_at.FromDatetime(end)
    return request


async def place(
    service: Served, hold_id: str = "h", tokens: int = 100, *, by: str | None = None, **fields: Any
) -> pb.PlaceHoldResponse:
    return await service.stub.PlaceHold(placing(hold_id, tokens, **fields), metadata=service.metadata(by))


def detail(error: grpc.aio.AioRpcError, kind: type[Any]) -> Any:
    status = rpc_status.from_call(error)  # type: ignore[arg-type] # an AioRpcError is a call, too
    assert status is not None
    for each in status.details:
        found = kind()
        if each.Unpack(found):
            return found
    raise AssertionError(f"{error} has no {kind}")


async def live(service: Served, account_id: str) -> int:
    amount = await service.quota.pool.fetchval(
        "SELECT live_micro_usd FROM ledger_account WHERE account_id = $1", account_id
    )
    assert isinstance(amount, int)
    return amount


async def test_a_hold_pends_on_every_account_of_its_call(holds: Served) -> None:
    placed = await place(holds, call={"project": "atlas"})
    hold, check = placed.hold, placed.check
    assert (hold.state, hold.amount_micro_usd, hold.remaining_micro_usd) == (pb.HOLD_STATE_LIVE, 100, 100)
    assert list(hold.account_ids) == [ADA, ATLAS, RED, CC]
    assert hold.placed_at.ToDatetime(UTC) == NOW
    assert hold.expires_at.ToDatetime(UTC) == NOW + timedelta(minutes=10)
    assert (check.decision, check.estimated_cost_micro_usd) == (pb.DECISION_ALLOW, 100)
    assert [each.account_id for each in check.accounts] == [ADA, ATLAS, RED, CC]
    assert check.freshness.token == pb.FreshnessToken(aggregate_id="ledger", aggregate_version=1)
    assert [await live(holds, each) for each in hold.account_ids] == [100] * 4
    assert not holds.decisions.kept


async def test_the_answer_tells_each_account_as_the_ledger_has_it(holds: Served) -> None:
    await holds.quota.tell(usage("ada", input_tokens=30, output_tokens=0), "a", time=NOW, appended_at=NOW)
    await place(holds, "g", 50)
    check = (await place(holds)).check
    own, red, _ = check.accounts
    expected = pb.AccountBalance(
        account_id=ADA,
        kind=pb.ACCOUNT_KIND_SUBJECT,
        owner_id="ada",
        purpose=pb.PURPOSE_ALL,
        period="2150-05",
        limit_micro_usd=2_000,
        base_limit_micro_usd=2_000,
        allowance_micro_usd=2_000,
        posted_micro_usd=30,
        pending_micro_usd=50,
        remaining_micro_usd=1_920,
        band=pb.BAND_NORMAL,
    )
    expected.resets_at.FromDatetime(datetime(2150, 6, 1, tzinfo=UTC))
    assert own == expected
    assert (red.posted_micro_usd, red.pending_micro_usd, red.remaining_micro_usd) == (30, 50, 920)


async def test_the_same_call_again_has_the_same_answer_whatever_became_of_the_hold(holds: Served) -> None:
    placed = await place(holds, ttl=timedelta(minutes=3))
    await holds.stub.ExtendHold(extending("h", NOW + timedelta(hours=1)), metadata=holds.metadata())
    assert await place(holds, ttl=timedelta(minutes=3)) == placed
    await holds.stub.SettleHold(
        pb.SettleHoldRequest(hold_id="h", cost_micro_usd=70), metadata=holds.metadata()
    )
    await stand_at(holds.quota, NOW + timedelta(days=2))
    assert await place(holds, ttl=timedelta(minutes=3)) == placed
    assert await live(holds, ADA) == 0


@pytest.mark.parametrize(
    ("changed", "field"),
    [
        ({"tokens": 101}, "call.estimated_input_tokens"),
        ({"subject": "eve"}, "call.subject"),
        ({"call": {"model": "two"}}, "call.model"),
        ({"call": {"project": "atlas"}}, "call.project"),
        ({"call": {"purpose": pb.PURPOSE_EXPERIMENT}}, "call.purpose"),
        ({"amount_micro_usd": 5}, "amount_micro_usd"),
        ({"ttl": timedelta(seconds=5)}, "ttl"),
        ({"parent_hold_id": "p"}, "parent_hold_id"),
        ({"by": "ada"}, "tokenomics-on-behalf-of"),
    ],
)
async def test_another_call_with_its_id_is_told_in_what_it_differs(
    holds: Served, changed: dict[str, Any], field: str
) -> None:
    await place(holds)
    error = await refused(place(holds, **changed))
    assert error.code() is grpc.StatusCode.ALREADY_EXISTS
    assert detail(error, ErrorInfo).metadata["differing_fields"] == field
    assert await live(holds, ADA) == 100


async def test_what_is_said_by_default_is_no_difference(holds: Served) -> None:
    placed = await place(holds)
    spelled_out = {"data_class": "internal", "purpose": pb.PURPOSE_OPERATIONAL, "service_tier": 1}
    assert await place(holds, call=spelled_out, ttl=timedelta(minutes=10)) == placed


async def test_a_hard_limit_refuses_and_names_the_account_and_forgets_it(holds: Served) -> None:
    await place(holds, "g", 950)
    error = await refused(place(holds, "h", 51))
    assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    (violation,) = detail(error, QuotaFailure).violations
    assert (violation.subject, violation.description) == (
        RED,
        "50 micro-USD are left of 1000, 51 are asked for",
    )
    assert [await live(holds, each) for each in (ADA, RED, CC)] == [950] * 3
    await holds.stub.ReleaseHold(pb.ReleaseHoldRequest(hold_id="g"), metadata=holds.metadata())
    assert (await place(holds, "h", 51)).hold.amount_micro_usd == 51


async def test_a_soft_limit_places_and_tells_what_a_check_would(holds: Served) -> None:
    await holds.quota.tell(person("bob", team_id="blue", role="engineer"), "bob2")
    await holds.refresh()
    placed = await place(holds, "h", 3_000, subject="bob")
    assert placed.hold.state == pb.HOLD_STATE_LIVE
    assert placed.check.decision == pb.DECISION_APPROVAL_REQUIRED
    assert [reason.code for reason in placed.check.reasons] == ["subject_in_approve_band"]
    (kept,) = holds.decisions.kept
    assert (kept.caller, kept.decided_at) == ("system:serviceaccount:ai:portal", NOW)
    assert placed.check.decision_id == "kept-1"
    assert await place(holds, "h", 3_000, subject="bob") == placed
    assert len(holds.decisions.kept) == 1


async def test_a_turn_that_is_rolled_back_leaves_no_decision_and_its_retry_leaves_one(holds: Served) -> None:
    error = await broken_off(holds.quota, place(holds, "h", 3_000, subject="bob"))
    assert detail(error, ErrorInfo).reason == "LEDGER_AWAY"
    assert (holds.decisions.reserved, holds.decisions.kept) == (1, [])
    placed = await place(holds, "h", 3_000, subject="bob")
    assert placed.check.decision == pb.DECISION_APPROVAL_REQUIRED
    assert placed.check.decision_id == "kept-2"
    assert len(holds.decisions.kept) == 1


async def test_a_decision_looks_at_what_is_held(holds: Served) -> None:
    """A hundred calls under way are as good as spent."""
    assert (await place(holds, "g", 1_300, subject="bob")).check.decision == pb.DECISION_ALLOW
    assert (await place(holds, "h", 99, subject="bob")).check.decision == pb.DECISION_ALLOW
    assert (await place(holds, "i", 1, subject="bob")).check.decision == pb.DECISION_ALLOW_WITH_NUDGE


async def test_what_is_denied_is_not_placed_and_not_remembered(holds: Served) -> None:
    prohibited = [{"data_class": "health", "permitted_way": "Use the clinic's own system."}]
    await holds.quota.tell(quota_policy(2, prohibited_data=prohibited), "policy2")
    await holds.refresh()
    denied = await place(holds, call={"data_class": "health"})
    assert not denied.HasField("hold")
    assert denied.check.decision == pb.DECISION_DENIED
    assert [each.account_id for each in denied.check.accounts] == [ADA, RED, CC]
    assert denied.check.decision_id == "kept-1"
    assert await holds.quota.pool.fetchval("SELECT count(*) FROM hold") == 0
    assert (await place(holds)).hold.state == pb.HOLD_STATE_LIVE


async def test_a_hold_is_settled_released_and_extended(holds: Served) -> None:
    for hold_id in ("s", "r", "e"):
        await place(holds, hold_id)
    settled = await holds.stub.SettleHold(
        pb.SettleHoldRequest(hold_id="s", cost_micro_usd=130), metadata=holds.metadata()
    )
    assert (settled.hold.state, settled.hold.settled_micro_usd) == (pb.HOLD_STATE_SETTLED, 130)
    assert settled.token == pb.FreshnessToken(aggregate_id="ledger", aggregate_version=4)
    released = await holds.stub.ReleaseHold(pb.ReleaseHoldRequest(hold_id="r"), metadata=holds.metadata())
    assert (released.hold.state, released.hold.remaining_micro_usd) == (pb.HOLD_STATE_RELEASED, 0)
    extended = await holds.stub.ExtendHold(
        extending("e", NOW + timedelta(hours=2)), metadata=holds.metadata()
    )
    assert extended.hold.expires_at.ToDatetime(UTC) == NOW + timedelta(hours=2)
    assert await live(holds, ADA) == 100
    told = await holds.quota.pool.fetch("SELECT aggregate_id, version FROM outbox ORDER BY id")
    assert [tuple(row) for row in told] == [
        *((f"hold/{hold_id}", version) for version, hold_id in enumerate("sre", start=1)),
        ("hold/s", 4),
        ("hold/r", 5),
        ("hold/e", 6),
    ]


async def test_ended_holds_and_unknown_ones_are_told_apart(holds: Served) -> None:
    stub, metadata = holds.stub, holds.metadata()
    await place(holds, "s")
    await place(holds, "r")
    await stub.SettleHold(pb.SettleHoldRequest(hold_id="s", cost_micro_usd=7), metadata=metadata)
    await stub.ReleaseHold(pb.ReleaseHoldRequest(hold_id="r"), metadata=metadata)
    again = await stub.SettleHold(pb.SettleHoldRequest(hold_id="s", cost_micro_usd=7), metadata=metadata)
    assert again.hold.settled_micro_usd == 7
    later = NOW + timedelta(hours=1)
    expected = {
        "s": (grpc.StatusCode.ALREADY_EXISTS, grpc.StatusCode.FAILED_PRECONDITION),
        "r": (grpc.StatusCode.FAILED_PRECONDITION, None),
        "nobody": (grpc.StatusCode.NOT_FOUND, grpc.StatusCode.NOT_FOUND),
    }
    for hold_id, (settling, releasing) in expected.items():
        error = await refused(
            stub.SettleHold(pb.SettleHoldRequest(hold_id=hold_id, cost_micro_usd=8), metadata=metadata)
        )
        assert error.code() is settling
        if releasing is None:
            await stub.ReleaseHold(pb.ReleaseHoldRequest(hold_id=hold_id), metadata=metadata)
        else:
            error = await refused(stub.ReleaseHold(pb.ReleaseHoldRequest(hold_id=hold_id), metadata=metadata))
            assert error.code() is releasing
        error = await refused(stub.ExtendHold(extending(hold_id, later), metadata=metadata))
        missing = hold_id == "nobody"
        assert error.code() is (grpc.StatusCode.NOT_FOUND if missing else grpc.StatusCode.FAILED_PRECONDITION)


async def test_an_expired_hold_frees_its_amount_at_its_instant(holds: Served) -> None:
    await place(holds, "g", 1_000, ttl=timedelta(seconds=30))
    await stand_at(holds.quota, NOW + timedelta(seconds=29.9))
    assert (await refused(place(holds, "h", 1))).code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    await stand_at(holds.quota, NOW + timedelta(seconds=30))
    assert (await place(holds, "h", 1_000)).hold.state == pb.HOLD_STATE_LIVE
    error = await refused(
        holds.stub.SettleHold(pb.SettleHoldRequest(hold_id="g", cost_micro_usd=1), metadata=holds.metadata())
    )
    assert error.code() is grpc.StatusCode.FAILED_PRECONDITION


async def test_an_agent_gives_parts_of_its_hold_to_its_sub_agents(holds: Served) -> None:
    await place(holds, "agent", 900)
    part = await place(holds, "sub", 300, subject="eve", parent_hold_id="agent")
    assert (part.hold.parent_hold_id, list(part.hold.account_ids)) == ("agent", [])
    assert part.hold.expires_at.ToDatetime(UTC) == NOW + timedelta(minutes=10)
    # 900 of 1,000 are held; its part is judged as if they were not, and takes none of the rest.
    assert part.check.decision == pb.DECISION_ALLOW
    assert part.check.accounts[0].account_id == "subject/eve/all/2150-05"
    error = await refused(place(holds, "sub2", 601, parent_hold_id="agent"))
    assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert detail(error, QuotaFailure).violations[0].subject == "hold/agent"
    assert await live(holds, RED) == 900
    await holds.stub.SettleHold(
        pb.SettleHoldRequest(hold_id="sub", cost_micro_usd=200), metadata=holds.metadata()
    )
    (agent,) = (
        await holds.stub.ListHolds(pb.ListHoldsRequest(subject="ada"), metadata=holds.metadata())
    ).holds
    assert (agent.settled_micro_usd, agent.remaining_micro_usd) == (200, 700)
    assert await place(holds, "sub", 300, subject="eve", parent_hold_id="agent") == part
    for parent in ("nobody", "sub"):
        error = await refused(place(holds, "sub3", 1, parent_hold_id=parent))
        assert error.code() is grpc.StatusCode.FAILED_PRECONDITION


async def test_a_shut_account_takes_no_holds(holds: Served) -> None:
    await place(holds, "g")
    await holds.quota.pool.execute("UPDATE ledger_account SET state = 'frozen' WHERE account_id = $1", RED)
    error = await refused(place(holds))
    assert error.code() is grpc.StatusCode.FAILED_PRECONDITION
    assert error.details() == f"{RED} is frozen"
    assert detail(error, ErrorInfo).metadata["account_ids"] == RED


async def test_nothing_is_placed_or_ended_while_the_ledger_is_shut(holds: Served) -> None:
    await place(holds)
    await holds.quota.pool.execute("UPDATE ledger SET open_for = 'before the restart'")
    for answering in (
        place(holds, "i"),
        holds.stub.ReleaseHold(pb.ReleaseHoldRequest(hold_id="h"), metadata=holds.metadata()),
    ):
        error = await refused(answering)
        assert error.code() is grpc.StatusCode.UNAVAILABLE
        assert detail(error, ErrorInfo).reason == "LEDGER_SHUT"
        assert detail(error, RetryInfo).retry_delay.ToMilliseconds() > 0
    assert await live(holds, RED) == 100


async def test_a_hold_is_judged_by_what_governs_now_not_by_what_the_view_knows(holds: Served) -> None:
    await holds.quota.tell(
        quota_policy(
            2,
            budgets=[{"kind": "team", "owner_id": "red", "limit_micro_usd": 50, "enforcement": "hard"}],
        ),
        "policy2",
    )
    request, metadata = placing("h", 60), holds.metadata()
    waiting = asyncio.ensure_future(holds.stub.PlaceHold(request, metadata=metadata, timeout=5))
    await asyncio.sleep(0.3)
    assert not waiting.done()
    await holds.refresh()
    assert (await refused(waiting)).code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert (await place(holds, "i", 50)).check.accounts[1].limit_micro_usd == 50


async def test_a_view_that_stays_behind_answers_unavailable_in_time(holds: Served) -> None:
    await holds.quota.tell(quota_policy(2), "policy2")
    error = await refused(holds.stub.PlaceHold(placing(), metadata=holds.metadata(), timeout=0.5))
    assert error.code() is grpc.StatusCode.UNAVAILABLE
    assert detail(error, ErrorInfo).reason == "NOT_FRESH_YET"
    # What needs no terms goes on meanwhile.
    error = await refused(
        holds.stub.ReleaseHold(pb.ReleaseHoldRequest(hold_id="h"), metadata=holds.metadata())
    )
    assert error.code() is grpc.StatusCode.NOT_FOUND


async def test_the_last_dollar_goes_to_as_many_callers_as_it_is_enough_for(holds: Served) -> None:
    """64 callers, 4 accounts, at once: what is placed is what fits, and each placement shows that it did."""
    answers = await asyncio.gather(
        *(place(holds, f"h{number}", 30, call={"project": "atlas"}) for number in range(64)),
        return_exceptions=True,
    )
    placed = [each for each in answers if isinstance(each, pb.PlaceHoldResponse)]
    codes = {each.code() for each in answers if isinstance(each, grpc.aio.AioRpcError)}
    assert (len(placed), codes) == (33, {grpc.StatusCode.RESOURCE_EXHAUSTED})
    rows = await holds.quota.pool.fetch(
        "SELECT sequence, committed_before_micro_usd, limit_then_micro_usd FROM placement"
        " JOIN ledger_account USING (account_no) WHERE account_id = $1 ORDER BY sequence",
        RED,
    )
    assert [tuple(row) for row in rows] == [(number + 1, number * 30, 1_000) for number in range(33)]


def ending(**expires_at: int) -> pb.ExtendHoldRequest:
    return pb.ExtendHoldRequest(hold_id="h", expires_at=Timestamp(**expires_at))


def listing(token: str) -> pb.ListHoldsRequest:
    return pb.ListHoldsRequest(page_token=token)


ALL_WRONG = pb.ListHoldsRequest(subject="a/b", account_id="ada", page_size=-1)
ALL_WRONG.MergeFromString(b"\x18\x09")  # a state that the contract doesn't have


@pytest.mark.parametrize(
    ("request_", "fields"),
    [
        (pb.PlaceHoldRequest(), {"hold_id", "call.subject", "call.provider", "call.model"}),
        (placing("a b"), {"hold_id"}),
        (placing("h@x"), {"hold_id"}),
        (placing("h" * 129), {"hold_id"}),
        (placing(tokens=-1), {"call.estimated_input_tokens"}),
        (placing(amount_micro_usd=-1), {"amount_micro_usd"}),
        (placing(amount_micro_usd=10**12 + 1), {"amount_micro_usd"}),
        (placing(ttl=timedelta(0)), {"ttl"}),
        (placing(ttl=timedelta(seconds=-5)), {"ttl"}),
        (placing(ttl=timedelta(hours=24, microseconds=1)), {"ttl"}),
        (placing(ttl=Duration(seconds=2**60)), {"ttl"}),
        (placing(parent_hold_id="a/b"), {"parent_hold_id"}),
        (placing(parent_hold_id="h"), {"parent_hold_id"}),
        (pb.SettleHoldRequest(cost_micro_usd=-1), {"hold_id", "cost_micro_usd"}),
        (pb.SettleHoldRequest(hold_id="h", cost_micro_usd=10**12 + 1), {"cost_micro_usd"}),
        (pb.ReleaseHoldRequest(hold_id="a/b"), {"hold_id"}),
        (pb.ExtendHoldRequest(), {"hold_id", "expires_at"}),
        (ending(seconds=1), {"expires_at"}),
        (ending(nanos=-1), {"expires_at"}),
        (ending(seconds=2**60), {"expires_at"}),
        (ALL_WRONG, {"subject", "account_id", "state", "page_size"}),
        (listing("x"), {"page_token"}),
        (listing("0"), {"page_token"}),
        (listing("9" * 19), {"page_token"}),
        (listing("\u0661"), {"page_token"}),  # a digit, and none of these
    ],
)
async def test_every_field_that_is_wrong_is_named(holds: Served, request_: Any, fields: set[str]) -> None:
    method = getattr(holds.stub, type(request_).__name__.removesuffix("Request"))
    error = await refused(method(request_, metadata=holds.metadata()))
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert violated_fields(error) == fields


async def test_a_call_that_no_event_could_tell_of_is_refused(holds: Served) -> None:
    await holds.quota.tell(price_book(2, rate=10**10), "book2")
    await holds.refresh()
    error = await refused(place(holds, tokens=10**9, amount_micro_usd=1))
    assert violated_fields(error) == {"call.estimated_input_tokens", "call.estimated_output_tokens"}
    assert await holds.quota.pool.fetchval("SELECT count(*) FROM hold") == 0


async def ids(service: Served, by: str | None = None, **fields: Any) -> list[str]:
    answer = await service.stub.ListHolds(pb.ListHoldsRequest(**fields), metadata=service.metadata(by))
    return [hold.hold_id for hold in answer.holds]


async def test_holds_are_listed_newest_first_page_by_page(holds: Served) -> None:
    for number in range(5):
        await place(holds, f"h{number}", 10, subject="eve" if number % 2 else "ada")
    assert await ids(holds) == ["h4", "h3", "h2", "h1", "h0"]
    assert await ids(holds, subject="eve") == ["h3", "h1"]
    assert await ids(holds, account_id=ADA) == ["h4", "h2", "h0"]
    assert await ids(holds, account_id=RED, subject="eve") == ["h3", "h1"]
    assert await ids(holds, account_id=ATLAS) == []
    found, token = [], ""
    for _ in range(3):
        page = await holds.stub.ListHolds(
            pb.ListHoldsRequest(page_size=2, page_token=token), metadata=holds.metadata()
        )
        found.append([hold.hold_id for hold in page.holds])
        token = page.next_page_token
    assert (found, token) == ([["h4", "h3"], ["h2", "h1"], ["h0"]], "")


async def test_a_page_looks_at_so_many_holds_at_the_most(
    holds: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tokenomics_quota.storage.hold_ledger.LOOKED_AT", 3)
    for number in range(8):
        await place(holds, f"h{number}", 10, subject="eve" if number == 1 else "ada")
    await holds.stub.ReleaseHold(pb.ReleaseHoldRequest(hold_id="h2"), metadata=holds.metadata())
    for wanted, expected in (
        ({"state": pb.HOLD_STATE_RELEASED}, [[], ["h2"], []]),
        ({"state": pb.HOLD_STATE_LIVE}, [["h7", "h6"], ["h5", "h4"], ["h3", "h1"], ["h0"]]),
        ({"account_id": RED, "subject": "eve"}, [[], [], ["h1"]]),
    ):
        pages, token = list[list[str]](), ""
        while not pages or token:
            request = pb.ListHoldsRequest(page_size=2, page_token=token, **wanted)
            page = await holds.stub.ListHolds(request, metadata=holds.metadata())
            pages.append([hold.hold_id for hold in page.holds])
            token = page.next_page_token
        assert pages == expected


async def test_holds_are_listed_as_they_stand_at_the_ledgers_now(holds: Served) -> None:
    await place(holds, "gone", ttl=timedelta(seconds=1))
    await place(holds, "agent", 500)
    await place(holds, "part", 200, parent_hold_id="agent")
    await place(holds, "short", 100, parent_hold_id="agent", ttl=timedelta(seconds=1))
    await stand_at(holds.quota, NOW + timedelta(seconds=1))
    assert await ids(holds, state=pb.HOLD_STATE_LIVE) == ["part", "agent"]
    assert await ids(holds, state=pb.HOLD_STATE_EXPIRED) == ["short", "gone"]
    await holds.stub.SettleHold(
        pb.SettleHoldRequest(hold_id="part", cost_micro_usd=50), metadata=holds.metadata()
    )
    listed = await holds.stub.ListHolds(pb.ListHoldsRequest(), metadata=holds.metadata())
    _, part, agent, gone = listed.holds
    assert (part.parent_hold_id, part.state, part.remaining_micro_usd) == ("agent", pb.HOLD_STATE_SETTLED, 0)
    assert (agent.settled_micro_usd, agent.remaining_micro_usd) == (50, 450)
    assert list(agent.account_ids) == [ADA, RED, CC]
    assert (gone.state, gone.remaining_micro_usd) == (pb.HOLD_STATE_EXPIRED, 0)


async def test_a_person_lists_and_ends_own_holds_and_those_of_whom_the_person_decides_about(
    holds: Served,
) -> None:
    await place(holds, "a", 10)
    await place(holds, "e", 10, subject="eve")
    assert await ids(holds, by="ada") == ["a"]
    assert await ids(holds, by="ada", account_id=RED) == ["a"]
    assert await ids(holds, by="boss") == []
    assert await ids(holds, by="boss", subject="ada") == ["a"]
    for by, subject in (("ada", "eve"), ("lead", "ada"), ("bob", "ada")):
        error = await refused(
            holds.stub.ListHolds(pb.ListHoldsRequest(subject=subject), metadata=holds.metadata(by))
        )
        assert error.code() is grpc.StatusCode.PERMISSION_DENIED
    release = pb.ReleaseHoldRequest(hold_id="e")
    for by in ("ada", "lead"):
        error = await refused(holds.stub.ReleaseHold(release, metadata=holds.metadata(by)))
        assert error.code() is grpc.StatusCode.NOT_FOUND
    assert await live(holds, RED) == 20
    await holds.stub.ReleaseHold(release, metadata=holds.metadata("boss"))
    assert await live(holds, RED) == 10


async def test_a_person_places_for_whom_the_person_may_see_and_sees_no_other_number(holds: Served) -> None:
    placed = await place(holds, call={"project": "atlas"}, by="ada")
    own, atlas, red, _ = placed.check.accounts
    assert (own.limit_micro_usd, own.band) == (2_000, pb.BAND_NORMAL)
    assert (red.limit_micro_usd, red.band) == (0, pb.BAND_NORMAL), "so few that a total tells of one"
    assert (atlas.posted_micro_usd, atlas.pending_micro_usd, atlas.unlimited) == (0, 0, False)
    assert atlas.band == pb.BAND_NORMAL
    assert await place(holds, call={"project": "atlas"}, by="ada") == placed
    error = await refused(place(holds, "i", by="bob", subject="eve"))
    assert error.code() is grpc.StatusCode.PERMISSION_DENIED
    error = await refused(place(holds, "i", by="bob", subject="bob", parent_hold_id="h"))
    assert (error.code(), error.details()) == (
        grpc.StatusCode.FAILED_PRECONDITION,
        "there is no such parent hold",
    )
    await holds.quota.tell(
        quota_policy(
            2, budgets=[{"kind": "project", "owner_id": "atlas", "limit_micro_usd": 0, "enforcement": "hard"}]
        ),
        "policy2",
    )
    await holds.refresh()
    error = await refused(place(holds, "j", call={"project": "atlas"}, by="ada"))
    (violation,) = detail(error, QuotaFailure).violations
    assert (violation.subject, violation.description) == (ATLAS, "its hard limit refuses the amount")


async def checked(service: Served, **fields: Any) -> pb.CheckQuotaResponse:
    return await service.stub.CheckQuota(check_request(**fields), metadata=service.metadata(), timeout=5)


def after(token: pb.FreshnessToken) -> dict[str, Any]:
    return {"at_least_as_fresh": token}


async def test_checks_and_balances_count_what_is_held(holds: Served) -> None:
    placed = await place(holds, "h", 1_500, subject="bob")
    await holds.refresh()
    answer = await checked(holds, subject="bob")
    own = answer.accounts[0]
    assert (own.pending_micro_usd, own.remaining_micro_usd, own.band) == (1_500, 500, pb.BAND_NUDGE)
    assert answer.decision == pb.DECISION_ALLOW_WITH_NUDGE
    assert (answer.caps.output_tokens_within_band, answer.caps.output_tokens_within_limit) == (299, 500)
    balance = await holds.stub.GetBalance(
        pb.GetBalanceRequest(account_id=own.account_id), metadata=holds.metadata()
    )
    assert balance.accounts[0].pending_micro_usd == 1_500
    assert answer.freshness.token.aggregate_version == placed.check.freshness.token.aggregate_version


async def test_a_held_account_without_limit_and_cost_has_a_balance(holds: Served) -> None:
    await place(holds, call={"project": "atlas"})
    await holds.refresh()
    (atlas,) = (
        await holds.stub.GetBalance(pb.GetBalanceRequest(account_id=ATLAS), metadata=holds.metadata())
    ).accounts
    assert (atlas.pending_micro_usd, atlas.unlimited) == (100, True)


async def test_a_hold_stops_counting_at_its_instant_without_any_refresh(holds: Served) -> None:
    await place(holds, "h", 100, ttl=timedelta(seconds=30))
    await place(holds, "i", 20, ttl=timedelta(seconds=60))
    await holds.refresh()
    for seconds, pending in ((0, 120), (29.9, 120), (30, 20), (59.9, 20), (60, 0), (10, 120)):
        holds.clock.time = NOW + timedelta(seconds=seconds)
        answer = await checked(holds)
        assert [each.pending_micro_usd for each in answer.accounts] == [pending] * 3
    await stand_at(holds.quota, NOW + timedelta(seconds=60))
    await place(holds, "j", 5)
    await holds.refresh()
    holds.clock.time = NOW + timedelta(seconds=60)
    assert [each.pending_micro_usd for each in (await checked(holds)).accounts] == [5] * 3


async def test_a_settled_hold_counts_its_cost_until_a_fact_shows_it(holds: Served) -> None:
    await place(holds)
    settled = await holds.stub.SettleHold(
        pb.SettleHoldRequest(hold_id="h", cost_micro_usd=130), metadata=holds.metadata()
    )
    waiting = asyncio.ensure_future(checked(holds, **after(settled.token)))
    await asyncio.sleep(0.2)
    assert not waiting.done()
    await holds.refresh()
    assert [each.pending_micro_usd for each in (await waiting).accounts] == [130] * 3
    holds.clock.time = NOW + timedelta(days=3)
    assert [each.pending_micro_usd for each in (await checked(holds)).accounts] == [130] * 3


async def test_a_ledger_that_went_back_is_read_anew(holds: Served) -> None:
    await place(holds, "h")
    await place(holds, "i", subject="eve")
    await holds.refresh()
    await holds.quota.pool.execute(
        "WITH gone AS (DELETE FROM expiry), accounts AS (DELETE FROM ledger_account)"
        " UPDATE ledger SET change_seq = 1"
    )
    await holds.refresh()
    assert holds.view.ledger_change_seq == 1
    assert [each.pending_micro_usd for each in (await checked(holds)).accounts] == [0] * 3


@pytest.mark.parametrize(
    ("token", "field"),
    [
        (pb.FreshnessToken(aggregate_id="hold/h", aggregate_version=1), "aggregate_id"),
        (pb.FreshnessToken(aggregate_version=1), "aggregate_version"),
        (pb.FreshnessToken(aggregate_id="ledger", aggregate_version=-1), "aggregate_version"),
    ],
)
async def test_a_token_of_no_such_aggregate_is_refused(
    holds: Served, token: pb.FreshnessToken, field: str
) -> None:
    error = await refused(checked(holds, **after(token)))
    assert violated_fields(error) == {f"at_least_as_fresh.{field}"}
