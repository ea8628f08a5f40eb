"""Nothing outlives a stack, however its owner ends; a folder that is given is kept and continued.

These are promises of the embedded source; containers have Ryuk, external servers are not ours to end.
"""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import asyncpg
import psutil
import pytest

from tests.support.stack import at_work_in
from tokenomics_tools.stack import GATEWAY, StackError, embedded, start_stack
from tokenomics_tools.stack.probes import execute, kafka_answers
from tokenomics_tools.stack.processes import Supervisor, free_port, poll

OWNER = """
import json, sys, time
from tokenomics_tools.stack import start_stack
with start_stack("embedded") as stack:
    stack.new_database("load")
    busy = stack.spawn("busy", ["sleep", "600"], {})
    busy.pause()
    print(json.dumps({"folder": str(stack.folder), "kafka": stack.kafka.bootstrap}), flush=True)
    time.sleep(600)
"""
FAILING = """
from tokenomics_tools.stack.processes import Supervisor, keep_logs
supervisor = Supervisor(None)
(supervisor.folder / "data").mkdir()
supervisor.start("culprit", ["/bin/echo", "why"], env={}).wait()
supervisor.close()
supervisor.close()
assert (supervisor.folder / "logs" / "culprit.log").read_text() == "why\\n"
assert not (supervisor.folder / "data").exists()
print(supervisor.folder)
"""
GONE_SECONDS = 15


class Owner:
    """A program that owns a running stack, and what it told of it."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(  # noqa: S603 - our own program
            [sys.executable, "-c", OWNER], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        assert self.process.stdout is not None
        told: dict[str, Any] = json.loads(self.process.stdout.readline())
        self.folder = Path(told["folder"])
        self.bootstrap: str = told["kafka"]

    def descendants(self) -> list[psutil.Process]:
        return psutil.Process(self.process.pid).children(recursive=True)


@pytest.fixture
def owner() -> Iterator[Owner]:
    running = Owner()
    yield running
    running.process.kill()
    running.process.communicate()


def assert_nothing_is_left(folder: Path, processes: list[psutil.Process]) -> None:
    def gone() -> bool:
        left = [process for process in processes if process.is_running()]
        return all(process.status() == psutil.STATUS_ZOMBIE for process in left) and not folder.exists()

    assert poll(gone, timeout_seconds=GONE_SECONDS), [processes, folder.exists()]
    assert at_work_in(folder) == []


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_nothing_outlives_an_owner_that_gets_a_signal(owner: Owner, number: signal.Signals) -> None:
    processes = owner.descendants()
    names = {process.name() for process in processes}
    assert {"java", "postgres", "sleep"} <= names
    assert kafka_answers(owner.bootstrap)

    owner.process.send_signal(number)
    owner.process.wait(GONE_SECONDS)

    assert_nothing_is_left(owner.folder, processes)


def test_nothing_runs_on_when_the_watchdog_is_killed_with_the_owner(owner: Owner) -> None:
    processes = owner.descendants()
    (watchdog,) = [process for process in processes if "_watchdog.py" in " ".join(process.cmdline())]

    watchdog.kill()
    owner.process.kill()

    assert poll(lambda: at_work_in(owner.folder) == [], timeout_seconds=GONE_SECONDS), at_work_in(
        owner.folder
    )
    shutil.rmtree(owner.folder)


def test_nothing_is_left_after_the_block_nor_after_an_exception_in_it() -> None:
    before = set(psutil.Process().children(recursive=True))
    with pytest.raises(ZeroDivisionError), start_stack("embedded") as stack:  # noqa: PT012 - the block is the subject
        folder, processes = stack.folder, [*{*psutil.Process().children(recursive=True)} - before]
        assert len(processes) > 3
        _ = 1 / 0
    assert {path.name for path in folder.iterdir()} == {"logs"}, "whose time has not come"
    shutil.rmtree(folder)
    assert_nothing_is_left(folder, processes)


@pytest.mark.parametrize("ending", ["", "keep_logs()"])
def test_logs_last_as_long_as_the_program_and_longer_when_it_says_so(ending: str) -> None:
    done = subprocess.run(  # noqa: S603 - our own program
        [sys.executable, "-c", FAILING + ending], check=True, capture_output=True, text=True
    )
    folder = Path(done.stdout.strip())
    kept = {str(path.relative_to(folder)): path.read_text() for path in folder.rglob("*.log")}
    shutil.rmtree(folder, ignore_errors=True)
    assert kept == ({"logs/culprit.log": "why\n"} if ending else {})


def test_processes_outlive_the_thread_that_asked_for_them() -> None:
    supervisor = Supervisor(None)
    started = []

    def start() -> None:
        started.append(supervisor.start("sleep", ["sleep", "600"], env={"PATH": os.defpath}))

    thread = threading.Thread(target=start)
    thread.start()
    thread.join()
    assert not poll(lambda: not started[0].running, timeout_seconds=0.5)
    supervisor.close()
    assert started[0].returncode == -signal.SIGKILL
    assert [path.name for path in supervisor.folder.iterdir()] == ["logs"]


async def test_a_folder_that_is_given_is_kept_and_continued(tmp_path: Path) -> None:
    folder = tmp_path / "kept"
    with start_stack("embedded", folder) as stack:
        url = stack.new_database("quota", reuse=True)
        execute(url, "CREATE TABLE kept AS SELECT 1 AS value")
        public_key, token = stack.issuer.jwks_path.read_text(), stack.issuer.token(GATEWAY)
    assert at_work_in(folder) == []

    with start_stack("embedded", folder) as stack:
        connection = await asyncpg.connect(stack.new_database("quota", reuse=True))
        assert await connection.fetchval("SELECT value FROM kept") == 1
        await connection.close()
        assert stack.issuer.jwks_path.read_text() == public_key, f"{token} would no longer hold"
        assert kafka_answers(stack.kafka.bootstrap)
    assert at_work_in(folder) == []


@pytest.mark.parametrize("name", ["kafka", "postgres"])
def test_a_start_that_loses_the_race_for_a_port_takes_another(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    supervisor = Supervisor(None)
    with socket.create_server(("127.0.0.1", 0)) as winner:
        ports = iter([winner.getsockname()[1], *(free_port() for _ in range(3))])
        monkeypatch.setattr(embedded, "free_port", ports.__next__)
        server = (
            embedded.EmbeddedKafka(supervisor)
            if name == "kafka"
            else embedded.EmbeddedPostgres(supervisor, "secret")
        )
        try:
            server.start()
            log = (supervisor.folder / "logs" / f"{name}.log").read_text()
            assert "Address already in use" in log, "the first port was never tried"
            address = server.bootstrap if isinstance(server, embedded.EmbeddedKafka) else server.url
            assert f":{winner.getsockname()[1]}" not in address
        finally:
            supervisor.close()


def test_a_program_that_does_not_exist_is_reported_by_who_starts_it() -> None:
    supervisor = Supervisor(None)
    try:
        with pytest.raises(StackError, match=r"nonsense cannot be started: .*No such file"):
            supervisor.start("nonsense", ["/no/such/program"], env={})
    finally:
        supervisor.close()


def test_a_failed_start_quotes_the_log_and_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "postgres" / "data").mkdir(parents=True)
    (tmp_path / "postgres" / "data" / "PG_VERSION").write_text("9.6\n")
    with (
        pytest.raises(StackError, match="server configuration file") as failure,
        start_stack("embedded", tmp_path),
    ):
        pass
    assert str(tmp_path / "logs" / "postgres.log") in str(failure.value)
    assert at_work_in(tmp_path) == []
