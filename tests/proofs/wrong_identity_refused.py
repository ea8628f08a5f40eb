"""No call gets through under a wrong identity: every RPC of a live server, every way to be somebody else."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from typing import Any, NamedTuple

import grpc
import yaml
from google.protobuf.descriptor import FieldDescriptor, MethodDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from tests.proofs.chaos import Feeder
from tests.proofs.events import (
    PROVIDER,
    Draft,
    directory_event,
    policy_event,
    price_book,
    quota_policy,
    usage_event,
)
from tests.proofs.lab import Arena, Lab, Verdict
from tests.proofs.serving import READY_SECONDS, Metadata, bearer, serving
from tokenomics.operations.v1 import operations_pb2
from tokenomics.quota.v1 import quota_pb2
from tokenomics_tools.stack.issuer import Issuer, make_key

EVERYTHING, NOTHING, STRANGER = "proof:everything", "proof:nothing", "proof:stranger"
"""Callers: listed for all methods and for people, listed for none, not listed."""
ASKED, ASKING = "bob", "alice"
OPEN_SERVICE = "grpc.health.v1.Health"
CALL_SECONDS = 5

_OPENED = "SELECT open_for IS NOT NULL AS opened FROM ledger"

SERVICES: list[Any] = [
    service
    for file in (quota_pb2.DESCRIPTOR, operations_pb2.DESCRIPTOR, reflection_pb2.DESCRIPTOR)
    for service in file.services_by_name.values()
]


class Answer(NamedTuple):
    """What a call came to."""

    code: grpc.StatusCode
    messages: list[bytes]

    @property
    def tells(self) -> bool:
        """Whether it shows an account of the person asked about."""
        return any(f"subject/{ASKED}/".encode() in message for message in self.messages)


async def prove(lab: Lab) -> Verdict:
    """Prove that every RPC refuses every wrong identity, and lets the right one through."""
    async with Arena.open(lab.variant) as arena, served(lab, arena) as channel:
        prober = _Prober(channel, arena.stack.issuer, lab.anchor.strftime("%Y-%m"))
        await prober.look_for_unknown_services()
        for service in SERVICES:
            for method in service.methods:
                await prober.probe(method)
        prober.figures["rpcs"] = sum(len(service.methods) for service in SERVICES)
        if not prober.figures["balances_protected"]:
            prober.failures.append(
                "no RPC showed a balance to the person it belongs to: nothing was protected"
            )
        return Verdict(dict(prober.figures), prober.failures)


def wrong_identities(issuer: Issuer) -> Iterator[tuple[str, grpc.StatusCode, Metadata]]:
    """Return each wrong identity with the code that must answer it."""
    unauthenticated, denied = grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED
    yield "no identity", unauthenticated, ()
    yield "no token", unauthenticated, (("authorization", "Bearer "),)
    wrong: dict[str, dict[str, Any]] = {
        "wrong audience": {"audience": "somebody-else"},
        "wrong issuer": {"issuer": "https://issuer.example.org"},
        "expired token": {"expires_in_seconds": -60},
        "alg none": {"algorithm": "none"},
        "another key": {"key": make_key()},
    }
    for name, fault in wrong.items():
        yield name, unauthenticated, bearer(issuer.token(EVERYTHING, **fault))
    yield "a caller not on the list", denied, bearer(issuer.token(STRANGER))
    yield "a caller listed for nothing", denied, bearer(issuer.token(NOTHING))
    yield "a caller who may not act for people", denied, bearer(issuer.token(NOTHING), on_behalf_of=ASKED)


class _Prober:
    """Calls RPCs under right and wrong identities and keeps count."""

    def __init__(self, channel: Any, issuer: Issuer, period: str) -> None:
        self._channel, self._issuer, self._period = channel, issuer, period
        self._token = issuer.token(EVERYTHING)
        self._wrong = list(wrong_identities(issuer))
        self.figures: Counter[str] = Counter()
        self.failures: list[str] = []

    async def look_for_unknown_services(self) -> None:
        """Ask the server what it serves: nothing may be left out."""
        stub: Any = reflection_pb2_grpc.ServerReflectionStub(self._channel)
        request = reflection_pb2.ServerReflectionRequest(list_services="")
        answers = stub.ServerReflectionInfo(iter([request]), metadata=bearer(self._token))
        listed = {
            service.name async for answer in answers for service in answer.list_services_response.service
        }
        known = {service.full_name for service in SERVICES} | {OPEN_SERVICE}
        if listed != known:
            self.failures.append(f"the server serves {sorted(listed)}, known are {sorted(known)}")

    async def probe(self, method: MethodDescriptor) -> None:
        """Call one RPC in every way."""
        path = f"/{method.containing_service.full_name}/{method.name}"
        empty = _request(method.input_type)
        for name, expected, metadata in self._wrong:
            code = (await self._call(path, empty, metadata)).code
            self.figures["refusals"] += 1
            if code is not expected:
                self.failures.append(f"{path} with {name}: {code.name}, expected {expected.name}")
        code = (await self._call(path, empty, bearer(self._token))).code
        self.figures["not_served" if code is grpc.StatusCode.UNIMPLEMENTED else "served"] += 1
        if code in {grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED}:
            self.failures.append(f"{path} with the right identity: {code.name}")
        for request in _requests_about_the_person(method.input_type, self._period):
            await self._ask_about_another(path, method, request)

    async def _ask_about_another(self, path: str, method: MethodDescriptor, request: Message) -> None:
        """Let somebody else ask, then the person: what the one did must not stand in the other's way."""
        other = await self._call(path, request, bearer(self._token, on_behalf_of=ASKING))
        own = await self._call(path, request, bearer(self._token, on_behalf_of=ASKED))
        if own.code is grpc.StatusCode.UNIMPLEMENTED:
            return
        self.figures["balances_protected"] += own.tells and not other.tells
        # A list shows what one may see, a stream and a batch answer each check for itself; all others refuse.
        silent = method.client_streaming or bool(
            {"page_size", "checks"}.intersection(method.input_type.fields_by_name)
        )
        if other.tells or not (silent or other.code is grpc.StatusCode.PERMISSION_DENIED):
            self.failures.append(f"{path}: {ASKING} asked about {ASKED} and got {other.code.name}")

    async def _call(self, path: str, request: Message, metadata: Metadata) -> Answer:
        """Call any RPC: on the wire a unary request is a stream of one message, sent along with the call."""
        call = self._channel.unary_stream(path)
        stream = call(request.SerializeToString(), metadata=metadata, timeout=CALL_SECONDS)
        messages: list[bytes] = []
        try:
            messages.extend([message async for message in stream])
        except grpc.aio.AioRpcError as error:
            return Answer(error.code(), messages)
        return Answer(await stream.code(), messages)


@asynccontextmanager
async def served(lab: Lab, arena: Arena) -> AsyncIterator[Any]:
    """Serve a ledger in which both persons have a balance."""
    callers = arena.stack.folder / "proof-callers.yaml"
    methods = [f"/{service.full_name}/*" for service in SERVICES]
    table = [
        {"subject": EVERYTHING, "methods": methods, "may_act_for_people": True},
        {"subject": NOTHING, "methods": [], "may_act_for_people": False},
    ]
    callers.write_text(yaml.safe_dump({"callers": table}))
    projector = arena.spawn("project", "project")
    long_ago = lab.anchor - timedelta(days=300)
    drafts = [
        policy_event("price_book", 1, long_ago, lab.anchor, price_book(1)),
        policy_event("quota", 1, long_ago, lab.anchor, quota_policy("UTC", 1_000_000)),
        *(_person(person, long_ago, lab.anchor) for person in (ASKED, ASKING)),
        *(usage_event("/tool", person, lab.anchor, subject=person) for person in (ASKED, ASKING)),
    ]
    async with Feeder(arena.stack.kafka.bootstrap) as feeder:
        await feeder.send([draft.binary() for draft in drafts])
        await arena.projected(feeder.ends, within_seconds=READY_SECONDS)
    relay = arena.spawn("relay", "relay")
    async with asyncio.timeout(READY_SECONDS):
        while not (await arena.fetch(_OPENED))[0]["opened"]:  # noqa: ASYNC110 - the work of another process
            await asyncio.sleep(0.1)
    for process in (projector, relay):
        process.terminate()
    async with serving(arena, TOKENOMICS_AUTH_CALLERS=str(callers)) as channel:
        yield channel


def _person(person_id: str, since: datetime, now: datetime) -> Draft:
    data = {"role": "analyst", "team_id": f"of-{person_id}"}
    return directory_event(person_id, "person.upserted", since, person_id, now, **data)


def _request(kind: Any) -> Message:
    message: Message = GetMessageClass(kind)()
    return message


def _requests_about_the_person(kind: Any, period: str) -> Iterator[Message]:
    """Fill in the person in every way that the request can name it, and what makes the request complete."""
    ways = {"subject": ASKED, "owner_id": ASKED, "account_id": f"subject/{ASKED}/all/{period}"}
    for field, value in ways.items():
        request = _request(kind)
        if not _fill(request, field, value):
            continue
        if field == "owner_id" and "page_size" not in kind.fields_by_name:
            # It asks for a budget, which is never a person's: for that of the person's team.
            request.kind, request.owner_id = quota_pb2.ACCOUNT_KIND_TEAM, f"of-{ASKED}"  # type: ignore[attr-defined]
        yield request


def _fill(request: Message, name: str, value: str) -> bool:
    """Set a text field at any depth, and model and tokens beside it; whether there was one."""
    filled = False
    for field in request.DESCRIPTOR.fields:
        if field.name == name and field.type == FieldDescriptor.TYPE_STRING:
            setattr(request, name, value)
            filled = True
        elif field.name in {"provider", "model"}:
            setattr(request, field.name, PROVIDER)
        elif field.name in {"hold_id", "lease_id", "reason_code", "ticket_id"}:
            setattr(request, field.name, f"proof.{field.name}")
        elif field.name == "amount_micro_usd" or (
            field.type == FieldDescriptor.TYPE_INT64 and field.name.startswith("estimated_")
        ):
            setattr(request, field.name, 1)
        elif field.type == FieldDescriptor.TYPE_MESSAGE and field.containing_oneof is None:
            child = getattr(request, field.name)
            nested = _request(field.message_type)
            if _fill(nested, name, value):
                filled = True
                (child.append if field.is_repeated else child.CopyFrom)(nested)
    return filled
