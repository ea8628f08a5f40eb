"""A server's data on a file system of its own that can be filled; nothing of it is left behind."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import asyncpg
import pytest

from tokenomics_tools.stack import Source, StackError, start_stack
from tokenomics_tools.stack.disk import SmallDisk
from tokenomics_tools.stack.processes import Supervisor, poll

MIB = 1024 * 1024
HELD = """
import sys, time
from tokenomics_tools.stack.disk import SmallDisk
from tokenomics_tools.stack.processes import Supervisor
supervisor = Supervisor(None)
disk = SmallDisk(supervisor, "kafka", 8 * 1024 * 1024)
disk.fill(leaving_bytes=1024 * 1024)
print(supervisor.folder, disk.free_bytes, flush=True)
sys.stdin.read()
"""


def mounts_inside(folder: Path) -> list[str]:
    return [line for line in Path("/proc/self/mounts").read_text().splitlines() if f"{folder}/" in line]


async def test_a_database_meets_the_end_of_its_small_disk_and_goes_on_when_there_is_room() -> None:
    with start_stack(Source.EMBEDDED, small_disks={"postgres": 160 * MIB}) as stack:
        disk = stack.postgres.disk
        assert disk is not None
        connection = await asyncpg.connect(stack.new_database("small"))
        await connection.execute("CREATE UNLOGGED TABLE heap (filler text STORAGE PLAIN)")
        disk.fill(leaving_bytes=MIB)
        with pytest.raises(asyncpg.DiskFullError, match="No space left on device"):
            await connection.execute(
                "INSERT INTO heap SELECT repeat('x', 4000) FROM generate_series(1, 1000)"
            )
        disk.make_room()
        await connection.execute("INSERT INTO heap SELECT repeat('x', 4000) FROM generate_series(1, 1000)")
        await connection.close()
    assert not mounts_inside(stack.folder)
    assert not disk.folder.exists()


def test_a_small_disk_goes_when_its_owner_is_killed() -> None:
    owner = subprocess.Popen(  # noqa: S603 - our own program
        [sys.executable, "-c", HELD], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert owner.stdout is not None
    folder, free = owner.stdout.readline().split()
    assert int(free) <= MIB
    owner.send_signal(signal.SIGKILL)
    owner.communicate()
    assert poll(lambda: not Path(folder).exists(), timeout_seconds=15)
    assert not mounts_inside(Path(folder))


def test_a_small_disk_needs_the_embedded_source() -> None:
    with (
        pytest.raises(StackError, match="the containers stack has no small disks"),
        start_stack(Source.CONTAINERS, small_disks={"kafka": MIB}),
    ):
        pass


def test_where_no_small_disk_can_be_had_the_error_says_what_is_needed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for tool in ("mount", "unshare"):
        (tmp_path / tool).write_text("#!/bin/sh\necho 'not permitted' >&2\nexit 1\n")
        (tmp_path / tool).chmod(0o755)
    monkeypatch.setattr(os, "defpath", f"{tmp_path}:{os.defpath}")
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    supervisor = Supervisor(None)
    try:
        with pytest.raises(
            StackError, match=r"no small file system can be had for kafka.*\n?.*not permitted"
        ):
            SmallDisk(supervisor, "kafka", MIB)
    finally:
        supervisor.close()
