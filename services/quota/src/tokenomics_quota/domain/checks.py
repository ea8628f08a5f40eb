"""A call somebody is about to make, and what a check answers."""

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from functools import partial
from typing import Final, NamedTuple

from tokenomics_contracts.units import AccountId, Cohort, MicroUsd, SubjectId
from tokenomics_contracts.units import Purpose as CallPurpose
from tokenomics_quota.domain.balance import Balance
from tokenomics_quota.domain.findings import Rule
from tokenomics_quota.domain.friction import Decision
from tokenomics_quota.domain.pricing import Priced, Quantities

DEFAULT_DATA_CLASS: Final = "internal"
"""Of a call that names none."""


class Call(NamedTuple):
    """An AI call somebody is about to make."""

    subject: str
    """Subject id or alias."""
    provider: str
    model: str
    quantities: Quantities
    """Expected tokens."""
    project_id: str | None
    purpose: CallPurpose = "operational"
    data_class: str = DEFAULT_DATA_CLASS
    """Class of the data in the prompt."""
    use_case_id: str | None = None


class Reason(NamedTuple):
    """Why a decision is not a plain ALLOW."""

    code: str
    message: str
    account_id: AccountId | None
    """``None``: it is about none."""


class Caps(NamedTuple):
    """How many output tokens fit with the estimated input; 0 says that not even the input fits."""

    output_tokens_within_band: int
    output_tokens_within_limit: int


class Unblock(NamedTuple):
    """A way on for the caller."""

    decision: Decision
    """What it answers: a justification, an approval, or the permitted way for what is denied."""
    message: str
    who_can_unblock: tuple[SubjectId, ...]
    """Who decides; nobody but the caller for a justification and for the permitted way."""


class CheaperModel(NamedTuple):
    """A model that would do the same call, token for token, for less."""

    provider: str
    model: str
    cost_micro_usd: MicroUsd
    saving_micro_usd: MicroUsd


class CachedInput(NamedTuple):
    """The same call with its input read from the provider's cache, as calls that begin alike can have it."""

    cost_micro_usd: MicroUsd
    saving_micro_usd: MicroUsd
    """Of each call but the first."""
    pays_from_calls: int
    """How many calls that begin alike make good for what writing to the cache costs."""


class Batched(NamedTuple):
    """The same call in the provider's batch tier, for who can wait."""

    cost_micro_usd: MicroUsd
    saving_micro_usd: MicroUsd


class ShorterContext(NamedTuple):
    """The same call with less input; never with less than half of it, which would be another call."""

    input_tokens: int
    """At most."""
    cost_micro_usd: MicroUsd
    saving_micro_usd: MicroUsd
    within_bands: bool
    """Whether with so few no account asks for more than now."""


class ReusableAsset(NamedTuple):
    """Something that somebody shared for a use case."""

    asset_id: str
    use_case: str
    distinct_users: int
    """How many others have used it."""


class Advice(NamedTuple):
    """What there is to say about a call."""

    cheaper_models: tuple[CheaperModel, ...] = ()
    """The largest saving first."""
    cached_input: CachedInput | None = None
    batched: Batched | None = None
    shorter_context: ShorterContext | None = None
    assets: tuple[ReusableAsset, ...] = ()
    """What most have used first."""


NO_ADVICE: Final = Advice()


class Shadow(NamedTuple):
    """What would have been answered were every rule enforced."""

    decision: Decision
    reasons: Sequence[Reason]
    """Those that the answer leaves out, or makes less of; the gravest first."""


class Answer(NamedTuple):
    """What a check found."""

    decision: Decision
    reasons: Sequence[Reason]
    """The deciding one first."""
    balances: Sequence[Balance]
    """As they stand before the call."""
    estimate: Priced
    caps: Caps | None
    """``None`` when no account has a limit, or output costs nothing."""
    unblocks: Sequence[Unblock]
    quota_policy_version: int
    price_book_version: int
    shadow: Shadow | None = None
    """What rules found that aren't rolled out so far as to ask for it; ``None``: nothing."""
    cohort: Cohort | None = None
    """Group for comparison that the caller's team is in."""
    advice: Advice = NO_ADVICE
    """Better ways, where the call isn't simply let through."""
    interrupting: Collection[Rule] = ()
    """Rules that hold the call back."""


class Decided(NamedTuple):
    """A check's answer, to be kept because it was not a plain ALLOW."""

    call: Call
    caller: str
    answer: Answer
    next_offsets: Mapping[str, int]
    """What the view had applied, by ``topic/partition``."""
    stale: bool
    """Whether the view was older than policy allows."""
    decided_at: datetime


called = partial(tuple.__new__, Call)
capped = partial(tuple.__new__, Caps)
answered = partial(tuple.__new__, Answer)
decided = partial(tuple.__new__, Decided)
"""Constructors for where they run once a call: a named tuple's own is Python code."""
