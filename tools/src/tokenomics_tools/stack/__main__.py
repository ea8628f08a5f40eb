"""``python -m tokenomics_tools.stack fetch|up|down|status``."""

import contextlib
import fcntl
import json
import os
import shlex
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import IO, Annotated, Any

import psutil
import typer
from rich.console import Console
from rich.table import Table

from tokenomics_tools.stack.api import Source, choose_source, start_stack
from tokenomics_tools.stack.errors import StackError
from tokenomics_tools.stack.issuer import GATEWAY, GOVERNANCE, OPERATOR, PORTAL
from tokenomics_tools.stack.kafka_programs import KafkaPrograms
from tokenomics_tools.stack.probes import kafka_answers, postgres_answers
from tokenomics_tools.stack.processes import poll
from tokenomics_tools.stack.services import is_ready, quota_processes

commands = typer.Typer(
    no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help=__doc__
)
console = Console(soft_wrap=True)

Folder = Annotated[Path, typer.Option(help="data, keys, logs and addresses")]
_FOLDER = Path(".local/stack")
_STATE = "state.json"
_OWNER = "owner.pid"
_UP_SECONDS = 300
_LOOK_SECONDS = 1
_DOWN_SECONDS = 120
_TOKEN_SECONDS = 30 * 24 * 3600
_CALLERS = {"gateway": GATEWAY, "portal": PORTAL, "operator": OPERATOR, "governance": GOVERNANCE}


@commands.command()
def fetch() -> None:
    """Download Apache Kafka into the cache, once."""
    KafkaPrograms()


@commands.command()
def up(
    folder: Folder = _FOLDER,
    source: Annotated[Source | None, typer.Option(help="default: TOKENOMICS_STACK, else embedded")] = None,
) -> None:
    """Start the stack and the quota service in the background; what is there already is left alone."""
    folder = folder.resolve()
    state = _running(folder)
    if state is None:
        if choose_source(source) is Source.EMBEDDED:
            KafkaPrograms()  # here, so that the progress of a first download is seen
        with console.status("starting Kafka, PostgreSQL and quota"):
            state = _running_or_started(folder, source)
    _print_addresses(state)
    example = "--provider anthropic --model claude-sonnet-4-5 --input-tokens 4000"
    console.print("\nTry, from the top of the repository:", style="bold")
    console.print(f"  . {_shell_path(folder / 'env')}    # addresses, a token, and the tokenomics command")
    governance = f"--token-file {_shell_path(folder / 'issuer' / 'governance.token')}"
    console.print(f"  tokenomics policy apply examples/policies/pilot/*.yaml {governance}", highlight=False)
    console.print(f"  tokenomics quota check p-71c9d2 {example}", highlight=False)
    operator = _shell_path(folder / "issuer" / "operator.token")
    console.print(f"  tokenomics ops positions --token-file {operator}", highlight=False)


@commands.command()
def down(folder: Folder = _FOLDER) -> None:
    """Stop what ``up`` started; the data stays."""
    owner = _owner(folder.resolve())
    if owner is None:
        console.print("nothing runs")
        return
    owner.terminate()
    with console.status("stopping"):
        try:
            owner.wait(_DOWN_SECONDS)
        except psutil.TimeoutExpired:
            owner.kill()
            raise StackError(f"it did not stop within {_DOWN_SECONDS} s and was killed") from None
    console.print("stopped")


@commands.command()
def status(folder: Folder = _FOLDER) -> None:
    """Show what runs; exit code 1 when something does not answer."""
    folder = folder.resolve()
    state = _running(folder)
    if state is None:
        console.print("it is starting or stopping" if _owner(folder) else "nothing runs")
        raise typer.Exit(1)
    _print_addresses(state)
    answers = {
        "kafka": kafka_answers(state["addresses"]["kafka"]),
        "postgres": postgres_answers(state["database_url"]),
        "quota": is_ready(state["addresses"]["quota"]),
    }
    for name, does_answer in answers.items():
        console.print(f"{name}: {'answers' if does_answer else 'does not answer'}")
    if not all(answers.values()):
        raise typer.Exit(1)


@commands.command(hidden=True)
def own(folder: Folder = _FOLDER, source: Source | None = None) -> None:
    """Own the stack until SIGTERM; ``up`` runs this in the background."""
    signal.signal(signal.SIGTERM, _give_up)
    stopping = threading.Event()
    state_path = folder / _STATE
    with start_stack(source, folder) as stack:
        database_url = stack.new_database("quota", reuse=True)
        with quota_processes(stack, database_url) as quota:
            for name, caller in _CALLERS.items():
                token = stack.issuer.token(caller, expires_in_seconds=_TOKEN_SECONDS)
                _write_private(folder / "issuer" / f"{name}.token", token)
            variables = {
                "TOKENOMICS_KAFKA_BOOTSTRAP": stack.kafka.bootstrap,
                "TOKENOMICS_QUOTA_ADDRESS": quota.address,
                "TOKENOMICS_TOKEN_FILE": str(folder / "issuer" / "gateway.token"),
            }
            exports = [f"export {name}={shlex.quote(value)}" for name, value in variables.items()]
            exports.append(f'export PATH={shlex.quote(str(Path(sys.executable).parent))}:"$PATH"')
            _write_private(folder / "env", "\n".join([*exports, ""]))
            state = {
                "pid": os.getpid(),
                "addresses": {**stack.describe(), "quota": quota.address},
                "database_url": database_url,
            }
            _write_private(state_path, json.dumps(state))
            signal.signal(signal.SIGTERM, lambda *_: stopping.set())
            try:
                while not stopping.wait(_LOOK_SECONDS):
                    quota.check()
            finally:
                state_path.unlink()


def _give_up(*_: object) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # what follows is the way out
    sys.exit(1)


def _running_or_started(folder: Path, source: Source | None) -> dict[str, Any]:
    """Wait for whoever starts already, or start an owner, who inherits the lock on the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / _OWNER).open("a+") as lock:
        if not poll(lambda: bool(_running(folder)) or _locks(lock), timeout_seconds=_UP_SECONDS):
            raise StackError(f"what starts or stops in {folder} has not come to an end: {_owner(folder)}")
        if state := _running(folder):
            return state
        return _start_in_background(folder, source, lock)


def _start_in_background(folder: Path, source: Source | None, lock: IO[str]) -> dict[str, Any]:
    log_path = folder / "up.log"
    with log_path.open("wb") as log:
        owner = subprocess.Popen(
            [sys.executable, "-m", "tokenomics_tools.stack", "own", "--folder", str(folder)]
            + (["--source", source.value] if source else []),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            pass_fds=[lock.fileno()],
        )
    state = None
    try:
        lock.write(str(owner.pid))
        lock.flush()
        poll(lambda: owner.poll() is not None or _running(folder) is not None, timeout_seconds=_UP_SECONDS)
        state = _running(folder)
    finally:
        if state is None:  # Ctrl-C does not reach it: it has a session of its own
            owner.terminate()
            owner.wait(_DOWN_SECONDS)
    if state is None:
        raise StackError(
            f"it did not start; {log_path} says:\n{log_path.read_text(errors='replace')[-6000:]}"
        )
    return state


def _locks(file: IO[str]) -> bool:
    """Take the lock of an owner's file, unless an owner has it."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    file.truncate(0)  # the last owner is gone
    return True


def _owner(folder: Path) -> psutil.Process | None:
    """Return who owns the folder, from the start of its start to the end of its stop."""
    path = folder / _OWNER
    with contextlib.suppress(FileNotFoundError, ValueError, psutil.Error), path.open("r+") as file:
        return None if _locks(file) else psutil.Process(int(file.read()))
    return None


def _running(folder: Path) -> dict[str, Any] | None:
    """Return what the owner of the folder wrote once everything ran; None when it does not run."""
    owner = _owner(folder)
    with contextlib.suppress(FileNotFoundError, json.JSONDecodeError):
        state: dict[str, Any] = json.loads((folder / _STATE).read_text())
        if owner is not None and state["pid"] == owner.pid:  # else a killed one left it
            return state
    return None


def _print_addresses(state: dict[str, Any]) -> None:
    table = Table.grid(padding=(0, 2))
    for name, value in state["addresses"].items():
        table.add_row(name, value)
    console.print(table)


def _shell_path(path: Path) -> str:
    return shlex.quote(str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path))


def _write_private(path: Path, text: str) -> None:
    path.touch(mode=0o600)
    path.write_text(text)


def main() -> None:
    """Run one command; what goes wrong is said in words."""
    try:
        commands()
    except StackError as error:
        Console(stderr=True, soft_wrap=True).print(str(error), style="red", markup=False, highlight=False)
        sys.exit(1)


if __name__ == "__main__":
    main()
