"""Answering a stream of requests on a stream of answers."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Final, TypeVar

import grpc

from tokenomics_chassis.rpc.errors import StoppingError

Request = TypeVar("Request")

MOST_WAITING: Final = 64
"""Requests of one stream that wait at a time; at so many nothing is read, which holds the sender back."""


async def exchange(
    requests: AsyncIterator[Request],
    context: grpc.aio.ServicerContext[Any, Any],
    answer: Callable[[Request], Awaitable[Any]],
    *,
    may_wait: Callable[[Request], bool],
    draining: asyncio.Event,
) -> None:
    """Answer each request, until the client has ended its side or the process stops.

    Requests are answered in the order they come, one read after the other is answered; those that may have to
    wait are answered beside the others, whenever they are done. What was read is answered in any case.

    Parameters
    ----------
    answer
        Returns the message to write, also for a request that fails: what it raises ends the stream.

    Raises
    ------
    StoppingError
        The process stops. The client may have sent what was never read.
    """
    writing, room = asyncio.Lock(), asyncio.Semaphore(MOST_WAITING)

    async def answer_now(request: Request) -> None:
        message = await answer(request)
        async with writing:
            await context.write(message)

    async def answer_in_time(request: Request) -> None:
        try:
            await answer_now(request)
        finally:
            room.release()

    reader = _Reader(requests, draining)
    try:
        async with asyncio.TaskGroup() as waiting:
            async for request in reader.until_drained():
                if may_wait(request):
                    await room.acquire()
                    waiting.create_task(answer_in_time(request))
                else:
                    await answer_now(request)
    finally:
        reader.close()
    if draining.is_set():
        raise StoppingError("the server is stopping; ask again what has no answer")


class _Reader:
    """Reads until the stream ends, or until the process stops, in the midst of a read if need be.

    A read is interrupted by cancelling its task, so that one that isn't interrupted costs nothing.
    """

    def __init__(self, requests: AsyncIterator[Request], draining: asyncio.Event) -> None:
        self._requests = requests
        self._draining = draining
        task = asyncio.current_task()
        assert task is not None
        self._task = task
        self._is_reading = False
        self._interrupting = asyncio.create_task(self._interrupt())

    async def until_drained(self) -> AsyncIterator[Any]:
        while not self._draining.is_set():
            self._is_reading = True
            try:
                request = await anext(self._requests)
            except StopAsyncIteration:
                return
            except asyncio.CancelledError:
                if self._draining.is_set() and not self._task.uncancel():
                    return
                raise
            finally:
                self._is_reading = False
            yield request

    def close(self) -> None:
        self._interrupting.cancel()

    async def _interrupt(self) -> None:
        await self._draining.wait()
        if self._is_reading:
            self._task.cancel()
