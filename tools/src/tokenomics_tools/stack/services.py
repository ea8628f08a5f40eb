"""The processes of the quota service on a stack, as ``up``, the demo, tests and benchmarks run them."""

import contextlib
import sys
from collections.abc import Iterator, Mapping
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from tokenomics_tools.stack.api import Stack
from tokenomics_tools.stack.errors import StackError
from tokenomics_tools.stack.processes import ManagedProcess, free_port

_MIGRATE_SECONDS = 120
_READY_SECONDS = 60
_STOP_SECONDS = 40
_CHECK_SECONDS = 1


class QuotaProcesses:
    """A server, a relay, a replay and some projectors on a migrated database; made by ``quota_processes``."""

    def __init__(self, stack: Stack, database_url: str, variables: Mapping[str, str]) -> None:
        self.address = f"127.0.0.1:{free_port()}"
        """``host:port`` of the gRPC server."""
        self.projectors: list[ManagedProcess] = []
        self.server: ManagedProcess
        self.relay: ManagedProcess
        self.replay: ManagedProcess
        self._stack = stack
        self._environment = {**stack.service_environment(database_url, grpc_listen=self.address), **variables}

    def check(self) -> None:
        """See that everything runs that was started and not stopped here.

        Raises
        ------
        StackError
            A process has ended; the message quotes its log.
        """
        for process in self._processes():
            if not process.running:
                raise StackError(
                    f"{process.name} ended with exit code {process.returncode}{process.quote_log()}"
                )

    def migrate(self) -> None:
        """Bring schemas and topics up to date.

        Raises
        ------
        StackError
            With the end of the log.
        """
        migration = self._spawn("migrate")
        if code := migration.wait(_MIGRATE_SECONDS):
            raise StackError(f"migrate ended with exit code {code}{migration.quote_log()}")

    def start_server(self) -> None:
        """Start the gRPC server, and return when it is ready."""
        self.server = self._spawn("serve")
        self.server.wait_until(lambda: is_ready(self.address), timeout_seconds=_READY_SECONDS)

    def start_relay(self) -> None:
        """Start the announcer and the outbox's relay."""
        self.relay = self._spawn("relay")

    def start_replay(self) -> None:
        """Start what works off rebuilds and verifications."""
        self.replay = self._spawn("replay")

    def start_projector(self) -> ManagedProcess:
        """Start one more projector."""
        projector = self._spawn("project", f"project-{len(self.projectors) + 1}")
        self.projectors.append(projector)
        return projector

    def replace(self, projector: ManagedProcess) -> ManagedProcess:
        """Kill a projector with SIGKILL, if nobody did before, and start another in its place."""
        projector.kill()
        place = self.projectors.index(projector)
        self.projectors[place] = self._spawn("project", f"project-{place + 1}")
        return self.projectors[place]

    def stop(self) -> None:
        """Ask every process to end, and wait until it has.

        Raises
        ------
        StackError
            One did not end in time.
        """
        for process in self._processes():
            process.terminate()
        for process in self._processes():
            process.wait(_STOP_SECONDS)

    def _processes(self) -> list[ManagedProcess]:
        return [self.server, *self.projectors, self.relay, self.replay]

    def _spawn(self, command: str, name: str | None = None) -> ManagedProcess:
        argv = [sys.executable, "-m", "tokenomics_quota", command]
        return self._stack.spawn(f"quota-{name or command}", argv, self._environment)


@contextlib.contextmanager
def quota_processes(
    stack: Stack, database_url: str, *, projectors: int = 1, variables: Mapping[str, str] | None = None
) -> Iterator[QuotaProcesses]:
    """Migrate, start everything, yield when the server is ready; afterwards ask everything to end in order.

    When the block raises, the processes are left to the stack, which kills them.

    Parameters
    ----------
    projectors
        How many processes share the partitions.
    variables
        More environment variables, e.g. failpoints.

    Raises
    ------
    StackError
        A process ended or was not ready in time; the message quotes its log.
    """
    quota = QuotaProcesses(stack, database_url, variables or {})
    quota.migrate()
    for _ in range(projectors):
        quota.start_projector()
    quota.start_relay()
    quota.start_replay()
    quota.start_server()
    yield quota
    quota.stop()


def is_ready(address: str) -> bool:
    """Whether the gRPC server at the address says that it is ready."""
    with contextlib.suppress(grpc.RpcError), grpc.insecure_channel(address) as channel:
        request = health_pb2.HealthCheckRequest(service="readiness")
        health: Any = health_pb2_grpc.HealthStub(channel)
        answer = health.Check(request, timeout=_CHECK_SECONDS)
        return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)
    return False
