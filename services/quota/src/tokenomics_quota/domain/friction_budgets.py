"""How many calls rules may interrupt: one that takes more only advises for the rest of the week."""

from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, date, datetime, time, timedelta
from typing import Final, NamedTuple, Self

from tokenomics_contracts.events import policy
from tokenomics_contracts.units import BasisPoints, RuleName
from tokenomics_quota.domain.findings import Rule
from tokenomics_quota.domain.timeline import Timeline

HOUR: Final = timedelta(hours=1)
WEEK: Final = timedelta(days=7)


class FrictionBudget(NamedTuple):
    """What a quota policy grants a rule."""

    name: RuleName
    """Of the rule."""
    most: BasisPoints
    """Of the calls of a week that no rule held back or this one did."""
    fewest_checks: int
    """Before there were so many in the week nothing is judged."""
    owner_id: str
    """Who is told."""

    @classmethod
    def from_policy(cls, stated: policy.FrictionBudget) -> Self:
        """Take over what a policy states."""
        return cls(stated.rule, stated.most_basis_points, stated.fewest_checks, stated.owner_id)

    def is_exceeded(self, checks: int, interrupted: int) -> bool:
        """Whether the rule has interrupted more of a week's calls than it may."""
        return checks >= self.fewest_checks and interrupted * policy.FULL > checks * self.most


FrictionBudgets = Mapping[Rule, FrictionBudget]

NO_BUDGETS: Final[FrictionBudgets] = {}


class Interruption(NamedTuple):
    """That a rule held a subject back within an hour, however often it did."""

    hour: datetime
    """Its beginning, in UTC."""
    rule: Rule
    subject: str


class Friction(NamedTuple):
    """What is known of a week."""

    passed: int
    """Calls that no rule held back."""
    interrupted: Mapping[str, int]
    """Interruptions by rule."""


def hour_of(instant: datetime) -> datetime:
    """Return the first instant, in UTC, of the hour of an instant."""
    return instant.astimezone(UTC).replace(minute=0, second=0, microsecond=0)


def week_of(instant: datetime) -> date:
    """Return the Monday (in UTC) of the week of an instant, which names the week."""
    day = instant.astimezone(UTC).date()
    return day - timedelta(days=day.weekday())


def week_begins(week: date) -> datetime:
    """Return the first instant of a week."""
    return datetime.combine(week, time(), UTC)


def exceeded(budgets: FrictionBudgets, found: Friction) -> Iterator[tuple[FrictionBudget, int, int]]:
    """Return the budgets that are exceeded, each with the week's calls and those its rule interrupted."""
    for rule, budget in budgets.items():
        interrupted = found.interrupted.get(rule, 0)
        checks = found.passed + interrupted
        if budget.is_exceeded(checks, interrupted):
            yield budget, checks, interrupted


NOBODY_FELL_BACK: Final = Timeline[frozenset[Rule]]((), before=frozenset())


def fallen_back(
    budgets: FrictionBudgets, week: date, told: Iterable[tuple[str, BasisPoints]]
) -> Timeline[frozenset[Rule]]:
    """Return over time which rules only advise, by what was told of a week: rules, and shares exceeded.

    A rule that has got a larger budget since then goes on as before until it exceeds that.
    """
    shares: dict[str, BasisPoints] = {}
    for name, share in told:
        shares[name] = max(share, shares.get(name, share))
    found = frozenset(rule for rule, budget in budgets.items() if shares.get(rule, 0) >= budget.most)
    if not found:
        return NOBODY_FELL_BACK
    start = week_begins(week)
    return Timeline([(start, found), (start + WEEK, frozenset())], before=frozenset())
