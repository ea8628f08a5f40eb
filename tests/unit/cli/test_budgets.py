"""A budget is shown for people and for machines, once or at each change."""

import json
from collections.abc import Iterator

import grpc
import pytest

from tests.support.answering import answering
from tokenomics.quota.v1 import quota_pb2 as pb
from tokenomics_cli.app import run

BUDGET = pb.Budget(
    account=pb.AccountBalance(
        account_id="team/red/all/2026-11", limit_micro_usd=5_000_000, posted_micro_usd=4_000_000
    ),
    experiment_posted_micro_usd=250_000,
    forecast_micro_usd=6_000_000,
    forecast_low_micro_usd=5_500_000,
    forecast_high_micro_usd=6_500_000,
    forecast_method="weekday_medians",
    owner_person_ids=["boss"],
)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[pb.GetBudgetRequest | pb.WatchBudgetRequest]]:
    """Serve the budget, with less spent at first to who watches, and note what is asked."""
    requests: list[pb.GetBudgetRequest | pb.WatchBudgetRequest] = []

    def get(request: pb.GetBudgetRequest, _: grpc.ServicerContext) -> pb.GetBudgetResponse:
        requests.append(request)
        return pb.GetBudgetResponse(budget=BUDGET)

    def watch(request: pb.WatchBudgetRequest, _: grpc.ServicerContext) -> Iterator[pb.WatchBudgetResponse]:
        requests.append(request)
        before = pb.Budget()
        before.CopyFrom(BUDGET)
        before.account.posted_micro_usd = 1_000_000
        before.ClearField("forecast_method")
        yield from (pb.WatchBudgetResponse(budget=each) for each in (before, BUDGET))

    with answering(monkeypatch, {"GetBudget": get, "WatchBudget": watch}):
        yield requests


def test_a_budget_is_shown_with_what_it_will_end_with(
    asked: list[object], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["quota", "budget", "team/red", "--period", "2026-11"]) == 0
    assert asked == [pb.GetBudgetRequest(kind=pb.ACCOUNT_KIND_TEAM, owner_id="red", period="2026-11")]
    shown = capsys.readouterr().out
    for text in ("$4.000000", "$5.000000", "80 %", "for experiments: $0.250000", "boss"):
        assert text in shown
    assert "about $6.000000, in four of five cases $5.500000 to $6.500000" in shown


def test_who_watches_is_shown_each_change(asked: list[object], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["quota", "watch", "cost_centre/cc-1"]) == 0
    assert asked == [pb.WatchBudgetRequest(kind=pb.ACCOUNT_KIND_COST_CENTRE, owner_id="cc-1")]
    shown = capsys.readouterr().out
    assert shown.index("$1.000000") < shown.index("nobody can say yet") < shown.index("$4.000000")


@pytest.mark.usefixtures("asked")
def test_a_machine_is_given_one_document_or_one_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["quota", "budget", "team/red", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["budget"]["forecast_high_micro_usd"] == "6500000"
    assert run(["quota", "watch", "team/red", "--json"]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["budget"]["account"]["posted_micro_usd"] for line in lines] == ["1000000", "4000000"]


@pytest.mark.parametrize("owner", ["red", "team/", "subject/ada", "unattributed/unattributed", "/red", ""])
@pytest.mark.parametrize("command", ["budget", "watch"])
def test_an_owner_that_is_no_project_team_or_cost_centre_is_a_wrong_command_line(
    owner: str, command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["quota", command, owner]) == 2
    assert "KIND/ID with a kind of project, team, cost_centre" in capsys.readouterr().err
