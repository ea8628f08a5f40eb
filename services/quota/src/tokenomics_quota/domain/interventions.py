"""What people do to accounts and rules by hand: freezing, closing, letting a scope pass for a while."""

from collections.abc import Iterable
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Final, NamedTuple

from tokenomics_contracts.units import AccountId
from tokenomics_quota.domain.accounts import Account, AccountKind
from tokenomics_quota.domain.holds import AccountState

LONGEST_BYPASS: Final = timedelta(hours=24)
"""What takes longer is for policy to say; another bypass may follow."""


class Decided(NamedTuple):
    """Who decided it, and on what ground: codes, never text."""

    reason_code: str
    ticket_id: str
    decided_by: str
    """Person, or the workload that decided for itself."""
    caller: str
    """Workload through which."""


class Bypass(NamedTuple):
    """Calls counted on an account of the scope pass every rule but prohibited data, and are recorded."""

    bypass_id: str
    kind: AccountKind
    owner_id: str
    started_at: datetime
    until: datetime
    """Exclusive; by itself it ends then."""
    reason_code: str
    ticket_id: str
    decided_by: str
    ended_at: datetime | None = None
    """When somebody ended it, or when it was written down that its time had come."""

    @property
    def scope(self) -> str:
        """Whose calls it lets pass, as ``<kind>/<owner_id>``."""
        return f"{self.kind}/{self.owner_id}"

    @property
    def ends_at(self) -> datetime:
        """From when on it no longer holds."""
        return self.until if self.ended_at is None else min(self.until, self.ended_at)

    def covers(self, accounts: Iterable[Account]) -> bool:
        """Whether calls that are counted on these accounts are within its scope."""
        return any(account.kind is self.kind and account.owner_id == self.owner_id for account in accounts)

    def differs_from(self, other: "Bypass") -> list[str]:
        """Name the fields in which another request for the same bypass differs."""
        mine = {
            "scope_kind": self.kind,
            "scope_owner_id": self.owner_id,
            "until": self.until,
            "reason_code": self.reason_code,
            "ticket_id": self.ticket_id,
        }
        theirs = (other.kind, other.owner_id, other.until, other.reason_code, other.ticket_id)
        return [field for (field, value), their in zip(mine.items(), theirs, strict=True) if value != their]


class Shut(NamedTuple):
    """An account that takes nothing."""

    account: Account
    state: AccountState


class What(StrEnum):
    """What was done, as it is named in events and in the audit trail."""

    FROZEN = "account.frozen"
    UNFROZEN = "account.unfrozen"
    CLOSED = "account.closed"
    BYPASS_STARTED = "bypass.started"
    BYPASS_ENDED = "bypass.ended"
    BYPASS_EXPIRED = "bypass.expired"


STATE_AFTER: Final = {
    What.FROZEN: AccountState.FROZEN,
    What.UNFROZEN: AccountState.OPEN,
    What.CLOSED: AccountState.CLOSED,
}


class Intervention(NamedTuple):
    """Something that was done, to be told."""

    what: What
    change_seq: int
    at: datetime
    """The ledger's now."""
    decided: Decided | None
    """``None``: time did it."""
    account_id: AccountId | None = None
    bypass: Bypass | None = None

    @property
    def target(self) -> str:
        """What it was done to: an account's id, or a bypass's."""
        if self.account_id is not None:
            return self.account_id
        assert self.bypass is not None
        return self.bypass.bypass_id

    @property
    def aggregate_id(self) -> str:
        """Name what it is a version of."""
        return f"{self.what.partition('.')[0]}/{self.target}"
