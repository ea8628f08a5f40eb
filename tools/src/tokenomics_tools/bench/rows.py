"""What a benchmark reports: a figure beside its floor and its bar."""

import operator
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any, Final, Literal, NamedTuple

from rich.table import Table

_HOLDS: Final[Mapping[str, Callable[[float, float], bool]]] = {">=": operator.ge, "<=": operator.le}


@dataclass(frozen=True, slots=True)
class Bar:
    """What a figure should reach."""

    of: Literal["ratio", "value"]
    comparison: Literal[">=", "<="]
    bound: float

    def __str__(self) -> str:
        return f"{self.of} {self.comparison} {self.bound:,g}"


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the report."""

    path: str
    value: float
    unit: str
    floor: float | None = None
    """The same work without ours, in the same unit, measured in the same run."""
    ratio: float | None = None
    """Value to floor."""
    bar: Bar | None = None

    @property
    def met(self) -> bool | None:
        """Whether the bar is reached; ``None`` without a bar."""
        if self.bar is None:
            return None
        figure = self.ratio if self.bar.of == "ratio" else self.value
        assert figure is not None
        return _HOLDS[self.bar.comparison](figure, self.bar.bound)

    def as_record(self) -> dict[str, Any]:
        """Return what the JSON report says of it."""
        return {
            "path": self.path,
            "value": _rounded(self.value),
            "unit": self.unit,
            "floor": _rounded(self.floor),
            "ratio": _rounded(self.ratio),
            "bar": None if self.bar is None else str(self.bar),
            "met": self.met,
        }


class Pair(NamedTuple):
    """A figure and its floor, measured one right after the other."""

    value: float
    floor: float


def paired(path: str, unit: str, pairs: Sequence[Pair], bar: Bar | None = None) -> Row:
    """Make a row of the medians; the ratio is the median of the pairs' own ratios."""
    return Row(
        path,
        median(pair.value for pair in pairs),
        unit,
        median(pair.floor for pair in pairs),
        median(pair.value / pair.floor for pair in pairs),
        bar,
    )


def table_of(rows: Iterable[Row]) -> Table:
    """Lay rows out for a terminal."""
    table = Table()
    for heading in ("path", "value", "unit", "floor", "ratio", "bar", ""):
        table.add_column(heading, justify="right" if heading in {"value", "floor", "ratio"} else "left")
    for row in rows:
        table.add_row(
            row.path,
            _shown(row.value),
            row.unit,
            _shown(row.floor),
            _shown(row.ratio),
            "" if row.bar is None else str(row.bar),
            {True: "[green]met[/]", False: "[yellow]short[/]", None: ""}[row.met],
        )
    return table


def _rounded(figure: float | None) -> float | None:
    return None if figure is None else float(f"{figure:.4g}")


def _shown(figure: float | None) -> str:
    return "" if figure is None else f"{float(f'{figure:.3g}'):,g}"
