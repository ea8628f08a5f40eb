"""Fault tests stop and kill servers: they get a stack of their own."""

from collections.abc import Iterator

import pytest

from tests.support.stack import chosen_source
from tokenomics_tools.stack import Stack, start_stack


@pytest.fixture(scope="package")
def own_stack() -> Iterator[Stack]:
    """Yield a stack that its tests may break; each leaves it running."""
    source, _ = chosen_source()
    with start_stack(source) as running:
        yield running
