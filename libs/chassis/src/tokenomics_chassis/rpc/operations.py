"""OperationsService, the same in every service, over :class:`OperationsBackend`."""

import base64
import binascii
import json
import re
from collections.abc import Callable
from typing import Any

import grpc

from tokenomics.operations.v1 import operations_pb2 as pb
from tokenomics.operations.v1.operations_pb2_grpc import OperationsServiceServicer
from tokenomics_chassis.operations import AlreadyAppliedError, OperationsBackend, Position
from tokenomics_chassis.parking import NotParkedError, ParkedRecord, Skip
from tokenomics_chassis.records import Place
from tokenomics_chassis.rpc.errors import FailedPreconditionError, InvalidRequestError, NotFoundError
from tokenomics_chassis.rpc.identity import Identity, current_identity
from tokenomics_contracts.units import IDENTIFIER_PATTERN, SLUG_PATTERN

Context = grpc.aio.ServicerContext[Any, Any]

_DEFAULT_PAGE = 100
_LARGEST_PAGE = 1_000
_MOST_PLACES = 1_000


class NotParkedRpcError(NotFoundError):
    """No event is parked at the place named."""

    reason = "NOT_PARKED"


class AlreadyAppliedRpcError(FailedPreconditionError):
    """The event was applied and can't be given up any more."""

    reason = "ALREADY_APPLIED"


class OperationsServicer(OperationsServiceServicer):
    """Serves operators.

    Parameters
    ----------
    authorise
        Raises PermissionDeniedError when the identity may not operate this service (a person without the
        privilege). Whether the caller may call the method was checked before.
    """

    def __init__(self, backend: OperationsBackend, authorise: Callable[[Identity], None]) -> None:
        self._backend = backend
        self._authorise = authorise

    async def GetPositions(  # noqa: N802 - the contract's name
        self, request: pb.GetPositionsRequest, _context: Context
    ) -> pb.GetPositionsResponse:
        """Positions with lag."""
        self._authorise(current_identity())
        positions = await self._backend.positions(request.topics)
        return pb.GetPositionsResponse(
            positions=map(_position_to_pb, positions), derived_version=self._backend.derived_version
        )

    async def ListParkedEvents(  # noqa: N802
        self, request: pb.ListParkedEventsRequest, _context: Context
    ) -> pb.ListParkedEventsResponse:
        """One page of what is parked."""
        self._authorise(current_identity())
        if request.page_size < 0:
            raise InvalidRequestError({"page_size": "must not be negative"})
        page = await self._backend.list_parked(
            request.topic or None,
            request.error_code or None,
            _place_from_token(request.page_token) if request.page_token else None,
            min(request.page_size or _DEFAULT_PAGE, _LARGEST_PAGE),
        )
        return pb.ListParkedEventsResponse(
            events=map(_parked_to_pb, page.records),
            next_page_token=_place_to_token(page.after) if page.after else "",
        )

    async def RetryParkedEvents(  # noqa: N802
        self, request: pb.RetryParkedEventsRequest, _context: Context
    ) -> pb.RetryParkedEventsResponse:
        """Try again what is selected."""
        self._authorise(current_identity())
        violations = _why_violations(request)
        places = [Place(each.topic, each.partition, each.offset) for each in request.places.places]
        match request.WhichOneof("selection"):
            case "all" if not request.all:
                violations["all"] = "must be true when set"
            case "error_code" if not request.error_code:
                violations["error_code"] = "must not be empty"
            case "places" if not 0 < len(places) <= _MOST_PLACES:
                violations["places.places"] = f"must name 1 to {_MOST_PLACES} places"
            case None:
                violations["selection"] = "say what to retry: all, error_code or places"
        if violations:
            raise InvalidRequestError(violations)
        if places:
            result = await self._backend.retry_at(places)
        else:
            result = await self._backend.retry(request.error_code or None)
        return pb.RetryParkedEventsResponse(applied=result.applied, still_parked=result.still_parked)

    async def SkipParkedEvent(  # noqa: N802
        self, request: pb.SkipParkedEventRequest, _context: Context
    ) -> pb.SkipParkedEventResponse:
        """Give one event up for good."""
        identity = current_identity()
        self._authorise(identity)
        violations = _why_violations(request)
        if not request.topic:
            violations["topic"] = "must not be empty"
        if violations:
            raise InvalidRequestError(violations)
        skip = Skip(
            request.topic,
            request.partition,
            request.offset,
            request.reason_code,
            request.ticket_id,
            identity.on_behalf_of or identity.caller,
        )
        try:
            return pb.SkipParkedEventResponse(event_id=await self._backend.skip(skip))
        except NotParkedError as error:
            raise NotParkedRpcError(str(error)) from error
        except AlreadyAppliedError as error:
            raise AlreadyAppliedRpcError(str(error)) from error


def _why_violations(request: pb.RetryParkedEventsRequest | pb.SkipParkedEventRequest) -> dict[str, str]:
    """Hold that an operator's action carries a reason code and a ticket, never free text."""
    violations = {}
    if not re.fullmatch(SLUG_PATTERN, request.reason_code):
        violations["reason_code"] = f"must match {SLUG_PATTERN}"
    if not re.fullmatch(IDENTIFIER_PATTERN, request.ticket_id):
        violations["ticket_id"] = f"must match {IDENTIFIER_PATTERN}"
    return violations


def _position_to_pb(position: Position) -> pb.Position:
    message = pb.Position(
        topic=position.topic,
        partition=position.partition,
        next_offset=position.next_offset,
        parked_events=position.parked_records,
    )
    if position.end_offset is not None:
        message.end_offset = position.end_offset
        message.lag = max(0, position.end_offset - position.next_offset)
    if position.as_of is not None:
        message.as_of.FromDatetime(position.as_of)
    return message


def _parked_to_pb(parked: ParkedRecord) -> pb.ParkedEvent:
    record = parked.record
    message = pb.ParkedEvent(
        place=pb.RecordPlace(topic=record.topic, partition=record.partition, offset=record.offset),
        key=record.key,
        value=record.value,
        headers=[pb.RecordHeader(name=_legible(name), value=value or b"") for name, value in record.headers],
        error_code=parked.error_code,
        error_message=parked.error_message,
        attempts=parked.attempts,
    )
    message.appended_at.FromMilliseconds(record.append_ms)
    message.parked_at.FromDatetime(parked.parked_at)
    return message


def _legible(name: str) -> str:
    """Escape what isn't UTF-8 with backslashes: protobuf takes no surrogates, as which it is kept."""
    return name.encode(errors="surrogateescape").decode(errors="backslashreplace")


def _place_to_token(place: Place) -> str:
    return base64.urlsafe_b64encode(json.dumps(place).encode()).decode()


def _place_from_token(token: str) -> Place:
    try:
        topic, partition, offset = json.loads(base64.urlsafe_b64decode(token))
        return Place(str(topic), int(partition), int(offset))
    except (binascii.Error, TypeError, ValueError) as error:
        raise InvalidRequestError({"page_token": "is not one this method gave"}) from error
