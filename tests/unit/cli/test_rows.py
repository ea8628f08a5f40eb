"""Reading an input file loses no row and no byte of a bad one."""

import io
import threading
from collections.abc import Iterator
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenomics_cli.failures import CommandError
from tokenomics_cli.rows import READ_AHEAD_ROWS, Format, InputFile, Row, RowIdentities, as_they_arrive


def rows_of(content: bytes, format_: Format = Format.JSONL) -> list[Row]:
    return list(InputFile(io.BytesIO(content), format_).rows())


def test_each_bad_line_is_reported_by_number_with_its_reason_and_text() -> None:
    rows = rows_of(b'{"a": 1}\n\n[]\n{"a"\n"\xff"\n')
    assert [(row.line, row.problem) for row in rows] == [
        (1, None),
        (3, "is not a JSON object"),
        (4, "not JSON: Input data was truncated"),
        (5, "is not UTF-8"),
    ]
    assert rows[3].text.encode("utf-8", "surrogateescape") == b'"\xff"'


def test_a_csv_row_may_span_lines_and_a_broken_one_does_not_stop_its_neighbours() -> None:
    rows = rows_of(b'\xef\xbb\xbfa,b\r\n1,"x\r\ny"\r\n1\r\n2,"z"w\r\n3,\r\n', Format.CSV)
    assert [(row.line, row.fields, row.problem) for row in rows] == [
        (2, {"a": "1", "b": "x\r\ny"}, None),
        (4, {}, "has 1 columns, the header has 2"),
        (5, {}, "is not CSV: ',' expected after '\"'"),
        (6, {"a": "3"}, None),
    ]


def test_the_digest_covers_exactly_the_rows_given() -> None:
    whole = InputFile(io.BytesIO(b'{"a":1}\n{"a":2}\n'), Format.JSONL)
    next(whole.rows())
    first = InputFile(io.BytesIO(b'{"a":1}\n'), Format.JSONL)
    list(first.rows())
    assert (whole.bytes_read, whole.digest()) == (first.bytes_read, first.digest())


_rows = st.lists(
    st.dictionaries(st.sampled_from("abc"), st.integers(0, 2) | st.text(max_size=2)), min_size=1, max_size=8
)


@given(_rows, st.randoms())
def test_a_rows_id_survives_reordering_of_rows_and_of_fields(
    rows: list[dict[str, object]], random: Random
) -> None:
    def ids(sequence: list[dict[str, object]]) -> list[str]:
        identities = RowIdentities()
        return [identities.of(row) for row in sequence]

    shuffled = [dict(random.sample(list(row.items()), len(row))) for row in random.sample(rows, len(rows))]
    assert sorted(ids(rows)) == sorted(ids(shuffled))
    assert len(set(ids(rows))) == len(rows), "equal rows of one file are different events"


def test_what_stands_before_a_row_does_not_change_its_id() -> None:
    before, after = RowIdentities(), RowIdentities()
    after.of({"a": "new first row"})
    assert before.of({"a": 1}) == after.of({"a": 1})
    assert before.of({"a": 1}) != RowIdentities().of({"a": 1})


async def test_a_row_is_given_before_the_next_one_is_there() -> None:
    first, *others = rows_of(b'{"a": 1}\n{"a": 2}\n')
    more = threading.Event()

    def slowly() -> Iterator[Row]:
        yield first
        more.wait()
        yield from others

    arriving = as_they_arrive(slowly(), tick_seconds=0.01)
    assert await anext(arriving) == first
    assert await anext(arriving) is None
    more.set()
    assert [row async for row in arriving if row] == others


async def test_no_more_is_read_ahead_than_memory_is_meant_for() -> None:
    read = 0

    def endless() -> Iterator[Row]:
        nonlocal read
        while True:
            read += 1
            yield Row(read, "", {}, None)

    arriving = as_they_arrive(endless(), tick_seconds=60)
    for _ in range(3 * READ_AHEAD_ROWS):
        row = await anext(arriving)
        assert row is not None
        assert read <= row.line + READ_AHEAD_ROWS + 1


async def test_what_stops_the_reading_reaches_who_waits_for_rows() -> None:
    arriving = as_they_arrive(InputFile(io.BytesIO(b"a,a\n"), Format.CSV).rows(), tick_seconds=60)
    with pytest.raises(CommandError, match="header"):
        await anext(arriving)
