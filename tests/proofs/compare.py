"""Holding the database against the independent recomputation."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from tests.proofs.lab import Arena
from tests.proofs.recompute import QUOTA, RawRecord, Recomputation
from tests.proofs.recompute_holds import LedgerHistory

SHOWN = 10

# An account's live amount counts what has ended until something else happens on the account. One on which
# everything was refused has nothing to tell.
_ACCOUNTS = """
SELECT account_id, placements, covered_micro_usd, live_micro_usd - coalesce(
    (SELECT sum(amount_micro_usd) FROM expiry
     WHERE expiry.account_no = ledger_account.account_no AND expires_at <= clock_timestamp()), 0)::bigint
FROM ledger_account WHERE placements > 0
"""


async def compare(
    arena: Arena, truth: Recomputation, records: Sequence[RawRecord]
) -> tuple[dict[str, int], list[str]]:
    """Hold the database against the recomputation.

    Returns
    -------
    tuple
        Figures, and what differs.
    """
    rows = await arena.fetch(
        "SELECT partition, record_offset, cost_micro_usd, subject_id FROM fact WHERE event_kind = 'recorded'"
    )
    found = Counter((row["partition"], row["record_offset"]) for row in rows)
    expected = {fact.place[1:]: fact for fact in truth.facts.values()}
    lost = expected.keys() - found.keys()
    double = sum(found.values()) - len(expected) + len(lost)
    differing = [
        f"fact at {place}: {derived}, recomputed {(fact.cost_micro_usd, fact.subject)}"
        for row in rows
        if (fact := expected.get(place := (row["partition"], row["record_offset"])))
        and (derived := (row["cost_micro_usd"], row["subject_id"])) != (fact.cost_micro_usd, fact.subject)
    ]
    rows = await arena.fetch(
        "SELECT partition, record_offset, cost_micro_usd, subject_id, counted FROM fact"
        " WHERE event_kind = 'provisional'"
    )
    stored = {(row["partition"], row["record_offset"]): tuple(row)[2:] for row in rows}
    said = {
        fact.place[1:]: (fact.cost_micro_usd, fact.subject, counts)
        for fact, counts in truth.provisional.values()
    }
    differing += [
        f"provisional fact at {place}: {stored.get(place)}, recomputed {said.get(place)}"
        for place in sorted(stored.keys() | said.keys())
        if stored.get(place) != said.get(place)
    ]
    rows = await arena.fetch(
        "SELECT account_id, sum(posted_micro_usd)::bigint AS posted FROM posted GROUP BY account_id"
    )
    recomputed = {account: total for account, total in truth.totals.items() if account.split("/")[2] != "all"}
    differing += _differing({row["account_id"]: row["posted"] for row in rows}, recomputed)
    rows = await arena.fetch(
        "SELECT owner, day, sum(posted_micro_usd)::bigint AS posted FROM daily GROUP BY owner, day"
    )
    differing += _differing(
        {f"{row['owner']} on {row['day']}": row["posted"] for row in rows},
        {f"{owner} on {day}": amount for (owner, day), amount in truth.days.items()},
    )
    differing += await _compare_sources(arena, truth)
    rows = await arena.fetch("SELECT DISTINCT asset_id, subject FROM asset_user")
    if different := {tuple(row) for row in rows} ^ truth.reuses:
        differing.append(f"who used what was shared, found or recomputed: {sorted(different)[:SHOWN]}")
    differing += await compare_parked(arena, truth, records)
    failures = differing[:SHOWN]
    if len(differing) > len(failures):
        failures.append(f"and {len(differing) - len(failures)} more differences")
    if lost or double:
        failures.insert(0, f"{len(lost)} lost, {double} double")
    figures = {
        "facts": len(expected),
        "provisional": len(said),
        "replaced": sum(not counts for *_, counts in said.values()),
        "lost": len(lost),
        "double": double,
        "accounts": sum(map(bool, recomputed.values())),
        "parked": len(truth.parked),
    }
    return figures, failures


async def _compare_sources(arena: Arena, truth: Recomputation) -> list[str]:
    """Return what differs of what was read of sources; the own topic goes on while it is compared."""
    rows = await arena.fetch(
        "SELECT topic, partition, source, last_append_ms FROM event_source JOIN position USING (source_id)"
    )
    last_seen = {tuple(row)[:3]: row["last_append_ms"] for row in rows}
    rows = await arena.fetch(
        "SELECT topic, partition, source, hour, sum(events)::bigint AS events"
        " FROM event_source_hour JOIN position USING (source_id) GROUP BY 1, 2, 3, 4"
    )
    hourly = {tuple(row)[:4]: row["events"] for row in rows}
    return [
        f"{what} {place}: {found.get(place)}, recomputed {expected.get(place)}"
        for what, found, expected in (
            ("last seen", last_seen, truth.last_seen),
            ("events", hourly, truth.hourly),
        )
        for place in sorted(found.keys() | expected.keys())
        if place[0] != QUOTA and found.get(place) != expected.get(place)
    ]


def _differing(totals: Mapping[str, int], recomputed: Mapping[str, int]) -> list[str]:
    return [
        f"{name}: {totals.get(name, 0)} micro-USD, recomputed {recomputed.get(name, 0)}"
        for name in sorted(totals.keys() | recomputed.keys())
        if totals.get(name, 0) != recomputed.get(name, 0)
    ]


async def compare_ledger(arena: Arena, history: LedgerHistory) -> list[str]:
    """Return what differs between the accounts of the hold ledger and what its topic tells, now."""
    stored = {row["account_id"]: tuple(row)[1:] for row in await arena.fetch(_ACCOUNTS)}
    live = Counter[str]()
    for hold in history.holds.values():
        if not hold.ends:
            live.update(dict.fromkeys(hold.accounts, hold.amount - hold.covered))
    told = {
        account_id: (count, history.covered[account_id], live[account_id])
        for account_id, count in history.placements.items()
    }
    return told_otherwise("account", stored, told)


def told_otherwise(what: str, stored: Mapping[str, Any], told: Mapping[str, Any]) -> list[str]:
    """Return the first of what the database has otherwise than the topic tells, and how many there are."""
    found = [
        f"{what} {name} is {stored.get(name)}, its topic tells {told.get(name)}"
        for name in sorted(stored.keys() | told.keys())
        if stored.get(name) != told.get(name)
    ]
    return [*found[:SHOWN], *([f"{len(found)} {what}s differ"] if found else [])]


async def compare_parked(arena: Arena, truth: Recomputation, records: Sequence[RawRecord]) -> list[str]:
    """Return what differs between the parked rows and what should be parked, down to the bytes."""
    raw = {record.place: record for record in records}
    differing = []
    rows = {
        (row["topic"], row["partition"], row["record_offset"]): row
        for row in await arena.fetch("SELECT * FROM parked")
    }
    for place in sorted(rows.keys() | truth.parked.keys()):
        row, code = rows.get(place), truth.parked.get(place)
        if row is None or row["error_code"] != code:
            differing.append(
                f"parked {place}: {row and (row['error_code'], row['error_message'])}, recomputed {code}"
            )
            continue
        headers = tuple(
            (name.decode() if isinstance(name, bytes) else name, value)
            for name, value in zip(row["header_names"], row["header_values"], strict=True)
        )
        kept = (row["append_ms"], row["key"], row["value"], headers)
        if kept != raw[place][3:]:
            differing.append(f"parked {place}: the bytes are not those of the log")
    return differing
