"""The one interceptor: identity, trace, deadline, outcome metric and error mapping around every call.

It wraps a method's handler once, when the method is registered, instead of standing in grpc.aio's chain of
``ServerInterceptor``: each link of that chain costs a coroutine and a look-up on every call. The unary
request of a refused caller is not even decoded.
"""

import asyncio
import inspect
import logging
import uuid
from collections.abc import Awaitable, Callable
from dataclasses import asdict
from functools import cache
from time import perf_counter
from typing import Any, TypeAlias, TypeVar

import grpc
from google.protobuf.message import DecodeError
from grpc_status import rpc_status
from opentelemetry.trace import SpanKind

from tokenomics_chassis.dependencies import is_dependency_away
from tokenomics_chassis.metrics import RPC_DURATION, Series
from tokenomics_chassis.rpc.errors import (
    DeadlineExceededError,
    DependencyUnavailableError,
    InvalidRequestError,
    OverloadedError,
    RpcError,
    UnimplementedError,
)
from tokenomics_chassis.rpc.identity import Authenticator, Metadata, current_identity, set_current_identity
from tokenomics_chassis.telemetry import TRACEPARENT, span

log = logging.getLogger(__name__)

T = TypeVar("T")
Context = grpc.aio.ServicerContext[Any, Any]
RpcHandler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"  # not a generic at run time
Handler = Callable[[Any, Context], Any]

MOST_CALLS = 2_000
"""Unary calls at a time. Where the database is slow they pile up, and each takes memory: more are sent away
at once, to another server or to come back."""

_MAKERS = {  # (request is a stream, answer is a stream)
    (False, False): grpc.unary_unary_rpc_method_handler,
    (False, True): grpc.unary_stream_rpc_method_handler,
    (True, False): grpc.stream_unary_rpc_method_handler,
    (True, True): grpc.stream_stream_rpc_method_handler,
}


class Interceptor:
    """Wraps handlers.

    Parameters
    ----------
    authenticator
        Decides who may call.
    default_deadline_seconds
        For unary answers whose client set no deadline. A stream without one lives as long as its connection.
    """

    def __init__(self, authenticator: Authenticator, *, default_deadline_seconds: float) -> None:
        self._authenticator = authenticator
        self._default_deadline_seconds = default_deadline_seconds
        self._calls = 0

    def wrap(self, method: str, served: RpcHandler) -> RpcHandler:
        """Wrap the handler of one method, named ``/package.Service/Method``.

        Raises
        ------
        TypeError
            The handler is not asynchronous: it would hold up every other call.
        """
        decode = _decoder(served.request_deserializer)
        encode = _encoder(served.response_serializer)
        function: Any = (
            served.unary_unary or served.unary_stream or served.stream_unary or served.stream_stream
        )
        handler = _asynchronous(method, function)
        if served.response_streaming:
            handler = _writing(handler)
        unary = not served.request_streaming and not served.response_streaming

        async def with_message(raw: bytes, context: Context) -> Any:
            return await self._around(method, context, lambda: handler(decode(raw), context), unary=unary)

        async def with_stream(requests: Any, context: Context) -> Any:
            return await self._around(method, context, lambda: handler(requests, context))

        make: Any = _MAKERS[served.request_streaming, served.response_streaming]
        if served.request_streaming:
            made: RpcHandler = make(with_stream, decode, encode)
        else:
            made = make(with_message, None, encode)  # decoded here: who is refused costs less
        return made

    async def _around(
        self, method: str, context: Context, work: Callable[[], Awaitable[T]], *, unary: bool = False
    ) -> T:
        begun = perf_counter()
        code = grpc.StatusCode.OK
        self._calls += unary
        try:
            self._refuse_too_many()
            metadata = context.invocation_metadata() or ()
            set_current_identity(await self._authenticator.identify(method, metadata))
            with span(method[1:], traceparent=_traceparent(metadata), kind=SpanKind.SERVER):
                if unary and context.time_remaining() is None:
                    return await self._within_default_deadline(work)
                return await work()
        except asyncio.CancelledError:
            code = grpc.StatusCode.CANCELLED
            raise
        except grpc.aio.AbortError:
            code = context.code()
            raise
        except Exception as error:
            answer = to_rpc_error(method, error)
            code = answer.code
            await context.abort_with_status(rpc_status.to_status(answer.to_status()))
            raise
        finally:
            self._calls -= unary
            _durations(method, code).record(perf_counter() - begun)

    def _refuse_too_many(self) -> None:
        if self._calls > MOST_CALLS:
            raise OverloadedError(f"{MOST_CALLS} calls are being answered already")

    async def _within_default_deadline(self, work: Callable[[], Awaitable[T]]) -> T:
        limit = asyncio.timeout(self._default_deadline_seconds)
        try:
            async with limit:
                return await work()
        except TimeoutError as error:
            if limit.expired():
                raise DeadlineExceededError("the call took too long; set a deadline of your own") from error
            raise


def _traceparent(metadata: Metadata) -> str | None:
    for key, value in metadata:
        if key == TRACEPARENT:
            return str(value)
    return None


@cache
def _durations(method: str, code: grpc.StatusCode) -> Series:
    return RPC_DURATION.series({"rpc.method": method[1:], "rpc.response.status_code": code.name})


def to_rpc_error(method: str, error: Exception) -> RpcError:
    """Return what a caller may learn of an error; what it may not is logged."""
    if isinstance(error, RpcError):
        return error
    if is_dependency_away(error):
        log.warning("a dependency failed", extra={"method": method, "error": repr(error), **_who()})
        return DependencyUnavailableError("a dependency is unavailable")
    error_id = uuid.uuid4().hex
    log.error("a handler failed", exc_info=error, extra={"method": method, "error_id": error_id, **_who()})
    return RpcError(f"internal error {error_id}", {"error_id": error_id})


def _who() -> dict[str, str | None]:
    try:
        return asdict(current_identity())
    except LookupError:  # the identity itself was the trouble
        return {}


def _decoder(decode: Callable[[bytes], Any] | None) -> Callable[[bytes], Any]:
    if decode is None:
        return bytes

    def decoded(raw: bytes) -> Any:
        try:
            return decode(raw)
        except DecodeError as error:
            raise InvalidRequestError({}, "the request is not a message of its type") from error

    return decoded


def _encoder(encode: Callable[[Any], bytes] | None) -> Callable[[Any], bytes]:
    """Let a handler that knows a shorter way than a message answer with the message's bytes."""
    if encode is None:
        return bytes

    def encoded(answer: Any) -> bytes:
        return answer if isinstance(answer, bytes) else encode(answer)

    return encoded


def _asynchronous(method: str, handler: Handler) -> Handler:
    if inspect.iscoroutinefunction(handler) or inspect.isasyncgenfunction(handler):
        return handler
    if handler.__module__.endswith("_pb2_grpc"):  # the generated default: nobody has written this one yet

        async def not_served(_request: Any, _context: Context) -> Any:
            raise UnimplementedError(f"{method} is not served by this version")

        return not_served
    raise TypeError(f"{method} must be served by an `async def`, not {handler!r}")


def _writing(handler: Handler) -> Handler:
    """Let the handler of a streamed answer be awaited, whichever of the two ways it is written in."""
    if inspect.iscoroutinefunction(handler):
        return handler

    async def write_all(request: Any, context: Context) -> None:
        async for answer in handler(request, context):
            await context.write(answer)

    return write_all
