"""Errors a caller may see. Each type owns its gRPC code, its reason and its details.

Raise them from handlers, use cases or the domain's edge; the interceptor turns them into
``google.rpc.Status``. A service's own errors are subclasses that name a code and a reason. Anything else that
escapes a handler becomes INTERNAL and says nothing but an id that is in the log.
"""

from collections.abc import Iterable, Mapping
from typing import ClassVar, Final

import grpc
from google.protobuf.any_pb2 import Any
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.rpc.error_details_pb2 import (
    BadRequest,
    ErrorInfo,
    QuotaFailure,
    RetryInfo,
)
from google.rpc.status_pb2 import Status

_VIOLATIONS_BYTES: Final = 4_096
"""gRPC reads 8 KiB of an answer's metadata without fail, in which a status stands in base64."""
_VIOLATION_CHARACTERS: Final = 500

DOMAIN = "tokenomics"
"""``ErrorInfo.domain`` of every error: whose reasons these are."""


class RpcError(Exception):
    """An answer other than OK.

    Parameters
    ----------
    message
        For a developer; no personal data, no internals.
    metadata
        ``ErrorInfo.metadata``: what a program needs to act on the reason.
    """

    code: ClassVar[grpc.StatusCode] = grpc.StatusCode.INTERNAL
    reason: ClassVar[str] = "INTERNAL"
    """UPPER_SNAKE_CASE, stable: programs branch on it."""

    def __init__(self, message: str, metadata: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.metadata = dict(metadata or {})

    def details(self) -> Iterable[Message]:
        """Details that follow the ErrorInfo."""
        return ()

    def to_status(self) -> Status:
        """Convert to the wire: ErrorInfo first, then the type's own details."""
        info = ErrorInfo(reason=self.reason, domain=DOMAIN, metadata=self.metadata)
        status = Status(code=self.code.value[0], message=str(self))
        for detail in (info, *self.details()):
            packed = Any()
            packed.Pack(detail)
            status.details.append(packed)
        return status


class UnauthenticatedError(RpcError):
    """Who calls is not known; trying again with the same token is pointless."""

    code = grpc.StatusCode.UNAUTHENTICATED
    reason = "IDENTITY_INVALID"


class PermissionDeniedError(RpcError):
    """Who calls is known and may not do this."""

    code = grpc.StatusCode.PERMISSION_DENIED
    reason = "NOT_PERMITTED"


class InvalidRequestError(RpcError):
    """The request is wrong whatever the state of the system.

    Parameters
    ----------
    violations
        Field path to what is wrong with it, e.g. ``{"items[2].subject": "must not be empty"}``.
    """

    code = grpc.StatusCode.INVALID_ARGUMENT
    reason = "INVALID_REQUEST"

    def __init__(self, violations: Mapping[str, str], message: str = "the request is invalid") -> None:
        super().__init__(message)
        self.violations = dict(violations)

    def details(self) -> Iterable[Message]:
        """One field violation for each wrong field, as far as an answer holds them."""
        return [self.told_within(_VIOLATIONS_BYTES)]

    def told_within(self, room: int) -> BadRequest:
        """Tell of wrong fields in so many bytes, and of the others how many they are."""
        told = BadRequest()
        for field, description in self.violations.items():
            violation = BadRequest.FieldViolation(
                field=field[:_VIOLATION_CHARACTERS], description=description[:_VIOLATION_CHARACTERS]
            )
            room -= violation.ByteSize()
            if room < 0:
                untold = len(self.violations) - len(told.field_violations)
                told.field_violations.add(field="*", description=f"{untold} more are wrong")
                break
            told.field_violations.append(violation)
        return told


class NotFoundError(RpcError):
    """The thing named does not exist, or not for this caller."""

    code = grpc.StatusCode.NOT_FOUND
    reason = "NOT_FOUND"


class AlreadyExistsError(RpcError):
    """The caller's id stands for something else already.

    Parameters
    ----------
    differing
        Names of the request's fields that say something else than what has the id.
    """

    code = grpc.StatusCode.ALREADY_EXISTS
    reason = "ALREADY_EXISTS"

    def __init__(self, message: str, differing: Iterable[str]) -> None:
        super().__init__(message, {"differing_fields": ", ".join(differing)})


class FailedPreconditionError(RpcError):
    """The system is not in the state this needs; a retry helps only after something else has happened."""

    code = grpc.StatusCode.FAILED_PRECONDITION
    reason = "FAILED_PRECONDITION"


class QuotaExceededError(RpcError):
    """A hard limit refuses the call.

    Parameters
    ----------
    violations
        Account id to why it refuses.
    """

    code = grpc.StatusCode.RESOURCE_EXHAUSTED
    reason = "QUOTA_EXCEEDED"

    def __init__(self, violations: Mapping[str, str], message: str = "a hard limit refuses the call") -> None:
        super().__init__(message)
        self.violations = dict(violations)

    def details(self) -> Iterable[Message]:
        """One violation for each account that refuses."""
        return [
            QuotaFailure(
                violations=[
                    QuotaFailure.Violation(subject=account, description=description)
                    for account, description in self.violations.items()
                ]
            )
        ]


class DeadlineExceededError(RpcError):
    """The call took longer than it was given."""

    code = grpc.StatusCode.DEADLINE_EXCEEDED
    reason = "DEADLINE_EXCEEDED"


class UnimplementedError(RpcError):
    """The contract names the method, this version does not serve it yet."""

    code = grpc.StatusCode.UNIMPLEMENTED
    reason = "NOT_SERVED_YET"


class UnavailableError(RpcError):
    """The service can't answer now and can soon.

    Parameters
    ----------
    retry_after_ms
        When to try again at the earliest, in milliseconds.
    """

    code = grpc.StatusCode.UNAVAILABLE
    reason = "UNAVAILABLE"

    def __init__(
        self, message: str, *, retry_after_ms: int = 500, metadata: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(message, metadata)
        self.retry_after_ms = retry_after_ms

    def details(self) -> Iterable[Message]:
        """When to come back."""
        delay = Duration()
        delay.FromMilliseconds(self.retry_after_ms)
        return [RetryInfo(retry_delay=delay)]


class DependencyUnavailableError(UnavailableError):
    """PostgreSQL or Kafka could not be reached."""

    reason = "DEPENDENCY_UNAVAILABLE"


class StoppingError(UnavailableError):
    """The process is going away; another one answers."""

    reason = "STOPPING"


class OverloadedError(UnavailableError):
    """The server has more calls at hand than it may hold."""

    reason = "OVERLOADED"
