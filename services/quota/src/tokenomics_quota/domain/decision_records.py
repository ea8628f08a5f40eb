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
    """Of a sum: the ids of its decisions are this one, a dot, and a number from 1 on. Some may have gone to
    decisions that didn't hold, or have a record of their own."""
    decided: Decided
    """The last of them."""
    decisions: int
    """How many they are."""
    estimated_cost_micro_usd: MicroUsd
    """Of all of them together."""
    first_decided_at: datetime
    traceparent: str | None = None
    """Trace of the call that asked, so that the record joins it; a sum joins none."""


class Sum:
    """Decisions that are alike, of one minute of the clock."""

    __slots__ = ("_cost_micro_usd", "_count", "_first_decided_at", "_given", "_last", "is_taken", "sum_id")

    def __init__(self, sum_id: str) -> None:
        self.sum_id = sum_id
        self.is_taken = False
        """Whether it is told already, so that nothing can be added to it."""
        self._given = 0
        self._count = 0
        self._cost_micro_usd = MicroUsd(0)
        self._first_decided_at: datetime | None = None
        self._last: Decided | None = None

    def next_id(self) -> str:
        """Give the next of its ids."""
        self._given += 1
        return f"{self.sum_id}.{self._given}"

    def add(self, decided: Decided) -> None:
        """Add a decision that has one of its ids."""
        self._count += 1
        self._cost_micro_usd += decided.answer.estimate.cost_micro_usd  # type: ignore[assignment] # still money
        self._last = decided
        if self._first_decided_at is None:
            self._first_decided_at = decided.decided_at

    def take(self) -> DecisionRecord | None:
        """Return its record, and let nothing more be added; ``None``: nothing was."""
        self.is_taken = True
        if self._last is None or self._first_decided_at is None:
            return None
        return DecisionRecord(
            self.sum_id, self._last, self._count, self._cost_micro_usd, self._first_decided_at
        )


class DecisionSums:
    """Decisions summed where they are alike: same subject and caller, same answer to the same kind of call.

    A decision that joins others costs one look-up.
    """

    def __init__(self) -> None:
        self._sums: dict[Hashable, Sum] = {}
        """In the order in which they were begun."""
        self._minute_begins = self._minute_ends = datetime.min.replace(tzinfo=UTC)

    def __len__(self) -> int:
        return len(self._sums)

    def of(self, decided: Decided) -> Sum | None:
        """Return the sum of what a decision is like; ``None``: there is none."""
        return self._sums.get(self._likeness(decided))

    def begin(self, decided: Decided, sum_id: str) -> Sum:
        """Begin the sum of what is like a decision, which isn't added yet."""
        begun = self._sums[self._likeness(decided)] = Sum(sum_id)
        return begun

    def take(self, most: int) -> list[DecisionRecord]:
        """Take out so many sums, those begun first; what is like them later begins another."""
        taken = list(islice(self._sums.items(), most))
        for likeness, _ in taken:
            del self._sums[likeness]
        return [record for _, each in taken if (record := each.take()) is not None]

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
