"""Account states and bypasses on PostgreSQL, beside the holds in the ledger's line."""

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from datetime import datetime
from typing import Any, Final

from tokenomics_chassis import outbox
from tokenomics_chassis.audit import AuditTrail, Entry
from tokenomics_chassis.outbox import OutboxEvent
from tokenomics_chassis.postgres import Connection, Pool
from tokenomics_contracts.units import AccountId
from tokenomics_quota.domain.accounts import AccountKind
from tokenomics_quota.domain.holds import AccountState, LedgerAccount
from tokenomics_quota.domain.interventions import Bypass, Intervention
from tokenomics_quota.ports import HoldLedger, InterventionLedger, Turn

BYPASS_COLUMNS: Final = Bypass._fields
_COLUMNS: Final = ", ".join(
    {"kind": "scope_kind", "owner_id": "scope_owner_id"}.get(column, column) for column in BYPASS_COLUMNS
)

_SET_STATE = """
INSERT INTO ledger_account (account_id, state, change_seq) VALUES ($1, $2, $3)
ON CONFLICT (account_id) DO UPDATE SET state = excluded.state, change_seq = excluded.change_seq
"""
_BYPASS = f"SELECT {_COLUMNS} FROM bypass WHERE bypass_id = $1"
_PUT_BYPASS = f"""
WITH moved AS (UPDATE ledger SET bypass_seq = $10)
INSERT INTO bypass ({_COLUMNS}) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)
ON CONFLICT (bypass_id) DO UPDATE SET ended_at = excluded.ended_at
"""
_PAST = f"""
SELECT {_COLUMNS} FROM bypass WHERE ended_at IS NULL AND until <= clock_timestamp() ORDER BY until LIMIT $1
"""
_BETWEEN = f"""
SELECT {_COLUMNS} FROM bypass WHERE started_at < $2 AND coalesce(ended_at, until) > $1 ORDER BY bypass_id
"""
_NOT_ENDED = f"SELECT {_COLUMNS} FROM bypass WHERE ended_at IS NULL ORDER BY bypass_id"

Describe = Callable[[Intervention], OutboxEvent]
"""Encodes what was done."""


class PostgresInterventions:
    """Implements :class:`tokenomics_quota.ports.InterventionLedger` in an open transaction."""

    def __init__(
        self, connection: Connection, holds: HoldLedger, trail: AuditTrail, describe: Describe
    ) -> None:
        self._connection = connection
        self._holds = holds
        self._trail = trail
        self._describe = describe

    async def begin(self, commands: int) -> Turn:
        """Begin the turn of the hold ledger."""
        return await self._holds.begin(commands)

    async def account(self, account_id: AccountId) -> LedgerAccount:
        """Return the account as of the turn's now."""
        (account,) = await self._holds.accounts([account_id])
        return account

    async def set_state(self, account_id: AccountId, state: AccountState, change_seq: int) -> None:
        """Upsert the account."""
        await self._connection.execute(_SET_STATE, account_id, state, change_seq)

    async def bypass(self, bypass_id: str) -> Bypass | None:
        """Select by the primary key."""
        row = await self._connection.fetchrow(_BYPASS, bypass_id)
        return None if row is None else _bypass_from_row(row)

    async def put_bypass(self, bypass: Bypass, change_seq: int) -> None:
        """Upsert, and note in the ledger that bypasses moved."""
        await self._connection.execute(_PUT_BYPASS, *bypass, change_seq)

    async def past_bypasses(self, limit: int) -> Sequence[Bypass]:
        """Select those of which nobody has written down that they ended."""
        return list(map(_bypass_from_row, await self._connection.fetch(_PAST, limit)))

    async def tell(self, done: Intervention) -> None:
        """Write the event to the outbox."""
        event = self._describe(done)
        await outbox.append(self._connection, done.aggregate_id, done.change_seq, **event._asdict())

    async def record(self, done: Intervention) -> None:
        """Append an entry to the audit trail."""
        assert done.decided is not None
        details = {}
        if done.bypass is not None:
            until = done.bypass.until.isoformat()
            details = {"scope": done.bypass.scope, "until": until}
        entry = Entry(
            done.decided.decided_by,
            done.decided.caller,
            done.what,
            done.target,
            done.decided.reason_code,
            done.decided.ticket_id,
            details,
        )
        await self._trail.append(self._connection, [entry])


def interventions(
    pool: Pool, on: Callable[[Connection], PostgresInterventions]
) -> Callable[[], AbstractAsyncContextManager[InterventionLedger]]:
    """Return what opens a transaction and gives its ledger."""

    @asynccontextmanager
    async def transaction() -> AsyncIterator[InterventionLedger]:
        async with pool.acquire() as connection, connection.transaction():
            yield on(connection)

    return transaction


async def bypasses_not_ended(connection: Connection) -> Sequence[Bypass]:
    """Return bypasses of which nobody has written down that they ended."""
    return list(map(_bypass_from_row, await connection.fetch(_NOT_ENDED)))


async def bypasses_between(connection: Connection, since: datetime, before: datetime) -> Sequence[Bypass]:
    """Return bypasses that were in force at some time of a range."""
    return list(map(_bypass_from_row, await connection.fetch(_BETWEEN, since, before)))


def _bypass_from_row(row: Any) -> Bypass:
    bypass = Bypass(*row)  # in the order of the fields
    return bypass._replace(kind=AccountKind(bypass.kind))
