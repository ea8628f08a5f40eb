"""What the own topic tells of the hold ledger, kept until the ledger has done it again."""

import logging
from collections.abc import Callable, Sequence
from datetime import timedelta

from tokenomics_chassis.postgres import Connection
from tokenomics_quota.ports import HoldLedger, InterventionLedger, ToldChange
from tokenomics_quota.storage.hold_ledger import INCARNATION
from tokenomics_quota.usecases.intervening import intervene_again
from tokenomics_quota.usecases.recalling import Again, do_again, interventions

log = logging.getLogger(__name__)

GROUP = 500
"""Changes done again in a transaction; those with one number stay together."""

REMEMBERED = timedelta(days=95)
"""A hold of the oldest period that is remembered was placed so long ago at most."""

_KNOWN = "SELECT change_seq FROM ledger"
_KEEP = """
INSERT INTO told_change
SELECT * FROM unnest($1::bigint[], $2::text[], $3::timestamptz[], $4::text[], $5::bytea[])
    AS told (change_seq, event_id, told_at, event_type, data)
WHERE told_at > clock_timestamp() - $6::interval
ON CONFLICT DO NOTHING RETURNING 1
"""
_LOCK = "SELECT FROM ledger FOR UPDATE"
_NEXT = """
SELECT told_change.* FROM told_change, ledger WHERE told_change.change_seq > ledger.change_seq
ORDER BY told_change.change_seq FETCH FIRST $1 ROWS WITH TIES
"""
_FORGET = "DELETE FROM told_change"
_DREW = "INSERT INTO lease_draw SELECT * FROM unnest($1::bytea[], $2::bigint[]) ON CONFLICT DO NOTHING"
_RECALLED = (
    f"UPDATE ledger SET recalled_for = {INCARNATION} WHERE recalled_for IS DISTINCT FROM {INCARNATION}"
)


class ToldChanges:
    """Brings a ledger back to where its own topic says it was.

    The ledger is one line of numbered changes, and a database that was restored is one moment of it: what it
    lacks is exactly what has a larger number than its own. That is done again in the order of the numbers,
    before anything new is.
    """

    def __init__(
        self,
        ledger_on: Callable[[Connection], HoldLedger],
        interventions_on: Callable[[Connection], InterventionLedger],
    ) -> None:
        self._ledger_on = ledger_on
        self._interventions_on = interventions_on

    async def keep(self, connection: Connection, told: Sequence[ToldChange]) -> int:
        """Keep those that the ledger lacks, unless nobody would ask for them any more; return how many."""
        known = await connection.fetchval(_KNOWN)
        lacking = [each for each in told if each.change_seq > known]
        if not lacking:
            return 0
        return len(await connection.fetch(_KEEP, *zip(*lacking, strict=True), REMEMBERED))

    async def do_again(self, connection: Connection) -> None:
        """Do again what is kept; from then on the ledger lacks nothing that its topic tells of."""
        done = left_out = 0
        while (again := await self._do_some_again(connection)) is not None:
            done += again.done
            left_out += again.left_out
        if done or left_out:
            log.warning(
                "the hold ledger did again what it had lost", extra={"changes": done, "left_out": left_out}
            )

    async def _do_some_again(self, connection: Connection) -> Again | None:
        async with connection.transaction():
            await connection.execute(_LOCK)
            changes = [ToldChange(*row) for row in await connection.fetch(_NEXT, GROUP)]
            if not changes:
                await connection.execute(_FORGET)
                await connection.execute(_RECALLED)
                return None
            again = await do_again(self._ledger_on(connection), changes)
            by_hand = interventions(changes)
            await intervene_again(self._interventions_on(connection), by_hand)
            again = again.with_others(len(by_hand))
            if again.draws:
                await connection.execute(_DREW, *zip(*again.draws, strict=True))
            return again
