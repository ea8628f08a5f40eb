"""The audit trail, which every service writes on its own topic, each entry chained to the one before it."""

import json
from collections.abc import Mapping
from hashlib import sha256
from typing import Annotated, ClassVar, Final

from pydantic import Field, StringConstraints

from tokenomics_contracts.events.base import Event
from tokenomics_contracts.units import Caller, Identifier, SequenceNumber, Slug, UtcTime

Hash = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]

NOTHING_BEFORE: Final = "0" * 64
"""What the first entry names as the hash of the one before it."""

HASH_FIELD: Final = "hash"


class AuditRecorded(Event):
    """Somebody did something, or looked at somebody's data: codes and ids, never text."""

    type_name: ClassVar[str] = "tokenomics.audit.recorded.v1"
    key_field: ClassVar[str] = "chain"

    chain: Slug
    """Whose chain: the service's name."""

    sequence: SequenceNumber
    """From 1, without gaps."""

    previous_hash: Hash
    """`hash` of the entry before it."""

    at: UtcTime
    """By the database's clock; never before the entry before it."""

    actor: Caller
    """Subject id of the person, or the workload that did it for nobody, or `rule:<policy version>`."""

    caller: Caller
    """Workload through which it was done."""

    action: Slug
    """What was done, in the past tense, for example `parked.skipped`."""

    target: Caller
    """What it was done to: an account, a place in the log, a rebuild, a subject."""

    reason_code: Slug | None = None
    ticket_id: Identifier | None = None
    details: dict[Slug, Caller] = Field(default_factory=dict)
    """Codes, ids and numbers that the action needs to be understood."""

    once: Caller | None = None
    """Names what is recorded at most once, whoever notices it again."""

    hash: Hash
    """SHA-256 over this event's data; see `entry_hash`."""


class AuditAnchored(Event):
    """The head of a chain, said apart from its entries: by it a truncated chain is recognised."""

    type_name: ClassVar[str] = "tokenomics.audit.anchored.v1"

    chain: Slug
    sequence: SequenceNumber
    """Number of the newest entry."""

    hash: Hash
    """Its hash."""

    at: UtcTime
    """When it was the newest, by the database's clock."""

    @property
    def key(self) -> str:
        """A key of its own, so that what befalls the entries' partition need not befall it."""
        return f"{self.chain}.anchors"


def entry_hash(data: Mapping[str, object]) -> str:
    """Hash an entry's data, as JSON reads it: all fields but `hash`, known to this version or not.

    The bytes hashed are JSON in ASCII with sorted keys and no spaces, so that anybody can recompute them.
    """
    hashed = {field: value for field, value in data.items() if field != HASH_FIELD}
    return sha256(json.dumps(hashed, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
