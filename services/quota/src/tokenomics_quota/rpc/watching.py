"""How many calls may watch at a time: each keeps looking for as long as its caller likes."""

from collections.abc import Iterator
from contextlib import contextmanager

from tokenomics_chassis.rpc.errors import UnavailableError


class TooManyWatchingError(UnavailableError):
    """As many watch as may."""

    reason = "TOO_MANY_WATCHING"


class Watchers:
    """Counts a server's calls that watch one kind of thing, which is named in the plural."""

    def __init__(self, what: str) -> None:
        self._what = what
        self._count = 0

    @contextmanager
    def one_more(self, most: int) -> Iterator[None]:
        """Let a call watch until the block is left.

        Raises
        ------
        TooManyWatchingError
            So many do already.
        """
        if self._count >= most:
            raise TooManyWatchingError(f"{most} calls watch {self._what} already")
        self._count += 1
        try:
            yield
        finally:
            self._count -= 1
