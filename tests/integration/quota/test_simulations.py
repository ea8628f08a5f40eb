"""Simulations over gRPC: asked for, worked off by the replay process, watched and told."""

import asyncio
import json
import signal
import sys
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

import asyncpg
import grpc
import pytest
from google.protobuf.json_format import ParseDict
from google.protobuf.struct_pb2 import Struct
from google.protobuf.timestamp_pb2 import Timestamp

from tests.integration.quota.harness import TRAIL, Quota
from tests.integration.quota.serving import Served, check_request, refused, serve
from tests.integration.quota.test_policies import FAILS, differing_fields, violations
from tests.support.quota_events import (
    NOW,
    NoPrices,
    approved,
    correction,
    person,
    price_book,
    published,
    quota_policy,
    settled,
    team,
    usage,
)
from tokenomics.quota.v1 import quota_pb2 as pb
from tokenomics_chassis.postgres import Schemas, create_pool
from tokenomics_contracts.events.usage import UsageRecorded
from tokenomics_quota.bootstrap import migrations
from tokenomics_quota.projections.governance import Governance
from tokenomics_quota.storage import simulations
from tokenomics_quota.storage.simulations import MOST_BEGINNINGS, MOST_WAITING, Simulator
from tokenomics_quota.usecases.simulating import Simulating
from tokenomics_tools.stack import ManagedProcess, Stack

DAY = timedelta(days=1)
MONTH = datetime(2026, 11, 1, tzinfo=NOW.tzinfo)
SINCE, BEFORE = MONTH + 10 * DAY, MONTH + 20 * DAY
IN_FORCE: dict[str, Any] = {
    "time_zone": "UTC",
    "allowances": [
        {"role": "engineer", "limit_micro_usd": 6_000},
        {"role": "analyst", "limit_micro_usd": 4_000},
    ],
}
TIGHTER: dict[str, Any] = {
    "time_zone": "Asia/Tokyo",
    "allowances": [
        {"role": "engineer", "limit_micro_usd": 5_500},
        {"role": "analyst", "limit_micro_usd": 15_000},
    ],
    "budgets": [{"kind": "team", "owner_id": "blue", "limit_micro_usd": 30_000}],
    "models": [{"models": [{"provider": "acme", "model": "one"}], "access": "approved"}],
    "spikes": {"minimum_micro_usd": 300, "window_days": 14, "fewest_days": 5},
}
DEARER: dict[str, Any] = {
    "prices": [{"provider": "acme", "model": "*", "rates": {"input": 2_000_000, "output": 1_000_000}}],
    "fallback": {"input": 1_000_000, "output": 1_000_000},
}


class Used(NamedTuple):
    """Usage of the range, in the order in which it is told."""

    event_id: str
    time: datetime
    event: UsageRecorded


def _used() -> Iterator[Used]:
    """Yield three weeks of usage by twelve people of two teams, some of it odd."""
    subjects = [f"e{number}" for number in range(7)] + [f"a{number}" for number in range(5)]
    for hour in range(0, 20 * 24, 7):
        for place, subject in enumerate(subjects):
            if (hour // 7 + place) % 5 == 0:
                continue
            time = MONTH + timedelta(hours=hour, minutes=place)
            tokens = 40 + (place * 31 + hour * 7) % 90
            fields: dict[str, Any] = {"input_tokens": tokens, "output_tokens": 10}
            if (hour + place) % 11 == 0:
                fields["model"] = "two"
            if (hour + place) % 13 == 0:
                fields["purpose"] = "experiment"
            if (hour + place) % 17 == 0:
                fields["cost_micro_usd"] = 3 * tokens
            if subject == "e3" and hour // 24 == 15:
                fields["input_tokens"] = 400
            yield Used(f"{subject}-{hour}", time, usage(subject, **fields))


USED = tuple(_used())


async def directory(quota: Quota) -> None:
    await quota.tell(price_book(), "book")
    await quota.tell(quota_policy(**IN_FORCE), "quota-1")
    await quota.tell(team("red", cost_centre_id="cc"), "red")
    await quota.tell(person("gov", role="governor", team_id="board", privileges=["governance"]), "gov")
    for number in range(7):
        await quota.tell(person(f"e{number}", manager_id="gov"), f"e{number}")
    for number in range(5):
        await quota.tell(person(f"a{number}", role="analyst", team_id="blue"), f"a{number}")
    for kind, target in (("boost", "subject/e1"), ("justification", "subject/e2")):
        grant = approved(kind, kind, target, since=SINCE + 2 * DAY, until=SINCE + 6 * DAY)
        await quota.tell(grant, kind)


def struct(document: dict[str, Any]) -> Struct:
    return ParseDict(document, Struct())


def asking(simulation_id: str = "s1", **fields: Any) -> pb.StartSimulationRequest:
    defaults: dict[str, Any] = {"documents": {"quota": struct(TIGHTER)}, "since": SINCE, "before": BEFORE}
    return pb.StartSimulationRequest(simulation_id=simulation_id, **(defaults | fields))


async def start(served: Served, request: pb.StartSimulationRequest, person_id: str = "gov") -> pb.Simulation:
    answer = await served.stub.StartSimulation(request, metadata=served.metadata(person_id))
    return answer.simulation


async def get(served: Served, simulation_id: str = "s1") -> pb.Simulation:
    request = pb.GetSimulationRequest(simulation_id=simulation_id)
    return (await served.stub.GetSimulation(request, metadata=served.metadata("gov"))).simulation


async def watched(served: Served, simulation_id: str = "s1") -> list[pb.Simulation]:
    request = pb.WatchSimulationRequest(simulation_id=simulation_id)
    stream = served.stub.WatchSimulation(request, metadata=served.metadata("gov"))
    return [each.simulation async for each in stream]


@asynccontextmanager
async def working(served: Served) -> AsyncIterator[asyncio.Task[None]]:
    """Work simulations off, as the replay process does, until the block is left."""
    stopping = asyncio.Event()
    task = asyncio.create_task(Simulator(served.quota.url, "quota", Governance(NoPrices())).run(stopping))
    try:
        yield task
    finally:
        stopping.set()
        await asyncio.wait([task])


async def simulated(served: Served, simulation_id: str = "s1", **fields: Any) -> pb.SimulationResult:
    await start(served, asking(simulation_id, **fields))
    async with working(served), asyncio.timeout(60):
        *_, last = await watched(served, simulation_id)
    assert last.state == pb.SIMULATION_STATE_COMPLETED, last.error_message
    return last.result


@pytest.fixture
async def served(service: Served) -> Served:
    await directory(service.quota)
    await service.refresh()
    return service


@pytest.fixture
async def told(served: Served) -> Served:
    for event_id, time, event in USED:
        await served.quota.tell(event, event_id, time=time, appended_at=time)
    await served.refresh()
    return served


@pytest.fixture
async def another(stack: Stack, tmp_path: Path) -> AsyncIterator[Served]:
    """Serve a second database with the same directory and policies."""
    url, schemas = stack.new_database("another"), Schemas("quota")
    await migrations(schemas).migrate(url)
    (tmp_path / "another").mkdir()
    async with await create_pool(url, schemas, application_name="test") as pool:
        async with pool.acquire() as connection:
            await TRAIL.open(connection)
        async with serve(Quota(url, schemas, pool), tmp_path / "another") as made:
            await directory(made.quota)
            yield made


async def checked(served: Served) -> dict[str, int]:
    """Let time go by: check each call on a view as fresh as can be just before it, then tell its usage."""
    counts = Counter[str]()
    for event_id, time, event in USED:
        served.clock.time = time
        if time >= SINCE:
            await served.refresh()
            request = check_request(
                event.subject,
                model=event.model,
                estimated_input_tokens=event.input_tokens,
                estimated_output_tokens=event.output_tokens,
                purpose=pb.PURPOSE_EXPERIMENT if event.purpose == "experiment" else pb.PURPOSE_OPERATIONAL,
            )
            answer = await served.stub.CheckQuota(request, metadata=served.metadata())
            counts[pb.Decision.Name(answer.decision)] += 1
        await served.quota.tell(event, event_id, time=time, appended_at=time)
    return counts


def counted(result: pb.SimulationResult, field: str) -> dict[str, int]:
    counts = {pb.Decision.Name(each.decision): getattr(each, field) for each in result.decisions}
    return {name: count for name, count in counts.items() if count}


async def test_it_says_what_checks_answer_when_the_policy_is_really_applied(
    served: Served, another: Served
) -> None:
    actual = await checked(served)
    await another.quota.tell(quota_policy(2, since=SINCE, **TIGHTER), "quota-2")
    await another.quota.tell(published("price_book", 2, SINCE, DEARER), "book-2")
    applied = await checked(another)
    documents = {"quota": struct(TIGHTER), "price_book": struct(DEARER)}
    result = await simulated(served, documents=documents)
    assert counted(result, "actual") == actual
    assert counted(result, "simulated") == applied
    assert len(applied) == 5, "the policy makes every decision there is"
    for field, quota in (
        ("posted_micro_usd", served.quota),
        ("simulated_posted_micro_usd", another.quota),
    ):
        query = "SELECT sum(cost_micro_usd)::bigint FROM fact WHERE occurred_at >= $1 AND occurred_at < $2"
        assert getattr(result, field) == await quota.pool.fetchval(query, SINCE, BEFORE)


async def test_simulating_the_policy_in_force_changes_nothing(told: Served) -> None:
    result = await simulated(told, documents={"quota": struct(IN_FORCE)})
    assert counted(result, "actual") == counted(result, "simulated")
    assert len(counted(result, "actual")) > 2
    assert result.posted_micro_usd == result.simulated_posted_micro_usd > 0
    assert result.interrupted_subjects == result.actual_interrupted_subjects > 0
    assert (result.changed_subjects, result.newly_denied_micro_usd) == (0, 0)
    for each in (result.changes, *result.teams, *result.roles):
        changed = each.stricter_calls + each.milder_calls
        assert (changed, each.newly_interrupted_calls, each.no_longer_interrupted_calls) == (0, 0, 0)
        assert each.calls > 0


async def test_groups_are_told_that_are_of_enough_people(told: Served) -> None:
    result = await simulated(told)
    assert {(each.name, each.people) for each in result.teams} == {("red", 7), ("blue", 5)}
    assert {(each.name, each.people) for each in result.roles} == {("engineer", 7), ("analyst", 5)}
    assert sum(each.calls for each in result.teams) == result.changes.calls
    moved = person("a0", role="analyst", team_id="red")
    await told.quota.tell(moved, "a0-moved")
    again = await simulated(told, simulation_id="s2")
    assert [(each.name, each.people) for each in again.teams] == [("", 12)]
    assert again.changes == result.changes


async def test_what_is_used_later_or_earlier_than_the_range_is_not_judged(told: Served) -> None:
    result = await simulated(told)
    within = [each for each in USED if SINCE <= each.time < BEFORE]
    assert result.changes.calls == len(within) < len(USED)
    simulation = await get(told)
    assert simulation.replayed_events == simulation.total_events == len(USED)


async def test_a_correction_counts_and_what_a_caller_said_of_a_hold_is_posted_unjudged(told: Served) -> None:
    before = await simulated(told, documents={"price_book": struct(DEARER)})
    event_id, time, event = next(
        each for each in USED if each.time > SINCE and each.event.cost_micro_usd is None
    )
    await told.quota.tell(correction(event_id, 1, 1_000, event.subject), "x", time=time, appended_at=time)
    await told.quota.tell(settled("h1", 50, "e0", settled_at=SINCE + DAY), "h1", appended_at=SINCE + DAY)
    after = await simulated(told, simulation_id="s2", documents={"price_book": struct(DEARER)})
    assert event.output_tokens is not None
    cost = event.input_tokens + event.output_tokens
    assert after.posted_micro_usd - before.posted_micro_usd == 1_000 - cost + 50
    dearer = 2 * event.input_tokens + event.output_tokens
    assert after.simulated_posted_micro_usd - before.simulated_posted_micro_usd == 2_000 - dearer + 50
    assert after.changes.calls == before.changes.calls


async def test_nothing_live_changes(told: Served) -> None:
    async def state() -> list[Any]:
        tables = ("fact", "posted", "daily", "governing_event", "position", "outbox", "derived_version")
        return [await told.quota.pool.fetch(f"SELECT * FROM {table} ORDER BY 1, 2") for table in tables]  # noqa: S608 - names

    before = await state()
    await simulated(told)
    assert await state() == before


@pytest.mark.parametrize(
    ("request_", "expected"),
    [
        (
            pb.StartSimulationRequest(simulation_id="a b"),
            {
                "simulation_id": "must be an identifier: letters, digits and . _ : -, at most 128",
                "documents": "must have one document or more",
                "since": "must be set",
                "before": "must be set",
            },
        ),
        (
            asking(
                documents={
                    "quota": struct({"time_zone": "Mars", "allowances": [{"role": "engineer"}]}),
                    "use_cases": Struct(),
                    "scoring": Struct(),
                },
                since=BEFORE,
                before=BEFORE,
            ),
            {
                "documents[quota].time_zone": "should be an IANA time zone, e.g. Europe/Berlin",
                "documents[quota].allowances.0.limit_micro_usd": "Field required",
                "documents[use_cases]": "decides about no recorded usage: simulate price_book or quota",
                "documents[scoring]": "decides about no recorded usage: simulate price_book or quota",
                "before": "must be later than since",
            },
        ),
        (
            asking(since=Timestamp(seconds=1), before=Timestamp(seconds=10**11)),
            {
                "since": "must be a time between the years 2000 and 2199",
                "before": "must be a time between the years 2000 and 2199",
            },
        ),
        (
            asking(since=NOW - 400 * DAY, before=NOW - 33 * DAY),
            {"before": "must be at most 366 days after since"},
        ),
        (
            asking(documents={"quota": struct(IN_FORCE | {"examples": [FAILS]})}, since=NOW - 367 * DAY),
            {"before": "must be at most 366 days after since"},
        ),
        (
            asking(
                documents={"quota": struct(IN_FORCE | {"examples": [FAILS]})},
                since=NOW - 367 * DAY,
                before=NOW - 360 * DAY,
            ),
            {
                "since": "must be at most 366 days ago",
                "documents[quota].examples[all]": "promises ALLOW, its rules give APPROVAL_REQUIRED",
            },
        ),
        (
            asking(
                documents={
                    "quota": struct(
                        IN_FORCE
                        | {"prohibited_data": [{"data_class": "x", "permitted_way": "x" * 1_000}] * 1_000}
                    )
                }
            ),
            {"documents": "must have at most 1,000,000 bytes as JSON"},
        ),
    ],
)
async def test_every_wrong_field_is_named(
    served: Served, request_: pb.StartSimulationRequest, expected: dict[str, str]
) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await start(served, request_)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert violations(caught.value) == expected


@pytest.mark.parametrize("method", ["StartSimulation", "WatchSimulation", "GetSimulation"])
async def test_of_people_only_governance_may(served: Served, method: str) -> None:
    request = getattr(pb, f"{method}Request")()
    for somebody in ("e0", "nobody-at-all"):
        call = getattr(served.stub, method)(request, metadata=served.metadata(somebody))
        answering = call if method != "WatchSimulation" else _all(call)
        assert await refused(answering) is grpc.StatusCode.PERMISSION_DENIED


async def _all(stream: Any) -> list[Any]:
    return [each async for each in stream]


async def test_what_there_is_not_is_not_found(served: Served) -> None:
    assert await refused(get(served, "nothing")) is grpc.StatusCode.NOT_FOUND
    assert await refused(watched(served, "nothing")) is grpc.StatusCode.NOT_FOUND
    for answering in (get(served, "a b"), watched(served, "a b")):
        assert await refused(answering) is grpc.StatusCode.INVALID_ARGUMENT


async def test_an_id_stands_for_one_simulation(served: Served) -> None:
    first = await start(served, asking())
    assert first.state == pb.SIMULATION_STATE_RUNNING
    assert (first.requested_by, list(first.kinds)) == ("gov", ["quota"])
    served.clock.time = NOW + 400 * DAY  # what was asked for once is answered again, however long ago it is
    assert await start(served, asking()) == first
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await start(served, asking(documents={"quota": struct(IN_FORCE)}, before=BEFORE - DAY))
    assert caught.value.code() is grpc.StatusCode.ALREADY_EXISTS
    assert differing_fields(caught.value) == "documents, before"


async def test_so_many_may_wait_and_no_more(served: Served) -> None:
    for number in range(MOST_WAITING):
        await start(served, asking(f"s{number}"))
    assert await refused(start(served, asking("more"))) is grpc.StatusCode.FAILED_PRECONDITION
    assert (await start(served, asking("s0"))).simulation_id == "s0"


async def test_a_watch_ends_when_the_server_stops(served: Served) -> None:
    await start(served, asking())
    watching = asyncio.create_task(watched(served))
    await asyncio.sleep(0.1)
    served.draining.set()
    assert await refused(watching) is grpc.StatusCode.UNAVAILABLE


async def test_what_is_interrupted_begins_again_and_comes_to_the_same(
    told: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = await simulated(told)
    await start(told, asking("s2"))
    half, add = asyncio.Event(), Simulating.add
    folded = 0

    def add_until_half(self: Any, *fact: Any) -> None:
        nonlocal folded
        folded += 1
        if folded > len(USED) // 2:
            half.set()
        add(self, *fact)

    monkeypatch.setattr(Simulating, "add", add_until_half)
    async with working(told) as worker, asyncio.timeout(60):
        await half.wait()
        worker.cancel()  # to the database it is a death: the sessions are gone, and nothing was ended
        await asyncio.wait([worker])
    begun = "SELECT begun, state FROM simulation WHERE simulation_id = 's2'"
    assert tuple(await told.quota.pool.fetchrow(begun) or ()) == (1, "running")
    async with working(told), working(told), asyncio.timeout(60):
        *_, last = await watched(told, "s2")
    assert last.result == expected
    assert tuple(await told.quota.pool.fetchrow(begun) or ()) == (2, "completed")


def _spawn(stack: Stack, database: str, command: str, **variables: str) -> ManagedProcess:
    argv = [sys.executable, "-m", "tokenomics_quota", command]
    return stack.spawn(f"quota-{command}", argv, stack.service_environment(database) | variables)


async def test_a_replay_process_that_is_killed_is_followed_by_another(stack: Stack) -> None:
    database = stack.new_database("killed")
    assert await asyncio.to_thread(_spawn(stack, database, "migrate").wait, 60) == 0
    connection = await asyncpg.connect(database)
    try:
        await connection.execute(
            "INSERT INTO quota.simulation"
            " (simulation_id, documents, since, before, requested_by, requested_at)"
            " VALUES ('s1', $1, $2, $3, 'gov', $3)",
            json.dumps({"quota": IN_FORCE}),
            SINCE,
            BEFORE,
        )
        states = "SELECT begun, state FROM quota.simulation"
        dying = _spawn(stack, database, "replay", TOKENOMICS_FAILPOINTS="simulation.before_result=1")
        assert await asyncio.to_thread(dying.wait, 60) == -signal.SIGKILL, dying.quote_log()
        assert tuple(await connection.fetchrow(states) or ()) == (1, "running")
        following = _spawn(stack, database, "replay")
        async with asyncio.timeout(60):
            while (moved := tuple(await connection.fetchrow(states) or ()))[1] == "running":  # noqa: ASYNC110 - another process
                await asyncio.sleep(0.1)
        assert moved == (2, "completed")
        following.terminate()
        assert await asyncio.to_thread(following.wait, 60) == 0
    finally:
        await connection.close()


async def test_a_stop_is_no_death(told: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    await start(told, asking())
    began, stopping = asyncio.Event(), asyncio.Event()

    def begin(*_: Any) -> None:
        began.set()
        stopping.set()

    monkeypatch.setattr(Simulating, "add", begin)
    async with asyncio.timeout(60):
        await Simulator(told.quota.url, "quota", Governance(NoPrices())).run(stopping)
    assert began.is_set()
    assert await told.quota.pool.fetchval("SELECT begun FROM simulation WHERE state = 'running'") == 0


async def failure(served: Served) -> str:
    async with working(served), asyncio.timeout(60):
        *_, last = await watched(served)
    assert last.state == pb.SIMULATION_STATE_FAILED
    assert last.HasField("ended_at")
    assert not last.HasField("result")
    return last.error_message


async def test_one_that_kills_its_process_is_given_up(served: Served) -> None:
    await start(served, asking())
    await served.quota.pool.execute("UPDATE simulation SET begun = $1", MOST_BEGINNINGS)
    assert await failure(served) == "it was begun 10 times and interrupted each time"


async def test_too_much_usage_is_said_so(told: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(simulations, "MOST_EVENTS", 10)
    await start(told, asking())
    assert await failure(told) == f"{len(USED)} usage events are more than 10: choose a shorter range"


async def test_an_error_costs_the_simulation_and_not_the_process(
    told: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise ValueError("no such thing")

    with monkeypatch.context() as broken:
        broken.setattr(Simulating, "add", fail)
        await start(told, asking())
        assert await failure(told) == "ValueError: no such thing"
    assert (await simulated(told, simulation_id="s2")).changes.calls


async def test_a_simulation_is_kept_for_so_long(served: Served) -> None:
    await simulated(served)
    await simulated(served, simulation_id="s2")
    await served.quota.pool.execute(
        "UPDATE simulation SET ended_at = ended_at - interval '90 days 1 minute' WHERE simulation_id = 's1'"
    )
    await simulated(served, simulation_id="s3")
    assert await refused(get(served, "s1")) is grpc.StatusCode.NOT_FOUND
    assert (await get(served, "s2")).state == pb.SIMULATION_STATE_COMPLETED
