"""A fleet tells its own doing from ends that nobody caused."""

import os
from collections.abc import Iterator
from typing import cast

import pytest

from tests.proofs.chaos import Fleet
from tests.proofs.lab import Arena
from tokenomics_tools.stack.processes import ManagedProcess, Supervisor

DIES_WHEN_TOLD_TO_STOP = "trap 'kill -9 $$' TERM; echo ready; while :; do sleep 0.1; done"


class Shells:
    """Stands in for an arena: its processes die by SIGKILL when they are told to stop."""

    def __init__(self) -> None:
        self.supervisor = Supervisor(None)
        self.spawned: list[tuple[ManagedProcess, dict[str, str]]] = []

    def spawn(self, name: str, _command: str, **variables: str) -> ManagedProcess:
        command = ["/bin/sh", "-c", DIES_WHEN_TOLD_TO_STOP]
        process = self.supervisor.start(name, command, env={"PATH": os.defpath})
        self.spawned.append((process, variables))
        process.wait_until(lambda: "ready" in process.log_text(), timeout_seconds=30)
        return process


@pytest.fixture
def shells() -> Iterator[Shells]:
    running = Shells()
    yield running
    running.supervisor.close()


async def stopped(shells: Shells, *, armed: bool) -> Fleet:
    async with Fleet(cast("Arena", shells), "project", 2) as fleet:
        if armed:
            fleet.arm("projector.after_kafka_commit", 0.5)
        await fleet.stop()
    return fleet


async def test_who_is_still_armed_may_die_at_the_failpoint_on_the_way_out(shells: Shells) -> None:
    fleet = await stopped(shells, armed=True)
    survivors = [variables for _, variables in shells.spawned[2:]]
    assert survivors == [{"TOKENOMICS_FAILPOINTS": "projector.after_kafka_commit=0.5"}] * 2
    assert fleet.unexpected == []


async def test_who_was_never_armed_may_not(shells: Shells) -> None:
    fleet = await stopped(shells, armed=False)
    assert [each.partition(" on SIGTERM")[0] for each in fleet.unexpected] == [
        "project-0 ended with -9",
        "project-1 ended with -9",
    ]
