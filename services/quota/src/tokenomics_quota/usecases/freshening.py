"""Waiting until the serving view is as fresh as a caller asks for."""

import asyncio
from collections.abc import Mapping
from typing import Final, NamedTuple

from tokenomics_chassis.rpc.errors import DependencyUnavailableError, StoppingError, UnavailableError
from tokenomics_chassis.serving import Serving
from tokenomics_quota.ports import EndOffsets
from tokenomics_quota.projections.balances import QuotaView

MOST_WAITING: Final = 1_000
"""Calls that wait at a time; further ones are refused. A token ahead of the log's end is never reached."""

ANSWER_SECONDS: Final = 0.1
"""Of a call's time this much, or half when there is less than twice of it, is left for its answer."""

SILENCE_SECONDS: Final = 2.0
"""So long a dependency may be quiet, poll intervals and a busy moment included, before it counts as away."""


class NotFreshYetError(UnavailableError):
    """The view hasn't come as far as the caller asks for within the call's time."""

    reason = "NOT_FRESH_YET"


class TooManyWaitingError(UnavailableError):
    """As many calls wait for the view as may."""

    reason = "TOO_MANY_WAITING"


class Want(NamedTuple):
    """What a view must have come to."""

    next_offsets: Mapping[str, int]
    """By ``topic/partition``."""
    refreshed_since: float | None = None
    """Time of the event loop's clock after which the refresh began that brought it there."""
    ledger_change_seq: int = 0
    """Of the hold ledger."""

    def missing_in(self, view: QuotaView | None) -> str | None:
        """Say what the view lacks."""
        if view is None:
            return "the view is being loaded"
        applied = view.next_offsets
        for partition, wanted in self.next_offsets.items():
            if (have := applied.get(partition, 0)) < wanted:
                return f"{partition} is applied up to offset {have}, {wanted} is asked for"
        if view.ledger_change_seq < self.ledger_change_seq:
            return (
                f"the ledger is applied up to {view.ledger_change_seq}, {self.ledger_change_seq} is asked for"
            )
        since = self.refreshed_since
        if since is not None and (view.refresh_began is None or view.refresh_began <= since):
            return "the view hasn't been refreshed since the call began"
        return None

    def and_also(self, other: "Want") -> "Want":
        """Return what satisfies both."""
        offsets = dict(self.next_offsets)
        for partition, wanted in other.next_offsets.items():
            offsets[partition] = max(wanted, offsets.get(partition, 0))
        since = [each for each in (self.refreshed_since, other.refreshed_since) if each is not None]
        return Want(offsets, max(since, default=None), max(self.ledger_change_seq, other.ledger_change_seq))


class Freshening:
    """Holds calls back until the serving view has what they ask for; woken by the view's refreshes alone.

    Parameters
    ----------
    serving
        Has the view that answers; another one may take its place while calls wait.
    """

    def __init__(self, serving: Serving[QuotaView], ends: EndOffsets) -> None:
        self._serving = serving
        self._ends = ends
        self._waiting: dict[asyncio.Future[None], Want] = {}
        self._stopping = False

    async def everything_now(self, give_up_at: float) -> Want:
        """Return what is committed and what is in the log by now, to be waited for.

        Parameters
        ----------
        give_up_at
            Time of the event loop's clock.

        Raises
        ------
        UnavailableError
            The log's ends can't be read in time; or, at once, broker or database have been away for longer
            than that already.
        """
        began, view = asyncio.get_running_loop().time(), self._serving.current
        patience = max(give_up_at - began, SILENCE_SECONDS)
        for name, heard_at in (
            ("the broker", self._ends.read_at),
            ("the database", None if view is None else view.refresh_began),
        ):
            if heard_at is None or began - heard_at > patience:
                raise DependencyUnavailableError(
                    f"{name} has not answered for longer than this call can wait"
                )
        try:
            async with asyncio.timeout_at(give_up_at):
                return Want(await self._ends.next(), began)
        except TimeoutError:
            raise NotFreshYetError("the log's ends could not be read within the call's time") from None

    def has(self, want: Want) -> bool:
        """Whether the view that serves has what is wanted."""
        return want.missing_in(self._serving.current) is None

    async def until(self, want: Want, give_up_at: float) -> None:
        """Return as soon as the serving view has what is wanted.

        Raises
        ------
        NotFreshYetError
            It is time to give up.
        TooManyWaitingError
            Too many wait already.
        StoppingError
            The server stops.
        """
        while (missing := want.missing_in(self._serving.current)) is not None:
            if self._stopping:
                raise StoppingError("the server is stopping")
            if len(self._waiting) >= MOST_WAITING:
                raise TooManyWaitingError(f"{MOST_WAITING} calls wait for the view already; {missing}")
            turn = asyncio.get_running_loop().create_future()
            self._waiting[turn] = want
            try:
                async with asyncio.timeout_at(give_up_at):
                    await turn
            except TimeoutError:
                missing = want.missing_in(self._serving.current)
                if missing is not None:
                    raise NotFreshYetError(f"not within the call's time: {missing}") from None
            finally:
                del self._waiting[turn]

    def view_moved(self) -> None:
        """Let those go on whose wish the serving view fulfils by now."""
        view = self._serving.current
        for turn, want in self._waiting.items():
            if not turn.done() and want.missing_in(view) is None:
                turn.set_result(None)

    async def run(self, stopping: asyncio.Event) -> None:
        """Until told to stop, do nothing; then hold nobody back any longer."""
        await stopping.wait()
        self._stopping = True
        for turn in self._waiting:
            if not turn.done():
                turn.set_result(None)


def give_up_at(seconds_left: float) -> float:
    """Return when to stop waiting so that the answer still arrives, by the event loop's clock."""
    return asyncio.get_running_loop().time() + seconds_left - min(ANSWER_SECONDS, seconds_left / 2)
