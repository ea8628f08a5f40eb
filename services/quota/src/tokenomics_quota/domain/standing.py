"""What a caller is to the rules that decide beside balances."""

from typing import NamedTuple, Self

from tokenomics_contracts.units import Cohort, TeamId
from tokenomics_quota.domain.accounts import AccountKind
from tokenomics_quota.domain.approvals import NOTHING_UNLOCKED, Unlocks
from tokenomics_quota.domain.findings import Rule
from tokenomics_quota.domain.interventions import Bypass, Shut
from tokenomics_quota.domain.permits import Permits
from tokenomics_quota.domain.rollout import ENFORCED, Stage, Stages


class Standing(NamedTuple):
    """What governs a caller's checks beside balances, as of an instant. Callers that are alike share one."""

    role: str | None
    """``None``: the directory doesn't know the caller."""
    team_id: TeamId | None
    permits: Permits | None
    """Which calls its role may make; ``None``: any."""
    unlocks: Unlocks = NOTHING_UNLOCKED
    stages: Stages = ENFORCED
    """How far each rule is rolled out for the caller."""
    cohort: Cohort | None = None
    """Group for comparison that its team is in."""
    member_of: frozenset[AccountKind] = frozenset()
    """Kinds of the shared accounts that the caller has a fair share of: who has left has none, nor has who
    isn't a member of the project that a call is for."""
    shut: tuple[Shut, ...] = ()
    """Accounts that its calls are counted on and that take nothing."""
    bypass: Bypass | None = None
    """Lets its calls pass."""
    advising: frozenset[Rule] = frozenset()
    """Rules that have exceeded their friction budget. Hard limits stay hard: they go by ``stages``."""

    @property
    def asking(self) -> Stages:
        """How far each rule may go in asking of the caller."""
        return self.stages.advising(self.advising) if self.advising else self.stages

    def intervened(self, shut: tuple[Shut, ...], bypass: Bypass | None) -> Self:
        """Return the same with what people did by hand: where a bypass is in force every rule is observed."""
        stages = self.stages if bypass is None else Stages.all(Stage.OBSERVE)
        return self._replace(shut=shut, bypass=bypass, stages=stages)
