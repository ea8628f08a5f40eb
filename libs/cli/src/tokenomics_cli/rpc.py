"""Calls to a service: who calls, over which transport, and what a failed call means to a shell."""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated, Any, TypeVar

import grpc
import typer
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from tokenomics_cli.failures import CommandError, Exit
from tokenomics_cli.settings import ServiceSettings, settings_of
from tokenomics_contracts.units import IDENTIFIER_PATTERN

Request = TypeVar("Request", bound=Message)
Response = TypeVar("Response", bound=Message)

TokenFile = Annotated[
    Path | None,
    typer.Option(envvar="TOKENOMICS_TOKEN_FILE", help="file with the bearer token; or set TOKENOMICS_TOKEN"),
]
OnBehalfOf = Annotated[
    str | None, typer.Option(help="person for whom the caller asks; the caller must be allowed to")
]
Reason = Annotated[str, typer.Option("--reason", help="code of the reason, e.g. source_permitted")]
Ticket = Annotated[str, typer.Option("--ticket", help="id of the ticket")]

_PAGE_SIZE = 1_000

_EXITS = {
    grpc.StatusCode.UNAUTHENTICATED: Exit.PERMISSION,
    grpc.StatusCode.PERMISSION_DENIED: Exit.PERMISSION,
    grpc.StatusCode.INVALID_ARGUMENT: Exit.BAD_DATA,
    grpc.StatusCode.OUT_OF_RANGE: Exit.BAD_DATA,
    grpc.StatusCode.NOT_FOUND: Exit.REFUSED,
    grpc.StatusCode.ALREADY_EXISTS: Exit.REFUSED,
    grpc.StatusCode.FAILED_PRECONDITION: Exit.REFUSED,
    grpc.StatusCode.RESOURCE_EXHAUSTED: Exit.REFUSED,
    grpc.StatusCode.UNAVAILABLE: Exit.UNAVAILABLE,
    grpc.StatusCode.DEADLINE_EXCEEDED: Exit.UNAVAILABLE,
    grpc.StatusCode.UNIMPLEMENTED: Exit.UNAVAILABLE,
}
_TOLD = frozenset({"differing_fields"})
"""What of an ErrorInfo a person needs."""

_HINTS = {
    grpc.StatusCode.UNAUTHENTICATED: "set TOKENOMICS_TOKEN or --token-file to a token for this service",
    grpc.StatusCode.PERMISSION_DENIED: "the service's callers table says who may call what, and for whom",
    grpc.StatusCode.UNAVAILABLE: "check TOKENOMICS_QUOTA_ADDRESS and the service, then try again",
    grpc.StatusCode.DEADLINE_EXCEEDED: "try again, or raise TOKENOMICS_RPC_TIMEOUT_SECONDS",
}


def timestamp_of(instant: datetime) -> Timestamp:
    """Return an instant as requests have it."""
    timestamp = Timestamp()
    timestamp.FromDatetime(instant)
    return timestamp


class Service:
    """A connection to one service, for one caller."""

    def __init__(
        self, channel: grpc.Channel, settings: ServiceSettings, metadata: list[tuple[str, str]]
    ) -> None:
        self._settings = settings
        self._metadata = metadata
        self.channel = channel

    def call(self, method: Callable[..., Any], request: Message) -> Any:
        """Call a unary method of a stub made on :attr:`channel`.

        Raises
        ------
        CommandError
            When the call fails, with the service's own reason.
        """
        try:
            return method(request, timeout=self._settings.rpc_timeout_seconds, metadata=self._metadata)
        except grpc.RpcError as error:
            raise _failure(error, self._settings.quota_address) from error

    def pages(
        self, method: Callable[..., Any], request: Any, field: str, limit: int | None = None
    ) -> Iterator[Any]:
        """Call a method that lists page by page, and return what a field of its answers holds.

        Parameters
        ----------
        request
            Is changed from page to page.
        limit
            How many at most; ``None``: all.

        Raises
        ------
        CommandError
            When a call fails, with the service's own reason.
        """
        while limit is None or limit > 0:
            request.page_size = _PAGE_SIZE if limit is None else min(limit, _PAGE_SIZE)
            page = self.call(method, request)
            found = getattr(page, field)
            yield from found
            limit = None if limit is None else limit - len(found)
            request.page_token = page.next_page_token
            if not page.next_page_token:
                return

    def watch(self, method: Callable[..., Any], request: Message) -> Iterator[Any]:
        """Call a method that answers with a stream, for as long as it goes on.

        Raises
        ------
        CommandError
            When the call fails, with the service's own reason.
        """
        try:
            yield from method(request, metadata=self._metadata)
        except grpc.RpcError as error:
            raise _failure(error, self._settings.quota_address) from error


@contextmanager
def connect(token_file: Path | None, on_behalf_of: str | None = None) -> Iterator[Service]:
    """Connect to quota as the environment says.

    Raises
    ------
    CommandError
        When the environment is incomplete, or would send a token in the clear beyond this machine.
    """
    settings = settings_of(ServiceSettings)
    metadata = [("authorization", f"Bearer {_token(settings, token_file)}")]
    if on_behalf_of is not None:
        if not re.fullmatch(IDENTIFIER_PATTERN, on_behalf_of):
            raise CommandError(f"{on_behalf_of}: should be the id of a person who asks", Exit.USAGE)
        metadata.append(("tokenomics-on-behalf-of", on_behalf_of))
    with _channel(settings) as channel:
        yield Service(channel, settings, metadata)


def _token(settings: ServiceSettings, token_file: Path | None) -> str:
    if settings.token:
        return settings.token.get_secret_value()
    if token_file is None:
        raise CommandError("no token is given", Exit.USAGE, hint=_HINTS[grpc.StatusCode.UNAUTHENTICATED])
    try:
        return token_file.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise CommandError(f"{token_file} can't be read: {error}", Exit.USAGE) from None


def _channel(settings: ServiceSettings) -> grpc.Channel:
    if settings.quota_tls_ca:
        credentials = grpc.ssl_channel_credentials(settings.quota_tls_ca.read_bytes())
        return grpc.secure_channel(settings.quota_address, credentials)
    if not _is_loopback(settings.quota_address.rpartition(":")[0]):
        raise CommandError(
            f"{settings.quota_address} is not this machine, and a token must not travel in the clear",
            Exit.USAGE,
            hint="set TOKENOMICS_QUOTA_TLS_CA to the authority of the server's certificate",
        )
    return grpc.insecure_channel(settings.quota_address)


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"


def _failure(error: Any, address: str) -> CommandError:
    # What a call raises is an RpcError and a Call in one, which the types of grpc can't say.
    code: grpc.StatusCode = error.code()
    reason, details, hint = code.name, list[str](), _HINTS.get(code)
    status = rpc_status.from_call(error)
    for packed in status.details if status else ():
        info, bad, retry, refusing = (
            error_details_pb2.ErrorInfo(),
            error_details_pb2.BadRequest(),
            error_details_pb2.RetryInfo(),
            error_details_pb2.QuotaFailure(),
        )
        if packed.Unpack(info):
            reason = f"{code.name} ({info.reason})"
            details += [f"{name}: {value}" for name, value in info.metadata.items() if name in _TOLD]
        elif packed.Unpack(refusing):
            details += [f"{one.subject}: {one.description}" for one in refusing.violations]
        elif packed.Unpack(bad):
            details += [f"{one.field}: {one.description}" for one in bad.field_violations]
        elif packed.Unpack(retry):
            hint = f"try again in {retry.retry_delay.ToMilliseconds() / 1000:g} s"
    message = "; ".join([f"{address} answers {reason}: {error.details()}", *details])
    return CommandError(message, _EXITS.get(code, Exit.INTERNAL), hint=hint)
