"""`tokenomics.quota.v1`: what the quota service decided and announced."""

from typing import Annotated, ClassVar

from pydantic import Field, StringConstraints

from tokenomics_contracts.events.base import Event, Value
from tokenomics_contracts.units import (
    POSITION_PATTERN,
    Account,
    AccountKind,
    AccountPurpose,
    Band,
    Caller,
    Decision,
    DecisionName,
    Identifier,
    Label,
    Limit,
    Offset,
    PartitionNumber,
    Period,
    Project,
    Purpose,
    Ratio,
    Slug,
    Subject,
    Total,
    Version,
)

TopicName = Annotated[str, StringConstraints(pattern=r"^[a-z0-9._-]{1,249}$")]
PositionKey = Annotated[str, StringConstraints(pattern=POSITION_PATTERN)]


class DecidedAccount(Value):
    """An account as the decision saw it."""

    account_id: Account
    limit_micro_usd: Limit | None = None
    """Absent: no limit."""

    posted_micro_usd: Total
    pending_micro_usd: Total
    band: Band


class DecisionRecorded(Event):
    """A check's answer that was not a plain ALLOW: what it saw and by which policy it decided."""

    type_name: ClassVar[str] = "tokenomics.decision.recorded.v1"
    key_field: ClassVar[str] = "subject"

    decision_id: Decision
    subject: Subject
    """The subject id behind an alias; the alias itself where the directory knows nobody who bears it."""

    caller: Caller
    """The authenticated workload that asked."""

    decision: DecisionName
    reason_codes: tuple[Slug, ...]
    provider: Label
    model: Label
    project: Project | None = None
    purpose: Purpose
    estimated_cost_micro_usd: Total
    policy_version: Version | None = None
    price_book_version: Version | None = None
    accounts: tuple[DecidedAccount, ...]
    positions: dict[PositionKey, Offset]
    """`topic/partition` to the next offset that the view had applied: by it the decision can be judged."""

    stale: Annotated[bool, Field(strict=True)] = False
    """The view was older than policy allows: the call was answered as policy says for that case."""


class ThresholdCrossed(Event):
    """An account's posted total reached a threshold; once per account, period, threshold and limit."""

    type_name: ClassVar[str] = "tokenomics.threshold.crossed.v1"
    key_field: ClassVar[str] = "account_id"

    account_id: Account
    kind: AccountKind
    owner_id: Identifier
    purpose: AccountPurpose
    period: Period
    threshold_basis_points: Ratio
    band: Band
    """The band that begins at the threshold."""

    limit_micro_usd: Limit
    """The effective limit at that moment; another limit is another announcement."""

    posted_micro_usd: Total


class ParkedSkipped(Event):
    """An operator gave a parked event up. It holds in every rebuild."""

    type_name: ClassVar[str] = "tokenomics.parked.skipped.v1"

    topic: TopicName
    partition: PartitionNumber
    offset: Offset
    reason_code: Slug
    ticket_id: Identifier
    decided_by: Caller

    @property
    def key(self) -> str:
        """The skipped record's place."""
        return f"{self.topic}/{self.partition}/{self.offset}"
