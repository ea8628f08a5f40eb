"""Which source a record counts for, and how late its events come."""

import json
from collections import Counter
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenomics_chassis.event_sources import count, delay_bin, delay_of_bin, median_bin
from tokenomics_chassis.records import Record

AT = datetime(2026, 11, 20, 12, tzinfo=UTC)
AT_MS = int(AT.timestamp() * 1000)
HOUR = AT_MS // 3_600_000
Headers = tuple[tuple[str, bytes | None], ...]


def headers(source: bytes | None = b"urn:a", time: bytes | None = b"2026-11-20T12:00:00Z") -> Headers:
    return (
        ("ce_specversion", b"1.0"),
        ("ce_id", b"1"),
        ("ce_source", source),
        ("ce_type", b"t"),
        ("ce_time", time),
    )


def record(carried: Headers, value: bytes | None = b"{}", append_ms: int = AT_MS + 8) -> Record:
    return Record("topic", 0, 0, append_ms, None, value, carried)


def structured(**fields: str) -> Record:
    event = {"specversion": "1.0", "id": "1", "source": "urn:s", "type": "t", "time": "2026-11-20T12:00:00Z"}
    value = json.dumps(event | fields | {"data": {}}).encode()
    return record((("content-type", b"application/cloudevents+json"),), value)


def counted(one: Record) -> list[tuple[str, int]]:
    """Return source and bin."""
    _, counts = count([one])
    return [(source, which) for source, _, which in counts]


EIGHT_MS = delay_bin(8)


@pytest.mark.parametrize(
    ("read", "expected"),
    [
        (record(headers()), [("urn:a", EIGHT_MS)]),
        (record(tuple(reversed(headers()))), [("urn:a", EIGHT_MS)]),
        (record((("other", b"\xff"), *headers())), [("urn:a", EIGHT_MS)]),
        (structured(), [("urn:s", EIGHT_MS)]),
        (record(headers(time=b"2026-11-20T13:00:00+01:00")), [("urn:a", EIGHT_MS)]),
        (record(headers(time=b"2026-11-20T12:00:01Z")), [("urn:a", 0)]),
        (record(headers(time=b"2026-11-20T12:00:00")), [("urn:a", -1)]),
        (record(headers(time=b"yesterday")), [("urn:a", -1)]),
        (record(headers(time=b"\xff")), [("urn:a", -1)]),
        (record(headers(time=None)), [("urn:a", -1)]),
        (record(headers()[:3]), [("urn:a", -1)]),
        (record(headers("urn:ü".encode())), [("urn:ü", EIGHT_MS)]),
        (record(headers(b"")), []),
        (record(headers(b"a\0b")), []),
        (record(headers(b"\xff")), []),
        (record(headers(None)), []),
        (record(headers(b"x" * 257)), []),
        (record(()), []),
        (record((), None), []),
        (structured(time="yesterday"), []),
        (record((("content-type", b"application/cloudevents+json"),), b"{"), []),
    ],
)
def test_a_record_counts_for_the_source_that_its_envelope_names(
    read: Record, expected: list[tuple[str, int]]
) -> None:
    assert counted(read) == expected


def test_the_newest_of_each_source_is_told_in_the_order_in_which_sources_came() -> None:
    read = [
        record(headers(source), append_ms=AT_MS + late)
        for source, late in ((b"b", 5), (b"a", 9), (b"b", 2), (b"a", 7))
    ]
    newest, counts = count(read)
    assert list(newest.items()) == [("b", AT_MS + 5), ("a", AT_MS + 9)]
    assert counts.total() == 4
    assert {hour for _, hour, _ in counts} == {HOUR}


@given(st.integers(1, 10**11))
def test_a_bin_tells_a_delay_to_a_fifth(delay_ms: int) -> None:
    told = delay_of_bin(delay_bin(delay_ms)) / timedelta(milliseconds=1)
    assert abs(told - delay_ms) <= max(1, 0.2 * delay_ms)


@given(st.lists(st.integers(-5, 10**6), min_size=1), st.integers(0, 5))
def test_the_median_is_in_the_bin_of_the_middle_delay(delays: list[int], unknown: int) -> None:
    bins = Counter(map(delay_bin, delays))
    bins[-1] = unknown
    middle = sorted(delays)[(len(delays) - 1) // 2]
    assert median_bin(bins) == delay_bin(middle)


def test_events_without_a_known_delay_have_no_median() -> None:
    assert median_bin({}) is None
    assert median_bin({-1: 3}) is None
