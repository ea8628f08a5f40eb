"""The contract between the projector and a service's projection."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from tokenomics_chassis.postgres import Connection
from tokenomics_chassis.records import Place, Record, SourceId

__all__ = [
    "Batch",
    "Connection",
    "Outcome",
    "Place",
    "Projection",
    "Rejected",
    "RejectedPlace",
    "Source",
    "by_topic",
]


@dataclass(frozen=True, slots=True)
class Source:
    """The topic-partition a batch comes from."""

    source_id: SourceId
    topic: str
    partition: int
    change_seq: int
    """Number to write on every row this transaction changes. It is larger than all earlier ones of this
    source, and becomes visible together with the rows: ``source_id = $1 AND change_seq > $2`` is an exact
    cursor for readers."""


@dataclass(frozen=True, slots=True)
class Batch:
    """Records of one partition in ascending offset order, at least one. Where a batch ends means nothing."""

    source: Source
    records: Sequence[Record]


class Rejected(NamedTuple):
    """A record that can't be applied; it will be parked with its bytes."""

    record: Record
    """Usually of the batch. A record of another partition is parked under its own coordinates."""
    code: str
    message: str
    """For an operator; must not contain content of the event that is secret."""


class RejectedPlace(NamedTuple):
    """A record that can't be applied (any more), by its place alone: any record of the log, of any partition.

    It is parked like a :class:`Rejected` one, in the transaction of the batch. The bytes are no concern of
    the projection: when they are neither in the batch nor read yet, the transaction is rolled back, the
    records of all such places are read from the log outside of it, and ``apply`` is called again with the
    same batch. It must then name the place again: what the last call names is parked.
    """

    place: Place
    code: str
    message: str
    """For an operator; must not contain content of the event that is secret."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What applying a batch came to."""

    rejected: Sequence[Rejected] = ()
    rejected_places: Sequence[RejectedPlace] = ()
    cleared: Sequence[Place] = ()
    """Records, of any partition, with which nothing is wrong any more, as far as they are parked. They need
    not be applied: the projection knows them. None of them is among the rejected ones."""
    changed: bool = True
    """Whether rows were written with the source's ``change_seq``."""

    def then(self, later: "Outcome") -> "Outcome":
        """Return what this batch and then a later one came to; where they disagree the later one is right."""
        cleared = set(later.cleared)
        rejected = {Place(*each.record[:3]) for each in later.rejected}
        rejected |= {each.place for each in later.rejected_places}
        return Outcome(
            [*(each for each in self.rejected if each.record[:3] not in cleared), *later.rejected],
            [*(each for each in self.rejected_places if each.place not in cleared), *later.rejected_places],
            [*(each for each in self.cleared if each not in rejected), *later.cleared],
            changed=self.changed or later.changed,
        )


class Projection(Protocol):
    """Folds records into derived state; the state depends on the records alone, not on their batching."""

    @property
    def name(self) -> str:
        """Name for logs and metrics."""
        ...

    @property
    def topics(self) -> frozenset[str]:
        """Topics it reads."""
        ...

    @property
    def ordered_topics(self) -> frozenset[str]:
        """Those of its topics where later records of a parked key queue behind it."""
        ...

    @property
    def understood_codes(self) -> frozenset[str]:
        """Codes of records that were read and understood, and can't be applied for what their producer did.

        Nothing queues behind them, since what they say is known and was judged; and any number of them in a
        row says nothing against the reader.
        """
        ...

    async def apply(self, connection: Connection, batch: Batch) -> Outcome:
        """Write the batch's effects inside the projector's open transaction.

        Must not commit, must do no other I/O, and must be repeatable: the transaction may be rolled back and
        the same records, or a part of them, be given again. Bad records belong into ``Outcome.rejected``, and
        what is found to be bad elsewhere in the log into ``Outcome.rejected_places``. An exception that is
        not a dependency's own trouble makes the projector search for the culprit by
        bisection and park it as ``internal_error``.
        """
        ...


def by_topic(*projections: Projection) -> Mapping[str, Projection]:
    """Return the projection that reads each topic.

    Raises
    ------
    ValueError
        Two read the same topic.
    """
    found: dict[str, Projection] = {}
    for projection in projections:
        if taken := found.keys() & projection.topics:
            raise ValueError(f"{projection.name} reads topics of another projection: {sorted(taken)}")
        found |= dict.fromkeys(projection.topics, projection)
    return found
