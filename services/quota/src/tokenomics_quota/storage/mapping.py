"""Rows to values."""

from datetime import UTC, datetime
from typing import Any

from tokenomics_contracts.cloudevents import Envelope
from tokenomics_contracts.registry import parse
from tokenomics_contracts.units import MicroUsd
from tokenomics_quota.domain.effective import LogOrder
from tokenomics_quota.domain.holds import AccountState, Hold, HoldKind, HoldState, LedgerAccount
from tokenomics_quota.projections.facts import Derived, Fact, Received
from tokenomics_quota.projections.governance import GoverningEvent

RECEIVED_COLUMNS = Received._fields
DERIVED_COLUMNS = Derived._fields
FACT_COLUMNS = (*RECEIVED_COLUMNS, *DERIVED_COLUMNS)
NOTHING_DERIVED = (None,) * len(DERIVED_COLUMNS)
HOLD_COLUMNS = Hold._fields


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
    """Read a row of ``hold`` selected as ``HOLD_COLUMNS``."""
    hold = Hold(*row)
    return hold._replace(
        kind=HoldKind(hold.kind),
        state=HoldState(hold.state),
        account_nos=tuple(hold.account_nos),
        parts_micro_usd=hold.parts_micro_usd or MicroUsd(0),
        settling_micro_usd=hold.settling_micro_usd or MicroUsd(0),
    )


def row_from_hold(hold: Hold) -> dict[str, Any]:
    """Write a hold as a row by ``HOLD_COLUMNS``; what is nothing takes no room, and numbers go as text."""
    return hold._asdict() | {
        "account_nos": f"{{{','.join(map(str, hold.account_nos))}}}",
        "parts_micro_usd": hold.parts_micro_usd or None,
        "settling_micro_usd": hold.settling_micro_usd or None,
    }


def ledger_account_from_row(row: Any) -> LedgerAccount:
    """Read an account of the hold ledger, in the order of its fields."""
    account = LedgerAccount(*row)
    return account._replace(state=AccountState(account.state))
