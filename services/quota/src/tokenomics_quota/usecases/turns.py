"""Turns of the ledger: commands that come while a transaction runs share the next one."""

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import Final

from tokenomics_chassis.dependencies import may_pass
from tokenomics_chassis.failpoints import failpoint
from tokenomics_chassis.rpc.errors import OverloadedError, StoppingError, UnavailableError
from tokenomics_quota.metrics import LEDGER_TURN_COMMANDS, LEDGER_TURN_DURATION, LEDGER_TURNS_FAILED
from tokenomics_quota.ports import HoldLedger
from tokenomics_quota.usecases.freshening import Freshening, Want
from tokenomics_quota.usecases.holding import (
    Command,
    Done,
    LedgerShutError,
    Outcome,
    ServedView,
    take_turn,
)

log = logging.getLogger(__name__)

MOST_WAITING: Final = 2_000
"""Commands that wait for their turn; further ones are refused."""

LARGEST_GROUP: Final = 256
"""Commands of one turn: some tens of milliseconds in which no other server gets one."""


class LedgerAwayError(UnavailableError):
    """The database didn't take the turn, or broke off before it could say that it had."""

    reason = "LEDGER_AWAY"


class LedgerBusyError(UnavailableError):
    """The command's turn wasn't over within its call's time."""

    reason = "LEDGER_BUSY"


@dataclass(slots=True, eq=False)
class _Waiting:
    command: Command
    traceparent: str | None
    outcome: "asyncio.Future[Outcome | Exception]" = field(default_factory=asyncio.Future)


class Turns:
    """Takes turns with commands on holds: as many as wait in one transaction, one transaction at a time.

    What a command did is durable when its outcome is known. When that is not known, for want of time or of
    the database, the same command again tells or does it.

    Parameters
    ----------
    ledger
        Opens a transaction and gives its ledger; leaving it commits.
    """

    def __init__(
        self,
        ledger: Callable[[], AbstractAsyncContextManager[HoldLedger]],
        served: ServedView,
        freshening: Freshening,
    ) -> None:
        self._ledger = ledger
        self._served = served
        self._freshening = freshening
        self._waiting: OrderedDict[_Waiting, None] = OrderedDict()
        """First come, first served; who goes away is taken out at once, wherever in the line."""
        self._called = asyncio.Event()
        self._stopping = False

    @property
    def waiting(self) -> int:
        """How many commands wait for their turn."""
        return len(self._waiting)

    async def perform(self, command: Command, give_up_at: float, traceparent: str | None = None) -> Done:
        """Perform a command in the next turn; in a later one if the view is behind of what governs.

        Parameters
        ----------
        give_up_at
            Time of the event loop's clock.

        Raises
        ------
        UnavailableError
            It is not done, or nobody knows whether it is. Or the server stops.
        RpcError
            It is refused.
        """
        while True:
            if self._stopping:
                raise StoppingError("the server is stopping")
            if len(self._waiting) >= MOST_WAITING:
                raise OverloadedError(f"{MOST_WAITING} commands wait for the ledger already")
            waiting, began = _Waiting(command, traceparent), asyncio.get_running_loop().time()
            self._waiting[waiting] = None
            self._called.set()
            try:
                async with asyncio.timeout_at(give_up_at):
                    outcome = await waiting.outcome
            except TimeoutError:
                raise LedgerBusyError(
                    "the turn was not over within the call's time; the same call again tells or does it"
                ) from None
            finally:
                self._waiting.pop(waiting, None)
            if isinstance(outcome, Exception):
                raise outcome
            if isinstance(outcome, Done):
                return outcome
            await self._freshening.until(Want({}, began), give_up_at)

    async def run(self, stopping: asyncio.Event) -> None:
        """Take turns until told to stop and nothing waits any more."""
        watch = asyncio.create_task(self._stop(stopping))
        while self._waiting or not self._stopping:
            if not self._waiting:
                self._called.clear()
                await self._called.wait()
            while group := self._next_group():
                await self._take(group)
        await watch

    async def _stop(self, stopping: asyncio.Event) -> None:
        await stopping.wait()
        self._stopping = True
        self._called.set()

    def _next_group(self) -> list[_Waiting]:
        """Take those that wait; who is going away just now is left out."""
        group: list[_Waiting] = []
        while self._waiting and len(group) < LARGEST_GROUP:
            waiting, _ = self._waiting.popitem(last=False)
            if not waiting.outcome.done():
                group.append(waiting)
        return group

    async def _take(self, group: Sequence[_Waiting]) -> None:
        """Take a turn with a group; if something in it breaks the turn, with each alone."""
        commands = [each.command for each in group]
        outcomes: Sequence[Outcome | Exception]
        now = asyncio.get_running_loop().time
        began = now()
        try:
            async with self._ledger() as ledger:
                outcomes, afterwards = await take_turn(
                    ledger, commands, [each.traceparent for each in group], self._served
                )
                failpoint("turn.before_commit")
            failpoint("turn.after_commit")
        except Exception as error:  # noqa: BLE001 - whatever it is, each caller is told
            LEDGER_TURNS_FAILED.add(1, {"cause": _cause(error)})
            if may_pass(error):
                log.warning(
                    "a turn of the ledger failed", extra={"commands": len(group), "error": repr(error)}
                )
                outcomes = [_away() for _ in group]
            elif isinstance(error, LedgerShutError) or len(group) == 1:
                outcomes = [error] * len(group)
            else:
                for each in group:
                    await self._take([each])
                return
        else:
            for leave in afterwards:
                leave()
            LEDGER_TURN_DURATION.record(now() - began)
            LEDGER_TURN_COMMANDS.record(len(group))
        for waiting, outcome in zip(group, outcomes, strict=True):
            if not waiting.outcome.done():
                waiting.outcome.set_result(outcome)


def _cause(error: Exception) -> str:
    if may_pass(error):
        return "away"
    return "shut" if isinstance(error, LedgerShutError) else "command"


def _away() -> LedgerAwayError:
    return LedgerAwayError("the ledger's database is away; the same call again tells or does it")
