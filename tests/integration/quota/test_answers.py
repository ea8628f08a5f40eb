"""The gRPC service on a real view: what it answers, and what it refuses with which words."""

import asyncio
from collections.abc import Callable
from datetime import timedelta

import grpc
import pytest

from tests.integration.quota.harness import Quota
from tests.integration.quota.serving import (
    CALLER,
    Served,
    check_request,
    company,
    refused,
    violated_fields,
)
from tests.support.clocks import SetClock
from tests.support.quota_events import NOW, NoPrices, person, price_book, quota_policy, usage
from tokenomics.quota.v1 import quota_pb2 as pb
from tokenomics_chassis.changes import POLL_SECONDS
from tokenomics_contracts.units import MAX_COST_MICRO_USD, AccountId, MicroUsd, PeriodId
from tokenomics_quota.domain.accounts import Account, AccountKind, Purpose
from tokenomics_quota.domain.checks import Call, Decided
from tokenomics_quota.domain.policies import Limit
from tokenomics_quota.domain.pricing import Quantities
from tokenomics_quota.projections.balances import QuotaView
from tokenomics_quota.projections.freshness import FreshnessMeter
from tokenomics_quota.projections.governance import Governance
from tokenomics_quota.rpc.moments import Moments
from tokenomics_quota.storage.decision_log import OutboxDecisionLog
from tokenomics_quota.storage.view_feed import not_ready_because
from tokenomics_quota.streams.events import OWN_TOPIC, decision_event
from tokenomics_quota.usecases.checking import Terms, check


async def test_nothing_is_answered_before_the_view_is_loaded(service: Served) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await service.stub.CheckQuota(check_request(), metadata=service.metadata())
    assert refused.value.code() is grpc.StatusCode.UNAVAILABLE


async def test_a_check_answers_from_what_is_projected_and_leaves_a_record(service: Served) -> None:
    await company(service.quota)
    await service.refresh()
    answer = await service.stub.CheckQuota(
        check_request(estimated_input_tokens=10), metadata=service.metadata()
    )
    assert answer.decision == pb.DECISION_ALLOW_WITH_NUDGE
    assert answer.accounts[0].posted_micro_usd == 150
    assert answer.accounts[0].remaining_micro_usd == 50
    assert answer.estimated_cost_micro_usd == 10
    assert answer.freshness.token.next_offsets["tokenomics.usage.v1/0"] == 1
    assert answer.freshness.stale
    (kept,) = service.decisions.kept
    assert (answer.decision_id, kept.caller) == ("kept-1", CALLER)
    plain = await service.stub.CheckQuota(check_request("eve"), metadata=service.metadata())
    assert plain.decision == pb.DECISION_ALLOW
    assert len(service.decisions.kept) == 1


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"subject": ""}, "subject"),
        ({"subject": "ada@example.org"}, "subject"),
        ({"provider": "a b"}, "provider"),
        ({"model": ""}, "model"),
        ({"estimated_input_tokens": -1}, "estimated_input_tokens"),
        ({"estimated_output_tokens": 10**10}, "estimated_output_tokens"),
        ({"estimated_cached_input_tokens": 5}, "estimated_cached_input_tokens"),
        ({"service_tier": 9}, "service_tier"),
        ({"purpose": pb.PURPOSE_ALL}, "purpose"),
        ({"project": "a/b"}, "project"),
        ({"use_case": " "}, "use_case"),
        ({"data_class": "Secret!"}, "data_class"),
    ],
)
async def test_a_malformed_field_is_refused_by_name(
    service: Served, fields: dict[str, object], field: str
) -> None:
    await service.refresh()
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await service.stub.CheckQuota(check_request(**fields), metadata=service.metadata())  # type: ignore[arg-type] # wrong on purpose
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert field in violated_fields(refused.value)


async def test_what_is_denied_names_the_permitted_way_and_leaves_a_record_of_the_data_class(
    service: Served,
) -> None:
    await company(service.quota)
    prohibited = [{"data_class": "health", "permitted_way": "Use the clinic's own system."}]
    await service.quota.tell(quota_policy(2, prohibited_data=prohibited), "2")
    await service.refresh()
    request = check_request(data_class="health", use_case="triage")
    answer = await service.stub.CheckQuota(request, metadata=service.metadata())
    assert answer.decision == pb.DECISION_DENIED
    assert [(each.code, each.account_id) for each in answer.reasons] == [("data_class_prohibited", "")]
    (way,) = answer.unblocks
    assert (way.kind, way.message) == (pb.UNBLOCK_KIND_USE_PERMITTED_WAY, "Use the clinic's own system.")
    assert not way.who_can_unblock
    (kept,) = service.decisions.kept
    assert (kept.call.data_class, kept.call.use_case_id) == ("health", "triage")


async def test_a_balance_tells_what_the_role_gives_and_what_projects_make_of_it(service: Served) -> None:
    await company(service.quota)
    override = {"project_id": "apollo", "mode": "add", "limit_micro_usd": 50}
    allowance = {"role": "engineer", "limit_micro_usd": 200}
    await service.quota.tell(quota_policy(2, allowances=[allowance], overrides=[override]), "2")
    await service.quota.tell(person("ada", manager_id="boss", project_ids=["apollo"]), "ada-2")
    await service.refresh()
    answer = await service.stub.CheckQuota(check_request(), metadata=service.metadata())
    own = answer.accounts[0]
    assert (own.allowance_micro_usd, own.base_limit_micro_usd, own.limit_micro_usd) == (200, 250, 250)


async def test_an_experiment_is_answered_with_the_accounts_for_experiments(service: Served) -> None:
    await company(service.quota)
    budget = {"kind": "team", "owner_id": "red", "limit_micro_usd": 900, "experiment_limit_micro_usd": 100}
    await service.quota.tell(quota_policy(2, budgets=[budget]), "2")
    await service.refresh()
    request = check_request(purpose=pb.PURPOSE_EXPERIMENT)
    answer = await service.stub.CheckQuota(request, metadata=service.metadata())
    assert [(each.account_id, each.purpose, each.limit_micro_usd) for each in answer.accounts] == [
        ("subject/ada/all/2026-11", pb.PURPOSE_ALL, 0),
        ("team/red/all/2026-11", pb.PURPOSE_ALL, 900),
        ("subject/ada/experiment/2026-11", pb.PURPOSE_EXPERIMENT, 0),
        ("team/red/experiment/2026-11", pb.PURPOSE_EXPERIMENT, 100),
    ]
    single = pb.GetBalanceRequest(account_id="team/red/experiment/2026-11")
    balance = await service.stub.GetBalance(single, metadata=service.metadata())
    assert balance.accounts[0] == answer.accounts[3]


async def test_an_experiment_is_checked_on_the_same_accounts_whoever_asks(service: Served) -> None:
    await company(service.quota)
    budget = {"kind": "team", "owner_id": "red", "limit_micro_usd": 500, "experiment_limit_micro_usd": 100}
    await service.quota.tell(quota_policy(2, budgets=[budget]), "2")
    await service.refresh()
    request = check_request(purpose=pb.PURPOSE_EXPERIMENT)
    found = [
        [each.account_id for each in answer.accounts]
        for person_id in (None, "ada")
        for answer in [await service.stub.CheckQuota(request, metadata=service.metadata(person_id))]
    ]
    assert found[0] == found[1]
    assert "team/red/experiment/2026-11" in found[0]


async def test_a_person_sees_their_own_balance_and_no_others(service: Served) -> None:
    await company(service.quota)
    await service.refresh()
    request = pb.GetBalanceRequest(subject="ada")
    own = await service.stub.GetBalance(request, metadata=service.metadata("ada"))
    assert [account.account_id for account in own.accounts] == ["subject/ada/all/2026-11"]
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await service.stub.GetBalance(request, metadata=service.metadata("eve"))
    assert refused.value.code() is grpc.StatusCode.PERMISSION_DENIED
    listed = await service.stub.ListBalances(pb.ListBalancesRequest(), metadata=service.metadata("eve"))
    assert list(listed.accounts) == []
    everything = await service.stub.ListBalances(pb.ListBalancesRequest(), metadata=service.metadata())
    assert len(everything.accounts) == 2


async def test_a_refusal_doesnt_tell_whether_a_colleague_has_used_anything(service: Served) -> None:
    await company(service.quota)
    await service.refresh()
    for owner_id in ("ada", "nobody-at-all"):
        request = pb.GetBalanceRequest(account_id=f"subject/{owner_id}/all/2026-11")
        code = await refused(service.stub.GetBalance(request, metadata=service.metadata("eve")))
        assert code is grpc.StatusCode.PERMISSION_DENIED


async def test_a_persons_balances_hold_no_project_or_team_that_is_not_theirs(service: Served) -> None:
    await company(service.quota)
    await service.quota.tell(person("boss", role="lead", team_id="blue"), "boss")
    await service.quota.tell(usage("ada", project="apollo"), "apollo")
    await service.refresh()
    request = pb.GetBalanceRequest(subject="boss", project="apollo")
    code = await refused(service.stub.GetBalance(request, metadata=service.metadata("boss")))
    assert code is grpc.StatusCode.PERMISSION_DENIED
    request = pb.GetBalanceRequest(subject="ada")
    reports = await service.stub.GetBalance(request, metadata=service.metadata("boss"))
    assert [account.account_id for account in reports.accounts] == ["subject/ada/all/2026-11"]


async def test_every_account_decides_and_only_those_that_may_be_seen_carry_numbers(service: Served) -> None:
    await company(service.quota)
    await service.quota.tell(
        quota_policy(2, budgets=[{"kind": "project", "owner_id": "apollo", "limit_micro_usd": 100}]), "budget"
    )
    await service.quota.tell(usage("eve", project="apollo", input_tokens=100), "apollo")
    await service.refresh()
    request = check_request(project="apollo")
    answer = await service.stub.CheckQuota(request, metadata=service.metadata("ada"))
    assert answer.decision == pb.DECISION_APPROVAL_REQUIRED
    assert answer.accounts[1] == pb.AccountBalance(
        account_id="project/apollo/all/2026-11",
        kind=pb.ACCOUNT_KIND_PROJECT,
        owner_id="apollo",
        period="2026-11",
        band=pb.BAND_APPROVE,
    )
    assert answer.accounts[0].posted_micro_usd == 150
    assert not answer.HasField("caps")


async def test_a_project_beside_an_account_id_is_refused(service: Served) -> None:
    await company(service.quota)
    await service.refresh()
    request = pb.GetBalanceRequest(account_id="team/red/all/2026-11", project="apollo")
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await service.stub.GetBalance(request, metadata=service.metadata())
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert violated_fields(refused.value) == {"project"}


@pytest.mark.parametrize("period", ["2026-1", "9999-12", "2026-13"])
async def test_a_period_that_is_none_is_refused(service: Served, period: str) -> None:
    await service.refresh()
    for answering in (
        service.stub.ListBalances(pb.ListBalancesRequest(period=period), metadata=service.metadata()),
        service.stub.GetBalance(
            pb.GetBalanceRequest(account_id=f"team/red/all/{period}"), metadata=service.metadata()
        ),
        service.stub.ListBalances(
            pb.ListBalancesRequest(page_token=f"team/red/all/{period}"), metadata=service.metadata()
        ),
    ):
        assert await refused(answering) is grpc.StatusCode.INVALID_ARGUMENT


@pytest.mark.parametrize(
    ("filters", "owners"),
    [
        ({"kind": pb.ACCOUNT_KIND_TEAM}, ["blue", "red"]),
        ({"owner_id": "ada"}, ["ada"]),
        ({"owner_id": "ada", "kind": pb.ACCOUNT_KIND_TEAM}, []),
        ({"subject": "ada"}, ["ada", "red"]),
        ({"subject": "ada", "owner_id": "red"}, ["red"]),
        ({"page_token": "subject/ada/all/2026-11"}, ["eve", "blue", "red"]),
        ({"page_token": "subject/ada/all/2026-11", "kind": pb.ACCOUNT_KIND_TEAM}, ["blue", "red"]),
        ({"page_token": "team/blue/all/2026-11", "kind": pb.ACCOUNT_KIND_TEAM}, ["red"]),
    ],
)
async def test_balances_are_filtered_by_all_that_is_asked_for(
    service: Served, filters: dict[str, object], owners: list[str]
) -> None:
    await company(service.quota)
    await service.quota.tell(usage("eve"), "eve-1")
    await service.refresh()
    request = pb.ListBalancesRequest(**filters)  # type: ignore[arg-type] # the fields of the request
    listed = await service.stub.ListBalances(request, metadata=service.metadata())
    assert [account.owner_id for account in listed.accounts] == owners


async def test_a_past_periods_balances_are_those_of_the_team_of_then(service: Served) -> None:
    await company(service.quota)
    service.clock.time = NOW + timedelta(days=30)
    await service.quota.tell(person("ada", since=NOW + timedelta(days=20), team_id="blue"), "moved")
    await service.refresh()
    request = pb.ListBalancesRequest(subject="ada", period="2026-11")
    listed = await service.stub.ListBalances(request, metadata=service.metadata())
    assert [account.owner_id for account in listed.accounts] == ["ada", "red"]


async def test_a_call_dearer_than_an_event_can_be_is_refused(service: Served) -> None:
    await service.quota.tell(price_book(rate=10**9), "book")
    await service.refresh()
    service.level()
    check = check_request(estimated_input_tokens=10**9)
    price = pb.EstimateCostRequest(provider="acme", model="one", input_tokens=10**9)
    affordable = await service.stub.EstimateCost(price, metadata=service.metadata())
    assert affordable.cost_micro_usd == MAX_COST_MICRO_USD
    assert (await service.stub.CheckQuota(check, metadata=service.metadata())).decision == pb.DECISION_ALLOW
    check.estimated_output_tokens = price.output_tokens = 1
    for answering in (
        service.stub.CheckQuota(check, metadata=service.metadata()),
        service.stub.EstimateCost(price, metadata=service.metadata()),
    ):
        assert await refused(answering) is grpc.StatusCode.INVALID_ARGUMENT


async def test_pages_of_balances_join_to_the_whole(service: Served) -> None:
    await company(service.quota)
    for number in range(5):
        await service.quota.tell(usage(f"s{number}", project=f"p{number}"), f"u{number}")
    await service.refresh()
    token, seen = "", list[str]()
    while True:
        page = await service.stub.ListBalances(
            pb.ListBalancesRequest(page_size=2, page_token=token), metadata=service.metadata()
        )
        seen += [account.account_id for account in page.accounts]
        token = page.next_page_token
        if not token:
            break
    assert len(seen) == 8
    assert seen == sorted(set(seen))


async def test_an_account_that_no_limit_and_no_cost_touched_is_not_found(service: Served) -> None:
    alias = "alias:" + "e" * 32
    await service.quota.tell(quota_policy(default_allowance_micro_usd=5), "policy")
    await service.quota.tell(person("ada", aliases=[alias]), "ada")
    await service.quota.tell(usage("ada", cost_micro_usd=0, project="free"), "free")
    await service.refresh()
    for account_id in (
        "project/free/all/2026-11",
        "team/none/all/2026-11",
        "team/none/all/2020-01",
        "subject/nobody-at-all/all/2026-11",
        f"subject/{alias}/all/2026-11",
    ):
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await service.stub.GetBalance(
                pb.GetBalanceRequest(account_id=account_id), metadata=service.metadata()
            )
        assert refused.value.code() is grpc.StatusCode.NOT_FOUND


async def test_an_estimate_is_priced_at_the_time_asked_for(service: Served) -> None:
    await service.quota.tell(price_book(since=NOW - timedelta(days=1), rate=3_000_000), "book")
    await service.refresh()
    request = pb.EstimateCostRequest(provider="acme", model="one", input_tokens=10)
    now = await service.stub.EstimateCost(request, metadata=service.metadata())
    assert (now.cost_micro_usd, now.pricing, now.price_book_version) == (30, pb.PRICING_BOOK, 1)
    request.at.FromDatetime(NOW - timedelta(days=2))
    then = await service.stub.EstimateCost(request, metadata=service.metadata())
    assert (then.cost_micro_usd, then.pricing, then.price_book_version) == (0, pb.PRICING_FALLBACK, 0)


async def test_the_view_heals_itself_within_a_second_of_a_missed_signal(service: Served) -> None:
    assert POLL_SECONDS < 1
    await company(service.quota)
    stopping = asyncio.Event()
    following = asyncio.create_task(service.feed.run(stopping))
    try:
        await service.refresh()
        # As a projector commits, but without its NOTIFY.
        async with service.quota.pool.acquire() as connection, connection.transaction():
            moved = await connection.fetchrow(
                "UPDATE position SET change_seq = change_seq + 1, next_offset = next_offset + 1"
                " WHERE topic = 'tokenomics.usage.v1' RETURNING source_id, change_seq"
            )
            await connection.execute(
                "UPDATE posted SET posted_micro_usd = 175, change_seq = $2"
                " WHERE source_id = $1 AND account_id LIKE 'subject/ada/%'",
                *(moved or ()),
            )
        async with asyncio.timeout(30):
            while True:
                answer = await service.stub.CheckQuota(check_request(), metadata=service.metadata())
                if answer.accounts[0].posted_micro_usd == 175:
                    break
    finally:
        stopping.set()
        await following


ADA = Account(AccountKind.SUBJECT, "ada", Purpose.ALL, PeriodId("2026-11"))


async def test_a_new_session_keeps_nothing_of_a_database_that_went_back(service: Served) -> None:
    await company(service.quota)
    await _follow_until(service, lambda: service.view.posted(ADA) == 150)
    assert service.view.governance.limit(AccountKind.SUBJECT, "ada", NOW) == Limit(
        MicroUsd(200), allowance_micro_usd=MicroUsd(200)
    )
    async with service.quota.pool.acquire() as connection:
        await connection.execute("TRUNCATE posted, governing_event, position CASCADE")
        await connection.execute("DELETE FROM governing_version WHERE number > 0")
    await _follow_until(service, lambda: service.view.posted(ADA) == 0)
    assert service.view.governance.limit(AccountKind.SUBJECT, "ada", NOW) is None
    assert service.view.next_offsets == {}


async def _follow_until(service: Served, holds: Callable[[], bool]) -> None:
    stopping = asyncio.Event()
    following = asyncio.create_task(service.feed.run(stopping))
    try:
        async with asyncio.timeout(30):
            while not holds():  # noqa: ASYNC110 - the feed tells nobody that it has refreshed
                await asyncio.sleep(0.01)
    finally:
        stopping.set()
        await following


async def test_a_source_that_never_writes_rows_reloads_nothing(service: Served) -> None:
    await company(service.quota)
    async with service.quota.pool.acquire() as connection:
        await connection.execute(
            "INSERT INTO position (topic, partition, next_offset, change_seq) VALUES ($1, 0, 1, 0)", OWN_TOPIC
        )
        await service.refresh()
        mark = {AccountId("subject/ada/operational/2026-11"): MicroUsd(7)}
        service.view.put_totals(mark)
        await connection.execute("UPDATE position SET next_offset = 2 WHERE topic = $1", OWN_TOPIC)
    await service.refresh()
    assert service.view.next_offsets[f"{OWN_TOPIC}/0"] == 2
    assert service.view.posted(ADA) == 7


async def test_a_clock_that_stepped_ahead_and_back_costs_no_totals(service: Served) -> None:
    await company(service.quota)
    service.clock.time = NOW + timedelta(days=70)
    await service.refresh()
    assert service.view.posted(ADA) == 0
    service.clock.time = NOW
    await service.refresh()
    assert service.view.posted(ADA) == 150


async def test_a_view_is_ready_once_loaded_and_while_an_outage_is_short(service: Served) -> None:
    assert not_ready_because(service.view, NOW) is not None
    await service.refresh()
    assert not_ready_because(service.view, NOW + timedelta(seconds=60)) is None
    assert not_ready_because(service.view, NOW + timedelta(seconds=61)) is not None


def decided(caller: str = CALLER) -> Decided:
    call = Call("ada", "acme", "one", Quantities(1), None)
    view = QuotaView(Governance(NoPrices()))
    answer = check(Terms.at(view.governance, NOW), view.touched_by("ada", None, NOW), call, NOW)
    return Decided(call, caller, answer, {}, stale=False, decided_at=NOW)


async def test_a_decision_that_cant_be_recorded_harms_no_other(quota: Quota) -> None:
    # The second of one id is refused by the database, as after a commit whose answer was lost.
    ids = iter(("d1", "d2", "d3", "d3", "d4"))
    log, stopping = OutboxDecisionLog(quota.pool, decision_event, lambda: next(ids)), asyncio.Event()
    log.add(decided(caller="no printable\ncaller"))
    for _ in range(4):
        log.add(decided())
    stopping.set()
    await log.run(stopping)
    rows = await quota.pool.fetch("SELECT aggregate_id FROM outbox ORDER BY id")
    assert [row[0] for row in rows] == ["decision/d2", "decision/d3", "decision/d4"]


def test_a_stale_view_says_so_though_the_clock_was_set_back() -> None:
    meter, clock = FreshnessMeter(), SetClock()
    view, moments = QuotaView(Governance(NoPrices())), Moments(meter, clock)
    meter.observe_ends({}, clock.steady())
    meter.observe_view({})
    assert moments.at(view, clock.now()).freshness.stale is False
    clock.time, clock.set_back_by = NOW - timedelta(hours=1), timedelta(hours=1, seconds=11)
    assert moments.at(view, clock.now()).freshness.stale is True


def test_a_view_a_moment_behind_a_busy_log_is_not_stale() -> None:
    meter = FreshnessMeter()
    assert meter.lag(NOW) is None
    for second in range(100):
        now = NOW + timedelta(seconds=second)
        meter.observe_ends({"topic/0": 1_000 * (second + 1)}, now)
        meter.observe_view({"topic/0": 1_000 * second})
    assert meter.lag(now) == timedelta(seconds=1)
    meter.observe_view({"topic/0": 99_000})
    assert meter.lag(now + timedelta(minutes=1)) == timedelta(seconds=61)
