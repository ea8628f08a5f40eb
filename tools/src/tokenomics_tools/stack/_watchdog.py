"""Clean up after a stack that is over: ``_watchdog.py FOLDER keep|remove``, pids on standard input.

The owner holds the only writing end of the pipe, so however it ends (return, exception, SIGKILL) this process
reads the end of the file. Then it kills what it was told of with all descendants, and PostgreSQL's processes
inside the folder (sessions of their own, they outlive a killed postmaster for a moment), unmounts what was
mounted inside, and removes the folder when it is a temporary one; all but the logs when the last line was
``logs``: then the owner lives.
"""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path

import psutil

ROUNDS = 600
ROUND_SECONDS = 0.05


def with_descendants(processes: Iterable[psutil.Process]) -> set[psutil.Process]:
    """Return the processes that still run, and everything below them."""
    found = set()
    for process in processes:
        with contextlib.suppress(psutil.Error):
            if process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
                found |= {process, *process.children(recursive=True)}
    return found


def postgres_inside(folder: Path) -> set[psutil.Process]:
    """Return PostgreSQL's processes whose working folder is inside the given one."""
    found = set()
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.name() == "postgres" and Path(process.cwd()).is_relative_to(folder):
                found.add(process)
    return found


def remove(folder: Path, *, but_logs: bool) -> None:
    """Remove a folder, or what stands in it beside the logs."""
    if not but_logs:
        shutil.rmtree(folder, ignore_errors=True)
        return
    for entry in os.scandir(folder):
        if not entry.is_dir(follow_symlinks=False):
            Path(entry).unlink()
        elif entry.name != "logs":
            shutil.rmtree(entry, ignore_errors=True)


def mounted_inside(folder: Path) -> list[str]:
    """Return where file systems are mounted inside the folder."""
    mounts = [line.split()[1] for line in Path("/proc/self/mounts").read_text().splitlines()]
    return [each for each in mounts if Path(each) != folder and Path(each).is_relative_to(folder)]


def main() -> None:
    """Read pids until the owner's end of the pipe closes, then clean up."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    folder, mode = Path(sys.argv[1]), sys.argv[2]
    told, line = [], ""
    for line in sys.stdin:
        with contextlib.suppress(psutil.Error, ValueError):
            told.append(psutil.Process(int(line)))
    for _ in range(ROUNDS):
        left = with_descendants(told) | postgres_inside(folder)
        if not left:
            break
        for process in left:
            with contextlib.suppress(psutil.Error):
                process.kill()
        time.sleep(ROUND_SECONDS)
    for mount_point in mounted_inside(folder):
        subprocess.run(["umount", "--lazy", mount_point], check=False)  # noqa: S607 - wherever the system has it
    if mode == "remove":
        remove(folder, but_logs=line == "logs\n")


if __name__ == "__main__":
    main()
