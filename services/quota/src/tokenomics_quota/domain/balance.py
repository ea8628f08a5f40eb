"""An account against its limit."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple

from tokenomics_contracts.units import MicroUsd
from tokenomics_quota.domain.accounts import Account, AccountKind, Purpose
from tokenomics_quota.domain.approvals import NOTHING_GRANTED, Granted
from tokenomics_quota.domain.friction import Band, Thresholds
from tokenomics_quota.domain.rollout import Stage
from tokenomics_quota.domain.spikes import DayUse
from tokenomics_quota.domain.standing import Standing


class Bounds(NamedTuple):
    """What governs an account at an instant. Accounts that are alike share one: most people of a role are."""

    limit_micro_usd: MicroUsd | None
    """The effective one, grants included; ``None`` is unlimited."""
    resets_at: datetime
    """End of the period, exclusive, in UTC."""
    thresholds: Thresholds
    hard: bool = False
    """Whether holds beyond the limit are refused; whether to a caller, :meth:`Touched.is_hard` says."""
    granted: Granted = NOTHING_GRANTED
    """The part of the limit that grants add."""
    members: int = 0
    """How many share it. A fair share is an equal part of the limit, grants included."""
    allowance_micro_usd: MicroUsd | None = None
    """Of a person or service: what the role alone gives; ``None``: no limit."""


class Balance(NamedTuple):
    """One account against its limit at an instant; amounts in micro-USD."""

    account: Account
    bounds: Bounds
    posted_micro_usd: MicroUsd
    pending_micro_usd: MicroUsd

    @property
    def limit_micro_usd(self) -> MicroUsd | None:
        """The effective one, grants included; ``None`` is unlimited."""
        return self.bounds.limit_micro_usd

    @property
    def base_limit_micro_usd(self) -> MicroUsd | None:
        """What policy gives; ``None`` is unlimited."""
        limit, granted = self.bounds.limit_micro_usd, self.bounds.granted
        return None if limit is None else MicroUsd(limit - granted.micro_usd)

    @property
    def used_micro_usd(self) -> MicroUsd:
        """Posted and pending."""
        return MicroUsd(self.posted_micro_usd + self.pending_micro_usd)

    @property
    def band(self) -> Band:
        """Where it stands now."""
        return self.bounds.thresholds.band(self.used_micro_usd, self.bounds.limit_micro_usd)

    @property
    def shared(self) -> bool:
        """Whether it belongs to more than the subject itself."""
        return self.account.kind is not AccountKind.SUBJECT

    def band_with(self, amount_micro_usd: MicroUsd) -> Band:
        """Return where it would stand with an amount more."""
        used = self.posted_micro_usd + self.pending_micro_usd + amount_micro_usd
        return self.bounds.thresholds.band(MicroUsd(used), self.bounds.limit_micro_usd)

    def spares(self, own: MicroUsd | None, amount_micro_usd: MicroUsd) -> bool:
        """Whether, used up as it is, it asks nothing of a member for an amount more.

        It doesn't of one who then has used less than a fair share, unless it would be so far beyond its limit
        that policy lets it ask everybody.

        Parameters
        ----------
        own
            What the caller has used; ``None`` for who has no share.
        """
        room = self.room_of_member(own)
        return room is not None and amount_micro_usd <= room

    def room_of_member(self, own: MicroUsd | None) -> MicroUsd | None:
        """Return how much more a member may use before a used up account asks; ``None``: no share counts."""
        limit, members = self.bounds.limit_micro_usd, self.bounds.members
        if own is None or limit is None or not members:
            return None
        # A fair share is used once it is reached, as a threshold is.
        room = MicroUsd((limit - 1) // members - own)
        of_everybody = self.bounds.thresholds.room_of_everybody(self.used_micro_usd, limit)
        return room if of_everybody is None else min(room, of_everybody)


class Headroom(NamedTuple):
    """How much more may be used on some accounts together, in micro-USD; negative where that is past."""

    before_asking: MicroUsd
    """Before one of them asks anything of the caller."""
    within_bands: MicroUsd
    """Before one of them asks for more than now."""
    within_limits: MicroUsd


@dataclass(frozen=True, slots=True, eq=False)
class Touched:
    """What decides a caller's calls: the accounts that they are counted on, and what the caller is beside.

    One object stands for one state of all that: it equals itself.
    """

    balances: Sequence[Balance]
    headroom: Headroom | None
    """``None``: none of them has a limit."""
    standing: Standing
    day_use: DayUse | None = None
    """What the caller has used today; ``None``: it is too little to look for a spike, or nothing is usual."""

    def with_balances(self, balances: Sequence[Balance]) -> "Touched":
        """Return the same accounts with other amounts."""
        return Touched(balances, headroom_of(balances, self.standing), self.standing, self.day_use)

    def is_hard(self, balance: Balance) -> bool:
        """Whether holds beyond the limit of one of the accounts are refused to this caller.

        A limit that isn't rolled out so far for the caller refuses nothing.
        """
        stages = self.standing.stages
        stage = stages.budgets if balance.shared else stages.allowances
        return balance.bounds.hard and stage is Stage.ENFORCE


def own_use(balances: Sequence[Balance], standing: Standing, shared: Balance) -> MicroUsd | None:
    """Return what the caller has used, to be held against a fair share of a shared account.

    It is all that the caller has used in the period for the account's purpose, on that account or beside it:
    never less than what the account has of the caller, so that nobody is spared who has used a fair share.
    ``None`` for who has none.
    """
    if shared.account.kind not in standing.member_of:
        return None
    purpose = shared.account.purpose
    if purpose is Purpose.ALL:
        return balances[0].used_micro_usd
    return next(
        (each.used_micro_usd for each in balances if not each.shared and each.account.purpose is purpose),
        None,
    )


def headroom_of(
    balances: Sequence[Balance], standing: Standing, shown: Callable[[Account], bool] | None = None
) -> Headroom | None:
    """Return the headroom of the accounts that have a limit; ``None`` when none has.

    A shared account asks its members for nothing before its last band, and for nothing before they have used
    their fair share; until then it concerns its owner.

    Parameters
    ----------
    balances
        The caller's own first.
    shown
        Which of them count; ``None``: all.
    """
    rooms = [
        _rooms(balance, balance.limit_micro_usd, own_use(balances, standing, balance))
        for balance in balances
        if balance.limit_micro_usd is not None and (shown is None or shown(balance.account))
    ]
    return Headroom(*map(min, zip(*rooms, strict=True))) if rooms else None


def _rooms(balance: Balance, limit: MicroUsd, own: MicroUsd | None) -> tuple[MicroUsd, MicroUsd, MicroUsd]:
    thresholds, used = balance.bounds.thresholds, balance.used_micro_usd
    left = MicroUsd(limit - used)
    if balance.shared:
        last, of_member = thresholds.room_before(Band.APPROVE, used, limit), balance.room_of_member(own)
        if of_member is not None and of_member > last:
            last = of_member
        return last, last, left
    before_asking, within_band = thresholds.room_before(Band.NUDGE, used, limit), thresholds.room(used, limit)
    # Mostly the same amount: one object for both.
    return before_asking, before_asking if within_band == before_asking else within_band, left
