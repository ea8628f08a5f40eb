"""Measure each path beside its floor: all of them, or those named as arguments.

BENCH_SCALE (1 is full size) shrinks sizes, times and pairs; BENCH_JSON names a file for the rows as JSON.
"""

import json
import os
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from rich.console import Console

from tokenomics_tools.bench import check, freshness, hold, lease, memory, projection, rebuild
from tokenomics_tools.bench.plant import Scale
from tokenomics_tools.bench.rows import Row, table_of
from tokenomics_tools.stack import keep_logs

PATHS: Mapping[str, Callable[[Scale], list[Row]]] = {
    "check": check.measure,
    "batch": check.measure_batch,
    "stream": check.measure_stream,
    "projection": projection.measure,
    "rebuild": rebuild.measure,
    "freshness": freshness.measure,
    "memory": memory.measure,
    "hold": hold.measure,
    "lease": lease.measure,
}

_WIDTH = 100


def main(names: Sequence[str]) -> int:
    """Print the rows.

    Returns
    -------
    int
        0 when every path was measured, bars met or not: timing fails nothing. 1 when one was not; the others
        still are, and reported. 2 when a name or the scale is none.
    """
    console, failures = Console(highlight=False), Console(stderr=True)
    console.width = max(console.width, _WIDTH)  # a log file has no width; a wrapped table is hard to read
    try:
        scale = Scale(float(os.environ.get("BENCH_SCALE", "1")))
    except ValueError as error:
        failures.print(f"BENCH_SCALE: {error}")
        return 2
    if unknown := sorted(set(names) - set(PATHS)):
        failures.print(f"no such path: {', '.join(unknown)}; there are {', '.join(PATHS)}")
        return 2
    rows: list[Row] = []
    unmeasured = []
    for name in names or PATHS:
        # Work beside ours takes more from a path than from its floor: the reader must know of it.
        console.print(f"measuring {name}, load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores …")
        try:
            rows += PATHS[name](scale)
        except Exception:  # noqa: BLE001 - whatever it was, the other paths are still to be measured
            traceback.print_exc()
            unmeasured.append(name)
    console.print(table_of(rows))
    if report := os.environ.get("BENCH_JSON"):
        Path(report).write_text(json.dumps([row.as_record() for row in rows], indent=2) + "\n")
    if unmeasured:
        failures.print(f"not measured: {', '.join(unmeasured)}", style="red")
        for folder in keep_logs():
            failures.print(f"the logs are kept in {folder}")
    return 1 if unmeasured else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
