"""The quota projection: usage, what governs it, and the own topic into facts and posted amounts."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TypeVar

from tokenomics_chassis.projection import Batch, Connection, Outcome, Rejected, RejectedPlace
from tokenomics_chassis.records import Place, Record
from tokenomics_contracts.cloudevents import EventRejected, RejectionCode
from tokenomics_quota.domain.effective import LogOrder
from tokenomics_quota.ports import Ledger
from tokenomics_quota.projections.facts import AssetReuse, LateUsage, Received
from tokenomics_quota.projections.governance import GoverningEvent
from tokenomics_quota.streams.decoding import (
    TOO_LATE,
    governing_event_from_record,
    own_event_from_record,
    usage_from_record,
)
from tokenomics_quota.streams.events import OWN_TOPIC
from tokenomics_quota.usecases.projecting import (
    GoverningApplied,
    KnownGovernance,
    UsageApplied,
    apply_governing,
    apply_provisional,
    apply_usage,
)

USAGE = "tokenomics.usage.v1"
DIRECTORY = "tokenomics.directory.v1"
POLICY = "tokenomics.policy.v1"
APPROVALS = "tokenomics.approvals.v1"
NOMINATIONS = "tokenomics.nominations.v1"

Read = TypeVar("Read")

_CONFLICT = "another event, lower in the log, holds this identity (source, id) with another payload or key"
_MISMATCH = "`replaces` is not the version in force before it"


class QuotaProjection:
    """Implements the chassis' ``Projection``."""

    name = "quota"
    topics = frozenset({USAGE, DIRECTORY, POLICY, APPROVALS, NOMINATIONS})
    # A policy is judged against the one before it, so none may overtake one of its kind that can't be read.
    ordered_topics = frozenset({POLICY})
    understood_codes = frozenset(
        {RejectionCode.TOO_LATE, RejectionCode.IDENTITY_CONFLICT, RejectionCode.POLICY_MISMATCH}
    )

    def __init__(self, ledger_on: Callable[[Connection], Ledger], known: KnownGovernance) -> None:
        self._ledger_on = ledger_on
        self._known = known

    async def apply(self, connection: Connection, batch: Batch) -> Outcome:
        """Apply one batch; see the chassis' ``Projection``."""
        topic = batch.source.topic
        if topic == USAGE:
            return await self._apply_usage(self._ledger_on(connection), batch)
        if topic not in self.topics:
            raise ValueError(f"{topic} is no topic of this projection")
        return await self._apply_governing(self._ledger_on(connection), batch)

    async def _apply_usage(self, ledger: Ledger, batch: Batch) -> Outcome:
        events: list[Received | LateUsage | AssetReuse]
        events, rejected = _read(batch.records, usage_from_record)
        if not events:
            return Outcome(rejected, changed=False)
        applied = await apply_usage(ledger, self._known, batch.source, events)
        places = [
            *_rejected(batch, applied.too_late, RejectionCode.TOO_LATE, TOO_LATE),
            *_conflicting(batch, applied),
        ]
        return Outcome(rejected, places, _cleared(batch, applied), changed=applied.changed)

    async def _apply_governing(self, ledger: Ledger, batch: Batch) -> Outcome:
        events, rejected = _read(batch.records, governing_event_from_record)
        if not events:
            return Outcome(rejected, changed=False)
        applied = await apply_governing(ledger, self._known, batch.source, events)
        places = [
            *_rejected(batch, applied.mismatches, RejectionCode.POLICY_MISMATCH, _MISMATCH),
            *_conflicting(batch, applied),
        ]
        return Outcome(rejected, places, _cleared(batch, applied), changed=applied.changed)


class OwnEvents:
    """Projects what quota itself said, as far as state derives from it: the chassis' ``Projection``."""

    name = "own events"
    topics = frozenset({OWN_TOPIC})
    ordered_topics: frozenset[str] = frozenset()
    understood_codes = frozenset({RejectionCode.TOO_LATE, RejectionCode.IDENTITY_CONFLICT})

    def __init__(self, ledger_on: Callable[[Connection], Ledger], known: KnownGovernance) -> None:
        self._ledger_on = ledger_on
        self._known = known

    async def apply(self, connection: Connection, batch: Batch) -> Outcome:
        """Apply one batch; see the chassis' ``Projection``."""
        events: list[Received | GoverningEvent]
        events, rejected = _read(batch.records, own_event_from_record)
        ledger, changed = self._ledger_on(connection), False
        places, cleared = list[RejectedPlace](), list[Place]()
        applied: GoverningApplied | UsageApplied
        if governing := [each for each in events if isinstance(each, GoverningEvent)]:
            applied = await apply_governing(ledger, self._known, batch.source, governing)
            places += _conflicting(batch, applied)
            cleared += _cleared(batch, applied)
            changed = applied.changed
        if provisional := [each for each in events if isinstance(each, Received)]:
            applied = await apply_provisional(ledger, self._known, batch.source, provisional)
            places += _conflicting(batch, applied)
            cleared += _cleared(batch, applied)
            changed = changed or applied.changed
        return Outcome(rejected, places, cleared, changed=changed)


def _read(
    records: Sequence[Record], read: Callable[[Record], Read | None]
) -> tuple[list[Read], list[Rejected]]:
    """Read records; leave out what quota passes by, and reject what can't be read."""
    found: list[Read] = []
    rejected: list[Rejected] = []
    for record in records:
        try:
            value = read(record)
        except EventRejected as rejection:
            rejected.append(Rejected(record, rejection.code, rejection.message))
        else:
            if value is not None:
                found.append(value)
    return found, rejected


def _conflicting(batch: Batch, applied: GoverningApplied | UsageApplied) -> Iterator[RejectedPlace]:
    return _rejected(batch, applied.rivals.conflicts, RejectionCode.IDENTITY_CONFLICT, _CONFLICT)


def _cleared(batch: Batch, applied: GoverningApplied | UsageApplied) -> list[Place]:
    return [_place(batch, order) for order in applied.rivals.cleared]


def _rejected(
    batch: Batch, orders: Iterable[LogOrder], code: RejectionCode, message: str
) -> Iterator[RejectedPlace]:
    return (RejectedPlace(_place(batch, order), code, message) for order in orders)


def _place(batch: Batch, order: LogOrder) -> Place:
    return Place(batch.source.topic, order.partition, order.offset)
