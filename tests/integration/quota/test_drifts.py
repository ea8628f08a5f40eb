"""Kept totals are added up anew from facts and holds, and what differs is found, whatever it is."""

import asyncio
from datetime import timedelta
from typing import Any

import grpc
import pytest

from tests.integration.quota.company import hold_company
from tests.integration.quota.serving import Served, refused, violated_fields
from tests.integration.quota.test_holds import place
from tests.support.quota_events import NOW, correction, person, price_book, quota_policy, sources, team, usage
from tokenomics.quota.v1 import quota_pb2 as pb
from tokenomics_chassis.metrics import DRIFTING_TOTALS
from tokenomics_quota.storage.drift import DriftWatch

DAY = timedelta(days=1)
TEAM = "team/red/all/2026-11"


async def company(service: Served) -> None:
    """Spend in several months, with everything that moves totals."""
    quota = service.quota
    await quota.tell(price_book(), "book")
    await quota.tell(quota_policy(time_zone="America/New_York"), "policy")
    await quota.tell(team(cost_centre_id="cc1"), "t")
    await quota.tell(usage("ada", project="apollo"), "a")
    await quota.tell(usage("ada", purpose="experiment"), "b", partition=1, time=NOW.replace(day=1, hour=2))
    await quota.tell(usage("ada"), "c", partition=2, time=NOW - 50 * DAY)
    await quota.tell(usage("stranger"), "d")
    await quota.tell(person("ada"), "p")
    await quota.tell(person("gus", privileges=["operator"], team_id="ops"), "gus")
    await quota.tell(correction("a", 1, 30), "x")
    await quota.tell(sources(may_backfill=True), "s")
    await quota.tell(usage("ada"), "archive", time=NOW - 100 * DAY)
    await service.refresh()


async def drift(service: Served, account_id: str = "", person_id: str | None = None) -> list[Any]:
    request = pb.CheckDriftRequest(account_id=account_id)
    return [each async for each in service.stub.CheckDrift(request, metadata=service.metadata(person_id))]


def found(steps: list[Any]) -> set[tuple[str, str, int]]:
    return {
        (pb.KeptTotal.Name(each.kept), each.name, each.kept_micro_usd - each.recomputed_micro_usd)
        for step in steps
        for each in step.drifts
    }


async def test_totals_that_are_right_do_not_drift(service: Served) -> None:
    await company(service)
    steps = await drift(service, person_id="gus")
    assert found(steps) == set()
    assert [step.period for step in steps] == ["2026-08", "2026-10", "2026-11", ""]
    assert [(step.step, step.steps) for step in steps] == [(number, 4) for number in (1, 2, 3, 4)]
    assert sum(step.compared_totals for step in steps) > 20


@pytest.mark.parametrize(
    ("damage", "expected"),
    [
        (
            "UPDATE posted SET posted_micro_usd = 107 WHERE account_id = 'team/red/experiment/2026-10'",
            {("KEPT_TOTAL_POSTED", "team/red/experiment/2026-10", 7)},
        ),
        (
            "DELETE FROM posted WHERE account_id = 'project/apollo/operational/2026-11'",
            {("KEPT_TOTAL_POSTED", "project/apollo/operational/2026-11", -30)},
        ),
        (
            "INSERT INTO posted SELECT 'team/x/all/2025-01', min(source_id), '2025-01', 5, 1 FROM position",
            {("KEPT_TOTAL_POSTED", "team/x/all/2025-01", 5)},
        ),
        (
            "UPDATE daily SET posted_micro_usd = 0 WHERE owner = 'cost_centre/cc1' AND day = '2026-11-20'",
            {("KEPT_TOTAL_DAY", "cost_centre/cc1/2026-11-20", -30)},
        ),
        (
            "UPDATE fact SET cost_micro_usd = 1 WHERE subject = 'stranger'",
            {
                ("KEPT_TOTAL_POSTED", "unattributed/unattributed/operational/2026-11", 99),
                ("KEPT_TOTAL_DAY", "unattributed/unattributed/2026-11-20", 99),
            },
        ),
    ],
)
async def test_what_differs_is_found(
    service: Served, damage: str, expected: set[tuple[str, str, int]]
) -> None:
    await company(service)
    await service.quota.pool.execute(damage)
    assert found(await drift(service)) == expected


async def test_one_account_is_compared_alone_with_its_owners_days(service: Served) -> None:
    await company(service)
    await service.quota.pool.execute("UPDATE posted SET posted_micro_usd = posted_micro_usd + 1")
    await service.quota.pool.execute("UPDATE daily SET posted_micro_usd = posted_micro_usd + 1")
    assert {name for _, name, _ in found(await drift(service, TEAM))} == {
        "team/red/operational/2026-11",
        "team/red/2026-11-20",
        "team/red/2026-11-01",
    }
    assert {name for _, name, _ in found(await drift(service, "team/red/experiment/2026-10"))} == {
        "team/red/experiment/2026-10",
        "team/red/2026-10-01",
    }


async def test_what_is_held_is_compared_with_the_holds(service: Served) -> None:
    holds = await hold_company(service)
    pool = holds.quota.pool
    await place(holds, "one", 100, call={"project": "atlas"})
    await place(holds, "two", 50)
    await place(holds, "three", 70)
    settling = pb.SettleHoldRequest(hold_id="two", cost_micro_usd=60)
    await holds.stub.SettleHold(settling, metadata=holds.metadata())
    await holds.stub.ReleaseHold(pb.ReleaseHoldRequest(hold_id="three"), metadata=holds.metadata())
    assert found(await drift(holds)) == set()
    (account_no, account_id), *_ = await pool.fetch("SELECT account_no, account_id FROM ledger_account")
    await pool.execute(
        "UPDATE ledger_account SET live_micro_usd = live_micro_usd + 3,"
        " settling_micro_usd = settling_micro_usd + 2 WHERE account_no = $1",
        account_no,
    )
    await pool.execute(
        "UPDATE expiry SET amount_micro_usd = amount_micro_usd + 1 WHERE account_no = $1", account_no
    )
    assert found(await drift(holds)) == {
        ("KEPT_TOTAL_LIVE", account_id, 1),
        ("KEPT_TOTAL_ENDING", account_id, 2),
        ("KEPT_TOTAL_SETTLING", account_id, 2),
    }
    assert found(await drift(holds, account_id)) == found(await drift(holds))


async def test_holds_that_ended_unswept_do_not_drift(service: Served) -> None:
    holds = await hold_company(service)
    await place(holds, "one", 100)
    await holds.quota.pool.execute("UPDATE ledger SET last_now = last_now + interval '1 hour'")
    assert found(await drift(holds)) == set()


async def test_nobody_but_operators_and_workloads_may_compare(service: Served) -> None:
    await company(service)
    assert await refused(drift(service, person_id="ada")) is grpc.StatusCode.PERMISSION_DENIED


@pytest.mark.parametrize("account_id", ["red", "team/red", "team/red/all/2026-13", "planet/x/all/2026-11"])
async def test_what_is_no_account_is_refused_by_name(service: Served, account_id: str) -> None:
    await service.refresh()
    with pytest.raises(grpc.aio.AioRpcError) as refusal:
        await drift(service, account_id)
    assert violated_fields(refusal.value) == {"account_id"}


async def test_a_server_compares_one_at_a_time_and_ends_when_it_stops(service: Served) -> None:
    await company(service)
    async with service.quota.pool.acquire() as connection, connection.transaction():
        await connection.execute("LOCK TABLE daily")
        under_way = asyncio.create_task(drift(service))
        waits = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'quota drift'"
        async with asyncio.timeout(10):
            while not await service.quota.pool.fetchval(waits):  # noqa: ASYNC110 - another connection's work
                await asyncio.sleep(0.01)
        assert await refused(drift(service)) is grpc.StatusCode.UNAVAILABLE
        service.draining.set()
    assert await refused(under_way) is grpc.StatusCode.UNAVAILABLE


async def test_the_metric_tells_how_many_totals_drift(
    service: Served, caplog: pytest.LogCaptureFixture
) -> None:
    async def told() -> float | None:
        async with asyncio.timeout(10):
            while (value := DRIFTING_TOTALS.read()) is None:  # noqa: ASYNC110 - it is watched, it tells nobody
                await asyncio.sleep(0.01)
        return value

    await company(service)
    watch, stopping = DriftWatch(service.quota.url, service.quota.schemas, lambda: NOW), asyncio.Event()
    leading = asyncio.create_task(watch.run(stopping))
    assert await told() == 0
    stopping.set()
    await leading
    assert DRIFTING_TOTALS.read() is None, "who leads no more tells nothing"
    await service.quota.pool.execute("UPDATE posted SET posted_micro_usd = 1 WHERE period = '2026-11'")
    await service.quota.pool.execute("UPDATE posted SET posted_micro_usd = 1 WHERE period = '2026-08'")
    stopping.clear()
    leading = asyncio.create_task(watch.run(stopping))
    assert await told() == await service.quota.pool.fetchval(
        "SELECT count(DISTINCT account_id) FROM posted WHERE period = '2026-11'"
    )
    stopping.set()
    await leading
    assert "posted" in caplog.text
