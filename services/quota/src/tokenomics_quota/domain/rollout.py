"""How far each rule is rolled out for whom: observe, nudge, enforce."""

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from enum import IntEnum
from typing import Final, NamedTuple, Self, cast

from tokenomics_contracts.events import policy
from tokenomics_contracts.units import Cohort
from tokenomics_quota.domain.findings import Finding, Rule
from tokenomics_quota.domain.friction import Decision
from tokenomics_quota.domain.timeline import Timeline


class Stage(IntEnum):
    """How far a rule is rolled out; a higher stage lets it ask for more."""

    OBSERVE = 0
    NUDGE = 1
    ENFORCE = 2


_EVER: Final = datetime.min.replace(tzinfo=UTC)
_MOST: Final = (Decision.ALLOW, Decision.ALLOW_WITH_NUDGE, Decision.DENIED)
"""What a rule may ask for at most, by stage."""


_ALWAYS_ENFORCED_RULES: Final = frozenset({Rule.PROHIBITED_DATA, Rule.SHUT_ACCOUNTS})


class Stages(NamedTuple):
    """The stage of each rule, by its name. Prohibited data and shut accounts have none: always refused."""

    allowances: Stage
    budgets: Stage
    models: Stage
    use_cases: Stage
    spikes: Stage

    @classmethod
    def all(cls, stage: Stage) -> Self:
        """Return the same stage for every rule."""
        return cls._make([stage] * len(cls._fields))

    def of(self, rule: Rule) -> Stage:
        """Return the stage of a rule."""
        return Stage.ENFORCE if rule in _ALWAYS_ENFORCED_RULES else cast("Stage", getattr(self, rule))

    def advising(self, rules: Iterable[Rule]) -> Self:
        """Return the stages of a time when some rules, each of which has one, advise at most."""
        return self._replace(**{rule.value: min(self.of(rule), Stage.NUDGE) for rule in rules})


ENFORCED: Final = Stages.all(Stage.ENFORCE)


class Step(NamedTuple):
    """From an instant on some rules are rolled out so far."""

    start: datetime
    stage: Stage
    rules: frozenset[str]

    @classmethod
    def from_policy(cls, stated: policy.StageStep) -> Self:
        """Take over what a policy states."""
        return cls(stated.from_, Stage[stated.stage.upper()], frozenset(stated.rules or Stages._fields))


Steps = Sequence[Step]


def _steps(stated: Iterable[policy.StageStep]) -> Steps:
    return tuple(map(Step.from_policy, stated))


_UNNAMED: Final[tuple[None, Steps]] = (None, ())


class Rollout:
    """What a quota policy says of who is how far.

    For each rule a team's own steps count; while it has none, its first days; then its cohort's steps, then
    everybody's. Before the first of the steps that count a rule is observed; without any it is enforced.
    """

    def __init__(self, stated: policy.Rollout) -> None:
        self._everybody = _steps(stated.stages)
        self._cohorts: dict[Cohort | None, Steps] = {
            each.cohort: _steps(each.stages) for each in stated.cohorts
        }
        self._teams: dict[str | None, tuple[Cohort | None, Steps]] = {
            each.team_id: (each.cohort, _steps(each.stages or ())) for each in stated.teams
        }
        self._first_days = timedelta(days=stated.first_days_observe)
        self._shadow = frozenset(stated.shadow)

    def __bool__(self) -> bool:
        """Whether it ever leaves a rule behind."""
        return bool(self._everybody or self._cohorts or self._teams or self._first_days or self._shadow)

    def cohort(self, team_id: str | None) -> Cohort | None:
        """Return the group for comparison that a team is in."""
        return self._teams.get(team_id, _UNNAMED)[0]

    def stages(self, team_id: str | None, first_seen: datetime | None) -> Timeline[Stages]:
        """Return how far each rule is for a team over time.

        Parameters
        ----------
        team_id
            ``None`` for callers of no team.
        first_seen
            From when the directory has had the team; ``None``: it hasn't.
        """
        if not self:
            return _ALWAYS_ENFORCED
        of_rules = [self._of_rule(rule, team_id, first_seen) for rule in Stages._fields]
        starts = {start for timeline in of_rules for start in timeline.starts}

        def at(instant: datetime) -> Stages:
            return Stages._make(timeline.at(instant) for timeline in of_rules)

        return Timeline([(start, at(start)) for start in starts], before=at(_EVER))

    def _of_rule(self, rule: str, team_id: str | None, first_seen: datetime | None) -> Timeline[Stage]:
        if rule in self._shadow:
            return Timeline((), before=Stage.OBSERVE)
        cohort, own = self._teams.get(team_id, _UNNAMED)
        if speaking := [step for step in own if rule in step.rules]:
            return _over_time(speaking)
        of_cohort = self._cohorts.get(cohort, ())
        groups = ([step for step in steps if rule in step.rules] for steps in (of_cohort, self._everybody))
        general = _over_time(next(filter(None, groups), []))
        if not self._first_days or first_seen is None:
            return general
        end = first_seen + self._first_days
        later = [(start, stage) for start, stage in general.steps() if start > end]
        return Timeline([(end, general.at(end)), *later], before=Stage.OBSERVE)


def _over_time(steps: Steps) -> Timeline[Stage]:
    before = Stage.OBSERVE if steps else Stage.ENFORCE
    return Timeline([(step.start, step.stage) for step in steps], before)


_ALWAYS_ENFORCED: Final = Timeline[Stages]((), before=ENFORCED)

EVERYTHING_ENFORCED: Final = Rollout(policy.Rollout())
"""Of a policy that says nothing of it."""


class Judged(NamedTuple):
    """What becomes of findings."""

    findings: Sequence[Finding]
    """What is asked of the caller, the gravest first."""
    shadow: Sequence[Finding]
    """What would be asked beyond that were every rule enforced, the gravest first."""


def judge(found: Iterable[Finding], stages: Stages) -> Judged:
    """Let each rule ask for no more than its stage allows."""
    asked, shadow = [], []
    for finding in sorted(found, key=_gravest_first):
        most = _MOST[stages.of(finding.rule)]
        if finding.decision > most:
            shadow.append(finding)
            finding = finding._replace(decision=most)  # noqa: PLW2901 - the same finding, milder
        if finding.decision is not Decision.ALLOW:
            asked.append(finding)
    asked.sort(key=_gravest_first)
    return Judged(asked, shadow)


def _gravest_first(finding: Finding) -> int:
    return -finding.decision
