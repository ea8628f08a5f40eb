"""Which versions of a policy there are, and which of them count."""

import json
from datetime import timedelta
from typing import Any

from tests.support.quota_events import LONG_AGO, NOW, NoPrices, governance, published
from tokenomics_quota.projections.governance import Governance

BASELINE = {"acceptable_use": "Think first."}


def use_cases(unregistered: str = "nudge") -> dict[str, Any]:
    return {"use_cases": [], "unregistered": unregistered}


def listed(state: Governance, kind: str) -> list[tuple[int, bool, bool]]:
    return [(each.published.version, each.in_force, each.superseded) for each in state.published(kind, NOW)]


def test_every_kind_keeps_its_versions_newest_first_with_their_documents() -> None:
    state = governance(
        published("baseline", 1, LONG_AGO, BASELINE),
        published("baseline", 2, LONG_AGO, BASELINE | {"training_url": "https://learning.example"}),
        published("use_cases", 1, LONG_AGO, use_cases()),
    )
    assert listed(state, "baseline") == [(2, True, False), (1, False, True)]
    newest = state.published("baseline", NOW)[0].published
    assert newest.replaces == 1
    assert json.loads(newest.document)["training_url"] == "https://learning.example"
    assert Governance(NoPrices()).published("baseline", NOW) == []


def test_a_version_counts_while_it_holds_now_or_will() -> None:
    state = governance(
        published("use_cases", 1, NOW - timedelta(days=9), use_cases()),
        published("use_cases", 2, NOW - timedelta(days=3), use_cases("deny")),
        published("use_cases", 3, NOW + timedelta(days=3), use_cases("allow")),
    )
    assert listed(state, "use_cases") == [(3, False, False), (2, True, False), (1, False, True)]
    assert state.use_cases.at(NOW).unregistered == "deny"
    assert state.use_cases.at(NOW + timedelta(days=3)).unregistered == "allow"
    assert state.use_cases.at(NOW - timedelta(days=10)).version == 0


def test_a_version_that_was_replaced_before_its_time_never_counts() -> None:
    state = governance(
        published("use_cases", 1, NOW + timedelta(days=9), use_cases()),
        published("use_cases", 2, NOW + timedelta(days=3), use_cases("deny")),
    )
    assert listed(state, "use_cases") == [(2, False, False), (1, False, True)]
