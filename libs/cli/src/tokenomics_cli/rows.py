"""Rows of a CSV or JSON-lines file, each with its place, its raw text, and what is wrong with it."""

import asyncio
import csv
import hashlib
import threading
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from enum import StrEnum
from typing import IO, Any, NamedTuple

import msgspec

from tokenomics_cli.failures import CommandError, Exit
from tokenomics_contracts.json_data import load_json
from tokenomics_contracts.rejection import EventRejected

READ_AHEAD_ROWS = 1_000

_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


class Format(StrEnum):
    """How rows are written."""

    JSONL = "jsonl"
    CSV = "csv"


class Row(NamedTuple):
    """One row of the input."""

    line: int
    """Its first line, counted from 1."""
    text: str
    """As it stands in the file, without the line's end; bytes that aren't UTF-8 are surrogate-escaped."""
    fields: dict[str, Any]
    """Empty when there is a problem."""
    problem: str | None


class InputFile:
    """A file that is read row by row.

    Parameters
    ----------
    stream
        Binary; read once, front to back.
    """

    def __init__(self, stream: IO[bytes], format_: Format) -> None:
        self._stream = stream
        self._format = format_
        self._line = 0
        self._texts: list[str] = []
        self._digest = hashlib.blake2b(digest_size=16)
        self.bytes_read = 0

    def digest(self) -> str:
        """Return the digest of all bytes read so far: those of the rows up to the last one given."""
        return self._digest.hexdigest()

    def rows(self) -> Iterator[Row]:
        """Yield each row that isn't blank.

        Raises
        ------
        CommandError
            When a CSV file has no usable header: no row could be read then.
        """
        return self._csv_rows() if self._format is Format.CSV else self._json_rows()

    def _lines(self) -> Iterator[str]:
        for raw in self._stream:
            if not self.bytes_read and raw.startswith(_BYTE_ORDER_MARK):
                content = raw[len(_BYTE_ORDER_MARK) :]
            else:
                content = raw
            self._line += 1
            self.bytes_read += len(raw)
            self._digest.update(raw)
            line = content.decode("utf-8", "surrogateescape")
            self._texts.append(line)
            yield line

    def _row(self, read: "_Read") -> Row:
        """Give what was read the place and the text of the lines it came from."""
        text = "".join(self._texts).rstrip("\r\n")
        line = self._line - len(self._texts) + 1
        self._texts.clear()
        fields, problem = read if _is_utf8(text) else ({}, "is not UTF-8")
        return Row(line, text, fields, problem)

    def _json_rows(self) -> Iterator[Row]:
        for line in self._lines():
            if line.strip():
                yield self._row(_read_object(line))
            self._texts.clear()

    def _csv_rows(self) -> Iterator[Row]:
        reader = csv.reader(self._lines(), strict=True)
        try:
            header = [name.strip() for name in next(reader, [])]
        except csv.Error as error:
            raise CommandError(f"line 1: the CSV header can't be read: {error}", Exit.BAD_DATA) from None
        if not header or "" in header or len(set(header)) < len(header):
            raise CommandError(
                "line 1: a CSV header with a name for each column, each once, is needed", Exit.BAD_DATA
            )
        self._texts.clear()
        while True:
            try:
                cells = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                yield self._row(({}, f"is not CSV: {error}"))
            else:
                if cells:
                    yield self._row(_read_cells(header, cells))
                self._texts.clear()


async def as_they_arrive(rows: Iterator[Row], tick_seconds: float) -> AsyncIterator[Row | None]:
    """Yield rows from a source that may let wait, and None whenever so much time has passed.

    A thread reads, so that the wait is in nobody's way. It is never waited for: it ends with the process.
    """
    loop = asyncio.get_running_loop()
    arrived = asyncio.Queue[Row | Exception | None]()
    room = threading.Semaphore(READ_AHEAD_ROWS)

    def hand_over(item: Row | Exception | None) -> None:
        with suppress(RuntimeError):  # the loop is closed: nobody wants it any more
            loop.call_soon_threadsafe(arrived.put_nowait, item)

    def read() -> None:
        end = None
        try:
            for row in rows:
                room.acquire()
                hand_over(row)
        except Exception as error:  # noqa: BLE001 - raised again where rows are awaited
            end = error
        hand_over(end)

    threading.Thread(target=read, name="reader", daemon=True).start()
    tick_at = loop.time() + tick_seconds
    while True:
        try:
            async with asyncio.timeout_at(tick_at):
                item = await arrived.get()
        except TimeoutError:
            yield None
            tick_at = loop.time() + tick_seconds
            continue
        if item is None:
            return
        if isinstance(item, Exception):
            raise item
        room.release()
        yield item


_Read = tuple[dict[str, Any], str | None]
"""Fields, or what is wrong."""


def _is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _read_object(line: str) -> _Read:
    try:
        value = load_json(line.encode("utf-8", "surrogateescape"))
    except EventRejected as error:
        return {}, error.message
    return (value, None) if isinstance(value, dict) else ({}, "is not a JSON object")


def _read_cells(header: list[str], cells: list[str]) -> _Read:
    if len(cells) != len(header):
        return {}, f"has {len(cells)} columns, the header has {len(header)}"
    return {name: cell for name, cell in zip(header, cells, strict=True) if cell}, None


class RowIdentities:
    """Ids for rows that bring none: equal for equal content, so that a file sent again counts once.

    The id is the digest of the row's content, whatever the order and spacing of its fields; a second
    row with the same content in one file gets a second id. So rows may be added, removed or moved between two
    sendings. It holds 16 bytes and a counter for each row seen.
    """

    def __init__(self) -> None:
        self._seen: Counter[bytes] = Counter()

    def of(self, fields: dict[str, Any]) -> str:
        """Return the id of the next row."""
        content = msgspec.json.encode(fields, order="deterministic")
        digest = hashlib.blake2b(content, digest_size=16).digest()
        occurrence = self._seen[digest]
        self._seen[digest] += 1
        return f"{digest.hex()}-{occurrence}" if occurrence else digest.hex()
