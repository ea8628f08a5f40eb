"""A grant lifts a block and expires on the instant, with no event and no refresh; on PostgreSQL and gRPC."""

from datetime import timedelta
from typing import Any

import grpc
import pytest

from tests.integration.quota.harness import Quota
from tests.integration.quota.judging import Announcer
from tests.integration.quota.serving import Served, check_request
from tests.integration.quota.test_announcing import ADA, company, said
from tests.support.quota_events import (
    NOW,
    approved,
    delegation,
    group,
    person,
    price_book,
    quota_policy,
    revoked,
    team,
    usage,
)
from tokenomics.quota.v1 import quota_pb2 as pb
from tokenomics_contracts.cloudevents import RejectionCode
from tokenomics_contracts.units import PeriodId
from tokenomics_quota.domain.accounts import parse_account_id
from tokenomics_quota.storage.announcements import PostgresAnnouncements
from tokenomics_quota.storage.totals import committed_totals, totals_of_owners

DAY, MOMENT = timedelta(days=1), timedelta(microseconds=1)


async def decision(service: Served, subject: str = "ada") -> str:
    answer = await service.stub.CheckQuota(check_request(subject), metadata=service.metadata())
    return pb.Decision.Name(answer.decision).removeprefix("DECISION_")


@pytest.fixture
async def blocked(service: Served) -> Served:
    """Give a service whose ada has used all of her 200 micro-USD."""
    quota = service.quota
    await quota.tell(price_book(), "book")
    await quota.tell(quota_policy(allowances=[{"role": "engineer", "limit_micro_usd": 200}]), "policy")
    await quota.tell(person("ada", manager_id="boss"), "ada")
    await quota.tell(person("boss", role="lead", team_id="blue"), "boss")
    await quota.tell(usage("ada", input_tokens=200, output_tokens=0), "a")
    await service.refresh()
    assert await decision(service) == "APPROVAL_REQUIRED"
    return service


async def test_a_grant_lifts_a_block_and_expires_on_the_instant_without_any_event(blocked: Served) -> None:
    await blocked.quota.tell(approved(since=NOW, until=NOW + DAY, amount_micro_usd=200), "r1")
    assert await decision(blocked) == "APPROVAL_REQUIRED"
    await blocked.refresh()
    assert await decision(blocked) == "ALLOW"
    blocked.clock.time = NOW + DAY - MOMENT
    assert await decision(blocked) == "ALLOW"
    blocked.clock.time = NOW + DAY
    assert await decision(blocked) == "APPROVAL_REQUIRED"
    blocked.clock.time = NOW
    assert await decision(blocked) == "ALLOW"
    await blocked.quota.tell(revoked(at=NOW + MOMENT), "r1-revoked")
    await blocked.refresh()
    assert await decision(blocked) == "ALLOW"
    blocked.clock.time = NOW + MOMENT
    assert await decision(blocked) == "APPROVAL_REQUIRED"


async def test_a_balance_tells_what_policy_gives_what_is_granted_and_what_of_it_is_lent(
    blocked: Served,
) -> None:
    quota = blocked.quota
    await quota.tell(approved("r1", amount_micro_usd=50), "r1")
    await quota.tell(group("on-call", "ada"), "on-call")
    lent = approved("r2", "break_glass", "group/on-call", amount_micro_usd=30, overdraft=True)
    await quota.tell(lent, "r2", partition=1)
    await blocked.refresh()
    balances = await blocked.stub.GetBalance(pb.GetBalanceRequest(subject="ada"), metadata=blocked.metadata())
    mine, team_red = balances.accounts
    assert (mine.limit_micro_usd, mine.base_limit_micro_usd, mine.grants_micro_usd) == (280, 200, 80)
    assert (mine.overdraft_micro_usd, mine.remaining_micro_usd, mine.band) == (30, 80, pb.BAND_NUDGE)
    assert (team_red.unlimited, team_red.limit_micro_usd, team_red.grants_micro_usd) == (True, 0, 0)
    check = await blocked.stub.CheckQuota(check_request(), metadata=blocked.metadata())
    assert check.accounts[0].grants_micro_usd == 80
    assert balances.freshness.token.next_offsets["tokenomics.approvals.v1/1"] == 1


async def test_a_justification_lets_calls_go_on_until_it_expires(blocked: Served) -> None:
    quota = blocked.quota
    await quota.tell(approved("r1", until=NOW + 9 * DAY, amount_micro_usd=20), "r1")
    await quota.tell(approved("r2", "justification", until=NOW + DAY), "r2")
    await blocked.refresh()
    answer = await blocked.stub.CheckQuota(check_request(), metadata=blocked.metadata())
    assert answer.decision == pb.DECISION_ALLOW_WITH_NUDGE
    assert [reason.code for reason in answer.reasons] == ["justified_until_expiry"]
    assert not answer.unblocks
    blocked.clock.time = NOW + DAY
    assert await decision(blocked) == "JUSTIFICATION_REQUIRED"


async def test_the_answer_names_who_can_unblock_and_they_may_look(blocked: Served) -> None:
    await blocked.quota.tell(person("deputy", team_id="blue", role="lead"), "deputy")
    await blocked.quota.tell(delegation("boss", "deputy", since=NOW, until=NOW + DAY), "d-1")
    await blocked.refresh()
    request = pb.GetBalanceRequest(account_id=ADA)

    async def who() -> list[str]:
        answer = await blocked.stub.CheckQuota(check_request(), metadata=blocked.metadata())
        return list(answer.unblocks[0].who_can_unblock)

    assert await who() == ["boss", "deputy"]
    await blocked.stub.GetBalance(request, metadata=blocked.metadata("deputy"))
    blocked.clock.time = NOW + DAY
    assert await who() == ["boss"]
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await blocked.stub.GetBalance(request, metadata=blocked.metadata("deputy"))
    assert refused.value.code() is grpc.StatusCode.PERMISSION_DENIED


async def test_a_threshold_is_said_again_only_for_another_limit(quota: Quota) -> None:
    await company(quota)  # ada may use 200
    announcer = Announcer(quota)
    await quota.tell(usage("ada", input_tokens=140, output_tokens=0), "a")
    assert await announcer.judge() == 1
    await quota.tell(approved(since=NOW, until=NOW + DAY, amount_micro_usd=50), "r1")
    assert await announcer.judge() == 0, "140 of 250 is below every threshold"
    await quota.tell(usage("ada", input_tokens=45, output_tokens=0), "b")
    assert await announcer.judge() == 1
    assert await announcer.judge(NOW + DAY - MOMENT) == 0
    assert await announcer.judge(NOW + DAY) == 1, "185 of 200: justify; that it nudged was said"
    assert await announcer.judge(NOW + 2 * DAY) == 0
    assert await said(quota) == [(ADA, 7_000, 200), (ADA, 7_000, 250), (ADA, 9_000, 200)]


async def test_a_members_limit_is_judged_anew_when_the_rota_turns(quota: Quota) -> None:
    await company(quota)
    announcer = Announcer(quota)
    await quota.tell(approved(target="group/on-call", until=NOW + 9 * DAY, amount_micro_usd=800), "r1")
    await quota.tell(group("on-call", "ada"), "g1")
    await quota.tell(group("on-call", since=NOW + DAY), "g2")
    await quota.tell(usage("ada", input_tokens=140, output_tokens=0), "a")
    assert await announcer.judge() == 0
    assert await announcer.judge(NOW + DAY) == 1


async def test_what_is_not_for_quota_is_passed_by_and_what_is_for_nobody_is_parked(quota: Quota) -> None:
    await quota.tell(person("ada"), "ada")
    await quota.tell(approved(), "r1")
    await quota.tell(approved(), "r1")
    await quota.tell(approved(amount_micro_usd=7), "r1")
    assert await quota.parked() == [RejectionCode.IDENTITY_CONFLICT]
    await quota.tell(approved("r2"), "r2", time=NOW - 63 * DAY)
    assert await quota.parked() == [RejectionCode.IDENTITY_CONFLICT, RejectionCode.TOO_LATE]


async def test_a_team_budget_is_lifted_by_a_grant_on_it(blocked: Served) -> None:
    quota = blocked.quota
    budget = [{"kind": "team", "owner_id": "red", "limit_micro_usd": 100}]
    await quota.tell(quota_policy(2, budgets=budget), "2")  # nothing but the budget limits ada now
    await blocked.refresh()
    assert await decision(blocked) == "APPROVAL_REQUIRED"
    await quota.tell(approved("r1", "budget_override", "team/red", amount_micro_usd=101), "r1")
    await blocked.refresh()
    assert await decision(blocked) == "ALLOW"


async def test_totals_of_some_owners_are_what_all_totals_say_of_them(quota: Quota) -> None:
    await quota.tell(price_book(), "book")
    await quota.tell(quota_policy(time_zone="America/New_York"), "policy")
    await quota.tell(team(cost_centre_id="cc"), "t")
    for name in ("ada", "adam"):
        await quota.tell(person(name), name)
    month_turns = NOW.replace(day=1, hour=2)  # still October in New York
    times = (NOW, month_turns, NOW - 40 * DAY, NOW + 40 * DAY)
    for number, time in enumerate(times):
        for name in ("ada", "adam"):
            for purpose in ("operational", "experiment"):
                used = usage(name, project="atlas", purpose=purpose, input_tokens=number + 1)
                event_id = f"{name}-{purpose}-{number}"
                await quota.tell(used, event_id, partition=number % 2, time=time, appended_at=time)
    owners = {("subject", "ada"), ("team", "red"), ("project", "atlas"), ("cost_centre", "cc"), ("team", "x")}
    async with quota.pool.acquire() as connection:
        for since in ("2026-10", "2026-11"):
            everybody = await committed_totals(connection, None, since=PeriodId(since))
            found = await totals_of_owners(connection, owners, since=PeriodId(since))
            assert found == {
                each: posted for each, posted in everybody.items() if parse_account_id(each)[:2] in owners
            }
        assert "subject/ada/operational/2026-12" in everybody


async def test_an_approval_has_the_totals_of_whom_it_concerns_read_and_of_nobody_else(
    quota: Quota, monkeypatch: pytest.MonkeyPatch
) -> None:
    await company(quota)  # who may use 200 each
    for name in ("bob", "eve"):
        await quota.tell(person(name), name)
    announcer, read = Announcer(quota), list[object]()
    all_totals, totals_of = PostgresAnnouncements.totals, PostgresAnnouncements.totals_of

    async def totals(self: Any, moved: Any, **since: Any) -> Any:
        if moved is None:
            read.append("everybody")
        return await all_totals(self, moved, **since)

    async def of(self: Any, owners: Any, **since: Any) -> Any:
        found = await totals_of(self, owners, **since)
        read.append(set(found))
        return found

    monkeypatch.setattr(PostgresAnnouncements, "totals", totals)
    monkeypatch.setattr(PostgresAnnouncements, "totals_of", of)
    for name in ("ada", "bob", "eve"):
        await quota.tell(usage(name, input_tokens=140, output_tokens=0), name)
    assert await announcer.judge() == 3
    await quota.tell(approved(since=NOW, until=NOW + DAY, amount_micro_usd=1), "r1")
    assert await announcer.judge() == 0, "140 of 201 is below every threshold"
    await quota.tell(usage("bob", input_tokens=45, output_tokens=0), "bob-2")
    assert await announcer.judge() == 1
    assert await announcer.judge(NOW + DAY) == 0, "that 140 of 200 nudges was said"
    await quota.tell(person("ada", manager_id="boss"), "ada")
    assert await announcer.judge(NOW + DAY) == 0
    ada = "subject/ada/operational/2026-11"
    assert read == ["everybody", {ada}, {ada}, "everybody"]


async def test_an_approval_leaves_what_is_kept_of_others(blocked: Served) -> None:
    def kept(subject: str) -> object:
        return blocked.view.touched_by(subject, None, NOW)

    # A view reads all anew when a partition is heard of for the first time.
    await blocked.quota.tell(approved("r0", target="team/green"), "r0")
    await blocked.refresh()
    ada, boss = kept("ada"), kept("boss")
    await blocked.quota.tell(approved(since=NOW, until=NOW + DAY, amount_micro_usd=200), "r1")
    await blocked.refresh()
    assert kept("boss") is boss
    assert kept("ada") is not ada
    assert await decision(blocked) == "ALLOW"
