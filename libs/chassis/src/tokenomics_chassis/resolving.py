"""Gives projections the bytes of records that aren't in their batch, without I/O in their transactions."""

from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import replace
from typing import TypeVar

from tokenomics_chassis.log_reader import ReadRecords
from tokenomics_chassis.postgres import Connection, Pool, in_transaction
from tokenomics_chassis.process import FatalError
from tokenomics_chassis.projection import Batch, Outcome, Projection, Rejected
from tokenomics_chassis.records import Place, Record

T = TypeVar("T")

ROUNDS = 8
"""How often places may be asked for that were not asked for before, as other processes' commits change what
there is to ask for."""


async def no_log(_places: Collection[Place]) -> Sequence[Record]:
    """Read nothing: for projections that name no ``rejected_places`` outside their batch."""
    return ()


Resolve = Callable[[Projection], Projection]
"""Lends a projection that answers every rejected place as a rejected record."""


async def in_transaction_with_log(
    pool: Pool, read_records: ReadRecords, work: Callable[[Connection, Resolve], Awaitable[T]]
) -> T:
    """Run ``work`` in a transaction, as :func:`in_transaction` does, with the log at its projections' hand.

    It works with what it has resolved. When the bytes of a rejected place are not at hand, ``work`` is rolled
    back at its end, its places are read while no transaction is open, and it runs again.

    Raises
    ------
    FatalError
        The log doesn't hold a place, or new places were asked for without end.
    KafkaError, TimeoutError
        The broker is away; nothing was written.
    """
    at_hand: dict[Place, Record] = {}
    wanted: dict[Place, str] = {}

    def resolve(projection: Projection) -> Projection:
        return _Resolving(projection, at_hand, wanted)

    async def resolved(connection: Connection) -> T:
        wanted.clear()
        result = await work(connection, resolve)
        if wanted:
            raise _RecordsWantedError
        return result

    for _ in range(ROUNDS):
        try:
            return await in_transaction(pool, resolved)
        except _RecordsWantedError:
            at_hand |= {Place(*record[:3]): record for record in await read_records(wanted)}
            if lost := sorted(wanted.keys() - at_hand.keys()):
                raise FatalError(f"{wanted[lost[0]]} parks {lost[0]}, which the log doesn't hold") from None
    names = ", ".join(sorted(set(wanted.values())))
    raise FatalError(f"{names} asked for further records of the log in each of {ROUNDS} attempts")


class _RecordsWantedError(Exception):
    """Rolls a transaction back whose outcome is not complete."""


class _Resolving:
    """A projection that notes the places of which no record is at hand, and leaves them out."""

    def __init__(
        self, projection: Projection, at_hand: Mapping[Place, Record], wanted: dict[Place, str]
    ) -> None:
        self._projection = projection
        self._at_hand = at_hand
        self._wanted = wanted
        self.name = projection.name
        self.topics = projection.topics
        self.ordered_topics = projection.ordered_topics
        self.understood_codes = projection.understood_codes

    async def apply(self, connection: Connection, batch: Batch) -> Outcome:
        outcome = await self._projection.apply(connection, batch)
        if not outcome.rejected_places:
            return outcome
        at_hand = {**self._at_hand, **{Place(*record[:3]): record for record in batch.records}}
        rejected = list(outcome.rejected)
        for place, code, message in outcome.rejected_places:
            if place in at_hand:
                rejected.append(Rejected(at_hand[place], code, message))
            else:
                self._wanted[place] = self.name
        return replace(outcome, rejected=rejected, rejected_places=())
