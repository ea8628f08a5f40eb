"""Who an event is, and whether two records of it say the same."""

from datetime import datetime
from hashlib import blake2b
from typing import Final

import msgspec

from tokenomics_contracts.events.base import Event
from tokenomics_contracts.fast import UsageRecordedData

DIGEST_BYTES: Final = 16

_ENCODER: Final = msgspec.json.Encoder(order="deterministic")


def identity(source: str, id: str) -> bytes:  # noqa: A002 - CloudEvents' word
    """Hash the pair that makes an event unique, into 16 bytes. Both must have passed `cloudevents.decode`."""
    # Neither may hold a control character, so the separator keeps different pairs different.
    return blake2b(f"{source}\0{id}".encode(), digest_size=DIGEST_BYTES).digest()


def payload_digest(
    type_name: str, key: bytes | None, time: datetime, data: Event | UsageRecordedData
) -> bytes:
    """Hash what a record says, into 16 bytes: the same in binary and structured mode, however formatted.

    Data counts in its canonical form: keys sorted, defaults omitted. So a field that a later reader knows
    doesn't change the digest of an event without it.

    Parameters
    ----------
    type_name
        The envelope's type.
    key
        The record's key; no key differs from an empty one.
    time
        The envelope's time, in UTC.
    data
        The parsed data.
    """
    canonical = data if isinstance(data, UsageRecordedData) else _dump(data)
    # JSON holds no NUL and the key comes last, so different parts never make the same whole.
    said = _ENCODER.encode((type_name, time, canonical))
    return blake2b(said if key is None else said + b"\0" + key, digest_size=DIGEST_BYTES).digest()


def _dump(event: Event) -> dict[str, object]:
    return event.model_dump(mode="json", by_alias=True, exclude_defaults=True)
