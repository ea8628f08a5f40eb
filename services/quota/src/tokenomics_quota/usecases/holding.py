"""Holding: commands on holds, those that come together in one transaction."""

from collections.abc import Iterable

from tokenomics_contracts.units import AccountId, HoldId
from tokenomics_quota.domain.holds import Books
from tokenomics_quota.ports import HoldLedger


async def books_of(
    ledger: HoldLedger, named: Iterable[HoldId], account_ids: Iterable[AccountId] = ()
) -> Books:
    """Return the books for commands that name these holds, and place on these accounts, in a turn begun."""
    holds = await ledger.holds(named)
    account_nos = {account_no for hold in holds for account_no in hold.account_nos}
    return Books(await ledger.accounts(account_ids, account_nos), holds)
