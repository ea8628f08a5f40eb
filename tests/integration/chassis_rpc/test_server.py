"""A real server on loopback: what callers, balancers and orchestrators can rely on."""

import asyncio
import base64
import json
import logging
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import asyncpg
import grpc
import jwt
import pytest
import pytest_asyncio
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID
from google.protobuf.wrappers_pb2 import StringValue
from google.rpc.error_details_pb2 import (
    BadRequest,
    ErrorInfo,
    QuotaFailure,
    RetryInfo,
)
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from grpc_status import rpc_status

from tests.support.grpc import ServedRpc, TokenIssuer, bearer, rpc_settings, served
from tokenomics_chassis.metrics import RPC_DURATION
from tokenomics_chassis.process import Process
from tokenomics_chassis.rpc import interceptor
from tokenomics_chassis.rpc.errors import InvalidRequestError, QuotaExceededError, UnavailableError
from tokenomics_chassis.rpc.identity import current_identity
from tokenomics_chassis.rpc.streams import exchange
from tokenomics_chassis.telemetry import current_traceparent

GATEWAY = "system:serviceaccount:ai:gateway"
PORTAL = "system:serviceaccount:ai:portal"
READER = "system:serviceaccount:ai:reader"
SERVICE = "test.v1.Toy"
CALLERS: list[dict[str, Any]] = [
    {"subject": GATEWAY, "methods": [f"/{SERVICE}/*"]},
    {"subject": PORTAL, "methods": [f"/{SERVICE}/*"], "may_act_for_people": True},
    {"subject": READER, "methods": [f"/{SERVICE}/Whoami", "/grpc.reflection.v1alpha.ServerReflection/*"]},
]
SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
TRACEPARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


class Toy:
    """One method of each kind; what `Fail` raises is up to the test."""

    def __init__(self) -> None:
        self.failure: Exception = RuntimeError("nothing set")
        self.entered = asyncio.Event()
        self.leave = asyncio.Event()

    async def whoami(self, _request: StringValue, _context: Any) -> StringValue:
        identity = current_identity()
        return StringValue(value=f"{identity.caller} for {identity.on_behalf_of}")

    async def trace(self, _request: StringValue, _context: Any) -> StringValue:
        return StringValue(value=current_traceparent())

    async def fail(self, _request: StringValue, _context: Any) -> StringValue:
        raise self.failure

    async def abort(self, _request: StringValue, context: Any) -> StringValue:
        await context.abort(grpc.StatusCode.OUT_OF_RANGE, "by hand")
        raise AssertionError

    async def wait(self, request: StringValue, _context: Any) -> StringValue:
        self.entered.set()
        await self.leave.wait()
        return request

    async def repeat(self, request: StringValue, _context: Any) -> AsyncIterator[StringValue]:
        for _ in range(3):
            yield request
        if request.value == "fail":
            raise self.failure

    async def join(self, requests: AsyncIterator[StringValue], _context: Any) -> StringValue:
        return StringValue(value="".join([each.value async for each in requests]))

    async def echo(self, requests: AsyncIterator[StringValue], _context: Any) -> AsyncIterator[StringValue]:
        async for each in requests:
            yield each

    async def exchange(self, _requests: AsyncIterator[StringValue], context: Any) -> None:
        await exchange(
            context,
            lambda request: request.SerializeToString(),
            may_wait=lambda request: request.value == "later",
            draining=asyncio.Event(),
        )


def add_toy(toy: Toy, server: grpc.aio.Server) -> None:
    """Register as generated code does."""
    kinds: dict[str, tuple[Callable[..., Any], Callable[..., Any]]] = {
        "Whoami": (grpc.unary_unary_rpc_method_handler, toy.whoami),
        "Trace": (grpc.unary_unary_rpc_method_handler, toy.trace),
        "Fail": (grpc.unary_unary_rpc_method_handler, toy.fail),
        "Abort": (grpc.unary_unary_rpc_method_handler, toy.abort),
        "Wait": (grpc.unary_unary_rpc_method_handler, toy.wait),
        "Repeat": (grpc.unary_stream_rpc_method_handler, toy.repeat),
        "Join": (grpc.stream_unary_rpc_method_handler, toy.join),
        "Echo": (grpc.stream_stream_rpc_method_handler, toy.echo),
        "Exchange": (grpc.stream_stream_rpc_method_handler, toy.exchange),
    }
    handlers = {
        name: make(handler, StringValue.FromString, StringValue.SerializeToString)
        for name, (make, handler) in kinds.items()
    }
    server.add_registered_method_handlers(SERVICE, handlers)


@pytest.fixture
def issuer() -> TokenIssuer:
    return TokenIssuer()


@pytest.fixture
def toy() -> Toy:
    return Toy()


@pytest_asyncio.fixture
async def rpc(tmp_path: Path, issuer: TokenIssuer, toy: Toy) -> AsyncIterator[ServedRpc]:
    settings = rpc_settings(tmp_path, issuer, CALLERS, grpc_default_deadline_seconds=1, grpc_drain_seconds=60)
    async with served(settings, lambda server: server.add(add_toy, toy)) as running:
        yield running


def call(rpc: ServedRpc, method: str, request: Any = "", **options: Any) -> Any:
    """Call one of the toy's methods, by the kind its name tells."""
    kind = {"Repeat": "unary_stream", "Join": "stream_unary", "Echo": "stream_stream"}.get(
        method, "unary_unary"
    )
    stub = getattr(rpc.channel, kind)(
        f"/{SERVICE}/{method}", StringValue.SerializeToString, StringValue.FromString
    )
    if kind.startswith("stream"):
        messages = (StringValue(value=each) for each in request) if isinstance(request, str) else request
        return stub(messages, **options)
    return stub(StringValue(value=request), **options)


def status_of(error: Any) -> Any:
    """Read the google.rpc.Status of a failed call."""
    return rpc_status.from_call(error)


async def refusal(calling: Any) -> tuple[grpc.StatusCode, Any]:
    """Code and google.rpc.Status of a call that must fail."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await calling
    return caught.value.code(), status_of(caught.value)


def detail(status: Any, kind: Any) -> Any:
    """Unpack the one detail of a kind."""
    message = kind()
    (found,) = (each for each in status.details if each.Is(kind.DESCRIPTOR))
    found.Unpack(message)
    return message


def forged(issuer: TokenIssuer, algorithm: str, sign: Callable[[bytes], bytes]) -> str:
    """Make a token by hand, which no honest library would."""

    def encoded(part: bytes) -> bytes:
        return base64.urlsafe_b64encode(part).rstrip(b"=")

    claims = jwt.decode(issuer.token(GATEWAY), options={"verify_signature": False})
    header = {"alg": algorithm, "typ": "JWT", "kid": issuer.kid}
    signed = encoded(json.dumps(header).encode()) + b"." + encoded(json.dumps(claims).encode())
    return (signed + b"." + encoded(sign(signed))).decode()


async def test_more_calls_than_the_server_may_hold_are_sent_away_at_once(
    rpc: ServedRpc, issuer: TokenIssuer, toy: Toy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(interceptor, "MOST_CALLS", 2)
    metadata = bearer(issuer.token(GATEWAY))
    held = [asyncio.ensure_future(call(rpc, "Wait", metadata=metadata, timeout=10)) for _ in range(2)]
    await asyncio.gather(toy.entered.wait(), asyncio.sleep(0.1))
    code, status = await refusal(call(rpc, "Whoami", metadata=metadata))
    assert code is grpc.StatusCode.UNAVAILABLE
    assert detail(status, ErrorInfo).reason == "OVERLOADED"
    assert detail(status, RetryInfo).retry_delay.ToMilliseconds() > 0
    toy.leave.set()
    await asyncio.gather(*held)
    assert (await call(rpc, "Whoami", metadata=metadata)).value == f"{GATEWAY} for None"


WRONG_IDENTITIES: dict[str, Callable[[TokenIssuer], Any]] = {
    "none": lambda _: (),
    "not a bearer": lambda issuer: (("authorization", f"Basic {issuer.token(GATEWAY)}"),),
    "not a token": lambda _: bearer("garbage"),
    "two tokens": lambda issuer: bearer(issuer.token(GATEWAY)) + bearer(issuer.token(PORTAL)),
    "wrong audience": lambda issuer: bearer(issuer.token(GATEWAY, audience="someone-else")),
    "wrong issuer": lambda issuer: bearer(issuer.token(GATEWAY, issuer="https://evil.test")),
    "expired": lambda issuer: bearer(issuer.token(GATEWAY, expires_in=timedelta(seconds=-1))),
    "not valid yet": lambda issuer: bearer(issuer.token(GATEWAY, nbf=32503680000)),
    "no expiry": lambda issuer: bearer(issuer.token(GATEWAY, exp=None)),
    "another's key under the same id": lambda _: bearer(TokenIssuer().token(GATEWAY)),
    "unknown key": lambda issuer: bearer(issuer.token(GATEWAY, kid="key-2")),
    "alg none": lambda issuer: bearer(forged(issuer, "none", lambda _: b"")),
    "HS256 with the public key": lambda issuer: bearer(
        forged(issuer, "HS256", lambda signed: hmac_sha256(issuer.public_pem, signed))
    ),
}


def hmac_sha256(key: bytes, message: bytes) -> bytes:
    return jwt.algorithms.HMACAlgorithm(jwt.algorithms.HMACAlgorithm.SHA256).sign(message, key)


@pytest.mark.parametrize("wrong", WRONG_IDENTITIES)
async def test_a_caller_that_cannot_be_verified_is_unauthenticated(
    rpc: ServedRpc, issuer: TokenIssuer, wrong: str
) -> None:
    code, status = await refusal(call(rpc, "Whoami", metadata=WRONG_IDENTITIES[wrong](issuer)))
    assert code is grpc.StatusCode.UNAUTHENTICATED
    assert detail(status, ErrorInfo).reason == "IDENTITY_INVALID"


@pytest.mark.parametrize(
    ("subject", "method", "metadata"),
    [
        ("system:serviceaccount:ai:stranger", "Whoami", {}),
        (READER, "Trace", {}),
        (GATEWAY, "Whoami", {"tokenomics_on_behalf_of": "p-1"}),
        (PORTAL, "Whoami", {"tokenomics_on_behalf_of": ""}),
        (PORTAL, "Whoami", {"tokenomics_on_behalf_of": "someone@example.com"}),
    ],
)
async def test_a_caller_may_do_only_what_the_table_says(
    rpc: ServedRpc, issuer: TokenIssuer, subject: str, method: str, metadata: dict[str, str]
) -> None:
    code, status = await refusal(call(rpc, method, metadata=bearer(issuer.token(subject), **metadata)))
    assert code is grpc.StatusCode.PERMISSION_DENIED
    assert detail(status, ErrorInfo).reason == "NOT_PERMITTED"


async def test_a_caller_acts_for_a_person_it_may_act_for(rpc: ServedRpc, issuer: TokenIssuer) -> None:
    own = await call(rpc, "Whoami", metadata=bearer(issuer.token(PORTAL)))
    asserted = bearer(issuer.token(PORTAL), tokenomics_on_behalf_of="p-1")
    for_person = await call(rpc, "Whoami", metadata=asserted)
    assert (own.value, for_person.value) == (f"{PORTAL} for None", f"{PORTAL} for p-1")


async def silent() -> AsyncIterator[StringValue]:
    """Send nothing, and wait: grpc.aio may tell a client that writes into a refused stream INTERNAL."""
    await asyncio.Event().wait()
    yield StringValue()


async def test_streams_are_refused_like_unary_calls(rpc: ServedRpc) -> None:
    for refused in (
        call(rpc, "Repeat", "ab").read(),
        call(rpc, "Echo", silent()).read(),
        call(rpc, "Join", silent()),
    ):
        assert (await refusal(refused))[0] is grpc.StatusCode.UNAUTHENTICATED


async def test_every_kind_of_method_is_served(rpc: ServedRpc, issuer: TokenIssuer) -> None:
    metadata = bearer(issuer.token(GATEWAY))
    assert [each.value async for each in call(rpc, "Repeat", "a", metadata=metadata)] == ["a"] * 3
    assert (await call(rpc, "Join", "abc", metadata=metadata)).value == "abc"
    assert [each.value async for each in call(rpc, "Echo", "abc", metadata=metadata)] == ["a", "b", "c"]


async def test_an_error_carries_its_details(rpc: ServedRpc, issuer: TokenIssuer, toy: Toy) -> None:
    metadata = bearer(issuer.token(GATEWAY))
    toy.failure = InvalidRequestError({"items[2].subject": "must not be empty"})
    code, status = await refusal(call(rpc, "Fail", metadata=metadata))
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    (violation,) = detail(status, BadRequest).field_violations
    assert (violation.field, violation.description) == ("items[2].subject", "must not be empty")

    toy.failure = InvalidRequestError({f"items[{number}]": "x" * 1_000 for number in range(1_000)})
    code, status = await refusal(call(rpc, "Fail", metadata=metadata))
    assert code is grpc.StatusCode.INVALID_ARGUMENT, "and fits what gRPC reads of metadata"
    *told, last = detail(status, BadRequest).field_violations
    assert (told[0].field, told[0].description) == ("items[0]", "x" * 500)
    assert (last.field, last.description) == ("*", f"{1_000 - len(told)} more are wrong")

    toy.failure = QuotaExceededError({"team/t-1/all/2026-11": "would exceed the limit"})
    code, status = await refusal(call(rpc, "Fail", metadata=metadata))
    assert code is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert detail(status, QuotaFailure).violations[0].subject == "team/t-1/all/2026-11"

    toy.failure = UnavailableError("the view is stale", retry_after_ms=1_500, metadata={"lag": "12"})
    code, status = await refusal(call(rpc, "Fail", metadata=metadata))
    assert code is grpc.StatusCode.UNAVAILABLE
    assert detail(status, RetryInfo).retry_delay.ToMilliseconds() == 1_500
    assert detail(status, ErrorInfo).metadata == {"lag": "12"}


async def test_a_stream_that_breaks_off_says_why(rpc: ServedRpc, issuer: TokenIssuer, toy: Toy) -> None:
    toy.failure = UnavailableError("gone")
    stream = call(rpc, "Repeat", "fail", metadata=bearer(issuer.token(GATEWAY)))
    assert [(await stream.read()).value for _ in range(3)] == ["fail"] * 3
    _, status = await refusal(stream.read())
    assert detail(status, RetryInfo).retry_delay.ToMilliseconds() == 500


@pytest.mark.parametrize(
    "failure",
    [
        ConnectionRefusedError(111, "postgresql at 10.0.0.7"),
        asyncpg.CannotConnectNowError("the database system is starting up"),
        asyncpg.ConnectionDoesNotExistError("connection was closed"),
    ],
)
async def test_an_unreachable_dependency_is_unavailable_and_says_when_to_retry(
    rpc: ServedRpc, issuer: TokenIssuer, toy: Toy, failure: Exception
) -> None:
    toy.failure = failure
    code, status = await refusal(call(rpc, "Fail", metadata=bearer(issuer.token(GATEWAY))))
    assert code is grpc.StatusCode.UNAVAILABLE
    assert detail(status, RetryInfo).retry_delay.ToMilliseconds() > 0
    assert "10.0.0.7" not in str(status)


async def test_an_unexpected_error_shows_an_id_that_is_in_the_log_and_nothing_else(
    rpc: ServedRpc, issuer: TokenIssuer, toy: Toy, caplog: pytest.LogCaptureFixture
) -> None:
    toy.failure = KeyError("secret-internals")
    with caplog.at_level(logging.ERROR):
        code, status = await refusal(call(rpc, "Fail", metadata=bearer(issuer.token(GATEWAY))))
    assert code is grpc.StatusCode.INTERNAL
    assert "secret-internals" not in str(status)
    (record,) = (each for each in caplog.records if hasattr(each, "error_id"))
    assert detail(status, ErrorInfo).metadata["error_id"] == record.error_id
    assert (record.caller, record.on_behalf_of) == (GATEWAY, None)  # type: ignore[attr-defined] # from `extra`
    assert record.exc_info is not None
    assert record.exc_info[1] is toy.failure


async def test_a_request_that_is_no_message_is_the_callers_fault(rpc: ServedRpc, issuer: TokenIssuer) -> None:
    raw: Any = rpc.channel.unary_unary(f"/{SERVICE}/Whoami")
    code, status = await refusal(raw(b"\xff\xff\xff", metadata=bearer(issuer.token(GATEWAY))))
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert detail(status, ErrorInfo).reason == "INVALID_REQUEST"
    raw_stream: Any = rpc.channel.stream_unary(f"/{SERVICE}/Join")
    code, _ = await refusal(raw_stream([b"\xff\xff\xff"], metadata=bearer(issuer.token(GATEWAY))))
    assert code is grpc.StatusCode.INVALID_ARGUMENT


async def test_an_exchange_that_reads_what_is_no_message_answers_the_others_and_ends(
    rpc: ServedRpc, issuer: TokenIssuer
) -> None:
    raw: Any = rpc.channel.stream_stream(f"/{SERVICE}/Exchange")
    for sent in ("now", "later"):
        message = StringValue(value=sent).SerializeToString()
        stream = raw([message, b"\xff\xff\xff"], metadata=bearer(issuer.token(GATEWAY)), timeout=5)
        assert await stream.read() == message
        code, status = await refusal(stream.read())
        assert code is grpc.StatusCode.INVALID_ARGUMENT
        assert detail(status, ErrorInfo).reason == "INVALID_REQUEST"


async def test_what_a_handler_aborts_by_hand_stays_as_it_is(rpc: ServedRpc, issuer: TokenIssuer) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call(rpc, "Abort", metadata=bearer(issuer.token(GATEWAY)))
    assert (caught.value.code(), caught.value.details()) == (grpc.StatusCode.OUT_OF_RANGE, "by hand")


async def test_a_call_without_a_deadline_gets_one(rpc: ServedRpc, issuer: TokenIssuer) -> None:
    code, status = await refusal(call(rpc, "Wait", metadata=bearer(issuer.token(GATEWAY))))
    assert code is grpc.StatusCode.DEADLINE_EXCEEDED
    assert detail(status, ErrorInfo).reason == "DEADLINE_EXCEEDED"


async def test_a_trace_goes_on_inside_the_handler(rpc: ServedRpc, issuer: TokenIssuer) -> None:
    answer = await call(rpc, "Trace", metadata=bearer(issuer.token(GATEWAY), traceparent=TRACEPARENT))
    assert answer.value == TRACEPARENT


async def test_every_outcome_is_counted(rpc: ServedRpc, issuer: TokenIssuer) -> None:
    def counted() -> dict[tuple[str, str], int]:
        return {
            (str(attributes["rpc.method"]), str(attributes["rpc.response.status_code"])): point.count
            for point in RPC_DURATION.points(0, 1)
            if (attributes := point.attributes)
        }

    before = counted()
    await call(rpc, "Whoami", metadata=bearer(issuer.token(GATEWAY)))
    await refusal(call(rpc, "Whoami"))
    await refusal(call(rpc, "Abort", metadata=bearer(issuer.token(GATEWAY))))
    after = counted()
    for method, code in (("Whoami", "OK"), ("Whoami", "UNAUTHENTICATED"), ("Abort", "OUT_OF_RANGE")):
        key = (f"{SERVICE}/{method}", code)
        assert after[key] == before.get(key, 0) + 1


async def test_reflection_needs_an_identity_and_names_every_service(
    rpc: ServedRpc, issuer: TokenIssuer
) -> None:
    stub: Any = reflection_pb2_grpc.ServerReflectionStub(rpc.channel)  # type: ignore[arg-type] # typed for sync only

    def ask(metadata: Any) -> Any:
        request: Any = reflection_pb2.ServerReflectionRequest(list_services="")
        return stub.ServerReflectionInfo(iter([request]), metadata=metadata)

    assert (await refusal(ask(()).read()))[0] is grpc.StatusCode.UNAUTHENTICATED
    listed_elsewhere = ask(bearer(issuer.token(GATEWAY)))
    assert (await refusal(listed_elsewhere.read()))[0] is grpc.StatusCode.PERMISSION_DENIED
    answer = await ask(bearer(issuer.token(READER))).read()
    names = {each.name for each in answer.list_services_response.service}
    assert names == {SERVICE, "grpc.health.v1.Health", "grpc.reflection.v1alpha.ServerReflection"}


async def health(rpc: ServedRpc, name: str) -> Any:
    stub: Any = health_pb2_grpc.HealthStub(rpc.channel)
    return (await stub.Check(health_pb2.HealthCheckRequest(service=name))).status


async def eventually(rpc: ServedRpc, name: str, status: Any) -> None:
    async with asyncio.timeout(30):
        while await health(rpc, name) != status:  # noqa: ASYNC110 - the event is in the server
            await asyncio.sleep(0.05)


async def test_readiness_follows_the_checks_and_liveness_does_not(
    tmp_path: Path, issuer: TokenIssuer, toy: Toy
) -> None:
    reason: list[str | None] = ["no connection"]

    async def database() -> str | None:
        return reason[0]

    process = Process(readiness={"database": database})
    settings = rpc_settings(tmp_path, issuer, CALLERS)
    async with served(settings, lambda server: server.add(add_toy, toy), process=process) as rpc:
        for name in ("", "startup", "readiness", SERVICE):
            assert await health(rpc, name) == NOT_SERVING
        assert await health(rpc, "liveness") == SERVING
        reason[0] = None
        for name in ("", "startup", "readiness", SERVICE):
            await eventually(rpc, name, SERVING)
        reason[0] = "no connection"
        await eventually(rpc, "readiness", NOT_SERVING)
        assert (await health(rpc, "startup"), await health(rpc, "liveness")) == (SERVING, SERVING)


async def test_a_stop_is_seen_by_watchers_finishes_calls_and_takes_no_new_ones(
    rpc: ServedRpc, issuer: TokenIssuer, toy: Toy
) -> None:
    stub: Any = health_pb2_grpc.HealthStub(rpc.channel)
    watch = stub.Watch(health_pb2.HealthCheckRequest(service=SERVICE))
    assert (await watch.read()).status == SERVING
    metadata = bearer(issuer.token(GATEWAY))
    in_flight = call(rpc, "Wait", "done", metadata=metadata, timeout=60)
    await toy.entered.wait()
    stopping = asyncio.create_task(rpc.stop())
    seen = set()
    while (answer := await watch.read()) is not grpc.aio.EOF:
        seen.add(answer.status)
    assert seen == {NOT_SERVING}
    async with grpc.aio.insecure_channel(rpc.address) as late:
        whoami: Any = late.unary_unary(f"/{SERVICE}/Whoami")
        assert (await refusal(whoami(b"", metadata=metadata, timeout=30)))[0] is grpc.StatusCode.UNAVAILABLE
    toy.leave.set()
    assert (await in_flight).value == "done"
    async with asyncio.timeout(30):
        await stopping


async def test_a_stop_ends_calls_that_outlast_the_drain(
    tmp_path: Path, issuer: TokenIssuer, toy: Toy
) -> None:
    settings = rpc_settings(tmp_path, issuer, CALLERS, grpc_drain_seconds=0)
    async with served(settings, lambda server: server.add(add_toy, toy)) as rpc:
        in_flight = call(rpc, "Wait", metadata=bearer(issuer.token(GATEWAY)), timeout=60)
        await toy.entered.wait()
        async with asyncio.timeout(30):
            await rpc.stop()
        assert (await refusal(in_flight))[0] in {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED}


def certificate(name: str) -> tuple[bytes, bytes]:
    """Make a self-signed PEM certificate for localhost, and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    made = (
        x509.CertificateBuilder(subject, subject, key.public_key(), x509.random_serial_number())
        .not_valid_before(datetime.now(UTC) - timedelta(hours=1))
        .not_valid_after(datetime.now(UTC) + timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return made.public_bytes(Encoding.PEM), private


async def test_with_mutual_tls_only_clients_of_the_authority_are_served(
    tmp_path: Path, issuer: TokenIssuer, toy: Toy
) -> None:
    (tmp_path / "tls.crt").write_bytes((server := certificate("localhost"))[0])
    (tmp_path / "tls.key").write_bytes(server[1])
    (tmp_path / "ca.crt").write_bytes((client := certificate("client"))[0])
    settings = rpc_settings(
        tmp_path,
        issuer,
        CALLERS,
        grpc_tls_certificate=tmp_path / "tls.crt",
        grpc_tls_key=tmp_path / "tls.key",
        grpc_tls_client_ca=tmp_path / "ca.crt",
    )
    async with served(settings, lambda server: server.add(add_toy, toy)) as rpc:

        async def whoami(credentials: grpc.ChannelCredentials | None) -> Any:
            address = rpc.address.replace("127.0.0.1", "localhost")
            channel = (
                grpc.aio.secure_channel(address, credentials)
                if credentials
                else grpc.aio.insecure_channel(address)
            )
            async with channel:
                stub: Any = channel.unary_unary(f"/{SERVICE}/Whoami")
                return await stub(b"", metadata=bearer(issuer.token(GATEWAY)), timeout=30)

        assert await whoami(grpc.ssl_channel_credentials(server[0], client[1], client[0]))
        stranger = certificate("client")
        for credentials in (
            None,
            grpc.ssl_channel_credentials(server[0]),
            grpc.ssl_channel_credentials(server[0], stranger[1], stranger[0]),
        ):
            assert (await refusal(whoami(credentials)))[0] is grpc.StatusCode.UNAVAILABLE
