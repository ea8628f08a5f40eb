"""Announcing: each threshold that a committed total reaches is said once."""

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Literal

from tokenomics_chassis.records import SourceId
from tokenomics_contracts.events.quota import ThresholdCrossed
from tokenomics_contracts.units import AccountId, BasisPoints, MicroUsd
from tokenomics_quota.domain.accounts import Purpose, parse_account_id
from tokenomics_quota.domain.balance import Balance
from tokenomics_quota.domain.effective import GOVERNING_REACH
from tokenomics_quota.domain.friction import Band, is_reached
from tokenomics_quota.ports import Announcements, Ledger
from tokenomics_quota.projections.balances import QuotaView
from tokenomics_quota.projections.governance import Governance
from tokenomics_quota.usecases.projecting import KnownGovernance

ANNOUNCED_PERIODS = GOVERNING_REACH
"""Totals of older periods can't move any more: neither usage nor a governing event reaches that far back."""


_LIMITED = (Purpose.ALL, Purpose.EXPERIMENT)
"""Purposes of accounts that a policy may limit."""


class ThresholdAnnouncer:
    """Judges committed totals against limits, as the only one of its service to do so at a time.

    After the first judgement of a term, and whenever a limit may have changed (by what governs, or by what
    of it takes effect or ends with time), every account is judged; otherwise those whose total moved.
    """

    def __init__(self, known: KnownGovernance) -> None:
        self._known = known
        self._judged_version: int | None = None
        self._limits_hold_from = self._limits_hold_until = datetime.min.replace(tzinfo=UTC)

    async def judge(
        self, ledger: Ledger, announcements: Announcements, moved: Mapping[SourceId, int], now: datetime
    ) -> int:
        """Announce what is due and unsaid; return how many announcements that made.

        Limits can't change while it looks: it shares the governing lock and reads the totals after taking it.
        """
        governance = await self._known.locked(ledger)
        # Before the judgement that the limits were found in: the clock has stepped back.
        limits_hold = self._limits_hold_from <= now < self._limits_hold_until
        everything = governance.limits_version != self._judged_version or not limits_hold
        if not everything and not moved:
            return 0
        since = governance.calendars.at(now).period_of(now - ANNOUNCED_PERIODS)
        totals = await announcements.totals(None if everything else moved, since=since)
        made = await announcements.announce(_due(governance, totals, now), now)
        if everything:
            self._judged_version = governance.limits_version
            self._limits_hold_from, self._limits_hold_until = now, governance.next_change(now)
        return made


def _due(
    governance: Governance, totals: Mapping[AccountId, MicroUsd], now: datetime
) -> Iterable[ThresholdCrossed]:
    view = QuotaView(governance)
    view.put_totals(totals)
    moved = {parse_account_id(each) for each in totals}
    for account in sorted({each.for_purpose(purpose) for each in moved for purpose in _LIMITED}):
        balance = view.balance(account, now)
        limit = balance.limit_micro_usd
        if limit is None:
            continue
        for band, share in balance.bounds.thresholds.reached(balance.posted_micro_usd, limit):
            yield _crossed(balance, limit, share, band, "band")
        at = view.instant_in(account.period, now)
        base = governance.limit(account.kind, account.owner_id, at, account.purpose)
        if base and base.alert and is_reached(base.alert, balance.posted_micro_usd, limit):
            band = balance.bounds.thresholds.band(balance.posted_micro_usd, limit)
            yield _crossed(balance, limit, base.alert, band, "alert")


def _crossed(
    balance: Balance, limit: MicroUsd, share: BasisPoints, band: Band, reason: Literal["band", "alert"]
) -> ThresholdCrossed:
    account = balance.account
    return ThresholdCrossed(
        account_id=account.account_id,
        kind=account.kind.value,
        owner_id=account.owner_id,
        purpose=account.purpose.value,
        period=account.period,
        threshold_basis_points=share,
        band=band.label,
        reason=reason,
        limit_micro_usd=limit,
        posted_micro_usd=balance.posted_micro_usd,
    )
