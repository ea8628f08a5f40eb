"""The main job, at reduced size, by the demo's own code."""

import pytest

from tests.e2e.conftest import DemoRun

pytestmark = pytest.mark.timeout(900)  # the first test also waits for the demo


def test_every_claim_of_the_demo_holds(demo: DemoRun) -> None:
    assert demo.held, demo.printed
    assert "✗" not in demo.printed
    for claim in (
        "killed (kill -9) in mid-stream",
        "equals an independent sum",
        "sent again counts once",
        "ALLOW (",
        "ALLOW_WITH_NUDGE (",
        "JUSTIFICATION_REQUIRED (",
        "APPROVAL_REQUIRED (",
        "announced once",
        "late is parked",
        "policy mended",
        "within 3 minutes",
    ):
        assert claim in demo.printed
