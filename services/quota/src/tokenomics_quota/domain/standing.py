"""What a caller is to the rules that decide beside balances."""

from typing import NamedTuple

from tokenomics_contracts.units import TeamId
from tokenomics_quota.domain.approvals import NOTHING_UNLOCKED, Unlocks
from tokenomics_quota.domain.permits import Permits


class Standing(NamedTuple):
    """What governs a caller's checks beside balances, as of an instant. Callers that are alike share one."""

    role: str | None
    """``None``: the directory doesn't know the caller."""
    team_id: TeamId | None
    permits: Permits | None
    """Which calls its role may make; ``None``: any."""
    unlocks: Unlocks = NOTHING_UNLOCKED
