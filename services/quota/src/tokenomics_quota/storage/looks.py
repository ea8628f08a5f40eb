"""Looks in the audit trail."""

from collections.abc import Sequence
from typing import Final

from tokenomics_chassis.audit import AuditLog, Entry
from tokenomics_contracts.audit import AuditRecorded
from tokenomics_contracts.units import SubjectId
from tokenomics_quota.domain.looks import Basis, Look, RecordedLook

LOOKED_AT: Final = "subject.looked_at"


class AuditedLooks:
    """Implements :class:`tokenomics_quota.ports.LookLog`: a look is an entry about the subject."""

    def __init__(self, audit: AuditLog) -> None:
        self._audit = audit

    async def record(self, looks: Sequence[Look]) -> None:
        """Append them, together with what other calls record at the moment."""
        await self._audit.record(
            [
                Entry(
                    actor=look.person_id,
                    caller=look.caller,
                    action=LOOKED_AT,
                    target=look.subject,
                    details={"method": look.method, "basis": look.basis},
                )
                for look in looks
            ]
        )

    async def looks_at(self, subject: str, *, before: int | None, limit: int) -> Sequence[RecordedLook]:
        """Read the trail backwards."""
        entries = await self._audit.trail.entries(
            self._audit.pool, action=LOOKED_AT, target=subject, beyond=before, limit=limit
        )
        return [_from_entry(entry) for entry in entries]


def _from_entry(entry: AuditRecorded) -> RecordedLook:
    look = Look(
        SubjectId(entry.actor),
        entry.caller,
        SubjectId(entry.target),
        entry.details["method"],
        Basis(entry.details["basis"]),
    )
    return RecordedLook(entry.sequence, entry.at, look)
