"""Intervening: accounts are frozen and closed, and scopes let pass, in the ledger's line of transactions."""

from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from datetime import datetime
from typing import Final, TypeVar

from tokenomics_chassis.rpc.errors import (
    AlreadyExistsError,
    FailedPreconditionError,
    InvalidRequestError,
    NotFoundError,
)
from tokenomics_contracts.units import AccountId
from tokenomics_quota.domain.accounts import AccountKind
from tokenomics_quota.domain.holds import AccountState
from tokenomics_quota.domain.interventions import (
    LONGEST_BYPASS,
    STATE_AFTER,
    Bypass,
    Decided,
    Intervention,
    What,
)
from tokenomics_quota.ports import InterventionLedger, Turn
from tokenomics_quota.usecases.holding import require_open

T = TypeVar("T")

EXPIRE_GROUP: Final = 100


class AccountClosedError(FailedPreconditionError):
    """The account was closed for good."""

    reason = "ACCOUNT_CLOSED"


class LiveHoldsError(FailedPreconditionError):
    """Holds are live on the account: it can be closed once they have ended."""

    reason = "LIVE_HOLDS"


class NoSuchBypassError(NotFoundError):
    """No bypass has this id."""

    reason = "NO_SUCH_BYPASS"


class Intervening:
    """Does what operators, owners and governance ask for; who may ask is judged before.

    Each is one transaction of the ledger's line: what was placed before is there, what comes after is refused
    at once, by whatever server. In the same transaction it is told as an event, and recorded for audit.

    Parameters
    ----------
    ledger
        Opens a transaction and gives its ledger; leaving it commits.
    """

    def __init__(self, ledger: Callable[[], AbstractAsyncContextManager[InterventionLedger]]) -> None:
        self._ledger = ledger

    async def freeze(self, account_id: AccountId, decided: Decided) -> int:
        """Stop new holds on an account, and return from which change of the ledger on; a repeat does nothing.

        Raises
        ------
        AccountClosedError
            It was closed.
        """
        return await self._in_turn(lambda each, turn: _move(each, turn, account_id, What.FROZEN, decided))

    async def unfreeze(self, account_id: AccountId, decided: Decided) -> int:
        """Let a frozen account take holds again; see :meth:`freeze`."""
        return await self._in_turn(lambda each, turn: _move(each, turn, account_id, What.UNFROZEN, decided))

    async def close(self, account_id: AccountId, decided: Decided) -> int:
        """End an account for good; see :meth:`freeze`.

        Raises
        ------
        LiveHoldsError
            Holds are live on it.
        """
        return await self._in_turn(lambda each, turn: _move(each, turn, account_id, What.CLOSED, decided))

    async def start_bypass(
        self, bypass_id: str, kind: AccountKind, owner_id: str, until: datetime, decided: Decided
    ) -> int:
        """Let a scope pass from now on, and return from which change of the ledger on; a repeat does nothing.

        Raises
        ------
        AlreadyExistsError
            Another one has this id.
        InvalidRequestError
            It would end before the ledger's now, or too long after.
        """

        async def start(ledger: InterventionLedger, turn: Turn) -> int:
            asked = Bypass(
                bypass_id,
                kind,
                owner_id,
                turn.now,
                until,
                decided.reason_code,
                decided.ticket_id,
                decided.decided_by,
            )
            known = await ledger.bypass(bypass_id)
            if known is not None:
                if differing := known.differs_from(asked):
                    raise AlreadyExistsError("another bypass has this id", differing)
                return turn.first_change_seq
            if not turn.now < until <= turn.now + LONGEST_BYPASS:
                hours = LONGEST_BYPASS.total_seconds() // 3600
                raise InvalidRequestError({"until": f"must be later than now, by {hours:.0f} hours at most"})
            await ledger.put_bypass(asked, turn.first_change_seq)
            await _tell(ledger, turn, What.BYPASS_STARTED, decided, bypass=asked)
            return turn.first_change_seq

        return await self._in_turn(start)

    async def end_bypass(self, bypass_id: str, decided: Decided) -> int:
        """End a bypass before its time; one that has ended stays as it is.

        Raises
        ------
        NoSuchBypassError
            There is none.
        """

        async def end(ledger: InterventionLedger, turn: Turn) -> int:
            known = await ledger.bypass(bypass_id)
            if known is None:
                raise NoSuchBypassError("no such bypass")
            if known.ends_at > turn.now:
                ended = known._replace(ended_at=turn.now)
                await ledger.put_bypass(ended, turn.first_change_seq)
                await _tell(ledger, turn, What.BYPASS_ENDED, decided, bypass=ended)
            return turn.first_change_seq

        return await self._in_turn(end)

    async def _in_turn(self, work: Callable[[InterventionLedger, Turn], Awaitable[T]]) -> T:
        async with self._ledger() as ledger:
            turn = await ledger.begin(1)
            require_open(turn)
            return await work(ledger, turn)


async def expire_bypasses(ledger: InterventionLedger) -> int:
    """Write down in an open transaction which bypasses have ended by their time; return how many.

    Nobody waits for it: they ended at their instant.
    """
    due = len(await ledger.past_bypasses(EXPIRE_GROUP))
    if not due:
        return 0
    turn = await ledger.begin(due)
    past = await ledger.past_bypasses(due)  # some may have been ended by whom the turn waited for
    for number, bypass in enumerate(past):
        at = turn.moment(number)
        ended = bypass._replace(ended_at=bypass.until)
        await ledger.put_bypass(ended, at.change_seq)
        await ledger.tell(Intervention(What.BYPASS_EXPIRED, at.change_seq, at.now, None, bypass=ended))
    return len(past)


async def intervene_again(ledger: InterventionLedger, done: Sequence[Intervention]) -> None:
    """Do in an open transaction what the ledger did and has lost, in the order of its numbers."""
    for each in done:
        if each.account_id is not None:
            await ledger.set_state(each.account_id, STATE_AFTER[each.what], each.change_seq)
        elif each.bypass is not None:
            await ledger.put_bypass(each.bypass, each.change_seq)


async def _move(
    ledger: InterventionLedger, turn: Turn, account_id: AccountId, what: What, decided: Decided
) -> int:
    account = await ledger.account(account_id)
    before, after = account.state, STATE_AFTER[what]
    if before is after:
        return turn.first_change_seq
    if before is AccountState.CLOSED:
        raise AccountClosedError(f"{account_id} was closed for good")
    if after is AccountState.CLOSED and account.live_micro_usd > 0:
        raise LiveHoldsError(f"{account.live_micro_usd} micro-USD are held on {account_id}")
    await ledger.set_state(account_id, after, turn.first_change_seq)
    await _tell(ledger, turn, what, decided, account_id=account_id)
    return turn.first_change_seq


async def _tell(
    ledger: InterventionLedger,
    turn: Turn,
    what: What,
    decided: Decided,
    *,
    account_id: AccountId | None = None,
    bypass: Bypass | None = None,
) -> None:
    done = Intervention(what, turn.first_change_seq, turn.now, decided, account_id, bypass)
    await ledger.tell(done)
    await ledger.record(done)
