"""A period is closed once, and what comes later is told as what it adds: nothing is rewritten."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from tests.integration.quota.harness import Quota
from tests.integration.quota.judging import Announcer, outbox, relayed
from tests.integration.quota.serving import Served
from tests.support.quota_events import NOW, correction, person, price_book, quota_policy, team, usage
from tokenomics.quota.v1 import quota_pb2 as pb
from tokenomics_chassis.postgres import session
from tokenomics_chassis.state_hash import state_hash
from tokenomics_contracts.events.quota import PeriodClosed
from tokenomics_quota.storage.announcements import remember
from tokenomics_quota.storage.state import DERIVED_TABLES, NOT_DERIVED
from tokenomics_quota.streams.events import announcement_from_record
from tokenomics_quota.usecases import closing

DAY = timedelta(days=1)
NOVEMBER_ENDS = datetime(2026, 12, 1, tzinfo=UTC)
CLOSED = NOVEMBER_ENDS + 5 * DAY
TEAM = "team/red/all/2026-11"
CARRYING = {"kind": "team", "owner_id": "red", "limit_micro_usd": 1_000, "carry_over_cap_micro_usd": 300}


async def company(quota: Quota, **document: Any) -> None:
    await quota.tell(price_book(), "book")
    await quota.tell(quota_policy(**({"budgets": [CARRYING]} | document)), "policy")
    await quota.tell(team(cost_centre_id="cc1"), "t")
    await quota.tell(person("ada"), "p")


async def closings(quota: Quota, account_id: str = "") -> list[dict[str, Any]]:
    told = await outbox(quota, PeriodClosed.type_name)
    return [each for each in told if each["account_id"].startswith(account_id)]


def amounts(told: list[dict[str, Any]]) -> list[tuple[int, int, int]]:
    return [(each["version"], each["posted_micro_usd"], each["adjustment_micro_usd"]) for each in told]


async def test_a_period_is_closed_some_days_after_its_end_once(quota: Quota) -> None:
    await company(quota)
    await quota.tell(usage("ada", project="apollo"), "a")
    await quota.tell(usage("ada", purpose="experiment"), "b", partition=1)
    await quota.tell(usage("stranger", input_tokens=0), "c", partition=2)
    announcer = Announcer(quota)
    await announcer.judge_all(CLOSED - timedelta(seconds=1))
    assert await closings(quota) == []
    await announcer.judge_all(CLOSED)
    told = await closings(quota)
    assert {each["account_id"]: each["posted_micro_usd"] for each in told} == {
        "subject/ada/all/2026-11": 200,
        TEAM: 200,
        "cost_centre/cc1/all/2026-11": 200,
        "project/apollo/all/2026-11": 100,
        "unattributed/unattributed/all/2026-11": 40,
    }
    (of_team,) = [each for each in told if each["account_id"] == TEAM]
    assert of_team | {"positions": {}} == {
        "account_id": TEAM,
        "kind": "team",
        "owner_id": "red",
        "purpose": "all",
        "period": "2026-11",
        "version": 1,
        "posted_micro_usd": 200,
        "experiment_micro_usd": 100,
        "adjustment_micro_usd": 0,
        "limit_micro_usd": 1_000,
        "carry_over": {
            "amount_micro_usd": 300,
            "starts_at": "2026-12-01T00:00:00Z",
            "ends_at": "2027-01-01T00:00:00Z",
        },
        "positions": {},
    }
    assert of_team["positions"] == {f"{topic}/{part}": end for (topic, part), end in quota.ends.items()}
    assert await announcer.judge_all(CLOSED + DAY) == 0
    assert await Announcer(quota).judge_all(CLOSED + 2 * DAY) == 0


async def test_what_comes_later_is_told_as_what_it_adds_and_no_earlier_version_changes(quota: Quota) -> None:
    await company(quota)
    await quota.tell(usage("ada"), "a")
    announcer = Announcer(quota)
    await announcer.judge_all(CLOSED)
    first = await closings(quota)
    await quota.tell(usage("ada"), "late", appended_at=CLOSED)
    await announcer.judge_all(CLOSED + DAY)
    await quota.tell(correction("a", 1, 30), "x", appended_at=CLOSED + DAY)
    await announcer.judge_all(CLOSED + 2 * DAY)
    told = await closings(quota, "team/red/")
    assert amounts(told) == [(1, 100, 0), (2, 200, 100), (3, 130, -70)]
    assert [each.get("carry_over") is not None for each in told] == [True, False, False]
    assert (await closings(quota))[: len(first)] == first
    assert sum(each["adjustment_micro_usd"] for each in told) + 100 == 130


async def test_repricing_is_visible_by_the_adjustment_it_makes(quota: Quota) -> None:
    await company(quota)
    await quota.tell(usage("ada"), "a")
    announcer = Announcer(quota)
    await announcer.judge_all(CLOSED)
    await quota.tell(price_book(2, rate=3_000_000), "dearer", appended_at=CLOSED)
    await announcer.judge_all(CLOSED + DAY)
    assert amounts(await closings(quota, TEAM)) == [(1, 100, 0), (2, 300, 200)]


async def test_who_is_learned_of_late_takes_over_what_was_unattributed(quota: Quota) -> None:
    await company(quota)
    await quota.tell(usage("bob"), "b")
    announcer = Announcer(quota)
    await announcer.judge_all(CLOSED)
    await quota.tell(person("bob", team_id="blue"), "bob", appended_at=CLOSED)
    await announcer.judge_all(CLOSED + DAY)
    assert amounts(await closings(quota, "unattributed/")) == [(1, 100, 0), (2, 0, -100)]
    assert amounts(await closings(quota, "subject/bob/")) == [(1, 100, 0)]
    assert amounts(await closings(quota, "team/blue/")) == [(1, 100, 0)]


async def test_what_came_while_nobody_led_is_told_by_the_next_who_does(quota: Quota) -> None:
    await company(quota)
    await quota.tell(usage("ada"), "a")
    await Announcer(quota).judge_all(CLOSED)
    await quota.tell(usage("ada"), "late", appended_at=CLOSED)
    await quota.pool.execute(
        "DELETE FROM posted WHERE account_id LIKE 'cost_centre/%'"
    )  # as another version has it
    await Announcer(quota).judge_all(CLOSED + DAY)
    assert amounts(await closings(quota, TEAM)) == [(1, 100, 0), (2, 200, 100)]
    assert amounts(await closings(quota, "cost_centre/")) == [(1, 100, 0), (2, 0, -100)]


async def test_policy_says_how_long_after_its_end_a_period_is_closed_and_when_it_ends(quota: Quota) -> None:
    await company(quota, close_after_days=0, time_zone="America/New_York")
    await quota.tell(usage("ada"), "a")
    announcer = Announcer(quota)
    midnight = NOVEMBER_ENDS + timedelta(hours=5)
    await announcer.judge_all(midnight - timedelta(seconds=1))
    assert await closings(quota, TEAM) == []
    await announcer.judge_all(midnight)
    assert amounts(await closings(quota, TEAM)) == [(1, 100, 0)]


async def test_a_period_that_nobody_closed_in_time_is_never_closed(quota: Quota) -> None:
    await company(quota)
    await quota.tell(usage("ada"), "a")
    announcer = Announcer(quota)
    await announcer.judge_all(NOVEMBER_ENDS + 63 * DAY)
    await quota.tell(price_book(2, rate=3_000_000), "dearer", appended_at=NOVEMBER_ENDS + 63 * DAY)
    await announcer.judge_all(NOVEMBER_ENDS + 64 * DAY)
    assert await closings(quota) == []


async def test_one_that_was_closed_is_adjusted_for_as_long_as_anything_can_change_it(quota: Quota) -> None:
    await company(quota)
    await quota.tell(usage("ada"), "a")
    await Announcer(quota).judge_all(CLOSED)
    much_later = NOVEMBER_ENDS + 300 * DAY
    await quota.tell(price_book(2, rate=3_000_000), "dearer", time=much_later, appended_at=much_later)
    await Announcer(quota).judge_all(much_later)
    assert amounts(await closings(quota, TEAM)) == [(1, 100, 0), (2, 300, 200)]


async def test_accounts_are_told_of_chunk_by_chunk(quota: Quota, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(closing, "CHUNK", 3)
    unused = [{**CARRYING, "owner_id": f"t{number}"} for number in range(7)]
    await company(quota, budgets=unused)
    for number in range(8):
        await quota.tell(usage(f"p{number}", project=f"x{number}"), f"u{number}")
    announcer = Announcer(quota)
    made = [await announcer.judge(CLOSED) for _ in range(10)]
    assert max(made) == 3
    accounts = [each["account_id"] for each in await closings(quota)]
    assert len(accounts) == len(set(accounts)) == 8 + 1 + 7


async def test_what_is_unused_is_carried_over_up_to_the_cap_into_the_next_period_alone(
    service: Served,
) -> None:
    quota = service.quota
    await company(
        quota,
        budgets=[
            CARRYING,
            {**CARRYING, "owner_id": "spent"},
            {**CARRYING, "owner_id": "unused"},
            {"kind": "team", "owner_id": "plain", "limit_micro_usd": 1_000},
        ],
        allowances=[{"role": "engineer", "limit_micro_usd": 150, "carry_over_cap_micro_usd": 100}],
    )
    await quota.tell(person("eve", team_id="spent", role="lead"), "eve")
    await quota.tell(person("pat", team_id="plain"), "pat")
    await quota.tell(usage("ada"), "a")
    await quota.tell(usage("eve", input_tokens=1_000), "e")
    await Announcer(quota).judge_all(CLOSED)
    assert len(await relayed(quota, CLOSED)) > 0

    async def limits(now: datetime) -> dict[str, tuple[int, int]]:
        service.clock.time = now
        await service.refresh()
        found = {}
        for owner in ("team/red", "team/spent", "team/unused", "team/plain", "subject/ada", "subject/pat"):
            request = pb.GetBalanceRequest(account_id=f"{owner}/all/{now:%Y-%m}")
            answer = await service.stub.GetBalance(request, metadata=service.metadata())
            (account,) = answer.accounts
            found[owner] = (account.limit_micro_usd, account.base_limit_micro_usd)
        return found

    assert await limits(CLOSED) == {
        "team/red": (1_300, 1_000),
        "team/spent": (1_000, 1_000),
        "team/unused": (1_300, 1_000),
        "team/plain": (1_000, 1_000),
        "subject/ada": (200, 150),
        "subject/pat": (250, 150),
    }
    assert set((await limits(datetime(2027, 1, 1, tzinfo=UTC))).values()) == {(1_000, 1_000), (150, 150)}


async def test_what_was_carried_over_is_used_up_with_its_period_and_not_carried_again(quota: Quota) -> None:
    await company(quota)
    await quota.tell(usage("ada"), "a")
    announcer = Announcer(quota)
    await announcer.judge_all(CLOSED)
    await relayed(quota, CLOSED)
    december = CLOSED + 31 * DAY
    await quota.tell(usage("ada", input_tokens=860), "d", time=CLOSED, appended_at=december)
    await announcer.judge_all(december)
    (told,) = await closings(quota, "team/red/")
    assert (told["limit_micro_usd"], told["posted_micro_usd"]) == (1_300, 900)
    assert told["carry_over"]["amount_micro_usd"] == 100


async def test_a_replay_of_the_own_topic_carries_the_same_over(quota: Quota) -> None:
    await company(quota)
    await quota.tell(usage("ada"), "a")
    announcer = Announcer(quota)
    await announcer.judge_all(CLOSED)
    records = await relayed(quota, CLOSED)

    async def hashed() -> str:
        async with session(quota.url, quota.schemas, application_name="test") as connection:
            there = ("position", "event_source", "event_source_hour")
            tables = [table for table in DERIVED_TABLES if table.table not in there]
            left_out = {**NOT_DERIVED, **dict.fromkeys(there, "counts again what is read again")}
            return await state_hash(connection, "quota_v1", tables, left_out)

    before = await hashed()
    await quota.pool.execute("DELETE FROM governing_event WHERE topic = 'tokenomics.quota.v1'")
    assert await hashed() != before
    await quota.pool.execute("UPDATE position SET next_offset = 0 WHERE topic = 'tokenomics.quota.v1'")
    for record in records:
        await quota.projector.process(record.topic, record.partition, [record])
    assert await hashed() == before


async def test_closings_are_recalled_from_the_own_topic_and_adjusted_from_there(quota: Quota) -> None:
    await company(quota)
    await quota.tell(usage("ada"), "a")
    announcer = Announcer(quota)
    await announcer.judge_all(CLOSED)
    await quota.tell(usage("ada"), "late", appended_at=CLOSED)
    await announcer.judge_all(CLOSED)
    records = await relayed(quota, CLOSED)
    await quota.pool.execute("TRUNCATE announcement")
    made = [each for record in records if (each := announcement_from_record(record))]
    async with quota.pool.acquire() as connection, connection.transaction():
        await remember(connection, made)
    assert await Announcer(quota).judge_all(CLOSED + DAY) == 0
    await quota.tell(usage("ada", output_tokens=0), "later", appended_at=CLOSED)
    await Announcer(quota).judge_all(CLOSED + DAY)
    assert amounts(await closings(quota, TEAM)) == [(3, 260, 60)]


async def test_nothing_is_closed_of_the_current_period_nor_of_one_without_usage(quota: Quota) -> None:
    await company(quota, budgets=[])
    await quota.tell(usage("ada"), "a", time=NOW)
    await Announcer(quota).judge_all(NOW)
    assert await closings(quota) == []
