"""Each proof fails when one thing is broken: at small size, with the defect that it is there to find."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from datetime import UTC, datetime

import pytest

from tests.proofs import (
    abandoned_holds,
    closings,
    exactly_once,
    grants_expire,
    holds_never_overshoot,
    holds_survive_lost_database,
    late_usage_adjusts,
    leases_return,
    lost_database,
    period_turn,
    poison_is_parked,
    rebuild_under_traffic,
    replay_equals_live,
    reprice_is_visible,
    restart_storm,
    restored_backup,
    shared_budget_fairness,
    slow_and_full,
    stale_view,
    thresholds_once,
    wrong_identity_refused,
)
from tests.proofs.exactly_once import Ordeal
from tests.proofs.lab import Lab

TINY = 0.01


@pytest.fixture
async def resources() -> AsyncIterator[AsyncExitStack]:
    async with AsyncExitStack() as stack:
        yield stack


def lab_with(variant: str, resources: AsyncExitStack) -> Lab:
    return Lab(seed=1, scale=TINY, anchor=datetime.now(UTC), resources=resources, variant=variant)


async def test_exactly_once_fails_when_the_position_is_committed_before_the_effect(
    resources: AsyncExitStack,
) -> None:
    lab = lab_with("position-before-effect", resources)
    ordeal = Ordeal(usage_events=500, faults=("sigkill",), projectors=1)
    run = await resources.enter_async_context(exactly_once.endure(lab, ordeal))
    assert run.figures["lost"]
    assert any(failure.startswith(f"{run.figures['lost']} lost") for failure in run.failures)


async def test_replay_equals_live_fails_when_what_governs_late_is_not_derived_again(
    resources: AsyncExitStack,
) -> None:
    lab = lab_with("no-rederivation", resources)
    ordeal = Ordeal(usage_events=500, faults=(), projectors=1)
    run = await resources.enter_async_context(exactly_once.endure(lab, ordeal))
    lab.shared["live run"] = run
    verdict = await replay_equals_live.prove(lab)
    assert any("another hash" in failure for failure in verdict.failures)


async def test_thresholds_once_fails_when_announcements_are_forgotten(resources: AsyncExitStack) -> None:
    lab = lab_with("forgetful-announcer", resources)
    verdict = await thresholds_once.endure(lab, thresholds_once.Ordeal(events=600, faults=()))
    assert any("was announced" in failure and "times" in failure for failure in verdict.failures)


async def test_poison_is_parked_fails_when_parking_drops_a_byte(resources: AsyncExitStack) -> None:
    verdict = await poison_is_parked.prove(lab_with("truncated-parking", resources))
    assert any("the bytes are not those of the log" in failure for failure in verdict.failures)


async def test_stale_view_fails_when_nobody_adds_up_what_is_let_through(resources: AsyncExitStack) -> None:
    verdict = await stale_view.endure(lab_with("forgetful-tab", resources), calls=300, writes=10)
    assert any("let through on" in failure for failure in verdict.failures)


async def test_wrong_identity_refused_fails_when_expired_tokens_pass(resources: AsyncExitStack) -> None:
    verdict = await wrong_identity_refused.prove(lab_with("expired-tokens-pass", resources))
    assert verdict.failures
    assert all("with expired token" in failure for failure in verdict.failures)


async def test_rebuild_under_traffic_fails_when_the_rebuild_drops_records(resources: AsyncExitStack) -> None:
    verdict = await rebuild_under_traffic.prove(lab_with("leaky-rebuild", resources))
    assert any("another hash" in failure for failure in verdict.failures)


async def test_lost_database_fails_when_announcements_are_not_recalled(resources: AsyncExitStack) -> None:
    verdict = await lost_database.endure(lab_with("announcements-not-recalled", resources), 600)
    assert any("was repeated with other bytes" in failure for failure in verdict.failures)


async def test_holds_survive_lost_database_fails_when_they_are_not_recalled(
    resources: AsyncExitStack,
) -> None:
    verdict = await holds_survive_lost_database.endure(lab_with("holds-not-recalled", resources), 120)
    assert any("were not back when" in failure for failure in verdict.failures)
    assert any("committed before it, recomputed" in failure for failure in verdict.failures)


async def test_abandoned_holds_fails_when_they_count_until_it_is_written_down_that_they_ended(
    resources: AsyncExitStack,
) -> None:
    verdict = await abandoned_holds.endure(lab_with("ends-unseen", resources), 400)
    assert any("placed=False" in failure for failure in verdict.failures)


async def test_leases_return_fails_when_a_returned_lease_frees_what_was_drawn_from_it(
    resources: AsyncExitStack,
) -> None:
    lab = lab_with("returned-with-its-draws", resources)
    verdict = await leases_return.endure(lab, leases_return.Ordeal(rounds=1, server_kills=0))
    assert any("of what was applied in time were not covered" in failure for failure in verdict.failures)


async def test_shared_budget_fairness_fails_when_a_budget_that_is_used_up_asks_everybody(
    resources: AsyncExitStack,
) -> None:
    verdict = await shared_budget_fairness.prove(lab_with("everybody-is-asked", resources))
    assert verdict.failures
    assert all("decision 4 by" in failure and "recomputed" in failure for failure in verdict.failures)


async def test_restored_backup_fails_when_kafkas_commits_are_believed(resources: AsyncExitStack) -> None:
    verdict = await restored_backup.endure(lab_with("commits-believed", resources), 500)
    assert verdict.figures["lost"]
    assert "the derived state has another hash than before the copy was put back" in verdict.failures


async def test_restart_storm_fails_when_a_loading_server_refuses_with_the_wrong_code(
    resources: AsyncExitStack,
) -> None:
    verdict = await restart_storm.endure(
        lab_with("loading-is-denied", resources), restart_storm.Ordeal(seconds=1)
    )
    assert any("refused with PERMISSION_DENIED" in failure for failure in verdict.failures)


async def test_slow_and_full_fails_when_what_waits_is_counted_and_not_measured(
    resources: AsyncExitStack,
) -> None:
    lab = lab_with("lanes-without-a-measure", resources)
    verdict = await slow_and_full.endure(lab, slow_and_full.Ordeal(events=400, seconds=1))
    assert any(failure.startswith("project took") for failure in verdict.failures)


async def test_grants_expire_fails_when_what_follows_from_a_grant_outlives_it(
    resources: AsyncExitStack,
) -> None:
    verdict = await grants_expire.endure(lab_with("lingering-grants", resources), requests=60)
    assert any(" at " in failure and "recomputed" in failure for failure in verdict.failures)


async def test_holds_never_overshoot_fails_when_what_is_live_is_not_looked_at(
    resources: AsyncExitStack,
) -> None:
    lab = lab_with("forgetful-ledger", resources)
    ordeal = holds_never_overshoot.Ordeal(seconds=4, server_kills=0, database_kills=0)
    verdict = await holds_never_overshoot.endure(lab, ordeal)
    assert any("committed before it, recomputed" in failure for failure in verdict.failures)


async def test_period_turn_fails_when_summer_time_is_forgotten(resources: AsyncExitStack) -> None:
    verdict = await period_turn.endure(lab_with("clocks-never-change", resources), months=9)
    assert any("recomputed" in failure for failure in verdict.failures)


async def test_late_usage_adjusts_fails_when_an_adjustment_tells_the_total(
    resources: AsyncExitStack,
) -> None:
    lab = lab_with("adjusted-by-the-total", resources)
    verdict = await late_usage_adjusts.endure(
        lab, late_usage_adjusts.Ordeal(events=600, faults=("projector",))
    )
    assert any(": adjusts by " in failure for failure in verdict.failures)


async def test_reprice_is_visible_fails_when_repricing_moves_no_cursor(
    resources: AsyncExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(closings, "CATCH_UP_SECONDS", 20)
    lab = lab_with("repriced-unseen", resources)
    verdict = await reprice_is_visible.endure(lab, events=400, killed=("projector",))
    assert any("is posted" in failure for failure in verdict.failures), verdict
