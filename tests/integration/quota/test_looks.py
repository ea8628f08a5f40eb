"""Every answer honours privacy: who is shown what, who is refused, and each look is recorded and told."""

from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest

from tests.integration.quota.harness import TRAIL, Quota
from tests.integration.quota.serving import CALLER, Served, check_request, refused, serve, violated_fields
from tests.integration.quota.test_freshness import fresh
from tests.support.quota_events import person, price_book, quota_policy, team, usage
from tokenomics.quota.v1 import quota_pb2 as pb

ADA, EVE = "subject/ada/all/2026-11", "subject/eve/all/2026-11"
RED, BLUE = "team/red/all/2026-11", "team/blue/all/2026-11"
SERVICE = "/tokenomics.quota.v1.QuotaService/"

Ask = Callable[[Served, str | None], Awaitable[list[str]]]
"""Asks for a viewer, and returns the accounts whose numbers were shown, or the refusal."""


async def company(quota: Quota) -> None:
    """Make a red team of six, whose manager is boss, and a blue one of two; ada and eve have spent."""
    await quota.tell(price_book(), "book")
    await quota.tell(quota_policy(default_allowance_micro_usd=1_000), "policy")
    await quota.tell(team("red", owner_id="boss"), "red")
    await quota.tell(team("blue", owner_id="own"), "blue")
    await quota.tell(person("ada", manager_id="boss"), "ada")
    for number in range(5):
        await quota.tell(person(f"red-{number}", manager_id="boss"), f"red-{number}")
    await quota.tell(person("eve", team_id="blue", manager_id="own"), "eve")
    await quota.tell(person("own", team_id="blue"), "own")
    await quota.tell(person("boss", team_id="heads"), "boss")
    for privilege in ("governance", "auditor", "operator"):
        await quota.tell(person(privilege, team_id="heads", privileges=[privilege]), privilege)
    await quota.tell(usage("ada", input_tokens=150, output_tokens=0), "a")
    await quota.tell(usage("eve", input_tokens=50, output_tokens=0), "e")


@pytest.fixture
async def served(quota: Quota, tmp_path: Path) -> AsyncIterator[Served]:
    await company(quota)
    async with serve(quota, tmp_path) as made:
        await made.refresh()
        yield made


def get_account(account_id: str) -> Ask:
    async def ask(served: Served, viewer: str | None) -> list[str]:
        request = pb.GetBalanceRequest(account_id=account_id)
        answer = await served.stub.GetBalance(request, metadata=served.metadata(viewer))
        return shown(answer.accounts)

    return ask


async def get_subject(served: Served, viewer: str | None) -> list[str]:
    request = pb.GetBalanceRequest(subject="ada")
    answer = await served.stub.GetBalance(request, metadata=served.metadata(viewer))
    return shown(answer.accounts)


def list_accounts(**filters: Any) -> Ask:
    async def ask(served: Served, viewer: str | None) -> list[str]:
        request = pb.ListBalancesRequest(**filters)
        answer = await served.stub.ListBalances(request, metadata=served.metadata(viewer))
        return shown(answer.accounts)

    return ask


async def check(served: Served, viewer: str | None) -> list[str]:
    answer = await served.stub.CheckQuota(check_request("ada"), metadata=served.metadata(viewer))
    return shown(answer.accounts)


async def check_many(served: Served, viewer: str | None) -> list[str]:
    request = pb.BatchCheckQuotaRequest(checks=[check_request("ada")])
    (result,) = (await served.stub.BatchCheckQuota(request, metadata=served.metadata(viewer))).results
    return shown_in(result)


async def check_afresh(served: Served, viewer: str | None) -> list[str]:
    request = check_request("ada", at_least_as_fresh=fresh(0))
    answer = await served.stub.CheckQuota(request, metadata=served.metadata(viewer))
    return shown(answer.accounts)


def check_on_a_stream(**fields: Any) -> Ask:
    async def ask(served: Served, viewer: str | None) -> list[str]:
        stream = served.stub.StreamCheckQuota(metadata=served.metadata(viewer))
        await stream.write(pb.StreamCheckQuotaRequest(sequence=1, check=check_request("ada", **fields)))
        answer: Any = await stream.read()
        await stream.done_writing()
        return shown_in(answer.result)

    return ask


async def suggest(served: Served, viewer: str | None) -> list[str]:
    request = pb.SuggestAlternativesRequest(call=check_request("ada"))
    await served.stub.SuggestAlternatives(request, metadata=served.metadata(viewer))
    return [ADA]  # how much shorter a call must be to fit tells how much is left


def shown(accounts: Any) -> list[str]:
    return [account.account_id for account in accounts if account.HasField("resets_at")]


def shown_in(result: pb.CheckResult) -> list[str]:
    if result.HasField("failure"):
        return [
            grpc.StatusCode(next(c.value for c in grpc.StatusCode if c.value[0] == result.failure.code)).name
        ]
    return shown(result.answer.accounts)


async def answered(ask: Ask, served: Served, viewer: str | None) -> list[str]:
    try:
        return await ask(served, viewer)
    except grpc.aio.AioRpcError as error:
        return [error.code().name]


async def looks(served: Served, viewer: str, subject: str = "ada") -> list[pb.Look]:
    answer = await served.stub.ListLooks(
        pb.ListLooksRequest(subject=subject), metadata=served.metadata(viewer)
    )
    return list(answer.looks)


NO = ["PERMISSION_DENIED"]
ASKED: dict[str, tuple[Ask, str]] = {
    "her account": (get_account(ADA), "GetBalance"),
    "her accounts": (get_subject, "GetBalance"),
    "her team": (get_account(RED), "GetBalance"),
    "a small team": (get_account(BLUE), "GetBalance"),
    "a list of all": (list_accounts(), "ListBalances"),
    "a list that names her": (list_accounts(subject="ada"), "ListBalances"),
    "a list that names a small team": (list_accounts(owner_id="blue"), "ListBalances"),
    "a check": (check, "CheckQuota"),
    "a batch": (check_many, "BatchCheckQuota"),
    "a stream": (check_on_a_stream(), "StreamCheckQuota"),
    "a check that waits": (check_afresh, "CheckQuota"),
    "a stream that waits": (check_on_a_stream(at_least_as_fresh=fresh(0)), "StreamCheckQuota"),
    "a suggestion": (suggest, "SuggestAlternatives"),
}
SHOWN: dict[str, dict[str | None, list[str]]] = {
    "her account": {None: [ADA], "ada": [ADA], "red-0": NO, "boss": [ADA], "eve": NO, "governance": [ADA]},
    "her accounts": {
        None: [ADA, RED],
        "ada": [ADA, RED],
        "red-0": NO,
        "boss": [ADA, RED],
        "governance": [ADA, RED],
    },
    "her team": {None: [RED], "ada": [RED], "red-0": [RED], "boss": [RED], "eve": NO, "governance": [RED]},
    "a small team": {None: [BLUE], "eve": NO, "own": [BLUE], "ada": NO, "boss": NO, "governance": [BLUE]},
    "a list of all": {
        None: [ADA, EVE, BLUE, RED],
        "ada": [ADA, RED],
        "red-0": [RED],
        "boss": [ADA, RED],
        "eve": [EVE],
        "own": [EVE, BLUE],
        "governance": [RED],
        "auditor": [],
        "operator": [],
        "nobody": [],
    },
    "a list that names her": {
        None: [ADA, RED],
        "ada": [ADA, RED],
        "red-0": [RED],
        "boss": [ADA, RED],
        "eve": [],
        "governance": [ADA, RED],
    },
    "a list that names a small team": {"eve": [], "own": [BLUE], "governance": [BLUE], "ada": []},
    "a check": {
        None: [ADA, RED],
        "ada": [ADA, RED],
        "red-0": NO,
        "boss": [ADA, RED],
        "governance": [ADA, RED],
    },
    "a batch": {None: [ADA, RED], "ada": [ADA, RED], "red-0": NO, "boss": [ADA, RED], "auditor": NO},
    "a suggestion": {None: [ADA], "ada": [ADA], "red-0": NO, "boss": [ADA], "governance": [ADA]},
    "a stream": {None: [ADA, RED], "ada": [ADA, RED], "red-0": NO, "boss": [ADA, RED], "operator": NO},
    "a check that waits": {None: [ADA, RED], "red-0": NO, "boss": [ADA, RED]},
    "a stream that waits": {None: [ADA, RED], "red-0": NO, "boss": [ADA, RED]},
}


@pytest.mark.parametrize("asked", ASKED)
async def test_numbers_are_shown_to_the_person_who_decides_and_members_of_enough_and_each_look_is_recorded(
    served: Served, asked: str
) -> None:
    ask, method = ASKED[asked]
    for viewer, expected in SHOWN[asked].items():
        assert await answered(ask, served, viewer) == expected, f"{viewer} asked for {asked}"
    expected_looks = [
        (viewer, SERVICE + method, "governance" if viewer == "governance" else "manager")
        for viewer, accounts in SHOWN[asked].items()
        if ADA in accounts and viewer not in {None, "ada"}
    ]
    told = await looks(served, "ada")
    assert [(each.person_id, each.method, each.basis) for each in told[::-1]] == expected_looks
    assert {each.caller for each in told} <= {CALLER}


async def test_a_cost_centre_is_not_shown_beside_a_team_where_few_are_beyond_it(served: Served) -> None:
    quota = served.quota
    for name, owner in (("red", "boss"), ("blue", "own")):
        await quota.tell(team(name, owner_id=owner, cost_centre_id="cc"), f"{name} of cc")
    await served.refresh()
    cc = "cost_centre/cc/all/2026-11"

    async def shown_to(viewer: str | None) -> list[list[str]]:
        asked = [list_accounts(), list_accounts(kind=pb.ACCOUNT_KIND_COST_CENTRE), get_subject, check]
        return [await answered(ask, served, viewer) for ask in (*asked, get_account(cc))]

    beyond = [[ADA, RED], [], [ADA, RED], [ADA, RED], NO]
    assert await shown_to("ada") == beyond, "cc less red is blue, of two"
    assert await shown_to("governance") == [[RED], [], *[[ADA, RED, cc]] * 2, [cc]], "by name alone"
    assert await shown_to(None) == [[cc, ADA, EVE, BLUE, RED], [cc], *[[ADA, RED, cc]] * 2, [cc]]
    # Those of blue aren't shown red: five others of red hide them.
    assert (await shown_to("eve"))[0] == [cc, EVE]
    for number in range(3):
        await quota.tell(person(f"blue-{number}", team_id="blue"), f"blue-{number}")
    await served.refresh()
    assert await shown_to("ada") == [[cc, ADA, RED], [cc], *[[ADA, RED, cc]] * 2, [cc]]
    assert (await shown_to("governance"))[:2] == [[cc, BLUE, RED], [cc]]


async def test_a_look_that_cannot_be_recorded_is_not_granted(served: Served) -> None:
    await served.quota.pool.execute("UPDATE audit_chain SET open_for = NULL")
    for name, (ask, _) in ASKED.items():
        if ADA in SHOWN[name].get("boss", []):
            assert await answered(ask, served, "boss") == ["UNAVAILABLE"], name
        if ADA in SHOWN[name].get("ada", []):
            assert ADA in await answered(ask, served, "ada"), "one's own data need no record"
    assert ADA in await answered(get_account(ADA), served, None)


async def test_repeated_looks_are_merged_for_ten_minutes(served: Served) -> None:
    ask, _ = ASKED["her account"]
    for _ in range(3):
        await ask(served, "boss")
        await ASKED["a check"][0](served, "boss")
    assert len(await looks(served, "ada")) == 2
    served.clock.time += timedelta(minutes=9)
    await ask(served, "boss")
    await ask(served, "governance")
    assert len(await looks(served, "ada")) == 3
    served.clock.time += timedelta(minutes=2)
    await ask(served, "boss")
    assert len(await looks(served, "ada")) == 4


async def test_looks_are_told_to_the_person_and_to_auditors_whose_look_is_one_too(served: Served) -> None:
    await get_account(ADA)(served, "boss")
    (look,) = await looks(served, "ada")
    assert look.at.ToSeconds() > 0
    for viewer in ("boss", "governance", "operator", "red-0", "nobody", None):
        request = pb.ListLooksRequest(subject="ada")
        code = await refused(served.stub.ListLooks(request, metadata=served.metadata(viewer)))
        assert code is grpc.StatusCode.PERMISSION_DENIED, viewer
    assert await looks(served, "eve", "eve") == []
    told = await looks(served, "auditor")
    assert [(each.person_id, each.basis) for each in told] == [
        ("auditor", "auditor"),
        ("boss", "manager"),
    ]
    assert await looks(served, "ada") == told


async def test_pages_of_looks_join_to_the_whole_newest_first(served: Served) -> None:
    for _ in range(5):
        await get_account(ADA)(served, "boss")
        served.clock.time += timedelta(minutes=11)
    whole = await looks(served, "ada")
    assert len(whole) == 5
    assert [each.at.ToNanoseconds() for each in whole] == sorted(
        (each.at.ToNanoseconds() for each in whole), reverse=True
    )
    pages, token = list[pb.Look](), ""
    while True:
        page = await served.stub.ListLooks(
            pb.ListLooksRequest(subject="ada", page_size=2, page_token=token),
            metadata=served.metadata("ada"),
        )
        pages += page.looks
        if not (token := page.next_page_token):
            break
    assert pages == whole


@pytest.mark.parametrize(
    ("fields", "wrong"),
    [
        ({}, {"subject"}),
        ({"subject": "jane@example.com"}, {"subject"}),
        ({"subject": "ada", "page_size": -1}, {"page_size"}),
        ({"subject": "ada", "page_token": "x"}, {"page_token"}),
        ({"subject": "ada", "page_token": "-1"}, {"page_token"}),
        ({"subject": "ada", "page_token": "9" * 19}, {"page_token"}),
        ({"subject": "a b", "page_size": -1, "page_token": "٣"}, {"subject", "page_size", "page_token"}),
    ],
)
async def test_a_wrong_question_for_looks_names_its_fields(
    served: Served, fields: dict[str, Any], wrong: set[str]
) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await served.stub.ListLooks(pb.ListLooksRequest(**fields), metadata=served.metadata("ada"))
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert violated_fields(caught.value) == wrong


async def test_a_look_is_an_entry_of_the_audit_trail(served: Served) -> None:
    await get_account(ADA)(served, "boss")
    (entry,) = await TRAIL.entries(served.quota.pool, limit=10)
    assert (entry.actor, entry.caller, entry.action, entry.target) == (
        "boss",
        CALLER,
        "subject.looked_at",
        "ada",
    )
    assert entry.details == {"method": f"{SERVICE}GetBalance", "basis": "manager"}
