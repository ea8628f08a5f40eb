"""What was used on each day is what the facts of that day cost, however they came to it."""

from datetime import date, timedelta
from importlib.resources import files

from tests.integration.quota.harness import Quota
from tests.support.quota_events import NOW, correction, person, price_book, quota_policy, sources, team, usage
from tokenomics_quota.storage.totals import daily_totals

DAY = timedelta(days=1)
TODAY = NOW.date()
BACKFILL = files("tokenomics_quota") / "storage/migrations/derived/002_daily.sql"
OWNERS = ("subject/ada", "team/red", "cost_centre/cc1", "project/apollo", "unattributed/unattributed")


async def days(quota: Quota, *, since: date = date(2026, 1, 1)) -> dict[str, dict[date, int]]:
    found = await daily_totals(quota.pool, OWNERS, since=since, before=TODAY + DAY)
    return {owner: {day: int(amount) for day, amount in each.items()} for owner, each in found.items()}


async def spend(quota: Quota) -> None:
    await quota.tell(price_book(), "book")
    await quota.tell(team(cost_centre_id="cc1"), "t")
    await quota.tell(usage("ada", project="apollo"), "a", time=NOW - DAY)
    await quota.tell(usage("ada", purpose="experiment"), "b", partition=1)
    await quota.tell(usage("bob"), "c", partition=2)
    await quota.tell(person("ada"), "p")
    await quota.tell(correction("a", 1, 30), "x")


async def test_days_add_up_all_purposes_of_an_owner_and_follow_corrections_and_the_directory(
    quota: Quota,
) -> None:
    await spend(quota)
    ada = {TODAY - DAY: 30, TODAY: 100}
    assert await days(quota) == {
        "subject/ada": ada,
        "team/red": ada,
        "cost_centre/cc1": ada,
        "project/apollo": {TODAY - DAY: 30},
        "unattributed/unattributed": {TODAY: 100},
    }
    assert await days(quota, since=TODAY) == {
        "subject/ada": {TODAY: 100},
        "team/red": {TODAY: 100},
        "cost_centre/cc1": {TODAY: 100},
        "unattributed/unattributed": {TODAY: 100},
    }


async def test_a_day_is_of_the_events_time_in_utc_whatever_zone_periods_turn_in(quota: Quota) -> None:
    await quota.tell(price_book(), "book")
    await quota.tell(usage("ada"), "a", time=NOW.replace(day=1, hour=2))
    await quota.tell(quota_policy(time_zone="America/New_York"), "policy")
    assert await quota.totals() == {"unattributed/unattributed/operational/2026-10": 100}
    assert await days(quota) == {"unattributed/unattributed": {date(2026, 11, 1): 100}}


async def test_what_policy_keeps_out_of_balances_is_on_no_day(quota: Quota) -> None:
    await quota.tell(price_book(), "book")
    await quota.tell(sources(may_backfill=True), "s")
    await quota.tell(usage("ada"), "old", time=NOW - 100 * DAY)
    assert await days(quota) == {}


async def test_a_database_of_an_earlier_version_is_given_the_days_of_its_facts(quota: Quota) -> None:
    await spend(quota)
    await quota.tell(sources(may_backfill=True), "s")
    await quota.tell(usage("ada"), "old", time=NOW - 100 * DAY)
    before = await days(quota)
    await quota.pool.execute("DROP TABLE daily")
    await quota.pool.execute(BACKFILL.read_text())
    assert await days(quota) == before
    await quota.tell(usage("ada", input_tokens=1, output_tokens=0), "later")
    assert (await days(quota))["subject/ada"][TODAY] == 101
