"""Rows to values."""

from datetime import UTC, datetime
from typing import Any

from tokenomics_contracts.cloudevents import Envelope
from tokenomics_contracts.registry import parse
from tokenomics_quota.domain.effective import LogOrder
from tokenomics_quota.domain.holds import AccountState, Hold, HoldKind, HoldState, Lease, LedgerAccount
from tokenomics_quota.projections.facts import Derived, Fact, Received
from tokenomics_quota.projections.governance import GoverningEvent

RECEIVED_COLUMNS = Received._fields
DERIVED_COLUMNS = Derived._fields
FACT_COLUMNS = (*RECEIVED_COLUMNS, *DERIVED_COLUMNS)
NOTHING_DERIVED = (None,) * len(DERIVED_COLUMNS)
HOLD_COLUMNS = tuple(field for field in Hold._fields if field != "lease")
LEASE_COLUMNS = Lease._fields


def fact_from_row(row: Any) -> Fact:
    """Read a row of ``fact`` selected as ``FACT_COLUMNS``."""
    received = Received(*row[: len(RECEIVED_COLUMNS)])
    derived = Derived(*row[len(RECEIVED_COLUMNS) :])
    return Fact(received, derived if received.event_kind in {"recorded", "provisional"} else None)


def row_from_fact(fact: Fact) -> tuple[Any, ...]:
    """Write a fact as a row in the order of ``FACT_COLUMNS``."""
    received, derived = fact
    return received + (derived or NOTHING_DERIVED)


def governing_event_from_row(row: Any) -> GoverningEvent:
    """Read a row of ``governing_event``; its data are parsed by the reader of today."""
    order = LogOrder(row["append_ms"], row["partition"], row["record_offset"])
    envelope = Envelope(
        id="",
        source="",
        type=row["event_type"],
        time=datetime.fromtimestamp(0, tz=UTC),
        subject=None,
        data=row["data"],
        traceparent=None,
    )
    return GoverningEvent(row["topic"], row["identity"], row["digest"], order, parse(envelope))


def hold_from_row(row: Any) -> Hold:
    """Read a row of ``hold``, selected as ``HOLD_COLUMNS``, and after it one of ``lease``, if asked for."""
    hold, lease = Hold(*row[: len(HOLD_COLUMNS)]), row[len(HOLD_COLUMNS) :]
    return hold._replace(
        kind=HoldKind(hold.kind),
        state=HoldState(hold.state),
        account_nos=tuple(hold.account_nos),
        lease=Lease(*lease) if lease and lease[0] is not None else None,
    )


PLACED_HOLD = {
    "hold_no": "bigint",
    "placed_at": "timestamptz",
    "placed_until": "timestamptz",
    "amount_micro_usd": "bigint",
    "parent_no": "bigint",
    "root_no": "bigint",
    "kind": "text",
    "hold_id": "text",
    "subject": "text",
    "project_id": "text",
    "is_experiment": "boolean",
    "digest": "bytea",
    "answer": "bytea",
    "account_nos": "text",
}
"""Columns of a hold as it was placed, and what each is sent as. Of lists of numbers there is no list whose
elements differ in length: they go as text."""

LIVE_HOLD = {
    "hold_no": "bigint",
    "expires_at": "timestamptz",
    "amount_micro_usd": "bigint",
    "covered_micro_usd": "bigint",
    "cost_micro_usd": "bigint",
    "parts_micro_usd": "bigint",
    "root_no": "bigint",
}
ENDED_HOLD = {
    "hold_no": "bigint",
    "amount_micro_usd": "bigint",
    "covered_micro_usd": "bigint",
    "cost_micro_usd": "bigint",
    "parts_micro_usd": "bigint",
    "settling_micro_usd": "bigint",
    "expires_at": "timestamptz",
    "ended_by": "text",
}
_ENDED_BY = {HoldState.SETTLED: "call", HoldState.RELEASED: "release", HoldState.EXPIRED: "expiry"}


def row_from_placed_hold(hold: Hold) -> tuple[Any, ...]:
    """Write a hold as it was placed, in the order of ``PLACED_HOLD``."""
    return (
        hold.hold_no,
        hold.placed_at,
        hold.placed_until,
        hold.amount_micro_usd,
        hold.parent_no,
        hold.root_no,
        hold.kind,
        hold.hold_id,
        hold.subject,
        hold.project_id,
        hold.purpose == "experiment",
        hold.digest,
        hold.answer,
        f"{{{','.join(map(str, hold.account_nos))}}}",
    )


def row_from_live_hold(hold: Hold) -> tuple[Any, ...]:
    """Write where a live hold stands, in the order of ``LIVE_HOLD``; nothing takes no room."""
    return (
        hold.hold_no,
        hold.expires_at,
        hold.amount_micro_usd,
        hold.covered_micro_usd,
        hold.cost_micro_usd,
        hold.parts_micro_usd or None,
        hold.root_no,
    )


def row_from_ended_hold(hold: Hold) -> tuple[Any, ...]:
    """Write where a hold stands that has ended, in the order of ``ENDED_HOLD``; nothing takes no room."""
    return (
        hold.hold_no,
        hold.amount_micro_usd,
        hold.covered_micro_usd,
        hold.cost_micro_usd,
        hold.parts_micro_usd or None,
        hold.settling_micro_usd or None,
        None if hold.expires_at == hold.placed_until else hold.expires_at,
        "usage" if hold.usage_named else _ENDED_BY[hold.state],
    )


def ledger_account_from_row(row: Any) -> LedgerAccount:
    """Read an account of the hold ledger, in the order of its fields."""
    account = LedgerAccount(*row)
    return account._replace(state=AccountState(account.state))
