"""Drift is told with every total that differs, and gives the shell a code of its own."""

import json
from collections.abc import Iterator

import grpc
import pytest

from tests.support.answering import answering
from tokenomics.quota.v1 import quota_pb2 as pb
from tokenomics_cli.app import run

DRIFT = pb.Drift(
    kept=pb.KEPT_TOTAL_POSTED,
    name="team/red/operational/2026-11",
    kept_micro_usd=3_000_000,
    recomputed_micro_usd=2_500_000,
)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Serve comparisons of two steps, in which one total drifts unless an account is asked for."""
    accounts: list[str] = []

    def check(request: pb.CheckDriftRequest, _: grpc.ServicerContext) -> Iterator[pb.CheckDriftResponse]:
        accounts.append(request.account_id)
        yield pb.CheckDriftResponse(period="2026-11", compared_totals=1_200, step=1, steps=2)
        drifts = [] if request.account_id else [DRIFT]
        yield pb.CheckDriftResponse(
            compared_totals=34, step=2, steps=2, drifts=drifts, drifting_totals=len(drifts)
        )

    with answering(monkeypatch, {"CheckDrift": check}):
        yield accounts


def test_totals_that_differ_are_shown_and_the_exit_code_is_1(
    asked: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["quota", "drift"]) == 1
    assert run(["quota", "drift", "all"]) == 1
    assert asked == ["", ""]
    shown = capsys.readouterr().out
    for text in (DRIFT.name, "posted", "$3.000000", "$2.500000", "$0.500000", "1 of 1,234 totals differ"):
        assert text in shown


def test_totals_that_are_right_are_counted_and_the_exit_code_is_0(
    asked: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["quota", "drift", "team/red/all/2026-11"]) == 0
    assert asked == ["team/red/all/2026-11"]
    assert "1,234 totals are what they are the totals of" in capsys.readouterr().out


@pytest.mark.usefixtures("asked")
def test_a_machine_is_given_one_document(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["quota", "drift", "--json"]) == 1
    told = json.loads(capsys.readouterr().out)
    assert (told["compared_totals"], told["drifting_totals"]) == (1_234, 1)
    assert told["drifts"][0]["kept"] == "KEPT_TOTAL_POSTED"
