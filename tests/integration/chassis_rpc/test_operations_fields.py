"""What each field of each request of OperationsService refuses, and in which words.

A field that a request gains fails the first test until it stands in the table, or among those that take
anything.
"""

from typing import Any, Final

import grpc
import pytest
from google.protobuf.message import Message
from grpc_status import rpc_status

from tests.integration.chassis_rpc.test_operations import (
    NUL,
    WHY,
    Operator,
    bootstrap,
    database,
    operator,
    pool,
    projection,
    with_token,
)
from tests.support import toy_projection as toy
from tests.support.request_fields import Row, changed, fields_of, named, violations
from tokenomics.operations.v1 import operations_pb2 as pb

__all__ = ["bootstrap", "database", "operator", "pool", "projection"]

SERVICE: Final = pb.DESCRIPTOR.services_by_name["OperationsService"]

TOPIC = "must match [A-Za-z0-9._-]{1,249}"
ID = "must match ^[A-Za-z0-9][A-Za-z0-9:._-]{0,127}$"
CODE = "must match ^[a-z0-9][a-z0-9_.-]{0,63}$"
PRINTABLE = "must match ^[!-~]{1,256}$"
NEGATIVE = "must not be negative"
FOREIGN = "is not one this method gave"
PLACE: Final = pb.RecordPlace(topic=toy.AMOUNTS, partition=0, offset=0)

GOOD: Final[dict[str, Message]] = {
    "GetPositions": pb.GetPositionsRequest(topics=[toy.AMOUNTS]),
    "ListParkedEvents": pb.ListParkedEventsRequest(),
    "RetryParkedEvents": pb.RetryParkedEventsRequest(places=pb.RecordPlaces(places=[PLACE]), **WHY),
    "SkipParkedEvent": pb.SkipParkedEventRequest(topic=toy.AMOUNTS, **WHY),
    "StartRebuild": pb.StartRebuildRequest(rebuild_id="r", **WHY),
    "ListRebuilds": pb.ListRebuildsRequest(),
    "WatchRebuild": pb.WatchRebuildRequest(rebuild_id="r"),
    "PromoteRebuild": pb.PromoteRebuildRequest(rebuild_id="r", **WHY),
    "RollbackRebuild": pb.RollbackRebuildRequest(rebuild_id="r", **WHY),
    "RetireRebuild": pb.RetireRebuildRequest(rebuild_id="r", **WHY),
    "StartVerify": pb.StartVerifyRequest(verify_id="v", part="a", **WHY),
    "WatchVerify": pb.WatchVerifyRequest(verify_id="v"),
    "GetAuditHead": pb.GetAuditHeadRequest(),
    "ListAudit": pb.ListAuditRequest(),
}
"""Of each method a request with nothing wrong in it."""

TOKENS: Final = [
    "made up",
    *(
        with_token(content).page_token
        for content in (
            {"topic": "a"},
            ["a", 0],
            ["a", True, 0],
            ["a", 10**30, 0],
            ["a", 0, 2**63],
            ["a", -1, 0],
            ["a", 0, 0.0],
            ["a", float("inf"), 0],
            [NUL, 0, 0],
        )
    ),
]

FIELDS: Final[list[Row]] = [
    ("GetPositions.topics", ["a", NUL], TOPIC),
    ("GetPositions.topics", [""], TOPIC),
    ("ListParkedEvents.topic", "a b", TOPIC),
    ("ListParkedEvents.error_code", "No code", CODE),
    ("ListParkedEvents.page_size", -1, NEGATIVE),
    *(("ListParkedEvents.page_token", token, FOREIGN) for token in TOKENS),
    ("RetryParkedEvents.all", False, "must be true when set"),
    ("RetryParkedEvents.error_code", "", CODE),
    ("RetryParkedEvents.error_code", NUL, CODE),
    ("RetryParkedEvents.places.places", None, "must name 1 to 1000 places"),
    ("RetryParkedEvents.places.places", [PLACE] * 1_001, "must name 1 to 1000 places"),
    ("RetryParkedEvents.places.places[].topic", "", TOPIC),
    ("RetryParkedEvents.places.places[].topic", NUL, TOPIC),
    ("RetryParkedEvents.places.places[].partition", -1, NEGATIVE),
    ("RetryParkedEvents.places.places[].offset", -1, NEGATIVE),
    ("SkipParkedEvent.topic", "", TOPIC),
    ("SkipParkedEvent.topic", "a" * 250, TOPIC),
    ("SkipParkedEvent.partition", -1, NEGATIVE),
    ("SkipParkedEvent.offset", -1, NEGATIVE),
    *(
        row
        for method in ("StartRebuild", "PromoteRebuild", "RollbackRebuild", "RetireRebuild", "WatchRebuild")
        for row in ((f"{method}.rebuild_id", "", ID), (f"{method}.rebuild_id", NUL, ID))
    ),
    *(
        row
        for method in ("StartVerify", "WatchVerify")
        for row in ((f"{method}.verify_id", "", ID), (f"{method}.verify_id", "a b", ID))
    ),
    ("StartVerify.part", NUL, r"must match [^\x00]{0,512}"),
    ("StartVerify.part", "a" * 513, r"must match [^\x00]{0,512}"),
    *(
        row
        for method, request in GOOD.items()
        if "reason_code" in request.DESCRIPTOR.fields_by_name
        for row in (
            (f"{method}.reason_code", "", CODE),
            (f"{method}.reason_code", "Because I say so!", CODE),
            (f"{method}.ticket_id", "", ID),
            (f"{method}.ticket_id", "jane@example.org", ID),
        )
    ),
    ("ListAudit.action", "Not a code", CODE),
    ("ListAudit.target", NUL, PRINTABLE),
    ("ListAudit.actor", "two words", PRINTABLE),
    ("ListAudit.page_size", -1, NEGATIVE),
    *(("ListAudit.page_token", token, "must match [1-9][0-9]{0,17}") for token in ("-1", "0", "٣", "9" * 19)),
]
"""Of each field wrong values, and in which words they are refused by its name."""

TAKE_ANYTHING: Final = {
    "ListRebuilds.include_retired": "is yes or no",
    "ListAudit.oldest_first": "is yes or no",
}
"""Fields in which nothing is refused, and why."""


def test_every_field_of_every_request_is_in_the_table() -> None:
    assert GOOD.keys() == set(SERVICE.methods_by_name)
    fields = {field for method in SERVICE.methods for field in fields_of(method.input_type, method.name)}
    told = {named(field) for field, _, _ in FIELDS}
    assert told.isdisjoint(TAKE_ANYTHING)
    assert told | TAKE_ANYTHING.keys() == fields


async def told(operator: Operator, method: str, request: Any) -> dict[str, str]:
    """Return what is told of a request's fields."""
    answering = operator.call(method, request)
    if SERVICE.methods_by_name[method].server_streaming:
        answering = answering.read()
    with pytest.raises(grpc.aio.AioRpcError) as refusal:
        await answering
    assert refusal.value.code() is grpc.StatusCode.INVALID_ARGUMENT, refusal.value.details()
    status = rpc_status.from_call(refusal.value)  # type: ignore[arg-type] # an AioRpcError is a call, too
    assert status is not None
    return violations(status.details)


@pytest.mark.parametrize("method", sorted({field.partition(".")[0] for field, _, _ in FIELDS}))
async def test_a_wrong_field_is_refused_by_its_name(operator: Operator, method: str) -> None:
    for field, value, message in FIELDS:
        of, _, path = field.partition(".")
        if of == method:
            expected = {path.replace("[]", "[0]"): message}
            assert await told(operator, method, changed(GOOD[method], path, value)) == expected, (
                field,
                value,
            )


async def test_a_retry_that_selects_nothing_is_told_what_it_may_select(operator: Operator) -> None:
    found = await told(operator, "RetryParkedEvents", pb.RetryParkedEventsRequest(**WHY))
    assert found == {"selection": "say what to retry: all, error_code or places"}


@pytest.mark.parametrize(
    ("method", "request_with_all", "fields"),
    [
        ("ListParkedEvents", pb.ListParkedEventsRequest(topic=NUL, error_code=NUL), {"topic", "error_code"}),
        (
            "ListParkedEvents",
            pb.ListParkedEventsRequest(page_size=-1, page_token="?"),  # noqa: S106 - a page's
            {"page_size", "page_token"},
        ),
        (
            "SkipParkedEvent",
            pb.SkipParkedEventRequest(partition=-1, offset=-1),
            {"topic", "partition", "offset", "reason_code", "ticket_id"},
        ),
        ("StartVerify", pb.StartVerifyRequest(part=NUL), {"verify_id", "part", "reason_code", "ticket_id"}),
        ("PromoteRebuild", pb.PromoteRebuildRequest(), {"rebuild_id", "reason_code", "ticket_id"}),
        (
            "ListAudit",
            pb.ListAuditRequest(action="?!", target=NUL, actor=NUL, page_size=-1, page_token="-1"),  # noqa: S106
            {"action", "target", "actor", "page_size", "page_token"},
        ),
    ],
)
async def test_every_wrong_field_is_named_at_once(
    operator: Operator, method: str, request_with_all: Any, fields: set[str]
) -> None:
    assert (await told(operator, method, request_with_all)).keys() == fields
