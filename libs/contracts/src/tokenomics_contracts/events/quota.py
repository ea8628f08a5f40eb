"""`tokenomics.quota.v1`: what the quota service decided and announced."""

from abc import abstractmethod
from typing import Annotated, ClassVar, Literal, NamedTuple, Self

from pydantic import Field, StringConstraints, model_validator

from tokenomics_contracts.events.base import Event, Value
from tokenomics_contracts.units import (
    MAX_LIMIT_MICRO_USD,
    MAX_TOTAL_MICRO_USD,
    POSITION_PATTERN,
    Account,
    AccountKind,
    AccountPurpose,
    Band,
    Caller,
    Cohort,
    Count,
    Day,
    Decision,
    DecisionName,
    Digest,
    EventName,
    Hold,
    Identifier,
    Label,
    Limit,
    MicroUsd,
    Milliseconds,
    Offset,
    OpaqueBytes,
    PartitionNumber,
    PayloadDigest,
    Period,
    Project,
    Purpose,
    Ratio,
    RuleName,
    Seconds,
    SequenceNumber,
    Slug,
    Subject,
    Total,
    UseCase,
    UtcTime,
    Version,
    format_time,
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


class AdvisedModel(Value):
    """A model that would have done the same call, token for token, for less."""

    provider: Label
    model: Label
    saving_micro_usd: Total


class Advised(Value):
    """Better ways that the answer named; absent: not that one. Each saving is of its way alone."""

    cheaper_models: tuple[AdvisedModel, ...] = ()
    cached_input_saving_micro_usd: Total | None = None
    batch_saving_micro_usd: Total | None = None
    shorter_context_saving_micro_usd: Total | None = None
    asset_ids: tuple[Identifier, ...] = ()
    """What others shared for the use case."""


class DecisionRecorded(Event):
    """A check's answer that was not a plain ALLOW, or would not have been were every rule enforced.

    It says what the check saw and by which policy it decided. Where a server has too many to tell each by
    itself, decisions of one minute that agree in all that is told are summed: `count` says how many, and what
    they saw is told of the last. A minute may have several such sums.
    """

    type_name: ClassVar[str] = "tokenomics.decision.recorded.v1"
    key_field: ClassVar[str] = "subject"

    decision_id: Decision
    """As the check answered, and usage names it. Of a sum: its decisions were answered this id, a dot and a
    number, so that `d41c.7` belongs to the sum `d41c`."""

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
    """Of all of them together, where it is a sum."""

    policy_version: Version | None = None
    price_book_version: Version | None = None
    accounts: tuple[DecidedAccount, ...]
    positions: dict[PositionKey, Offset]
    """`topic/partition` to the next offset that the view had applied: by it the decision can be judged."""

    stale: Annotated[bool, Field(strict=True)] = False
    """The view was older than policy allows: the call was answered as policy says for that case."""

    data_class: Slug = "internal"
    """Class of the data in the prompt."""

    use_case: UseCase | None = None
    cohort: Cohort | None = None
    """Group for comparison that the rollout put the subject's team in."""

    shadow_decision: DecisionName | None = None
    """What would have been decided were every rule enforced; absent: the same."""

    shadow_reason_codes: tuple[Slug, ...] | None = None
    """What rules found that the rollout has not got so far as to ask for; absent: nothing."""

    count: Count = 1
    """How many decisions it tells of."""

    first_decided_at: UtcTime | None = None
    """Of a sum: when the first of them was decided; the event's time is that of the last."""

    advice: Advised | None = None
    """Taken where usage that names the decision shows it. Absent: none was given."""


class Ground(NamedTuple):
    """What an announcement rests on: true as long as ``measured`` is at least that share of ``bound``."""

    measured: int
    bound: int
    basis_points: int = 10_000


class Announced(Event):
    """Something that is said once: its id follows from its key, what it is about and its version alone.

    Whatever is announced is true when it is said; an event that says otherwise can't be read or made.
    """

    @property
    @abstractmethod
    def about(self) -> str:
        """What, beside the key, makes it this announcement and no other, of whatever type."""

    @property
    @abstractmethod
    def ground(self) -> Ground:
        """What it rests on."""

    @property
    def announced_version(self) -> int:
        """Number among those that are about the same, from 1: most are never said anew."""
        return 1

    @model_validator(mode="after")
    def _is_true(self) -> Self:
        measured, bound, basis_points = self.ground
        if measured * 10_000 < bound * basis_points:
            raise ValueError("what it says was reached is not: the amount is below its bound")
        return self


class SpikeDetected(Announced):
    """A subject's use of one day is far above what is usual for it; once a subject and day."""

    type_name: ClassVar[str] = "tokenomics.spike.detected.v1"
    key_field: ClassVar[str] = "subject"

    subject: Subject
    day: Day
    """In UTC."""

    posted_micro_usd: Total
    """Used on that day when it was detected."""

    usual_micro_usd: Total
    """Of such a day."""

    spike_micro_usd: Total
    """From so much on a day like that is a spike."""

    usual_days: Annotated[int, Field(strict=True, ge=1, le=366)]
    """From how many days before it is known what is usual."""

    policy_version: Version

    @property
    def about(self) -> str:
        """The day."""
        return f"spike/{self.day}"

    @property
    def ground(self) -> Ground:
        """The day's use is at least what makes it a spike."""
        return Ground(self.posted_micro_usd, self.spike_micro_usd)


class FrictionExceeded(Announced):
    """A rule has interrupted more calls of a week than it may, and only advises until the next.

    Once a rule, week and size of its budget; what a rule asks of one subject counts once an hour.
    """

    type_name: ClassVar[str] = "tokenomics.friction.exceeded.v1"
    key_field: ClassVar[str] = "rule"

    rule: RuleName
    week: Day
    """Its Monday, in UTC."""

    checks: Annotated[int, Field(strict=True, ge=1, le=MAX_TOTAL_MICRO_USD)]
    """So many calls of the week no rule had held back, or this one had, when that was found."""

    interrupted: Annotated[int, Field(strict=True, ge=1, le=MAX_TOTAL_MICRO_USD)]
    """So many of them the rule had interrupted."""

    most_basis_points: Ratio
    """The share of them that it may."""

    owner_id: Identifier
    """Who answers for the rule."""

    policy_version: Version

    @staticmethod
    def about_week(week: str) -> str:
        """Return what the announcements of a week begin what they are about with."""
        return f"friction/{week}"

    @property
    def about(self) -> str:
        """The week and the share."""
        return f"{self.about_week(self.week)}/{self.most_basis_points}"

    @property
    def ground(self) -> Ground:
        """The interrupted calls are at least the share of all that the rule may interrupt."""
        return Ground(self.interrupted, self.checks, self.most_basis_points)


class ThresholdCrossed(Announced):
    """An account's posted total reached a threshold; once per account, period, threshold, limit, reason."""

    type_name: ClassVar[str] = "tokenomics.threshold.crossed.v1"
    key_field: ClassVar[str] = "account_id"

    account_id: Account
    kind: AccountKind
    owner_id: Identifier
    purpose: AccountPurpose
    period: Period
    threshold_basis_points: Ratio
    band: Band
    """The band that begins at the threshold; for an alert, the one the account stands in."""

    reason: Literal["band", "alert"] = "band"
    """`band`: members may be asked for more from here on. `alert`: a budget's owner wished to know."""

    limit_micro_usd: Limit
    """The effective limit at that moment; another limit is another announcement."""

    posted_micro_usd: Total

    @property
    def about(self) -> str:
        """Threshold and limit; an alert is another announcement than a band that begins at the same share."""
        reached = f"{self.threshold_basis_points}/{self.limit_micro_usd}"
        return reached if self.reason == "band" else f"{self.reason}/{reached}"

    @property
    def ground(self) -> Ground:
        """The total, and its share of the limit."""
        return Ground(self.posted_micro_usd, self.limit_micro_usd, self.threshold_basis_points)


class ForecastExceeded(Announced):
    """A budget is expected to end beyond its limit; said once per account, period and limit."""

    type_name: ClassVar[str] = "tokenomics.forecast.exceeded.v1"
    key_field: ClassVar[str] = "account_id"

    account_id: Account
    kind: AccountKind
    owner_id: Identifier
    purpose: AccountPurpose
    period: Period
    limit_micro_usd: Limit
    """The effective limit at that moment; another limit is another announcement."""

    posted_micro_usd: Total
    forecast_micro_usd: Total
    """What the period is expected to end with."""

    forecast_low_micro_usd: Total
    forecast_high_micro_usd: Total
    """The total will lie between in four of five cases."""

    method: Slug
    """How it was forecast."""

    @property
    def about(self) -> str:
        """The limit."""
        return f"forecast/{self.limit_micro_usd}"

    @property
    def ground(self) -> Ground:
        """The forecast and the limit."""
        return Ground(self.forecast_micro_usd, self.limit_micro_usd)


class CarryOver(Value):
    """What was left of a period's limit, granted for the period after it."""

    amount_micro_usd: Annotated[MicroUsd, Field(strict=True, ge=1, le=MAX_LIMIT_MICRO_USD)]
    starts_at: UtcTime
    """When that period begins."""

    ends_at: UtcTime
    """When it ends, exclusive."""


class PeriodClosed(Announced):
    """What an account came to in a period; told again, as the next version, with what came later.

    An earlier version is never rewritten: the newest one tells the total, and each what it added.
    """

    type_name: ClassVar[str] = "tokenomics.period.closed.v1"
    key_field: ClassVar[str] = "account_id"

    account_id: Account
    kind: AccountKind
    owner_id: Identifier
    purpose: AccountPurpose
    period: Period
    version: SequenceNumber
    """1 closes the period; those after it adjust."""

    posted_micro_usd: Total
    """All that counts in the period, as far as `positions`."""

    experiment_micro_usd: Total
    """The part of it that went into experiments."""

    adjustment_micro_usd: Annotated[
        MicroUsd, Field(strict=True, ge=-MAX_TOTAL_MICRO_USD, le=MAX_TOTAL_MICRO_USD)
    ] = MicroUsd(0)
    """`posted_micro_usd` less that of the version before; 0 in the first."""

    limit_micro_usd: Limit | None = None
    """The effective limit that the period ended with; absent: none."""

    carry_over: CarryOver | None = None
    """In the first version only: what comes later neither adds to it nor takes from it."""

    positions: dict[PositionKey, Offset]
    """`topic/partition` to the next offset that had been projected."""

    @property
    def about(self) -> str:
        """That it closed."""
        return "closed"

    @property
    def announced_version(self) -> int:
        """Each version is an announcement of its own."""
        return self.version

    @property
    def ground(self) -> Ground:
        """The total; it may be anything."""
        return Ground(self.posted_micro_usd, 0)

    @model_validator(mode="after")
    def _adjusts_from_the_second_on(self) -> Self:
        if self.version == 1 and self.adjustment_micro_usd:
            raise ValueError("the first version adjusts nothing")
        if self.version > 1 and self.carry_over is not None:
            raise ValueError("only the first version carries anything over")
        return self


class SourceSilent(Announced):
    """A source of events has been quiet for longer than policy allows; once for each silence."""

    type_name: ClassVar[str] = "tokenomics.source.silent.v1"
    key_field: ClassVar[str] = "source"

    source: EventName
    """As named in the CloudEvents `source`."""

    owner_id: Identifier
    last_event_at: UtcTime | None = None
    """Append time of its newest event; absent: it was never seen."""

    silent_after_seconds: Seconds
    silent_for_seconds: Seconds
    """Since then; of one that was never seen, since policy named it so."""

    @property
    def about(self) -> str:
        """The silence: it began with the newest event."""
        return f"silent/{'never' if self.last_event_at is None else format_time(self.last_event_at)}"

    @property
    def ground(self) -> Ground:
        """How long, and how long it may be."""
        return Ground(self.silent_for_seconds, self.silent_after_seconds)


class Placement(Value):
    """What a hold found on one account when it was placed, in the ledger's one line of transactions."""

    account_id: Account
    sequence: SequenceNumber
    """Number among the placements on this account."""

    committed_before_micro_usd: Total
    """Covered and live on the account just before."""

    limit_micro_usd: Limit | None = None
    """The hard limit it had to fit under; absent: it would have been placed whatever the limit."""


class HoldEvent(Event):
    """A change of a hold (or of a lease, which is one): with those before it, it restores the hold."""

    key_field: ClassVar[str] = "subject"

    hold_id: Hold
    """A lease's id is the id of the hold behind it: usage names both alike."""

    subject: Subject
    """The subject id behind an alias; the alias itself where the directory knew nobody who bears it."""

    amount_micro_usd: Total
    """What is held on each account, what was covered of it included."""

    expires_at: UtcTime
    """When it stops counting by itself, by the ledger's clock."""

    change_seq: SequenceNumber
    """Number of the ledger's transaction: of two changes of a hold the later has the larger one."""


class Placing(HoldEvent):
    """A hold came to be: all that never changes of it."""

    payload_digest: PayloadDigest
    """Over the request: the same id with another one is another hold, and refused."""

    answer: OpaqueBytes = ""
    """What its caller was answered beside the hold: so is who repeats the call."""

    purpose: Purpose
    project: Project | None = None
    placed_at: UtcTime
    """By the ledger's clock."""

    placements: tuple[Placement, ...]
    """Every account it pends on; none for a part of another hold."""

    decision: DecisionName
    reason_codes: tuple[Slug, ...] = ()
    """Why the decision is not a plain ALLOW, the deciding reason first."""


class Settling(HoldEvent):
    """Usage, or its caller, said what a hold cost."""

    settled_at: UtcTime
    """By the ledger's clock."""

    cost_micro_usd: Total
    """What this settlement costs: it counts in full on every account, covered or not."""

    covered_micro_usd: Total
    """What is covered in all: of each settlement what was left of the hold while it was live."""

    usage_identity: Digest | None = None
    """Hash over (source, id) of the usage event that settled it. Absent: settled by its caller, and the cost
    counts as usage of that time until a usage event names the hold."""


class HoldPlaced(Placing):
    """A call, or a part of another hold, may spend up to an amount."""

    type_name: ClassVar[str] = "tokenomics.hold.placed.v1"

    parent_hold_id: Hold | None = None
    """The hold it is a part of."""


class HoldExtended(HoldEvent):
    """Its end moved."""

    type_name: ClassVar[str] = "tokenomics.hold.extended.v1"


class HoldSettled(Settling):
    """It ended with its cost known. Told again when usage replaces what its caller had said."""

    type_name: ClassVar[str] = "tokenomics.hold.settled.v1"

    purpose: Purpose
    project: Project | None = None


class HoldReleased(HoldEvent):
    """It ended without usage."""

    type_name: ClassVar[str] = "tokenomics.hold.released.v1"


class HoldExpired(HoldEvent):
    """Its end had come. It stopped counting at that instant, not when this was written."""

    type_name: ClassVar[str] = "tokenomics.hold.expired.v1"


class LeaseAcquired(Placing):
    """A client draws from it by itself."""

    type_name: ClassVar[str] = "tokenomics.lease.acquired.v1"

    draw_until: UtcTime
    """When its client stops drawing, by the ledger's clock."""

    longest_call_ms: Milliseconds
    """How long after that, at least, what it drew is held."""

    typical_call: OpaqueBytes
    """What a renewal is judged and priced by."""


class LeaseRenewed(HoldEvent):
    """A further stretch: the amount is that of all stretches."""

    type_name: ClassVar[str] = "tokenomics.lease.renewed.v1"

    renewal: Version
    """Number of this renewal, from 1."""

    drawn_micro_usd: Total
    """What the client had drawn by then."""

    request_digest: PayloadDigest
    """Over the request: the same number with another one is refused."""

    draw_until: UtcTime
    placements: tuple[Placement, ...]
    """Of what was added."""


class LeaseSettled(Settling):
    """A call drawn from it became usage; the lease goes on."""

    type_name: ClassVar[str] = "tokenomics.lease.settled.v1"


class LeaseReturned(HoldEvent):
    """The client draws no more: what it had not drawn is free, and the amount is what it had."""

    type_name: ClassVar[str] = "tokenomics.lease.returned.v1"

    drawn_micro_usd: Total


class LeaseExpired(HoldEvent):
    """Its end had come. It stopped counting at that instant, not when this was written."""

    type_name: ClassVar[str] = "tokenomics.lease.expired.v1"


class AccountEvent(Event):
    """Somebody opened or shut an account to new holds."""

    key_field: ClassVar[str] = "account_id"

    account_id: Account
    reason_code: Slug
    ticket_id: Identifier
    decided_by: Caller
    change_seq: SequenceNumber
    """Number of the ledger's transaction."""


class AccountFrozen(AccountEvent):
    """It takes no new holds; usage still counts."""

    type_name: ClassVar[str] = "tokenomics.account.frozen.v1"


class AccountUnfrozen(AccountEvent):
    """It takes holds again."""

    type_name: ClassVar[str] = "tokenomics.account.unfrozen.v1"


class AccountClosed(AccountEvent):
    """It takes no holds ever again; usage still counts."""

    type_name: ClassVar[str] = "tokenomics.account.closed.v1"


class BypassEvent(Event):
    """A bypass began to hold, or ended."""

    key_field: ClassVar[str] = "bypass_id"

    bypass_id: Identifier
    scope_kind: AccountKind
    scope_owner_id: Identifier
    started_at: UtcTime
    until: UtcTime
    """By itself it ends then, by the ledger's clock."""

    reason_code: Slug
    """Why it was started, and so the ticket."""

    ticket_id: Identifier
    started_by: Caller
    change_seq: SequenceNumber
    """Number of the ledger's transaction."""


class BypassStarted(BypassEvent):
    """Calls counted on the scope's accounts pass every rule but prohibited data, and are recorded."""

    type_name: ClassVar[str] = "tokenomics.bypass.started.v1"


class BypassEnded(BypassEvent):
    """An operator ended it before its time."""

    type_name: ClassVar[str] = "tokenomics.bypass.ended.v1"

    ended_at: UtcTime
    ended_by: Caller
    end_reason_code: Slug
    end_ticket_id: Identifier


class BypassExpired(BypassEvent):
    """Its time had come. It stopped holding at that instant, not when this was written."""

    type_name: ClassVar[str] = "tokenomics.bypass.expired.v1"


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
