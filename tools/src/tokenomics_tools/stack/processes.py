"""Processes that never outlive their owner: started, signalled, waited for, with their logs kept."""

import atexit
import contextlib
import operator
import os
import queue
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from pathlib import Path

import psutil
from tenacity import Retrying, retry_if_result, stop_after_delay, wait_fixed

from tokenomics_tools.stack.errors import StackError

_LAUNCH = Path(__file__).with_name("_launch.py")
_WATCHDOG = Path(__file__).with_name("_watchdog.py")
_POLL_SECONDS = 0.05
_KILL_SECONDS = 10


def poll(
    condition: Callable[[], bool], *, timeout_seconds: float, every_seconds: float = _POLL_SECONDS
) -> bool:
    """Wait until the condition holds; whether it did within the time. What it raises goes through."""
    return Retrying(
        retry=retry_if_result(operator.not_),
        stop=stop_after_delay(timeout_seconds),
        wait=wait_fixed(every_seconds),
        retry_error_callback=lambda _: False,
    )(condition)


def _alive(process: psutil.Process) -> bool:
    # A zombie has let go of everything; where process 1 reaps late it stays visible for seconds.
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


class ManagedProcess:
    """A process of the stack. Its standard output and error are appended to ``log_path``."""

    def __init__(self, name: str, popen: subprocess.Popen[bytes], log_path: Path, log_start: int) -> None:
        self.name = name
        self.log_path = log_path
        self._popen = popen
        self._log_start = log_start

    @property
    def pid(self) -> int:
        """Process id; after the process ended it may belong to another one."""
        return self._popen.pid

    @property
    def returncode(self) -> int | None:
        """Exit code, negative for a signal, None while the process runs."""
        return self._popen.poll()

    @property
    def running(self) -> bool:
        """Whether the process has not ended; a paused one counts as running."""
        return self.returncode is None

    def signal(self, number: int) -> None:
        """Send a signal to the process alone; nothing happens when it has ended."""
        self._popen.send_signal(number)

    def terminate(self) -> None:
        """Send SIGTERM to the process alone; does not wait."""
        self.signal(signal.SIGTERM)

    def kill(self) -> None:
        """Send SIGKILL to the process and all its descendants, and return when every one of them is gone."""
        self.signal(signal.SIGSTOP)  # so that it starts nobody who would be missed
        descendants = self._descendants()
        for process in descendants:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        self._popen.kill()
        self._popen.wait()
        poll(lambda: not any(map(_alive, descendants)), timeout_seconds=_KILL_SECONDS)

    def pause(self) -> None:
        """Send SIGSTOP to the process, then to its descendants."""
        self.signal(signal.SIGSTOP)
        for process in self._descendants():
            with contextlib.suppress(psutil.NoSuchProcess):
                process.suspend()

    def resume(self) -> None:
        """Send SIGCONT to the descendants, then to the process."""
        for process in self._descendants():
            with contextlib.suppress(psutil.NoSuchProcess):
                process.resume()
        self.signal(signal.SIGCONT)

    def wait(self, timeout_seconds: float | None = None) -> int:
        """Wait for the end and return the exit code.

        Raises
        ------
        StackError
            The process still runs after the given time.
        """
        try:
            return self._popen.wait(timeout_seconds)
        except subprocess.TimeoutExpired:
            raise StackError(f"{self.name} still runs after {timeout_seconds} s{self.quote_log()}") from None

    def wait_until(self, ready: Callable[[], bool], *, timeout_seconds: float) -> None:
        """Poll until ``ready`` returns true.

        Raises
        ------
        StackError
            The process ended before that, or the time is over; the message quotes the log.
        """

        def ready_or_ended() -> bool:
            if ready():
                return True
            if not self.running:
                raise StackError(f"{self.name} ended with exit code {self.returncode}{self.quote_log()}")
            return False

        if not poll(ready_or_ended, timeout_seconds=timeout_seconds):
            raise StackError(f"{self.name} was not ready within {timeout_seconds:g} s{self.quote_log()}")

    def log_text(self) -> str:
        """Return what this process has written; earlier ones of the same name may share the file."""
        with self.log_path.open("rb") as log:
            log.seek(self._log_start)
            return log.read().decode(errors="replace")

    def quote_log(self, lines: int = 20) -> str:
        """Return the last lines of the log as a paragraph for an error message."""
        tail = self.log_text().splitlines()[-lines:]
        return "\n".join([f"\nthe last lines of {self.log_path}:", *tail])

    def _descendants(self) -> list[psutil.Process]:
        try:
            return psutil.Process(self.pid).children(recursive=True) if self.running else []
        except psutil.NoSuchProcess:
            return []


class Supervisor:
    """Owns the folder and the processes of one stack; however it ends, nothing is left running.

    Two guards stand behind ``close``. The kernel kills each process when its parent ends (PR_SET_PDEATHSIG,
    Linux only). As that fires when the *thread* that forked ends, all processes are started by one thread
    which lives as long as the interpreter. A watchdog process kills what is left and removes a temporary
    folder.

    Parameters
    ----------
    folder
        Kept when given; None for a temporary one, whose logs stay until this interpreter ends: see
        ``keep_logs``.
    """

    def __init__(self, folder: Path | None) -> None:
        mode = "remove" if folder is None else "keep"
        self.folder = Path(
            tempfile.mkdtemp(prefix="tokenomics-stack-") if folder is None else folder
        ).resolve()
        self.temporary = folder is None
        if self.temporary:
            _temporary_folders.append(self.folder)
        self._log_folder = self.folder / "logs"
        self._log_folder.mkdir(parents=True, exist_ok=True)
        self._processes: list[ManagedProcess] = []
        self._closing = False
        self._watchdog = subprocess.Popen(
            [sys.executable, str(_WATCHDOG), str(self.folder), mode],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd="/",
            start_new_session=True,
        )

    def start(
        self,
        name: str,
        command: Sequence[str | Path],
        *,
        env: Mapping[str, str],
        cwd: Path | None = None,
        user: tuple[int, int] | None = None,
    ) -> ManagedProcess:
        """Start a program in a session of its own, which Ctrl-C does not reach; return once it runs.

        Parameters
        ----------
        name
            Names the log file; one name may be used again, its log is appended to.
        env
            The whole environment of the program.
        user
            User and group id to run as; None for our own.

        Raises
        ------
        StackError
            There is no such program, it may not be executed, or the supervisor is closed.
        """
        if self._closing:
            raise StackError(f"{name} cannot be started: the stack is being closed")
        log_path = self._log_folder / f"{name}.log"
        as_user = "-" if user is None else f"{user[0]}:{user[1]}"
        reading, writing = os.pipe()
        launch = [sys.executable, "-I", "-S", str(_LAUNCH), str(os.getpid()), str(writing), as_user]

        log_path.touch()
        log_start = log_path.stat().st_size

        def popen() -> subprocess.Popen[bytes]:
            with log_path.open("ab") as log:
                return subprocess.Popen(
                    [*launch, *command],
                    pass_fds=[writing],
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    cwd=cwd,
                    env=dict(env),
                    start_new_session=True,
                )

        with os.fdopen(reading, "rb") as report:
            try:
                started = _call_in_spawner_thread(popen)
            finally:
                os.close(writing)
            process = ManagedProcess(name, started, log_path, log_start)
            self._processes.append(process)
            self._tell_watchdog(process.pid)
            if problem := report.read().decode():
                raise StackError(f"{name} cannot be started: {problem}")
        return process

    def close(self) -> None:
        """Kill what still runs and empty a temporary folder of all but the logs; idempotent."""
        if not self._closing:
            with contextlib.suppress(BrokenPipeError):  # somebody killed it
                self._tell_watchdog("logs")
        self._closing = True
        for process in self._processes:
            process.kill()
        self._watchdog.communicate()

    def _tell_watchdog(self, line: object) -> None:
        assert self._watchdog.stdin is not None
        self._watchdog.stdin.write(f"{line}\n".encode())
        self._watchdog.stdin.flush()


_temporary_folders: list[Path] = []


def keep_logs() -> Sequence[Path]:
    """Let the logs of this interpreter's temporary stacks outlive it, for whoever looks into a failure.

    Returns
    -------
    Sequence
        The folders of the stacks, each with its ``logs``.
    """
    kept = [folder for folder in _temporary_folders if folder.exists()]
    _temporary_folders.clear()
    return kept


@atexit.register
def _remove_logs() -> None:
    for folder in _temporary_folders:
        shutil.rmtree(folder, ignore_errors=True)


_given_ports: set[int] = set()


def free_port() -> int:
    """Return a TCP port that is free on the loopback interface now; a start must be ready to lose it.

    No port is given twice: who asks for two binds neither yet.
    It lies below the range that the kernel hands out to clients: a client that keeps reconnecting to a
    stopped server on a port of that range can connect to itself and so take the port from its restart.
    """
    while True:
        port = random.SystemRandom().randrange(15_000, 30_000)
        if port in _given_ports:
            continue
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            _given_ports.add(port)
            return port


_Start = Callable[[], subprocess.Popen[bytes]]
_requests: queue.SimpleQueue[tuple[_Start, Future[subprocess.Popen[bytes]]]] = queue.SimpleQueue()
_spawner_lock = threading.Lock()
_spawner: threading.Thread | None = None


def _call_in_spawner_thread(start: _Start) -> subprocess.Popen[bytes]:
    global _spawner  # noqa: PLW0603 - one thread per interpreter, whatever the number of stacks
    with _spawner_lock:
        if _spawner is None:
            _spawner = threading.Thread(target=_spawn_for_ever, name="stack-spawner", daemon=True)
            _spawner.start()
    future: Future[subprocess.Popen[bytes]] = Future()
    _requests.put((start, future))
    return future.result()


def _spawn_for_ever() -> None:
    while True:
        start, future = _requests.get()
        try:
            future.set_result(start())
        except BaseException as error:  # noqa: BLE001 - raised again where it was asked for
            future.set_exception(error)
