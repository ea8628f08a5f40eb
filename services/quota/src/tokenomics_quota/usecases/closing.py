"""Closing periods: what each account came to is told once, and what comes later as an adjustment of it."""

from collections.abc import Collection, Iterable, Iterator, Mapping
from datetime import datetime
from itertools import chain, islice
from typing import Final

from tokenomics_contracts.events.quota import CarryOver, PeriodClosed
from tokenomics_contracts.units import MicroUsd, PeriodId
from tokenomics_quota.domain.accounts import Account, AccountKind, Purpose
from tokenomics_quota.domain.effective import GOVERNING_REACH, LATENESS_BOUND
from tokenomics_quota.ports import Announcements, Found, Unsettled
from tokenomics_quota.projections.balances import QuotaView
from tokenomics_quota.projections.governance import Governance

CHUNK: Final = 2_000
"""Accounts told of in one transaction: while it lasts, what governs waits."""


class Closing:
    """Closes each period some days after its end, as policy says, and tells what comes later as adjustments.

    It goes through a closed period once a term, chunk by chunk, and from then on looks at the accounts that
    move alone. A period that nobody closed while usage could still come late is never closed: on the first
    day of a company with a long history that would be a flood. One that was closed is adjusted for as long as
    anything can change it.
    """

    def __init__(self) -> None:
        self._through: set[PeriodId] = set()
        """Told of in full: whatever moves is late."""
        self._passed_by: set[PeriodId] = set()
        """Never to be told of."""
        self._unused: tuple[PeriodId, Iterator[Account]] | None = None
        """What is left to look at of the accounts that carry something over from a period even if unused."""

    async def judge(
        self, governance: Governance, announcements: Announcements, moved: Collection[Account], now: datetime
    ) -> int:
        """Go on through a closed period, if there is one to go through, and adjust what moved of the others.

        Parameters
        ----------
        moved
            Accounts for purpose ``all`` whose total may be another than at the last call.

        Returns
        -------
        int
            How many announcements that made.
        """
        made = 0
        if late := [account for account in moved if account.period in self._through]:
            found = await announcements.unsettled_of(late)
            made += await announcements.announce(_closings(governance, found, now), now)
        for period, end in _closed_periods(governance, now):
            if period in self._through or period in self._passed_by:
                continue
            if now - end > LATENESS_BOUND and not await announcements.was_closed(period):
                self._passed_by.add(period)
                continue
            return made + await self._go_through(governance, announcements, period, now)
        return made

    async def _go_through(
        self, governance: Governance, announcements: Announcements, period: PeriodId, now: datetime
    ) -> int:
        found = await announcements.unsettled(period, at_most=CHUNK)
        if not found.unsettled:
            unused = self._unused_of(governance, period, now)
            found = await _untold(announcements, unused, found.next_offsets)
        if not found.unsettled:
            self._through.add(period)
            return 0
        return await announcements.announce(_closings(governance, found, now), now)

    def _unused_of(self, governance: Governance, period: PeriodId, now: datetime) -> Iterator[Account]:
        if self._unused is None or self._unused[0] != period:
            self._unused = period, _carrying(governance, period, now)
        return self._unused[1]


async def _untold(
    announcements: Announcements, unused: Iterator[Account], next_offsets: Mapping[str, int]
) -> Found:
    """Take from accounts that nothing was used of until there is one that wasn't told of."""
    untold: list[Unsettled] = []
    while not untold and (chunk := list(islice(unused, CHUNK))):
        told = await announcements.closed(chunk)
        untold = [
            Unsettled(account, MicroUsd(0), MicroUsd(0), 0, MicroUsd(0))
            for account in chunk
            if account.account_id not in told
        ]
    return Found(untold, next_offsets)


def _closed_periods(governance: Governance, now: datetime) -> Iterator[tuple[PeriodId, datetime]]:
    """Yield the periods that are closed by now and that something can still change, with their ends."""
    calendar = governance.calendars.at(now)
    period = calendar.period_of(now)
    while now - (end := calendar.bounds(period)[0]) <= GOVERNING_REACH:
        period = calendar.before(period)
        if now >= end + governance.quota_policies.at(governance.instant_in(period, now)).close_after:
            yield period, end


def _carrying(governance: Governance, period: PeriodId, now: datetime) -> Iterator[Account]:
    """Yield the accounts from which something would be carried over if nothing was used of them."""
    at = governance.instant_in(period, now)
    policy = governance.quota_policies.at(at)
    owners: Iterable[tuple[AccountKind, str]] = policy.budgets
    allowances = (*policy.allowances.values(), policy.default_allowance)
    if any(allowance.carry_over_cap for allowance in allowances if allowance):
        subjects = governance.directory.subjects()
        owners = chain(owners, ((AccountKind.SUBJECT, subject) for subject in subjects))
    for kind, owner_id in owners:
        account = Account(kind, owner_id, Purpose.ALL, period)
        if _carried_over(governance, account, MicroUsd(0), now):
            yield account


def _closings(governance: Governance, found: Found, now: datetime) -> Iterator[PeriodClosed]:
    view = QuotaView(governance)
    for account, posted, experiment, told_version, told in found.unsettled:
        yield PeriodClosed(
            account_id=account.account_id,
            kind=account.kind.value,
            owner_id=account.owner_id,
            purpose=account.purpose.value,
            period=account.period,
            version=told_version + 1,
            posted_micro_usd=posted,
            experiment_micro_usd=experiment,
            adjustment_micro_usd=MicroUsd(posted - told if told_version else 0),
            limit_micro_usd=view.balance(account, now).limit_micro_usd,
            carry_over=None if told_version else _carried_over(governance, account, posted, now),
            positions=dict(found.next_offsets),
        )


def _carried_over(
    governance: Governance, account: Account, posted: MicroUsd, now: datetime
) -> CarryOver | None:
    """Return what is left of what policy gave, up to the cap; what was granted beyond isn't carried over."""
    limit = governance.limit(account.kind, account.owner_id, governance.instant_in(account.period, now))
    if limit is None or limit.carry_over_cap is None:
        return None
    amount = min(limit.carry_over_cap, limit.micro_usd - posted)
    calendar = governance.calendars.at(now)
    _, starts_at = calendar.bounds(account.period)
    _, ends_at = calendar.bounds(calendar.period_of(starts_at))
    if amount <= 0 or ends_at <= now:
        return None
    return CarryOver(amount_micro_usd=MicroUsd(amount), starts_at=starts_at, ends_at=ends_at)
