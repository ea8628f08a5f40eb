"""From the own topic back to what the hold ledger did."""

from typing import Final

import msgspec

from tokenomics_chassis.records import Record
from tokenomics_contracts.cloudevents import decode
from tokenomics_contracts.events import quota as events
from tokenomics_contracts.registry import EVENT_MODELS
from tokenomics_contracts.rejection import EventRejected, RejectionCode
from tokenomics_quota.ports import ToldChange

_MODELS: Final = (events.HoldEvent, events.AccountEvent, events.BypassEvent)
_TYPES: Final = frozenset(model.type_name for model in EVENT_MODELS if issubclass(model, _MODELS))


class _Numbered(msgspec.Struct):
    change_seq: int


_NUMBER: Final = msgspec.json.Decoder(_Numbered)


def told_change_from_record(record: Record) -> ToldChange | None:
    """Read from the own topic what the hold ledger did; ``None`` for every other event there.

    Only its number is read: nearly always the ledger knows the change, and is asked by that.

    Raises
    ------
    EventRejected
        The record can't be read.
    """
    envelope = decode(record.headers, record.value)
    if envelope.type not in _TYPES:
        return None
    try:
        change_seq = _NUMBER.decode(envelope.data).change_seq
    except msgspec.MsgspecError as error:
        raise EventRejected(RejectionCode.INVALID_DATA, f"change_seq: {error}") from None
    return ToldChange(change_seq, envelope.id, envelope.time, envelope.type, envelope.data)
