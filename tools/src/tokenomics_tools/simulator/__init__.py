"""Company simulator: a month of usage whose token sizes and arrivals come from a real trace."""

from tokenomics_tools.simulator.prices import cost_micro_usd
from tokenomics_tools.simulator.simulation import (
    LEGACY_SOURCE,
    SOURCE,
    Simulation,
    SimulationFiles,
    simulate,
    write_simulation,
)
from tokenomics_tools.simulator.trace import ATTRIBUTION

__all__ = [
    "ATTRIBUTION",
    "LEGACY_SOURCE",
    "SOURCE",
    "Simulation",
    "SimulationFiles",
    "cost_micro_usd",
    "simulate",
    "write_simulation",
]
