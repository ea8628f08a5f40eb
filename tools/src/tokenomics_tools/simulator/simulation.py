"""One simulated company with its month: directory, usage, and policies that make the month interesting."""

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from itertools import cycle
from pathlib import Path
from random import Random
from statistics import median
from typing import Any

import yaml

from tokenomics_tools.simulator.company import BOT_ROLE, EFFECTIVE_FROM, Company, found_company
from tokenomics_tools.simulator.month import time_zone_at, usage_of_month
from tokenomics_tools.simulator.prices import cost_micro_usd, price_book
from tokenomics_tools.simulator.trace import Trace, load_trace

SOURCE = "//simulator.example/gateway"
LEGACY_SOURCE = "//simulator.example/legacy-gateway"

_CENT = 10_000
# What share of its budget a team has used in the end: most are well below, a few beyond each threshold.
_TEAM_USE_PERCENT = (35, 48, 55, 62, 40, 74, 58, 85, 50, 93, 45, 65, 104)


@dataclass(frozen=True)
class Simulation:
    """What the simulator made."""

    company: Company
    trace: Trace
    time_zone: str
    usage: list[dict[str, Any]]
    """Oldest first."""
    policies: list[dict[str, Any]]


@dataclass(frozen=True)
class SimulationFiles:
    """Where a simulation was written; each file is input of a ``tokenomics`` command."""

    usage: Path
    """For ``emit``."""
    directory: Path
    """For ``directory apply``."""
    policies: Path
    """For ``policy apply``."""
    backfill: Path
    """For ``policy apply``, version 1 of ``sources``: allows the legacy source to back-fill."""


def simulate(
    *,
    now: datetime,
    seed: int = 1,
    people: int = 500,
    teams: int = 40,
    bots: int = 5,
    events: int = 40_000,
    trace_path: Path | None = None,
) -> Simulation:
    """Make a company and its current month up to ``now``; the same arguments give the same simulation.

    Raises
    ------
    OSError, ValueError
        When the trace cannot be read, or the sizes don't fit together.
    """
    random = Random(seed)
    trace = load_trace(trace_path)
    company = found_company(random, people=people, teams=teams, bots=bots)
    time_zone = time_zone_at(now)
    usage = list(usage_of_month(random, company, trace, events=events, now=now, time_zone=time_zone))
    policies = [
        _policy("price_book", price_book()),
        _policy("quota", _quota_document(company, usage, time_zone)),
    ]
    return Simulation(company, trace, time_zone, usage, policies)


def write_simulation(simulation: Simulation, folder: Path) -> SimulationFiles:
    """Write the simulation's files into a folder, replacing earlier ones."""
    folder.mkdir(parents=True, exist_ok=True)
    files = SimulationFiles(
        folder / "usage.jsonl", folder / "directory.jsonl", folder / "policies.yaml", folder / "backfill.yaml"
    )
    _write_lines(files.usage, simulation.usage)
    _write_lines(files.directory, simulation.company.directory)
    files.policies.write_text(yaml.safe_dump_all(simulation.policies, sort_keys=False), encoding="utf-8")
    owner = simulation.company.members[0].subject
    permission = {
        "source": LEGACY_SOURCE,
        "owner_id": owner,
        "may_backfill": True,
        "backfill_counts_in_balances": True,
    }
    backfill = _policy("sources", {"sources": [permission]})
    files.backfill.write_text(yaml.safe_dump(backfill, sort_keys=False), encoding="utf-8")
    return files


def _write_lines(path: Path, lines: Iterable[Mapping[str, Any]]) -> None:
    path.write_text(
        "".join(json.dumps(line, separators=(",", ":")) + "\n" for line in lines), encoding="utf-8"
    )


def _policy(kind: str, document: dict[str, Any]) -> dict[str, Any]:
    return {"kind": kind, "version": 1, "effective_from": EFFECTIVE_FROM, "document": document}


def _quota_document(company: Company, usage: Iterable[Mapping[str, Any]], time_zone: str) -> dict[str, Any]:
    """Set limits around what was used, so that some stand in every band.

    A role's allowance is twice what its median member used; bots have room for twice the busiest one.
    """
    members = {name: member for member in company.members for name in (member.subject, *member.aliases)}
    by_member: dict[str, int] = defaultdict(int)
    by_team: dict[str, int] = defaultdict(int)
    for call in usage:
        if member := members.get(call["subject"]):
            cost = cost_micro_usd(call)
            by_member[member.subject] += cost
            by_team[member.team_id] += cost
    by_role: dict[str, list[int]] = defaultdict(list)
    for member in company.members:
        by_role[member.role].append(by_member[member.subject])
    allowances = {
        role: 2 * int(max(spent) if role == BOT_ROLE else median(spent)) for role, spent in by_role.items()
    }
    budgets = {
        team_id: by_team[team_id] * 100 // percent
        for team_id, percent in zip(company.team_cost_centres, cycle(_TEAM_USE_PERCENT), strict=False)
    }
    return {
        "time_zone": time_zone,
        "period": "calendar_month",
        "thresholds": {
            "nudge_basis_points": 7_000,
            "justify_basis_points": 9_000,
            "approve_basis_points": 10_000,
        },
        "allowances": [
            {"role": role, "limit_micro_usd": _whole_cents(limit)}
            for role, limit in sorted(allowances.items())
        ],
        "default_allowance_micro_usd": _whole_cents(min(allowances.values())),
        "budgets": [
            {"kind": "team", "owner_id": team_id, "limit_micro_usd": _whole_cents(limit)}
            for team_id, limit in budgets.items()
        ],
    }


def _whole_cents(micro_usd: int) -> int:
    return max(1, micro_usd // _CENT) * _CENT
