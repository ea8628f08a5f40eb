"""Quota's projection on a real database, fed by hand."""

from collections import defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from tests.support.quota_events import NOW, NoPrices, record
from tokenomics_chassis.audit import AuditTrail
from tokenomics_chassis.parking import Parking, Skips
from tokenomics_chassis.postgres import Connection, Pool, Schemas
from tokenomics_chassis.projector import Projector
from tokenomics_chassis.records import Place, Record
from tokenomics_contracts.events.base import Event
from tokenomics_quota.projections.governance import Governance
from tokenomics_quota.storage.hold_ledger import PostgresHoldLedger
from tokenomics_quota.storage.interventions import PostgresInterventions
from tokenomics_quota.storage.ledger import PostgresLedger
from tokenomics_quota.streams.events import OWN_TOPIC, SOURCE, skip_from_record, skipped_event
from tokenomics_quota.streams.hold_events import hold_event
from tokenomics_quota.streams.intervention_events import intervention_event
from tokenomics_quota.streams.projection import OwnEvents, QuotaProjection
from tokenomics_quota.usecases.projecting import KnownGovernance

TRAIL = AuditTrail("quota", OWN_TOPIC, SOURCE)


@dataclass
class Quota:
    """A database, a projector, and a log that exists only as it is told."""

    url: str
    schemas: Schemas
    pool: Pool
    ends: defaultdict[tuple[str, int], int] = field(default_factory=lambda: defaultdict(int))

    records: dict[Place, Record] = field(default_factory=dict)

    def __post_init__(self) -> None:
        known = KnownGovernance(Governance(NoPrices()))
        self.projection = QuotaProjection(PostgresLedger, known)
        skips = Skips(OWN_TOPIC, skip_from_record, OwnEvents(PostgresLedger, known))
        self.projector = Projector(
            self.pool, self.schemas, self.projection, skips=skips, read_records=self.read_records
        )
        self.parking = Parking(
            self.pool,
            self.schemas,
            self.projection,
            lambda skip: skipped_event(skip, NOW),
            self.read_records,
            trail=TRAIL,
            skips=skips,
        )

    async def tell(
        self,
        event: Event,
        event_id: str,
        *,
        partition: int = 0,
        time: datetime = NOW,
        appended_at: datetime = NOW,
    ) -> None:
        """Append an event and project it."""
        made = record(event, event_id, partition=partition, time=time, appended_at=appended_at)
        place = (made.topic, partition)
        made = made._replace(offset=self.ends[place])
        self.records[Place(*made[:3])] = made
        await self.projector.process(*place, [made])
        self.ends[place] += 1

    async def read_records(self, places: Collection[Place]) -> Sequence[Record]:
        """Read records that were told, as from the log."""
        return [self.records[place] for place in places if place in self.records]

    async def totals(self) -> dict[str, int]:
        rows = await self.pool.fetch(
            "SELECT account_id, sum(posted_micro_usd)::bigint FROM posted"
            " GROUP BY 1 HAVING sum(posted_micro_usd) <> 0"
        )
        return {row[0]: row[1] for row in rows}

    async def parked(self) -> list[str]:
        return [row[0] for row in await self.pool.fetch("SELECT error_code FROM parked ORDER BY 1")]


def hold_ledger(connection: Connection) -> PostgresHoldLedger:
    """Return the hold ledger on a connection with an open transaction."""
    return PostgresHoldLedger(connection, Schemas("quota", None), hold_event)


def intervention_ledger(connection: Connection) -> PostgresInterventions:
    """Return account states and bypasses on a connection with an open transaction."""
    return PostgresInterventions(connection, hold_ledger(connection), TRAIL, intervention_event)
