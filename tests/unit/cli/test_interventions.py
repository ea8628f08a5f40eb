"""Interventions, trails and the audit trail from the command line, for people and for machines."""

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import grpc
import pytest

from tests.support.answering import answering
from tokenomics.operations.v1 import operations_pb2 as ops
from tokenomics.quota.v1 import quota_pb2 as pb
from tokenomics_cli.app import run

METHODS = {
    "FreezeAccount": pb,
    "UnfreezeAccount": pb,
    "CloseAccount": pb,
    "StartBypass": pb,
    "EndBypass": pb,
    "ListUsage": pb,
    "ListLooks": pb,
    "ListAudit": ops,
}
RED = "team/red/all/2026-11"
WHY = ("--reason", "incident", "--ticket", "OPS-1")
AT = datetime(2026, 11, 20, 10, tzinfo=UTC)


class Service:
    """Answers two a page, five in all, and remembers what was asked and for whom."""

    def __init__(self) -> None:
        self.requests: list[Any] = []
        self.person: str | None = None

    def answer(self, response: type[Any], request: Any, context: grpc.ServicerContext) -> Any:
        asked = type(request)()
        asked.CopyFrom(request)
        self.requests.append(asked)
        person = dict(context.invocation_metadata()).get("tokenomics-on-behalf-of")
        self.person = None if person is None else str(person)
        if not hasattr(request, "page_token"):
            return response(token=pb.FreshnessToken(aggregate_id="ledger", aggregate_version=7))
        begin = int(request.page_token or "0")
        end = min(begin + 2, begin + request.page_size, 5)
        answer = response(next_page_token=str(end) if end < 5 else "")
        for number in range(begin, end):
            if isinstance(request, pb.ListUsageRequest):
                answer.usage.add(id=f"u{number}", tool="chat", cost_micro_usd=number).time.FromDatetime(AT)
            elif isinstance(request, pb.ListLooksRequest):
                look = answer.looks.add(person_id=f"p{number}", method="/s/GetBalance", basis="manager")
                look.at.FromDatetime(AT)
            else:
                entry = answer.entries.add(sequence=5 - number, action="parked.skipped", actor=f"p{number}")
                entry.details["why"] = "x"
                entry.at.FromDatetime(AT)
        return answer


@pytest.fixture
def service(monkeypatch: pytest.MonkeyPatch) -> Iterator[Service]:
    servicer = Service()
    answers = {
        name: partial(servicer.answer, getattr(module, f"{name}Response")) for name, module in METHODS.items()
    }
    with answering(monkeypatch, answers):
        yield servicer


@pytest.mark.parametrize(
    ("command", "request_type", "said"),
    [
        ("freeze", pb.FreezeAccountRequest, "is frozen"),
        ("unfreeze", pb.UnfreezeAccountRequest, "is open"),
        ("close", pb.CloseAccountRequest, "is closed"),
    ],
)
def test_an_account_is_moved_for_a_reason(
    service: Service, command: str, request_type: Any, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["quota", command, RED, *WHY, "--on-behalf-of", "p-1"]) == 0
    assert f"{RED} {said}" in capsys.readouterr().out
    (request,) = service.requests
    assert request == request_type(account_id=RED, reason_code="incident", ticket_id="OPS-1")
    assert service.person == "p-1"
    assert run(["quota", command, RED, *WHY, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["token"]["aggregate_version"] == "7"


def test_a_bypass_ends_at_a_time_or_so_long_from_now(service: Service) -> None:
    assert run(["ops", "bypass", "start", "b", "team/red", "--until", "2026-11-20T15:00:00+01:00", *WHY]) == 0
    assert run(["ops", "bypass", "start", "b", "subject/ada", "--until", "90m", *WHY]) == 0
    assert run(["ops", "bypass", "end", "b", *WHY]) == 0
    first, second, last = service.requests
    assert (first.bypass_id, first.scope_kind, first.scope_owner_id) == ("b", pb.ACCOUNT_KIND_TEAM, "red")
    assert first.until.ToDatetime(UTC) == datetime(2026, 11, 20, 14, tzinfo=UTC)
    assert second.scope_kind == pb.ACCOUNT_KIND_SUBJECT
    away = second.until.ToDatetime(UTC) - datetime.now(UTC)
    assert timedelta(minutes=89) < away <= timedelta(minutes=90)
    assert last == pb.EndBypassRequest(bypass_id="b", reason_code="incident", ticket_id="OPS-1")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["ops", "bypass", "start", "b", "red", "--until", "1h", *WHY], "red: should be written subject|"),
        (["ops", "bypass", "start", "b", "team/", "--until", "1h", *WHY], "team/: should be written"),
        (["ops", "bypass", "start", "b", "group/x", "--until", "1h", *WHY], "group/x: should be written"),
        (["ops", "bypass", "start", "b", "team/red", "--until", "soon", *WHY], "--until should be"),
        (["ops", "bypass", "start", "b", "team/red", "--until", "0h", *WHY], "--until should be"),
        (["ops", "bypass", "start", "b", "team/red", "--until", "2026-11-20", *WHY], "--until should be"),
        (["ops", "bypass", "start", "b", "team/red", *WHY], "--until"),
        (["ops", "bypass", "end", "b", "--ticket", "OPS-1"], "--reason"),
        (["quota", "freeze", RED, "--reason", "x"], "--ticket"),
        (["quota", "close", *WHY], "ACCOUNT"),
        (["quota", "usage", "ada", "--since", "yesterday"], "--since should be"),
        (["quota", "usage", "ada", "--before", "2026-11-20"], "--before should be"),
        (["quota", "usage", "ada", "--limit", "0"], "--limit"),
        (["quota", "looks"], "Missing argument"),
        (["audit", "list", "--limit", "0"], "--limit"),
        (["audit", "verify", "--offline", "--database"], "--offline or --database"),
        (["audit", "verify", "--offline", "--expect", "7"], "7: should be written sequence:hash"),
    ],
)
def test_a_wrong_command_line_says_what_is_wrong(
    service: Service, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(arguments) == 2
    assert message in capsys.readouterr().err
    assert service.requests == []


@pytest.mark.parametrize(
    ("command", "shown"),
    [
        (["quota", "usage", "ada"], "u{}"),
        (["quota", "looks", "ada"], "p{}"),
        (["audit", "list"], "p{}"),
    ],
)
def test_lists_go_through_pages_up_to_the_limit(
    service: Service, command: list[str], shown: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(command) == 0
    printed = capsys.readouterr().out
    assert all(shown.format(number) in printed for number in range(5))
    assert run([*command, "--limit", "3", "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)) == 3
    assert [request.page_token for request in service.requests] == ["", "2", "4", "", "2"]


def test_who_asks_for_their_own_trail_need_not_say_for_whom(service: Service) -> None:
    assert run(["quota", "looks", "ada"]) == 0
    assert service.person == "ada"
    assert run(["quota", "looks", "ada", "--on-behalf-of", "auditor"]) == 0
    assert service.person == "auditor"
