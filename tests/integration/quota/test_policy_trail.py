"""Each policy version that came into force is in the audit trail, once."""

from tests.integration.quota.harness import TRAIL, Quota
from tests.support.quota_events import person, price_book, quota_policy
from tokenomics_quota.storage.policy_trail import PolicyTrail


async def recorded(quota: Quota) -> list[tuple[str, str]]:
    entries = await TRAIL.entries(quota.pool, oldest_first=True, limit=100)
    assert {each.action for each in entries} <= {"policy.published"}
    return [(each.target, each.details["replaces"]) for each in entries]


async def judge(quota: Quota, trail: PolicyTrail) -> None:
    async with quota.pool.acquire() as connection, connection.transaction():
        await trail.record(connection)


async def test_each_version_is_recorded_once_whoever_looks_how_often(quota: Quota) -> None:
    trail = PolicyTrail(TRAIL)
    await judge(quota, trail)
    assert await recorded(quota) == []
    await quota.tell(person("ada"), "ada")
    await quota.tell(price_book(), "book")
    await quota.tell(quota_policy(), "1")
    await judge(quota, trail)
    await quota.tell(quota_policy(2), "2")
    await quota.tell(quota_policy(2), "2")
    for leader in (trail, trail, PolicyTrail(TRAIL)):
        await judge(quota, leader)
    assert await recorded(quota) == [("price_book/1", "0"), ("quota/1", "0"), ("quota/2", "1")]


async def test_what_is_parked_is_not_recorded_and_what_is_says_where_it_was_published(quota: Quota) -> None:
    await quota.tell(quota_policy(), "1")
    await quota.tell(quota_policy(3, replaces=2), "3")
    await judge(quota, PolicyTrail(TRAIL))
    (entry,) = await TRAIL.entries(quota.pool, limit=10)
    assert entry.target == "quota/1"
    assert entry.details["record"] == "tokenomics.policy.v1/0/0"
    assert await quota.parked() == ["policy_mismatch"]


async def test_a_rebuild_records_nothing_again_and_a_lost_projection_neither(quota: Quota) -> None:
    trail = PolicyTrail(TRAIL)
    await quota.tell(quota_policy(), "1")
    await judge(quota, trail)
    await quota.pool.execute("DELETE FROM governing_event")
    await quota.pool.execute("DELETE FROM governing_version WHERE number > 0")
    await judge(quota, trail)
    await quota.tell(quota_policy(), "1")
    await quota.tell(quota_policy(2), "2")
    await judge(quota, trail)
    assert await recorded(quota) == [("quota/1", "0"), ("quota/2", "1")]
