"""Progressive friction: bands, decisions and what they ask of the caller."""

from enum import IntEnum
from typing import NamedTuple, Self

from tokenomics_contracts.events import policy
from tokenomics_contracts.units import Band as BandName
from tokenomics_contracts.units import BasisPoints, DecisionName, MicroUsd


class Band(IntEnum):
    """Where an account stands against its limit; a higher band asks for more."""

    NORMAL = 0
    NUDGE = 1
    JUSTIFY = 2
    APPROVE = 3

    @property
    def label(self) -> BandName:
        """Name in events and reason codes."""
        return _BAND_NAMES[self]


_BAND_NAMES: dict[Band, BandName] = {
    Band.NORMAL: "normal",
    Band.NUDGE: "nudge",
    Band.JUSTIFY: "justify",
    Band.APPROVE: "approve",
}


class Decision(IntEnum):
    """What a check answers; the worst that any rule finds wins."""

    ALLOW = 0
    ALLOW_WITH_NUDGE = 1
    JUSTIFICATION_REQUIRED = 2
    APPROVAL_REQUIRED = 3
    DENIED = 4

    @property
    def label(self) -> DecisionName:
        """Name in events."""
        return _DECISION_NAMES[self]


_DECISION_NAMES: dict[Decision, DecisionName] = {
    Decision.ALLOW: "ALLOW",
    Decision.ALLOW_WITH_NUDGE: "ALLOW_WITH_NUDGE",
    Decision.JUSTIFICATION_REQUIRED: "JUSTIFICATION_REQUIRED",
    Decision.APPROVAL_REQUIRED: "APPROVAL_REQUIRED",
    Decision.DENIED: "DENIED",
}


class Thresholds(NamedTuple):
    """Share of the limit from which each band begins, in basis points of the limit."""

    nudge: BasisPoints
    justify: BasisPoints
    approve: BasisPoints
    everybody: BasisPoints | None = None
    """From which a shared account asks also those of its members who haven't used their fair share of it."""

    @classmethod
    def from_policy(cls, stated: policy.Thresholds) -> Self:
        """Take over the thresholds that a policy states."""
        return cls(
            stated.nudge_basis_points,
            stated.justify_basis_points,
            stated.approve_basis_points,
            stated.everybody_basis_points,
        )

    def reached(self, used: MicroUsd, limit: MicroUsd | None) -> list[tuple[Band, BasisPoints]]:
        """Return every threshold that ``used`` has reached, lowest first; none without a limit.

        A threshold counts as reached at exactly its share. Under a limit of zero nothing used reaches
        nothing, and the first micro-USD reaches all.
        """
        return list(zip(_BANDS, self[:3], strict=True))[: self.band(used, limit)]

    def band(self, used: MicroUsd, limit: MicroUsd | None) -> Band:
        """Return the band of an account that has ``used`` (posted and pending) of its limit."""
        if limit is None or used <= 0:
            return Band.NORMAL
        nudge, justify, approve, _ = self
        scaled = used * policy.FULL
        if scaled < limit * nudge:
            return Band.NORMAL
        if scaled < limit * justify:
            return Band.NUDGE
        return Band.JUSTIFY if scaled < limit * approve else Band.APPROVE

    def room(self, used: MicroUsd, limit: MicroUsd) -> MicroUsd:
        """Return how much more may be used before the next band begins; 0 in the last band."""
        band = self.band(used, limit)
        return MicroUsd(0) if band is Band.APPROVE else self.room_before(Band(band + 1), used, limit)

    def room_before(self, band: Band, used: MicroUsd, limit: MicroUsd) -> MicroUsd:
        """Return how much more may be used before a band above normal begins; negative once it has begun."""
        begins = (self.nudge, self.justify, self.approve)[band - 1]
        return _room_before(begins, used, limit)

    def room_of_everybody(self, used: MicroUsd, limit: MicroUsd) -> MicroUsd | None:
        """Return how much more may be used before a shared account asks everybody; ``None``: never."""
        return None if self.everybody is None else _room_before(self.everybody, used, limit)


def _room_before(share: BasisPoints, used: MicroUsd, limit: MicroUsd) -> MicroUsd:
    # The smallest use that reaches the share; the first micro-USD where that is nothing.
    first = max(1, -(-limit * share // policy.FULL))
    return MicroUsd(first - 1 - used)


def is_reached(share: BasisPoints, used: MicroUsd, limit: MicroUsd) -> bool:
    """Whether ``used`` is at least a share of the limit; nothing used reaches nothing."""
    return used > 0 and used * policy.FULL >= limit * share


_BANDS = (Band.NUDGE, Band.JUSTIFY, Band.APPROVE)

DEFAULT_THRESHOLDS = Thresholds.from_policy(policy.Thresholds())


_ASKED = (
    Decision.ALLOW,
    Decision.ALLOW_WITH_NUDGE,
    Decision.JUSTIFICATION_REQUIRED,
    Decision.APPROVAL_REQUIRED,
)
"""By band."""


def ask(band: Band, *, shared: bool) -> Decision:
    """Return what an account asks of the caller that stands in this band with the call.

    A shared account in the nudge or justify band alerts its owner, not its members: members are asked
    only once its limit is reached.
    """
    return Decision.ALLOW if shared and band is not Band.APPROVE else _ASKED[band]
