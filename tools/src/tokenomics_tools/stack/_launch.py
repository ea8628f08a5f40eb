"""Become a program bound to the life of the parent: ``_launch.py PARENT_PID FD UID:GID|- PROGRAM ...``.

Run by path with ``python -I -S`` so that it costs milliseconds. It stands between fork and exec because code
in the forked child of a threaded Python (``preexec_fn``) may deadlock. The file descriptor is closed when the
program has begun; what is written to it before says why it did not.
"""

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1
PR_SET_KEEPCAPS = 8
PR_CAP_AMBIENT = 47
PR_CAP_AMBIENT_RAISE = 2
CAP_DAC_OVERRIDE = 1
LINUX_CAPABILITY_VERSION_3 = 0x20080522


def die_with_parent(libc: ctypes.CDLL, parent: int) -> None:
    """Ask the kernel for SIGKILL when the thread that forked us ends; it may have ended already."""
    libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        sys.exit(f"parent {parent} is gone")


def become(libc: ctypes.CDLL | None, uid: int, gid: int) -> None:
    """Leave root for another user that may still reach files below folders only root can enter.

    PostgreSQL refuses to run as root, yet a checkout, its environment and its data often stand below
    ``/root``. An ambient CAP_DAC_OVERRIDE opens the way without changing the mode of a single folder. Where
    the kernel does not grant it we go on without: it is needed only when such a folder is in the way.
    """
    if libc is not None:
        libc.prctl(PR_SET_KEEPCAPS, 1, 0, 0, 0)
    os.setgroups([])
    os.setgid(gid)
    os.setuid(uid)
    if libc is None:
        return
    bit = 1 << CAP_DAC_OVERRIDE
    header = (ctypes.c_uint32 * 2)(LINUX_CAPABILITY_VERSION_3, 0)
    effective_permitted_inheritable = (ctypes.c_uint32 * 6)(bit, bit, bit, 0, 0, 0)
    if libc.capset(header, effective_permitted_inheritable) == 0:
        libc.prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, CAP_DAC_OVERRIDE, 0, 0)


def main() -> None:
    """Read the arguments, bind, become, execute."""
    parent, report, user, *command = sys.argv[1:]
    os.set_inheritable(int(report), False)
    libc = ctypes.CDLL(None) if sys.platform == "linux" else None
    try:
        if user != "-":
            uid, gid = map(int, user.split(":"))
            become(libc, uid, gid)
        if libc is not None:
            die_with_parent(libc, int(parent))  # after the change of user, which would clear it
        os.execvp(command[0], command)  # noqa: S606 - the arguments are the stack's own
    except OSError as error:
        os.write(int(report), str(error).encode())
        sys.exit(127)


if __name__ == "__main__":
    main()
