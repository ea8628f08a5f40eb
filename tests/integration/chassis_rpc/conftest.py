"""What the tests of the chassis share."""

from collections.abc import Iterator

import pytest

from tests.integration.chassis_rpc.processes import Collector


@pytest.fixture
def collector() -> Iterator[Collector]:
    collector = Collector()
    yield collector
    collector.stop()
