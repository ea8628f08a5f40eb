"""What the accounts must say: the usage lines added up as plainly as possible, without the service's code."""

from collections import defaultdict
from dataclasses import dataclass
from typing import NamedTuple

from tokenomics_tools.simulator import Simulation, cost_micro_usd

THRESHOLDS_BASIS_POINTS = (7_000, 9_000, 10_000)
ALERT = 8_000
"""At this share of a budget its owner is told, where the policy names no other."""
ANSWERS = ("ALLOW", "ALLOW_WITH_NUDGE", "JUSTIFICATION_REQUIRED", "APPROVAL_REQUIRED")
"""What a check answers below the first threshold, from it on, from the second on, from the third on."""


class Standing(NamedTuple):
    """A person's own account."""

    subject: str
    used_basis_points: int


@dataclass(frozen=True)
class Expected:
    """Posted amounts and limits, in micro-USD, by account id."""

    posted: dict[str, int]
    limits: dict[str, int]
    total: int

    def thresholds(self) -> set[tuple[str, int]]:
        """Return each (account id, threshold) that was reached."""
        return {
            (account, threshold)
            for account, limit in self.limits.items()
            for threshold in (*THRESHOLDS_BASIS_POINTS, *(() if account.startswith("subject/") else (ALERT,)))
            if 0 < self.posted.get(account, 0) * 10_000 >= limit * threshold
        }


def add_up(simulation: Simulation, period: str) -> Expected:
    """Add up the simulated month, which lies in one period, and set the policy's limits beside it."""
    company = simulation.company
    members = {name: member for member in company.members for name in (member.subject, *member.aliases)}
    posted: dict[str, int] = defaultdict(int)
    total = 0
    for call in simulation.usage:
        cost = cost_micro_usd(call)
        member = members.get(call["subject"])
        owners = [("unattributed", "unattributed")]
        if member:
            owners = [
                ("subject", member.subject),
                ("team", member.team_id),
                ("cost_centre", company.team_cost_centres[member.team_id]),
            ]
        if "project" in call:
            owners.append(("project", call["project"]))
        for kind, owner in owners:
            posted[f"{kind}/{owner}/all/{period}"] += cost
        total += cost
    quota = next(policy["document"] for policy in simulation.policies if policy["kind"] == "quota")
    allowances = {one["role"]: one["limit_micro_usd"] for one in quota["allowances"]}
    limits = {f"subject/{member.subject}/all/{period}": allowances[member.role] for member in company.members}
    limits |= {
        f"{budget['kind']}/{budget['owner_id']}/all/{period}": budget["limit_micro_usd"]
        for budget in quota["budgets"]
    }
    return Expected(dict(posted), limits, total)


def person_near(simulation: Simulation, expected: Expected, period: str, basis_points: int) -> Standing:
    """Return the person whose own use is closest to a share of the allowance and in the same band.

    Members of a team that has used up its budget are left out: their checks answer for the team.

    Raises
    ------
    ValueError
        Nobody is in that band.
    """

    def used(account: str) -> int:
        return expected.posted.get(account, 0) * 10_000 // expected.limits[account]

    standings = [
        Standing(member.subject, used(f"subject/{member.subject}/all/{period}"))
        for member in simulation.company.members
        if not member.is_bot and used(f"team/{member.team_id}/all/{period}") < 10_000
    ]
    in_band = [one for one in standings if answer_at(one.used_basis_points) == answer_at(basis_points)]
    return min(in_band, key=lambda one: abs(one.used_basis_points - basis_points))


def answer_at(basis_points: int) -> str:
    """Return what a check of a small call must answer at this share of the allowance."""
    return ANSWERS[sum(basis_points >= threshold for threshold in THRESHOLDS_BASIS_POINTS)]
