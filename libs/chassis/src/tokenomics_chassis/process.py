"""One process: uvloop, supervised tasks, signals, an orderly stop and an exit code an SRE can read."""

import asyncio
import gc
import logging
import math
import os
import signal
import sys
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from dataclasses import dataclass, field
from enum import IntEnum
from types import TracebackType
from typing import TypeVar

import uvloop

from tokenomics_chassis.dependencies import is_database_missing, is_dependency_away
from tokenomics_chassis.logs import configure_logging
from tokenomics_chassis.postgres import Backoff
from tokenomics_chassis.settings import ServiceSettings, SettingsError
from tokenomics_chassis.telemetry import start_telemetry

log = logging.getLogger(__name__)

T = TypeVar("T")

_GC_THRESHOLDS = (2_000, 20, 100)

CANCEL_SECONDS = 2.0
"""What the tasks that are cancelled have to end in, and each resource to close in."""


class ExitCode(IntEnum):
    """Why a process ended."""

    OK = 0
    SETTINGS = 2
    SCHEMA = 3
    TOO_MANY_PARKED = 4
    LOST_HISTORY = 5
    UNAVAILABLE = 69
    INTERNAL = 70


class FatalError(Exception):
    """Ends the process with an exit code of its own; the message is what the operator reads."""

    def __init__(self, message: str, exit_code: ExitCode = ExitCode.INTERNAL) -> None:
        super().__init__(message)
        self.exit_code = exit_code


Task = Callable[[asyncio.Event], Awaitable[None]]
"""Works until the event is set, then finishes what it has begun and returns."""

ReadinessCheck = Callable[[], Awaitable[str | None]]
"""``None`` when ready, else the reason why not, in words for an operator."""


@dataclass
class _Supervised:
    name: str
    task: asyncio.Task[None]
    stopping: asyncio.Event


@dataclass
class Process:
    """What a service's start-up function wires its parts into."""

    readiness: dict[str, ReadinessCheck] = field(default_factory=dict)
    """Checks by name; ready means that all of them say so."""

    draining: asyncio.Event = field(default_factory=asyncio.Event)
    """Set at the first sign of a stop: from here on the process is not ready."""

    _starting: bool = False
    _supervised: list[_Supervised] = field(default_factory=list)
    _resources: AsyncExitStack = field(default_factory=AsyncExitStack)

    async def enter(self, resource: AbstractAsyncContextManager[T]) -> T:
        """Open a resource; it is closed after every task has ended, the last opened first, or left."""
        return await self._resources.enter_async_context(_ClosedInTime(resource))

    def supervise(self, name: str, task: Task) -> None:
        """Run a task for the life of the process.

        Tasks are stopped one after another, the last started first: start what others lean on before
        them (relay, then projector, then gRPC server). A task that raises, or returns unasked, stops the
        process.
        """
        stopping = asyncio.Event()
        running = asyncio.create_task(_call(task, stopping), name=name)
        self._supervised.append(_Supervised(name, running, stopping))

    async def not_ready_because(self) -> list[str]:
        """Reasons why the process can't do its work now; empty when ready."""
        if self.draining.is_set():
            return ["stopping"]
        if self._starting:
            return ["starting"]
        reasons = await asyncio.gather(*(_check(name, check) for name, check in self.readiness.items()))
        return [reason for reason in reasons if reason is not None]

    async def _run(self, start: "Start", settings: ServiceSettings, patience_seconds: float) -> None:
        self._stop_on_signals()
        self._starting = True
        async with AsyncExitStack() as probes:
            if settings.health_listen is not None:
                # Imported late: it stands on this module, and not every process has use for gRPC.
                from tokenomics_chassis.rpc.health import probed  # noqa: PLC0415

                await probes.enter_async_context(probed(self, settings.health_listen))
            async with self._resources:
                try:
                    await self._until_started(start, patience_seconds)
                    await self._until_stopped()
                finally:
                    self.draining.set()
                    await self._stop(settings.grace_seconds)

    async def _until_started(self, start: "Start", patience_seconds: float) -> None:
        starting = asyncio.current_task()
        assert starting is not None

        async def cancel_when_draining() -> None:
            await self.draining.wait()
            starting.cancel()

        cancelling = asyncio.create_task(cancel_when_draining())
        try:
            await self._start(start, patience_seconds)
        except asyncio.CancelledError:
            starting.uncancel()
            raise FatalError("stopped before it was ready", ExitCode.UNAVAILABLE) from None
        finally:
            cancelling.cancel()
        self._starting = False
        _collect_garbage_less_often()

    async def _start(self, start: "Start", patience_seconds: float) -> None:
        """Start; anew for as long as a dependency is away, unless tasks are under way already."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + patience_seconds
        backoff = Backoff()
        while True:
            try:
                return await start(self)
            except Exception as error:
                if self._supervised or not _will_pass(error) or loop.time() >= deadline:
                    raise
                await self._resources.aclose()
                self.readiness.clear()
                await backoff.pause(asyncio.Event(), error, "starting")  # a stop cancels us

    async def _until_stopped(self) -> None:
        if not self._supervised:
            return  # `start` itself was the work
        asked = asyncio.create_task(self.draining.wait())
        done, _ = await asyncio.wait(
            [asked, *(each.task for each in self._supervised)], return_when=asyncio.FIRST_COMPLETED
        )
        asked.cancel()
        for each in self._supervised:
            if each.task in done:
                await each.task
                raise FatalError(f"{each.name} ended unasked")

    async def _stop(self, grace_seconds: float) -> None:
        """Stop every task, cancelling what outlasts the grace period; log each failure, raise the first.

        What doesn't even end when cancelled is left: the process ends without it.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + grace_seconds
        cause = sys.exc_info()[1]
        for each in reversed(self._supervised):
            each.stopping.set()
            await asyncio.wait([each.task], timeout=max(0.0, deadline - loop.time()))
            if not each.task.done():
                log.warning("a task did not stop in time, cancelled", extra={"task": each.name})
                each.task.cancel()
                await asyncio.wait([each.task], timeout=max(0.0, deadline + CANCEL_SECONDS - loop.time()))
            if not each.task.done():
                log.error("a task did not end when cancelled, left", extra={"task": each.name})
                continue
            failure = None if each.task.cancelled() else each.task.exception()
            if failure is None or failure is cause:
                continue
            log.error("a task failed while stopping", exc_info=failure, extra={"task": each.name})
            cause = cause or failure
        if cause is not None and sys.exc_info()[1] is None:
            raise cause

    def _stop_on_signals(self) -> None:
        def on_signal(number: signal.Signals) -> None:
            if self.draining.is_set():
                log.warning("second signal, exiting at once", extra={"signal": number.name})
                logging.shutdown()
                os._exit(128 + number)
            log.info("stopping", extra={"signal": number.name})
            self.draining.set()

        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, on_signal, number)


class _ClosedInTime(AbstractAsyncContextManager[T]):
    """A resource whose closing takes two seconds at most; then it is left."""

    def __init__(self, resource: AbstractAsyncContextManager[T]) -> None:
        self._resource = resource

    async def __aenter__(self) -> T:
        return await self._resource.__aenter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            async with asyncio.timeout(CANCEL_SECONDS):
                await self._resource.__aexit__(kind, error, trace)
        except TimeoutError:
            log.warning("a resource did not close in time, left", extra={"resource": repr(self._resource)})


Start = Callable[[Process], Awaitable[None]]
"""Opens resources and starts tasks on the process. It may be called again when a dependency was away."""


def _will_pass(error: Exception) -> bool:
    if isinstance(error, FatalError):
        return error.exit_code is ExitCode.UNAVAILABLE
    return is_dependency_away(error)


def _collect_garbage_less_often() -> None:
    """Leave what the start has loaded out of every collection, and look at all that is alive seldom.

    The defaults look for cycles every 700 objects, and at all objects whenever a quarter has been added: that
    took a quarter of a projector's time. A larger young generation saves little more, and a collection of
    50,000 objects holds up a server for up to 90 ms.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(*_GC_THRESHOLDS)


def run(
    service_name: str, settings: ServiceSettings, start: Start, *, patience_seconds: float = math.inf
) -> ExitCode:
    """Run one process to its end.

    Parameters
    ----------
    service_name
        Names the process in logs and telemetry.
    settings
        Printed redacted before anything else happens.
    start
        Opens resources and starts tasks on the :class:`Process`. When it supervises nothing, the process
        ends with it (a migration). A signal before its end cancels it, which is no success. While a
        dependency is away it is called again, with growing pauses.
    patience_seconds
        How long the start may wait for dependencies.

    Returns
    -------
    ExitCode
        For ``sys.exit``. Failures are logged here, never raised: an unreachable dependency is
        ``UNAVAILABLE``, a :class:`FatalError` brings its own code, all else is ``INTERNAL``.
    """
    configure_logging(service_name, settings.log_level, settings.log_format)
    log.info("starting", extra={"pid": os.getpid(), "settings": settings.describe()})
    telemetry = start_telemetry(service_name, settings.otlp_endpoint)

    async def process() -> None:
        await Process()._run(start, settings, patience_seconds)  # noqa: SLF001 - the runner of its own module

    code = ExitCode.OK
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(process())
    except FatalError as error:
        log.critical("%s", error, exc_info=error.__cause__)
        code = error.exit_code
    except SettingsError as error:
        log.critical("bad settings: %s", error)
        code = ExitCode.SETTINGS
    except Exception as error:
        if is_dependency_away(error):
            log.critical("a dependency is unavailable: %s: %s", type(error).__name__, error)
            code = ExitCode.UNAVAILABLE
        elif is_database_missing(error):
            log.critical(
                "the database lacks the role, the database or the tables that this process works with: %s. "
                "Restore it, or make role and database anew and run the `migrate` command",
                error,
            )
            code = ExitCode.SCHEMA
        else:
            log.critical("the process failed", exc_info=True)
            code = ExitCode.INTERNAL
    finally:
        telemetry.shut_down()
    log.info("stopped", extra={"exit_code": int(code), "meaning": code.name})
    return code


def exit_with(main: Callable[[], ExitCode]) -> None:
    """Call ``main`` and exit with its code; bad settings are one line each on stderr and code 2."""
    try:
        code = main()
    except SettingsError as error:
        sys.stderr.write(f"{error}\n")
        code = ExitCode.SETTINGS
    sys.exit(code)


async def all_of(stopping: asyncio.Event, *tasks: Task) -> None:
    """Run tasks side by side as one: all stop when told to, or when one of them ends.

    Raises
    ------
    Exception
        What the first one to fail raised.
    """
    stop = asyncio.Event()
    asked = asyncio.create_task(stopping.wait())
    running = [asyncio.create_task(_call(task, stop)) for task in tasks]
    try:
        await asyncio.wait([asked, *running], return_when=asyncio.FIRST_COMPLETED)
    finally:
        stop.set()
        asked.cancel()
        await asyncio.wait(running)
    for task in running:
        task.result()


async def _call(task: Task, stopping: asyncio.Event) -> None:
    await task(stopping)


async def _check(name: str, check: ReadinessCheck) -> str | None:
    try:
        async with asyncio.timeout(2):
            reason = await check()
    except Exception as error:  # noqa: BLE001 - a check that fails is a reason not to be ready, whatever it raised
        reason = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    return f"{name}: {reason}" if reason else None
