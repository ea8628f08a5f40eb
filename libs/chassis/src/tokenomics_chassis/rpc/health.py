"""Health as Kubernetes and client balancers ask for it.

``liveness`` looks at the process only, so that a broken dependency never restarts pods. ``readiness``, the
empty name and the names of the services served follow the process's checks; ``startup`` follows them until
they passed once. None needs an identity.
"""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Iterable
from typing import Any

import grpc
from grpc_health.v1 import health_pb2_grpc
from grpc_health.v1.health import aio
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse

from tokenomics_chassis.process import ExitCode, FatalError, Process

Context = grpc.aio.ServicerContext[Any, Any]

log = logging.getLogger(__name__)

_SERVING = HealthCheckResponse.SERVING
_NOT_SERVING = HealthCheckResponse.NOT_SERVING
_BETWEEN_CHECKS_SECONDS = 1


class _Servicer(aio.HealthServicer):
    """The library's, whose watches end when the server drains: left alone they would outlast every drain."""

    def __init__(self) -> None:
        super().__init__()
        self._watches: set[asyncio.Task[None]] = set()

    async def Watch(self, request: HealthCheckRequest, context: Context) -> None:  # noqa: N802 - the contract's name
        watch = asyncio.current_task()
        assert watch is not None
        self._watches.add(watch)
        try:
            await super().Watch(request, context)
        except asyncio.CancelledError:
            if watch in self._watches:  # the client went away
                raise
            await context.write(HealthCheckResponse(status=_NOT_SERVING))
        finally:
            self._watches.discard(watch)

    def end_watches(self) -> None:
        while self._watches:
            self._watches.pop().cancel()


class Health:
    """Keeps the statuses that :attr:`servicer` answers current."""

    def __init__(self, process: Process, services: Iterable[str]) -> None:
        self.servicer = _Servicer()
        self._process = process
        self._following = ["", "readiness", *services]
        self._reasons: list[str] | None = None

    async def check(self) -> None:
        """Run the checks once and publish their result; a change is logged with its reasons."""
        reasons = await self._process.not_ready_because()
        if self._reasons is None:
            await self.servicer.set("liveness", _SERVING)
            await self.servicer.set("startup", _NOT_SERVING)
        if reasons != self._reasons:
            log.info("not ready" if reasons else "ready", extra={"reasons": reasons} if reasons else {})
        self._reasons = reasons
        for name in self._following:
            await self.servicer.set(name, _NOT_SERVING if reasons else _SERVING)
        if not reasons:
            await self.servicer.set("startup", _SERVING)

    async def keep_checking(self) -> None:
        """Check every second, and at once when the process begins to stop; that check is the last."""
        while not self._process.draining.is_set():
            await self.check()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._process.draining.wait(), _BETWEEN_CHECKS_SECONDS)
        await self.check()

    async def drain(self) -> None:
        """Say for the last time that the server is not ready, and let nobody wait for more."""
        await self.check()
        self.servicer.end_watches()


@contextlib.asynccontextmanager
async def probed(process: Process, address: str) -> AsyncIterator[None]:
    """Serve health, and nothing else, in plaintext: before the start is over, and until everything ended."""
    server, health = grpc.aio.server(options=[("grpc.so_reuseport", 0)]), Health(process, ())
    health_pb2_grpc.add_HealthServicer_to_server(health.servicer, server)
    listen(server, address)
    await health.check()
    await server.start()
    checking = asyncio.create_task(health.keep_checking())
    try:
        yield
    finally:
        checking.cancel()
        health.servicer.end_watches()
        await server.stop(None)


def listen(server: grpc.aio.Server, address: str, credentials: grpc.ServerCredentials | None = None) -> int:
    """Take a port for a server, and return it.

    Raises
    ------
    FatalError
        It can't be had.
    """
    try:
        if credentials is not None:
            return server.add_secure_port(address, credentials)
        return server.add_insecure_port(address)
    except RuntimeError as error:
        raise FatalError(f"cannot listen on {address}: {error}", ExitCode.UNAVAILABLE) from error
