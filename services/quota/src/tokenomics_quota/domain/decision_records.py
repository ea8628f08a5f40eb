"""What decisions leave behind: a record each, or, where they are too many, sums of those that are alike."""

from collections.abc import Hashable
from datetime import UTC, datetime, timedelta
from itertools import islice
from operator import itemgetter
from typing import Final, NamedTuple

from tokenomics_contracts.units import MicroUsd
from tokenomics_quota.domain.checks import Decided

_MINUTE: Final = timedelta(minutes=1)
_CODE: Final = itemgetter(0)


class DecisionRecord(NamedTuple):
    """One decision, or the sum of several that are alike."""

    decision_id: str
    """Of a sum: the ids of its decisions are this one, a dot, and a number from 1 on."""
    decided: Decided
    """The last of them."""
    decisions: int
    """How many they are."""
    estimated_cost_micro_usd: MicroUsd
    """Of all of them together."""
    first_decided_at: datetime
    traceparent: str | None = None
    """Trace of the call that asked, so that the record joins it; a sum joins none."""


class _Sum:
    __slots__ = ("cost_micro_usd", "count", "first_decided_at", "last", "sum_id")

    def __init__(self, sum_id: str, decided: Decided) -> None:
        self.sum_id = sum_id
        self.count = 1
        self.cost_micro_usd = decided.answer.estimate.cost_micro_usd
        self.first_decided_at = decided.decided_at
        self.last = decided


class DecisionSums:
    """Decisions summed where they are alike: same subject and caller, same answer to the same kind of call.

    A sum is of one minute of the clock; a decision added to it costs one look-up.
    """

    def __init__(self) -> None:
        self._sums: dict[Hashable, _Sum] = {}
        """In the order in which they were begun."""
        self._minute_begins = self._minute_ends = datetime.min.replace(tzinfo=UTC)

    def __len__(self) -> int:
        return len(self._sums)

    def add(self, decided: Decided) -> str | None:
        """Add a decision to those that it is like, and return its id; ``None``: there are none."""
        alike = self._sums.get(self._likeness(decided))
        if alike is None:
            return None
        alike.count += 1
        alike.cost_micro_usd += decided.answer.estimate.cost_micro_usd  # type: ignore[assignment] # still money
        alike.last = decided
        return f"{alike.sum_id}.{alike.count}"

    def begin(self, decided: Decided, sum_id: str) -> str:
        """Begin a sum with a decision that is like none, and return the decision's id."""
        self._sums[self._likeness(decided)] = _Sum(sum_id, decided)
        return f"{sum_id}.1"

    def take(self, most: int) -> list[DecisionRecord]:
        """Take out so many sums, those begun first; what is like them later begins another."""
        taken = list(islice(self._sums.items(), most))
        for likeness, _ in taken:
            del self._sums[likeness]
        return [
            DecisionRecord(each.sum_id, each.last, each.count, each.cost_micro_usd, each.first_decided_at)
            for _, each in taken
        ]

    def _likeness(self, decided: Decided) -> Hashable:
        call, caller, answer, _, stale, decided_at = decided
        if not self._minute_begins <= decided_at < self._minute_ends:
            self._minute_begins = decided_at.replace(second=0, microsecond=0)
            self._minute_ends = self._minute_begins + _MINUTE
        shadow = answer.shadow
        return (
            call.subject,
            caller,
            answer.decision,
            tuple(map(_CODE, answer.reasons)),
            None if shadow is None else (shadow.decision, *map(_CODE, shadow.reasons)),
            answer.cohort,
            call.provider,
            call.model,
            call.project_id,
            call.purpose,
            call.data_class,
            call.use_case_id,
            answer.quota_policy_version,
            answer.price_book_version,
            stale,
            self._minute_begins,
        )
