"""`tokenomics.policy.v1`: versioned policy documents, each an event."""

from collections import Counter
from collections.abc import Iterable
from itertools import pairwise
from typing import Annotated, Any, ClassVar, Final, Literal, NamedTuple, Self, get_args
from zoneinfo import ZoneInfo

from pydantic import (
    AfterValidator,
    BaseModel,
    Field,
    JsonValue,
    StringConstraints,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_core.core_schema import ValidationInfo

from tokenomics_contracts.cloudevents import MAX_EVENT_BYTES
from tokenomics_contracts.events.base import Event, Value
from tokenomics_contracts.units import (
    MAX_LIMIT_MICRO_USD,
    BasisPoints,
    Cohort,
    Cost,
    CostCentre,
    DecisionName,
    EventName,
    Identifier,
    Label,
    Limit,
    Measurement,
    MicroUsd,
    PicoUsd,
    Project,
    Purpose,
    Ratio,
    RoleName,
    RuleName,
    Slug,
    Team,
    Tokens,
    UseCase,
    UtcTime,
    Version,
    format_time,
)

PolicyKind = Literal[
    "baseline", "quota", "approvals", "scoring", "privacy", "notifier", "price_book", "use_cases", "sources"
]

FULL: Final = BasisPoints(10_000)
MAX_DOCUMENT_BYTES: Final = MAX_EVENT_BYTES - 1_024
"""What an event has room for beside kind, versions and time."""

DEFAULT_CAP_MICRO_USD: Final = MicroUsd(50_000_000)


_MESSAGES: Final = {
    "tuple_type": "Input should be a list",
    "model_type": "Input should be a mapping",
}
"""By pydantic's type of error: in words of who writes a document, where its own are those of Python."""


class Problem(NamedTuple):
    """What is wrong with a document, and where."""

    path: str
    """Dotted path of the field, list positions from 0, e.g. `budgets.3.limit_micro_usd`; empty: the whole."""

    message: str

    def __str__(self) -> str:
        return f"{self.path}: {self.message}" if self.path else self.message


def problems_of(error: ValidationError) -> list[Problem]:
    """Say what pydantic found, without the offending values: they may be personal."""
    found = error.errors(include_url=False, include_context=False, include_input=False)
    # A list that is too short only because what is in it is wrong isn't a second problem.
    parents = {item["loc"][:depth] for item in found for depth in range(len(item["loc"]))}
    return [
        Problem(
            ".".join(map(str, item["loc"])),
            _MESSAGES.get(item["type"]) or item["msg"].removeprefix("Value error, "),
        )
        for item in found
        if item["type"] != "too_short" or item["loc"] not in parents
    ]


def _require_unique(name: str, values: Iterable[object]) -> None:
    repeated = [str(value) for value, count in Counter(values).items() if count > 1]
    if repeated:
        raise ValueError(f"{name} should appear once each; repeated: {', '.join(repeated)}")


def _known_time_zone(name: str) -> str:
    try:
        ZoneInfo(name)
    except (OSError, ValueError, LookupError):
        raise ValueError("should be an IANA time zone, e.g. Europe/Berlin") from None
    return name


def _star_at_its_end_only(model: str) -> str:
    if "*" in model[:-1]:
        raise ValueError("model should have a '*' at its end only")
    return model


def _without_a_star(model: str) -> str:
    if "*" in model:
        raise ValueError("model should be an exact name, without '*'")
    return model


def _title(text: str) -> str:
    if not text.strip() or not text.isprintable():
        raise ValueError("should be one line of printable characters, not only spaces")
    return text


Title = Annotated[str, StringConstraints(max_length=200), AfterValidator(_title)]


def _prose(text: str) -> str:
    if not text.strip() or not all(char.isprintable() or char in "\n\t" for char in text):
        raise ValueError("should be text: printable characters, line breaks and tabs, not only spaces")
    return text


Prose = Annotated[str, StringConstraints(max_length=20_000), AfterValidator(_prose)]
"""What governance tells people: the one place where a policy holds sentences."""


class Thresholds(Value):
    """Where the bands begin, as a share of the effective limit."""

    nudge_basis_points: Ratio = BasisPoints(7_000)
    justify_basis_points: Ratio = BasisPoints(9_000)
    approve_basis_points: Ratio = FULL
    everybody_basis_points: Ratio | None = None
    """A shared account that has reached `approve_basis_points` asks those of its members who have used their
    fair share, an equal part of the limit. From here on it asks all of them. Absent: never."""

    @model_validator(mode="after")
    def _everybody_is_asked_last(self) -> Self:
        if (
            self.everybody_basis_points is not None
            and self.everybody_basis_points < self.approve_basis_points
        ):
            raise ValueError("everybody_basis_points should not be below approve_basis_points")
        return self

    @model_validator(mode="after")
    def _rise(self) -> Self:
        if not 0 < self.nudge_basis_points < self.justify_basis_points < self.approve_basis_points:
            raise ValueError("thresholds should rise strictly from nudge over justify to approve, above 0")
        return self


Enforcement = Literal["soft", "hard"]
"""What happens at a limit. `soft`: members are asked for an approval, holds are placed all the same. `hard`:
holds beyond it are refused too. A check asks the same either way: the refusal comes with the hold."""


class Allowance(Value):
    """A role's baseline limit for one period."""

    named_by: ClassVar[tuple[str, ...]] = ("role",)

    role: RoleName
    limit_micro_usd: Limit
    enforcement: Enforcement = "soft"
    carry_over_cap_micro_usd: Limit | None = None
    """So much, at most, of what is unused when a period closes is granted for the next. Absent: nothing."""


class Budget(Value):
    """A shared limit for one period."""

    named_by: ClassVar[tuple[str, ...]] = ("kind", "owner_id")

    kind: Literal["team", "project", "cost_centre"]
    owner_id: Identifier
    limit_micro_usd: Limit
    enforcement: Enforcement = "soft"
    buffer_micro_usd: Limit = MicroUsd(0)
    """Part of the limit that is kept back: what members may use is the rest. Its owner sees it."""

    experiment_limit_micro_usd: Limit | None = None
    """Of what is used in the period, so much may be for experiments: a call for one is judged by it, too."""

    alert_basis_points: Annotated[BasisPoints, Field(strict=True, ge=1, le=1_000_000)] = BasisPoints(8_000)
    """At this share of what members may use its owner is told; nobody is asked for anything."""

    carry_over_cap_micro_usd: Limit | None = None
    """So much, at most, of what is unused when a period closes is granted for the next. Absent: nothing."""

    @model_validator(mode="after")
    def _parts_fit_the_whole(self) -> Self:
        if self.buffer_micro_usd > self.limit_micro_usd:
            raise ValueError("buffer_micro_usd should not exceed limit_micro_usd")
        if (self.experiment_limit_micro_usd or 0) > self.limit_micro_usd - self.buffer_micro_usd:
            raise ValueError("experiment_limit_micro_usd should not exceed the limit without the buffer")
        return self


class Override(Value):
    """What a project makes of its members' allowances, while they are members, whatever their calls are for.

    Of several projects of one member the highest replacement holds; what others add comes on top. It is as
    soft or hard as the allowance.
    """

    named_by: ClassVar[tuple[str, ...]] = ("project_id",)

    project_id: Project
    mode: Literal["replace", "add"]
    """`add`: to an allowance or a replacement; a member without any limit stays without."""

    limit_micro_usd: Limit


class ModelName(Value):
    """Names a model, or several."""

    named_by: ClassVar[tuple[str, ...]] = ("provider", "model")

    provider: Label
    model: Annotated[Label, AfterValidator(_star_at_its_end_only)]
    """Exact name, or a prefix ending in `*`."""


class ModelRule(Value):
    """Who may call which models with what. It speaks of the calls that all of its conditions fit.

    Of the rules that speak of a call, the one with the most specific name of its model decides: an exact name
    before a prefix, a longer prefix before a shorter one; of equals the one that lets most through.
    """

    models: Annotated[tuple[ModelName, ...], Field(min_length=1)]
    access: Literal["approved", "on_approval", "refused"] = "approved"
    """`on_approval`: for who has an approval for the model, and asks for one otherwise."""

    roles: Annotated[tuple[RoleName, ...], Field(min_length=1)] | None = None
    """Of the caller. Absent: every role, and callers that the directory doesn't know."""

    data_classes: Annotated[tuple[Slug, ...], Field(min_length=1)] | None = None
    """Of the data in the prompt. Absent: every class that isn't prohibited."""


class Model(Value):
    """One model."""

    named_by: ClassVar[tuple[str, ...]] = ("provider", "model")

    provider: Label
    model: Annotated[Label, AfterValidator(_without_a_star)]
    """Exact name."""


class Alternative(Value):
    """Which models do what others are asked for: the price alone doesn't say that a model suffices."""

    models: Annotated[tuple[ModelName, ...], Field(min_length=1)]
    """Those that are asked for."""

    sufficient: Annotated[tuple[Model, ...], Field(min_length=1, max_length=20)]
    """Those that do as well. An answer names who is permitted to the caller and costs less for the call."""

    use_cases: Annotated[tuple[UseCase, ...], Field(min_length=1)] | None = None
    """Only in calls for these. Absent: in all."""


class Spikes(Value):
    """When the use of one day (in UTC) is far above what is usual for its subject, and asks for a reason.

    What is usual is the median of the days before on which something was used, or of those on the same
    weekday where that is more. A day that chance may take so far above it is none.
    """

    factor_basis_points: Annotated[BasisPoints, Field(strict=True, gt=10_000, le=1_000_000)] = BasisPoints(
        30_000
    )
    """Of the usual day."""

    minimum_micro_usd: Annotated[MicroUsd, Field(strict=True, ge=1, le=MAX_LIMIT_MICRO_USD)] = MicroUsd(
        5_000_000
    )
    """Below it no day is a spike, however unusual."""

    window_days: Annotated[int, Field(strict=True, ge=7, le=56)] = 28
    """So many days before count."""

    fewest_days: Annotated[int, Field(strict=True, ge=3, le=56)] = 5
    """On so many of them something has to have been used; until then nothing is usual, and no day a spike."""

    @model_validator(mode="after")
    def _window_has_room(self) -> Self:
        if self.fewest_days > self.window_days:
            raise ValueError("fewest_days should not exceed window_days")
        return self


class ProhibitedData(Value):
    """A class of data that isn't for any model, whoever asks and whoever would approve."""

    named_by: ClassVar[tuple[str, ...]] = ("data_class",)

    data_class: Slug
    permitted_way: Annotated[Prose, Field(max_length=500)]
    """What to do instead."""


RuleNames = Annotated[tuple[RuleName, ...], Field(min_length=1)]


class StageStep(Value):
    """From when on rules are rolled out how far."""

    stage: Literal["observe", "nudge", "enforce"]
    """`observe`: what rules would have said is recorded, and nothing is asked. `nudge`: they advise at most.
    `enforce`: they ask and refuse."""

    from_: Annotated[UtcTime, Field(alias="from")]
    rules: RuleNames | None = None
    """Absent: all."""


StageSteps = Annotated[tuple[StageStep, ...], Field(min_length=1)]


class CohortRollout(Value):
    """How far rules are for the teams of a group for comparison."""

    named_by: ClassVar[tuple[str, ...]] = ("cohort",)

    cohort: Cohort
    stages: StageSteps


class TeamRollout(Value):
    """A team's group for comparison, and how far rules are for that team."""

    named_by: ClassVar[tuple[str, ...]] = ("team_id",)

    team_id: Team
    cohort: Cohort | None = None
    """It is written on the records of its decisions."""

    stages: StageSteps | None = None
    """Absent: its cohort's, else everybody's."""

    @model_validator(mode="after")
    def _says_something(self) -> Self:
        if self.cohort is None and self.stages is None:
            raise ValueError("cohort or stages should be there")
        return self


class Rollout(Value):
    """How far rules are rolled out, for whom and from when.

    For each rule the steps that speak of it count: a team's own, else its cohort's, else everybody's. Before
    the first of them it is observed; where none speaks of it, it is enforced.
    """

    stages: tuple[StageStep, ...] = ()
    """Everybody's."""

    cohorts: tuple[CohortRollout, ...] = ()
    teams: tuple[TeamRollout, ...] = ()
    first_days_observe: Annotated[int, Field(strict=True, ge=0, le=366)] = 0
    """For so many days from a team's first `team.upserted` on, rules are only observed for it, unless steps
    of its own speak of them."""

    shadow: tuple[RuleName, ...] = ()
    """Rules that are observed for all, whatever the steps say."""

    @model_validator(mode="after")
    def _one_entry_each(self) -> Self:
        _require_unique("cohorts", (each.cohort for each in self.cohorts))
        _require_unique("teams", (each.team_id for each in self.teams))
        _require_unique("rules in shadow", self.shadow)
        steps = [
            self.stages,
            *(each.stages for each in self.cohorts),
            *(each.stages or () for each in self.teams),
        ]
        for each in steps:
            _require_unique(
                "steps of a rule",
                (
                    f"{rule} from {format_time(step.from_)}"
                    for step in each
                    for rule in step.rules or get_args(RuleName)
                ),
            )
        return self


class FrictionBudget(Value):
    """How many calls a rule may interrupt: one that takes more only advises for the rest of the week.

    Interrupted is a check, hold or stretch of a lease that is answered otherwise than ALLOW or
    ALLOW_WITH_NUDGE; what a rule asks of one subject counts once an hour, however often it is asked again. A
    check that passed and the hold that follows it are one call. A week begins on Monday, in UTC.
    """

    named_by: ClassVar[tuple[str, ...]] = ("rule",)

    rule: RuleName
    most_basis_points: Annotated[BasisPoints, Field(strict=True, ge=1, le=10_000)]
    """Share of the calls of the week that no rule held back or this one did."""

    fewest_checks: Annotated[int, Field(strict=True, ge=1, le=10**9)] = 1_000
    """Before there were so many in the week nothing is judged."""

    owner_id: Identifier
    """Who is told."""


class Degrade(Value):
    """What a check does while the view it is answered from is older than this policy allows."""

    stale_after_seconds: Annotated[int, Field(strict=True, ge=1, le=86_400)] = 10
    """The view is stale when it wasn't known to be level with the log for longer than this."""

    mode: Literal["open", "closed"] = "open"
    """`open`: calls go on up to the cap, and the answer says so. `closed`: checks answer UNAVAILABLE."""

    cap_micro_usd: Limit | None = None
    """`open` only: what each server lets through on each account, by estimate, while its view stays stale.
    Absent: 50,000,000 (50 USD)."""

    @model_validator(mode="after")
    def _cap_is_for_open(self) -> Self:
        if self.mode == "closed" and self.cap_micro_usd is not None:
            raise ValueError("cap_micro_usd goes with mode open: closed lets nothing through")
        return self

    @property
    def let_through_micro_usd(self) -> MicroUsd | None:
        """The cap in force; ``None`` for `closed`."""
        if self.mode == "closed":
            return None
        return DEFAULT_CAP_MICRO_USD if self.cap_micro_usd is None else self.cap_micro_usd


ExampleAccount = Literal["subject", "project", "team", "cost_centre"]
"""The caller's own account, or that of the example's project, team or cost centre."""


class Spent(Value):
    """What had been used of one account before an example's call. Exactly one of the amounts is given."""

    named_by: ClassVar[tuple[str, ...]] = ("account",)

    account: ExampleAccount
    basis_points: Ratio | None = None
    """Share of the account's limit without grants, rounded up to a micro-USD."""

    micro_usd: Limit | None = None

    @model_validator(mode="after")
    def _one_amount(self) -> Self:
        if (self.basis_points is None) == (self.micro_usd is None):
            raise ValueError("should have either basis_points or micro_usd")
        return self


class Granted(Value):
    """A grant that holds when an example's call is made, for example a launch week's."""

    named_by: ClassVar[tuple[str, ...]] = ("account",)

    account: ExampleAccount
    micro_usd: Annotated[MicroUsd, Field(strict=True, ge=1, le=MAX_LIMIT_MICRO_USD)]


class Example(Value):
    """A call and the decision that it must get; the policy's own rules judge it before they are published."""

    named_by: ClassVar[tuple[str, ...]] = ("name",)

    name: Title
    """What it shows, e.g. `support, 95 %, launch week: a nudge`."""

    role: RoleName
    """The caller's."""

    team_id: Team | None = None
    """The caller's. Absent: a team that no budget names."""

    team_since: UtcTime | None = None
    """When the directory first knew of the team. Absent: it always did."""

    cost_centre_id: CostCentre | None = None
    """The team's."""

    project_id: Project | None = None
    """The project that the call is for; the caller is a member of it."""

    members: Annotated[int, Field(strict=True, ge=1, le=1_000)] = 1
    """How many belong to the caller's team, project and cost centre, the caller included: a fair share of a
    budget is its limit divided by them."""

    spent: tuple[Spent, ...] = ()
    """What had been used before; of an account that isn't named, nothing."""

    usual_day_micro_usd: Limit = MicroUsd(0)
    """What the caller used on each day before, for as long as `spikes` looks back."""

    used_today_micro_usd: Limit = MicroUsd(0)
    """What the caller has used on the day of the call, in UTC."""

    granted: tuple[Granted, ...] = ()
    justified: Annotated[bool, Field(strict=True)] = False
    """The caller has given a reason, which holds."""

    model_unlocked: Annotated[bool, Field(strict=True)] = False
    """The caller has an approval for the model and the class of data."""

    provider: Label = "example"
    model: Label = "example"
    cost_micro_usd: Cost = MicroUsd(0)
    """What the call is estimated at, whatever the prices."""

    purpose: Purpose = "operational"
    data_class: Slug = "internal"
    use_case: UseCase | None = None
    at: UtcTime | None = None
    """When the call is made. Absent: when the example is judged."""

    expect: DecisionName

    @model_validator(mode="after")
    def _names_accounts_it_has(self) -> Self:
        has = {"project": self.project_id, "team": self.team_id, "cost_centre": self.cost_centre_id}
        accounts = {
            "spent": [spent.account for spent in self.spent],
            "granted": [granted.account for granted in self.granted],
        }
        for name, named in accounts.items():
            _require_unique(f"accounts in {name}", named)
            for account in named:
                if account != "subject" and has[account] is None:
                    raise ValueError(f"{name} of a {account} needs {account}_id")
        return self


class QuotaDocument(Value):
    """The quota policy. Whoever has neither a role's allowance nor the default one has no limit."""

    time_zone: Annotated[str, AfterValidator(_known_time_zone)]
    """The zone in which a period turns."""

    period: Literal["calendar_month"] = "calendar_month"
    thresholds: Thresholds = Thresholds()
    allowances: tuple[Allowance, ...] = ()
    default_allowance_micro_usd: Limit | None = None
    default_allowance_enforcement: Enforcement = "soft"
    default_allowance_carry_over_cap_micro_usd: Limit | None = None
    overrides: tuple[Override, ...] = ()
    budgets: tuple[Budget, ...] = ()
    forecast_from_day: Annotated[int, Field(strict=True, ge=1, le=31)] = 5
    """From this day of a period on budgets' owners are told when the forecast exceeds the limit."""

    close_after_days: Annotated[int, Field(strict=True, ge=0, le=27)] = 5
    """So long after its end a period is closed; what comes later is told as an adjustment."""

    degrade: Degrade = Degrade()
    models: Annotated[tuple[ModelRule, ...], Field(min_length=1)] | None = None
    """Which models may be called; a call that no rule speaks of is refused. Absent: all may be."""

    prohibited_data: tuple[ProhibitedData, ...] = ()
    spikes: Spikes | None = None
    """Absent: nobody looks for them."""

    alternatives: tuple[Alternative, ...] = ()
    """They decide nothing; answers that hold a call back or advise name them."""

    rollout: Rollout = Rollout()
    friction: tuple[FrictionBudget, ...] = ()
    """Budgets of rules, one each; a rule without one may interrupt as many calls as it finds."""

    examples: Annotated[tuple[Example, ...], Field(max_length=200)] = ()
    """What the policy promises. They decide nothing; `policy apply` publishes only when all hold."""

    @model_validator(mode="after")
    def _one_limit_each(self) -> Self:
        _require_unique("roles in allowances", (allowance.role for allowance in self.allowances))
        _require_unique("budgets", (f"{budget.kind}/{budget.owner_id}" for budget in self.budgets))
        _require_unique("rules in friction", (budget.rule for budget in self.friction))
        _require_unique("overrides", (override.project_id for override in self.overrides))
        _require_unique("prohibited_data", (each.data_class for each in self.prohibited_data))
        _require_unique("names of examples", (example.name for example in self.examples))
        return self

    @model_validator(mode="after")
    def _enforces_a_limit(self) -> Self:
        if self.default_allowance_micro_usd is None:
            if self.default_allowance_enforcement == "hard":
                raise ValueError("default_allowance_enforcement needs default_allowance_micro_usd")
            if self.default_allowance_carry_over_cap_micro_usd is not None:
                raise ValueError("a default allowance's carry-over needs default_allowance_micro_usd")
        return self


Rate = Annotated[PicoUsd, Field(strict=True, ge=0, le=10**12)]
"""Integer micro-USD per million tokens, which is pico-USD per token."""


class Rates(Value):
    """What a million tokens cost, in micro-USD (= pico-USD per token)."""

    input: Rate
    """Input that was neither read from nor written to the cache."""

    cached_input: Rate | None = None
    """Absent: as input."""

    cache_creation: Rate | None = None
    """Absent: as input."""

    output: Rate


class Tier(Value):
    """Rates of a whole request whose input is larger than a bound."""

    named_by: ClassVar[tuple[str, ...]] = ("above_input_tokens",)

    above_input_tokens: Annotated[Tokens, Field(ge=1)]
    rates: Rates


Minute = Annotated[str, StringConstraints(pattern=r"^([01][0-9]|2[0-3]):[0-5][0-9]$")]


def _minute_of_day(text: str) -> int:
    return int(text[:2]) * 60 + int(text[3:])


class Window(Value):
    """Rates at a time of day; `from_` belongs to it, `until` doesn't; it may pass midnight."""

    named_by: ClassVar[tuple[str, ...]] = ("from_",)

    from_: Annotated[Minute, Field(alias="from")]
    """`HH:MM` in UTC."""

    until: Minute
    """`HH:MM` in UTC."""

    rates: Rates

    def minutes(self) -> set[int]:
        """Give the minutes of the UTC day that it covers."""
        start, end = _minute_of_day(self.from_), _minute_of_day(self.until)
        return {minute % 1440 for minute in range(start, end if end > start else end + 1440)}

    def covers(self, minute_of_day: int) -> bool:
        """Whether a minute of the UTC day (0 .. 1439) lies in it."""
        start, end = _minute_of_day(self.from_), _minute_of_day(self.until)
        return start <= minute_of_day < end if start < end else minute_of_day >= start or minute_of_day < end


class Price(Value):
    """What a model costs. A window that covers the request's time wins over tiers, tiers over `rates`."""

    named_by: ClassVar[tuple[str, ...]] = ("provider", "model")

    provider: Label
    model: Label
    """Exact name, or a prefix ending in `*`; an exact name wins, then the longest prefix."""

    rates: Rates
    tiers: tuple[Tier, ...] = ()
    windows: tuple[Window, ...] = ()

    @model_validator(mode="after")
    def _unambiguous(self) -> Self:
        _star_at_its_end_only(self.model)
        if any(low.above_input_tokens >= high.above_input_tokens for low, high in pairwise(self.tiers)):
            raise ValueError("tiers should rise strictly by above_input_tokens")
        if any(window.from_ == window.until for window in self.windows):
            raise ValueError("a window's from and until should differ")
        covered = [window.minutes() for window in self.windows]
        if len(set().union(*covered)) != sum(map(len, covered)):
            raise ValueError("windows should not overlap")
        return self


class ServiceTierFactors(Value):
    """What a service tier multiplies a price by."""

    standard: Ratio = FULL
    batch: Ratio = FULL
    priority: Ratio = FULL


class PriceBookDocument(Value):
    """Prices in force from the event's `effective_from` on."""

    prices: tuple[Price, ...] = ()
    service_tier_basis_points: ServiceTierFactors = ServiceTierFactors()
    fallback: Rates
    """Prices a model that no entry names; such facts are flagged and mended by a later price book."""

    @model_validator(mode="after")
    def _one_price_each(self) -> Self:
        _require_unique("prices", (f"{price.provider} {price.model}" for price in self.prices))
        return self


class Source(Value):
    """A producer of events, as named in the CloudEvents `source`."""

    named_by: ClassVar[tuple[str, ...]] = ("source",)

    source: EventName
    owner_id: Identifier
    may_backfill: Annotated[bool, Field(strict=True)] = False
    """Events of any age are accepted; they reach reports. A later version can't take it back."""

    backfill_until: UtcTime | None = None
    """Only events appended before; absent: without end."""

    backfill_counts_in_balances: Annotated[bool, Field(strict=True)] = False
    """They reach balances too."""

    silent_after_seconds: Annotated[int, Field(strict=True, ge=60, le=366 * 86_400)] | None = None
    """Its owner is told when no event of it was appended for longer than this. Absent: never."""

    @model_validator(mode="after")
    def _backfill_is_permitted(self) -> Self:
        if self.backfill_counts_in_balances and not self.may_backfill:
            raise ValueError("backfill_counts_in_balances needs may_backfill")
        return self


class SourcesDocument(Value):
    """Who owns which source, and what it may do."""

    sources: tuple[Source, ...] = ()

    @model_validator(mode="after")
    def _one_entry_each(self) -> Self:
        _require_unique("sources", (source.source for source in self.sources))
        return self


class ApprovedTool(Value):
    """A tool that people may use."""

    named_by: ClassVar[tuple[str, ...]] = ("tool",)

    tool: Label
    """As events name it."""

    data_classes: Annotated[tuple[Slug, ...], Field(min_length=1)] | None = None
    """Classes of data that it is approved for. Absent: all that `restricted_data` doesn't name."""


class RestrictedData(Value):
    """A class of data that isn't for every tool."""

    named_by: ClassVar[tuple[str, ...]] = ("data_class",)

    data_class: Slug
    rule: Prose
    """What may not be done with it, and the permitted way."""


class BaselineDocument(Value):
    """What everybody must know before the first call. It decides no check; `ListPolicies` gives it to all."""

    acceptable_use: Prose
    approved_tools: tuple[ApprovedTool, ...] = ()
    restricted_data: tuple[RestrictedData, ...] = ()
    training_url: Annotated[str, StringConstraints(pattern=r"^https://[!-~]{1,500}$")] | None = None

    @model_validator(mode="after")
    def _one_entry_each(self) -> Self:
        _require_unique("approved_tools", (approved.tool for approved in self.approved_tools))
        _require_unique("restricted_data", (restricted.data_class for restricted in self.restricted_data))
        return self


class OutcomeMetric(Value):
    """By what the worth of a use case is seen."""

    metric: Slug
    """As `outcome.recorded` names it."""

    baseline: Measurement
    """Its value before."""

    source: EventName
    """Who measures it, as named in the CloudEvents `source`."""


class RegisteredUseCase(Value):
    """What AI is used for, who answers for it, and by what its worth is seen."""

    named_by: ClassVar[tuple[str, ...]] = ("use_case_id",)

    use_case_id: UseCase
    owner_id: Identifier
    class_: Annotated[Slug, Field(alias="class")]
    """The company's own classification, e.g. `customer_facing`."""

    approved: Annotated[bool, Field(strict=True)]
    purpose: Prose
    outcome: OutcomeMetric | None = None
    """Without it, the use case can't be scored."""

    concerns: tuple[Literal["law", "customers"], ...] = ()
    """Whom its results reach: what `law` regulates, or `customers`."""

    human_review: Annotated[bool, Field(strict=True)] = False
    """A person looks at results before they take effect; required where it `concerns` anything."""

    data_classes: Annotated[tuple[Slug, ...], Field(min_length=1)] | None = None
    """Classes of data that it was registered for. Absent: any that is permitted otherwise."""

    @model_validator(mode="after")
    def _reviewed_where_it_matters(self) -> Self:
        if self.concerns and not self.human_review:
            raise ValueError("human_review should be true where law or customers are concerned")
        return self


class UseCasesDocument(Value):
    """The registered use cases, and what becomes of a call that names another."""

    use_cases: tuple[RegisteredUseCase, ...] = ()
    unregistered: Literal["allow", "nudge", "deny"] = "nudge"
    """What a check does when its call names a use case that isn't registered, isn't approved, or wasn't
    registered for the call's class of data. A call that names none is let through."""

    @model_validator(mode="after")
    def _one_entry_each(self) -> Self:
        _require_unique("use_cases", (use_case.use_case_id for use_case in self.use_cases))
        return self


PolicyDocument = QuotaDocument | PriceBookDocument | SourcesDocument | BaselineDocument | UseCasesDocument

DOCUMENT_MODELS: Final[dict[str, type[PolicyDocument]]] = {
    "quota": QuotaDocument,
    "price_book": PriceBookDocument,
    "sources": SourcesDocument,
    "baseline": BaselineDocument,
    "use_cases": UseCasesDocument,
}
"""Kinds that this version reads; the others' documents pass as opaque objects."""


def validate_document(kind: str, document: object) -> list[Problem]:
    """Judge a policy document before it is published, more strictly than a reader does.

    Unknown fields are problems here: a typo in a policy would otherwise switch a rule off silently.

    Returns
    -------
    list
        Empty when the document may be published.
    """
    model = DOCUMENT_MODELS.get(kind)
    if model is None:
        return [Problem("kind", f"should be one of {', '.join(DOCUMENT_MODELS)}")]
    try:
        published = model.model_validate(document, extra="forbid")
    except ValidationError as error:
        return problems_of(error)
    size = len(published.model_dump_json(by_alias=True, exclude_none=True).encode())
    if size > MAX_DOCUMENT_BYTES:
        return [Problem("", f"should take at most {MAX_DOCUMENT_BYTES} bytes as JSON, takes {size}")]
    return []


class PolicyPublished(Event):
    """A policy version. It is parked when `replaces` isn't the version in force for its kind."""

    type_name: ClassVar[str] = "tokenomics.policy.published.v1"
    key_field: ClassVar[str] = "kind"

    kind: PolicyKind
    version: Version
    replaces: Version | None = None
    """The version it was written against; absent only for the first of its kind."""

    effective_from: UtcTime
    document: PolicyDocument | dict[str, JsonValue]
    """The document model of its kind, or an opaque object for kinds that this version doesn't read."""

    @field_validator("document", mode="plain", json_schema_input_type=dict[str, JsonValue])
    @classmethod
    def _document_of_its_kind(cls, document: object, info: ValidationInfo) -> BaseModel | dict[str, Any]:
        model = DOCUMENT_MODELS.get(info.data.get("kind", ""))
        if model is None:
            if not isinstance(document, dict):
                raise ValueError("should be an object")
            return document
        try:
            return model.model_validate(document)
        except ValidationError as error:
            raise ValueError("; ".join(map(str, problems_of(error)))) from None

    @model_validator(mode="after")
    def _replaces_an_earlier_version(self) -> Self:
        if self.replaces is not None and self.replaces >= self.version:
            raise ValueError("replaces should be lower than version")
        return self
