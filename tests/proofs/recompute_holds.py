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
from typing import Any

from tests.proofs.recompute import QUOTA, RawRecord

PLACING = {"hold.placed", "lease.acquired", "lease.renewed"}
ENDING = {"hold.released": "released", "hold.expired": "expired", "lease.expired": "expired"}
SHOWN = 10

Limit = Callable[[str], int | None]
"""The hard limit of an account id; ``None``: none."""


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


@dataclass
class LedgerHistory:
    """Every hold there ever was, and what was wrong on the way."""

    holds: dict[str, Hold] = field(default_factory=dict)
    admissions: int = 0
    covered: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    failures: list[str] = field(default_factory=list)

    def shown(self) -> list[str]:
        """Return the first failures and how many there are."""
        more = len(self.failures) - SHOWN
        return [*self.failures[:SHOWN], *([f"and {more} more about holds"] if more > 0 else [])]


def recompute_holds(records: Iterable[RawRecord], limit: Limit) -> LedgerHistory:
    """Replay the hold events in the ledger's order and judge each admission again."""
    replay = _Replay(limit)
    for kind, data in _in_order(records):
        replay.apply(kind, data)
    replay.judge_sequences()
    return replay.history


def _in_order(records: Iterable[RawRecord]) -> list[tuple[str, Mapping[str, Any]]]:
    """Return each hold event once, by its number in the ledger's line."""
    found: dict[tuple[bytes, bytes], tuple[int, int, str, Mapping[str, Any]]] = {}
    for record in records:
        headers = dict(record.headers)
        kind = headers.get("ce_type", b"").decode().removeprefix("tokenomics.").removesuffix(".v1")
        if record.topic == QUOTA and kind.partition(".")[0] in {"hold", "lease"}:
            data = json.loads(record.value or b"")
            key = (headers["ce_source"], headers["ce_id"])
            found.setdefault(key, (data["change_seq"], record.offset, kind, data))
    return [(kind, data) for _, _, kind, data in sorted(found.values(), key=lambda each: each[:2])]


class _Replay:
    def __init__(self, limit: Limit) -> None:
        self.history = LedgerHistory()
        self._limit = limit
        self._on: dict[str, list[Hold]] = defaultdict(list)
        """Holds by account, in the order they were placed."""
        self._sequences: dict[str, list[int]] = defaultdict(list)
        self._latest = datetime.min.replace(tzinfo=UTC)

    def apply(self, kind: str, data: Mapping[str, Any]) -> None:
        """Take in one event."""
        if kind in PLACING:
            self._place(kind, data)
        elif kind.endswith(".settled"):
            self._settle(kind, data)
        elif kind == "hold.extended":
            self.history.holds[data["hold_id"]].expires_at = datetime.fromisoformat(data["expires_at"])
        elif kind in ENDING or kind == "lease.returned":
            self._end(kind, data)

    def judge_sequences(self) -> None:
        """Say where placements are missing or numbered twice."""
        for account_id, numbers in self._sequences.items():
            if sorted(numbers) != list(range(1, len(numbers) + 1)):
                self._wrong(f"{account_id}: its placements are not numbered 1 to {len(numbers)}")

    def _wrong(self, what: str) -> None:
        self.history.failures.append(what)

    def _place(self, kind: str, data: Mapping[str, Any]) -> None:
        hold_id = data["hold_id"]
        known = self.history.holds.get(hold_id)
        if (known is None) == (kind == "lease.renewed"):
            self._wrong(f"{hold_id}: {kind} does not follow from what was before")
            return
        now = None if known else datetime.fromisoformat(data["placed_at"])
        if now is not None:
            if now < self._latest:
                self._wrong(f"{hold_id} was placed at {now}, after one that was placed at {self._latest}")
            self._latest = now
        added = data["amount_micro_usd"] - (known.amount if known else 0)
        for placement in data["placements"]:
            self._judge(hold_id, placement, added, now)
        expires_at = datetime.fromisoformat(data["expires_at"])
        if known is not None:
            known.amount, known.expires_at = data["amount_micro_usd"], expires_at
            return
        assert now is not None
        accounts = [placement["account_id"] for placement in data["placements"]]
        parent = data.get("parent_hold_id")
        hold = Hold(hold_id, data["subject"], data["amount_micro_usd"], now, expires_at, accounts, parent)
        self.history.holds[hold_id] = hold
        for account_id in accounts:
            self._on[account_id].append(hold)

    def _judge(self, hold_id: str, placement: Mapping[str, Any], added: int, now: datetime | None) -> None:
        """Judge one admission; of a renewal, whose instant isn't told, by what the ledger says was before."""
        account_id = placement["account_id"]
        self._sequences[account_id].append(placement["sequence"])
        self.history.admissions += 1
        before, hard = placement["committed_before_micro_usd"], placement.get("limit_micro_usd")
        if now is not None:
            live = sum(
                each.amount - each.covered
                for each in self._on[account_id]
                if not each.ends and each.expires_at > now
            )
            covered = self.history.covered[account_id]
            if before != live + covered:
                self._wrong(
                    f"{hold_id} on {account_id}: {before} committed before it, recomputed "
                    f"{live} live and {covered} covered"
                )
            before = live + covered
        if hard != self._limit(account_id):
            self._wrong(f"{hold_id} on {account_id}: judged by {hard}, not by {self._limit(account_id)}")
        if hard is not None and before + added > hard:
            self._wrong(f"{hold_id} on {account_id}: overshot, {before} and {added} are more than {hard}")

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
        if "usage_identity" in data:
            hold.cost += data["cost_micro_usd"]
        if kind == "hold.settled" and "settled" not in hold.ends:  # told again when usage takes its place
            self._ended(hold, "settled")

    def _end(self, kind: str, data: Mapping[str, Any]) -> None:
        hold = self.history.holds[data["hold_id"]]
        if kind == "lease.returned":
            hold.amount = data["amount_micro_usd"]
        else:
            self._ended(hold, ENDING[kind])

    def _ended(self, hold: Hold, how: str) -> None:
        hold.ends.append(how)
        if len(hold.ends) > 1:
            self._wrong(f"{hold.hold_id} ended as {' and '.join(hold.ends)}")
