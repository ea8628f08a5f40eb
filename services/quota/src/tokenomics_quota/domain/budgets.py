"""A shared budget, as its owner sees it."""

from typing import NamedTuple

from tokenomics_contracts.units import MicroUsd, SubjectId
from tokenomics_quota.domain.balance import Balance
from tokenomics_quota.domain.forecast import Forecast


class Budget(NamedTuple):
    """A shared budget at an instant."""

    balance: Balance
    buffer_micro_usd: MicroUsd
    """What policy keeps back beyond the limit."""
    experiment_micro_usd: MicroUsd
    """The part of what is posted that went into experiments."""
    owners: tuple[SubjectId, ...]
    forecast: Forecast | None
    """``None``: too little is known."""

    def changed_since(self, before: "Budget | None") -> bool:
        """Whether something happened to it; a forecast moves with time alone."""
        return before is None or self._replace(forecast=None) != before._replace(forecast=None)
