"""What the command promises of writing to Kafka."""

import asyncio
import json
import os
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import yaml

from tokenomics_cli.app import run
from tokenomics_cli.directory import DIRECTORY_TOPIC
from tokenomics_cli.emit import USAGE_TOPIC
from tokenomics_cli.kafka import read_events
from tokenomics_cli.policy_log import POLICY_TOPIC, published_policies
from tokenomics_contracts.events.base import Event
from tokenomics_contracts.events.directory import PersonUpserted
from tokenomics_tools.stack.processes import poll

pytestmark = pytest.mark.timeout(900)  # the first test also waits for the demo

CALL = {
    "time": "2026-11-20T10:00:00Z",
    "subject": "p-1",
    "tool": "chat",
    "provider": "openai",
    "model": "gpt-4o",
    "input_tokens": 10,
    "output_tokens": 5,
}


def write_calls(path: Path, count: int) -> Path:
    path.write_text("".join(json.dumps(CALL | {"latency_ms": number}) + "\n" for number in range(count)))
    return path


def ids_on_the_log(bootstrap: str, source: str) -> list[str]:
    events = asyncio.run(read_events(bootstrap, USAGE_TOPIC, Event))
    return [envelope.id for envelope, _ in events if envelope.source == source]


def emit(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, Any]:
    code = run(["emit", *arguments, "--json"])
    return code, json.loads(capsys.readouterr().out)


def test_a_file_sent_twice_has_the_same_ids_and_a_rerun_sends_nothing(
    bootstrap: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = write_calls(tmp_path / "calls.jsonl", 50)
    assert emit(capsys, str(file), "--source", "//twice")[1]["sent"] == 50
    assert emit(capsys, str(file), "--source", "//twice")[1] | {"sent": 0, "sent_before": 50} == {
        "sent": 0,
        "sent_before": 50,
        "refused": 0,
        "reject_file": None,
        "unsent_columns": [],
        "problems": [],
    }
    assert emit(capsys, str(file), "--source", "//twice", "--from-start")[1]["sent"] == 50
    ids = ids_on_the_log(bootstrap, "//twice")
    assert len(ids) == 100
    assert len(set(ids)) == 50


def test_a_killed_sending_goes_on_and_loses_nothing(
    bootstrap: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = write_calls(tmp_path / "calls.jsonl", 20_000)
    sending = subprocess.Popen(  # noqa: S603 - our own command
        [sys.executable, "-m", "tokenomics_cli", "emit", str(file), "--source", "//killed"],
        env=os.environ | {"TOKENOMICS_KAFKA_BOOTSTRAP": bootstrap},
    )
    marker = tmp_path / "calls.jsonl.resume.json"

    def acknowledged() -> bool:
        return marker.exists() and json.loads(marker.read_text())["marker"]["bytes"] > 0

    assert poll(acknowledged, timeout_seconds=60)
    sending.kill()
    assert sending.wait() == -9
    code, report = emit(capsys, str(file), "--source", "//killed")
    assert code == 0
    assert 0 < report["sent_before"] < 20_000
    assert report["sent"] + report["sent_before"] == 20_000
    assert len(set(ids_on_the_log(bootstrap, "//killed"))) == 20_000


def test_bad_rows_are_kept_with_line_and_reason_and_their_neighbours_sent(
    bootstrap: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = write_calls(tmp_path / "calls.jsonl", 3)
    good = file.read_bytes().splitlines()
    file.write_bytes(b"\n".join([good[0], b'{"time": \xff}', good[1], b'{"subject": "p-1"}', good[2]]))
    code, report = emit(capsys, str(file), "--source", "//bad")
    assert (code, report["sent"], report["refused"]) == (65, 3, 2)
    rejects = [json.loads(line) for line in Path(report["reject_file"]).read_text().splitlines()]
    assert [(one["line"], one["reason"]) for one in rejects] == [
        (2, "is not UTF-8"),
        (4, "time: should be there, as text"),
    ]
    assert rejects[0]["text"].encode("utf-8", "surrogateescape") == b'{"time": \xff}'
    again = emit(capsys, str(file), "--source", "//bad")
    assert (again[0], again[1]["sent"], again[1]["refused"]) == (65, 0, 2), "what was refused stays said"

    file.write_bytes(b"\n".join([good[0], good[1], b'{"subject": "p-1"}', good[2]]))
    code, report = emit(capsys, str(file), "--source", "//bad")
    assert (code, report["sent"], report["sent_before"], report["refused"]) == (65, 3, 0, 1)
    assert len(set(ids_on_the_log(bootstrap, "//bad"))) == 3


def test_what_was_refused_of_standard_input_stays_when_more_comes(bootstrap: str, tmp_path: Path) -> None:
    def emit_line(line: str) -> tuple[int, Any]:
        done = subprocess.run(
            [sys.executable, "-m", "tokenomics_cli", "emit", "-", "--source", "//piped", "--json"],
            input=line,
            env=os.environ | {"TOKENOMICS_KAFKA_BOOTSTRAP": bootstrap},
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
        )
        return done.returncode, json.loads(done.stdout)

    assert emit_line('{"first": 1}\n')[0] == 65
    code, report = emit_line(json.dumps(CALL) + "\n")
    assert (code, report["sent"], report["refused"], report["reject_file"]) == (0, 1, 0, None)
    code, report = emit_line('{"second": 2}\n')
    assert (code, report["refused"], report["reject_file"]) == (65, 1, "stdin.reject.jsonl")
    rejects = (tmp_path / "stdin.reject.jsonl").read_text().splitlines()
    assert [json.loads(line)["text"] for line in rejects] == ['{"first": 1}', '{"second": 2}']


def test_a_slow_pipe_is_sent_row_by_row_and_can_be_interrupted(bootstrap: str, tmp_path: Path) -> None:
    sending = subprocess.Popen(
        [sys.executable, "-m", "tokenomics_cli", "emit", "-", "--source", "//slow"],
        stdin=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=os.environ | {"TOKENOMICS_KAFKA_BOOTSTRAP": bootstrap},
        cwd=tmp_path,
    )
    assert sending.stdin is not None
    rejects = tmp_path / "stdin.reject.jsonl"

    def dealt_with(rows: int) -> bool:
        sent = len(ids_on_the_log(bootstrap, "//slow"))
        return sent == rows and rejects.exists() and rejects.read_bytes().count(b"\n") == rows

    try:
        for number in (1, 2):
            sending.stdin.write(json.dumps(CALL | {"latency_ms": number}).encode() + b"\n{}\n")
            sending.stdin.flush()
            assert poll(partial(dealt_with, number), timeout_seconds=60)
        sending.send_signal(signal.SIGINT)
        assert sending.wait(60) == 130
    finally:
        sending.kill()
        _, errors = sending.communicate()
    assert b"Traceback" not in errors


@pytest.mark.usefixtures("bootstrap")
def test_files_of_one_name_share_a_state_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    state = tmp_path / "state"
    state.mkdir()
    files = [tmp_path / day / "usage.jsonl" for day in ("monday", "tuesday")]
    for file in files:
        file.parent.mkdir()
        refused = json.dumps({"from": file.parent.name}) + "\n"
        file.write_text(write_calls(file, 1).read_text() + refused)
    for sent in (1, 0):
        reports = [emit(capsys, str(file), "--source", "//days", "--state", str(state))[1] for file in files]
        assert [(one["sent"], one["refused"]) for one in reports] == [(sent, 1), (sent, 1)]
    for file, report in zip(files, reports, strict=True):
        assert file.parent.name in Path(report["reject_file"]).read_text()
        assert [*file.parent.iterdir()] == [file]


def test_another_mapping_is_another_sending(
    bootstrap: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "calls.csv"
    file.write_text("who,time\np-1,2026-11-20T10:00:00Z\n")
    constants = [f"--set={name}={value}" for name, value in CALL.items() if name not in {"time", "subject"}]
    assert emit(capsys, str(file), "--source", "//csv", *constants)[0] == 65
    code, report = emit(capsys, str(file), "--source", "//csv", "--map", "who=subject", *constants)
    assert (code, report["sent"], report["reject_file"]) == (0, 1, None)
    assert len(ids_on_the_log(bootstrap, "//csv")) == 1


def test_a_policy_written_against_another_version_is_refused_and_nothing_is_published(
    bootstrap: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def newest() -> Any:
        return asyncio.run(published_policies(bootstrap))["sources"][-1]

    def policy(version: int, replaces: int | None) -> str:
        file = tmp_path / "sources.yaml"
        document = {"sources": [{"source": f"//v{version}", "owner_id": "p-1"}]}
        content = {"kind": "sources", "version": version, "effective_from": "2026-01-01T00:00:00Z"}
        against = {} if replaces is None else {"replaces": replaces}
        file.write_text(yaml.safe_dump(content | against | {"document": document}))
        return str(file)

    assert newest().version == 1
    for version, replaces in ((1, None), (2, None), (3, 2)):
        assert run(["policy", "apply", policy(version, replaces)]) == 1
        assert "tokenomics policy diff" in capsys.readouterr().err
    assert newest().version == 1
    assert run(["policy", "diff", policy(2, 1)]) == 1
    assert "+  - source: //v2" in capsys.readouterr().out
    assert run(["policy", "apply", policy(2, 1)]) == 0
    assert newest().version == 2
    assert run(["policy", "diff", policy(2, 1)]) == 0
    assert run(["policy", "apply", policy(2, 1)]) == 0, "publishing it again changes nothing"
    assert len(asyncio.run(read_events(bootstrap, POLICY_TOPIC, Event))) == 5
    assert run(["policy", "show", "sources", "--version", "2"]) == 0
    assert "source: //v2" in capsys.readouterr().out


def test_only_what_changed_of_a_directory_is_published(
    bootstrap: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def apply(team_id: str, day: int, *, dated: bool = False) -> Any:
        person = {"person_id": "p-mover", "role": "engineer", "team_id": team_id}
        if dated:
            person["effective_from"] = f"2026-11-{day:02}T00:00:00Z"
        file = tmp_path / "directory.yaml"
        file.write_text(yaml.safe_dump({"effective_from": f"2026-11-{day:02}T00:00:00Z", "people": [person]}))
        assert run(["directory", "apply", str(file), "--json"]) == 0
        return json.loads(capsys.readouterr().out)

    published, unchanged = {"person.upserted": 1, "unchanged": 0}, {"unchanged": 1}
    assert apply("team-a", 1) == published
    assert apply("team-a", 2) == unchanged, "the file's own date alone changes nobody"
    assert apply("team-b", 3) == published
    assert apply("team-a", 3) == published, "going back is a change of its own"
    assert apply("team-a", 4, dated=True) == published
    assert apply("team-a", 4, dated=True) == unchanged
    moves = [
        (envelope.id, event.team_id)
        for envelope, event in asyncio.run(read_events(bootstrap, DIRECTORY_TOPIC, PersonUpserted))
        if event.person_id == "p-mover"
    ]
    assert [team_id for _, team_id in moves] == ["team-a", "team-b", "team-a", "team-a"]
    assert len({event_id for event_id, _ in moves}) == 4


def test_a_folder_that_cannot_keep_the_marker_is_said_before_anything_is_sent(
    bootstrap: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = write_calls(tmp_path / "calls.jsonl", 1)
    assert run(["emit", str(file), "--source", "//nowhere", "--state", str(tmp_path / "absent")]) == 74
    assert "--state" in capsys.readouterr().err
    assert ids_on_the_log(bootstrap, "//nowhere") == []


def test_without_a_broker_the_command_says_so(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TOKENOMICS_KAFKA_BOOTSTRAP", "127.0.0.1:1")
    assert run(["emit", str(write_calls(tmp_path / "calls.jsonl", 1)), "--source", "//nobody"]) == 69
    assert "TOKENOMICS_KAFKA_BOOTSTRAP" in capsys.readouterr().err
