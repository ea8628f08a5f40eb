"""The one interceptor: identity, trace, deadline, outcome metric and error mapping around every call.

It wraps a method's handler once, when the method is registered, instead of standing in grpc.aio's chain of
``ServerInterceptor``: each link of that chain costs a coroutine and a look-up on every call. The unary
request of a refused caller is not even decoded.
"""

import asyncio
import inspect
import logging
import uuid
from collections.abc import Callable
from dataclasses import asdict
from functools import cache
from time import perf_counter
from typing import Any, TypeAlias, TypeVar

import grpc
from google.protobuf.message import DecodeError
from grpc_status import rpc_status

from tokenomics_chassis.dependencies import may_pass
from tokenomics_chassis.metrics import RPC_DURATION, Series
from tokenomics_chassis.rpc.errors import (
    DeadlineExceededError,
    DependencyUnavailableError,
    InvalidRequestError,
    OverloadedError,
    RpcError,
    UnimplementedError,
)
from tokenomics_chassis.rpc.identity import (
    Authenticator,
    current_identity,
    set_current_identity,
    to_mapping,
)
from tokenomics_chassis.telemetry import TRACEPARENT, call_span

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
        self.authenticator = authenticator
        self.default_deadline_seconds = default_deadline_seconds
        self.calls = 0
        """Unary calls being answered."""

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
        make: Any = _MAKERS[served.request_streaming, served.response_streaming]
        if served.request_streaming:
            streaming = _Method(self, method, handler, _as_it_is, unary=False)
            made: RpcHandler = make(streaming.serve, decode, encode)
        else:  # decoded when it is known who asks: who is refused costs less
            unary = not served.response_streaming
            made = make(_Method(self, method, handler, decode, unary=unary).serve, None, encode)
        return made


class _Method:
    """One method with all that is around its handler.

    What runs on every call is kept short rather than apart: see ``docs/performance.md``.
    """

    def __init__(
        self,
        shared: Interceptor,
        method: str,
        handler: Handler,
        decode: Callable[[Any], Any],
        *,
        unary: bool,
    ) -> None:
        self._shared = shared
        self._method = method
        self._span_name = method[1:]
        self._handler = handler
        self._decode = decode
        self._unary = unary
        self._record_ok = _durations(method, grpc.StatusCode.OK).record

    async def serve(self, message: Any, context: Context) -> Any:
        """Answer one call; the message is its request, or the stream of its requests."""
        begun = perf_counter()
        record = self._record_ok
        shared, method, unary = self._shared, self._method, self._unary
        shared.calls += unary
        try:
            if shared.calls > MOST_CALLS:
                raise OverloadedError(f"{MOST_CALLS} calls are being answered already")  # noqa: TRY301 - as above
            metadata = to_mapping(context.invocation_metadata() or ())
            authenticator = shared.authenticator
            set_current_identity(
                authenticator.remembered(method, metadata) or await authenticator.identify(method, metadata)
            )
            recorded = call_span(self._span_name, metadata.get(TRACEPARENT))
            answer = self._handler
            if unary and context.time_remaining() is None:
                answer = self._within_default_deadline
            if recorded is None:
                return await answer(self._decode(message), context)
            with recorded:
                return await answer(self._decode(message), context)
        except asyncio.CancelledError:
            record = _durations(method, grpc.StatusCode.CANCELLED).record
            raise
        except grpc.aio.AbortError:
            record = _durations(method, context.code()).record
            raise
        except Exception as error:
            told = to_rpc_error(method, error)
            record = _durations(method, told.code).record
            await context.abort_with_status(rpc_status.to_status(told.to_status()))
            raise
        finally:
            shared.calls -= unary
            record(perf_counter() - begun)

    async def _within_default_deadline(self, request: Any, context: Context) -> Any:
        limit = asyncio.timeout(self._shared.default_deadline_seconds)
        try:
            async with limit:
                return await self._handler(request, context)
        except TimeoutError as error:
            if limit.expired():
                raise DeadlineExceededError("the call took too long; set a deadline of your own") from error
            raise


def _as_it_is(requests: T) -> T:
    return requests


@cache
def _durations(method: str, code: grpc.StatusCode) -> Series:
    return RPC_DURATION.series({"rpc.method": method[1:], "rpc.response.status_code": code.name})


def to_rpc_error(method: str, error: Exception) -> RpcError:
    """Return what a caller may learn of an error; what it may not is logged."""
    if isinstance(error, RpcError):
        return error
    if may_pass(error):
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
