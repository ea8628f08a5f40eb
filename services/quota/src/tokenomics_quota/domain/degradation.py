"""What a check may still do while the view that it is answered from is too old."""

from collections.abc import Iterable, Mapping
from datetime import timedelta
from typing import NamedTuple, Self

from tokenomics_contracts.events import policy
from tokenomics_contracts.units import AccountId, MicroUsd


class Degrade(NamedTuple):
    """What a quota policy says of a view that is too old."""

    stale_after: timedelta
    """The view is too old when it wasn't known to be level with the log for longer than this."""
    cap_micro_usd: MicroUsd | None
    """What each server lets through on each account meanwhile; ``None`` lets nothing through."""

    @classmethod
    def from_policy(cls, stated: policy.Degrade) -> Self:
        """Take over what a policy states."""
        return cls(timedelta(seconds=stated.stale_after_seconds), stated.let_through_micro_usd)

    def is_stale(self, lag: timedelta | None) -> bool:
        """Whether a view is too old that has been behind for so long; ``None``: it never was level."""
        return lag is None or lag > self.stale_after


DEFAULT_DEGRADE = Degrade.from_policy(policy.Degrade())
"""Before the first policy; the same as of a policy that says nothing of it."""


class Degraded(NamedTuple):
    """How far calls go on."""

    cap_micro_usd: MicroUsd
    remaining_micro_usd: MicroUsd
    """Of the cap, on the account that has least left of those that may be seen."""


def least_left(
    let_through: Mapping[AccountId, MicroUsd], accounts: Iterable[AccountId], cap_micro_usd: MicroUsd
) -> tuple[MicroUsd, AccountId]:
    """Return how much more fits under the cap on all of the accounts, and the one that has least left."""
    return min(
        (MicroUsd(cap_micro_usd - let_through.get(account, MicroUsd(0))), account) for account in accounts
    )
