"""OperationsService over a real database and broker: what an operator sees and does is what happened."""

import asyncio
import base64
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from aiokafka import AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo
from grpc_status import rpc_status

from tests.support import toy_projection as toy
from tests.support.grpc import ServedRpc, TokenIssuer, bearer, rpc_settings, served
from tokenomics.operations.v1 import operations_pb2 as pb
from tokenomics.operations.v1.operations_pb2_grpc import (
    OperationsServiceStub,
    add_OperationsServiceServicer_to_server,
)
from tokenomics_chassis import operations
from tokenomics_chassis.audit import AuditLog, Entry
from tokenomics_chassis.operations import Operations
from tokenomics_chassis.parking import Parking, Skip
from tokenomics_chassis.postgres import Pool, create_pool
from tokenomics_chassis.projection import Batch, Connection, Outcome
from tokenomics_chassis.projector import Projector
from tokenomics_chassis.rebuilds import Rebuilds
from tokenomics_chassis.records import Place, Record
from tokenomics_chassis.rpc.errors import PermissionDeniedError
from tokenomics_chassis.rpc.identity import Identity
from tokenomics_chassis.rpc.operations import OperationsServicer
from tokenomics_chassis.verification import Verifications
from tokenomics_contracts.audit import NOTHING_BEFORE
from tokenomics_tools.stack import Stack

SERVICE = "/tokenomics.operations.v1.OperationsService/*"
OPERATOR = "system:serviceaccount:ops:operator"
NOBODY_LISTENS = "127.0.0.1:1"
WHY: dict[str, Any] = {"reason_code": "reader_mended", "ticket_id": "OPS-1"}
TOPICS = frozenset({toy.AMOUNTS, toy.STEPS, toy.OWN})
NUL = "a\0"


def with_token(content: object) -> pb.ListParkedEventsRequest:
    token = base64.urlsafe_b64encode(json.dumps(content).encode())
    return pb.ListParkedEventsRequest(page_token=token.decode())


ORDINARY = Record(toy.AMOUNTS, 0, 0, 1_000, b"a", b"{", ())


def skip_event_id(skip: Skip) -> str:
    return f"skip-{skip.topic}-{skip.partition}-{skip.offset}"


def privileged(identity: Identity, *privileges: str) -> None:
    if identity.on_behalf_of not in {None, *(f"p-{each}" for each in privileges)}:
        raise PermissionDeniedError("this takes a privilege")


@pytest.fixture
async def database(stack: Stack) -> str:
    url = stack.new_database("operations")
    await toy.MIGRATIONS.migrate(url)
    return url


@pytest.fixture
async def pool(database: str) -> AsyncIterator[Pool]:
    async with await create_pool(database, toy.SCHEMAS, application_name="test") as pool:
        async with pool.acquire() as connection:
            await toy.TRAIL.open(connection)
        yield pool


@pytest.fixture
def projection() -> toy.Toy:
    return toy.Toy()


async def project(pool: Pool, projection: toy.Toy, topic: str, *values: bytes | None) -> None:
    """Project values of one key as the records 0, 1, … of partition 0."""
    records = [
        Record(topic, 0, offset, 1_000 + offset, b"a", value, (("h", b"\xff"),))
        for offset, value in enumerate(values)
    ]
    await Projector(pool, toy.SCHEMAS, projection).process(topic, 0, records)


class Operator:
    """Calls the service as an operator does."""

    def __init__(self, rpc: ServedRpc, issuer: TokenIssuer) -> None:
        self._stub: Any = OperationsServiceStub(rpc.channel)
        self._issuer = issuer

    def call(self, method: str, request: Any, **metadata: str) -> Any:
        return getattr(self._stub, method)(
            request, metadata=bearer(self._issuer.token(OPERATOR), **metadata), timeout=20
        )

    async def refused(self, method: str, request: Any, **metadata: str) -> tuple[grpc.StatusCode, Any]:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await self.call(method, request, **metadata)
        error: Any = caught.value
        return error.code(), rpc_status.from_call(error)

    async def parked(self, **filters: Any) -> list[Any]:
        found: list[Any] = []
        token = ""
        while True:
            request = pb.ListParkedEventsRequest(**filters, page_token=token)
            page = await self.call("ListParkedEvents", request)
            found += page.events
            if not (token := page.next_page_token):
                return found


@pytest.fixture
def bootstrap() -> str:
    """Where the service looks for the broker, unless a test says otherwise."""
    return NOBODY_LISTENS


@pytest.fixture
async def operator(
    database: str, pool: Pool, projection: toy.Toy, tmp_path: Path, bootstrap: str
) -> AsyncIterator[Operator]:
    issuer = TokenIssuer()
    callers = [{"subject": OPERATOR, "methods": [SERVICE], "may_act_for_people": True}]
    backend = Operations(
        pool,
        Parking(pool, toy.SCHEMAS, projection, toy.skipped_event, trail=toy.TRAIL),
        derived_version=7,
        bootstrap=bootstrap,
        skip_event_id=skip_event_id,
    )
    servicer = OperationsServicer(
        backend,
        Rebuilds(pool, database, toy.SCHEMAS.service, bootstrap, TOPICS, trail=toy.TRAIL),
        Verifications(pool, toy.SCHEMAS.service, toy.hashed_part, toy.TRAIL),
        audit=AuditLog(pool, toy.TRAIL),
        authorise=privileged,
        draining=asyncio.Event(),
    )
    async with served(
        rpc_settings(tmp_path, issuer, callers),
        lambda server: server.add(add_OperationsServiceServicer_to_server, servicer),
    ) as rpc:
        yield Operator(rpc, issuer)


async def test_positions_come_without_lag_while_the_broker_is_away(
    operator: Operator, pool: Pool, projection: toy.Toy
) -> None:
    await project(pool, projection, toy.STEPS, b"1", None, b"2")
    await project(pool, projection, toy.AMOUNTS, b"5")
    answer = await operator.call("GetPositions", pb.GetPositionsRequest())
    assert answer.derived_version == 7
    assert [(each.topic, each.next_offset, each.parked_events) for each in answer.positions] == [
        (toy.AMOUNTS, 1, 0),
        (toy.STEPS, 3, 2),
    ]
    steps = answer.positions[1]
    assert steps.as_of.ToMilliseconds() == 1_002
    assert not steps.HasField("lag")
    assert not steps.HasField("end_offset")
    only = await operator.call("GetPositions", pb.GetPositionsRequest(topics=[toy.STEPS]))
    assert list(only.positions) == [steps]


class TestLag:
    """With a broker."""

    @pytest.fixture
    def bootstrap(self, stack: Stack) -> str:
        return stack.kafka.bootstrap

    async def test_lag_is_what_the_broker_has_beyond_the_position(
        self,
        operator: Operator,
        pool: Pool,
        stack: Stack,
    ) -> None:
        topic = "operations.lag"
        admin = AIOKafkaAdminClient(bootstrap_servers=stack.kafka.bootstrap)
        await admin.start()
        await admin.create_topics([NewTopic(topic, 1, 1)])
        await admin.close()
        async with AIOKafkaProducer(bootstrap_servers=stack.kafka.bootstrap) as producer:
            for _ in range(5):
                await producer.send_and_wait(topic, b"1", partition=0)
        await pool.execute("INSERT INTO position (topic, partition, next_offset) VALUES ($1, 0, 2)", topic)
        (position,) = (await operator.call("GetPositions", pb.GetPositionsRequest())).positions
        assert (position.next_offset, position.end_offset, position.lag) == (2, 5, 3)


async def test_a_parked_event_is_shown_as_it_was_read(
    operator: Operator, pool: Pool, projection: toy.Toy
) -> None:
    await project(pool, projection, toy.AMOUNTS, b"1", b"\xffnonsense")
    (parked,) = await operator.parked()
    assert (parked.place.topic, parked.place.partition, parked.place.offset) == (toy.AMOUNTS, 0, 1)
    assert (parked.key, parked.value) == (b"a", b"\xffnonsense")
    assert [(each.name, each.value) for each in parked.headers] == [("h", b"\xff")]
    assert (parked.error_code, parked.attempts) == ("bad_json", 1)
    assert parked.appended_at.ToMilliseconds() == 1_001


async def test_a_header_name_that_is_not_utf_8_is_shown_escaped(
    operator: Operator, pool: Pool, projection: toy.Toy
) -> None:
    odd = Record(toy.AMOUNTS, 0, 0, 1_000, b"a", b"{", (("odd \udcff", b"1"), ("größe", b"2")))
    await Projector(pool, toy.SCHEMAS, projection).process(toy.AMOUNTS, 0, [odd])
    (parked,) = await operator.parked()
    assert [(each.name, each.value) for each in parked.headers] == [("odd \\xff", b"1"), ("größe", b"2")]


async def test_the_largest_event_with_an_odd_name_can_be_listed(
    operator: Operator, pool: Pool, projection: toy.Toy
) -> None:
    odd = ORDINARY._replace(headers=((1_048_000 * "\udcff", b""),))
    await Projector(pool, toy.SCHEMAS, projection).process(toy.AMOUNTS, 0, [odd])
    (parked,) = await operator.parked()
    assert parked.headers[0].name == 1_024 * "\\xff"


@pytest.mark.parametrize("page_size", [1, 2, 3, 100])
async def test_pages_lose_and_repeat_nothing(
    operator: Operator, pool: Pool, projection: toy.Toy, page_size: int
) -> None:
    await project(pool, projection, toy.AMOUNTS, b"x", b"1", b"x", toy.CRASH, b"x")
    await project(pool, projection, toy.STEPS, b"x", b"1")

    async def offsets(**filters: Any) -> list[tuple[str, int]]:
        parked = await operator.parked(page_size=page_size, **filters)
        return [(each.place.topic, each.place.offset) for each in parked]

    amounts = [(toy.AMOUNTS, offset) for offset in (0, 2, 3, 4)]
    assert await offsets() == [*amounts, (toy.STEPS, 0), (toy.STEPS, 1)]
    assert await offsets(topic=toy.AMOUNTS) == amounts
    assert await offsets(error_code="internal_error") == [(toy.AMOUNTS, 3)]


@pytest.mark.parametrize(
    "large",
    [
        ORDINARY._replace(value=b"x" * 250_000),
        ORDINARY._replace(key=b"x" * 250_000),
        ORDINARY._replace(headers=(("h", b"x" * 250_000),)),
        ORDINARY._replace(headers=(("h", b""),) * 50_000),
    ],
    ids=["value", "key", "header", "headers"],
)
async def test_a_page_of_large_events_stays_below_the_message_limit(
    operator: Operator, pool: Pool, projection: toy.Toy, large: Record
) -> None:
    records = [large._replace(offset=offset) for offset in range(20)]
    await Projector(pool, toy.SCHEMAS, projection).process(toy.AMOUNTS, 0, records)
    first = await operator.call("ListParkedEvents", pb.ListParkedEventsRequest(page_size=1_000))
    assert 1 < len(first.events) < 20
    assert len(await operator.parked(page_size=1_000)) == 20


async def test_a_retry_applies_what_was_mended_and_counts_what_was_not(
    operator: Operator, pool: Pool, projection: toy.Toy
) -> None:
    await project(pool, projection, toy.AMOUNTS, toy.CRASH, b"x", toy.CRASH)
    everything = pb.RetryParkedEventsRequest(all=True, **WHY)
    answer = await operator.call("RetryParkedEvents", everything)
    assert (answer.applied, answer.still_parked) == (0, 3)
    assert [each.attempts for each in await operator.parked()] == [2, 2, 2]
    projection.mended = True
    crashed = pb.RetryParkedEventsRequest(error_code="internal_error", **WHY)
    answer = await operator.call("RetryParkedEvents", crashed)
    assert (answer.applied, answer.still_parked) == (2, 0)
    assert [each.place.offset for each in await operator.parked()] == [1]
    again = await operator.call("RetryParkedEvents", crashed)
    assert (again.applied, again.still_parked) == (0, 0)
    recorded = await toy.TRAIL.entries(pool, oldest_first=True, limit=10)
    assert [(each.action, each.target, each.ticket_id) for each in recorded] == [
        ("parked.retried", target, "OPS-1")
        for target in ("all", "error_code:internal_error", "error_code:internal_error")
    ]


async def test_what_cannot_be_audited_is_not_retried(
    operator: Operator, pool: Pool, projection: toy.Toy
) -> None:
    await project(pool, projection, toy.AMOUNTS, toy.CRASH)
    await pool.execute("UPDATE audit_chain SET open_for = NULL")
    code, status = await operator.refused("RetryParkedEvents", pb.RetryParkedEventsRequest(all=True, **WHY))
    assert (code, reason(status)) == (grpc.StatusCode.UNAVAILABLE, "AUDIT_NOT_OPEN")
    assert [each.attempts for each in await operator.parked()] == [1]


async def test_what_was_tried_least_is_retried_first(pool: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[int] = []

    class Noting(toy.Toy):
        async def apply(self, connection: Connection, batch: Batch) -> Outcome:
            tried.extend(record.offset for record in batch.records)
            return await super().apply(connection, batch)

    await project(pool, toy.Toy(), toy.AMOUNTS, b"x", b"x", b"x")
    backend = Operations(
        pool,
        Parking(pool, toy.SCHEMAS, Noting(), toy.skipped_event, trail=toy.TRAIL),
        derived_version=7,
        bootstrap=NOBODY_LISTENS,
        skip_event_id=skip_event_id,
    )
    await backend.retry_at([Place(toy.AMOUNTS, 0, 0)])
    monkeypatch.setattr(operations, "RETRY_LIMIT", 1)
    await backend.retry(None)
    assert tried == [0, 1, 2, 0]


async def test_a_retry_of_places_passes_over_those_where_nothing_is_parked(
    operator: Operator, pool: Pool, projection: toy.Toy
) -> None:
    await project(pool, projection, toy.AMOUNTS, toy.CRASH, b"1", toy.CRASH)
    projection.mended = True
    places = [pb.RecordPlace(topic=toy.AMOUNTS, partition=0, offset=offset) for offset in (0, 1, 99)]
    request = pb.RetryParkedEventsRequest(places=pb.RecordPlaces(places=places), **WHY)
    answer = await operator.call("RetryParkedEvents", request)
    assert (answer.applied, answer.still_parked) == (1, 0)
    assert [each.place.offset for each in await operator.parked()] == [2]
    recorded = await toy.TRAIL.entries(pool, action="parked.retried", oldest_first=True, limit=10)
    assert [each.target for each in recorded] == [f"{toy.AMOUNTS}/0/{offset}" for offset in (0, 1, 99)]


async def test_what_was_queued_behind_a_mended_event_counts_as_applied(
    operator: Operator, pool: Pool, projection: toy.Toy
) -> None:
    await project(pool, projection, toy.STEPS, b"1", None, b"2", b"3")
    projection.mended = True
    first = pb.RecordPlace(topic=toy.STEPS, partition=0, offset=1)
    request = pb.RetryParkedEventsRequest(places=pb.RecordPlaces(places=[first]), **WHY)
    answer = await operator.call("RetryParkedEvents", request)
    assert (answer.applied, answer.still_parked) == (3, 0)


async def test_a_skip_is_an_event_that_names_who_decided_and_repeating_it_changes_nothing(
    operator: Operator, pool: Pool, projection: toy.Toy
) -> None:
    await project(pool, projection, toy.AMOUNTS, b"x", b"1")
    request = pb.SkipParkedEventRequest(topic=toy.AMOUNTS, partition=0, offset=0, **WHY)
    for_person = {"tokenomics_on_behalf_of": "p-operator"}
    answer = await operator.call("SkipParkedEvent", request, **for_person)
    repeated = await operator.call("SkipParkedEvent", request, **for_person)
    assert answer.event_id == repeated.event_id == f"skip-{toy.AMOUNTS}-0-0"
    assert await operator.parked() == []
    (event,) = await pool.fetch("SELECT value FROM outbox WHERE aggregate_id LIKE 'parked/%'")
    assert json.loads(event["value"]) == [toy.AMOUNTS, 0, 0, "reader_mended", "OPS-1", "p-operator"]


async def test_only_what_is_parked_can_be_skipped(
    operator: Operator, pool: Pool, projection: toy.Toy
) -> None:
    await project(pool, projection, toy.AMOUNTS, b"1")
    applied = pb.SkipParkedEventRequest(topic=toy.AMOUNTS, partition=0, offset=0, **WHY)
    code, status = await operator.refused("SkipParkedEvent", applied)
    assert (code, reason(status)) == (grpc.StatusCode.FAILED_PRECONDITION, "ALREADY_APPLIED")
    unread = pb.SkipParkedEventRequest(topic=toy.AMOUNTS, partition=0, offset=1, **WHY)
    code, status = await operator.refused("SkipParkedEvent", unread)
    assert (code, reason(status)) == (grpc.StatusCode.NOT_FOUND, "NOT_PARKED")


@pytest.mark.parametrize(
    ("method", "request_type"),
    [
        ("GetPositions", pb.GetPositionsRequest),
        ("ListParkedEvents", pb.ListParkedEventsRequest),
        ("RetryParkedEvents", pb.RetryParkedEventsRequest),
        ("SkipParkedEvent", pb.SkipParkedEventRequest),
        ("StartRebuild", pb.StartRebuildRequest),
        ("ListRebuilds", pb.ListRebuildsRequest),
        ("PromoteRebuild", pb.PromoteRebuildRequest),
        ("RollbackRebuild", pb.RollbackRebuildRequest),
        ("RetireRebuild", pb.RetireRebuildRequest),
        ("StartVerify", pb.StartVerifyRequest),
    ],
)
async def test_a_person_who_is_no_operator_is_refused(
    operator: Operator, method: str, request_type: Any
) -> None:
    code, _ = await operator.refused(method, request_type(), tokenomics_on_behalf_of="p-1")
    assert code is grpc.StatusCode.PERMISSION_DENIED


@pytest.mark.parametrize(
    ("person", "method", "allowed"),
    [
        ("p-operator", "GetAuditHead", True),
        ("p-auditor", "GetAuditHead", True),
        ("p-1", "GetAuditHead", False),
        ("p-auditor", "ListAudit", True),
        ("p-operator", "ListAudit", False),
        ("p-auditor", "GetPositions", False),
    ],
)
async def test_the_audit_trail_is_for_auditors_and_its_head_for_operators_too(
    operator: Operator, person: str, method: str, *, allowed: bool
) -> None:
    request = getattr(pb, f"{method}Request")()
    if allowed:
        assert await operator.call(method, request, tokenomics_on_behalf_of=person)
    else:
        code, _ = await operator.refused(method, request, tokenomics_on_behalf_of=person)
        assert code is grpc.StatusCode.PERMISSION_DENIED


async def test_the_audit_trail_is_listed_as_it_is_chained(operator: Operator, pool: Pool) -> None:
    head = await operator.call("GetAuditHead", pb.GetAuditHeadRequest())
    assert (head.chain, head.sequence, head.hash) == ("toy", 0, NOTHING_BEFORE)
    entries = [Entry("p-1", "console", "parked.retried", "all", "why", f"OPS-{each}") for each in range(5)]
    entries += [Entry("portal", "portal", "subject.looked_at", "p-2", details={"basis": "x"}, once="y")]
    async with pool.acquire() as connection, connection.transaction():
        await toy.TRAIL.append(connection, entries)

    async def listed(**filters: Any) -> list[Any]:
        found, token = [], ""
        while True:
            request = pb.ListAuditRequest(**filters, page_size=2, page_token=token)
            page = await operator.call("ListAudit", request)
            assert len(page.entries) <= 2
            found += page.entries
            if not (token := page.next_page_token):
                return found

    newest_first = await listed()
    assert [each.sequence for each in newest_first] == [6, 5, 4, 3, 2, 1]
    assert await listed(oldest_first=True) == newest_first[::-1]
    assert await listed(action="subject.looked_at") == await listed(actor="portal") == newest_first[:1]
    assert await listed(target="all", oldest_first=True) == newest_first[:0:-1]
    head = await operator.call("GetAuditHead", pb.GetAuditHeadRequest())
    assert (head.sequence, head.hash, head.relayed_sequence) == (6, newest_first[0].hash, 0)
    assert newest_first[0].details == {"basis": "x"}
    assert newest_first[0].previous_hash == newest_first[1].hash


async def test_a_rebuild_is_recorded_once_listed_and_cannot_be_promoted_before_it_is_filled(
    operator: Operator,
) -> None:
    for _ in range(2):
        answer = await operator.call("StartRebuild", pb.StartRebuildRequest(rebuild_id="second", **WHY))
        assert (answer.rebuild.derived_version, answer.rebuild.state) == (2, pb.REBUILD_STATE_CATCHING_UP)
    listed = await operator.call("ListRebuilds", pb.ListRebuildsRequest())
    assert [(each.rebuild_id, each.state) for each in listed.rebuilds] == [
        ("second", pb.REBUILD_STATE_CATCHING_UP),
        ("initial", pb.REBUILD_STATE_ACTIVE),
    ]
    promote = pb.PromoteRebuildRequest(rebuild_id="second", **WHY)
    code, status = await operator.refused("PromoteRebuild", promote)
    assert (code, reason(status)) == (grpc.StatusCode.FAILED_PRECONDITION, "REBUILD_REFUSED")
    code, _ = await operator.refused("StartRebuild", pb.StartRebuildRequest(rebuild_id="third", **WHY))
    assert code is grpc.StatusCode.FAILED_PRECONDITION
    code, _ = await operator.refused(
        "RollbackRebuild", pb.RollbackRebuildRequest(rebuild_id="initial", **WHY)
    )
    assert code is grpc.StatusCode.FAILED_PRECONDITION
    retired = await operator.call("RetireRebuild", pb.RetireRebuildRequest(rebuild_id="second", **WHY))
    assert retired.rebuild.state == pb.REBUILD_STATE_RETIRED
    assert len((await operator.call("ListRebuilds", pb.ListRebuildsRequest())).rebuilds) == 1
    everything = await operator.call("ListRebuilds", pb.ListRebuildsRequest(include_retired=True))
    assert len(everything.rebuilds) == 2


async def test_a_watch_reports_a_rebuild_until_it_is_filled(operator: Operator, pool: Pool) -> None:
    await operator.call("StartRebuild", pb.StartRebuildRequest(rebuild_id="second", **WHY))
    states = []
    async for seen in operator.call("WatchRebuild", pb.WatchRebuildRequest(rebuild_id="second")):
        states.append(seen.rebuild.state)
        await pool.execute("UPDATE derived_version SET state = 'caught_up' WHERE version = 2")
    assert states == [pb.REBUILD_STATE_CATCHING_UP, pb.REBUILD_STATE_CAUGHT_UP]


async def test_a_verification_is_recorded_and_its_failure_reported(operator: Operator, pool: Pool) -> None:
    started = await operator.call("StartVerify", pb.StartVerifyRequest(verify_id="v", part="a", **WHY))
    assert started.verify.state == pb.VERIFY_STATE_RUNNING
    await pool.execute(
        "UPDATE derived_version SET state = 'failed', error_message = 'too bad' WHERE state = 'verifying'"
    )
    seen = [each.verify async for each in operator.call("WatchVerify", pb.WatchVerifyRequest(verify_id="v"))]
    assert [(each.state, each.error_message) for each in seen] == [(pb.VERIFY_STATE_FAILED, "too bad")]
    code, status = await operator.refused(
        "StartVerify", pb.StartVerifyRequest(verify_id="w", part="1", **WHY)
    )
    assert (code, violated(status)) == (grpc.StatusCode.INVALID_ARGUMENT, {"part"})


@pytest.mark.parametrize("method", ["PromoteRebuild", "RollbackRebuild", "RetireRebuild"])
async def test_a_rebuild_that_does_not_exist_is_not_found(operator: Operator, method: str) -> None:
    code, _ = await operator.refused(method, getattr(pb, f"{method}Request")(rebuild_id="none", **WHY))
    assert code is grpc.StatusCode.NOT_FOUND


async def test_what_does_not_exist_cannot_be_watched(operator: Operator) -> None:
    rebuild = operator.call("WatchRebuild", pb.WatchRebuildRequest(rebuild_id="none"))
    verification = operator.call("WatchVerify", pb.WatchVerifyRequest(verify_id="none"))
    assert await rebuild.code() is grpc.StatusCode.NOT_FOUND
    assert await verification.code() is grpc.StatusCode.NOT_FOUND


def violated(status: Any) -> set[str]:
    (packed,) = (each for each in status.details if each.Is(BadRequest.DESCRIPTOR))
    details = BadRequest()
    packed.Unpack(details)
    return {violation.field for violation in details.field_violations}


def reason(status: Any) -> str:
    info = ErrorInfo()
    assert status.details[0].Unpack(info)
    return str(info.reason)
