"""A subject's usage from the facts of the version that serves."""

from collections.abc import Callable, Collection, Sequence
from datetime import datetime

from tokenomics_chassis.log_reader import ReadRecords
from tokenomics_chassis.postgres import Pool
from tokenomics_chassis.records import Place, Record
from tokenomics_quota.domain.trail import Reported, Used
from tokenomics_quota.projections.facts import Fact, Received
from tokenomics_quota.projections.usage import winning_correction
from tokenomics_quota.storage.ledger import PostgresLedger
from tokenomics_quota.storage.mapping import FACT_COLUMNS, fact_from_row

# Name by name, so that each is a walk along the index by subject and time that ends with the page.
_PAGE = f"""
SELECT page.* FROM unnest($1::text[]) AS name
CROSS JOIN LATERAL (
    SELECT {", ".join(FACT_COLUMNS)} FROM fact
    WHERE subject = name AND subject_id = $2 AND event_kind = 'recorded' AND counted
      AND occurred_at >= $3 AND (occurred_at, identity) < ($4, $5)
    ORDER BY occurred_at DESC, identity DESC LIMIT $6
) AS page
ORDER BY occurred_at DESC, identity DESC LIMIT $6
"""


class ServedUsageTrail:
    """Implements :class:`tokenomics_quota.ports.UsageTrail`.

    Parameters
    ----------
    pool
        Returns a pool on the version that serves.
    read_records
        Reads the log: facts don't keep what nothing is derived from.
    describe
        Reads a record of the usage topic.
    """

    def __init__(
        self,
        pool: Callable[[], Pool],
        read_records: ReadRecords,
        usage_topic: str,
        describe: Callable[[Record], Reported | None],
    ) -> None:
        self._pool = pool
        self._read_records = read_records
        self._usage_topic = usage_topic
        self._describe = describe

    async def page(
        self,
        names: Collection[str],
        subject_id: str,
        since: datetime,
        before: datetime,
        *,
        behind: tuple[datetime, bytes] | None,
        limit: int,
    ) -> Sequence[Used]:
        """Read facts, and the corrections of those that have one."""
        last_at, last = behind or (before, b"")
        async with self._pool().acquire() as connection:
            rows = await connection.fetch(_PAGE, list(names), subject_id, since, last_at, last, limit)
            facts = [fact_from_row(tuple(row)) for row in rows]
            corrected = [
                each.received.identity for each in facts if each.derived and each.derived.applied_revision
            ]
            corrections = await PostgresLedger(connection).corrections(corrected) if corrected else {}
        return [
            _used(
                each, winning_correction(each.received, corrections.get(each.received.identity, {}).values())
            )
            for each in facts
        ]

    async def reports(self, used: Sequence[Used]) -> Sequence[Reported | None]:
        """Read the records that reported them."""
        places = [Place(self._usage_topic, each.order.partition, each.order.offset) for each in used]
        found = {Place(*record[:3]): record for record in await self._read_records(places)}
        return [self._describe(found[place]) if place in found else None for place in places]


def _used(fact: Fact, correction: Received | None) -> Used:
    received, derived = fact
    assert derived is not None, "only recorded usage is read"
    return Used(
        received.occurred_at,
        received.identity,
        received.order,
        received.provider or "",
        received.model or "",
        (correction or received).quantities,
        received.project_id,
        received.purpose or "operational",
        derived.cost_micro_usd,
        derived.pricing,
        derived.applied_revision,
    )
