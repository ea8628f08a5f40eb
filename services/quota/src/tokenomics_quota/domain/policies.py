"""What policies say: limits, thresholds, time zone; who may back-fill; which use cases are registered."""

from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta
from typing import Final, Literal, NamedTuple, Self

from tokenomics_contracts.events import policy
from tokenomics_contracts.units import MAX_LIMIT_MICRO_USD, BasisPoints, MicroUsd
from tokenomics_quota.domain.accounts import AccountKind, Purpose
from tokenomics_quota.domain.degradation import DEFAULT_DEGRADE, Degrade
from tokenomics_quota.domain.friction import DEFAULT_THRESHOLDS, Thresholds
from tokenomics_quota.domain.friction_budgets import NO_BUDGETS, FrictionBudgets
from tokenomics_quota.domain.pricing import PriceBook
from tokenomics_quota.domain.rollout import EVERYTHING_ENFORCED, Rollout
from tokenomics_quota.domain.spikes import SpikeRule

Access = Literal["approved", "on_approval", "refused"]

NOTHING_PROHIBITED: Final[Mapping[str, str]] = {}


NO_OVERRIDES: Final[Mapping[str, "Override"]] = {}
NO_EXPERIMENTS: Final[Mapping[tuple[AccountKind, str], "Limit"]] = {}


class Limit(NamedTuple):
    """What an account may use in one period."""

    micro_usd: MicroUsd
    hard: bool = False
    """Whether holds beyond it are refused; a soft limit only asks. A check asks the same of both."""
    buffer_micro_usd: MicroUsd = MicroUsd(0)
    """What the budget keeps back beyond it."""
    allowance_micro_usd: MicroUsd | None = None
    """Of a person or service: what the role alone gives; ``None``: no limit."""
    alert: BasisPoints | None = None
    """At which share of it the owner of a shared account is told."""
    carry_over_cap: MicroUsd | None = None
    """So much at most of what a period leaves unused is granted for the next; ``None``: nothing."""

    @classmethod
    def from_policy(cls, stated: policy.Allowance | policy.Budget) -> Self:
        """Take over what a policy states."""
        hard, limit = stated.enforcement == "hard", stated.limit_micro_usd
        if isinstance(stated, policy.Allowance):
            cap = stated.carry_over_cap_micro_usd
            return cls(limit, hard, allowance_micro_usd=limit, carry_over_cap=cap)
        left = MicroUsd(limit - stated.buffer_micro_usd)
        return cls(
            left,
            hard,
            stated.buffer_micro_usd,
            alert=stated.alert_basis_points,
            carry_over_cap=stated.carry_over_cap_micro_usd,
        )


class Override(NamedTuple):
    """What a project makes of its members' allowances."""

    replaces: bool
    """Else it adds."""
    micro_usd: MicroUsd


class ModelName(NamedTuple):
    """A model, or those whose names begin alike."""

    provider: str
    model: str
    """Exact name, or a prefix ending in ``*``."""

    @property
    def is_prefix(self) -> bool:
        """Whether it may name several."""
        return self.model.endswith("*")

    def covers(self, provider: str, model: str) -> bool:
        """Whether it names that model."""
        if provider != self.provider:
            return False
        return model.startswith(self.model[:-1]) if self.is_prefix else model == self.model

    @property
    def specificity(self) -> tuple[bool, int]:
        """Higher for a name that leaves less open: exact before prefix, long before short."""
        return not self.is_prefix, len(self.model)


class ModelRule(NamedTuple):
    """What a policy says of some models."""

    models: tuple[ModelName, ...]
    access: Access
    roles: frozenset[str] | None
    """``None``: every role, and callers that the directory doesn't know."""
    data_classes: frozenset[str] | None
    """``None``: every class."""

    @classmethod
    def from_policy(cls, stated: policy.ModelRule) -> Self:
        """Take over what a policy states."""
        return cls(
            tuple(ModelName(each.provider, each.model) for each in stated.models),
            stated.access,
            None if stated.roles is None else frozenset(stated.roles),
            None if stated.data_classes is None else frozenset(stated.data_classes),
        )


class AlternativeRule(NamedTuple):
    """Which models do as well as others."""

    models: tuple[ModelName, ...]
    sufficient: tuple[tuple[str, str], ...]
    """Provider and model."""
    use_cases: frozenset[str] | None
    """``None``: in every call."""

    @classmethod
    def from_policy(cls, stated: policy.Alternative) -> Self:
        """Take over what a policy states."""
        return cls(
            tuple(ModelName(each.provider, each.model) for each in stated.models),
            tuple((each.provider, each.model) for each in stated.sufficient),
            None if stated.use_cases is None else frozenset(stated.use_cases),
        )

    def speaks_of(self, provider: str, model: str, use_case_id: str | None) -> bool:
        """Whether it has something for a call."""
        return (self.use_cases is None or use_case_id in self.use_cases) and any(
            name.covers(provider, model) for name in self.models
        )


class QuotaPolicy(NamedTuple):
    """A quota policy, ready for look-ups."""

    version: int
    time_zone: str
    thresholds: Thresholds
    allowances: dict[str, Limit]
    """Base limit a period by role."""
    default_allowance: Limit | None
    """Base limit of a role that ``allowances`` doesn't name; ``None`` is unlimited."""
    budgets: dict[tuple[AccountKind, str], Limit]
    """Limit a period by (kind, owner id) of shared accounts."""
    degrade: Degrade
    models: tuple[ModelRule, ...] | None = None
    """``None``: any may be called."""
    prohibited_data: Mapping[str, str] = NOTHING_PROHIBITED
    """The permitted way by class of data."""
    alternatives: tuple[AlternativeRule, ...] = ()
    rollout: Rollout = EVERYTHING_ENFORCED
    friction: FrictionBudgets = NO_BUDGETS
    spikes: SpikeRule | None = None
    """``None``: nobody looks for them."""
    overrides: Mapping[str, Override] = NO_OVERRIDES
    """By project id."""
    experiments: Mapping[tuple[AccountKind, str], Limit] = NO_EXPERIMENTS
    """Limit a period for experiments by (kind, owner id) of shared accounts."""
    forecast_from_day: int = 5
    """Of a period: from then on an exceeded forecast is worth telling."""
    close_after: timedelta = timedelta(days=5)
    """So long after its end a period is closed."""

    def allowance(self, role: str) -> Limit | None:
        """Return the base limit of a role."""
        return self.allowances.get(role, self.default_allowance)

    def overridden(self, allowance: Limit | None, project_ids: Iterable[str]) -> Limit | None:
        """Return what projects make of their member's allowance; ``None`` is unlimited.

        The highest of those that replace it, and all that is added: in whatever order they are named.
        """
        overrides = [self.overrides[each] for each in project_ids if each in self.overrides]
        replacing = [each.micro_usd for each in overrides if each.replaces]
        if allowance is None and not replacing:
            return None
        limit = allowance or Limit(MicroUsd(0))
        base = max(replacing) if replacing else limit.micro_usd
        added = sum(each.micro_usd for each in overrides if not each.replaces)
        return limit._replace(micro_usd=MicroUsd(min(base + added, MAX_LIMIT_MICRO_USD)))

    def budget(self, kind: AccountKind, owner_id: str, purpose: Purpose = Purpose.ALL) -> Limit | None:
        """Return the limit of a shared account for a purpose; ``None`` is unlimited."""
        if purpose is Purpose.ALL:
            return self.budgets.get((kind, owner_id))
        return self.experiments.get((kind, owner_id)) if purpose is Purpose.EXPERIMENT else None


NO_POLICY = QuotaPolicy(0, "UTC", DEFAULT_THRESHOLDS, {}, None, {}, DEFAULT_DEGRADE)
"""Before the first policy: periods turn in UTC, nothing is limited, everything is counted."""


class SourceMayBackfill(NamedTuple):
    """One source's entry, from the policy's effective time on."""

    source: str
    until: datetime | None
    """Exclusive, by append time; ``None``: for good."""
    counts_in_balances: bool


class SourceRule(NamedTuple):
    """Who answers for a source."""

    owner_id: str
    silent_after: timedelta | None
    """From when on it has been quiet for too long; ``None``: never."""

    def silence(
        self, last_event_at: datetime | None, expected_since: datetime, until: datetime
    ) -> timedelta | None:
        """Return for how long it has been quiet, where that is too long; ``None`` elsewhere.

        Parameters
        ----------
        expected_since
            From when on one that was never seen counts as quiet.
        until
            An instant up to which all that was appended is known.
        """
        quiet = until - (expected_since if last_event_at is None else last_event_at)
        return quiet if self.silent_after is not None and quiet > self.silent_after else None


class SourcesPolicy(NamedTuple):
    """A sources policy: who answers for which source, and who may bring in events that are too late."""

    version: int
    may_backfill: tuple[SourceMayBackfill, ...]
    rules: Mapping[str, SourceRule]
    """By source."""


NO_SOURCES = SourcesPolicy(0, (), {})
"""Before the first policy: nobody answers for a source."""


class BackfillPermission(NamedTuple):
    """What a sources policy lets one source do with events that are too late."""

    allowed: bool
    counts_in_balances: bool


class RegisteredUseCase(NamedTuple):
    """One use case of a use cases policy."""

    approved: bool
    data_classes: frozenset[str] | None
    """Classes of data that it was registered for; ``None``: any."""


class UseCasesPolicy(NamedTuple):
    """A use cases policy, ready for look-ups."""

    version: int
    registered: Mapping[str, RegisteredUseCase]
    unregistered: Literal["allow", "nudge", "deny"]
    """What becomes of a call that names another."""


NO_USE_CASES = UseCasesPolicy(0, {}, "allow")
"""Before the first policy: any name will do."""


class Published(NamedTuple):
    """One version of a policy of any kind."""

    version: int
    replaces: int | None
    document: bytes
    """JSON, with what the publisher left to the defaults spelled out."""
    rules: QuotaPolicy | PriceBook | SourcesPolicy | UseCasesPolicy | None
    """The document ready for look-ups; ``None`` for a kind that decides nothing."""


class ListedVersion(NamedTuple):
    """A version of a policy as of an instant."""

    published: Published
    effective_from: datetime
    in_force: bool
    superseded: bool
    """Another holds in its place, then and from then on."""


class Proposal(NamedTuple):
    """A policy document that somebody would have published."""

    proposal_id: str
    kind: str
    replaces: int | None
    effective_from: datetime
    document: str
    """JSON, as it was proposed."""
    proposed_by: str
    proposed_at: datetime

    def differs_in(self, other: "Proposal") -> list[str]:
        """Return the names of the fields that say something else, but for who proposed it and when."""
        return [name for name in Proposal._fields[:-2] if getattr(self, name) != getattr(other, name)]
