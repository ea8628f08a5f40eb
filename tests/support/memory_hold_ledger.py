"""The hold ledger in memory, for tests of rules; the conformance suite holds it equal to PostgreSQL's."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

from tokenomics_contracts.units import AccountId, HoldId, MicroUsd
from tokenomics_quota.domain.holds import Change, Happened, Hold, HoldState, LedgerAccount, Placement
from tokenomics_quota.ports import Committed, Turn


@dataclass
class MemoryHoldLedger:
    """Everything commits at once; nothing is concurrent."""

    clock: datetime = datetime(2026, 11, 20, 12, tzinfo=UTC)
    is_open: bool = True
    active_version: int = 1
    governing_version: int = 0
    posted: dict[AccountId, MicroUsd] = field(default_factory=dict)
    rows: dict[int, Hold] = field(default_factory=dict)
    ledger_accounts: dict[int, LedgerAccount] = field(default_factory=dict)
    """With what is live before anything that is past is taken out."""
    expiry: dict[tuple[int, datetime], int] = field(default_factory=dict)
    placements: list[Placement] = field(default_factory=list)
    happened: list[tuple[Happened, str | None]] = field(default_factory=list)
    change_seq: int = 0
    last_now: datetime = datetime(2000, 1, 1, tzinfo=UTC)

    async def begin(self, commands: int) -> Turn:
        first = self.change_seq + 1
        self.change_seq += commands
        self.last_now = max(self.last_now, self.clock)
        return Turn(first, self.last_now, self.is_open, self.active_version)

    async def begin_again(self, change_seq: int, now: datetime) -> None:
        self.change_seq = max(self.change_seq, change_seq)
        self.last_now = max(self.last_now, now)

    async def holds(self, named: Iterable[HoldId]) -> Sequence[Hold]:
        wanted = {hold_no for hold_no, hold in self.rows.items() if hold.hold_id in set(named)}
        above = list(wanted)
        for hold_no in above:  # which grows meanwhile
            parent_no = self.rows[hold_no].parent_no
            above += [] if parent_no is None else [parent_no]
        roots = {self.rows[hold_no].root_no or hold_no for hold_no in above}
        parts = [
            hold.hold_no
            for hold in self.rows.values()
            if hold.root_no in roots and hold.state is HoldState.LIVE
        ]
        return [self.rows[hold_no] for hold_no in sorted({*above, *parts})]

    async def accounts(
        self, account_ids: Iterable[AccountId], account_nos: Iterable[int] = ()
    ) -> Sequence[LedgerAccount]:
        numbers = {account.account_id: account.account_no for account in self.ledger_accounts.values()}
        for account_id in set(account_ids) - numbers.keys():
            number = numbers[account_id] = len(numbers) + 1
            self.ledger_accounts[number] = LedgerAccount(number, account_id)
        wanted = {numbers[account_id] for account_id in account_ids} | set(account_nos)
        return [self._at(self.last_now, self.ledger_accounts[number]) for number in sorted(wanted)]

    def _at(self, now: datetime, account: LedgerAccount) -> LedgerAccount:
        past = sum(
            amount
            for (account_no, expires_at), amount in self.expiry.items()
            if account_no == account.account_no and expires_at <= now
        )
        return account._replace(live_micro_usd=MicroUsd(account.live_micro_usd - past))

    async def committed(self, version: int, account_ids: Iterable[AccountId]) -> Committed:
        assert version == self.active_version
        return Committed(
            self.governing_version, {each: self.posted.get(each, MicroUsd(0)) for each in account_ids}
        )

    async def write(self, changes: Sequence[Change], traceparents: Mapping[int, str] | None = None) -> None:
        for change in changes:
            for account in change.accounts:
                for key in [
                    key for key in self.expiry if key[0] == account.account_no and key[1] <= self.last_now
                ]:
                    del self.expiry[key]
                self.ledger_accounts[account.account_no] = account
            for account_no, expires_at, amount in change.endings:
                key = (account_no, expires_at)
                self.expiry[key] = self.expiry.get(key, 0) + amount
                assert self.expiry[key] >= 0
                assert expires_at > self.last_now
            for placement in change.placements:
                limit = placement.limit_then_micro_usd
                committed = placement.committed_before_micro_usd + placement.amount_micro_usd
                assert limit is None or committed <= limit
            self.placements += change.placements
            self.rows |= {hold.hold_no: hold for hold in change.holds}
            traces = traceparents or {}
            self.happened += [(each, traces.get(each.moment.change_seq)) for each in change.happened]

    def account_now(self, account_id: AccountId) -> LedgerAccount:
        """Return an account as a turn that begins now would."""
        (account,) = (each for each in self.ledger_accounts.values() if each.account_id == account_id)
        return self._at(max(self.last_now, self.clock), account)
