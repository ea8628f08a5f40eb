"""What is posted in one period."""

from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from typing import Final

from tokenomics_contracts.units import AccountId, MicroUsd, PeriodId
from tokenomics_quota.domain.accounts import Purpose

_NOBODY: Final[Mapping[str, MicroUsd]] = {}
_NOTHING: Final = MicroUsd(0)


class PeriodTotals:
    """Posted totals of a period by kind, owner and purpose."""

    __slots__ = ("_counted", "_experiment", "_operational", "_ordered", "_period")

    def __init__(self, period: PeriodId) -> None:
        self._period = period
        self._operational: dict[str, dict[str, MicroUsd]] = {}
        """Has every account that a cost touched, for whatever purpose."""
        self._experiment: dict[str, dict[str, MicroUsd]] = {}
        self._ordered: Sequence[AccountId] = ()
        self._counted: Mapping[str, int] = {}
        """How many owners of each kind stand in ``_ordered``."""

    def put(self, kind: str, owner_id: str, purpose: str, total: MicroUsd) -> None:
        """Replace what is posted for one purpose, ``operational`` or ``experiment``."""
        operational = self._operational.setdefault(kind, {})
        if purpose == Purpose.EXPERIMENT:
            operational.setdefault(owner_id, _NOTHING)
            self._experiment.setdefault(kind, {})[owner_id] = total
        else:
            operational[owner_id] = total

    def posted(self, kind: str, owner_id: str, purpose: Purpose) -> MicroUsd:
        """Return what is posted for a purpose."""
        operational = self._operational.get(kind, _NOBODY).get(owner_id, _NOTHING)
        if purpose is Purpose.OPERATIONAL:
            return operational
        experiment = self._experiment.get(kind, _NOBODY).get(owner_id, _NOTHING)
        if purpose is Purpose.EXPERIMENT:
            return experiment
        return MicroUsd(operational + experiment) if experiment else operational

    def is_touched(self, kind: str, owner_id: str) -> bool:
        """Whether a cost touched an account, for whatever purpose."""
        return owner_id in self._operational.get(kind, _NOBODY)

    def owners(self, kind: str) -> Iterable[str]:
        """Return the owners of a kind whose accounts a cost touched."""
        return self._operational.get(kind, ())

    def touched(self) -> Sequence[AccountId]:
        """Return the accounts that a cost touched, for purpose ``all``, by id."""
        counts = {kind: len(owners) for kind, owners in self._operational.items()}
        if counts != self._counted:
            # Owners keep the order they came in: those added are the last, and sorting what is nearly sorted
            # is cheap.
            added = (
                AccountId(f"{kind}/{owner_id}/{Purpose.ALL}/{self._period}")
                for kind, owners in self._operational.items()
                for owner_id in islice(owners, self._counted.get(kind, 0), None)
            )
            self._ordered, self._counted = sorted([*self._ordered, *added]), counts
        return self._ordered
