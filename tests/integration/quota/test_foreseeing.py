"""A budget that will end beyond its limit is told of once, from the day on that policy says."""

from datetime import UTC, datetime, timedelta
from typing import Any

from tests.integration.quota.harness import Quota
from tests.integration.quota.judging import Announcer, outbox
from tests.support.quota_events import person, price_book, quota_policy, usage
from tokenomics_contracts.events.quota import ForecastExceeded
from tokenomics_quota.usecases.foreseeing import EVERY

DAY = timedelta(days=1)
START = datetime(2026, 11, 1, tzinfo=UTC)


async def company(quota: Quota, limit: int, **document: Any) -> None:
    await quota.tell(price_book(), "book")
    budget = {"kind": "team", "owner_id": "red", "limit_micro_usd": limit}
    await quota.tell(quota_policy(budgets=[budget], **document), "policy")
    await quota.tell(person("ada"), "p")


async def spend(quota: Quota, first: datetime, days: int) -> None:
    for number in range(days):
        time = first + number * DAY
        await quota.tell(usage("ada"), f"{time:%m-%d}", time=time, appended_at=time)


async def told(quota: Quota) -> list[dict[str, Any]]:
    return await outbox(quota, ForecastExceeded.type_name)


async def test_it_is_told_once_from_the_day_on_that_policy_says(quota: Quota) -> None:
    await company(quota, limit=2_900, forecast_from_day=4)
    await spend(quota, START - 28 * DAY, 31)  # 100 a day: 3,000 in November
    announcer = Announcer(quota)
    await announcer.judge_all(START + 3 * DAY - timedelta(seconds=1))
    assert await told(quota) == []
    await announcer.judge_all(START + 3 * DAY)
    (said,) = await told(quota)
    assert said == {
        "account_id": "team/red/all/2026-11",
        "kind": "team",
        "owner_id": "red",
        "purpose": "all",
        "period": "2026-11",
        "limit_micro_usd": 2_900,
        "posted_micro_usd": 300,
        "forecast_micro_usd": 3_000,
        "forecast_low_micro_usd": said["forecast_low_micro_usd"],
        "forecast_high_micro_usd": said["forecast_high_micro_usd"],
        "method": "weekday_medians",
    }
    await quota.tell(usage("ada"), "more", time=START + 3 * DAY, appended_at=START + 3 * DAY)
    await announcer.judge_all(START + 4 * DAY)
    await Announcer(quota).judge_all(START + 4 * DAY)
    assert len(await told(quota)) == 1


async def test_another_limit_is_another_announcement(quota: Quota) -> None:
    await company(quota, limit=2_900)
    await spend(quota, START - 28 * DAY, 38)
    now = START + 10 * DAY
    announcer = Announcer(quota)
    await announcer.judge_all(now)
    budget = {"kind": "team", "owner_id": "red", "limit_micro_usd": 2_800}
    await quota.tell(quota_policy(2, budgets=[budget]), "2")
    await announcer.judge_all(now + EVERY)
    assert [each["limit_micro_usd"] for each in await told(quota)] == [2_900, 2_800]


async def test_a_budget_that_will_do_is_not_told_of_nor_one_without_a_limit_nor_a_person(
    quota: Quota,
) -> None:
    await company(
        quota, limit=3_100, allowances=[{"role": "engineer", "limit_micro_usd": 1_000}], forecast_from_day=1
    )
    await spend(quota, START - 28 * DAY, 38)
    await Announcer(quota).judge_all(START + 10 * DAY)
    assert await told(quota) == []


async def test_one_that_moves_all_the_time_is_judged_again_after_minutes(quota: Quota) -> None:
    await company(quota, limit=3_050)
    await spend(quota, START - 28 * DAY, 38)
    now = START + 10 * DAY
    announcer = Announcer(quota)
    await announcer.judge_all(now)
    await quota.tell(usage("ada"), "more", time=now, appended_at=now)
    await announcer.judge_all(now + EVERY - timedelta(seconds=1))
    assert await told(quota) == []
    await announcer.judge_all(now + EVERY)
    assert [each["posted_micro_usd"] for each in await told(quota)] == [1_100]


async def test_what_waits_when_a_period_turns_is_not_judged_as_if_it_went_on(quota: Quota) -> None:
    await company(quota, limit=3_100)
    await spend(quota, START - 28 * DAY, 58)  # 3,000 in November
    turn = START + 30 * DAY
    announcer = Announcer(quota)
    await announcer.judge_all(turn - timedelta(minutes=2))
    await quota.tell(usage("ada"), "more", time=turn - DAY, appended_at=turn - timedelta(minutes=1))
    await announcer.judge_all(turn - timedelta(minutes=1))  # moved, and judged less than minutes ago
    await announcer.judge_all(turn + 4 * DAY)
    assert await told(quota) == []
