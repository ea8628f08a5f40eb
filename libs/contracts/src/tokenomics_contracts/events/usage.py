"""`tokenomics.usage.v1`: what upstream tools and detectors report. No free text in any of them."""

from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, model_validator

from tokenomics_contracts.events.base import Event
from tokenomics_contracts.units import (
    Cost,
    Decision,
    EventName,
    Hold,
    Identifier,
    Label,
    Measurement,
    Milliseconds,
    Project,
    Purpose,
    ServiceTier,
    Slug,
    Subject,
    TokenCount,
    Tokens,
    UseCase,
    Version,
)


class UsageEvent(Event):
    """An event about one subject's use of a tool."""

    key_field: ClassVar[str] = "subject"

    subject: Subject
    """Who used the tool: a subject id, or `alias:<hex>` where the tool knows only an alias."""


class Quantities(UsageEvent):
    """What one model request consumed."""

    input_tokens: Tokens
    """All input tokens, cached and cache-creating ones included (OpenTelemetry GenAI conventions)."""

    cached_input_tokens: Tokens = TokenCount(0)
    """Part of the input that was read from the provider's cache."""

    cache_creation_tokens: Tokens = TokenCount(0)
    """Part of the input that was written to the provider's cache."""

    output_tokens: Tokens
    """All output tokens, reasoning included."""

    reasoning_tokens: Tokens = TokenCount(0)
    """Part of the output that was spent on reasoning."""

    service_tier: ServiceTier = "standard"

    cost_micro_usd: Cost | None = None
    """What the tool knows it was charged; absent, the price book in force at the event's time prices it."""

    @model_validator(mode="after")
    def _parts_fit_the_whole(self) -> Self:
        if self.cached_input_tokens + self.cache_creation_tokens > self.input_tokens:
            raise ValueError("cached_input_tokens + cache_creation_tokens should not exceed input_tokens")
        if self.reasoning_tokens > self.output_tokens:
            raise ValueError("reasoning_tokens should not exceed output_tokens")
        return self


class UsageRecorded(Quantities):
    """One model request. The hot path reads it through `tokenomics_contracts.fast`."""

    type_name: ClassVar[str] = "tokenomics.usage.recorded.v1"

    tool: Label
    provider: Label
    model: Label
    project: Project | None = None
    use_case: UseCase | None = None
    purpose: Purpose = "operational"
    data_class: Slug = "internal"
    hold_id: Hold | None = None
    """The hold that this usage settles."""

    decision_id: Decision | None = None
    """The check that came before, as it was answered, so that advice taken is known."""

    latency_ms: Milliseconds | None = None
    outcome: Literal["success", "error", "cancelled"] | None = None


class UsageCorrected(Quantities):
    """Full replacement quantities of a `UsageRecorded`; the highest revision wins and may arrive first."""

    type_name: ClassVar[str] = "tokenomics.usage.corrected.v1"

    original_source: EventName
    original_id: EventName
    revision: Version


class OutcomeRecorded(UsageEvent):
    """A measured outcome of a registered use case."""

    type_name: ClassVar[str] = "tokenomics.outcome.recorded.v1"

    use_case: UseCase
    metric: Slug
    value: Measurement


class ViolationDetected(UsageEvent):
    """A detector saw prohibited data or use; it reaches the person first."""

    type_name: ClassVar[str] = "tokenomics.violation.detected.v1"

    violation_id: Identifier
    rule: Slug
    severity: Literal["low", "medium", "high", "critical"]
    data_class: Slug
    detector: Label
    self_reported: Annotated[bool, Field(strict=True)] = False
    """A mistake that the subject reported costs nothing."""


class DetectionDisputed(UsageEvent):
    """The subject contests a detection."""

    type_name: ClassVar[str] = "tokenomics.detection.disputed.v1"

    violation_id: Identifier
    reason_code: Slug


class AssetReused(UsageEvent):
    """The subject used an asset that somebody shared."""

    type_name: ClassVar[str] = "tokenomics.asset.reused.v1"

    asset_id: Identifier
    use_case: UseCase | None = None


class SourceTested(UsageEvent):
    """A tool's connection test; never counted."""

    type_name: ClassVar[str] = "tokenomics.source.tested.v1"

    tool: Label
