"""Facts: one row per usage event, as received and as derived from what governs it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from typing import Literal, NamedTuple

from tokenomics_contracts.units import (
    UNATTRIBUTED,
    AccountId,
    CostCentreId,
    HoldId,
    MicroUsd,
    PeriodId,
    ProjectId,
    ServiceTier,
    SubjectId,
    TeamId,
)
from tokenomics_quota.domain.accounts import AccountKind, Purpose
from tokenomics_quota.domain.effective import LogOrder
from tokenomics_quota.domain.pricing import Pricing, Quantities

_REMEMBERED_LINES = 16_384

EventKind = Literal["recorded", "corrected", "awaited", "provisional"]
"""``awaited`` is the empty row that a correction leaves where its original hasn't arrived yet.
``provisional`` is what a hold's caller said it cost, as the service's own topic tells it."""


class Received(NamedTuple):
    """What the event said and where its record stands: the first columns of table ``fact``, in order."""

    identity: bytes
    """16 bytes over (source, id)."""
    digest: bytes
    """16 bytes over type, key, time and data."""
    event_kind: EventKind
    append_ms: int
    partition: int
    record_offset: int
    occurred_at: datetime
    subject: str
    """As sent: a subject id or an alias."""
    provider: str | None
    model: str | None
    input_tokens: int
    cached_input_tokens: int
    cache_creation_tokens: int
    output_tokens: int
    reasoning_tokens: int
    service_tier: ServiceTier
    reported_cost_micro_usd: MicroUsd | None
    purpose: str | None
    """``None`` on a correction: the original's counts."""
    project_id: ProjectId | None
    hold_id: HoldId | None
    """The hold that it settles."""
    corrects: bytes | None
    """Identity of the original, on a correction."""
    revision: int | None
    """Revision of a correction."""
    counted: bool
    """Whether it reaches balances: false for a back-fill that policy keeps out of them, and for a provisional
    fact whose hold is named by usage that reaches them."""

    @property
    def order(self) -> LogOrder:
        """Place of the record in the log."""
        return LogOrder(self.append_ms, self.partition, self.record_offset)

    @property
    def names(self) -> HoldId | None:
        """The hold whose provisional fact it takes the place of."""
        return self.hold_id if self.counted and self.event_kind == "recorded" else None

    @property
    def quantities(self) -> Quantities:
        """The billable part."""
        return tuple.__new__(Quantities, self[10:16])  # they stand here in one row: see the assertion below


assert Received._fields[10:16] == Quantities._fields


@dataclass(frozen=True, slots=True)
class LateUsage:
    """An event appended too long after its time: counted only where policy lets its source back-fill."""

    source: str
    received: Received


class AssetReuse(NamedTuple):
    """Somebody used what somebody shared."""

    asset_id: str
    subject: str
    """Subject id or alias, as the tool named it."""


class Derived(NamedTuple):
    """What follows from the event and from what governs it: the last columns of ``fact``, in order."""

    applied_revision: int
    """Revision of the correction that replaced the quantities, 0 for none."""
    cost_micro_usd: MicroUsd
    pricing: Pricing
    price_book_version: int
    subject_id: SubjectId | None
    team_id: TeamId | None
    cost_centre_id: CostCentreId | None
    period: PeriodId


class Fact(NamedTuple):
    """One row of table ``fact``; a correction has nothing derived of its own."""

    received: Received
    derived: Derived | None


class Line(NamedTuple):
    """Everything a fact's totals depend on: facts with one line touch the same accounts on the same day."""

    subject_id: SubjectId | None
    team_id: TeamId | None
    cost_centre_id: CostCentreId | None
    project_id: ProjectId | None
    purpose: str | None
    period: PeriodId
    day: int
    """Of the event's time, in UTC, as its proleptic ordinal: whatever zone periods turn in, it stays."""

    def accounts(self) -> Sequence[AccountId]:
        """Return the ids of the accounts that the line posts to."""
        suffix = f"{self.purpose or Purpose.OPERATIONAL}/{self.period}"
        return [AccountId(f"{owner}/{suffix}") for owner in self.owners()]

    def owners(self) -> Sequence[str]:
        """Return whose they are, as ``<kind>/<owner_id>``."""
        return _owners(self.subject_id, self.team_id, self.cost_centre_id, self.project_id)


@lru_cache(_REMEMBERED_LINES)
def _owners(
    subject_id: SubjectId | None,
    team_id: TeamId | None,
    cost_centre_id: CostCentreId | None,
    project_id: ProjectId | None,
) -> Sequence[str]:
    owners = [
        (AccountKind.SUBJECT, subject_id),
        (AccountKind.TEAM, team_id),
        (AccountKind.COST_CENTRE, cost_centre_id),
        (AccountKind.PROJECT, project_id),
        (AccountKind.UNATTRIBUTED, None if subject_id else UNATTRIBUTED),
    ]
    return [f"{kind}/{owner_id}" for kind, owner_id in owners if owner_id is not None]


class Postings(NamedTuple):
    """What to add to totals."""

    by_account: Mapping[AccountId, MicroUsd]
    by_day: Mapping[tuple[str, int], MicroUsd]
    """By owner, as :meth:`Line.owners` names it, and :attr:`Line.day`."""

    def __bool__(self) -> bool:
        """Whether there is anything to add."""
        return bool(self.by_account or self.by_day)


def line_of(received: Received, derived: Derived) -> Line:
    """Return the line a fact posts to."""
    # Once per event, hence by the shortest way to a tuple: see docs/performance.md.
    return tuple.__new__(
        Line,
        (
            derived.subject_id,
            derived.team_id,
            derived.cost_centre_id,
            received.project_id,
            received.purpose,
            derived.period,
            received.occurred_at.toordinal(),
        ),
    )
