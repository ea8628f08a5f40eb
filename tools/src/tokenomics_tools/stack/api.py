"""One stack, three sources: Kafka, PostgreSQL and an issuer, ready to use."""

import contextlib
import hashlib
import hmac
import os
import re
import secrets
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from enum import StrEnum
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import asyncpg

from tokenomics_tools.stack.component import Kafka, Postgres
from tokenomics_tools.stack.disk import SmallDisk
from tokenomics_tools.stack.embedded import EmbeddedKafka, EmbeddedPostgres
from tokenomics_tools.stack.errors import StackError
from tokenomics_tools.stack.external import ExternalKafka, ExternalPostgres
from tokenomics_tools.stack.issuer import AUDIENCE, ISSUER, Issuer
from tokenomics_tools.stack.probes import execute
from tokenomics_tools.stack.processes import ManagedProcess, Supervisor

SOURCE_VARIABLE = "TOKENOMICS_STACK"
_DATABASE_NAME = re.compile(r"[a-z][a-z0-9_]{0,39}")


class Source(StrEnum):
    """Where the servers come from."""

    EMBEDDED = "embedded"
    CONTAINERS = "containers"
    EXTERNAL = "external"


class Stack:
    """A running stack; made by ``start_stack``."""

    def __init__(
        self, source: Source, supervisor: Supervisor, kafka: Kafka, postgres: Postgres, secret: bytes
    ) -> None:
        self.source = source
        self.folder = supervisor.folder
        """Data, keys and logs."""
        self.kafka = kafka
        self.postgres = postgres
        self.issuer = Issuer(supervisor.folder / "issuer")
        self._supervisor = supervisor
        self._secret = secret
        self._made_databases: list[str] = []

    def describe(self) -> dict[str, str]:
        """Return what a person wants to know: source, addresses, folder. Passwords are not shown."""
        address = urlsplit(self.postgres.url)
        return {
            "source": self.source.value,
            "kafka": self.kafka.bootstrap,
            "postgres": f"{address.hostname}:{address.port or 5432}",
            "issuer": ISSUER,
            "folder": str(self.folder),
        }

    def new_database(self, name: str, *, reuse: bool = False) -> str:
        """Make a database and the login role that owns it, which may do nothing else, and return its URL.

        Parameters
        ----------
        name
            Lower-case letters, digits and underscores; a random suffix makes it unique.
        reuse
            Take exactly this name, with what an earlier stack on the same folder left in it.

        Raises
        ------
        StackError
            The name is none, or that of a role whose password another folder's secret made.
        """
        if not _DATABASE_NAME.fullmatch(name):
            raise StackError(f"{name!r} is no name for a database: it must match {_DATABASE_NAME.pattern}")
        if not reuse:
            name = f"{name}_{secrets.token_hex(4)}"
        password = _password(self._secret, name)
        admin = urlsplit(self.postgres.url)
        url = urlunsplit(
            admin._replace(netloc=f"{name}:{password}@{admin.netloc.rpartition('@')[2]}", path=f"/{name}")
        )
        try:
            execute(
                self.postgres.url,
                f"CREATE ROLE {name} LOGIN PASSWORD '{password}'",
                f"GRANT {name} TO CURRENT_USER",  # else only a superuser may give it a database
                f"CREATE DATABASE {name} OWNER {name}",
                f"REVOKE ALL ON DATABASE {name} FROM PUBLIC",
            )
        except asyncpg.DuplicateObjectError:
            # Made by an earlier stack with its database, and the same password if it had the same secret.
            if not reuse:
                raise
            self._require_login(name, url)
        if not reuse:
            self._made_databases.append(name)
        return url

    def _require_login(self, name: str, url: str) -> None:
        try:
            execute(url, "SELECT 1")
        except asyncpg.InvalidPasswordError:
            raise StackError(
                f"PostgreSQL has a role {name} whose password was not made from {self.folder / 'secret'}: "
                f"bring back the file it was made from, or drop database and role {name}"
            ) from None

    def service_environment(
        self, database_url: str, *, group: str | None = None, grpc_listen: str | None = None
    ) -> dict[str, str]:
        """Return the ``TOKENOMICS_`` variables of a service's process on this stack.

        Parameters
        ----------
        group
            Kafka consumer group; None for the service's default.
        grpc_listen
            ``host:port`` of the gRPC server; None for a process without one.
        """
        variables = {
            "TOKENOMICS_DATABASE_URL": database_url,
            "TOKENOMICS_KAFKA_BOOTSTRAP": self.kafka.bootstrap,
            "TOKENOMICS_AUTH_ISSUER": ISSUER,
            "TOKENOMICS_AUTH_AUDIENCE": AUDIENCE,
            "TOKENOMICS_AUTH_JWKS": str(self.issuer.jwks_path),
            "TOKENOMICS_AUTH_CALLERS": str(self.issuer.callers_path),
        }
        optional = {"TOKENOMICS_CONSUMER_GROUP": group, "TOKENOMICS_GRPC_LISTEN": grpc_listen}
        return variables | {name: value for name, value in optional.items() if value is not None}

    def spawn(
        self, name: str, argv: Sequence[str | Path], env: Mapping[str, str], *, cwd: Path | None = None
    ) -> ManagedProcess:
        """Start a program that ends with this stack, or with its owner at the latest.

        Parameters
        ----------
        name
            Names its log.
        env
            Added to our own environment, of which no ``TOKENOMICS_`` variable is passed on.
        """
        inherited = {key: value for key, value in os.environ.items() if not key.startswith("TOKENOMICS_")}
        return self._supervisor.start(name, argv, env=inherited | dict(env), cwd=cwd)

    def drop_databases(self) -> None:
        """Drop the databases made here that nobody will reuse, with their roles."""
        for name in self._made_databases:
            execute(self.postgres.url, f"DROP DATABASE {name} WITH (FORCE)", f"DROP ROLE {name}")


def choose_source(source: Source | str | None = None) -> Source:
    """Return the source asked for, else the one in ``TOKENOMICS_STACK``, else embedded.

    Raises
    ------
    StackError
        There is no such source.
    """
    asked = source or os.environ.get(SOURCE_VARIABLE) or Source.EMBEDDED
    try:
        return Source(asked)
    except ValueError:
        known = ", ".join(Source)
        raise StackError(
            f"{asked!r} is no source of a stack; {SOURCE_VARIABLE} may be one of {known}"
        ) from None


@contextlib.contextmanager
def start_stack(
    source: Source | str | None = None,
    data_dir: Path | None = None,
    *,
    small_disks: Mapping[str, int] | None = None,
) -> Iterator[Stack]:
    """Start Kafka and PostgreSQL, yield the stack when both answer, and leave nothing running behind.

    Parameters
    ----------
    source
        ``embedded``, ``containers`` or ``external``; None for the one in ``TOKENOMICS_STACK``, else embedded.
    data_dir
        Kept afterwards, and continued when an embedded stack starts on it again; None for a temporary one, of
        which ``keep_logs`` keeps the logs.
        With the other sources it gets only logs and keys.
    small_disks
        Sizes in bytes of file systems of their own for the data of ``kafka`` and ``postgres``: the
        component's ``disk``. Embedded only; this data goes with the stack.

    Raises
    ------
    StackError
        Something did not start; the message quotes its log. What had started is gone again.
    """
    source = choose_source(source)
    if small_disks and source is not Source.EMBEDDED:
        raise StackError(f"the {source} stack has no small disks: the embedded one has")
    supervisor = Supervisor(data_dir)
    try:
        secret = _read_or_make_secret(supervisor.folder / "secret")
        disks = {name: SmallDisk(supervisor, name, size) for name, size in (small_disks or {}).items()}
        kafka, postgres = _components(source, supervisor, _password(secret, "postgres"), disks)
        try:
            # One after the other in containers: testcontainers makes its reaper on first use, unguarded.
            with ThreadPoolExecutor(1 if source is Source.CONTAINERS else 2) as pool:
                starting = [pool.submit(kafka.start), pool.submit(postgres.start)]
                try:
                    for start in as_completed(starting):
                        start.result()
                except BaseException:
                    supervisor.close()  # so that nobody waits for the other's start
                    raise
            stack = Stack(source, supervisor, kafka, postgres, secret)
            try:
                yield stack
            finally:
                if source is Source.EXTERNAL:
                    stack.drop_databases()
        finally:
            kafka.close()
            postgres.close()
    finally:
        supervisor.close()


def _components(
    source: Source, supervisor: Supervisor, password: str, disks: Mapping[str, SmallDisk]
) -> tuple[Kafka, Postgres]:
    match source:
        case Source.EMBEDDED:
            return (
                EmbeddedKafka(supervisor, disks.get("kafka")),
                EmbeddedPostgres(supervisor, password, disks.get("postgres")),
            )
        case Source.CONTAINERS:
            # Imported late: Docker's client doubles the time of the import.
            from tokenomics_tools.stack import containers  # noqa: PLC0415

            if missing := containers.why_no_containers():
                raise StackError(f"no containers can be had here: {missing}")
            return containers.ContainerKafka(), containers.ContainerPostgres(password)
        case Source.EXTERNAL:
            return ExternalKafka(), ExternalPostgres()


def _read_or_make_secret(path: Path) -> bytes:
    if not path.exists():
        path.touch(mode=0o600)
        path.write_bytes(secrets.token_bytes(32))
    return path.read_bytes()


def _password(secret: bytes, role: str) -> str:
    # Derived, so that a stack which continues on a kept folder needs to remember nothing but the secret.
    return hmac.digest(secret, role.encode(), hashlib.sha256).hex()
