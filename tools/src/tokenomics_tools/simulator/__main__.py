"""``python -m tokenomics_tools.simulator FOLDER``: write a company and its month as input of the CLI."""

from pathlib import Path
from typing import Annotated

import typer

from tokenomics_chassis.clock import SystemClock
from tokenomics_tools.simulator.simulation import SOURCE, simulate, write_simulation
from tokenomics_tools.simulator.trace import ATTRIBUTION


def main(
    folder: Annotated[Path, typer.Argument(help="where to write the files")],
    *,
    seed: Annotated[int, typer.Option(help="another seed is another company")] = 1,
    people: Annotated[int, typer.Option(min=1)] = 500,
    teams: Annotated[int, typer.Option(min=1)] = 40,
    bots: Annotated[int, typer.Option(min=0)] = 5,
    events: Annotated[int, typer.Option(min=1, help="usage events of the month to date")] = 40_000,
    trace: Annotated[Path | None, typer.Option(help="TIMESTAMP,ContextTokens,GeneratedTokens as CSV")] = None,
) -> None:
    """Write usage, directory and policies of a simulated company."""
    simulation = simulate(
        now=SystemClock().now(),
        seed=seed,
        people=people,
        teams=teams,
        bots=bots,
        events=events,
        trace_path=trace,
    )
    files = write_simulation(simulation, folder)
    print(f"""Token sizes and arrivals: {simulation.trace.path}
  {ATTRIBUTION}
Send it:
  tokenomics policy apply {files.policies}
  tokenomics directory apply {files.directory}
  tokenomics emit {files.usage} --source {SOURCE}""")


if __name__ == "__main__":
    typer.run(main)
