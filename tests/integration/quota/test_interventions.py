"""Frozen and closed accounts refuse at once, and a bypass lets a scope pass until its instant, audited."""

import asyncio
import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from google.rpc.error_details_pb2 import ErrorInfo

from tests.integration.quota.company import refused, stand_at
from tests.integration.quota.harness import TRAIL, Quota, hold_ledger, intervention_ledger
from tests.integration.quota.serving import CALLER, Served, check_request, serve, violated_fields
from tests.integration.quota.test_holds import detail, place
from tests.support.quota_events import person, price_book, project, quota_policy, team, usage
from tokenomics.quota.v1 import quota_pb2 as pb
from tokenomics_chassis.postgres import create_pool
from tokenomics_chassis.records import Record
from tokenomics_quota.bootstrap import migrations
from tokenomics_quota.storage.hold_ledger import open_ledger
from tokenomics_quota.storage.told_changes import ToldChanges
from tokenomics_quota.streams.ledger_events import told_change_from_record
from tokenomics_quota.usecases.intervening import expire_bypasses
from tokenomics_tools.stack import Stack

# Far ahead of any clock: the ledger's now stands still there, until a test moves it.
NOW = datetime(2150, 5, 15, 12, tzinfo=UTC)
ADA, RED, ATLAS = (f"{line}/all/2150-05" for line in ("subject/ada", "team/red", "project/atlas"))
WHY: dict[str, Any] = {"reason_code": "leaver", "ticket_id": "OPS-7"}
HOUR = timedelta(hours=1)


@pytest.fixture
async def served(quota: Quota, tmp_path: Path) -> AsyncIterator[Served]:
    """Serve a company whose team has a hard limit of 100 micro-USD, and whose ada has used hers up."""
    await quota.tell(price_book(), "book")
    await quota.tell(
        quota_policy(
            allowances=[{"role": "engineer", "limit_micro_usd": 50}],
            budgets=[
                {"kind": "team", "owner_id": "red", "limit_micro_usd": 100, "enforcement": "hard"},
                {"kind": "project", "owner_id": "atlas", "limit_micro_usd": 10_000},
            ],
            prohibited_data=[{"data_class": "health", "permitted_way": "Use the clinic's own system."}],
        ),
        "policy",
    )
    await quota.tell(team("red", owner_id="lead"), "red")
    await quota.tell(project("atlas", owner_id="lead"), "atlas")
    await quota.tell(person("ada", manager_id="boss"), "ada")
    for name in ("boss", "lead", "bob"):
        await quota.tell(person(name, team_id="blue"), name)
    for privilege in ("operator", "governance", "auditor"):
        await quota.tell(person(privilege, team_id="blue", privileges=[privilege]), privilege)
    await quota.tell(usage("ada", input_tokens=60, output_tokens=0), "u", time=NOW, appended_at=NOW)
    await stand_at(quota, NOW)
    async with quota.pool.acquire() as connection:
        await open_ledger(connection)
    async with serve(quota, tmp_path) as made:
        made.clock.time = NOW
        await made.refresh()
        yield made


async def move(served: Served, what: str, account_id: str = RED, by: str | None = "operator") -> Any:
    request = getattr(pb, f"{what}AccountRequest")(account_id=account_id, **WHY)
    answer = await getattr(served.stub, f"{what}Account")(request, metadata=served.metadata(by))
    await served.refresh()
    assert answer.token == pb.FreshnessToken(
        aggregate_id="ledger", aggregate_version=served.view.ledger_change_seq
    )
    return answer


def bypass(bypass_id: str = "b", until: datetime = NOW + HOUR, **fields: Any) -> pb.StartBypassRequest:
    scope: dict[str, Any] = {"scope_kind": pb.ACCOUNT_KIND_TEAM, "scope_owner_id": "red"}
    request = pb.StartBypassRequest(**({"bypass_id": bypass_id} | scope | WHY | fields))
    request.until.FromDatetime(until)
    return request


async def start(
    served: Served, request: pb.StartBypassRequest | None = None, by: str | None = "operator"
) -> None:
    await served.stub.StartBypass(request or bypass(), metadata=served.metadata(by))
    await served.refresh()


async def end(served: Served, bypass_id: str = "b", by: str | None = "operator") -> None:
    request = pb.EndBypassRequest(bypass_id=bypass_id, reason_code="over", ticket_id="OPS-8")
    await served.stub.EndBypass(request, metadata=served.metadata(by))
    await served.refresh()


async def check(
    served: Served, tokens: int = 1, subject: str = "ada", **fields: Any
) -> pb.CheckQuotaResponse:
    request = check_request(subject, estimated_input_tokens=tokens, **fields)
    answer: pb.CheckQuotaResponse = await served.stub.CheckQuota(request, metadata=served.metadata())
    return answer


def codes(answer: pb.CheckQuotaResponse) -> list[str]:
    return [reason.code for reason in answer.reasons]


async def told(quota: Quota, word: str) -> list[dict[str, Any]]:
    rows = await quota.pool.fetch(
        "SELECT value, header_names, header_values FROM outbox WHERE aggregate_id LIKE $1 ORDER BY id",
        f"{word}/%",
    )
    found = []
    for row in rows:
        headers = dict(zip(row["header_names"], row["header_values"], strict=True))
        found.append({"type": headers["ce_type"].decode().split(".")[2]} | json.loads(row["value"]))
    return found


async def recorded(quota: Quota) -> list[tuple[str, str, str]]:
    entries = await TRAIL.entries(quota.pool, oldest_first=True, limit=100)
    return [(each.action, each.target, each.actor) for each in entries]


async def test_a_frozen_account_takes_no_holds_at_once_and_usage_still_counts(served: Served) -> None:
    await place(served, "before", 5, subject="bob", call={"project": "atlas"})
    request = pb.FreezeAccountRequest(account_id=ATLAS, **WHY)
    await served.stub.FreezeAccount(request, metadata=served.metadata("operator"))
    error = await refused(place(served, "after", 5, subject="bob", call={"project": "atlas"}))
    assert error.code() is grpc.StatusCode.FAILED_PRECONDITION
    assert ATLAS in (error.details() or "")
    await served.refresh()
    answer = await check(served, subject="bob", project="atlas")
    assert (answer.decision, codes(answer)) == (pb.DECISION_APPROVAL_REQUIRED, ["account_frozen"])
    (way,) = answer.unblocks
    assert (way.kind, list(way.who_can_unblock)) == (pb.UNBLOCK_KIND_REQUEST_APPROVAL, ["lead"])
    assert (await check(served, subject="bob")).decision == pb.DECISION_ALLOW
    await served.quota.tell(
        usage("bob", project="atlas", input_tokens=1, output_tokens=0), "late", time=NOW, appended_at=NOW
    )
    await served.refresh()
    balance = await served.stub.GetBalance(pb.GetBalanceRequest(account_id=ATLAS), metadata=served.metadata())
    assert balance.accounts[0].posted_micro_usd > 0
    await served.stub.ReleaseHold(pb.ReleaseHoldRequest(hold_id="before"), metadata=served.metadata())

    await move(served, "Unfreeze", ATLAS)
    assert (await check(served, subject="bob", project="atlas")).decision == pb.DECISION_ALLOW
    await place(served, "after", 5, subject="bob", call={"project": "atlas"})


async def test_a_closed_account_is_denied_and_never_opens(served: Served) -> None:
    await place(served, "before", 5, subject="bob", call={"project": "atlas"})
    error = await refused(move(served, "Close", ATLAS, "governance"))
    assert error.code() is grpc.StatusCode.FAILED_PRECONDITION
    assert "are held" in (error.details() or "")
    await served.stub.ReleaseHold(pb.ReleaseHoldRequest(hold_id="before"), metadata=served.metadata())
    await move(served, "Close", ATLAS, "governance")
    await move(served, "Close", ATLAS, "governance")
    answer = await check(served, subject="bob", project="atlas")
    assert (answer.decision, codes(answer)) == (pb.DECISION_DENIED, ["account_closed"])
    assert answer.unblocks[0].kind == pb.UNBLOCK_KIND_USE_PERMITTED_WAY
    for what in ("Freeze", "Unfreeze"):
        error = await refused(move(served, what, ATLAS))
        assert error.code() is grpc.StatusCode.FAILED_PRECONDITION
    error = await refused(place(served, "after", 5, subject="bob", call={"project": "atlas"}))
    assert error.code() is grpc.StatusCode.FAILED_PRECONDITION
    assert [each["type"] for each in await told(served.quota, "account")] == ["closed"]


async def test_each_change_is_told_and_recorded_once(served: Served) -> None:
    for what in ("Freeze", "Freeze", "Unfreeze", "Unfreeze", "Freeze"):
        await move(served, what, by="lead")
    assert [
        (each["type"], each["account_id"], each["decided_by"]) for each in await told(served.quota, "account")
    ] == [
        ("frozen", RED, "lead"),
        ("unfrozen", RED, "lead"),
        ("frozen", RED, "lead"),
    ]
    assert await recorded(served.quota) == [
        ("account.frozen", RED, "lead"),
        ("account.unfrozen", RED, "lead"),
        ("account.frozen", RED, "lead"),
    ]


@pytest.mark.parametrize("what", ["Freeze", "Unfreeze", "Close", "Start", "End"])
async def test_only_who_may_decide_intervenes(served: Served, what: str) -> None:
    owners = {"lead"} if what in {"Freeze", "Unfreeze"} else set[str]()
    allowed = owners | ({"governance"} if what == "Close" else {"operator"})
    for person_id in ("ada", "bob", "boss", "lead", "operator", "governance", "auditor", "nobody"):
        if person_id in allowed:
            continue
        if what == "Start":
            error = await refused(start(served, by=person_id))
        elif what == "End":
            error = await refused(end(served, by=person_id))
        else:
            error = await refused(move(served, what, by=person_id))
        assert error.code() is grpc.StatusCode.PERMISSION_DENIED, person_id
    assert await recorded(served.quota) == []


async def test_a_manager_freezes_a_reports_account_and_a_workload_whatever_it_is_listed_for(
    served: Served,
) -> None:
    await move(served, "Freeze", ADA, by="boss")
    await move(served, "Close", ADA, by=None)
    assert await recorded(served.quota) == [
        ("account.frozen", ADA, "boss"),
        ("account.closed", ADA, CALLER),
    ]


@pytest.mark.parametrize(
    ("account_id", "code"),
    [
        ("project/unheard-of/all/2150-05", grpc.StatusCode.NOT_FOUND),
        ("team/red/all/2150-01", grpc.StatusCode.NOT_FOUND),
        ("team/red/operational/2150-05", grpc.StatusCode.INVALID_ARGUMENT),
        ("team/red/all/2150-13", grpc.StatusCode.INVALID_ARGUMENT),
        ("red", grpc.StatusCode.INVALID_ARGUMENT),
        ("", grpc.StatusCode.INVALID_ARGUMENT),
    ],
)
async def test_only_an_account_that_is_there_can_be_shut(
    served: Served, account_id: str, code: grpc.StatusCode
) -> None:
    for what, by in (("Freeze", "operator"), ("Unfreeze", "operator"), ("Close", "governance")):
        error = await refused(move(served, what, account_id, by))
        assert error.code() is code
        if code is grpc.StatusCode.INVALID_ARGUMENT:
            assert violated_fields(error) == {"account_id"}


async def test_a_bypass_lets_pass_until_its_instant_and_leaves_a_record(served: Served) -> None:
    blocked = await check(served)
    assert blocked.decision == pb.DECISION_APPROVAL_REQUIRED
    error = await refused(place(served, "h", 200))
    assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    await start(served)
    kept = len(served.decisions.kept)
    passed = await check(served)
    assert (passed.decision, codes(passed)) == (pb.DECISION_ALLOW, ["bypassed"])
    assert len(served.decisions.kept) == kept + 1
    shadow = served.decisions.kept[-1].answer.shadow
    assert shadow is not None
    assert [each.code for each in shadow.reasons][:1] == ["subject_in_approve_band"]
    placed = await place(served, "h", 200)
    assert placed.hold.state == pb.HOLD_STATE_LIVE
    health = await check(served, data_class="health")
    assert health.decision == pb.DECISION_DENIED
    assert (await check(served, subject="bob", tokens=60)).decision == pb.DECISION_APPROVAL_REQUIRED, (
        "of another team"
    )

    served.clock.time = NOW + HOUR - timedelta(microseconds=1)
    assert (await check(served)).decision == pb.DECISION_ALLOW
    served.clock.time = NOW + HOUR
    assert (await check(served)).decision == pb.DECISION_APPROVAL_REQUIRED
    await stand_at(served.quota, NOW + HOUR)
    error = await refused(place(served, "i", 200))
    assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


async def test_a_bypass_that_is_ended_blocks_the_next_hold_whatever_the_view_knows(served: Served) -> None:
    await start(served)
    await place(served, "h", 200)
    request = pb.EndBypassRequest(bypass_id="b", **WHY)
    await served.stub.EndBypass(request, metadata=served.metadata("operator"))
    error = await refused(place(served, "i", 200))
    assert error.code() is grpc.StatusCode.UNAVAILABLE, "the view still has the bypass"
    await served.refresh()
    error = await refused(place(served, "i", 200))
    assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert (await check(served)).decision == pb.DECISION_APPROVAL_REQUIRED


async def test_a_bypass_lets_pass_also_while_the_view_is_staler_than_policy_allows(served: Served) -> None:
    await served.quota.tell(quota_policy(2, degrade={"mode": "closed"}), "2")
    await served.refresh()
    error = await refused(check(served))
    assert detail(error, ErrorInfo).reason == "VIEW_STALE"
    await start(served)
    answer = await check(served)
    assert answer.decision == pb.DECISION_ALLOW
    assert answer.freshness.stale


async def test_a_bypass_opens_no_account_that_somebody_shut(served: Served) -> None:
    await move(served, "Freeze")
    await start(served)
    answer = await check(served)
    assert (answer.decision, codes(answer)) == (pb.DECISION_APPROVAL_REQUIRED, ["account_frozen"])
    error = await refused(place(served, "h", 1))
    assert error.code() is grpc.StatusCode.FAILED_PRECONDITION


async def test_the_same_bypass_asked_for_again_changes_nothing_and_another_is_refused(served: Served) -> None:
    await start(served)
    await start(served)
    error = await refused(start(served, bypass(scope_owner_id="blue", until=NOW + 2 * HOUR)))
    assert error.code() is grpc.StatusCode.ALREADY_EXISTS
    await end(served)
    await end(served)
    await start(served)
    assert (await check(served)).decision == pb.DECISION_APPROVAL_REQUIRED, "what was ended stays so"
    error = await refused(end(served, "other"))
    assert error.code() is grpc.StatusCode.NOT_FOUND
    assert [each["type"] for each in await told(served.quota, "bypass")] == ["started", "ended"]
    assert await recorded(served.quota) == [
        ("bypass.started", "b", "operator"),
        ("bypass.ended", "b", "operator"),
    ]


@pytest.mark.parametrize(
    ("kind", "owner_id", "known"),
    [
        (pb.ACCOUNT_KIND_TEAM, "red", True),
        (pb.ACCOUNT_KIND_TEAM, "blue", True),
        (pb.ACCOUNT_KIND_TEAM, "rde", False),
        (pb.ACCOUNT_KIND_SUBJECT, "ada", True),
        (pb.ACCOUNT_KIND_SUBJECT, "adda", False),
        (pb.ACCOUNT_KIND_SUBJECT, "red", False),
        (pb.ACCOUNT_KIND_PROJECT, "atlas", True),
        (pb.ACCOUNT_KIND_PROJECT, "argo", True),
        (pb.ACCOUNT_KIND_PROJECT, "atlsa", False),
        (pb.ACCOUNT_KIND_COST_CENTRE, "red", False),
        (pb.ACCOUNT_KIND_UNATTRIBUTED, "unattributed", True),
        (pb.ACCOUNT_KIND_UNATTRIBUTED, "ada", False),
    ],
)
async def test_a_bypass_of_a_scope_that_nobody_knows_is_refused(
    served: Served, kind: pb.AccountKind, owner_id: str, *, known: bool
) -> None:
    await served.quota.tell(usage("bob", project="argo"), "argo", time=NOW, appended_at=NOW)
    await served.refresh()
    starting = start(served, bypass(scope_kind=kind, scope_owner_id=owner_id))
    if known:
        await starting
    else:
        assert (await refused(starting)).code() is grpc.StatusCode.NOT_FOUND
    assert len(await told(served.quota, "bypass")) == known


async def test_that_a_bypass_expired_is_told_once(served: Served) -> None:
    await served.quota.pool.execute("UPDATE ledger SET last_now = '2000-01-01Z'")
    await served.quota.pool.execute(
        "INSERT INTO bypass VALUES ('b', 'team', 'red', '2020-01-01Z', '2020-01-02Z', 'incident', 'O-1', 'x')"
    )
    for expected in (1, 0):
        async with served.quota.pool.acquire() as connection, connection.transaction():
            assert await expire_bypasses(intervention_ledger(connection)) == expected
    (expired,) = await told(served.quota, "bypass")
    assert (expired["type"], expired["until"]) == ("expired", "2020-01-02T00:00:00Z")


async def test_a_bypass_that_was_ended_at_its_last_moment_did_not_expire_too(served: Served) -> None:
    await served.quota.pool.execute("UPDATE ledger SET last_now = '2000-01-01Z'")
    await served.quota.pool.execute(
        "INSERT INTO bypass VALUES ('b', 'team', 'red', '2020-01-01Z', '2020-01-02Z', 'incident', 'O-1', 'x')"
    )

    async def expire() -> int:
        async with served.quota.pool.acquire() as connection, connection.transaction():
            return await expire_bypasses(intervention_ledger(connection))

    async with served.quota.pool.acquire() as connection, connection.transaction():
        await intervention_ledger(connection).begin(1)
        expiring = asyncio.create_task(expire())
        waits = "SELECT EXISTS (SELECT FROM pg_locks WHERE NOT granted AND transactionid = $1::text::xid)"
        own = await connection.fetchval("SELECT pg_current_xact_id()::text")
        async with asyncio.timeout(30):
            while not await connection.fetchval(waits, own):  # noqa: ASYNC110 - nothing says that one waits
                await asyncio.sleep(0.01)
        await connection.execute("UPDATE bypass SET ended_at = '2020-01-01T23:00Z'")
    assert await expiring == 0
    assert await told(served.quota, "bypass") == []


@pytest.mark.parametrize(
    ("fields", "wrong"),
    [
        ({"bypass_id": ""}, {"bypass_id"}),
        ({"scope_kind": pb.ACCOUNT_KIND_UNSPECIFIED}, {"scope_kind"}),
        ({"scope_kind": 99}, {"scope_kind"}),
        ({"scope_owner_id": "a b"}, {"scope_owner_id"}),
        ({"reason_code": "Because!"}, {"reason_code"}),
        ({"ticket_id": ""}, {"ticket_id"}),
        ({"until": NOW}, {"until"}),
        ({"until": NOW - HOUR}, {"until"}),
        ({"until": NOW + 24 * HOUR + timedelta(microseconds=1)}, {"until"}),
        ({"until": datetime(2201, 1, 1, tzinfo=UTC)}, {"until"}),
        (
            {"bypass_id": "a b", "scope_owner_id": "", "ticket_id": "x y"},
            {"bypass_id", "scope_owner_id", "ticket_id"},
        ),
    ],
)
async def test_a_wrong_bypass_names_its_fields(
    served: Served, fields: dict[str, Any], wrong: set[str]
) -> None:
    error = await refused(start(served, bypass(**fields)))
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert violated_fields(error) == wrong
    assert await recorded(served.quota) == []


async def test_a_bypass_without_an_end_or_a_reason_is_refused(served: Served) -> None:
    request = bypass(reason_code="", ticket_id="")
    request.ClearField("until")
    error = await refused(start(served, request))
    assert violated_fields(error) == {"until", "reason_code", "ticket_id"}
    for rpc in ("FreezeAccount", "UnfreezeAccount", "CloseAccount"):
        asked = getattr(pb, f"{rpc}Request")(account_id=RED)
        error = await refused(getattr(served.stub, rpc)(asked, metadata=served.metadata()))
        assert violated_fields(error) == {"reason_code", "ticket_id"}
    asked = pb.EndBypassRequest(bypass_id="a b")
    error = await refused(served.stub.EndBypass(asked, metadata=served.metadata()))
    assert violated_fields(error) == {"bypass_id", "reason_code", "ticket_id"}
    until = Timestamp(seconds=10**15)
    request = bypass()
    request.until.CopyFrom(until)
    error = await refused(start(served, request))
    assert violated_fields(error) == {"until"}


async def test_what_cannot_be_audited_is_not_done(served: Served) -> None:
    await served.quota.pool.execute("UPDATE audit_chain SET open_for = NULL")
    for asked in (move(served, "Freeze"), move(served, "Close", ATLAS, "governance"), start(served)):
        error = await refused(asked)
        assert error.code() is grpc.StatusCode.UNAVAILABLE
    await served.refresh()
    assert codes(await check(served, subject="bob", project="atlas")) == []
    assert await told(served.quota, "account") == await told(served.quota, "bypass") == []


async def test_a_shut_ledger_takes_no_intervention(served: Served) -> None:
    await served.quota.pool.execute("UPDATE ledger SET open_for = NULL")
    for asked in (move(served, "Freeze"), start(served)):
        error = await refused(asked)
        assert error.code() is grpc.StatusCode.UNAVAILABLE
        assert detail(error, ErrorInfo).reason == "LEDGER_SHUT"


async def test_a_database_that_was_lost_has_states_and_bypasses_back(served: Served, stack: Stack) -> None:
    await move(served, "Freeze")
    await move(served, "Freeze", ATLAS)
    await move(served, "Close", ATLAS, "governance")
    await move(served, "Freeze", ADA)
    await move(served, "Unfreeze", ADA)
    await start(served)
    await start(served, bypass("over", NOW + 2 * HOUR, scope_owner_id="blue"))
    await end(served, "over")
    await place(served, "h", 1, subject="bob")
    quota = served.quota
    rows = await quota.pool.fetch("SELECT * FROM outbox ORDER BY id")
    records = [
        Record(
            row["topic"],
            0,
            0,
            0,
            row["key"],
            row["value"],
            tuple(zip(row["header_names"], row["header_values"], strict=True)),
        )
        for row in rows
    ]
    changes = [change for record in records if (change := told_change_from_record(record)) is not None]
    url = stack.new_database("quota")
    await migrations(quota.schemas).migrate(url)

    async def tables(pool: Any) -> Any:
        states = await pool.fetch(
            "SELECT account_id, state FROM ledger_account WHERE state <> 'open' ORDER BY 1"
        )
        return states, await pool.fetch("SELECT * FROM bypass ORDER BY 1")

    async with (
        await create_pool(url, quota.schemas, application_name="test") as pool,
        pool.acquire() as connection,
    ):
        again = ToldChanges(hold_ledger, intervention_ledger)
        assert await again.keep(connection, changes) == len(changes) == 9
        await again.do_again(connection)
        assert await tables(pool) == await tables(quota.pool)
        assert await pool.fetchval("SELECT count(*) FROM outbox") == 0
        same = "SELECT bypass_seq > 0 FROM ledger"
        assert await pool.fetchval(same) is await quota.pool.fetchval(same) is True
