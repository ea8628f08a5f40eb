"""Verification: derived state is recomputed from the log and compared with what serves."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from tokenomics_chassis.audit import AuditTrail
from tokenomics_chassis.changes import read_positions
from tokenomics_chassis.postgres import Pool, Schemas, session
from tokenomics_chassis.rebuilds import applied_records, record_version
from tokenomics_chassis.state_hash import HashedTable, table_hashes
from tokenomics_chassis.versions import (
    LOCK_VERSIONS,
    DerivedVersion,
    VersionState,
    Why,
    active_version,
    find_version,
)

_PREFIX = "verify/"  # no rebuild that is asked for has a slash in its id
_INSERT = """
INSERT INTO verification (verify_id, version, part)
SELECT $1, version, $3 FROM derived_version WHERE rebuild_id = $2
"""
_GET = "SELECT * FROM verification WHERE verify_id = $1"
_OF_VERSION = "SELECT * FROM verification WHERE version = $1"
_PIN = """
UPDATE verification SET compared_version = $2, next_offsets = $3, live_hashes = $4
WHERE version = $1 AND next_offsets IS NULL
"""
_TOTAL = "UPDATE derived_version SET total_records = $2 WHERE version = $1"
_JUDGE = "UPDATE verification SET recomputed_hashes = $2 WHERE version = $1"


class Verdict(StrEnum):
    """What a verification has come to."""

    RUNNING = "running"
    EQUAL = "equal"
    DIFFERENT = "different"
    FAILED = "failed"


class NoSuchVerificationError(Exception):
    """No verification has this id."""

    def __init__(self, verify_id: str) -> None:
        super().__init__(f"there is no verification {verify_id}")


@dataclass(frozen=True, slots=True)
class HashedState:
    """What of a service's derived state is hashed."""

    tables: Sequence[HashedTable]
    left_out: Mapping[str, str]
    """Tables that aren't, each with the reason."""


HashedPart = Callable[[str], HashedState]
"""Names what is hashed of one part of the state, or of all for the empty name.

Raises ``ValueError``, saying why, for what is no part.
"""


@dataclass(frozen=True, slots=True)
class Verification:
    """A recomputation and how it compares."""

    verify_id: str
    verdict: Verdict
    applied_records: int
    total_records: int
    """Up to the offsets at which the two are compared; 0 until these are pinned."""
    live_hashes: Mapping[str, str]
    """By table; empty until the end."""
    recomputed_hashes: Mapping[str, str]
    error_message: str | None

    @property
    def different_tables(self) -> Sequence[str]:
        """Tables that differ, by name."""
        return sorted(
            table for table, digest in self.recomputed_hashes.items() if self.live_hashes.get(table) != digest
        )


@dataclass(frozen=True, slots=True)
class Pinned:
    """Where the two are compared."""

    next_offsets: Mapping[tuple[str, int], int]
    part: str


class Verifications:
    """Records verifications and tells of them; ``replay`` works them off."""

    def __init__(self, pool: Pool, service: str, hashed_part: HashedPart, trail: AuditTrail) -> None:
        """Wire it; ``pool`` works on the service's own schema."""
        self._pool = pool
        self._service = service
        self._hashed_part = hashed_part
        self._trail = trail

    async def start(self, verify_id: str, part: str, why: Why) -> Verification:
        """Record that the state shall be recomputed; the same id again changes nothing.

        Raises
        ------
        ValueError
            The service has no such part.
        RebuildRefusedError
            Another verification is running.
        """
        self._hashed_part(part)
        async with self._pool.acquire() as connection, connection.transaction():
            await connection.execute(LOCK_VERSIONS)
            if await connection.fetchrow(_GET, verify_id) is None:
                rebuild_id = _PREFIX + verify_id
                await record_version(connection, rebuild_id, VersionState.VERIFYING, why)
                await connection.execute(_INSERT, verify_id, rebuild_id, part)
                await self._trail.append(connection, [why.entry("verification.started", verify_id)])
        return await self.get(verify_id)

    async def get(self, verify_id: str) -> Verification:
        """Read one.

        Raises
        ------
        NoSuchVerificationError
            There is none.
        """
        row = await self._pool.fetchrow(_GET, verify_id)
        version = await find_version(self._pool, _PREFIX + verify_id)
        if row is None or version is None:
            raise NoSuchVerificationError(verify_id)
        live, recomputed = _hashes(row["live_hashes"]), _hashes(row["recomputed_hashes"])
        total = version.total_records or 0
        applied = total if recomputed else await applied_records(self._pool, self._service, version.version)
        return Verification(
            verify_id,
            _verdict(version, live, recomputed),
            applied,
            total,
            live if recomputed else {},
            recomputed,
            version.error_message,
        )


async def pin(url: str, service: str, version: int, hashed_part: HashedPart) -> Pinned:
    """Hash what serves, in one snapshot, and remember where it stood; once for each verification."""
    async with session(url, Schemas(service, None), application_name=f"{service} verify") as connection:
        row = await connection.fetchrow(_OF_VERSION, version)
        assert row is not None
        if row["next_offsets"] is None:
            active = await active_version(connection)
            hashed = hashed_part(row["part"])
            offsets, hashes = await _snapshot(url, Schemas(service, active), hashed)
            await connection.execute(_PIN, version, active, json.dumps(offsets), json.dumps(hashes))
            await connection.execute(_TOTAL, version, sum(offsets.values()))
            row = await connection.fetchrow(_OF_VERSION, version)
            assert row is not None
    places = json.loads(row["next_offsets"])
    ends = {
        (topic, int(partition)): offset
        for place, offset in places.items()
        for topic, _, partition in [place.rpartition("/")]
    }
    return Pinned(ends, row["part"])


async def judge(url: str, schemas: Schemas, hashed: HashedState) -> None:
    """Hash what was recomputed, and so make the verdict known."""
    _, hashes = await _snapshot(url, schemas, hashed)
    async with session(url, schemas, application_name=f"{schemas.service} verify") as connection:
        await connection.execute(_JUDGE, schemas.version, json.dumps(hashes))


async def _snapshot(
    url: str, schemas: Schemas, hashed: HashedState
) -> tuple[Mapping[str, int], Mapping[str, str]]:
    name = f"{schemas.service} verify"
    async with (
        session(url, schemas, application_name=name, patient=True) as connection,
        connection.transaction(isolation="repeatable_read", readonly=True),
    ):
        offsets = {
            f"{each.topic}/{each.partition}": each.next_offset for each in await read_positions(connection)
        }
        return offsets, await table_hashes(connection, schemas.derived, hashed.tables, hashed.left_out)


def _hashes(column: str | None) -> Mapping[str, str]:
    return {} if column is None else json.loads(column)


def _verdict(version: DerivedVersion, live: Mapping[str, str], recomputed: Mapping[str, str]) -> Verdict:
    if version.state is VersionState.FAILED:
        return Verdict.FAILED
    if not recomputed or version.state is VersionState.VERIFYING:  # until it is over no other can begin
        return Verdict.RUNNING
    return Verdict.EQUAL if live == recomputed else Verdict.DIFFERENT
