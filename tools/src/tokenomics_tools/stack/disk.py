"""A small file system, so that a server can be seen to run out of space without filling anybody's disk."""

import errno
import os
import shutil
import subprocess
from pathlib import Path

from tokenomics_tools.stack.errors import StackError
from tokenomics_tools.stack.processes import Supervisor, poll

_MOUNT_SECONDS = 10
_CHUNK_BYTES = 1024 * 1024
_BALLAST = "ballast"


class SmallDisk:
    """A tmpfs of a fixed size; it goes when its stack does.

    Root mounts it. Everybody else gets it in a namespace of a process that holds it, and reaches it through
    that process's ``/proc`` entry.

    Attributes
    ----------
    folder
        Its root, as every process of the stack can open it.

    Raises
    ------
    StackError
        Neither way is open here; the message says what was tried.
    """

    def __init__(self, supervisor: Supervisor, name: str, size_bytes: int) -> None:
        self._name = name
        mount_point = supervisor.folder / f"{name}-disk"
        mount_point.mkdir(exist_ok=True)
        mount = ["mount", "-t", "tmpfs", "-o", f"size={size_bytes},mode=0711", "tmpfs", str(mount_point)]
        if os.geteuid() == 0:
            self.folder = mount_point
            done = subprocess.run(mount, check=False, capture_output=True, text=True)
            if done.returncode:
                raise StackError(
                    f"no small file system can be had for {name}: {done.stderr.strip()}; "
                    "root needs CAP_SYS_ADMIN here, or run as an ordinary user"
                )
        else:
            script = '"$@" && echo mounted && exec sleep infinity'
            unshare = ["unshare", "--user", "--map-root-user", "--mount"]
            holder = supervisor.start(
                f"{name}-disk", [*unshare, "sh", "-c", script, "sh", *mount], env={"PATH": os.defpath}
            )
            poll(lambda: not holder.running or "mounted" in holder.log_text(), timeout_seconds=_MOUNT_SECONDS)
            self.folder = Path(f"/proc/{holder.pid}/root{mount_point}")
            if not holder.running or shutil.disk_usage(self.folder).total > size_bytes:
                raise StackError(
                    f"no small file system can be had for {name}: the kernel must allow unprivileged user "
                    f"namespaces, or run as root{holder.quote_log()}"
                )

    @property
    def free_bytes(self) -> int:
        """How much still fits."""
        return shutil.disk_usage(self.folder).free

    def fill(self, *, leaving_bytes: int = 0) -> None:
        """Take all space but so much, which whoever writes next will use up."""
        with (self.folder / _BALLAST).open("ab", buffering=0) as ballast:
            try:
                while (room := self.free_bytes - leaving_bytes) > 0:
                    ballast.write(bytes(min(room, _CHUNK_BYTES)))
            except OSError as error:
                if error.errno != errno.ENOSPC:
                    raise

    def make_room(self) -> None:
        """Give back what `fill` took."""
        (self.folder / _BALLAST).unlink(missing_ok=True)
