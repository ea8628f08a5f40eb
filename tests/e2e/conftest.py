"""The demo at reduced size, run once; its stack stays up for the tests of the command line."""

import io
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from rich.console import Console

from tokenomics_tools.demo.scenario import Size, run_demo
from tokenomics_tools.stack import Source, Stack, start_stack

SIZE = Size(people=60, teams=8, bots=2, events=4_000)


@dataclass(frozen=True)
class DemoRun:
    stack: Stack
    held: bool
    printed: str


@pytest.fixture(scope="package")
def demo() -> Iterator[DemoRun]:
    # A stack of its own: the demo counts everything that is on the topics.
    with start_stack(Source.EMBEDDED) as stack:
        printed = io.StringIO()
        held = run_demo(stack, SIZE, Console(file=printed, width=200))
        yield DemoRun(stack, held, printed.getvalue())


@pytest.fixture
def bootstrap(demo: DemoRun, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("TOKENOMICS_KAFKA_BOOTSTRAP", demo.stack.kafka.bootstrap)
    return demo.stack.kafka.bootstrap
