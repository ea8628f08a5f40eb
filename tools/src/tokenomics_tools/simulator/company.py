"""A company of random-looking people, teams, projects and bots, and the directory that tells of it."""

from dataclasses import dataclass
from random import Random
from typing import Any

EFFECTIVE_FROM = "2025-01-01T00:00:00Z"
"""From when the directory and the policies hold: long before any simulated usage."""

_ROLES = {"engineer": 55, "support": 20, "analyst": 15, "lead": 10}
_PEOPLE_PER_COST_CENTRE = 70
_PEOPLE_PER_PROJECT = 40
_SHARE_IN_PROJECTS = 0.4
_SHARE_WITH_ALIAS = 0.15
BOT_ROLE = "bot"


@dataclass(frozen=True)
class Member:
    """A person or a bot of the company."""

    subject: str
    role: str
    team_id: str
    project_ids: tuple[str, ...]
    aliases: tuple[str, ...]

    @property
    def is_bot(self) -> bool:
        """Whether it is a service."""
        return self.role == BOT_ROLE


@dataclass(frozen=True)
class Company:
    """The company, as the usage generator needs it and as the directory tells it."""

    members: list[Member]
    team_cost_centres: dict[str, str]
    project_ids: list[str]
    stranger: str
    """A subject that uses tools and that the directory doesn't know."""
    directory: list[dict[str, Any]]
    """The lines of a directory file, as ``tokenomics directory apply`` reads them."""


def found_company(random: Random, *, people: int, teams: int, bots: int) -> Company:
    """Make a company; the same generator state and sizes give the same company.

    Raises
    ------
    ValueError
        When there are fewer people than teams: every team has an owner of its own.
    """
    if not 1 <= teams <= people:
        raise ValueError(f"{people} people cannot fill {teams} teams: every team needs one person at least")

    def new_ids(kind: str, count: int) -> list[str]:
        return [f"{kind}-{number:08x}" for number in random.sample(range(2**32), count)]

    cost_centre_ids = new_ids("cc", max(2, people // _PEOPLE_PER_COST_CENTRE))
    team_ids = new_ids("team", teams)
    project_ids = new_ids("project", max(2, people // _PEOPLE_PER_PROJECT))
    *person_ids, stranger = new_ids("p", people + 1)
    team_cost_centres = {team_id: random.choice(cost_centre_ids) for team_id in team_ids}
    # The first people each own one team; the others join teams of uneven attraction.
    attraction = [random.uniform(0.5, 2) for _ in team_ids]
    home = team_ids + random.choices(team_ids, attraction, k=people - teams)

    def person(subject: str, team_id: str, role: str) -> Member:
        in_project = random.random() < _SHARE_IN_PROJECTS
        has_alias = random.random() < _SHARE_WITH_ALIAS
        return Member(
            subject,
            role,
            team_id,
            (random.choice(project_ids),) if in_project else (),
            (f"alias:{random.getrandbits(256):064x}",) if has_alias else (),
        )

    roles = random.choices(list(_ROLES), list(_ROLES.values()), k=people)
    persons = [person(*facts) for facts in zip(person_ids, home, roles, strict=True)]
    services = [
        Member(bot_id, BOT_ROLE, random.choice(team_ids), (random.choice(project_ids),), ())
        for bot_id in new_ids("bot", bots)
    ]
    owners = dict(zip(team_ids, person_ids, strict=False))
    privileges = dict(zip(person_ids, ("governance", "auditor", "operator"), strict=False))

    def entry(entity: str, **fields: Any) -> dict[str, Any]:
        kept = {name: value for name, value in fields.items() if value not in (None, [], ())}
        return {"type": f"{entity}.upserted", "effective_from": EFFECTIVE_FROM, **kept}

    directory = [
        *(
            entry("cost_centre", cost_centre_id=cost_centre_id, owner_id=random.choice(person_ids))
            for cost_centre_id in cost_centre_ids
        ),
        *(
            entry("team", team_id=team_id, cost_centre_id=cost_centre_id, owner_id=owners[team_id])
            for team_id, cost_centre_id in team_cost_centres.items()
        ),
        *(
            entry(
                "project",
                project_id=project_id,
                team_id=random.choice(team_ids),
                owner_id=random.choice(person_ids),
            )
            for project_id in project_ids
        ),
        *(
            entry(
                "person",
                person_id=member.subject,
                role=member.role,
                team_id=member.team_id,
                manager_id=owners[member.team_id] if owners[member.team_id] != member.subject else None,
                project_ids=list(member.project_ids),
                aliases=list(member.aliases),
                privileges=[privileges[member.subject]] if member.subject in privileges else [],
            )
            for member in persons
        ),
        *(
            entry(
                "service",
                service_id=member.subject,
                role=member.role,
                team_id=member.team_id,
                responsible_person_id=owners[member.team_id],
                project_ids=list(member.project_ids),
            )
            for member in services
        ),
    ]
    return Company([*persons, *services], team_cost_centres, project_ids, stranger, directory)
