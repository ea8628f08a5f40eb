"""A toy service on the chassis: it adds up amounts by name, and follows numbered steps by key in order.

``python -m tests.support.toy_projection project|relay`` runs it as a process of its own.
"""

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from tokenomics_chassis import process
from tokenomics_chassis.audit import AuditTrail
from tokenomics_chassis.clock import SystemClock
from tokenomics_chassis.consumer import ProjectionConsumer
from tokenomics_chassis.migrations import Migrations, MigrationSource
from tokenomics_chassis.outbox import OutboxEvent
from tokenomics_chassis.parking import Skip, Skips
from tokenomics_chassis.postgres import Schemas, create_pool
from tokenomics_chassis.process import Process
from tokenomics_chassis.projection import Batch, Connection, Outcome, Rejected
from tokenomics_chassis.projector import Projector
from tokenomics_chassis.records import Record
from tokenomics_chassis.relay import Relay
from tokenomics_chassis.settings import ServiceSettings, load
from tokenomics_chassis.state_hash import EVENT_SOURCES, PARKED, SKIPPED, HashedTable
from tokenomics_chassis.verification import HashedState

AMOUNTS = "toy.amounts"
STEPS = "toy.steps"
OWN = "toy.own"

SCHEMAS = Schemas("toy", 1)
MIGRATIONS = Migrations(SCHEMAS, [MigrationSource("tests.support", "toy_migrations")])

CRASH = b"crash"
"""An amount on which the unmended projection raises."""

REFUSED_BY_POSTGRES = b"5000000000"
"""An amount that violates a constraint."""

REFUSED_BY_DRIVER = b"99999999999999999999"
"""An amount that fits no bigint."""

HASHED = (
    HashedTable(
        "tally",
        "SELECT name, total FROM tally",
        {"source_id": "differs between databases", "change_seq": "depends on batches"},
    ),
    HashedTable("applied", "SELECT topic, partition, record_offset FROM applied"),
    PARKED,
    SKIPPED,
    *EVENT_SOURCES,
)
_OF_NO_NAME = ("applied", "parked", "skipped", *(each.table for each in EVENT_SOURCES))
NOT_HASHED: Mapping[str, str] = {"position": "tests read partly"}


def hashed_part(part: str) -> HashedState:
    """Hash all of the state, or the tally of one name."""
    if not part:
        return HashedState(HASHED, NOT_HASHED)
    if not part.isalpha():
        raise ValueError("must be a name")
    tally = replace(HASHED[0], sql="SELECT name, total FROM tally WHERE name = $1", arguments=(part,))
    return HashedState((tally,), {**NOT_HASHED, **dict.fromkeys(_OF_NO_NAME, "of no name")})


_ADD_TOTAL = """
INSERT INTO tally VALUES ($1, $2, $3, $4) ON CONFLICT (name)
DO UPDATE SET total = tally.total + excluded.total, source_id = $3, change_seq = $4
"""
_SET_TOTAL = """
INSERT INTO tally VALUES ($1, $2, $3, $4) ON CONFLICT (name)
DO UPDATE SET total = excluded.total, source_id = $3, change_seq = $4
"""


class Toy:
    """Amounts add up in any order; the steps of a key must come as 1, 2, 3, …."""

    name = "toy"
    topics = frozenset({AMOUNTS, STEPS})
    ordered_topics = frozenset({STEPS})
    understood_codes = frozenset({"old_step"})

    def __init__(self, *, mended: bool = False) -> None:
        """Wire it; mended, it takes what it could not take before as an amount of 1, and any step."""
        self.mended = mended
        self.batch_sizes: list[int] = []

    async def apply(self, connection: Connection, batch: Batch) -> Outcome:
        """Fold the batch; raises and fails on purpose where the values say so."""
        self.batch_sizes.append(len(batch.records))
        rejected: list[Rejected] = []
        totals: dict[str, int] = {}
        taken: list[Record] = []
        for record in batch.records:
            name = (record.key or b"none").decode()
            try:
                amount = self._amount(record.value)
            except ValueError as error:
                rejected.append(Rejected(record, "bad_json", str(error)))
                continue
            if record.topic == STEPS:
                before = totals.get(name, await _total(connection, name))
                if amount != before + 1 and not self.mended:
                    code = "old_step" if amount <= before else "wrong_step"
                    rejected.append(Rejected(record, code, f"{amount} does not follow {before}"))
                    continue
                totals[name] = amount
            else:
                totals[name] = totals.get(name, 0) + amount
            taken.append(record)
        await _write(connection, batch, totals, taken, absolute=batch.source.topic == STEPS)
        return Outcome(rejected, changed=bool(taken))

    def _amount(self, value: bytes | None) -> int:
        if self.mended and value in {CRASH, REFUSED_BY_POSTGRES, REFUSED_BY_DRIVER, None}:
            return 1
        if value == CRASH:
            raise RuntimeError("a bug in the projection")
        if value is None:
            raise ValueError("a tombstone is no amount")
        return int(value)


async def _total(connection: Connection, name: str) -> int:
    return await connection.fetchval("SELECT total FROM tally WHERE name = $1", name) or 0


async def _write(
    connection: Connection,
    batch: Batch,
    totals: Mapping[str, int],
    taken: Sequence[Record],
    *,
    absolute: bool,
) -> None:
    source = batch.source
    statement = _SET_TOTAL if absolute else _ADD_TOTAL
    rows = [(name, total, source.source_id, source.change_seq) for name, total in sorted(totals.items())]
    await connection.executemany(statement, rows)
    await connection.executemany("INSERT INTO applied VALUES ($1, $2, $3)", [record[:3] for record in taken])


TRAIL = AuditTrail("toy", OWN, "urn:toy")


def skipped_event(skip: Skip) -> OutboxEvent:
    """Write a skip as the toy's own event."""
    return OutboxEvent(OWN, f"{skip.topic}/{skip.partition}".encode(), [], json.dumps(skip).encode())


def decode_skip(record: Record) -> Skip | None:
    """Read it again."""
    fields: list[Any] = json.loads(record.value or b"")
    return Skip(*fields)


def skips() -> Skips:
    """Make the projection of the toy's own topic."""
    return Skips(OWN, decode_skip)


async def _start_projecting(running: Process) -> None:
    settings = load(ServiceSettings)
    pool = await running.enter(
        await create_pool(settings.database_url, SCHEMAS, application_name="toy project")
    )
    projector = Projector(pool, SCHEMAS, Toy(), skips=skips())
    group = settings.consumer_group or "toy"
    consumer = ProjectionConsumer(
        settings.kafka_bootstrap, group, projector, SystemClock(), read_first=(frozenset({OWN}),)
    )
    running.readiness["projector"] = consumer.not_ready_because
    running.supervise("projector", consumer.run)


async def _start_relaying(running: Process) -> None:
    settings = load(ServiceSettings)
    running.supervise("relay", Relay(settings.database_url, SCHEMAS, settings.kafka_bootstrap).run)


if __name__ == "__main__":
    start = {"project": _start_projecting, "relay": _start_relaying}[sys.argv[1]]
    process.exit_with(lambda: process.run("toy", load(ServiceSettings), start))
