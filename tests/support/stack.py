"""The stack of the whole test run, as a pytest plugin: started once, from the best source there is.

Containers where a Docker engine answers and the images can be had, embedded otherwise; ``TOKENOMICS_STACK``
decides when it is set. Whatever is chosen must start: a missing component fails the tests, it skips none.
"""

import os
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import psutil
import pytest

from tokenomics_tools.stack import Source, Stack, keep_logs, start_stack
from tokenomics_tools.stack.api import SOURCE_VARIABLE
from tokenomics_tools.stack.containers import why_no_containers


@cache
def chosen_source() -> tuple[Source, str]:
    """Return the source of this run, and why it was chosen."""
    if configured := os.environ.get(SOURCE_VARIABLE):
        return Source(configured), f"{SOURCE_VARIABLE} says so"
    if (missing := why_no_containers()) is None:
        return Source.CONTAINERS, "a Docker engine answers and has the images"
    return Source.EMBEDDED, f"no containers: {missing}"


def pytest_report_header() -> str:
    source, reason = chosen_source()
    return f"stack: {source.value} ({reason})"


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, exitstatus: int) -> None:
    if exitstatus == pytest.ExitCode.TESTS_FAILED:
        for folder in keep_logs():
            terminalreporter.write_line(f"the logs of a stack are kept in {folder}")


@pytest.fixture(scope="session")
def stack() -> Iterator[Stack]:
    """Yield the stack that all tests share: make databases of your own in it, leave its servers alone."""
    source, _ = chosen_source()
    with start_stack(source) as running:
        yield running


def at_work_in(folder: Path) -> list[str]:
    """Return who still runs with the folder among its arguments, or inside it."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.status() != psutil.STATUS_ZOMBIE and (
                any(str(folder) in argument for argument in process.cmdline())
                or Path(process.cwd()).is_relative_to(folder)
            ):
                found.append(f"{process.pid} {process.name()}")
        except psutil.Error:
            continue
    return found
