"""Announcing: what committed totals have come to, or will, is said once."""

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Literal

from tokenomics_chassis.records import SourceId
from tokenomics_contracts.events.quota import ThresholdCrossed
from tokenomics_contracts.units import AccountId, BasisPoints, MicroUsd
from tokenomics_quota.domain.accounts import Account, Purpose, parse_account_id
from tokenomics_quota.domain.approvals import Target
from tokenomics_quota.domain.balance import Balance
from tokenomics_quota.domain.effective import GOVERNING_REACH
from tokenomics_quota.domain.friction import Band, is_reached
from tokenomics_quota.ports import Announcements, Ledger
from tokenomics_quota.projections.balances import QuotaView
from tokenomics_quota.projections.governance import Governance
from tokenomics_quota.usecases.closing import Closing
from tokenomics_quota.usecases.day_uses import Spiking
from tokenomics_quota.usecases.foreseeing import Foreseeing
from tokenomics_quota.usecases.friction import FrictionJudge
from tokenomics_quota.usecases.projecting import KnownGovernance

ANNOUNCED_PERIODS = GOVERNING_REACH
"""Totals of older periods can't move any more: neither usage nor a governing event reaches that far back."""

_MOST_OWNERS = 1_000
"""Whose totals are looked up one by one; of more, all accounts are."""

_NEVER = datetime.min.replace(tzinfo=UTC)


class TotalsJudge:
    """Judges committed totals, as the only one of its service to do so at a time.

    After the first judgement of a term, and whenever limits may have changed (by what governs, or by what of
    it takes effect or ends with time), every account is judged; otherwise those whose total moved, and those
    whose limit an approval changed or its beginning or end.
    """

    def __init__(self, known: KnownGovernance) -> None:
        self._known = known
        self._foreseeing, self._spiking, self._closing = Foreseeing(), Spiking(), Closing()
        self._friction = FrictionJudge()
        self._judged: Governance | None = None
        self._limits_hold_from = self._limits_hold_until = _NEVER

    async def judge(
        self,
        ledger: Ledger,
        announcements: Announcements,
        moved: Mapping[SourceId, int],
        now: datetime,
        *,
        anew: bool = False,
    ) -> int:
        """Announce what is due and unsaid; return how many announcements that made.

        Limits can't change while it looks: it shares the governing lock and reads the totals after taking it.

        Parameters
        ----------
        moved
            The last ``change_seq`` judged of each source that moved since.
        anew
            A term begins: nothing that was found out before holds, for its transaction may have failed.
        """
        if anew:
            self._foreseeing, self._spiking, self._closing = Foreseeing(), Spiking(), Closing()
            self._friction = FrictionJudge()
            self._judged = None
        governance = await self._known.locked(ledger)
        # Before the judgement that the limits were found in: the clock has stepped back.
        in_time = self._limits_hold_from <= now < self._limits_hold_until
        limits_hold = in_time and governance is self._judged
        owners = frozenset[Target]() if limits_hold else self._owners_of_other_limits(governance, now)
        since = governance.calendars.at(now).period_of(now - ANNOUNCED_PERIODS)
        moved_only = _of_accounts(
            await announcements.totals(moved, since=since) if moved and not anew else {}
        )
        totals = moved_only
        if owners is None:
            totals = _of_accounts(await announcements.totals(None, since=since))
        elif owners:
            totals = moved_only | _of_accounts(await announcements.totals_of(owners, since=since))
        made = await announcements.announce(_reached(governance, totals, now), now)
        made += await self._foreseeing.judge(governance, announcements, _whole(totals), now)
        made += await self._spiking.judge(governance, announcements, totals, now)
        made += await self._friction.judge(governance, announcements, now)
        made += await self._closing.judge(governance, announcements, _whole(moved_only), now)
        if not limits_hold:
            self._judged = governance
            self._limits_hold_from, self._limits_hold_until = now, governance.next_change(now)
        return made

    def _owners_of_other_limits(self, governance: Governance, now: datetime) -> frozenset[Target] | None:
        """Return whose limits may be other than when they were judged last; ``None``: anybody's."""
        if self._judged is None or now < self._limits_hold_from:
            return None
        decided = governance.changed_since(self._judged)
        turned = governance.changed_between(self._limits_hold_from, now)
        if decided is None or turned is None:
            return None
        owners = decided | turned
        return owners if len(owners) <= _MOST_OWNERS else None


def _of_accounts(totals: Mapping[AccountId, MicroUsd]) -> dict[Account, MicroUsd]:
    """Add both purposes of each account up; what is for experiments may have a limit of its own, too."""
    by_account: dict[Account, MicroUsd] = {}
    for account_id, posted in totals.items():
        account = parse_account_id(account_id)
        if account.purpose is Purpose.EXPERIMENT:
            by_account[account] = posted
        whole = account.for_purpose(Purpose.ALL)
        by_account[whole] = MicroUsd(by_account.get(whole, 0) + posted)
    return by_account


def _whole(totals: Mapping[Account, MicroUsd]) -> dict[Account, MicroUsd]:
    return {account: posted for account, posted in totals.items() if account.purpose is Purpose.ALL}


def _reached(
    governance: Governance, totals: Mapping[Account, MicroUsd], now: datetime
) -> Iterator[ThresholdCrossed]:
    view = QuotaView(governance)
    for account in sorted(totals):
        balance = view.balance(account, now)._replace(posted_micro_usd=totals[account])
        limit = balance.limit_micro_usd
        if limit is None:
            continue
        for band, share in balance.bounds.thresholds.reached(balance.posted_micro_usd, limit):
            yield _crossed(balance, limit, share, band, "band")
        at = governance.instant_in(account.period, now)
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
