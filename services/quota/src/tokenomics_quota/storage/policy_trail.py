"""Policy changes in the audit trail."""

from collections.abc import Sequence
from datetime import UTC
from typing import Final

from tokenomics_chassis.audit import AuditTrail, Entry
from tokenomics_chassis.projection import Connection
from tokenomics_contracts.events.policy import PolicyPublished
from tokenomics_quota.ports import GoverningVersion
from tokenomics_quota.projections.governance import GoverningEvent
from tokenomics_quota.storage.ledger import PostgresLedger
from tokenomics_quota.storage.mapping import governing_event_from_row

PUBLISHED: Final = "policy.published"

_POLICY_TOPIC: Final = "tokenomics.policy.v1"
_PUBLISHER: Final = "governance"
"""Who may write the policy topic; an event doesn't say which person did."""

_PUBLISHED_AFTER = """
SELECT * FROM governing_event WHERE topic = $1 AND governing_version > $2
ORDER BY append_ms, partition, record_offset
"""


class PolicyTrail:
    """Records each policy version that came into force, as the announcer's leader alone does.

    Policies are history like what is announced: one that is projected again, into another version of the
    derived state or after a loss, was recorded when it was projected first.
    """

    def __init__(self, trail: AuditTrail) -> None:
        self._trail = trail
        self._looked_at = GoverningVersion(0, None)

    async def record(self, connection: Connection) -> None:
        """Record what is not recorded yet, inside the open transaction, which holds the governing lock."""
        ledger = PostgresLedger(connection)
        version = await ledger.governing_version()
        if version == self._looked_at:
            return
        known = await ledger.went_through(self._looked_at)
        rows = await connection.fetch(_PUBLISHED_AFTER, _POLICY_TOPIC, self._looked_at.number if known else 0)
        if rows:
            await self._trail.append(connection, _entries([governing_event_from_row(row) for row in rows]))
        self._looked_at = version


def _entries(published: Sequence[GoverningEvent]) -> Sequence[Entry]:
    return [
        Entry(
            actor=_PUBLISHER,
            caller=_POLICY_TOPIC,
            action=PUBLISHED,
            target=f"{policy.kind}/{policy.version}",
            details={
                "replaces": str(policy.replaces or 0),
                "effective_from": policy.effective_from.astimezone(UTC).isoformat(),
                "record": f"{event.topic}/{event.order.partition}/{event.order.offset}",
            },
            once=f"{PUBLISHED}/{event.identity.hex()}/{event.digest.hex()}",
        )
        for event in published
        if isinstance(policy := event.event, PolicyPublished)
    ]
