"""A live gRPC server of quota, and calls to it."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from tests.proofs.lab import Arena
from tokenomics_tools.stack.processes import free_port

READY_SECONDS = 60

Metadata = tuple[tuple[str, str], ...]


def bearer(token: str, *, on_behalf_of: str | None = None) -> Metadata:
    """Return the metadata of a call."""
    person = () if on_behalf_of is None else (("tokenomics-on-behalf-of", on_behalf_of),)
    return (("authorization", f"Bearer {token}"), *person)


@asynccontextmanager
async def serving(arena: Arena, **variables: str) -> AsyncIterator[Any]:
    """Start a server and yield a channel to it once it is ready; the server is asked to end afterwards."""
    address = f"127.0.0.1:{free_port()}"
    server = arena.spawn("serve", "serve", TOKENOMICS_GRPC_LISTEN=address, **variables)
    request = health_pb2.HealthCheckRequest(service="readiness")
    async with grpc.aio.insecure_channel(address) as channel:
        health: Any = health_pb2_grpc.HealthStub(channel)
        try:
            async with asyncio.timeout(READY_SECONDS):
                while True:
                    if not server.running:
                        raise RuntimeError(f"serve ended{server.quote_log()}")
                    try:
                        if (await health.Check(request)).status == health_pb2.HealthCheckResponse.SERVING:
                            break
                    except grpc.aio.AioRpcError:
                        pass
                    await asyncio.sleep(0.2)
            yield channel
        finally:
            server.terminate()
            await asyncio.to_thread(server.wait, 40)
