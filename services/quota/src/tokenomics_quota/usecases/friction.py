"""Friction: whom rules interrupt, and the rules that interrupt too many."""

from collections.abc import Collection, Iterator
from datetime import UTC, date, datetime, timedelta
from typing import Final

from tokenomics_contracts.events.quota import FrictionExceeded
from tokenomics_quota.domain.findings import Rule
from tokenomics_quota.domain.friction_budgets import (
    HOUR,
    WEEK,
    Friction,
    FrictionBudgets,
    Interruption,
    exceeded,
    hour_of,
    week_of,
)
from tokenomics_quota.domain.policies import QuotaPolicy
from tokenomics_quota.ports import Announcements
from tokenomics_quota.projections.governance import Governance

_LOOK_EVERY: Final = timedelta(seconds=5)
_NEVER: Final = datetime.min.replace(tzinfo=UTC)


class FrictionCounts:
    """Counts the calls that one server judges, by checks and holds, until somebody takes the counts.

    What a rule asks of a subject counts once an hour: who asks again isn't interrupted again, and can't wear
    a rule out, nor make it look harmless. A check that passed and the subject's next hold of that hour are
    one call: who checks before holding would otherwise count twice for the rule.
    """

    def __init__(self) -> None:
        self._passed = 0
        self._hour_begins = self._hour_ends = _NEVER
        self._unheld: dict[str, int] = {}
        """Checks of the hour that passed and that no hold has followed, by subject."""
        self._of_hour: set[Interruption] = set()
        self._untaken: set[Interruption] = set()

    def check(
        self, interrupting: Collection[Rule], subject: str, budgets: FrictionBudgets, now: datetime
    ) -> None:
        """Count a check of a subject that these rules held back."""
        if not self._was_interrupted(interrupting, subject, budgets, now):
            self._passed += 1
            self._unheld[subject] = self._unheld.get(subject, 0) + 1

    def hold(
        self, interrupting: Collection[Rule], subject: str, budgets: FrictionBudgets, now: datetime
    ) -> None:
        """Count a hold or a stretch of a lease, placed or not, of a subject that these rules held back."""
        if self._was_interrupted(interrupting, subject, budgets, now):
            return
        if unheld := self._unheld.get(subject):
            self._unheld[subject] = unheld - 1
        else:
            self._passed += 1

    def _was_interrupted(
        self, interrupting: Collection[Rule], subject: str, budgets: FrictionBudgets, now: datetime
    ) -> bool:
        """Whether any rule held a call back; count those that have a budget, in the hour of the call."""
        if not self._hour_begins <= now < self._hour_ends:
            self._begin_hour(now)
        if not interrupting:
            return False
        found = {Interruption(self._hour_begins, rule, subject) for rule in interrupting if rule in budgets}
        self._untaken |= found - self._of_hour
        self._of_hour |= found
        return True

    def _begin_hour(self, now: datetime) -> None:
        self._hour_begins = hour_of(now)
        self._hour_ends = self._hour_begins + HOUR
        self._unheld.clear()
        self._of_hour.clear()

    def take(self) -> tuple[int, set[Interruption]]:
        """Return the calls that passed and the interruptions since the last time, and begin anew."""
        taken = self._passed, self._untaken
        self._passed, self._untaken = 0, set()
        return taken


class FrictionJudge:
    """Judges, every few seconds, which rules have exceeded their budget of the week."""

    def __init__(self) -> None:
        self._looked_at = self._look_at = _NEVER
        self._forgotten_before: date | None = None

    async def judge(self, governance: Governance, announcements: Announcements, now: datetime) -> int:
        """Tell of rules that have exceeded their budget, once a rule, week and size of the budget.

        Weeks before the last are forgotten.
        """
        if self._looked_at <= now < self._look_at:
            return 0
        self._looked_at, self._look_at = now, now + _LOOK_EVERY
        week, policy = week_of(now), governance.quota_policies.at(now)
        if self._forgotten_before != week - WEEK:
            self._forgotten_before = week - WEEK
            await announcements.forget_friction(before=self._forgotten_before)
        if not policy.friction:
            return 0
        found = await announcements.friction(week)
        return await announcements.announce(_exceeded(policy, week, found), now)


def _exceeded(policy: QuotaPolicy, week: date, found: Friction) -> Iterator[FrictionExceeded]:
    for budget, checks, interrupted in exceeded(policy.friction, found):
        yield FrictionExceeded(
            rule=budget.name,
            week=week.isoformat(),
            checks=checks,
            interrupted=interrupted,
            most_basis_points=budget.most,
            owner_id=budget.owner_id,
            policy_version=policy.version,
        )
