"""A token issuer of one's own, and a real gRPC server on loopback around whatever servicers a test brings."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc
import jwt
import yaml
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from jwt.algorithms import ECAlgorithm

from tokenomics_chassis.clock import SystemClock
from tokenomics_chassis.process import Process
from tokenomics_chassis.rpc.identity import Authenticator
from tokenomics_chassis.rpc.server import RpcServer
from tokenomics_chassis.settings import RpcSettings

ISSUER = "https://issuer.test"
AUDIENCE = "tokenomics"


@dataclass
class TokenIssuer:
    """Signs tokens as the pinned issuer would; each argument of :meth:`token` makes one thing wrong."""

    kid: str = "key-1"
    key: ec.EllipticCurvePrivateKey = field(default_factory=lambda: ec.generate_private_key(ec.SECP256R1()))

    def token(
        self,
        subject: str,
        *,
        issuer: str = ISSUER,
        audience: str = AUDIENCE,
        expires_in: timedelta = timedelta(hours=1),
        kid: str | None = None,
        **claims: Any,
    ) -> str:
        """Sign a token by ES256."""
        payload = {
            "sub": subject,
            "iss": issuer,
            "aud": audience,
            "exp": datetime.now(UTC) + expires_in,
            **claims,
        }
        return jwt.encode(payload, self.key, algorithm="ES256", headers={"kid": kid or self.kid})

    @property
    def public_pem(self) -> bytes:
        """The public key as everyone knows it."""
        return self.key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)

    def jwks(self) -> str:
        """Write the key set as the issuer publishes it."""
        key = ECAlgorithm.to_jwk(self.key.public_key(), as_dict=True)
        return json.dumps({"keys": [{**key, "kid": self.kid, "alg": "ES256", "use": "sig"}]})


def bearer(token: str, **metadata: str) -> tuple[tuple[str, str], ...]:
    """Metadata of a call that carries the token."""
    return (
        ("authorization", f"Bearer {token}"),
        *((key.replace("_", "-"), value) for key, value in metadata.items()),
    )


def rpc_settings(
    folder: Path, issuer: TokenIssuer, callers: Sequence[Mapping[str, Any]], **settings: Any
) -> RpcSettings:
    """Write the issuer's keys and the table of callers into a folder, and point settings at them."""
    (folder / "jwks.json").write_text(issuer.jwks())
    (folder / "callers.yaml").write_text(yaml.safe_dump({"callers": [dict(caller) for caller in callers]}))
    return RpcSettings(
        **{
            "grpc_listen": "127.0.0.1:0",
            "auth_issuer": ISSUER,
            "auth_audience": AUDIENCE,
            "auth_jwks": str(folder / "jwks.json"),
            "auth_callers": folder / "callers.yaml",
            **settings,
        }
    )


@dataclass
class ServedRpc:
    """A server under test, the process it belongs to, and a channel to it."""

    process: Process
    channel: grpc.aio.Channel
    address: str
    stopping: asyncio.Event
    running: asyncio.Task[None]

    async def stop(self) -> None:
        """Stop as SIGTERM does, and wait until the server is gone."""
        self.process.draining.set()
        self.stopping.set()
        await self.running


@asynccontextmanager
async def served(
    settings: RpcSettings, *add: Callable[[RpcServer], None], process: Process | None = None
) -> AsyncIterator[ServedRpc]:
    """Serve on a free loopback port what the given functions add to the server."""
    process = process or Process()
    server = RpcServer(settings, process, await Authenticator.load(settings, SystemClock()))
    for each in add:
        each(server)
    port, stopping = await server.start(), asyncio.Event()
    running = asyncio.create_task(server.serve(stopping))
    address = f"127.0.0.1:{port}"
    async with grpc.aio.insecure_channel(address) as channel:
        rpc = ServedRpc(process, channel, address, stopping, running)
        try:
            yield rpc
        finally:
            await rpc.stop()
