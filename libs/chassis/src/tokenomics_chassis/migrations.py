"""Migrations: numbered SQL files of several packages, each applied once, never edited afterwards."""

import hashlib
import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Literal

import asyncpg

from tokenomics_chassis.postgres import Connection, Schemas, Session
from tokenomics_chassis.process import ExitCode, FatalError

log = logging.getLogger(__name__)

Kind = Literal["service", "derived"]

_FILE_NAME = re.compile(r"\d{3}_[a-z0-9_]+\.sql")
_SCHEMA_NAME = re.compile(r"[a-z][a-z0-9_]{0,62}")

_HISTORY = """
CREATE TABLE IF NOT EXISTS schema_migration (
    package    text        NOT NULL,
    name       text        NOT NULL,
    checksum   text        NOT NULL,
    applied_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (package, name)
)
"""


class WrongSchemaError(FatalError):
    """The database's schema is not the one this code was written for."""

    def __init__(self, message: str) -> None:
        super().__init__(message, ExitCode.SCHEMA)


class NewerSchemaError(WrongSchemaError):
    """The database's schema was brought further than this code knows."""


@dataclass(frozen=True, slots=True)
class MigrationSource:
    """A package whose ``folder`` holds ``service/NNN_name.sql`` and ``derived/NNN_name.sql``."""

    package: str
    folder: str


CHASSIS = MigrationSource("tokenomics_chassis", "sql")


@dataclass(frozen=True, slots=True)
class _Migration:
    package: str
    name: str
    sql: str

    @property
    def checksum(self) -> str:
        return hashlib.sha256(self.sql.encode()).hexdigest()


class Migrations:
    """The files a service's schemas are made of: the chassis' first, then those of ``sources`` in order.

    The service's own schema, and that of one version of the derived state if ``schemas`` names one.

    The role needs CREATE on the database only for the first run in a schema.
    """

    def __init__(self, schemas: Schemas, sources: Sequence[MigrationSource] = ()) -> None:
        self._schemas: dict[Kind, str] = {"service": schemas.service}
        self._search_paths: dict[Kind, str] = {"service": schemas.service}
        if schemas.version is not None:
            self._schemas["derived"] = schemas.derived
            self._search_paths["derived"] = schemas.search_path
        for schema in self._schemas.values():
            if not _SCHEMA_NAME.fullmatch(schema):
                raise ValueError(f"not a schema name: {schema!r}")
        self._files: dict[Kind, list[_Migration]] = {
            kind: [file for source in (CHASSIS, *sources) for file in _files(source, kind)]
            for kind in self._schemas
        }

    async def migrate(self, url: str) -> list[str]:
        """Bring the schemas up to date and return what was applied, as ``schema: package/name``.

        Safe to run from several processes at once, and again after a crash: each file commits with its own
        record, under an advisory lock.

        Raises
        ------
        WrongSchemaError
            An applied file has been edited or is unknown to this code. Nothing was changed then.
        """
        connection = await asyncpg.connect(url, timeout=10)
        try:
            await connection.execute(
                "SELECT pg_advisory_lock(hashtextextended($1, 0))", f"migrate {self._schemas['service']}"
            )
            pending = {kind: await self._pending(connection, kind) for kind in self._schemas}
            return [
                name for kind, files in pending.items() for name in await self._apply(connection, kind, files)
            ]
        finally:
            await connection.close()

    async def verify(self, connection: Connection) -> None:
        """Refuse a database that is not exactly at this code's schema.

        Raises
        ------
        WrongSchemaError
            Says what is missing, edited or unknown, and what to do.
        """
        for kind, schema in self._schemas.items():
            missing = await self._pending(connection, kind)
            if missing:
                names = ", ".join(f"{file.package}/{file.name}" for file in missing)
                raise WrongSchemaError(f"schema {schema} lacks {names}: run the `migrate` command first")

    async def _apply(self, connection: Session, kind: Kind, files: Sequence[_Migration]) -> list[str]:
        schema = self._schemas[kind]
        if not await connection.fetchval("SELECT to_regnamespace($1) IS NOT NULL", schema):
            await connection.execute(f"CREATE SCHEMA {schema}")
        await connection.execute(f"SET search_path = {self._search_paths[kind]}")
        await connection.execute(_HISTORY)
        applied = []
        for file in files:
            async with connection.transaction():
                await connection.execute(file.sql)
                await connection.execute(
                    "INSERT INTO schema_migration (package, name, checksum) VALUES ($1, $2, $3)",
                    file.package,
                    file.name,
                    file.checksum,
                )
            applied.append(f"{schema}: {file.package}/{file.name}")
            log.info(
                "migration applied", extra={"schema": schema, "migration": f"{file.package}/{file.name}"}
            )
        return applied

    async def _pending(self, connection: Connection, kind: Kind) -> list[_Migration]:
        schema = self._schemas[kind]
        if await connection.fetchval("SELECT to_regclass($1) IS NULL", f"{schema}.schema_migration"):
            return self._files[kind]
        rows = await connection.fetch(f"SELECT package, name, checksum FROM {schema}.schema_migration")  # noqa: S608
        recorded = {(row["package"], row["name"]): row["checksum"] for row in rows}
        known = {(file.package, file.name): file for file in self._files[kind]}
        if unknown := recorded.keys() - known.keys():
            names = ", ".join(sorted(f"{package}/{name}" for package, name in unknown))
            raise NewerSchemaError(f"schema {schema} is newer than this code: it has {names}")
        for key, checksum in recorded.items():
            if checksum != known[key].checksum:
                raise WrongSchemaError(
                    f"{key[0]}/{key[1]} was edited after schema {schema} had it applied: "
                    "restore the file and put the change into a new one"
                )
        return [file for key, file in known.items() if key not in recorded]


def _files(source: MigrationSource, kind: Kind) -> list[_Migration]:
    folder = resources.files(source.package) / source.folder / kind
    if not folder.is_dir():
        return []
    names = sorted(entry.name for entry in folder.iterdir() if entry.name.endswith(".sql"))
    for number, name in enumerate(names, start=1):
        if not _FILE_NAME.fullmatch(name) or int(name[:3]) != number:
            raise ValueError(f"{source.package}: {kind} migrations must be 001_name.sql, 002_…; found {name}")
    return [_Migration(source.package, name, (folder / name).read_text(encoding="utf-8")) for name in names]
