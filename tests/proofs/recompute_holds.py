"""The hold ledger, worked out a second time from what the quota topic says, in its own words.

It imports nothing of the product. Each event carries its number in the ledger's one line; in that order every
placement is judged again: what was covered and live on the account just before, by the ledger's clock as of
the placement, and whether the amount still fitted under the limit that a caller names for the account.
"""

import json
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from hashlib import blake2b
from typing import Any, NamedTuple

from tests.proofs.recompute import QUOTA, RawRecord

PLACING = {"hold.placed", "lease.acquired", "lease.renewed"}
ENDING = {"hold.released": "released", "hold.expired": "expired", "lease.expired": "expired"}
SHOWN = 10

Limit = Callable[[str], int | None]
"""The hard limit of an account id; ``None``: none."""


class Stretch(NamedTuple):
    """What a client might draw of a lease, and until when, from one renewal to the next."""

    amount: int
    """Of all stretches so far."""
    draw_until: datetime


class Settlement(NamedTuple):
    """What one usage event settled of a lease."""

    at: datetime
    cost: int
    covered: int


@dataclass
class Hold:
    """A hold as its events left it."""

    hold_id: str
    subject: str
    amount: int
    placed_at: datetime
    expires_at: datetime
    accounts: list[str]
    parent: str | None
    covered: int = 0
    cost: int = 0
    ends: list[str] = field(default_factory=list)
    """How it ended; more than one is wrong."""
    stretches: list[Stretch] = field(default_factory=list)
    """Of a lease; the first as it was acquired."""
    settlements: dict[str, Settlement] = field(default_factory=dict)
    """Of a lease, by :func:`usage_identity`."""
    returned: bool = False


@dataclass
class LedgerHistory:
    """Every hold there ever was, and what was wrong on the way."""

    holds: dict[str, Hold] = field(default_factory=dict)
    admissions: int = 0
    placements: dict[str, int] = field(default_factory=dict)
    """How many there were, by account."""
    covered: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    failures: list[str] = field(default_factory=list)

    def shown(self) -> list[str]:
        """Return the first failures and how many there are."""
        more = len(self.failures) - SHOWN
        return [*self.failures[:SHOWN], *([f"and {more} more about holds"] if more > 0 else [])]


def usage_identity(source: str, id_: str) -> str:
    """Return what a settlement calls the usage event that made it."""
    return blake2b(f"{source}\0{id_}".encode(), digest_size=16).hexdigest()


def recompute_holds(records: Iterable[RawRecord], limit: Limit) -> LedgerHistory:
    """Replay the hold events in the ledger's order and judge each admission again."""
    replay = _Replay(limit)
    for kind, at, data in _in_order(records):
        replay.apply(kind, at, data)
    replay.judge_sequences()
    return replay.history


def _in_order(records: Iterable[RawRecord]) -> list[tuple[str, datetime, Mapping[str, Any]]]:
    """Return each hold event once, by its number in the ledger's line, with the ledger's time of it."""
    found: dict[tuple[bytes, bytes], tuple[int, int, str, datetime, Mapping[str, Any]]] = {}
    for record in records:
        headers = dict(record.headers)
        kind = headers.get("ce_type", b"").decode().removeprefix("tokenomics.").removesuffix(".v1")
        if record.topic == QUOTA and kind.partition(".")[0] in {"hold", "lease"}:
            data = json.loads(record.value or b"")
            key = (headers["ce_source"], headers["ce_id"])
            at = datetime.fromisoformat(headers["ce_time"].decode())
            found.setdefault(key, (data["change_seq"], record.offset, kind, at, data))
    return [each[2:] for each in sorted(found.values(), key=lambda each: each[:2])]


class _Replay:
    def __init__(self, limit: Limit) -> None:
        self.history = LedgerHistory()
        self._limit = limit
        self._on: dict[str, list[Hold]] = defaultdict(list)
        """Holds by account, in the order they were placed."""
        self._sequences: dict[str, list[int]] = defaultdict(list)
        self._latest = datetime.min.replace(tzinfo=UTC)

    def apply(self, kind: str, at: datetime, data: Mapping[str, Any]) -> None:
        """Take in one event."""
        if kind in PLACING:
            self._place(kind, at, data)
        elif kind.endswith(".settled"):
            self._settle(kind, data)
        elif kind == "hold.extended":
            self.history.holds[data["hold_id"]].expires_at = datetime.fromisoformat(data["expires_at"])
        elif kind in ENDING or kind == "lease.returned":
            self._end(kind, data)

    def judge_sequences(self) -> None:
        """Say where placements are missing or numbered twice."""
        for account_id, numbers in self._sequences.items():
            self.history.placements[account_id] = len(numbers)
            if sorted(numbers) != list(range(1, len(numbers) + 1)):
                self._wrong(f"{account_id}: its placements are not numbered 1 to {len(numbers)}")

    def _wrong(self, what: str) -> None:
        self.history.failures.append(what)

    def _place(self, kind: str, now: datetime, data: Mapping[str, Any]) -> None:
        hold_id = data["hold_id"]
        known = self.history.holds.get(hold_id)
        if (known is None) == (kind == "lease.renewed"):
            self._wrong(f"{hold_id}: {kind} does not follow from what was before")
            return
        if now < self._latest:
            self._wrong(f"{hold_id} was placed at {now}, after one that was placed at {self._latest}")
        self._latest = now
        added = data["amount_micro_usd"] - (known.amount if known else 0)
        for placement in data["placements"]:
            self._judge(hold_id, placement, added, now)
        expires_at = datetime.fromisoformat(data["expires_at"])
        if known is None:
            known = self._new(data, expires_at)
        elif known.ends or known.returned or known.expires_at <= now:
            self._wrong(f"{hold_id} was renewed at {now}, when it had ended")
        known.amount, known.expires_at = data["amount_micro_usd"], expires_at
        if "draw_until" in data:
            known.stretches.append(Stretch(known.amount, datetime.fromisoformat(data["draw_until"])))

    def _new(self, data: Mapping[str, Any], expires_at: datetime) -> Hold:
        accounts = [placement["account_id"] for placement in data["placements"]]
        hold = Hold(
            data["hold_id"],
            data["subject"],
            data["amount_micro_usd"],
            datetime.fromisoformat(data["placed_at"]),
            expires_at,
            accounts,
            data.get("parent_hold_id"),
        )
        self.history.holds[hold.hold_id] = hold
        for account_id in accounts:
            self._on[account_id].append(hold)
        return hold

    def _judge(self, hold_id: str, placement: Mapping[str, Any], added: int, now: datetime) -> None:
        account_id = placement["account_id"]
        self._sequences[account_id].append(placement["sequence"])
        self.history.admissions += 1
        told, hard = placement["committed_before_micro_usd"], placement.get("limit_micro_usd")
        live = sum(
            each.amount - each.covered
            for each in self._on[account_id]
            if not each.ends and each.expires_at > now
        )
        covered = self.history.covered[account_id]
        if told != live + covered:
            self._wrong(
                f"{hold_id} on {account_id}: {told} committed before it, recomputed "
                f"{live} live and {covered} covered"
            )
        if hard != self._limit(account_id):
            self._wrong(f"{hold_id} on {account_id}: judged by {hard}, not by {self._limit(account_id)}")
        if hard is not None and live + covered + added > hard:
            self._wrong(
                f"{hold_id} on {account_id}: overshot, {live + covered} and {added} are more than {hard}"
            )

    def _settle(self, kind: str, data: Mapping[str, Any]) -> None:
        hold = self.history.holds[data["hold_id"]]
        newly = data["covered_micro_usd"] - hold.covered
        at = datetime.fromisoformat(data["settled_at"])
        again = "settled" in hold.ends
        if (newly < 0 and not again) or (newly > 0 and (again or at >= hold.expires_at)):
            self._wrong(f"{hold.hold_id} was covered by {newly} at {at}, it ended {hold.expires_at}")
        root = hold
        root.covered += newly
        while root.parent is not None:
            root = self.history.holds[root.parent]
            root.covered += newly
        for each in {id(hold): hold, id(root): root}.values():
            if each.covered > each.amount:
                self._wrong(f"{each.hold_id} covers {each.covered} of {each.amount}")
        for account_id in root.accounts:
            self.history.covered[account_id] += newly
        if (identity := data.get("usage_identity")) is not None:
            hold.cost += data["cost_micro_usd"]
            if identity in hold.settlements:
                self._wrong(f"{hold.hold_id}: the same usage settled some of it twice")
            if hold.stretches:
                hold.settlements[identity] = Settlement(at, data["cost_micro_usd"], newly)
        if kind == "hold.settled" and "settled" not in hold.ends:  # told again when usage takes its place
            self._ended(hold, "settled")

    def _end(self, kind: str, data: Mapping[str, Any]) -> None:
        hold = self.history.holds[data["hold_id"]]
        if kind == "lease.returned":
            if hold.returned or hold.ends:
                self._wrong(f"{hold.hold_id} was returned when it had ended")
            hold.returned = True
            kept = min(hold.amount, max(data["drawn_micro_usd"], hold.covered))
            if data["amount_micro_usd"] != kept:
                self._wrong(f"{hold.hold_id} keeps {data['amount_micro_usd']} once returned, not {kept}")
            hold.amount = data["amount_micro_usd"]
        else:
            self._ended(hold, ENDING[kind])

    def _ended(self, hold: Hold, how: str) -> None:
        hold.ends.append(how)
        if len(hold.ends) > 1:
            self._wrong(f"{hold.hold_id} ended as {' and '.join(hold.ends)}")
