"""A subject's usage, request by request."""

from datetime import datetime
from typing import NamedTuple

from tokenomics_contracts.units import MicroUsd, ProjectId
from tokenomics_quota.domain.effective import LogOrder
from tokenomics_quota.domain.pricing import Pricing, Quantities


class Used(NamedTuple):
    """One model request as it is counted."""

    occurred_at: datetime
    identity: bytes
    """Tells requests of one instant apart, and orders them."""
    order: LogOrder
    """Where it was reported."""
    provider: str
    model: str
    quantities: Quantities
    """Those of the correction that counts, where there is one."""
    project_id: ProjectId | None
    purpose: str
    cost_micro_usd: MicroUsd
    pricing: Pricing
    revision: int
    """Of the correction that counts; 0: as first reported."""


class Reported(NamedTuple):
    """What a report says beside what is counted."""

    source: str
    event_id: str
    tool: str
    use_case: str | None
