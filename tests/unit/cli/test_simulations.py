"""A simulation is asked for, watched until it has ended, and told for people and machines."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from tests.support.answering import answering, refuse
from tokenomics.quota.v1 import quota_pb2 as pb
from tokenomics_cli.app import run

POLICY = """
kind: quota
version: 3
replaces: 2
effective_from: 2027-01-01T00:00:00Z
document: {time_zone: UTC}
"""
RESULT = pb.SimulationResult(
    decisions=[
        pb.DecisionCount(
            decision=pb.DECISION_ALLOW, actual=1_234, simulated=1_000, actual_micro_usd=5_000_000
        ),
        pb.DecisionCount(decision=pb.DECISION_DENIED, simulated=234, simulated_micro_usd=2_500_000),
    ],
    posted_micro_usd=7_000_000,
    simulated_posted_micro_usd=6_000_000,
    interrupted_subjects=21,
    actual_interrupted_subjects=3,
    changed_subjects=19,
    newly_denied_micro_usd=1_500_000,
    changes=pb.DecisionChanges(
        people=40,
        calls=1_234,
        stricter_calls=230,
        milder_calls=4,
        newly_interrupted_calls=229,
        no_longer_interrupted_calls=2,
    ),
    teams=[pb.DecisionChanges(name="red", people=35, calls=1_111), pb.DecisionChanges(people=5, calls=123)],
)


class Asked:
    """What was asked, and how simulations end."""

    def __init__(self) -> None:
        self.requests: list[pb.StartSimulationRequest] = []
        self.last: dict[str, Any] = {"state": pb.SIMULATION_STATE_COMPLETED, "result": RESULT}
        self.breaks = False

    def start(self, request: pb.StartSimulationRequest, _: grpc.ServicerContext) -> Any:
        self.requests.append(request)
        return pb.StartSimulationResponse(simulation=self._simulation(request.simulation_id))

    def watch(self, request: pb.WatchSimulationRequest, context: grpc.ServicerContext) -> Iterator[Any]:
        yield pb.WatchSimulationResponse(
            simulation=self._simulation(request.simulation_id, replayed_events=5)
        )
        if self.breaks:
            refuse(context, grpc.StatusCode.UNAVAILABLE.value[0], "this server stops")
        yield pb.WatchSimulationResponse(simulation=self._simulation(request.simulation_id, **self.last))

    @staticmethod
    def _simulation(simulation_id: str, **fields: Any) -> pb.Simulation:
        defaults = {"state": pb.SIMULATION_STATE_RUNNING}
        return pb.Simulation(simulation_id=simulation_id, total_events=9, **(defaults | fields))


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Iterator[Asked]:
    made = Asked()
    with answering(monkeypatch, {"StartSimulation": made.start, "WatchSimulation": made.watch}):
        yield made


@pytest.fixture
def policy(tmp_path: Path) -> str:
    (tmp_path / "quota.yaml").write_text(POLICY)
    return str(tmp_path / "quota.yaml")


RANGE = ("--since", "2026-11-01T00:00:00Z", "--before", "2026-11-20T00:00:00+01:00")


def test_the_documents_of_the_files_are_simulated_in_the_range(asked: Asked, policy: str) -> None:
    assert run(["policy", "simulate", policy, *RANGE, "--id", "mine"]) == 0
    (request,) = asked.requests
    assert request.simulation_id == "mine"
    assert {kind: dict(document) for kind, document in request.documents.items()} == {
        "quota": {"time_zone": "UTC"}
    }
    assert request.since.ToJsonString() == "2026-11-01T00:00:00Z"
    assert request.before.ToJsonString() == "2026-11-19T23:00:00Z"


def test_people_are_told_what_changes_and_for_whom(
    asked: Asked, policy: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["policy", "simulate", policy, *RANGE]) == 0
    assert asked.requests[0].simulation_id.startswith("simulation-")
    told = capsys.readouterr()
    assert asked.requests[0].simulation_id in told.err
    for text in (
        *("ALLOW", "1,234", "1,000", "$5.000000", "DENIED", "$2.500000"),
        "230 of 1,234 calls would have been decided more strictly, 4 more mildly; they are 19 subjects'",
        "229 calls more, 2 fewer; 21 subjects, 3 then",
        "$6.000000, $7.000000 then",
        "newly denied cost $1.500000",
        *("red", "1,111", "(others)"),
        "by role: nothing can be told that isn't of fewer than five people",
    ):
        assert text in told.out


def test_a_machine_is_given_the_simulation(
    asked: Asked, policy: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["policy", "simulate", policy, *RANGE, "--id", "mine", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["simulation_id"], told["state"]) == ("mine", "SIMULATION_STATE_COMPLETED")
    assert told["result"]["changes"]["stricter_calls"] == "230"
    assert len(asked.requests) == 1


def test_a_simulation_that_failed_says_why_and_the_exit_code_is_1(
    asked: Asked, policy: str, capsys: pytest.CaptureFixture[str]
) -> None:
    asked.last = {"state": pb.SIMULATION_STATE_FAILED, "error_message": "choose a shorter range"}
    assert run(["policy", "simulate", policy, *RANGE]) == 1
    assert "the simulation failed: choose a shorter range" in capsys.readouterr().err


def test_a_watch_that_breaks_says_how_to_watch_on(
    asked: Asked, policy: str, capsys: pytest.CaptureFixture[str]
) -> None:
    asked.breaks = True
    assert run(["policy", "simulate", policy, *RANGE, "--id", "mine"]) == 69
    assert "--id mine" in capsys.readouterr().err


@pytest.mark.parametrize("wrong", ["yesterday", "2026-11-01"])
def test_a_time_that_is_none_is_refused_before_anything_is_asked(
    asked: Asked, policy: str, wrong: str
) -> None:
    assert run(["policy", "simulate", policy, "--since", wrong, "--before", RANGE[3]]) == 2
    assert asked.requests == []
