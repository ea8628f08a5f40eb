"""The service's processes, beside servers that come and go: what a supervisor of theirs sees."""

import asyncio
import sys
from collections.abc import Iterator
from typing import Any

import asyncpg
import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from tokenomics_tools.stack import ManagedProcess, Source, Stack, start_stack
from tokenomics_tools.stack.processes import free_port, poll

COMMANDS = ("project", "relay", "serve")
READY_SECONDS = 60


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    """Yield a stack of our own: its servers are stopped."""
    with start_stack(Source.EMBEDDED) as running:
        yield running


def spawn(stack: Stack, database: str, command: str, **variables: str) -> ManagedProcess:
    environment = stack.service_environment(database, grpc_listen=f"127.0.0.1:{free_port()}")
    argv = [sys.executable, "-m", "tokenomics_quota", command]
    return stack.spawn(f"quota-{command}", argv, environment | variables)


def says(address: str, name: str) -> bool | None:
    """Return what a probe is told; ``None`` when nobody answers."""
    with grpc.insecure_channel(address) as channel:
        health: Any = health_pb2_grpc.HealthStub(channel)
        try:
            answer = health.Check(health_pb2.HealthCheckRequest(service=name), timeout=2)
        except grpc.RpcError:
            return None
        return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)


def execute(database: str, statement: str) -> None:
    async def run() -> None:
        connection = await asyncpg.connect(database)
        await connection.execute(statement)
        await connection.close()

    asyncio.run(run())


@pytest.mark.parametrize("command", COMMANDS)
def test_a_schema_that_this_version_was_not_written_for_is_refused(stack: Stack, command: str) -> None:
    process = spawn(stack, stack.new_database("empty"), command)
    assert process.wait(READY_SECONDS) == 3
    assert "run the `migrate` command first" in process.log_text()


def test_processes_wait_for_their_servers_and_are_ready_only_on_the_right_schema(stack: Stack) -> None:
    database = stack.new_database("quota")
    stack.postgres.stop()
    migrations = [spawn(stack, database, "migrate") for _ in range(2)]
    for migration in migrations:
        assert poll(lambda each=migration: "trying again" in each.log_text(), timeout_seconds=READY_SECONDS)  # type: ignore[misc]
    stack.postgres.start()
    for migration in migrations:
        assert migration.wait(READY_SECONDS) == 0, migration.quote_log()

    stack.postgres.stop()
    stack.kafka.stop()
    probes = {command: f"127.0.0.1:{free_port()}" for command in COMMANDS}
    processes = [
        spawn(stack, database, command, TOKENOMICS_HEALTH_LISTEN=address)
        for command, address in probes.items()
    ]
    for address in probes.values():
        assert poll(lambda address=address: says(address, "liveness") is True, timeout_seconds=READY_SECONDS)  # type: ignore[misc]
        assert says(address, "readiness") is False

    def all_ready(*, but: tuple[str, ...] = ()) -> bool:
        return all(says(address, "readiness") is (each not in but) for each, address in probes.items())

    stack.postgres.start()
    stack.kafka.start()
    assert poll(all_ready, timeout_seconds=READY_SECONDS)

    newer = "INSERT INTO quota.schema_migration VALUES ('tokenomics_quota', '099_later.sql', '')"
    execute(database, newer)
    assert not poll(lambda: not all_ready(), timeout_seconds=3)
    execute(database, "DELETE FROM quota.schema_migration")
    assert poll(lambda: all_ready(but=COMMANDS), timeout_seconds=READY_SECONDS)
    assert all(says(address, "liveness") for address in probes.values())
    for process in processes:
        process.terminate()
        assert process.wait(READY_SECONDS) == 0
