"""Each threshold is said once for each limit, and only when it is true."""

from datetime import timedelta
from importlib.resources import files

from tests.integration.quota.harness import Quota
from tests.integration.quota.judging import Announcer
from tests.support.quota_events import NOW, correction, person, price_book, quota_policy, usage
from tokenomics_chassis.records import Record
from tokenomics_contracts.events.quota import ThresholdCrossed
from tokenomics_quota.storage.announcements import remember
from tokenomics_quota.streams.events import announcement_from_record, announcement_id

MIGRATIONS = files("tokenomics_quota") / "storage/migrations/service"
ADA = "subject/ada/all/2026-11"


async def said(quota: Quota) -> list[tuple[str, int, int]]:
    rows = await quota.pool.fetch("SELECT key, basis_points, bound FROM announcement ORDER BY 1, 2, 3")
    return [tuple(row) for row in rows]


async def company(quota: Quota, limit: int = 200) -> None:
    await quota.tell(price_book(), "book")
    await quota.tell(quota_policy(allowances=[{"role": "engineer", "limit_micro_usd": limit}]), "policy")
    await quota.tell(person("ada"), "p")


async def test_each_threshold_is_said_once(quota: Quota) -> None:
    await company(quota)
    announcer = Announcer(quota)
    assert await announcer.judge() == 0
    await quota.tell(usage("ada", input_tokens=100), "a")
    assert await announcer.judge() == 1
    await quota.tell(usage("ada", input_tokens=20, output_tokens=0), "b", partition=1)
    await quota.tell(usage("ada", input_tokens=40, output_tokens=0, purpose="experiment"), "c", partition=2)
    assert await announcer.judge() == 2
    assert await announcer.judge() == 0
    assert await Announcer(quota).judge() == 0
    assert await said(quota) == [(ADA, 7_000, 200), (ADA, 9_000, 200), (ADA, 10_000, 200)]
    assert await quota.pool.fetchval("SELECT count(*) FROM outbox") == 3


async def test_another_limit_is_another_announcement_and_a_correction_down_takes_none_back(
    quota: Quota,
) -> None:
    await company(quota)
    announcer = Announcer(quota)
    await quota.tell(usage("ada"), "a")
    await quota.tell(usage("ada", input_tokens=20), "b")
    assert await announcer.judge() == 1
    await quota.tell(quota_policy(2, allowances=[{"role": "engineer", "limit_micro_usd": 220}]), "2")
    assert await announcer.judge() == 1
    await quota.tell(correction("b", 1, 0), "x")
    assert await announcer.judge() == 0
    await quota.tell(correction("b", 2, 60), "y")
    assert await announcer.judge() == 0
    assert await said(quota) == [(ADA, 7_000, 200), (ADA, 7_000, 220)]


async def test_a_limit_that_falls_with_time_alone_is_noticed(quota: Quota) -> None:
    await company(quota)
    announcer = Announcer(quota)
    later = NOW + timedelta(hours=1)
    lower = quota_policy(2, since=later, allowances=[{"role": "engineer", "limit_micro_usd": 100}])
    await quota.tell(lower, "2")
    await quota.tell(usage("ada"), "a")
    assert await announcer.judge() == 0
    assert await announcer.judge(later - timedelta(minutes=1)) == 0
    assert await announcer.judge(later + timedelta(minutes=1)) == 3


async def test_a_limit_is_noticed_also_after_a_clock_that_ran_ahead_was_set_back(quota: Quota) -> None:
    await company(quota)
    announcer = Announcer(quota)
    lower = quota_policy(
        2, since=NOW + timedelta(hours=1), allowances=[{"role": "engineer", "limit_micro_usd": 100}]
    )
    await quota.tell(lower, "2")
    await quota.tell(usage("ada", input_tokens=0, output_tokens=0), "a")
    assert await announcer.judge(NOW + timedelta(hours=9)) == 0
    await quota.tell(usage("ada", input_tokens=60), "b")
    assert await announcer.judge(NOW) == 0
    assert await announcer.judge(NOW + timedelta(hours=2)) == 3


async def test_both_purposes_are_one_line_whatever_the_owner_is_called(quota: Quota) -> None:
    await company(quota)
    budget = {"kind": "project", "owner_id": "experiment", "limit_micro_usd": 100}
    await quota.tell(quota_policy(2, budgets=[budget]), "2")
    announcer = Announcer(quota)
    await quota.tell(usage("ada", project="experiment", input_tokens=20), "a")
    assert await announcer.judge() == 0
    await quota.tell(usage("ada", project="experiment", input_tokens=0, purpose="experiment"), "b")
    assert await announcer.judge() == 4


async def test_what_a_budget_has_for_experiments_is_an_account_of_its_own(quota: Quota) -> None:
    await company(quota)
    budget = {"kind": "team", "owner_id": "red", "limit_micro_usd": 1_000, "experiment_limit_micro_usd": 100}
    await quota.tell(quota_policy(2, budgets=[budget]), "2")
    announcer = Announcer(quota)
    await quota.tell(usage("ada", input_tokens=40), "a")
    await quota.tell(usage("ada", input_tokens=29, purpose="experiment"), "b")
    assert await announcer.judge() == 0
    await quota.tell(usage("ada", input_tokens=0, output_tokens=1, purpose="experiment"), "c")
    assert await announcer.judge() == 1


async def test_the_owner_of_a_budget_is_told_at_its_alert_and_once(quota: Quota) -> None:
    await company(quota)
    team = {"kind": "team", "owner_id": "red", "limit_micro_usd": 200, "alert_basis_points": 7_000}
    await quota.tell(quota_policy(2, budgets=[team]), "2")
    announcer = Announcer(quota)
    await quota.tell(usage("ada", input_tokens=99), "a")
    assert await announcer.judge() == 0
    await quota.tell(usage("ada", input_tokens=1, output_tokens=0), "b", partition=1)
    assert await announcer.judge() == 2
    assert await announcer.judge() == 0
    rows = await quota.pool.fetch("SELECT about, measured FROM announcement ORDER BY 1")
    assert [tuple(row) for row in rows] == [("7000/200", 140), ("alert/7000/200", 140)]
    values = [row["value"] for row in await quota.pool.fetch("SELECT value FROM outbox ORDER BY id")]
    assert [b'"reason":"alert"' in value for value in values] == [False, True]
    assert all(b'"band":"nudge"' in value for value in values)


async def test_what_the_own_topic_says_was_announced_is_not_announced_again(quota: Quota) -> None:
    await company(quota)
    await quota.tell(usage("ada", input_tokens=100), "a")
    assert await Announcer(quota).judge() == 1
    rows = await quota.pool.fetch("SELECT * FROM outbox")
    heard = [
        Record(
            row["topic"],
            0,
            offset,
            0,
            row["key"],
            row["value"],
            tuple(zip(row["header_names"], row["header_values"], strict=True)),
        )
        for offset, row in enumerate(rows)
    ]
    before = await quota.pool.fetch("SELECT * FROM announcement")
    await quota.pool.execute("TRUNCATE announcement, outbox")
    made = [announcement for each in heard if (announcement := announcement_from_record(each))]
    async with quota.pool.acquire() as connection, connection.transaction():
        assert await remember(connection, [*made, *made]) == 1
        assert await remember(connection, made) == 0
    assert await quota.pool.fetch("SELECT * FROM announcement") == before
    assert await Announcer(quota).judge() == 0
    assert await quota.pool.fetchval("SELECT count(*) FROM outbox") == 0


async def test_thresholds_announced_before_there_were_other_kinds_are_not_announced_again(
    quota: Quota,
) -> None:
    await company(quota)
    await quota.tell(usage("ada", input_tokens=100), "a")
    released, generalised = (
        MIGRATIONS / name for name in ("001_announcements.sql", "003_announcements_of_every_kind.sql")
    )
    due = ThresholdCrossed.model_validate(
        {
            "account_id": ADA,
            "kind": "subject",
            "owner_id": "ada",
            "purpose": "all",
            "period": "2026-11",
            "threshold_basis_points": 7_000,
            "band": "nudge",
            "limit_micro_usd": 200,
            "posted_micro_usd": 140,
        }
    )
    async with quota.pool.acquire() as connection, connection.transaction():
        await connection.execute("SET LOCAL search_path = quota, quota_v1; DROP TABLE announcement")
        await connection.execute(released.read_text())
        await connection.execute(
            "INSERT INTO announcement VALUES ($1, $2, 7000, 200, 140, $3)", announcement_id(due), ADA, NOW
        )
        await connection.execute(generalised.read_text())
    assert await Announcer(quota).judge() == 0
    row = await quota.pool.fetchrow("SELECT * FROM announcement")
    assert row is not None
    assert dict(row) == {
        "announcement_id": announcement_id(due),
        "event_type": "tokenomics.threshold.crossed.v1",
        "key": ADA,
        "about": due.about,
        "version": 1,
        "measured": 140,
        "bound": 200,
        "basis_points": 7_000,
        "announced_at": NOW,
    }
