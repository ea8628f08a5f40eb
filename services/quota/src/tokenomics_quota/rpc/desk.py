"""Where commands on holds are given to the ledger, and what is told about them is kept in mind."""

from collections.abc import Iterable
from contextvars import copy_context
from typing import Any, Final

import grpc

from tokenomics_chassis.rpc.identity import current_identity
from tokenomics_chassis.telemetry import current_traceparent
from tokenomics_contracts.units import PeriodId
from tokenomics_quota.domain.accounts import Account, AccountKind, Purpose
from tokenomics_quota.domain.balance import Touched
from tokenomics_quota.domain.checks import Answer, Call, decided
from tokenomics_quota.domain.friction import Decision
from tokenomics_quota.domain.holds import Moment
from tokenomics_quota.ports import DecisionLog, Reserved
from tokenomics_quota.rpc.consistency import seconds_left
from tokenomics_quota.rpc.convert import check_bound
from tokenomics_quota.rpc.held import told_beside
from tokenomics_quota.rpc.looks import Looks
from tokenomics_quota.rpc.views import Views, authorize, sight
from tokenomics_quota.usecases.freshening import give_up_at
from tokenomics_quota.usecases.friction import FrictionCounts
from tokenomics_quota.usecases.holding import Command, Done, Tell, Told
from tokenomics_quota.usecases.seeing import Sight, everything
from tokenomics_quota.usecases.turns import Turns

Context = grpc.aio.ServicerContext[Any, Any]

_NO_RECORD: Final = Reserved("", lambda: None)


class LedgerDesk:
    """Takes commands of calls to the ledger.

    Parameters
    ----------
    longest_wait_seconds
        How long a call without a deadline waits for its turn.
    """

    def __init__(
        self,
        views: Views,
        turns: Turns,
        decisions: DecisionLog,
        looks: Looks,
        *,
        friction: FrictionCounts,
        longest_wait_seconds: float,
    ) -> None:
        self._views = views
        self._turns = turns
        self._decisions = decisions
        self._looks = looks
        self._friction = friction
        self._longest_wait_seconds = longest_wait_seconds

    async def perform(self, command: Command, context: Context) -> Done:
        """Perform a command within the time of a call; see :meth:`Turns.perform`."""
        left = seconds_left(context, self._longest_wait_seconds)
        return await self._turns.perform(command, give_up_at(left), current_traceparent())

    async def look_at(self, subjects: Iterable[str], method: str) -> None:
        """Record that who asks is about to be shown holds of these subjects, where that is a look."""
        if current_identity().on_behalf_of is None:
            return
        view, now = self._views.at_hand()
        directory = view.governance.directory
        carriers = (directory.attribution(subject).at(now).subject_id for subject in subjects)
        await self._looks.record(
            sight(view, now), [account_of(carrier) for carrier in carriers if carrier], method
        )

    def sees(self) -> Sight:
        """Return what the call may be shown."""
        view, now = self._views.at_hand()
        return sight(view, now)

    def telling(self, prefix: str, sees: Sight, *, named: bool = False) -> Tell:
        """Return what tells the call, whenever and by whom its turn is taken.

        Parameters
        ----------
        prefix
            The field of the request that has the call to be judged.
        named
            Whether no hold names the accounts.
        """
        view, now = self._views.at_hand()
        caller, next_offsets, calling = current_identity().caller, view.next_offsets, copy_context()

        def tell(call: Call, answer: Answer, touched: Touched, moment: Moment) -> Told:
            if sees is not everything:
                authorize(sees, touched.balances[0].account)
            fields = (f"{prefix}.estimated_input_tokens", f"{prefix}.estimated_output_tokens")
            check_bound(answer.estimate.cost_micro_usd, *fields)
            record = _NO_RECORD
            if answer.decision is not Decision.ALLOW or answer.shadow is not None:
                kept = (call, caller, answer, next_offsets, False, moment.now)
                record = self._decisions.reserve(decided(kept))
            no_hold = named or answer.decision is Decision.DENIED

            def afterwards() -> None:
                record.keep()
                if budgets := view.governance.quota_policies.at(now).friction:
                    self._friction.hold(
                        answer.interrupting, touched.balances[0].account.owner_id, budgets, now
                    )

            return Told(told_beside(answer, touched, record.decision_id, sees, named=no_hold), afterwards)

        return lambda *said: calling.run(tell, *said)


def account_of(subject: str) -> Account:
    """Return the account by which it is judged who may see a subject's holds."""
    return Account(AccountKind.SUBJECT, subject, Purpose.ALL, PeriodId(""))
