"""Makes aiokafka read records whose header names aren't UTF-8.

The protocol calls a header's name a string, brokers don't check it, and aiokafka 0.14 raises on such a record
again and again, so that its partition stands still. Here a batch with one is read a second time by aiokafka's
Python decoder, with the odd bytes as surrogate escapes: the record can be parked, its bytes intact.
"""

import struct
from collections.abc import Iterator
from typing import Any, SupportsIndex

from aiokafka.consumer import fetcher
from aiokafka.record.default_records import _DefaultRecordBatchPy
from aiokafka.record.memory_records import MemoryRecords

_LENGTH_OFFSET = 8
_BATCH_OVERHEAD = 12


class _LenientBytes(bytearray):
    """A buffer, each slice of which decodes whatever it holds."""

    def __getitem__(self, index: SupportsIndex | slice) -> Any:
        part = super().__getitem__(index)
        return _LenientBytes(part) if isinstance(part, bytearray) else part

    def decode(self, encoding: str = "utf-8", errors: str = "surrogateescape") -> str:
        return super().decode(encoding, errors)


class _LenientBatch(_DefaultRecordBatchPy):  # type: ignore[misc] # untyped, and final to type checkers alone
    _buffer: bytearray

    def _maybe_uncompress(self) -> None:
        super()._maybe_uncompress()
        self._buffer = _LenientBytes(self._buffer)


class _Batch:
    """A batch as aiokafka's fetcher uses it."""

    def __init__(self, fast: Any, data: memoryview) -> None:
        self._fast = fast
        self._data = data

    def __getattr__(self, name: str) -> Any:
        return getattr(self._fast, name)

    def __next__(self) -> Any:
        return next(self._fast)

    def __iter__(self) -> Iterator[Any]:
        try:
            return iter(list(self._fast))
        except UnicodeDecodeError:
            return iter(_LenientBatch(self._data))


class _Records:
    """The batches of one fetched partition, in place of aiokafka's ``MemoryRecords``."""

    def __init__(self, data: bytes) -> None:
        self._fast = MemoryRecords(data)
        self._data = memoryview(data)
        self._begin = 0
        self.has_next = self._fast.has_next
        self.size_in_bytes = self._fast.size_in_bytes

    def next_batch(self) -> _Batch:
        (length,) = struct.unpack_from(">i", self._data, self._begin + _LENGTH_OFFSET)
        begin, self._begin = self._begin, self._begin + _BATCH_OVERHEAD + length
        return _Batch(self._fast.next_batch(), self._data[begin : self._begin])


def read_leniently() -> None:
    """Install it for all consumers of the process; once is enough, again does no harm."""
    fetcher.MemoryRecords = _Records
