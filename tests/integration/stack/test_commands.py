"""``up`` leaves a working stack behind, the commands that it prints work, ``down`` ends it all."""

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.support.stack import at_work_in
from tokenomics_tools.stack.processes import poll

REPOSITORY = Path(__file__).parents[3]


class Commands:
    """The stack's commands on one folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def run(self, command: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(  # noqa: S603 - our own program
            self.argv(command),
            check=False,
            capture_output=True,
            text=True,
            timeout=250,
            cwd=REPOSITORY,
            env=self.environment,
        )

    def begin(self, command: str) -> subprocess.Popen[str]:
        return subprocess.Popen(  # noqa: S603 - our own program
            self.argv(command), stdout=subprocess.PIPE, text=True, cwd=REPOSITORY, env=self.environment
        )

    def argv(self, command: str) -> list[str]:
        return [sys.executable, "-m", "tokenomics_tools.stack", command, "--folder", str(self.folder)]

    def shell(self, script: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(  # noqa: S603 - our own script
            ["/bin/sh", "-euc", script],
            check=False,
            capture_output=True,
            text=True,
            timeout=60,
            cwd=REPOSITORY,
            env=self.environment,
        )

    @property
    def environment(self) -> dict[str, str]:
        kept = {key: value for key, value in os.environ.items() if not key.startswith("TOKENOMICS_")}
        return {**kept, "PATH": os.defpath, "TOKENOMICS_STACK": "embedded"}

    def owner(self) -> psutil.Process:
        return psutil.Process(json.loads((self.folder / "state.json").read_text())["pid"])


@pytest.fixture
def commands(tmp_path: Path) -> Iterator[Commands]:
    running = Commands(tmp_path / "stack")
    yield running
    running.run("down")


@pytest.mark.timeout(600)
def test_up_leaves_a_stack_on_which_the_printed_commands_work(commands: Commands) -> None:
    assert commands.run("status").returncode == 1

    up = commands.run("up")
    assert up.returncode == 0, up.stderr
    first, *tries = re.findall(r"^  ((?:\.|tokenomics) .*)$", up.stdout, re.MULTILINE)
    assert len(tries) == 3
    for command in tries:
        done = commands.shell(f"{first}\n{command}")
        assert done.returncode == 0, (command, done.stdout, done.stderr)
    owner = commands.owner()
    assert commands.run("up").stdout == up.stdout
    assert commands.owner() == owner
    assert commands.run("status").returncode == 0

    owner.kill()
    assert poll(lambda: at_work_in(commands.folder) == [], timeout_seconds=20), at_work_in(commands.folder)
    assert commands.run("status").returncode == 1

    assert commands.run("up").returncode == 0
    balances = commands.shell(
        f"{first}\ntokenomics ops positions --json {tries[-1].partition('positions')[2]}"
    )
    assert "tokenomics.policy.v1" in balances.stdout, "the data of the killed stack is continued"
    down = commands.run("down")
    assert (down.returncode, down.stdout) == (0, "stopped\n")
    assert at_work_in(commands.folder) == []
    assert commands.run("down").stdout == "nothing runs\n"


def begin_to_start(commands: Commands) -> subprocess.Popen[str]:
    up = commands.begin("up")
    assert poll((commands.folder / "logs").exists, timeout_seconds=60)
    assert not (commands.folder / "state.json").exists()
    return up


def test_an_interrupted_up_leaves_nothing_running(commands: Commands) -> None:
    up = begin_to_start(commands)
    up.send_signal(signal.SIGINT)
    up.communicate(timeout=60)
    assert up.returncode == 130
    assert at_work_in(commands.folder) == []
    assert commands.run("down").stdout == "nothing runs\n"


def test_down_stops_what_is_starting_and_no_up_waits_for(commands: Commands) -> None:
    up = begin_to_start(commands)
    up.kill()
    up.communicate()
    assert commands.run("status").stdout == "it is starting or stopping\n"
    assert commands.run("down").stdout == "stopped\n"
    assert at_work_in(commands.folder) == []


def test_a_second_up_waits_for_the_first(commands: Commands) -> None:
    first = begin_to_start(commands)
    second = commands.run("up")
    assert second.returncode == 0, second.stderr
    assert first.communicate()[0] == second.stdout
    assert commands.run("down").stdout == "stopped\n"


def test_up_says_why_it_did_not_start(commands: Commands) -> None:
    (commands.folder / "postgres" / "data").mkdir(parents=True)
    (commands.folder / "postgres" / "data" / "PG_VERSION").write_text("9.6\n")
    up = commands.run("up")
    assert up.returncode == 1
    assert "server configuration file" in up.stderr
    assert at_work_in(commands.folder) == []
