"""Simulating: usage is folded twice, under what governed it and under what would have, and each call judged.

Both courses are folded and judged by the code that serves: the same totals, the same check. They differ in
their governing state alone, and in nothing when the documents simulated are those in force.
"""

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import UTC, date, datetime, timedelta
from typing import Final, NamedTuple

from tokenomics_contracts.events.policy import PolicyDocument
from tokenomics_contracts.units import AccountId, MicroUsd, PeriodId
from tokenomics_quota.domain.accounts import parse_account_id
from tokenomics_quota.domain.checks import Call
from tokenomics_quota.domain.friction import Decision
from tokenomics_quota.domain.interventions import Bypass
from tokenomics_quota.domain.privacy import Cell, are_enough, told_apart
from tokenomics_quota.domain.simulations import Changes, DecisionCount, SimulationResult
from tokenomics_quota.domain.spikes import DayUse, SpikeRule, Usual, usual
from tokenomics_quota.domain.standing import Standing
from tokenomics_quota.projections.balances import QuotaView
from tokenomics_quota.projections.facts import Derived, Fact, Received, line_of
from tokenomics_quota.projections.governance import Governance
from tokenomics_quota.projections.usage import derive, winning_correction
from tokenomics_quota.usecases.checking import Terms, check

_DAY: Final = timedelta(days=1)
_INTERRUPTS: Final = Decision.JUSTIFICATION_REQUIRED


class Simulating:
    """Folds facts in the order of their time, judging those of the range.

    Parameters
    ----------
    governance
        What governs really, as of every instant.
    documents
        Take the place, from ``since`` on, of those of their kinds.
    bypasses
        All that were in force at some time of the range.
    """

    def __init__(
        self,
        governance: Governance,
        documents: Mapping[str, PolicyDocument],
        since: datetime,
        bypasses: Sequence[Bypass] = (),
    ) -> None:
        self._since = since
        supposed = governance.supposing(documents, since)
        self._derives_anew = (
            "price_book" in documents or supposed.calendars.steps() != governance.calendars.steps()
        )
        self._actual, self._simulated = _Course(governance, bypasses), _Course(supposed, bypasses)
        self._tally = _Tally(governance)

    @property
    def begins(self) -> datetime:
        """From which time on facts are needed: what was used of the first period, and on days, counts.

        Facts from before it may be folded, too, and change nothing.
        """
        since = self._since
        courses = self._actual, self._simulated
        first = min(course.governance.calendars.at(since).period_of(since) for course in courses)
        starts = [course.governance.calendars.at(since).bounds(first)[0] for course in courses]
        windows = (course.longest_window(since) for course in courses)
        # A day more, for periods and days that turn in another zone.
        return min(*starts, since - max(windows)) - _DAY

    def add(self, fact: Fact, corrections: Mapping[bytes, Received]) -> None:
        """Fold a fact that counts: judge the call first, if it is of the range, then post what it cost.

        Parameters
        ----------
        corrections
            Of the fact, by their identity.
        """
        received, actual = fact
        assert actual is not None
        at = received.occurred_at
        if at < self._since:
            self._actual.post(received, actual)
            self._simulated.post(received, actual)
            return
        correction = winning_correction(received, corrections.values()) if corrections else None
        simulated = actual
        if self._derives_anew:
            simulated = derive(received, correction, self._simulated.governance)
        if received.event_kind == "recorded":
            call = _call(received, correction)
            before, standing = self._actual.decide(call, actual, at)
            after, _ = self._simulated.decide(call, simulated, at)
            self._tally.count(_Judged(received, actual, simulated, standing, before, after))
        self._tally.post(actual.cost_micro_usd, simulated.cost_micro_usd)
        self._actual.post(received, actual)
        self._simulated.post(received, simulated)

    def result(self) -> SimulationResult:
        """Return what the facts folded so far have come to."""
        return self._tally.result()


def _call(received: Received, correction: Received | None) -> Call:
    """Return the call as a check is asked about it: no fact tells the class of its data, nor a use case."""
    return Call(
        received.subject,
        received.provider or "",
        received.model or "",
        (correction or received).quantities,
        received.project_id,
        "experiment" if received.purpose == "experiment" else "operational",
    )


class _Judged(NamedTuple):
    """A call and what it was answered in both courses."""

    received: Received
    actual: Derived
    simulated: Derived
    standing: Standing
    before: Decision
    after: Decision


class _Course:
    """A course of events: what was used, and what checks answer, under one governing state."""

    def __init__(self, governance: Governance, bypasses: Sequence[Bypass]) -> None:
        self.governance = governance
        self._view = QuotaView(governance)
        self._view.put_interventions({}, bypasses)
        self._terms: Terms | None = None
        self._period = PeriodId("")
        self._keeps_days = any(policy.spikes for _, policy in governance.quota_policies.steps())
        self._days = defaultdict[str, dict[date, MicroUsd]](dict)
        self._usual: dict[str, tuple[date, SpikeRule, Usual | None]] = {}

    def longest_window(self, since: datetime) -> timedelta:
        """Return how long before a day of the range use may matter to what is usual on it."""
        policies = self.governance.quota_policies
        in_force = [policies.at(since), *(policy for start, policy in policies.steps() if start > since)]
        return max((each.spikes.window for each in in_force if each.spikes), default=timedelta(0))

    def decide(self, call: Call, derived: Derived, at: datetime) -> tuple[Decision, Standing]:
        """Return what a check answers that sees all usage before the call, and nothing held."""
        if self._terms is None or at >= self._terms.until:
            self._terms = Terms.at(self.governance, at)
        rule = self._terms.quota_policy.spikes
        if self._keeps_days and derived.subject_id is not None:
            uses = {} if rule is None else self._used(derived.subject_id, at.astimezone(UTC).date(), rule)
            self._view.put_day_uses((derived.subject_id,), uses)
        touched = self._view.touched_by(call.subject, call.project_id, at, call.purpose)
        return check(self._terms, touched, call, at).decision, touched.standing

    def _used(self, subject: str, today: date, rule: SpikeRule) -> dict[str, DayUse]:
        days = self._days[subject]
        used = days.get(today, MicroUsd(0))
        if used < rule.watched_from_micro_usd:
            return {}
        known = self._usual.get(subject)
        if known is None or known[:2] != (today, rule):
            known = self._usual[subject] = (today, rule, usual(days, today, rule))
        return {} if known[2] is None else {subject: DayUse(today, used, known[2])}

    def post(self, received: Received, derived: Derived) -> None:
        """Add what a fact costs to its accounts, and to its subject's day."""
        cost = derived.cost_micro_usd
        totals = dict[AccountId, MicroUsd]()
        for account_id in line_of(received, derived).accounts():
            totals[account_id] = MicroUsd(self._view.posted(parse_account_id(account_id)) + cost)
        self._view.put_totals(totals)
        if derived.period > self._period:
            # The one before stays: a policy may set a calendar back by hours.
            self._period = derived.period
            calendar = self.governance.calendars.at(received.occurred_at)
            self._view.drop_before(calendar.before(derived.period))
        if self._keeps_days and derived.subject_id is not None:
            days, today = self._days[derived.subject_id], received.occurred_at.astimezone(UTC).date()
            if today not in days:
                self._forget_days(days, received.occurred_at, today)
            days[today] = MicroUsd(days.get(today, 0) + cost)

    def _forget_days(self, days: dict[date, MicroUsd], at: datetime, today: date) -> None:
        earliest = today - self.longest_window(at)
        for day in [each for each in days if each < earliest]:
            del days[day]


class _Group:
    """Calls of some people."""

    def __init__(self) -> None:
        self.people = set[str]()
        self.counts = [0, 0, 0, 0, 0]
        """Calls, and of them: stricter, milder, newly interrupted, no longer."""

    def take_in(self, other: "_Group") -> None:
        self.people |= other.people
        self.counts = [sum(each) for each in zip(self.counts, other.counts, strict=True)]

    def changes(self, name: str) -> Changes:
        return Changes(name, len(self.people), *self.counts)


class _Tally:
    """Adds up how decisions compare."""

    def __init__(self, governance: Governance) -> None:
        self._directory = governance.directory
        self._decisions = {each: [0, 0, 0, 0] for each in Decision}
        self._posted = [0, 0]
        self._all = _Group()
        self._cells = defaultdict[Cell, _Group](_Group)
        """By team and role."""
        self._changed, self._interrupted, self._simulated_interrupted = set[str](), set[str](), set[str]()
        self._newly_denied = 0

    def count(self, judged: _Judged) -> None:
        """Count a call."""
        received, derived, simulated, standing, before, after = judged
        subject, at = derived.subject_id or received.subject, received.occurred_at
        of_before, of_after = self._decisions[before], self._decisions[after]
        of_before[0] += 1
        of_after[1] += 1
        of_before[2] += derived.cost_micro_usd
        of_after[3] += simulated.cost_micro_usd
        held_before, held_after = before >= _INTERRUPTS, after >= _INTERRUPTS
        compared = (
            1,
            after > before,
            after < before,
            held_after and not held_before,
            held_before and not held_after,
        )
        member = self._directory.member(derived.subject_id).at(at) if derived.subject_id else None
        is_person = member is None or member.value.is_person
        for group in self._all, self._cells[derived.team_id or "", standing.role or ""]:
            group.counts = [sum(each) for each in zip(group.counts, compared, strict=True)]
            if is_person:
                group.people.add(subject)
        if after is not before:
            self._changed.add(subject)
        if held_before:
            self._interrupted.add(subject)
        if held_after:
            self._simulated_interrupted.add(subject)
        if after is Decision.DENIED and before is not Decision.DENIED:
            self._newly_denied += derived.cost_micro_usd

    def post(self, actual_micro_usd: MicroUsd, simulated_micro_usd: MicroUsd) -> None:
        """Add what a fact costs."""
        self._posted[0] += actual_micro_usd
        self._posted[1] += simulated_micro_usd

    def result(self) -> SimulationResult:
        """Return the sums, those of groups as far as they tell of nobody."""
        teams, roles = told_apart({cell: group.people for cell, group in self._cells.items()})
        return SimulationResult(
            [
                DecisionCount(each, actual, simulated, MicroUsd(cost), MicroUsd(simulated_cost))
                for each, (actual, simulated, cost, simulated_cost) in self._decisions.items()
            ],
            MicroUsd(self._posted[0]),
            MicroUsd(self._posted[1]),
            self._all.changes(""),
            len(self._changed),
            len(self._interrupted),
            len(self._simulated_interrupted),
            MicroUsd(self._newly_denied),
            _rolled_up(((team, group) for (team, _), group in self._cells.items()), teams),
            _rolled_up(((role, group) for (_, role), group in self._cells.items()), roles),
        )


def _rolled_up(cells: Iterable[tuple[str, _Group]], named: Collection[str]) -> Collection[Changes]:
    """Return cells' sums by the names that may be told, those with most changes first, then the rest's."""
    told, rest = defaultdict[str, _Group](_Group), _Group()
    for name, group in cells:
        (told[name] if name in named else rest).take_in(group)
    changes = [group.changes(name) for name, group in told.items()]
    changes.sort(key=lambda each: (-each.stricter - each.milder, each.name))
    if rest.counts[0] and (are_enough(rest.people) or not rest.people):
        changes.append(rest.changes(""))
    return changes
