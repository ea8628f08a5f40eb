"""`tokenomics.approvals.v1`: what is approved, for whom, until when. Reason codes only, no free text."""

from datetime import timedelta
from typing import Annotated, ClassVar, Final, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from tokenomics_contracts.events.base import Event, Value
from tokenomics_contracts.units import (
    MAX_LIMIT_MICRO_USD,
    MAX_VERSION,
    Identifier,
    Label,
    MicroUsd,
    Request,
    Slug,
    UtcTime,
)

ApprovalKind = Literal["justification", "boost", "model_access", "budget_override", "break_glass"]

LONGEST_APPROVAL: Final = timedelta(days=366)
"""What is to last longer is a matter for policy."""

GRANTING: Final = frozenset[ApprovalKind]({"boost", "budget_override", "break_glass"})
"""Kinds that add an amount to a limit; the others unlock."""

_RULE: Final = "rule:"
_UNNAMED: Final = "alias:"


def _decider(text: str) -> str:
    version = text.removeprefix(_RULE)
    if version != text and not (version.isdecimal() and 0 < int(version) <= MAX_VERSION):
        raise ValueError(f"should be a person's id, or {_RULE}<policy version>")
    return text


Decider = Annotated[Identifier, AfterValidator(_decider)]
"""The person who decided, or `rule:<version>` of the approvals policy that did."""


class Target(Value):
    """For whom something was approved: it holds for every call that is counted on the target."""

    kind: Literal["subject", "project", "team", "cost_centre", "group"]
    """`subject` is a person or a service; a `group` (on-call) stands for its members as of each instant."""

    id: Identifier

    @model_validator(mode="after")
    def _is_named(self) -> Self:
        if self.id.startswith(_UNNAMED):
            raise ValueError("id should be the id itself: an alias may come to name somebody else")
        return self


class UnlockedModel(Value):
    """A model that may be used."""

    provider: Label
    model: Label
    """Exact name, or a prefix ending in `*`."""

    @model_validator(mode="after")
    def _is_a_name_or_a_prefix(self) -> Self:
        if "*" in self.model[:-1]:
            raise ValueError("model should have a '*' at its end only")
        return self


class ApprovalApproved(Event):
    """A request was approved: an addition to a limit (a grant), or a permission (an unlock), until a time.

    A request is approved once: of several events with one request id the first in the log counts.
    """

    type_name: ClassVar[str] = "tokenomics.approval.approved.v1"
    key_field: ClassVar[str] = "request_id"

    request_id: Request
    kind: ApprovalKind
    """`boost`, `break_glass` and `budget_override` add `amount_micro_usd`; `justification` opens the justify
    band of one subject; `model_access` unlocks `models` for `data_classes`, never for prohibited ones."""

    target: Target
    amount_micro_usd: Annotated[MicroUsd, Field(strict=True, ge=1, le=MAX_LIMIT_MICRO_USD)] | None = None
    """What is added to the limit of the target's account: once, however much usage there is."""

    counts_in: Literal["first_period", "each_period"] = "first_period"
    """`first_period`: the amount is there once, in the period in which it starts, and ends with it at the
    latest. `each_period`: it is there anew in each period, while it lasts."""

    overdraft: Annotated[bool, Field(strict=True)] = False
    """The amount is lent beyond the budget, and shown as such."""

    models: tuple[UnlockedModel, ...] = ()
    data_classes: tuple[Slug, ...] = ()
    starts_at: UtcTime
    """From then on it holds, also for what was used before this event came."""

    expires_at: UtcTime
    """From then on it holds no more; at most 366 days after `starts_at`."""

    reason_code: Slug
    decided_by: Decider

    @model_validator(mode="after")
    def _says_what_its_kind_needs(self) -> Self:
        grants, unlocks, target = self.kind in GRANTING, self.kind == "model_access", self.target
        rules = {
            f"expires_at should lie after starts_at, by {LONGEST_APPROVAL.days} days at most": (
                timedelta() < self.expires_at - self.starts_at <= LONGEST_APPROVAL
            ),
            f"amount_micro_usd should be there for {', '.join(sorted(GRANTING))}, and only there": (
                grants == (self.amount_micro_usd is not None)
            ),
            "overdraft and counts_in go with an amount": (
                grants or not (self.overdraft or self.counts_in != "first_period")
            ),
            "models and data_classes should both be there for model_access, and only there": (
                unlocks == bool(self.models) == bool(self.data_classes)
            ),
            "target.kind should be subject for justification": (
                self.kind != "justification" or target.kind == "subject"
            ),
            "target.kind should be project, team or cost_centre for budget_override": (
                self.kind != "budget_override" or target.kind not in {"subject", "group"}
            ),
            "decided_by should be another than the target": (
                target.kind != "subject" or self.decided_by != target.id
            ),
        }
        if broken := [rule for rule, holds in rules.items() if not holds]:
            raise ValueError("; ".join(broken))
        return self


class ApprovalRevoked(Event):
    """Somebody took an approval back. It may come before the approval; of several the earliest end counts."""

    type_name: ClassVar[str] = "tokenomics.approval.revoked.v1"
    key_field: ClassVar[str] = "request_id"

    request_id: Request
    ended_at: UtcTime
    """From then on the approval holds no more; at or before its start: it never did."""

    reason_code: Slug
    decided_by: Decider


class ApprovalLapsed(Event):
    """An approval came to its end. By its expiry that follows from the approval; an earlier end holds."""

    type_name: ClassVar[str] = "tokenomics.approval.lapsed.v1"
    key_field: ClassVar[str] = "request_id"

    request_id: Request
    ended_at: UtcTime
    """From then on the approval holds no more."""
