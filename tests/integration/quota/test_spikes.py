"""A day far above the usual asks its subject for a reason, and is told of once."""

from datetime import timedelta
from typing import Any

from tests.integration.quota.harness import Quota
from tests.integration.quota.judging import Announcer, outbox
from tests.integration.quota.serving import Served, check_request
from tests.support.quota_events import NOW, person, price_book, quota_policy, usage
from tokenomics.quota.v1 import quota_pb2 as pb

DAY = timedelta(days=1)
RULE: dict[str, Any] = {"spikes": {"minimum_micro_usd": 150}}


async def company(quota: Quota, **document: Any) -> None:
    """Ada uses 100 micro-USD on each of the last ten days, and eve nothing before today."""
    await quota.tell(price_book(), "book")
    await quota.tell(quota_policy(**(document or RULE)), "policy")
    await quota.tell(person("ada"), "p1")
    await quota.tell(person("eve"), "p2")
    for age in range(1, 11):
        await quota.tell(usage("ada"), f"u{age}", time=NOW - age * DAY)


async def decided(service: Served, subject: str = "ada", tokens: int = 0) -> pb.CheckQuotaResponse:
    await service.refresh()
    request = check_request(subject, estimated_input_tokens=tokens)
    return await service.stub.CheckQuota(request, metadata=service.metadata())


async def test_a_check_sees_the_spike_that_a_call_would_make(service: Served) -> None:
    quota = service.quota
    await company(quota)
    await quota.tell(usage("ada", input_tokens=199, output_tokens=0), "today")
    await quota.tell(usage("eve", input_tokens=900, output_tokens=0), "eve")
    assert (await decided(service, tokens=100)).decision == pb.DECISION_ALLOW
    asked = await decided(service, tokens=101)
    assert asked.decision == pb.DECISION_JUSTIFICATION_REQUIRED
    assert [reason.code for reason in asked.reasons] == ["spike"]
    assert [unblock.kind for unblock in asked.unblocks] == [pb.UNBLOCK_KIND_JUSTIFY]
    assert (await decided(service, "eve", tokens=900)).decision == pb.DECISION_ALLOW


async def test_a_check_follows_what_is_used_what_policy_says_and_the_day(service: Served) -> None:
    quota = service.quota
    await company(quota)
    await quota.tell(usage("ada", input_tokens=300, output_tokens=0), "today")
    asked, free = pb.DECISION_JUSTIFICATION_REQUIRED, pb.DECISION_ALLOW
    assert (await decided(service)).decision == asked
    await quota.tell(quota_policy(2, spikes={"minimum_micro_usd": 301}), "2")
    assert (await decided(service)).decision == free
    await quota.tell(usage("ada", input_tokens=1, output_tokens=0), "more")
    assert (await decided(service)).decision == asked
    await quota.tell(quota_policy(3), "3")
    assert (await decided(service)).decision == free
    await quota.tell(quota_policy(4, **RULE), "4")
    assert (await decided(service)).decision == asked
    service.clock.time = NOW + DAY
    assert (await decided(service)).decision == free


async def test_a_spike_is_told_of_once_a_day_with_the_numbers(quota: Quota) -> None:
    await company(quota)
    announcer = Announcer(quota)
    await quota.tell(usage("ada", input_tokens=299, output_tokens=0), "a")
    await quota.tell(usage("eve", input_tokens=900, output_tokens=0), "eve")
    assert await announcer.judge() == 0
    await quota.tell(usage("ada", input_tokens=1, output_tokens=0), "b", partition=1)
    assert await announcer.judge() == 1
    await quota.tell(usage("ada", input_tokens=500, output_tokens=0), "c")
    assert await announcer.judge() == 0
    assert await Announcer(quota).judge() == 0
    assert await outbox(quota, "tokenomics.spike.detected.v1") == [
        {
            "subject": "ada",
            "day": "2026-11-20",
            "posted_micro_usd": 300,
            "usual_micro_usd": 100,
            "spike_micro_usd": 300,
            "usual_days": 10,
            "policy_version": 1,
        }
    ]
    tomorrow = NOW + DAY
    await quota.tell(
        usage("ada", input_tokens=300, output_tokens=0), "d", time=tomorrow, appended_at=tomorrow
    )
    assert await announcer.judge(tomorrow) == 1


async def test_nobody_looks_where_policy_says_nothing_of_it(quota: Quota) -> None:
    await company(quota, default_allowance_micro_usd=10**9)
    announcer = Announcer(quota)
    await quota.tell(usage("ada", input_tokens=10_000, output_tokens=0), "a")
    assert await announcer.judge() == 0
