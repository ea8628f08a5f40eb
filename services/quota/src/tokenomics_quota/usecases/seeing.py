"""Seeing: who is shown which accounts, by which right, and who decides about them."""

from collections.abc import Callable, Iterable, Iterator
from datetime import datetime
from functools import cache
from typing import Final

from tokenomics_contracts.units import CostCentreId, PeriodId, SubjectId, TeamId
from tokenomics_quota.domain.accounts import Account, AccountKind, Purpose
from tokenomics_quota.domain.directory import Attribution, Member
from tokenomics_quota.domain.looks import Basis, Look
from tokenomics_quota.domain.privacy import are_enough
from tokenomics_quota.projections.governance import Governance

_BY_OFFICE: Final = frozenset({Basis.OWN, Basis.MANAGER, Basis.OWNER})

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

    What is shown to members, and to governance in a list, is told beside other totals, and tells of no fewer
    people when it is taken from them or they from it: those whose own accounts the person sees count nowhere,
    and a cost centre is told where enough people of it are in no team that is told, or nobody is.
    """

    __slots__ = ("_bases", "_governance", "_is_governance", "_known", "_now", "_own", "_shared", "person")

    def __init__(self, governance: Governance, person: str, now: datetime) -> None:
        self._governance = governance
        self._now = now
        self.person = person
        self._own: str | None = None
        self._is_governance = False
        self._shared: set[tuple[AccountKind, str | None]] = set()
        self._bases: dict[Account, Basis | None] = {}
        self._known: dict[str, bool] = {}
        """Whose own account the person sees."""
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
        if account not in self._bases:  # an answer asks several times for each
            self._bases[account] = self._basis(account)
        return self._bases[account]

    def _basis(self, account: Account) -> Basis | None:
        if self._own is None:  # unknown, or left
            return None
        kind, owner_id = account.kind, account.owner_id
        if kind is AccountKind.SUBJECT and owner_id == self._own:
            return Basis.OWN
        if self._decides_about(account):
            return Basis.MANAGER if kind is AccountKind.SUBJECT else Basis.OWNER
        if (kind, owner_id) in self._shared and self._is_told(account):
            return Basis.MEMBER
        return Basis.GOVERNANCE if self._is_governance else None

    def may_list(self, account: Account) -> bool:
        """Whether a list that doesn't name it may show an account; few people's, governance has to name."""
        basis = self.basis(account)
        if not self._is_governance or basis in _BY_OFFICE:
            return basis is not None
        if account.kind is AccountKind.UNATTRIBUTED:
            return True
        return account.kind is not AccountKind.SUBJECT and self._is_told(account, listed=True)

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

    def _is_told(self, account: Account, *, listed: bool = False) -> bool:
        """Whether a total tells of no few people, neither by itself nor beside what else is told.

        Parameters
        ----------
        listed
            What else is told is each team of enough people, not the person's own alone.
        """
        if not are_enough(self._others(account)):
            return False
        if account.kind is AccountKind.TEAM:
            return self._is_beside_offices(account, listed=listed)
        return account.kind is not AccountKind.COST_CENTRE or self._is_apart(account, listed=listed)

    def _is_beside_offices(self, team: Account, *, listed: bool) -> bool:
        """Whether a team's total may be told beside those of cost centres that the person decides about."""

        @cache
        def is_seen(cost_centre_id: CostCentreId | None) -> bool:
            return cost_centre_id is not None and self._decides_about(_beside(team, cost_centre_id))

        attribution, at = self._governance.attribution, self._at(team)
        centres = (attribution(each.subject_id).at(at).cost_centre_id for each in self._others(team))
        if are_enough(each for each in centres if not is_seen(each)):
            return True
        carriers = {each.cost_centre_id for each in self._carriers(team) if each.team_id == team.owner_id}
        return len(carriers) == 1 and all(
            each is not None and self._is_apart(_beside(team, each), listed=listed) for each in carriers
        )

    def _is_apart(self, cost_centre: Account, *, listed: bool) -> bool:
        """Whether a cost centre's total less those of teams that are told is of enough people, or of nobody.

        Who left or moved since the period began is somebody, and not one of enough.
        """
        centre_id = cost_centre.owner_id

        @cache
        def team_is_told(team_id: TeamId) -> bool:
            team = _beside(cost_centre, team_id)
            if self._decides_about(team):
                return True
            return (listed or (team.kind, team_id) in self._shared) and are_enough(self._others(team))

        if are_enough(each for each in self._others(cost_centre) if not team_is_told(each.team_id)):
            return True
        team_ids = {each.team_id for each in self._carriers(cost_centre) if each.cost_centre_id == centre_id}
        return all(
            team_id is not None
            and team_is_told(team_id)
            and all(
                each.cost_centre_id == centre_id
                for each in self._carriers(_beside(cost_centre, team_id))
                if each.team_id == team_id
            )
            for team_id in team_ids
        )

    def _others(self, account: Account) -> Iterator[Member]:
        """Return the people counted on a shared account, but for those whose own account the person sees."""
        people = self._governance.people_of(account.kind, account.owner_id, self._at(account))
        return (member for member in people if not self._sees_own_of(member.subject_id))

    def _carriers(self, account: Account) -> Iterator[Attribution]:
        """Return who carried those people's usage in the period, and that of others who were there in it."""
        since, _ = self._governance.calendars.at(self._now).bounds(account.period)
        until = self._at(account)
        for subject, held in self._governance.carriers(account.kind, account.owner_id, since, until):
            if not self._sees_own_of(subject):
                yield from held

    def _sees_own_of(self, subject: str) -> bool:
        known = self._known.get(subject)
        if known is None:
            own = Account(AccountKind.SUBJECT, subject, Purpose.ALL, PeriodId(""))
            known = self._known[subject] = subject == self._own or self._decides_about(own)
        return known

    def _decides_about(self, account: Account) -> bool:
        return self.person in deciders(self._governance, account, self._now)

    def _at(self, account: Account) -> datetime:
        """Return as of when people are counted: of a past period, as it ended."""
        return self._governance.instant_in(account.period, self._now)


def _beside(account: Account, owner_id: TeamId | CostCentreId) -> Account:
    """Return the cost centre's account beside a team's, or the other way round."""
    other = AccountKind.TEAM if account.kind is AccountKind.COST_CENTRE else AccountKind.COST_CENTRE
    return account._replace(kind=other, owner_id=owner_id)


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
