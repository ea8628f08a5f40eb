"""``python -m tokenomics_tools.demo``: start everything, stream a month, check every claim, end."""

from typing import Annotated

import typer
from rich.console import Console

from tokenomics_tools.demo.scenario import Size, run_demo
from tokenomics_tools.stack import Source, StackError, keep_logs, start_stack


def main(
    *,
    events: Annotated[int, typer.Option(min=1_000, help="usage events of the month to date")] = 40_000,
    seed: Annotated[int, typer.Option(help="another seed is another company")] = 1,
) -> None:
    """Run the demo; exit code 0 only when every claim held."""
    console = Console(highlight=False, soft_wrap=True)
    console.print("starting Kafka and PostgreSQL …")
    held = False
    try:
        with start_stack(Source.EMBEDDED) as stack:
            held = run_demo(stack, Size(events=events, seed=seed), console)
    except StackError as error:
        console.print(f"the demo could not go on: {error}", style="red", markup=False)
    if not held:
        for folder in keep_logs():
            console.print(f"the logs are kept in {folder}")
        raise typer.Exit(1)


if __name__ == "__main__":
    typer.run(main)
