"""What all servers count of a week's checks decides whether a rule goes on interrupting."""

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import pytest

from tests.integration.quota.company import NOW as FAR_AHEAD
from tests.integration.quota.company import broken_off, stand_at
from tests.integration.quota.judging import Announcer, outbox, relayed
from tests.integration.quota.serving import Served, check_request, company
from tests.support.clocks import SetClock
from tests.support.quota_events import NOW, person, quota_policy
from tokenomics.quota.v1 import quota_pb2 as pb
from tokenomics_contracts.units import BasisPoints
from tokenomics_quota.domain.findings import Rule
from tokenomics_quota.domain.friction_budgets import FrictionBudget, FrictionBudgets
from tokenomics_quota.storage.announcements import remember
from tokenomics_quota.storage.friction import FrictionLog, friction_of
from tokenomics_quota.storage.hold_ledger import open_ledger
from tokenomics_quota.streams.events import announcement_from_record
from tokenomics_quota.usecases.friction import FrictionCounts

MONDAY = datetime(2026, 11, 16, tzinfo=UTC)
WEEK, LOOK = timedelta(days=7), timedelta(seconds=5)
SERVER = UUID(int=1)
RULES: dict[str, Any] = {"models": [{"models": [{"provider": "acme", "model": "one"}]}]}
OF_MODELS: FrictionBudgets = {Rule.MODELS: FrictionBudget("models", BasisPoints(5_000), 5, "boss")}


def budget(most_basis_points: int = 5_000) -> dict[str, Any]:
    return {
        "rule": "models",
        "most_basis_points": most_basis_points,
        "fewest_checks": 5,
        "owner_id": "boss",
    }


async def govern(service: Served, version: int, *budgets: dict[str, Any]) -> None:
    await service.quota.tell(quota_policy(version, **RULES, friction=budgets), str(version))
    await service.refresh()


async def decided(service: Served, model: str = "two", subject: str = "ada") -> pb.Decision.ValueType:
    request = check_request(model=model, subject=subject)
    return (await service.stub.CheckQuota(request, metadata=service.metadata())).decision


async def counted(service: Served, week: datetime = MONDAY) -> tuple[int, dict[str, int]]:
    async with service.quota.pool.acquire() as connection:
        passed, interrupted = await friction_of(connection, week.date())
    return passed, dict(interrupted)


async def told(service: Served) -> list[dict[str, Any]]:
    return await outbox(service.quota, "tokenomics.friction.exceeded.v1")


async def test_a_rule_that_interrupts_too_many_checks_advises_until_the_week_ends(service: Served) -> None:
    await company(service.quota)
    for name in ("bob", "cleo", "dora"):
        await service.quota.tell(person(name), f"person-{name}")
    await govern(service, 2, budget())
    announcer, now = Announcer(service.quota), NOW
    log = FrictionLog(service.quota.pool, service.friction, SERVER, service.clock)
    for model, subject in (("one", "ada"), ("one", "ada"), ("two", "ada"), ("two", "bob")):
        await decided(service, model, subject)
    await log.write()
    assert await counted(service) == (2, {"models": 2})
    assert await announcer.judge(now) == 0, "there are fewer checks than are judged"
    for _ in range(9):
        assert await decided(service) == pb.DECISION_DENIED
    await log.write()
    now += LOOK
    assert await announcer.judge(now) == 0, "who asks again within the hour isn't interrupted again"
    assert await decided(service, subject="cleo") == pb.DECISION_DENIED
    await log.write()
    assert await announcer.judge(now) == 0, "it is looked every few seconds"
    now += LOOK
    assert await announcer.judge(now) == 1
    assert await announcer.judge(now + LOOK) == 0
    assert await Announcer(service.quota).judge(now) == 0, "nor does the next term say it again"
    assert await told(service) == [
        {
            "rule": "models",
            "week": "2026-11-16",
            "checks": 5,
            "interrupted": 3,
            "most_basis_points": 5_000,
            "owner_id": "boss",
            "policy_version": 2,
        }
    ]
    await service.refresh()
    assert await decided(service) == pb.DECISION_ALLOW_WITH_NUDGE
    service.clock.time = MONDAY + WEEK
    assert await decided(service) == pb.DECISION_DENIED
    service.clock.time = NOW
    assert await decided(service) == pb.DECISION_ALLOW_WITH_NUDGE


async def exceed(service: Served, at: datetime = NOW) -> None:
    """Let the rule have interrupted three checks of five."""
    counts = FrictionCounts()
    for _ in range(2):
        counts.check((), "ada", OF_MODELS, at)
    for subject in ("ada", "bob", "cleo"):
        counts.check([Rule.MODELS], subject, OF_MODELS, at)
    await FrictionLog(service.quota.pool, counts, uuid4(), SetClock(at)).write()


async def test_a_larger_budget_lets_the_rule_go_on_until_it_exceeds_that(service: Served) -> None:
    await company(service.quota)
    await govern(service, 2, budget())
    await exceed(service)
    assert await Announcer(service.quota).judge() == 1
    await service.refresh()
    assert await decided(service) == pb.DECISION_ALLOW_WITH_NUDGE
    await govern(service, 3, budget(6_000))
    assert await decided(service) == pb.DECISION_DENIED
    assert await Announcer(service.quota).judge() == 0, "it has interrupted no more than it may"
    await govern(service, 4, budget(5_500))
    assert await decided(service) == pb.DECISION_DENIED
    assert await Announcer(service.quota).judge() == 1
    await service.refresh()
    assert await decided(service) == pb.DECISION_ALLOW_WITH_NUDGE
    assert [each["most_basis_points"] for each in await told(service)] == [5_000, 5_500]
    await govern(service, 5)
    assert await decided(service) == pb.DECISION_DENIED, "there is no budget any more"


async def test_what_was_told_is_known_after_the_database_is_lost(service: Served) -> None:
    await company(service.quota)
    await govern(service, 2, budget())
    await exceed(service)
    await Announcer(service.quota).judge()
    (record,) = await relayed(service.quota)
    await service.quota.pool.execute("TRUNCATE announcement, friction_passed, friction_interruption")
    await service.refresh()
    assert await decided(service) == pb.DECISION_DENIED
    made = announcement_from_record(record)
    assert made is not None
    async with service.quota.pool.acquire() as connection:
        assert await remember(connection, [made]) == 1
    await service.refresh()
    assert await decided(service) == pb.DECISION_ALLOW_WITH_NUDGE
    await exceed(service)
    assert await Announcer(service.quota).judge() == 0


async def test_servers_add_to_one_another_and_a_subject_is_interrupted_once_an_hour(service: Served) -> None:
    counts = [FrictionCounts(), FrictionCounts()]
    logs = [FrictionLog(service.quota.pool, each, uuid4(), SetClock()) for each in counts]
    for each in counts:
        each.check((), "ada", OF_MODELS, NOW)
        each.check([Rule.MODELS], "ada", OF_MODELS, NOW)
    await asyncio.gather(*(log.write() for log in logs))
    assert await counted(service) == (2, {"models": 1})
    counts[0].check((), "ada", OF_MODELS, NOW)
    counts[0].check([Rule.MODELS], "ada", OF_MODELS, NOW + timedelta(hours=1))
    await asyncio.gather(*(log.write() for log in logs))
    assert await counted(service) == (3, {"models": 2})


async def test_counts_wait_for_the_database_and_are_written_once(service: Served) -> None:
    counts, pool = FrictionCounts(), service.quota.pool
    log = FrictionLog(pool, counts, SERVER, SetClock())
    counts.check((), "ada", OF_MODELS, NOW)
    counts.check([Rule.MODELS], "ada", OF_MODELS, NOW)
    await pool.execute("ALTER TABLE friction_interruption RENAME TO away")
    with pytest.raises(asyncpg.UndefinedTableError):
        await log.write()
    await pool.execute("ALTER TABLE away RENAME TO friction_interruption")
    assert await counted(service) == (0, {})
    counts.check((), "ada", OF_MODELS, NOW)
    await log.write()
    assert await counted(service) == (2, {"models": 1})
    await log.write()
    counts.check((), "ada", OF_MODELS, NOW)
    await log.write()
    assert await counted(service) == (3, {"models": 1})


async def test_each_week_is_counted_for_itself_and_forgotten_after_the_next(service: Served) -> None:
    await company(service.quota)
    counts, clock = FrictionCounts(), SetClock()
    log = FrictionLog(service.quota.pool, counts, SERVER, clock)
    for week in (MONDAY, MONDAY + WEEK, MONDAY):  # the clock steps back
        clock.time = week
        counts.check((), "ada", OF_MODELS, week)
        counts.check([Rule.MODELS], "ada", OF_MODELS, week)
        await log.write()
    assert await counted(service) == (2, {"models": 1})
    assert await counted(service, MONDAY + WEEK) == (1, {"models": 1})
    announcer = Announcer(service.quota)
    for weeks, known in ((0, 2), (1, 2), (2, 1), (3, 0)):
        await announcer.judge(MONDAY + weeks * WEEK)
        for table in ("friction_passed", "friction_interruption"):
            assert await service.quota.pool.fetchval(f"SELECT count(*) FROM {table}") == known  # noqa: S608


async def place(
    service: Served, hold_id: str, model: str = "one", subject: str = "ada"
) -> pb.PlaceHoldResponse:
    request = pb.PlaceHoldRequest(hold_id=hold_id, call=check_request(model=model, subject=subject))
    return await service.stub.PlaceHold(request, metadata=service.metadata())


async def acquire(service: Served, lease_id: str, model: str = "one") -> pb.AcquireLeaseResponse:
    request = pb.AcquireLeaseRequest(
        lease_id=lease_id, typical_call=check_request(model=model), amount_micro_usd=1
    )
    return await service.stub.AcquireLease(request, metadata=service.metadata())


async def hold(service: Served, **document: Any) -> None:
    """Serve a company that may place holds."""
    await company(service.quota)
    await service.quota.tell(quota_policy(2, **document, friction=[budget()]), "2")
    await stand_at(service.quota, FAR_AHEAD)
    async with service.quota.pool.acquire() as connection:
        await open_ledger(connection)
    await service.refresh()


async def test_a_hold_or_lease_is_counted_once_by_the_rule_of_checks(service: Served) -> None:
    await hold(service, **RULES)
    assert await decided(service, "one") == pb.DECISION_ALLOW
    for _ in range(2):
        assert (await place(service, "h")).check.decision == pb.DECISION_ALLOW
    assert service.friction.take() == (1, set()), "the check and its hold are one call"
    for _ in range(2):
        await acquire(service, "lease")
    renewing = pb.RenewLeaseRequest(lease_id="lease", renewal=1)
    await service.stub.RenewLease(renewing, metadata=service.metadata())
    assert service.friction.take() == (2, set())
    for hold_id in ("i", "i", "j"):
        assert (await place(service, hold_id, "two")).check.decision == pb.DECISION_DENIED
    assert (await acquire(service, "other", "two")).check.decision == pb.DECISION_DENIED
    passed, interruptions = service.friction.take()
    assert passed == 0
    assert [(each.rule, each.subject) for each in interruptions] == [(Rule.MODELS, "ada")]
    await place(service, "k", "two", subject="eve")
    _, interruptions = service.friction.take()
    assert [(each.rule, each.subject) for each in interruptions] == [(Rule.MODELS, "eve")]


async def test_a_hold_that_is_placed_or_refused_with_another_decision_is_counted(service: Served) -> None:
    on_approval = {"models": [{"provider": "acme", "model": "two"}], "access": "on_approval"}
    await hold(service, models=[on_approval])
    placed = await place(service, "h", "two")
    assert placed.check.decision == pb.DECISION_APPROVAL_REQUIRED
    assert placed.HasField("hold")
    _, interruptions = service.friction.take()
    assert [(each.rule, each.subject) for each in interruptions] == [(Rule.MODELS, "ada")]


async def test_a_hold_is_counted_once_however_often_its_turn_is_taken(service: Served) -> None:
    await hold(service, **RULES)
    await broken_off(service.quota, place(service, "h"))
    assert service.friction.take() == (0, set())
    await place(service, "h")
    assert service.friction.take() == (1, set())


async def test_nothing_is_counted_while_no_rule_has_a_budget(service: Served) -> None:
    await company(service.quota)
    await govern(service, 2)
    await decided(service)
    await decided(service, "one")
    assert service.friction.take() == (0, set())
    await govern(service, 3, budget())
    await decided(service)
    await decided(service, "one")
    passed, interruptions = service.friction.take()
    assert passed == 1
    assert [(each.rule, each.subject) for each in interruptions] == [(Rule.MODELS, "ada")]
