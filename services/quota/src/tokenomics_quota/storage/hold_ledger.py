"""The hold ledger on PostgreSQL: few statements, each for all commands of a transaction."""

from collections import Counter
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from datetime import datetime
from operator import attrgetter
from typing import Any, Final

from tokenomics_chassis import outbox
from tokenomics_chassis.outbox import OutboxEvent
from tokenomics_chassis.postgres import Connection, Pool, Schemas
from tokenomics_contracts.units import AccountId, HoldId, MicroUsd
from tokenomics_quota.domain.accounts import Account, Purpose, parse_account_id
from tokenomics_quota.domain.holds import (
    Change,
    Ending,
    Happened,
    HeldNow,
    Hold,
    HoldState,
    LedgerAccount,
    state_at,
)
from tokenomics_quota.ports import Committed, HoldLedger, HoldPage, HoldsWanted, Turn
from tokenomics_quota.storage.mapping import (
    ENDED_HOLD,
    HOLD_COLUMNS,
    LEASE_COLUMNS,
    LIVE_HOLD,
    PLACED_HOLD,
    hold_from_row,
    ledger_account_from_row,
    row_from_ended_hold,
    row_from_live_hold,
    row_from_placed_hold,
)

INCARNATION: Final = "extract(epoch FROM pg_postmaster_start_time()) || '/' || ledger.tableoid"
"""Another one after each start of the server, and after each making of the table."""

_OPEN = f"UPDATE ledger SET open_for = {INCARNATION} WHERE open_for IS DISTINCT FROM {INCARNATION}"

# The clock is read after the wait for the row: what an UPDATE waited for, it evaluates anew.
_BEGIN = f"""
UPDATE ledger SET change_seq = change_seq + $1, last_now = greatest(last_now, clock_timestamp())
RETURNING change_seq - $1 + 1, last_now, coalesce(open_for = {INCARNATION}, false),
    (SELECT version FROM derived_version WHERE state = 'active'), bypass_seq
"""
_BEGIN_AGAIN = """
UPDATE ledger SET change_seq = greatest(change_seq, $1), last_now = greatest(last_now, $2)
"""
# OFFSET 0 keeps a sub-select apart: it is looked up by index for each row, whatever the planner knows of the
# tables, and however long they are.
_HOLDS = f"""
WITH RECURSIVE named AS (
    SELECT hold_no, parent_no, root_no FROM placed_hold WHERE hold_id = ANY($1::text[])
    UNION
    SELECT above.* FROM named CROSS JOIN LATERAL (
        SELECT hold_no, parent_no, root_no FROM placed_hold WHERE hold_no = named.parent_no OFFSET 0
    ) AS above
    WHERE named.parent_no IS NOT NULL
), wanted AS (
    SELECT hold_no FROM named
    UNION
    SELECT part.hold_no FROM named CROSS JOIN LATERAL (
        SELECT hold_no FROM live_hold WHERE root_no = coalesce(named.root_no, named.hold_no) OFFSET 0
    ) AS part
)
SELECT hold.*, lease.* FROM wanted
CROSS JOIN LATERAL (
    SELECT {", ".join(HOLD_COLUMNS)} FROM hold WHERE hold.hold_no = wanted.hold_no OFFSET 0
) AS hold
LEFT JOIN LATERAL (
    SELECT {", ".join(LEASE_COLUMNS)} FROM lease WHERE lease.hold_no = wanted.hold_no OFFSET 0
) AS lease ON true
ORDER BY hold.hold_no
"""
_ACCOUNTS = """
SELECT account_no, account_id, state, placements,
    live_micro_usd - coalesce(
        (SELECT sum(amount_micro_usd) FROM expiry AS past
         WHERE past.account_no = ledger_account.account_no AND past.expires_at <= $3), 0)::bigint,
    settling_micro_usd, covered_micro_usd
FROM ledger_account WHERE account_id = ANY($1::text[]) OR account_no = ANY($2::int[])
"""
_NEW_ACCOUNTS = """
INSERT INTO ledger_account (account_id, change_seq) SELECT account_id, $2 FROM unnest($1::text[]) AS
account_id RETURNING account_no, account_id
"""
_COMMITTED = """
SELECT NULL AS account_id, (SELECT max(number) FROM {schema}.governing_version)
UNION ALL
SELECT account_id, sum(posted_micro_usd)::bigint FROM {schema}.posted WHERE account_id = ANY($1::text[])
GROUP BY account_id
"""
# Parts of one statement see the tables as they were before it, and touch no row twice: what ends at an
# instant that has come is taken out, and nothing new ends at one.
_WRITE_ACCOUNTS = """
WITH account AS (
    UPDATE ledger_account AS account
    SET placements = now.placements, live_micro_usd = now.live, settling_micro_usd = now.settling,
        covered_micro_usd = now.covered, change_seq = $1
    FROM unnest($3::int[], $4::int[], $5::bigint[], $6::bigint[], $7::bigint[])
        AS now (account_no, placements, live, settling, covered)
    WHERE account.account_no = now.account_no
), past AS (
    DELETE FROM expiry WHERE account_no = ANY($3::int[]) AND expires_at <= $2
), less AS (
    SELECT * FROM unnest($8::int[], $9::timestamptz[], $10::bigint[]) AS less (account_no, expires_at, amount)
), lessened AS (
    UPDATE expiry SET amount_micro_usd = amount_micro_usd - less.amount FROM less
    WHERE expiry.account_no = less.account_no AND expiry.expires_at = less.expires_at
        AND amount_micro_usd <> less.amount
    RETURNING 1
), emptied AS (
    DELETE FROM expiry USING less
    WHERE expiry.account_no = less.account_no AND expiry.expires_at = less.expires_at
        AND amount_micro_usd = less.amount
    RETURNING 1
), more AS (
    INSERT INTO expiry (account_no, expires_at, amount_micro_usd)
    SELECT * FROM unnest($11::int[], $12::timestamptz[], $13::bigint[])
    ON CONFLICT (account_no, expires_at)
    DO UPDATE SET amount_micro_usd = expiry.amount_micro_usd + excluded.amount_micro_usd
), placement AS (
    INSERT INTO placement
        (account_no, sequence, hold_no, committed_before_micro_usd, amount_micro_usd, limit_then_micro_usd)
    SELECT * FROM unnest($14::int[], $15::int[], $16::bigint[], $17::bigint[], $18::bigint[], $19::bigint[])
)
SELECT (SELECT count(*) FROM lessened) + (SELECT count(*) FROM emptied)
"""


def _sent(columns: Mapping[str, str], first: int = 1) -> str:
    """Write rows sent as arrays, a parameter a column."""
    arrays = (f"${place}::{kind}[]" for place, kind in enumerate(columns.values(), start=first))
    return f"unnest({', '.join(arrays)}) AS sent ({', '.join(columns)})"


def _assigned(columns: Iterable[str]) -> str:
    return ", ".join(f"{column} = excluded.{column}" for column in columns if column != "hold_no")


_PLACE_HOLDS = f"""
INSERT INTO placed_hold ({", ".join(PLACED_HOLD)})
SELECT {", ".join(PLACED_HOLD).replace("account_nos", "account_nos::int[]")} FROM {_sent(PLACED_HOLD)}
"""
_WRITE_STATES = f"""
WITH live AS (
    INSERT INTO live_hold ({", ".join(LIVE_HOLD)}) SELECT * FROM {_sent(LIVE_HOLD, 2)}
    ON CONFLICT (hold_no) DO UPDATE SET {_assigned(LIVE_HOLD)}
), ended AS (
    INSERT INTO ended_hold ({", ".join(ENDED_HOLD)}) SELECT * FROM {_sent(ENDED_HOLD, 2 + len(LIVE_HOLD))}
    ON CONFLICT (hold_no) DO UPDATE SET {_assigned(ENDED_HOLD)}
), live_no_more AS (
    DELETE FROM live_hold WHERE hold_no = ANY($1::bigint[]) RETURNING 1
)
SELECT count(*) FROM live_no_more
"""
_WRITE_LEASE = f"""
INSERT INTO lease (hold_no, {", ".join(LEASE_COLUMNS)})
VALUES ({", ".join(f"${place}" for place in range(1, len(LEASE_COLUMNS) + 2))})
ON CONFLICT (hold_no) DO UPDATE SET {_assigned(LEASE_COLUMNS)}
"""

_NEWEST = "SELECT hold_no FROM placed_hold WHERE hold_no < $1 ORDER BY hold_no DESC LIMIT $2"
_NEWEST_OF_SUBJECT = """
SELECT hold_no FROM placed_hold WHERE subject = $3 AND hold_no < $1 ORDER BY hold_no DESC LIMIT $2
"""
# Placements are in the order of their holds' numbers but for renewals: these are of older holds. So leases,
# few as they are, are looked for apart.
_NEWEST_ON_ACCOUNT = """
WITH account AS (SELECT account_no FROM ledger_account WHERE account_id = $3)
(
    SELECT hold_no FROM placement
    WHERE account_no = (SELECT account_no FROM account) AND hold_no < $1
        AND NOT EXISTS (SELECT FROM lease WHERE lease.hold_no = placement.hold_no OFFSET 0)
    ORDER BY sequence DESC LIMIT $2
) UNION (
    SELECT hold_no FROM lease
    WHERE hold_no < $1 AND (
        SELECT (SELECT account_no FROM account) = ANY(account_nos) FROM placed_hold
        WHERE placed_hold.hold_no = lease.hold_no
    )
    ORDER BY hold_no DESC LIMIT $2
)
ORDER BY hold_no DESC LIMIT $2
"""
_STANDING = """
SELECT hold.hold_no, hold.subject, hold.state, hold.expires_at, greatest(last_now, clock_timestamp())
FROM unnest($1::bigint[]) AS wanted (hold_no)
CROSS JOIN LATERAL (SELECT * FROM hold WHERE hold.hold_no = wanted.hold_no OFFSET 0) AS hold
CROSS JOIN ledger
"""
_LISTED = f"""
SELECT {", ".join(f"hold.{column}" for column in HOLD_COLUMNS)}, now.instant,
    ARRAY(SELECT account_id FROM unnest(hold.account_nos) WITH ORDINALITY AS place (account_no, number)
          JOIN ledger_account USING (account_no) ORDER BY number),
    (SELECT parent.hold_id FROM placed_hold AS parent WHERE parent.hold_no = hold.parent_no),
    (SELECT coalesce(sum(part.amount_micro_usd - part.covered_micro_usd), 0)::bigint
     FROM live_hold AS part
     WHERE part.root_no = coalesce(hold.root_no, hold.hold_no) AND part.expires_at > now.instant
         AND hold.hold_no = (SELECT parent_no FROM placed_hold WHERE placed_hold.hold_no = part.hold_no))
FROM unnest($1::bigint[]) AS wanted (hold_no)
CROSS JOIN LATERAL (SELECT * FROM hold WHERE hold.hold_no = wanted.hold_no OFFSET 0) AS hold
CROSS JOIN (SELECT greatest(last_now, clock_timestamp()) AS instant FROM ledger) AS now
ORDER BY hold.hold_no DESC
"""

Describe = Callable[[Happened, str | None], OutboxEvent]
"""Encodes what happened to a hold, in a trace."""


class LedgerInconsistentError(Exception):
    """What the ledger's tables say of one thing in two places differs: nothing is written."""


class PostgresHoldLedger:
    """Implements :class:`tokenomics_quota.ports.HoldLedger` on one connection with an open transaction.

    Parameters
    ----------
    schemas
        Of the service; which version of its derived state is asked is said when it is asked.
    """

    def __init__(self, connection: Connection, schemas: Schemas, describe: Describe) -> None:
        self._connection = connection
        self._schemas = schemas
        self._describe = describe
        self._turn: Turn | None = None
        self._last_change_seq = 0
        self._held: dict[int, Hold] = {}
        """Holds as they were read."""

    async def begin(self, commands: int) -> Turn:
        """Lock the ledger's row; statements from here on see what it waited for."""
        row = await self._connection.fetchrow(_BEGIN, commands)
        assert row is not None, "migrations write the row"
        self._turn = Turn(*row)
        self._last_change_seq = self._turn.first_change_seq + commands - 1
        return self._turn

    async def begin_again(self, change_seq: int, now: datetime) -> None:
        """Lock the ledger's row and bring it to where it was."""
        await self._connection.execute(_BEGIN_AGAIN, change_seq, now)
        self._turn = Turn(change_seq, now, is_open=False, active_version=0)
        self._last_change_seq = change_seq

    async def holds(self, named: Iterable[HoldId]) -> Sequence[Hold]:
        """Select by id, upwards by the primary key, and downwards by the index on live parts.

        A part is forgotten with the hold that it is a part of, also while its row is there.
        """
        found, known = list[Hold](), set[int]()
        for row in await self._connection.fetch(_HOLDS, list(named)):
            hold = hold_from_row(row)
            if hold.parent_no is None or hold.parent_no in known:
                found.append(hold)
                known.add(hold.hold_no)
        self._held |= {hold.hold_no: hold for hold in found}
        return found

    async def accounts(
        self, account_ids: Iterable[AccountId], account_nos: Iterable[int] = ()
    ) -> Sequence[LedgerAccount]:
        """Select by id and number; insert what isn't there."""
        ids = set(account_ids)
        rows = await self._connection.fetch(_ACCOUNTS, list(ids), list(account_nos), self._now)
        found = list(map(ledger_account_from_row, rows))
        if new := sorted(ids - {account.account_id for account in found}):
            rows = await self._connection.fetch(_NEW_ACCOUNTS, new, self._last_change_seq)
            found += [LedgerAccount(*row) for row in rows]
        return found

    async def committed(self, version: int, account_ids: Iterable[AccountId]) -> Committed:
        """Read the version's schema by its name: which one is on the search path doesn't matter."""
        accounts = list(map(parse_account_id, account_ids))
        lines = {line.account_id for account in accounts for line in _lines(account)}
        schema = Schemas(self._schemas.service, version).derived
        rows = await self._connection.fetch(_COMMITTED.format(schema=schema), list(lines))
        posted: dict[AccountId, MicroUsd] = {row[0]: row[1] for row in rows}
        governing_version = posted.pop(None)  # type: ignore[call-overload] # the row of no account
        totals = {
            account.account_id: MicroUsd(sum(posted.get(line.account_id, 0) for line in _lines(account)))
            for account in accounts
        }
        return Committed(governing_version, totals)

    async def write(self, changes: Sequence[Change], traceparents: Mapping[int, str] | None = None) -> None:
        """Write all that the commands changed in two or three statements, and the events in another."""
        await self._write_holds({hold.hold_no: hold for change in changes for hold in change.holds})
        await self._write_accounts(changes)
        traces = traceparents or {}
        await outbox.append_all(
            self._connection,
            (
                (
                    f"hold/{each.hold.hold_id}",
                    each.moment.change_seq,
                    self._describe(each, traces.get(each.moment.change_seq)),
                )
                for change in changes
                for each in change.happened
            ),
        )

    async def _write_holds(self, holds: Mapping[int, Hold]) -> None:
        new = [row_from_placed_hold(hold) for hold_no, hold in holds.items() if hold_no not in self._held]
        if new:
            await self._connection.execute(_PLACE_HOLDS, *_columns(new, PLACED_HOLD))
        live = [row_from_live_hold(hold) for hold in holds.values() if _is_live(hold)]
        ended = [hold for hold in holds.values() if not _is_live(hold)]
        live_no_more = [hold.hold_no for hold in ended if _is_live(self._held.get(hold.hold_no))]
        found = await self._connection.fetchval(
            _WRITE_STATES,
            live_no_more,
            *_columns(live, LIVE_HOLD),
            *_columns(map(row_from_ended_hold, ended), ENDED_HOLD),
        )
        if found != len(live_no_more):
            raise LedgerInconsistentError(f"of {len(live_no_more)} live holds {found} were there")
        leases = [(hold.hold_no, *hold.lease) for hold in holds.values() if hold.lease is not None]
        if leases:
            await self._connection.executemany(_WRITE_LEASE, leases)

    async def _write_accounts(self, changes: Iterable[Change]) -> None:
        accounts = {account.account_no: account for change in changes for account in change.accounts}
        placements = (placement for change in changes for placement in change.placements)
        endings = Counter[tuple[int, datetime]]()
        for change in changes:
            for account_no, expires_at, amount in change.endings:
                endings[account_no, expires_at] += amount
        less = [(*key, -amount) for key, amount in endings.items() if amount < 0]
        more = [(*key, amount) for key, amount in endings.items() if amount > 0]
        if not accounts:
            return
        found = await self._connection.fetchval(
            _WRITE_ACCOUNTS,
            self._last_change_seq,
            self._now,
            *_columns(map(_account_row, accounts.values()), _ACCOUNT),
            *_columns(less, Ending._fields),
            *_columns(more, Ending._fields),
            *_columns(map(_placement_row, placements), _PLACEMENT),
        )
        if found != len(less):
            raise LedgerInconsistentError(f"of {len(less)} ends of amounts {found} were there")

    @property
    def _now(self) -> datetime:
        assert self._turn is not None, "begin comes first"
        return self._turn.now


def hold_transactions(
    pool: Pool, schemas: Schemas, describe: Describe
) -> Callable[[], AbstractAsyncContextManager[HoldLedger]]:
    """Return what opens a transaction and gives its ledger."""

    @asynccontextmanager
    async def transaction() -> AsyncIterator[HoldLedger]:
        async with pool.acquire() as connection, connection.transaction():
            yield PostgresHoldLedger(connection, schemas, describe)

    return transaction


LOOKED_AT: Final = 5_000
"""Holds that are looked at for one page when not all of them are wanted: some tens of milliseconds."""


class PostgresHoldList:
    """Implements :class:`tokenomics_quota.ports.HoldList`."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def page(self, wanted: HoldsWanted) -> HoldPage:
        """Go backwards by number over some holds, along an index, and read those of them that are wanted."""
        on_account = wanted.account_id is not None
        sifted = wanted.state is not None or (on_account and wanted.subject is not None)
        most = max(LOOKED_AT, wanted.size) if sifted else wanted.size + 1
        if on_account:
            rows = await self._pool.fetch(_NEWEST_ON_ACCOUNT, wanted.before_no, most, wanted.account_id)
        elif wanted.subject is not None:
            rows = await self._pool.fetch(_NEWEST_OF_SUBJECT, wanted.before_no, most, wanted.subject)
        else:
            rows = await self._pool.fetch(_NEWEST, wanted.before_no, most)
        looked_at = [row[0] for row in rows]
        fitting = await self._fitting(looked_at, wanted) if sifted else looked_at
        page, before_no = fitting[: wanted.size], None
        if len(fitting) > wanted.size:
            before_no = page[-1]
        elif sifted and len(looked_at) == most:
            before_no = looked_at[-1]
        listed = await self._pool.fetch(_LISTED, page) if page else []
        return HoldPage(list(map(_held_from_row, listed)), before_no)

    async def _fitting(self, hold_nos: Sequence[int], wanted: HoldsWanted) -> list[int]:
        """Return those of the subject that stand as wanted, in the same order."""
        fitting = {
            hold_no
            for hold_no, subject, state, expires_at, now in await self._pool.fetch(_STANDING, hold_nos)
            if wanted.subject in {None, subject}
            and wanted.state in {None, state_at(HoldState(state), expires_at, now)}
        }
        return [hold_no for hold_no in hold_nos if hold_no in fitting]


def _held_from_row(row: Any) -> HeldNow:
    *columns, now, account_ids, parent_id, kept_for_parts = row
    hold = hold_from_row(columns)
    left = hold.left_micro_usd - kept_for_parts if hold.is_live(now) else 0
    return HeldNow(hold, hold.state_at(now), tuple(account_ids), parent_id, MicroUsd(left))


async def open_ledger(connection: Connection) -> None:
    """Say that nothing is missing from the ledger of this incarnation of the database."""
    await connection.execute(_OPEN)


def _lines(account: Account) -> list[Account]:
    """Return the accounts that amounts are posted to."""
    if account.purpose is not Purpose.ALL:
        return [account]
    return [account.for_purpose(purpose) for purpose in (Purpose.OPERATIONAL, Purpose.EXPERIMENT)]


def _is_live(hold: Hold | None) -> bool:
    return hold is not None and hold.state is HoldState.LIVE


_ACCOUNT: Final = ("account_no", "placements", "live_micro_usd", "settling_micro_usd", "covered_micro_usd")
_PLACEMENT: Final = (
    "account_no",
    "sequence",
    "hold_no",
    "committed_before_micro_usd",
    "amount_micro_usd",
    "limit_then_micro_usd",
)
_account_row = attrgetter(*_ACCOUNT)
_placement_row = attrgetter(*_PLACEMENT)


def _columns(rows: Iterable[Sequence[object]], names: Collection[str]) -> list[Sequence[object]]:
    """Return the columns of rows; empty ones where there are no rows."""
    return list(zip(*rows, strict=True)) or [()] * len(names)
