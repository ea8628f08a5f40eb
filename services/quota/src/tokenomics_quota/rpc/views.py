"""The view that answers, and what of it may be shown to who asks."""

from datetime import datetime

from tokenomics_chassis.clock import Clock
from tokenomics_chassis.rpc.errors import PermissionDeniedError, UnavailableError
from tokenomics_chassis.rpc.identity import current_identity
from tokenomics_chassis.serving import Serving
from tokenomics_quota.domain.accounts import Account
from tokenomics_quota.projections.balances import QuotaView
from tokenomics_quota.usecases.seeing import PersonSight, Sight, everything


class Views:
    """The view that answers, as every part of the service asks for it.

    Parameters
    ----------
    serving
        Has the view that answers. Another may take its place at any time: it is asked for anew after a wait.
    """

    def __init__(self, serving: Serving[QuotaView], clock: Clock) -> None:
        self._serving = serving
        self._clock = clock

    def at_hand(self) -> tuple[QuotaView, datetime]:
        """Return the view that answers now, and the time.

        Raises
        ------
        UnavailableError
            None is loaded yet.
        """
        view = self._serving.current
        if view is None:
            raise UnavailableError("the view is being loaded")
        return view, self._clock.now()


def sight(view: QuotaView, now: datetime) -> Sight:
    """Return which accounts' balances may be shown to who asks; everything to a workload for itself."""
    person = current_identity().on_behalf_of
    return everything if person is None else PersonSight(view.governance, person, now)


def authorize(sees: Sight, *accounts: Account) -> None:
    """Refuse who may not see all of these accounts.

    Raises
    ------
    PermissionDeniedError
        One of them is not for this person.
    """
    if not all(map(sees, accounts)):
        raise PermissionDeniedError("this person neither owns the account nor decides about it")


def require_governance(view: QuotaView, now: datetime) -> None:
    """Refuse people without the privilege `governance`; workloads are let through by the table of callers.

    Raises
    ------
    PermissionDeniedError
        The call is made for somebody else.
    """
    _require(view, now, "governance", "only governance may do this")


def require_operators(view: QuotaView, now: datetime) -> None:
    """Refuse people without the privilege `operator`, as :func:`require_governance` does."""
    _require(view, now, "operator", "only operators may do this")


def _require(view: QuotaView, now: datetime, privilege: str, message: str) -> None:
    person = current_identity().on_behalf_of
    if person is not None and not view.governance.directory.has_privilege(person, now, privilege):
        raise PermissionDeniedError(message)


def governs(view: QuotaView, person: str, now: datetime) -> bool:
    """Whether a person has the privilege `governance`."""
    return view.governance.directory.has_privilege(person, now, "governance")
