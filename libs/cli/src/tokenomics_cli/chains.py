"""Whether an audit trail is whole: nothing in it changed, taken out, put in or moved since it was written."""

from collections.abc import Mapping
from typing import Any, Final, Literal, NamedTuple

from tokenomics_contracts.audit import HASH_FIELD, NOTHING_BEFORE, AuditRecorded, entry_hash

FaultKind = Literal[
    "edited", "inserted", "deleted", "reordered", "truncated", "rewritten", "unreadable", "database"
]

_HASH_BYTES: Final = 32


class Fault(NamedTuple):
    """One thing that is wrong with a chain."""

    sequence: int
    """The link that it is about; 0: none that can be named."""
    kind: FaultKind
    place: str
    """Where it was seen: ``topic/partition/offset``, ``database`` or ``service``."""
    message: str


class Head(NamedTuple):
    """The newest entry as the service has it."""

    sequence: int
    hash: str
    relayed_sequence: int
    """So far the topic has the chain for sure."""


class _Anchor(NamedTuple):
    sequence: int
    hash: str
    place: str


class Chain:
    """A chain as it is read, record by record, in the order of its partition.

    A record that repeats an earlier one is nothing wrong: the service sends a stretch again after a fault. It
    keeps 32 bytes an entry.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.last = 0
        """Number of the newest entry seen."""
        self.anchors: list[_Anchor] = []
        self._hashes = bytearray()
        self._missing: dict[int, str] = {}
        """Number of what was passed over, and where that was noticed."""
        self._faults: list[Fault] = []

    def entry(self, data: Mapping[str, Any], place: str) -> None:
        """Take in an entry's data, as JSON reads it."""
        read = _entry(data)
        if read is None:
            self._fault(0, "unreadable", place, "is no entry: sequence or hash is missing")
            return
        sequence, previous, hash_ = read
        if entry_hash(data) != hash_:
            self._fault(sequence, "edited", place, f"entry {sequence} doesn't have the hash that it names")
        if sequence <= self.last and sequence not in self._missing:
            if hash_ != self.hash_of(sequence):
                self._fault(sequence, "inserted", place, f"another entry {sequence} stands before it")
            return
        if sequence in self._missing:
            del self._missing[sequence]
            self._fault(sequence, "reordered", place, f"entry {sequence} stands behind entry {self.last}")
        else:
            self._missing |= dict.fromkeys(range(self.last + 1, sequence), place)
            self._hashes.extend(bytes(_HASH_BYTES * (sequence - self.last)))
            self.last = sequence
        start = (sequence - 1) * _HASH_BYTES
        self._hashes[start : start + _HASH_BYTES] = bytes.fromhex(hash_)
        before = NOTHING_BEFORE if sequence == 1 else self.hash_of(sequence - 1)
        if before is not None and previous != before:
            broken = (
                f"entry {sequence} doesn't follow entry {sequence - 1}: one of them is not the one written"
            )
            self._fault(sequence, "inserted", place, broken)

    def anchor(self, data: Mapping[str, Any], place: str) -> None:
        """Take in an anchor's data; it is compared with the entries at the end."""
        sequence, hash_ = data.get("sequence"), data.get(HASH_FIELD)
        if isinstance(sequence, int) and isinstance(hash_, str):
            self.anchors.append(_Anchor(sequence, hash_, place))
        else:
            self._fault(0, "unreadable", place, "is no anchor: sequence or hash is missing")

    def unreadable(self, place: str, message: str) -> None:
        """Take in a record that should tell of the chain and can't be read."""
        self._fault(0, "unreadable", place, message)

    def expect(self, sequence: int, hash_: str, place: str) -> None:
        """Compare with a link that somebody else kept."""
        self.anchors.append(_Anchor(sequence, hash_, place))

    def head(self, before: Head, after: Head) -> None:
        """Compare with the service's head, as it was before the topic was read and after."""
        if self.last < before.relayed_sequence:
            message = f"the topic ends at entry {self.last}, but the service sent {before.relayed_sequence}"
            self._fault(self.last + 1, "truncated", "service", message)
        if 0 < before.sequence <= self.last and self.hash_of(before.sequence) not in {before.hash, None}:
            message = f"the service has another entry {before.sequence} than the topic"
            self._fault(before.sequence, "rewritten", "service", message)
        if after.sequence < self.last:
            message = f"the database ends at entry {after.sequence}, the topic at {self.last}"
            self._fault(after.sequence + 1, "truncated", "database", message)

    def in_database(self, entry: AuditRecorded, expected: int) -> None:
        """Compare an entry of the database's copy, which should have this number.

        What the topic doesn't have yet is only recomputed.
        """
        if entry.sequence != expected:
            message = f"the database lacks entries {expected} to {entry.sequence - 1}"
            self._fault(expected, "database", "database", message)
        data = entry.model_dump(mode="json", by_alias=True, exclude_none=True)
        sent = self.hash_of(entry.sequence)
        if entry_hash(data) != entry.hash or sent not in {entry.hash, None}:
            message = f"the database has entry {entry.sequence} otherwise than it was written"
            self._fault(entry.sequence, "database", "database", message)

    def database_ends(self, last: int, head: Head) -> None:
        """Compare the end of the database's copy with the head that the database named before."""
        if last < head.sequence:
            message = f"the database lacks entries {last + 1} to {head.sequence}"
            self._fault(last + 1, "database", "database", message)

    def hash_of(self, sequence: int) -> str | None:
        """Return the hash of an entry that was seen; ``None`` for another."""
        if not 0 < sequence <= self.last or sequence in self._missing:
            return None
        return self._hashes[(sequence - 1) * _HASH_BYTES : sequence * _HASH_BYTES].hex()

    def faults(self) -> list[Fault]:
        """Return all that is wrong, the first broken link first."""
        found = list(self._faults)
        found += [
            Fault(sequence, "deleted", place, f"entry {sequence} is not in the topic")
            for sequence, place in self._missing.items()
        ]
        for sequence, hash_, place in self.anchors:
            if sequence > self.last:
                message = f"entry {sequence} was there and is not in the topic, which ends at {self.last}"
                found.append(Fault(self.last + 1, "truncated", place, message))
            elif self.hash_of(sequence) not in {hash_, None}:
                message = f"entry {sequence} is not the one that was there: the chain was written anew"
                found.append(Fault(sequence, "rewritten", place, message))
        return sorted(found, key=lambda fault: fault.sequence or self.last + 1)

    def _fault(self, sequence: int, kind: FaultKind, place: str, message: str) -> None:
        self._faults.append(Fault(sequence, kind, place, message))


def _entry(data: Mapping[str, Any]) -> tuple[int, str, str] | None:
    sequence, previous, hash_ = data.get("sequence"), data.get("previous_hash"), data.get(HASH_FIELD)
    if not isinstance(sequence, int) or sequence < 1 or not isinstance(hash_, str):
        return None
    try:
        if len(bytes.fromhex(hash_)) != _HASH_BYTES:
            return None
    except ValueError:
        return None
    return sequence, str(previous), hash_
