"""Seeing: who is shown which accounts, by which right, and who decides about them."""

from collections.abc import Callable, Iterable
from datetime import datetime

from tokenomics_contracts.units import SubjectId
from tokenomics_quota.domain.accounts import Account, AccountKind
from tokenomics_quota.domain.looks import Basis, Look
from tokenomics_quota.domain.privacy import FEWEST_PEOPLE
from tokenomics_quota.projections.governance import Governance

Sight = Callable[[Account], bool]
"""Whether an account's numbers may be shown to who asks."""


def everything(_account: Account) -> bool:
    """Show all: what a workload that asks for itself sees. No person is looking."""
    return True


class PersonSight:
    """Which accounts may be shown to a person, and by which right.

    One's own account; an account to who decides about it; the shared accounts that one's calls are counted
    on, where enough people's are; all to governance. So nobody but the person and who decides sees a person's
    account, nor a total that would tell it.
    """

    __slots__ = ("_governance", "_is_governance", "_now", "_own", "_shared", "person")

    def __init__(self, governance: Governance, person: str, now: datetime) -> None:
        self._governance = governance
        self._now = now
        self.person = person
        self._own: str | None = None
        self._is_governance = False
        self._shared: set[tuple[AccountKind, str | None]] = set()
        viewer = governance.directory.member(person).at(now)
        if viewer is None or viewer.value.left:
            return
        self._is_governance = governance.directory.has_privilege(person, now, "governance")
        self._own, team_id, cost_centre_id = governance.attribution(person).at(now)
        self._shared = {
            (AccountKind.TEAM, team_id),
            (AccountKind.COST_CENTRE, cost_centre_id),
            *((AccountKind.PROJECT, project_id) for project_id in viewer.value.project_ids),
        }

    def __call__(self, account: Account) -> bool:
        """Whether the person may see the account's numbers."""
        return self.basis(account) is not None

    def basis(self, account: Account) -> Basis | None:
        """Return the right by which the person sees an account; ``None``: not at all."""
        if self._own is None:  # unknown, or left
            return None
        kind, owner_id = account.kind, account.owner_id
        if kind is AccountKind.SUBJECT and owner_id == self._own:
            return Basis.OWN
        if self.person in deciders(self._governance, account, self._now):
            return Basis.MANAGER if kind is AccountKind.SUBJECT else Basis.OWNER
        if (kind, owner_id) in self._shared and self.is_of_enough(account):
            return Basis.MEMBER
        return Basis.GOVERNANCE if self._is_governance else None

    def may_list(self, account: Account) -> bool:
        """Whether a list that doesn't name it may show an account; few people's, governance has to name."""
        basis = self.basis(account)
        if basis is Basis.GOVERNANCE:
            return account.kind is AccountKind.UNATTRIBUTED or self.is_of_enough(account)
        return basis is not None

    def looks(self, accounts: Iterable[Account], caller: str, method: str) -> list[Look]:
        """Return what showing these accounts is: looks, at those of another person or service."""
        looks = []
        for account in accounts:
            if account.kind is AccountKind.SUBJECT:
                basis = self.basis(account)
                if basis is not None and basis is not Basis.OWN:
                    subject = SubjectId(account.owner_id)
                    looks.append(Look(SubjectId(self.person), caller, subject, method, basis))
        return looks

    def is_of_enough(self, account: Account) -> bool:
        """Whether enough people's usage is counted on an account for its total to tell of none of them."""
        directory = self._governance.directory
        return account.kind is not AccountKind.SUBJECT and directory.has_people(
            account.kind.value, account.owner_id, self._now, FEWEST_PEOPLE
        )


def deciders(governance: Governance, account: Account, now: datetime) -> tuple[SubjectId, ...]:
    """Return who decides about an account: whose office it is, then those to whom that one delegated it.

    A person's manager, a service's responsible, a unit's owner. Nobody decides about their own account.
    """
    directory = governance.directory
    if account.kind is AccountKind.SUBJECT:
        member = directory.member(account.owner_id).at(now)
        responsible = member.value.responsible_id if member else None
    else:
        unit = directory.unit(account.kind.value, account.owner_id).at(now)
        responsible = unit.value.owner_id if unit else None
    if responsible is None:
        return ()
    own = account.owner_id if account.kind is AccountKind.SUBJECT else None
    candidates = dict.fromkeys([responsible, *directory.delegates(responsible, now)])
    return tuple(each for each in candidates if each != own and not directory.has_left(each, now))
