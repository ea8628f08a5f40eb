"""The gRPC server of a service: what is added to it is served with identity, telemetry and error mapping."""

import asyncio
import logging
from collections.abc import Callable, Mapping
from typing import TypeVar

import grpc
from grpc_health.v1 import health_pb2_grpc
from grpc_reflection.v1alpha import reflection, reflection_pb2_grpc

from tokenomics_chassis.process import Process
from tokenomics_chassis.rpc.health import Health, listen
from tokenomics_chassis.rpc.identity import Authenticator
from tokenomics_chassis.rpc.interceptor import Interceptor, RpcHandler
from tokenomics_chassis.settings import RpcSettings, SettingsError

log = logging.getLogger(__name__)

Servicer = TypeVar("Servicer")
_HEALTH = "grpc.health.v1.Health"


class RpcServer:
    """One grpc.aio server: health without identity; reflection and everything else only with one.

    Parameters
    ----------
    process
        Its readiness is what health reports.
    """

    def __init__(self, settings: RpcSettings, process: Process, authenticator: Authenticator) -> None:
        self._settings = settings
        self._process = process
        self._interceptor = Interceptor(
            authenticator, default_deadline_seconds=settings.grpc_default_deadline_seconds
        )
        self._server = grpc.aio.server(options=_options(settings))
        self._services: list[str] = []
        self._health: Health

    def add(self, register: Callable[[Servicer, grpc.aio.Server], None], servicer: Servicer) -> None:
        """Serve a service: ``server.add(add_QuotaServiceServicer_to_server, servicer)``.

        Methods that the servicer leaves to the generated base class answer UNIMPLEMENTED.
        """
        register(servicer, _Registration(self._take))  # type: ignore[arg-type] # a generated function calls only these two

    async def start(self) -> int:
        """Begin to serve, and return the port: the one asked for, or the one taken for port 0."""
        self._health = Health(self._process, self._services)
        self.add(
            reflection_pb2_grpc.add_ServerReflectionServicer_to_server,
            reflection.aio.ReflectionServicer([*self._services, _HEALTH, reflection.SERVICE_NAME]),
        )
        health_pb2_grpc.add_HealthServicer_to_server(self._health.servicer, self._server)
        port = self._listen()
        await self._health.check()
        await self._server.start()
        log.info("serving gRPC", extra={"port": port, "services": self._services})
        return port

    async def run(self, stopping: asyncio.Event) -> None:
        """Start and serve: a task for :meth:`Process.supervise`."""
        await self.start()
        await self.serve(stopping)

    async def serve(self, stopping: asyncio.Event) -> None:
        """Serve until told to stop; then new calls are refused, those in flight get time to finish."""
        checking = asyncio.create_task(self._health.keep_checking())
        try:
            await stopping.wait()
            await self._health.drain()
            await self._server.stop(self._settings.grpc_drain_seconds)
        finally:
            checking.cancel()
            await self._server.stop(None)

    def _take(self, service: str, handlers: Mapping[str, RpcHandler]) -> None:
        wrapped = {
            name: self._interceptor.wrap(f"/{service}/{name}", handler) for name, handler in handlers.items()
        }
        self._services.append(service)
        self._server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, wrapped),))

    def _listen(self) -> int:
        address, credentials = self._settings.grpc_listen, _credentials(self._settings)
        if credentials is None:
            log.warning("the transport is plaintext", extra={"address": address})
        return listen(self._server, address, credentials)


class _Registration:
    """Stands in for the server while a generated ``add_…_to_server`` names its handlers."""

    def __init__(self, take: Callable[[str, Mapping[str, RpcHandler]], None]) -> None:
        self.add_registered_method_handlers = take

    def add_generic_rpc_handlers(self, handlers: object) -> None:
        """Ignore what comes, bare, a second time."""


def _options(settings: RpcSettings) -> list[tuple[str, int]]:
    return [
        ("grpc.so_reuseport", 0),  # a port already served is an error, not half of the calls
        ("grpc.max_receive_message_length", settings.grpc_max_message_bytes),
        ("grpc.max_send_message_length", settings.grpc_max_message_bytes),
        ("grpc.max_connection_age_ms", settings.grpc_max_connection_age_seconds * 1000),
        ("grpc.max_connection_age_grace_ms", settings.grpc_default_deadline_seconds * 1000),
        ("grpc.keepalive_time_ms", 60_000),
        ("grpc.keepalive_timeout_ms", 10_000),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
    ]


def _credentials(settings: RpcSettings) -> grpc.ServerCredentials | None:
    if settings.grpc_tls_certificate is None or settings.grpc_tls_key is None:
        return None
    try:
        client_ca = settings.grpc_tls_client_ca.read_bytes() if settings.grpc_tls_client_ca else None
        pair = (settings.grpc_tls_key.read_bytes(), settings.grpc_tls_certificate.read_bytes())
    except OSError as error:
        raise SettingsError([f"TOKENOMICS_GRPC_TLS_…: {error}"]) from error
    return grpc.ssl_server_credentials(
        [pair], root_certificates=client_ca, require_client_auth=client_ca is not None
    )
