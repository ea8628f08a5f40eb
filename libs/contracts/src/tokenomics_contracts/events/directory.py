"""`tokenomics.directory.v1`: who belongs where, from when. Pseudonymous ids only, no names."""

from typing import ClassVar, Literal, Self

from pydantic import model_validator

from tokenomics_contracts.events.base import Event
from tokenomics_contracts.units import (
    Alias,
    CostCentre,
    Delegation,
    Group,
    Person,
    Project,
    RoleName,
    Service,
    Team,
    UtcTime,
)

Privilege = Literal["governance", "auditor", "operator"]


class DirectoryEvent(Event):
    """A fact about one entity. `upserted` events are full replacements."""

    effective_from: UtcTime
    """From when it holds; usage before it keeps what held then, whenever this event arrives."""


class PersonUpserted(DirectoryEvent):
    """A person's place in the company."""

    type_name: ClassVar[str] = "tokenomics.person.upserted.v1"
    key_field: ClassVar[str] = "person_id"

    person_id: Person
    role: RoleName
    team_id: Team
    cost_centre_id: CostCentre | None = None
    """Absent: the team's."""

    manager_id: Person | None = None
    project_ids: tuple[Project, ...] = ()
    aliases: tuple[Alias, ...] = ()
    privileges: tuple[Privilege, ...] = ()


class PersonLeft(DirectoryEvent):
    """A person left the company."""

    type_name: ClassVar[str] = "tokenomics.person.left.v1"
    key_field: ClassVar[str] = "person_id"

    person_id: Person


class PersonErased(DirectoryEvent):
    """A person's sealed texts become unreadable everywhere; totals stay."""

    type_name: ClassVar[str] = "tokenomics.person.erased.v1"
    key_field: ClassVar[str] = "person_id"

    person_id: Person


class ServiceUpserted(DirectoryEvent):
    """A bot or agent, with the team that owns it and the person who answers for it."""

    type_name: ClassVar[str] = "tokenomics.service.upserted.v1"
    key_field: ClassVar[str] = "service_id"

    service_id: Service
    role: RoleName
    team_id: Team
    responsible_person_id: Person
    project_ids: tuple[Project, ...] = ()
    aliases: tuple[Alias, ...] = ()


class TeamUpserted(DirectoryEvent):
    """A team, its cost centre and its owner."""

    type_name: ClassVar[str] = "tokenomics.team.upserted.v1"
    key_field: ClassVar[str] = "team_id"

    team_id: Team
    cost_centre_id: CostCentre | None = None
    owner_id: Person | None = None


class ProjectUpserted(DirectoryEvent):
    """A project and its owner."""

    type_name: ClassVar[str] = "tokenomics.project.upserted.v1"
    key_field: ClassVar[str] = "project_id"

    project_id: Project
    team_id: Team | None = None
    cost_centre_id: CostCentre | None = None
    owner_id: Person | None = None


class CostCentreUpserted(DirectoryEvent):
    """A cost centre and its owner."""

    type_name: ClassVar[str] = "tokenomics.cost_centre.upserted.v1"
    key_field: ClassVar[str] = "cost_centre_id"

    cost_centre_id: CostCentre
    owner_id: Person | None = None


class GroupUpserted(DirectoryEvent):
    """A group that a grant may target, such as an on-call rota."""

    type_name: ClassVar[str] = "tokenomics.group.upserted.v1"
    key_field: ClassVar[str] = "group_id"

    group_id: Group
    member_ids: tuple[Person, ...]


class DelegationUpserted(DirectoryEvent):
    """Somebody may decide for somebody else until `ends_at`."""

    type_name: ClassVar[str] = "tokenomics.delegation.upserted.v1"
    key_field: ClassVar[str] = "delegation_id"

    delegation_id: Delegation
    delegator_id: Person
    delegate_id: Person
    ends_at: UtcTime

    @model_validator(mode="after")
    def _ends_after_it_begins(self) -> Self:
        if self.ends_at <= self.effective_from:
            raise ValueError("ends_at should lie after effective_from")
        if self.delegate_id == self.delegator_id:
            raise ValueError("delegate_id should differ from delegator_id")
        return self


class DelegationEnded(DirectoryEvent):
    """A delegation ended before its time."""

    type_name: ClassVar[str] = "tokenomics.delegation.ended.v1"
    key_field: ClassVar[str] = "delegation_id"

    delegation_id: Delegation
