"""Answering from a view that is older than policy allows: open with a cap, or closed, never silently."""

from datetime import timedelta

from tokenomics_chassis.metrics import DEGRADED_CALLS
from tokenomics_chassis.rpc.errors import UnavailableError
from tokenomics_contracts.units import AccountId, MicroUsd
from tokenomics_quota.domain.checks import Answer
from tokenomics_quota.domain.degradation import Degrade, Degraded, least_left
from tokenomics_quota.domain.friction import Decision
from tokenomics_quota.usecases.seeing import Sight

_RETRY_AFTER_MS = 2_000


class StaleViewError(UnavailableError):
    """The view is too old, and policy lets nothing through until it is level with the log again."""

    reason = "VIEW_STALE"

    def __init__(self, lag: timedelta | None) -> None:
        behind = (
            "never level with the log yet" if lag is None else f"{lag.total_seconds():.0f} s behind the log"
        )
        message = f"the view is {behind}, and the quota policy closes checks then"
        super().__init__(message, retry_after_ms=_RETRY_AFTER_MS)


class StaleCapReachedError(UnavailableError):
    """The view is too old, and this server has let through as much as policy allows it to meanwhile."""

    reason = "STALE_CAP_REACHED"

    def __init__(self, account_id: AccountId, cap_micro_usd: MicroUsd) -> None:
        super().__init__(
            f"the view is stale, and the call would exceed what the quota policy lets through on {account_id}"
            f" meanwhile: {cap_micro_usd} micro-USD a server",
            retry_after_ms=_RETRY_AFTER_MS,
            metadata={"account_id": account_id},
        )


class StaleTab:
    """Adds up, by account, the estimates of what one server lets through while its view is stale.

    A new one begins when the view becomes stale again.
    """

    def __init__(self) -> None:
        self._let_through: dict[AccountId, MicroUsd] = {}

    def admit(self, answer: Answer, degrade: Degrade, lag: timedelta | None, sees: Sight) -> Degraded:
        """Let an answer go out, or not; what lets its call go on is added up.

        An answer that holds its call back goes out: what would unblock the call travels on the log that the
        view is behind of.

        Raises
        ------
        StaleViewError
            Policy lets nothing through.
        StaleCapReachedError
            The call would exceed the cap on one of its accounts.
        """
        cap = degrade.cap_micro_usd
        if cap is None:
            DEGRADED_CALLS.add(1, {"outcome": "closed"})
            raise StaleViewError(lag)
        if answer.decision <= Decision.ALLOW_WITH_NUDGE:
            self._add(answer, cap)
        DEGRADED_CALLS.add(1, {"outcome": "open"})
        seen = [each.account.account_id for each in answer.balances if sees(each.account)]
        return Degraded(cap, least_left(self._let_through, seen, cap)[0] if seen else MicroUsd(0))

    def _add(self, answer: Answer, cap: MicroUsd) -> None:
        cost = answer.estimate.cost_micro_usd
        accounts = [balance.account.account_id for balance in answer.balances]
        left, account_id = least_left(self._let_through, accounts, cap)
        if cost > left:
            DEGRADED_CALLS.add(1, {"outcome": "capped"})
            raise StaleCapReachedError(account_id, cap)
        for account in accounts:
            self._let_through[account] = MicroUsd(self._let_through.get(account, MicroUsd(0)) + cost)
