"""Answering a stream of requests on a stream of answers."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Final

import grpc

from tokenomics_chassis.rpc.errors import InvalidRequestError, RpcError, StoppingError

MOST_WAITING: Final = 64
"""Requests of one stream that wait at a time; at so many nothing is read, which holds the sender back."""


async def exchange(
    context: grpc.aio.ServicerContext[Any, Any],
    answer: Callable[[Any], bytes | Awaitable[bytes]],
    *,
    may_wait: Callable[[Any], bool],
    draining: asyncio.Event,
) -> None:
    """Answer each request, until the client ends its side or sends what is no request, or the process stops.

    Requests are answered in the order they come, one read after the other is answered; those that may have to
    wait are answered beside the others, whenever they are done. What was read is answered in any case.

    Parameters
    ----------
    answer
        Returns the message to write, serialized, also for a request that fails: what it raises ends the
        stream. It is awaited only where it must be: that costs.

    Raises
    ------
    StoppingError
        The process stops. The client may have sent what was never read.
    InvalidRequestError
        The client sent what is no request.
    """
    writing, waiting = asyncio.Lock(), 0
    room = asyncio.Semaphore(MOST_WAITING)

    async def write_in_time(answered: bytes | Awaitable[bytes]) -> None:
        nonlocal waiting
        try:
            message = answered if isinstance(answered, bytes) else await answered
            async with writing:
                await context.write(message)
        finally:
            waiting -= 1
            room.release()

    reading = _Reading(draining)
    try:
        async with asyncio.TaskGroup() as beside:
            while not draining.is_set():
                reading.goes_on = True
                try:
                    request = await context.read()
                except (asyncio.CancelledError, InvalidRequestError) as error:
                    if reading.ends_with(error):
                        break
                    raise
                finally:
                    reading.goes_on = False
                if request is grpc.aio.EOF:
                    break
                if may_wait(request):
                    await room.acquire()
                    waiting += 1
                    beside.create_task(write_in_time(answer(request)))
                    continue
                answered = answer(request)
                message = answered if isinstance(answered, bytes) else await answered
                if waiting:
                    async with writing:
                        await context.write(message)
                else:  # nobody else writes, nor begins to before this is written
                    await context.write(message)
    finally:
        reading.end()
    if (reason := reading.broken_off_because()) is not None:
        raise reason


class _Reading:
    """Interrupts a read under way when the process stops.

    It cancels the reader's task, so that a read which isn't interrupted costs nothing.

    Attributes
    ----------
    goes_on
        Whether the task reads at the moment; it says so itself.
    """

    def __init__(self, draining: asyncio.Event) -> None:
        self.goes_on = False
        self._draining = draining
        self._unreadable: InvalidRequestError | None = None
        task = asyncio.current_task()
        assert task is not None
        self._task = task
        self._interrupting = asyncio.create_task(self._interrupt())

    def ends_with(self, error: BaseException) -> bool:
        """Whether what a read raised only ends the reading.

        Then what is under way is answered first: a write that is cut off leaves a call without an end. A task
        that was cancelled by this alone no longer is.
        """
        if isinstance(error, InvalidRequestError):
            self._unreadable = error
            return True
        return self._draining.is_set() and not self._task.uncancel()

    def broken_off_because(self) -> RpcError | None:
        """Return why the client was not read to its end; ``None``: it was."""
        if self._unreadable is None and self._draining.is_set():
            return StoppingError("the server is stopping; ask again what has no answer")
        return self._unreadable

    def end(self) -> None:
        """Nothing is read any more."""
        self._interrupting.cancel()

    async def _interrupt(self) -> None:
        await self._draining.wait()
        if self.goes_on:
            self._task.cancel()
