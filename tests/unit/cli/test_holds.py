"""Holds from the command line, for people and for machines."""

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from functools import partial
from typing import Any

import grpc
import pytest
from google.rpc import code_pb2, error_details_pb2

from tests.support.answering import answering, refuse
from tokenomics.quota.v1 import quota_pb2 as pb
from tokenomics_cli.app import run

CALL = ("--provider", "openai", "--model", "gpt-4o", "--input-tokens", "1000")
END = datetime(2026, 11, 20, 15, tzinfo=UTC)


def held(hold_id: str, **fields: Any) -> pb.Hold:
    hold = pb.Hold(
        hold_id=hold_id,
        subject="ada",
        state=pb.HOLD_STATE_LIVE,
        amount_micro_usd=12_500,
        remaining_micro_usd=12_500,
        account_ids=["subject/ada/all/2026-11"],
    )
    hold.expires_at.FromDatetime(END)
    hold.MergeFrom(pb.Hold(**fields))
    return hold


class Ledger:
    """Answers as the hold's id asks, and remembers what was asked."""

    def __init__(self) -> None:
        self.requests: list[Any] = []

    def answer(self, response: type[Any], request: Any, context: grpc.ServicerContext) -> Any:
        asked = type(request)()
        asked.CopyFrom(request)
        self.requests.append(asked)
        if isinstance(request, pb.ListHoldsRequest):
            begin = int(request.page_token or "0")
            end = min(begin + 2, 5)
            holds = [held(f"h{number}") for number in range(begin, end)]
            return pb.ListHoldsResponse(
                holds=holds[: request.page_size], next_page_token=str(end) if end < 5 else ""
            )
        if request.hold_id == "too-much":
            quota = error_details_pb2.QuotaFailure(
                violations=[{"subject": "team/red/all/2026-11", "description": "3 micro-USD are left"}]
            )
            refuse(context, code_pb2.RESOURCE_EXHAUSTED, "a hard limit refuses the call", quota)
        if request.hold_id == "another":
            info = error_details_pb2.ErrorInfo(
                reason="ALREADY_EXISTS", metadata={"differing_fields": "call.model, ttl"}
            )
            refuse(context, code_pb2.ALREADY_EXISTS, "another hold has this id", info)
        if isinstance(request, pb.PlaceHoldRequest):
            name = request.hold_id.upper().replace("-", "_")
            decision = pb.Decision.Value(f"DECISION_{name if name in _DECISIONS else 'ALLOW'}")
            hold = held(request.hold_id, parent_hold_id=request.parent_hold_id)
            placed = None if decision == pb.DECISION_DENIED else hold
            return pb.PlaceHoldResponse(hold=placed, check=pb.CheckQuotaResponse(decision=decision))
        return response(hold=held(request.hold_id, state=pb.HOLD_STATE_SETTLED, settled_micro_usd=7))


_DECISIONS = {"ALLOW_WITH_NUDGE", "JUSTIFICATION_REQUIRED", "APPROVAL_REQUIRED", "DENIED"}


@pytest.fixture
def ledger(monkeypatch: pytest.MonkeyPatch) -> Iterator[Ledger]:
    ledger = Ledger()
    methods = ("PlaceHold", "SettleHold", "ReleaseHold", "ExtendHold", "ListHolds")
    with answering(
        monkeypatch, {name: partial(ledger.answer, getattr(pb, f"{name}Response")) for name in methods}
    ):
        yield ledger


def test_a_hold_is_asked_for_with_everything_that_was_said(
    ledger: Ledger, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ("--amount-usd", "0.25", "--ttl-seconds", "1.5", "--parent", "agent", "--project", "atlas")
    assert run(["quota", "hold", "h-1", "ada", *CALL, *options]) == 0
    (request,) = ledger.requests
    assert (request.hold_id, request.amount_micro_usd, request.parent_hold_id) == ("h-1", 250_000, "agent")
    assert request.ttl.ToMilliseconds() == 1_500
    assert (request.call.subject, request.call.project) == ("ada", "atlas")
    assert request.call.estimated_input_tokens == 1_000
    printed = capsys.readouterr().out
    assert "h-1" in printed
    assert "$0.012500" in printed
    assert "hold agent" in printed
    assert "ALLOW" in printed


def test_what_is_not_said_is_left_to_the_service(ledger: Ledger) -> None:
    assert run(["quota", "hold", "h-1", "ada", *CALL]) == 0
    (request,) = ledger.requests
    assert (request.amount_micro_usd, request.HasField("ttl"), request.parent_hold_id) == (0, False, "")


@pytest.mark.parametrize(
    ("hold_id", "code"),
    [
        ("allow", 0),
        ("allow-with-nudge", 0),
        ("justification-required", 10),
        ("approval-required", 11),
        ("denied", 1),
    ],
)
@pytest.mark.usefixtures("ledger")
def test_a_placed_hold_has_the_exit_code_of_its_decision(
    hold_id: str, code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["quota", "hold", hold_id, "ada", *CALL, "--json"]) == code
    answer = json.loads(capsys.readouterr().out)
    assert (answer.get("hold") is None) == (hold_id == "denied")


@pytest.mark.usefixtures("ledger")
def test_a_refusal_names_the_account_and_another_payload_its_fields(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run(["quota", "hold", "too-much", "ada", *CALL]) == 1
    assert "team/red/all/2026-11: 3 micro-USD are left" in capsys.readouterr().err.replace("\n", " ")
    assert run(["quota", "hold", "another", "ada", *CALL]) == 1
    assert "differing_fields: call.model, ttl" in capsys.readouterr().err.replace("\n", " ")


def test_a_hold_is_settled_released_and_extended(ledger: Ledger, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["quota", "settle", "h-1", "--cost-usd", "0.000007"]) == 0
    assert "settled" in capsys.readouterr().out
    assert run(["quota", "release", "h-2", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["hold"]["hold_id"] == "h-2"
    assert run(["quota", "extend", "h-3", "--until", "2026-11-20T16:00:00+01:00"]) == 0
    settle, release, extend = ledger.requests
    assert (settle.hold_id, settle.cost_micro_usd) == ("h-1", 7)
    assert release.hold_id == "h-2"
    assert (extend.hold_id, extend.expires_at.ToDatetime(UTC)) == ("h-3", END)


def test_holds_are_listed_through_all_pages_that_are_wanted(
    ledger: Ledger, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["quota", "holds", "--subject", "ada", "--state", "live", "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)["holds"]
    assert [hold["hold_id"] for hold in listed] == ["h0", "h1", "h2", "h3", "h4"]
    first = ledger.requests[0]
    assert (first.subject, first.state, first.page_size) == ("ada", pb.HOLD_STATE_LIVE, 100)
    ledger.requests.clear()
    assert run(["quota", "holds", "--account", "team/red/all/2026-11", "--limit", "3"]) == 0
    printed = capsys.readouterr().out
    assert [f"h{number}" in printed for number in range(5)] == [True, True, True, False, False]
    assert [(request.account_id, request.page_size) for request in ledger.requests] == [
        ("team/red/all/2026-11", 3),
        ("team/red/all/2026-11", 1),
    ]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("hold", "h", "ada", *CALL, "--amount-usd", "-1"), "--amount-usd"),
        (("hold", "h", "ada", *CALL, "--amount-usd", "1000001"), "--amount-usd"),
        (("hold", "h", "ada", *CALL, "--ttl-seconds", "soon"), "--ttl-seconds"),
        (("hold", "h", "ada", *CALL, "--ttl-seconds", "nan"), "--ttl-seconds"),
        (("hold", "h", "ada", *CALL, "--ttl-seconds", "1e30"), "--ttl-seconds"),
        (("hold", "h", "ada", "--model", "m"), "--provider"),
        (("settle", "h"), "--cost-usd"),
        (("settle", "h", "--cost-usd", "much"), "--cost-usd"),
        (("extend", "h"), "--until"),
        (("extend", "h", "--until", "tomorrow"), "--until"),
        (("holds", "--state", "dead"), "--state"),
        (("holds", "--limit", "0"), "--limit"),
    ],
)
def test_a_wrong_argument_is_named_before_anything_is_asked(
    ledger: Ledger, arguments: tuple[str, ...], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["quota", *arguments]) == 2
    assert said in capsys.readouterr().err
    assert not ledger.requests
