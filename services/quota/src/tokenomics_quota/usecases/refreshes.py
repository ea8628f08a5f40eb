"""The refreshes of the view that serves, for whoever wants to look again after each."""

import asyncio


class Refreshes:
    """Lets any number wait for the next refresh; that costs a refresh nothing while nobody waits."""

    def __init__(self) -> None:
        self._next = asyncio.Event()

    def next(self) -> asyncio.Event:
        """Return what is set by the next refresh, or by the end of the process."""
        return self._next

    def view_moved(self) -> None:
        """Wake who waits; a view was refreshed."""
        self._next.set()
        self._next = asyncio.Event()

    async def run(self, stopping: asyncio.Event) -> None:
        """Until told to stop, do nothing; then hold nobody back."""
        await stopping.wait()
        self._next.set()
