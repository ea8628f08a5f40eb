"""`python -m tokenomics_tools.contracts`: generate what follows from the contracts, and check it."""

from pathlib import Path

import typer

from tokenomics_tools.contracts import check as checks
from tokenomics_tools.contracts import generate as generation

PROTO = Path(__file__).parents[4] / "proto"

app = typer.Typer(help=__doc__, no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)


@app.command()
def generate() -> None:
    """Write proto/gen and proto/schemas anew."""
    if problems := checks.lint_problems(PROTO):
        print("\n".join(problems))
        raise typer.Exit(1)
    print(f"{generation.write(PROTO)} files changed")


@app.command()
def check() -> None:
    """Fail unless everything generated is current and nothing breaks a reader."""
    failed = False
    for name, run in checks.CHECKS.items():
        problems = run(PROTO)
        print(f"{'FAILED' if problems else 'ok':6} {name}")
        for problem in problems:
            print(f"       {problem}")
        failed = failed or bool(problems)
    if failed:
        raise typer.Exit(1)


@app.command()
def baseline() -> None:
    """Make the present contracts what later changes must not break, unless they break something."""
    if problems := checks.write_baseline(PROTO):
        print("\n".join(problems))
        raise typer.Exit(1)
    print("baseline written")


if __name__ == "__main__":
    app()
