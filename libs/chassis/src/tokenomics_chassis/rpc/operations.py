"""OperationsService, the same in every service, over :class:`OperationsBackend`."""

import asyncio
import base64
import json
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from time import monotonic
from typing import Any, Protocol, TypeVar

import grpc
from google.protobuf.message import Message

from tokenomics.operations.v1 import operations_pb2 as pb
from tokenomics.operations.v1.operations_pb2_grpc import OperationsServiceServicer
from tokenomics_chassis.audit import AuditLog, Entry
from tokenomics_chassis.operations import AlreadyAppliedError, OperationsBackend, Position
from tokenomics_chassis.parking import NotParkedError, ParkedRecord, Skip
from tokenomics_chassis.postgres import wait_for
from tokenomics_chassis.rebuilds import (
    NoSuchRebuildError,
    NotReachedError,
    Rebuild,
    RebuildRefusedError,
    Rebuilds,
)
from tokenomics_chassis.records import Place
from tokenomics_chassis.rpc.errors import (
    DeadlineExceededError,
    FailedPreconditionError,
    InvalidRequestError,
    NotFoundError,
    UnavailableError,
)
from tokenomics_chassis.rpc.identity import Identity, current_identity
from tokenomics_chassis.rpc.paging import page_size, wrong_page_size
from tokenomics_chassis.state_hash import combined
from tokenomics_chassis.verification import (
    NoSuchVerificationError,
    Verdict,
    Verification,
    Verifications,
)
from tokenomics_chassis.versions import VersionState, Why
from tokenomics_contracts.audit import AuditRecorded
from tokenomics_contracts.units import CALLER_PATTERN, IDENTIFIER_PATTERN, SLUG_PATTERN

Context = grpc.aio.ServicerContext[Any, Any]

_OPERATOR, _AUDITOR = "operator", "auditor"
_MOST_PLACES = 1_000
_HEADER_NAME_BYTES = 1_024
_TOPIC_PATTERN = r"[A-Za-z0-9._-]{1,249}"
_PART_PATTERN = r"[^\x00]{0,512}"
_SEQUENCE_PATTERN = r"[1-9][0-9]{0,17}"
_PARTITIONS, _OFFSETS = range(2**31), range(2**63)
_WATCH_SECONDS = 0.3
_WATCH_AT_LEAST_EVERY_SECONDS = 4.5

_STATES = {
    VersionState.CATCHING_UP: pb.REBUILD_STATE_CATCHING_UP,
    VersionState.CAUGHT_UP: pb.REBUILD_STATE_CAUGHT_UP,
    VersionState.ACTIVE: pb.REBUILD_STATE_ACTIVE,
    VersionState.STANDBY: pb.REBUILD_STATE_STANDBY,
    VersionState.RETIRED: pb.REBUILD_STATE_RETIRED,
    VersionState.FAILED: pb.REBUILD_STATE_FAILED,
}
_VERDICTS = {
    Verdict.RUNNING: pb.VERIFY_STATE_RUNNING,
    Verdict.EQUAL: pb.VERIFY_STATE_EQUAL,
    Verdict.DIFFERENT: pb.VERIFY_STATE_DIFFERENT,
    Verdict.FAILED: pb.VERIFY_STATE_FAILED,
}

_NOTHING_WRONG: Mapping[str, str] = {}
_FOREIGN_TOKEN = {"page_token": "is not one this method gave"}

M = TypeVar("M", bound=Message)


class _Change(Protocol):
    """What every request has that changes something."""

    reason_code: str
    ticket_id: str


class Authorise(Protocol):
    """Says who may operate a service; whether the caller may call the method was checked before."""

    def __call__(self, identity: Identity, *privileges: str) -> None:
        """Let a workload through, and of people those who have one of these privileges.

        Raises
        ------
        PermissionDeniedError
            This person has none of them.
        """
        ...


class NotParkedRpcError(NotFoundError):
    """No event is parked at the place named."""

    reason = "NOT_PARKED"


class AlreadyAppliedRpcError(FailedPreconditionError):
    """The event was applied and can't be given up any more."""

    reason = "ALREADY_APPLIED"


class NoSuchRebuildRpcError(NotFoundError):
    """No rebuild has this id."""

    reason = "NO_SUCH_REBUILD"


class RebuildRefusedRpcError(FailedPreconditionError):
    """The version, or another one, is in no state for that."""

    reason = "REBUILD_REFUSED"


class NotReachedRpcError(DeadlineExceededError):
    """The version didn't reach the one that serves while that one was frozen; nothing changed."""

    reason = "REBUILD_NOT_LEVEL"


class NoSuchVerificationRpcError(NotFoundError):
    """No verification has this id."""

    reason = "NO_SUCH_VERIFICATION"


class OperationsServicer(OperationsServiceServicer):
    """Serves operators.

    Parameters
    ----------
    audit
        Of operators' actions, those are recorded here that are no transaction of their own.
    draining
        Set when the process stops: watches end then, for their callers to watch elsewhere.
    """

    def __init__(
        self,
        backend: OperationsBackend,
        rebuilds: Rebuilds,
        verifications: Verifications,
        *,
        audit: AuditLog,
        authorise: Authorise,
        draining: asyncio.Event,
    ) -> None:
        self._backend = backend
        self._rebuilds = rebuilds
        self._verifications = verifications
        self._audit = audit
        self._authorise = authorise
        self._draining = draining

    async def GetPositions(  # noqa: N802 - the contract's name
        self, request: pb.GetPositionsRequest, _context: Context
    ) -> pb.GetPositionsResponse:
        """Positions with lag."""
        self._authorise(current_identity(), _OPERATOR)
        _refuse(_mismatches(_TOPIC_PATTERN, topics=request.topics))
        positions = await self._backend.positions(request.topics)
        return pb.GetPositionsResponse(
            positions=map(_position_to_pb, positions), derived_version=self._backend.derived_version
        )

    async def ListParkedEvents(  # noqa: N802
        self, request: pb.ListParkedEventsRequest, _context: Context
    ) -> pb.ListParkedEventsResponse:
        """One page of what is parked."""
        self._authorise(current_identity(), _OPERATOR)
        violations = _mismatches(_TOPIC_PATTERN, topic=filter(None, [request.topic]))
        violations |= _mismatches(SLUG_PATTERN, error_code=filter(None, [request.error_code]))
        violations |= wrong_page_size(request.page_size)
        after = _place_from_token(request.page_token)
        if request.page_token and after is None:
            violations |= _FOREIGN_TOKEN
        _refuse(violations)
        page = await self._backend.list_parked(
            request.topic or None,
            request.error_code or None,
            after,
            page_size(request.page_size),
        )
        return pb.ListParkedEventsResponse(
            events=map(_parked_to_pb, page.records),
            next_page_token=_place_to_token(page.after) if page.after else "",
        )

    async def RetryParkedEvents(  # noqa: N802
        self, request: pb.RetryParkedEventsRequest, _context: Context
    ) -> pb.RetryParkedEventsResponse:
        """Try again what is selected."""
        identity = current_identity()
        self._authorise(identity, _OPERATOR)
        violations = _why_violations(request)
        places = [Place(each.topic, each.partition, each.offset) for each in request.places.places]
        match request.WhichOneof("selection"):
            case "all" if not request.all:
                violations["all"] = "must be true when set"
            case "error_code":
                violations |= _mismatches(SLUG_PATTERN, error_code=[request.error_code])
            case "places" if not 0 < len(places) <= _MOST_PLACES:
                violations["places.places"] = f"must name 1 to {_MOST_PLACES} places"
            case "places":
                for number, place in enumerate(places):
                    violations |= _wrong_place(place, f"places.places[{number}].")
            case None:
                violations["selection"] = "say what to retry: all, error_code or places"
        _refuse(violations)
        await self._audit.record(
            [
                Entry(
                    identity.on_behalf_of or identity.caller,
                    identity.caller,
                    "parked.retried",
                    target,
                    request.reason_code,
                    request.ticket_id,
                )
                for target in _retried(request)
            ]
        )
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
        self._authorise(identity, _OPERATOR)
        place = Place(request.topic, request.partition, request.offset)
        _refuse(_wrong_place(place) | _why_violations(request))
        skip = Skip(
            *place,
            request.reason_code,
            request.ticket_id,
            identity.on_behalf_of or identity.caller,
        )
        try:
            return pb.SkipParkedEventResponse(event_id=await self._backend.skip(skip, identity.caller))
        except NotParkedError as error:
            raise NotParkedRpcError(str(error)) from error
        except AlreadyAppliedError as error:
            raise AlreadyAppliedRpcError(str(error)) from error

    async def StartRebuild(  # noqa: N802
        self, request: pb.StartRebuildRequest, _context: Context
    ) -> pb.StartRebuildResponse:
        """Record that the next version shall be filled."""
        why = self._why(request, "rebuild_id", request.rebuild_id)
        with _rebuild_errors():
            return pb.StartRebuildResponse(
                rebuild=_rebuild_to_pb(await self._rebuilds.start(request.rebuild_id, why))
            )

    async def ListRebuilds(  # noqa: N802
        self, request: pb.ListRebuildsRequest, _context: Context
    ) -> pb.ListRebuildsResponse:
        """Return the versions, newest first."""
        self._authorise(current_identity(), _OPERATOR)
        rebuilds = await self._rebuilds.list(include_retired=request.include_retired)
        return pb.ListRebuildsResponse(rebuilds=map(_rebuild_to_pb, rebuilds))

    async def WatchRebuild(  # noqa: N802
        self, request: pb.WatchRebuildRequest, _context: Context
    ) -> AsyncIterator[pb.WatchRebuildResponse]:
        """Report a rebuild's progress until it is caught up or has ended otherwise."""
        self._authorise(current_identity(), _OPERATOR)
        _refuse(_mismatches(IDENTIFIER_PATTERN, rebuild_id=[request.rebuild_id]))

        async def look() -> tuple[pb.Rebuild, bool]:
            with _rebuild_errors():
                rebuild = await self._rebuilds.get(request.rebuild_id)
            return _rebuild_to_pb(rebuild), rebuild.version.state is VersionState.CATCHING_UP

        async for seen in self._watch(look):
            yield pb.WatchRebuildResponse(rebuild=seen)

    async def PromoteRebuild(  # noqa: N802
        self, request: pb.PromoteRebuildRequest, _context: Context
    ) -> pb.PromoteRebuildResponse:
        """Make a version serve."""
        why = self._why(request, "rebuild_id", request.rebuild_id)
        with _rebuild_errors():
            return pb.PromoteRebuildResponse(
                rebuild=_rebuild_to_pb(await self._rebuilds.promote(request.rebuild_id, why))
            )

    async def RollbackRebuild(  # noqa: N802
        self, request: pb.RollbackRebuildRequest, _context: Context
    ) -> pb.RollbackRebuildResponse:
        """Make the version serve that served before."""
        why = self._why(request, "rebuild_id", request.rebuild_id)
        with _rebuild_errors():
            return pb.RollbackRebuildResponse(
                rebuild=_rebuild_to_pb(await self._rebuilds.roll_back(request.rebuild_id, why))
            )

    async def RetireRebuild(  # noqa: N802
        self, request: pb.RetireRebuildRequest, _context: Context
    ) -> pb.RetireRebuildResponse:
        """Drop a version that doesn't serve."""
        why = self._why(request, "rebuild_id", request.rebuild_id)
        with _rebuild_errors():
            return pb.RetireRebuildResponse(
                rebuild=_rebuild_to_pb(await self._rebuilds.retire(request.rebuild_id, why))
            )

    async def StartVerify(  # noqa: N802
        self, request: pb.StartVerifyRequest, _context: Context
    ) -> pb.StartVerifyResponse:
        """Record that the state shall be recomputed and compared."""
        wrong_part = _mismatches(_PART_PATTERN, part=[request.part])
        why = self._why(request, "verify_id", request.verify_id, wrong_part)
        with _rebuild_errors():
            try:
                verification = await self._verifications.start(request.verify_id, request.part, why)
            except ValueError as error:
                raise InvalidRequestError({"part": str(error)}) from error
        return pb.StartVerifyResponse(verify=_verification_to_pb(verification))

    async def WatchVerify(  # noqa: N802
        self, request: pb.WatchVerifyRequest, _context: Context
    ) -> AsyncIterator[pb.WatchVerifyResponse]:
        """Report a verification's progress, and its verdict."""
        self._authorise(current_identity(), _OPERATOR)
        _refuse(_mismatches(IDENTIFIER_PATTERN, verify_id=[request.verify_id]))

        async def look() -> tuple[pb.Verify, bool]:
            with _rebuild_errors():
                verification = await self._verifications.get(request.verify_id)
            return _verification_to_pb(verification), verification.verdict is Verdict.RUNNING

        async for seen in self._watch(look):
            yield pb.WatchVerifyResponse(verify=seen)

    async def GetAuditHead(  # noqa: N802
        self, _request: pb.GetAuditHeadRequest, _context: Context
    ) -> pb.GetAuditHeadResponse:
        """Return the newest entry of the audit trail."""
        self._authorise(current_identity(), _OPERATOR, _AUDITOR)
        trail = self._audit.trail
        head = await trail.head(self._audit.pool)
        return pb.GetAuditHeadResponse(chain=trail.chain, **head._asdict())

    async def ListAudit(  # noqa: N802
        self, request: pb.ListAuditRequest, _context: Context
    ) -> pb.ListAuditResponse:
        """Return a page of the audit trail."""
        self._authorise(current_identity(), _AUDITOR)
        violations = _mismatches(SLUG_PATTERN, action=filter(None, [request.action]))
        violations |= _mismatches(
            CALLER_PATTERN,
            target=filter(None, [request.target]),
            actor=filter(None, [request.actor]),
        )
        violations |= _mismatches(_SEQUENCE_PATTERN, page_token=filter(None, [request.page_token]))
        violations |= wrong_page_size(request.page_size)
        _refuse(violations)
        size = page_size(request.page_size)
        entries = await self._audit.trail.entries(
            self._audit.pool,
            action=request.action or None,
            target=request.target or None,
            actor=request.actor or None,
            beyond=int(request.page_token) if request.page_token else None,
            oldest_first=request.oldest_first,
            limit=size + 1,
        )
        return pb.ListAuditResponse(
            entries=map(_entry_to_pb, entries[:size]),
            next_page_token=str(entries[size - 1].sequence) if len(entries) > size else "",
        )

    async def _watch(self, look: Callable[[], Awaitable[tuple[M, bool]]]) -> AsyncIterator[M]:
        """Give what changed, and every five seconds what did not, until there is nothing more to come."""
        last: M | None = None
        told_at = 0.0
        while True:
            seen, goes_on = await look()
            if seen != last or monotonic() > told_at + _WATCH_AT_LEAST_EVERY_SECONDS:
                yield seen
                last, told_at = seen, monotonic()
            if not goes_on:
                return
            if await wait_for(self._draining, _WATCH_SECONDS):
                raise UnavailableError("this server stops: watch on at another one")

    def _why(
        self, request: _Change, id_field: str, chosen_id: str, wrong: Mapping[str, str] = _NOTHING_WRONG
    ) -> Why:
        """Let through who may operate, with an id and a reason that are well formed."""
        identity = current_identity()
        self._authorise(identity, _OPERATOR)
        wrong_id = _mismatches(IDENTIFIER_PATTERN, **{id_field: [chosen_id]})
        _refuse(wrong_id | _why_violations(request) | dict(wrong))
        asked_by = identity.on_behalf_of or identity.caller
        return Why(request.reason_code, request.ticket_id, asked_by, identity.caller)


@contextmanager
def _rebuild_errors() -> Iterator[None]:
    try:
        yield
    except NoSuchRebuildError as error:
        raise NoSuchRebuildRpcError(str(error)) from error
    except NoSuchVerificationError as error:
        raise NoSuchVerificationRpcError(str(error)) from error
    except RebuildRefusedError as error:
        raise RebuildRefusedRpcError(str(error)) from error
    except NotReachedError as error:
        raise NotReachedRpcError(str(error)) from error


def _why_violations(request: _Change) -> dict[str, str]:
    """Hold that an operator's action carries a reason code and a ticket, never free text."""
    reason_code = _mismatches(SLUG_PATTERN, reason_code=[request.reason_code])
    return reason_code | _mismatches(IDENTIFIER_PATTERN, ticket_id=[request.ticket_id])


def _mismatches(pattern: str, **fields: Iterable[str]) -> dict[str, str]:
    """Name the fields with a text that the pattern doesn't match: nothing like it can be in the database."""
    return {
        field: f"must match {pattern}"
        for field, texts in fields.items()
        if not all(re.fullmatch(pattern, text) for text in texts)
    }


def _wrong_place(place: Place, at: str = "") -> dict[str, str]:
    """Name what of a record's place can be no record's, by the field that has it."""
    violations = _mismatches(_TOPIC_PATTERN, **{f"{at}topic": [place.topic]})
    numbers = {"partition": place.partition, "offset": place.offset}
    return violations | {
        f"{at}{field}": "must not be negative" for field, number in numbers.items() if number < 0
    }


def _refuse(violations: Mapping[str, str]) -> None:
    if violations:
        raise InvalidRequestError(violations)


def _retried(request: pb.RetryParkedEventsRequest) -> Sequence[str]:
    """Name what a retry selects, as the audit trail does."""
    if request.error_code:
        return [f"error_code:{request.error_code}"]
    return [f"{each.topic}/{each.partition}/{each.offset}" for each in request.places.places] or ["all"]


def _entry_to_pb(entry: AuditRecorded) -> pb.AuditEntry:
    message = pb.AuditEntry(
        sequence=entry.sequence,
        previous_hash=entry.previous_hash,
        actor=entry.actor,
        caller=entry.caller,
        action=entry.action,
        target=entry.target,
        reason_code=entry.reason_code or "",
        ticket_id=entry.ticket_id or "",
        details=entry.details,
        once=entry.once or "",
        hash=entry.hash,
    )
    message.at.FromDatetime(entry.at)
    return message


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
    """Escape what isn't UTF-8 with backslashes: protobuf takes no surrogates, as which it is kept.

    Cut it, too: an escape is four times as long, and the largest record would burst the largest message.
    """
    return name.encode(errors="surrogateescape")[:_HEADER_NAME_BYTES].decode(errors="backslashreplace")


def _rebuild_to_pb(rebuild: Rebuild) -> pb.Rebuild:
    version = rebuild.version
    message = pb.Rebuild(
        rebuild_id=version.rebuild_id,
        derived_version=version.version,
        state=_STATES[version.state],
        applied_records=rebuild.applied_records,
        total_records=version.total_records or 0,
        lag=rebuild.lag or 0,
        error_message=version.error_message or "",
    )
    message.started_at.FromDatetime(version.started_at)
    if version.caught_up_at is not None:
        message.caught_up_at.FromDatetime(version.caught_up_at)
    return message


def _verification_to_pb(found: Verification) -> pb.Verify:
    return pb.Verify(
        verify_id=found.verify_id,
        state=_VERDICTS[found.verdict],
        applied_records=found.applied_records,
        total_records=found.total_records,
        live_hash=combined(found.live_hashes) if found.live_hashes else "",
        recomputed_hash=combined(found.recomputed_hashes) if found.recomputed_hashes else "",
        different_tables=found.different_tables,
        error_message=found.error_message or "",
    )


def _place_to_token(place: Place) -> str:
    return base64.urlsafe_b64encode(json.dumps(place).encode()).decode()


def _place_from_token(token: str) -> Place | None:
    """Return what a token stands for, ``None`` for what isn't one that was given."""
    content: object = None
    with suppress(ValueError, RecursionError):
        content = json.loads(base64.urlsafe_b64decode(token))
    match content:
        case [str(topic), int(partition), int(offset)] if (
            re.fullmatch(_TOPIC_PATTERN, topic) and partition in _PARTITIONS and offset in _OFFSETS
        ):
            place = Place(topic, int(partition), int(offset))  # true is an int, too
            return place if _place_to_token(place) == token else None
    return None
