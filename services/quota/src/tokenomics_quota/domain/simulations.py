"""Simulations: recorded usage judged once more, as other policies would have judged it."""

from collections.abc import Collection
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Final, NamedTuple

from tokenomics_contracts.units import MicroUsd
from tokenomics_quota.domain.friction import Decision

SIMULATED_KINDS: Final = frozenset({"quota", "price_book"})
"""Policy kinds that decide about calls by what recorded usage tells of them."""

LONGEST: Final = timedelta(days=366)
"""A range may be so long, and begin so long ago: within the reach of governing events (ADR 0012)."""


class SimulationState(StrEnum):
    """Where a simulation stands."""

    RUNNING = "running"
    COMPLETED = "completed"
    FAILED = "failed"


class Asked(NamedTuple):
    """A simulation as somebody asked for it."""

    simulation_id: str
    documents: str
    """JSON: the documents to simulate by kind, as they were sent."""
    since: datetime
    before: datetime
    """Exclusive."""
    requested_by: str
    requested_at: datetime

    def differs_in(self, other: "Asked") -> list[str]:
        """Return the names of the fields that say something else, but for who asked and when."""
        return [name for name in Asked._fields[:-2] if getattr(self, name) != getattr(other, name)]


class DecisionCount(NamedTuple):
    """A decision: how often it was made and would have been, and what those calls cost in each course."""

    decision: Decision
    actual: int
    simulated: int
    actual_micro_usd: MicroUsd
    simulated_micro_usd: MicroUsd


class Changes(NamedTuple):
    """How decisions about some people's calls would change."""

    name: str
    """Team or role; empty for those that are told together because each is of too few."""
    people: int
    """Whose calls these are; a subject that the directory doesn't know counts as one."""
    calls: int
    stricter: int
    """Calls that would have been answered with a graver decision."""
    milder: int
    newly_interrupted: int
    """Calls that would have been held back for a reason or approval, or refused, and weren't."""
    no_longer_interrupted: int


class SimulationResult(NamedTuple):
    """What would have been decided."""

    decisions: Collection[DecisionCount]
    """Of every decision."""
    posted_micro_usd: MicroUsd
    simulated_posted_micro_usd: MicroUsd
    changes: Changes
    """Of all calls."""
    changed_subjects: int
    interrupted_subjects: int
    """Under the policies that were in force."""
    simulated_interrupted_subjects: int
    newly_denied_micro_usd: MicroUsd
    """What the calls cost that would have been DENIED and weren't."""
    teams: Collection[Changes]
    """As their members' calls were counted; those with most changes first."""
    roles: Collection[Changes]


class Simulation(NamedTuple):
    """A simulation and how far it is."""

    asked: Asked
    state: SimulationState
    replayed_events: int = 0
    total_events: int = 0
    """0 until they are counted."""
    result: SimulationResult | None = None
    error_message: str | None = None
    ended_at: datetime | None = None
