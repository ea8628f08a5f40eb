"""``python -m tokenomics_tools.forecast``: print how good the month-end forecast is on simulated months."""

import json
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from tokenomics_quota.domain.forecast import METHOD, forecast
from tokenomics_tools.forecast.backtest import Method, score
from tokenomics_tools.forecast.rival import exponential_smoothing
from tokenomics_tools.forecast.spend import months


def main(
    *,
    accounts: Annotated[int, typer.Option(min=1, help="each with one month that is forecast")] = 1_000,
    seed: Annotated[int, typer.Option(help="other accounts")] = 1,
    as_json: Annotated[bool, typer.Option("--json", help="print JSON")] = False,
) -> None:
    """Forecast the total of simulated months on their 5th, 10th, … day, and compare with how they ended.

    Beside what the service does stands exponential smoothing by statsmodels, where that is installed.
    """
    methods: dict[str, Method] = {METHOD: forecast}
    if rival := exponential_smoothing():
        methods["statsmodels, exponential smoothing"] = rival
    scores = {name: score(method, months(seed, accounts)) for name, method in methods.items()}
    if as_json:
        rows = {name: [each._asdict() for each in found] for name, found in scores.items()}
        print(json.dumps({"accounts": accounts, "seed": seed, "methods": rows}, indent=2))
        return
    table = Table(title=f"{accounts} accounts, seed {seed}: month's total, forecast after so many days")
    for heading in ("method", "days", "mean error", "median error", "in the interval", "interval's width"):
        table.add_column(heading, justify="left" if heading == "method" else "right")
    for name, found in scores.items():
        for each in found:
            figures = (each.mean_error, each.median_error, each.covered, each.width)
            table.add_row(name, str(each.after_days), *(f"{figure:.1%}" for figure in figures))
        table.add_section()
    Console().print(table)
    if not rival:
        print("statsmodels is not installed: nothing to compare with")


if __name__ == "__main__":
    typer.run(main)
