"""What a caller is to the rules that decide beside balances."""

from typing import NamedTuple

from tokenomics_contracts.units import TeamId
from tokenomics_quota.domain.approvals import NOTHING_UNLOCKED, Unlocks


class Standing(NamedTuple):
    """What governs a caller's checks beside balances, as of an instant. Callers that are alike share one."""

    role: str | None
    """``None``: the directory doesn't know the caller."""
    team_id: TeamId | None
    unlocks: Unlocks = NOTHING_UNLOCKED


STRANGER = Standing(None, None)
"""Of whom the directory doesn't know."""
