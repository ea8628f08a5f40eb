"""A chain that somebody changed, cut, moved or wrote anew is told from one that is whole."""

import copy
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenomics_cli.chains import Chain, Head
from tokenomics_contracts.audit import NOTHING_BEFORE, AuditRecorded, entry_hash

Data = dict[str, Any]
AT = datetime(2026, 11, 20, tzinfo=UTC)


def chained(targets: Iterable[str], *, first: int = 1, previous: str = NOTHING_BEFORE) -> list[Data]:
    chain: list[Data] = []
    for sequence, target in enumerate(targets, start=first):
        entry = AuditRecorded(
            chain="quota",
            sequence=sequence,
            previous_hash=previous,
            at=AT,
            actor="p-1",
            caller="console",
            action="parked.skipped",
            target=target,
            hash=NOTHING_BEFORE,
        )
        data = entry.model_dump(mode="json", exclude_none=True)
        data["hash"] = previous = entry_hash(data)
        chain.append(data)
    return chain


CHAIN = chained(f"t-{number}" for number in range(1, 11))


def read(chain: Iterable[Data], *anchors: tuple[int, str]) -> Chain:
    reading = Chain("quota")
    for offset, data in enumerate(chain):
        reading.entry(data, f"topic/0/{offset}")
    for sequence, hash_ in anchors:
        reading.anchor({"sequence": sequence, "hash": hash_}, "topic/1/0")
    return reading


def found(chain: Chain) -> list[tuple[int, str]]:
    return [(fault.sequence, fault.kind) for fault in chain.faults()]


def test_a_whole_chain_has_no_fault() -> None:
    chain = read(CHAIN, (4, CHAIN[3]["hash"]), (10, CHAIN[9]["hash"]))
    head = Head(10, CHAIN[9]["hash"], 10)
    chain.head(head, head)
    assert chain.faults() == []
    assert (chain.last, chain.hash_of(10)) == (10, CHAIN[9]["hash"])


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(1, 9)), max_size=5))
def test_a_stretch_that_was_sent_again_is_no_fault(again: list[tuple[int, int]]) -> None:
    sent = list(CHAIN)
    for place, length in again:
        # What is sent again begins at an entry that was sent, and goes on with those behind it.
        sent[place:place] = sent[max(0, place - length) : place]
    assert read(sent).faults() == []


def edited(chain: list[Data]) -> None:
    chain[4]["actor"] = "p-2"


def edited_with_its_hash(chain: list[Data]) -> None:
    chain[4]["actor"] = "p-2"
    chain[4]["hash"] = entry_hash(chain[4])


def edited_by_a_field_of_a_newer_writer(chain: list[Data]) -> None:
    chain[4]["newer_field"] = 1


def deleted(chain: list[Data]) -> None:
    del chain[4]


def deleted_at_the_start(chain: list[Data]) -> None:
    del chain[0]


def inserted(chain: list[Data]) -> None:
    chain.insert(5, chained(["made-up"], first=5, previous=CHAIN[3]["hash"])[0])


def reordered(chain: list[Data]) -> None:
    chain[4], chain[5] = chain[5], chain[4]


def renumbered(chain: list[Data]) -> None:
    del chain[4]
    chain[4:] = chained((each["target"] for each in chain[4:]), first=5, previous=chain[3]["hash"])


def garbled(chain: list[Data]) -> None:
    chain[4]["hash"] = "none"


@pytest.mark.parametrize(
    ("tamper", "first"),
    [
        (edited, (5, "edited")),
        (edited_with_its_hash, (6, "inserted")),
        (edited_by_a_field_of_a_newer_writer, (5, "edited")),
        (deleted, (5, "deleted")),
        (deleted_at_the_start, (1, "deleted")),
        (inserted, (5, "inserted")),
        (reordered, (5, "reordered")),
        (garbled, (5, "deleted")),
    ],
)
def test_the_first_broken_link_is_named(tamper: Callable[[list[Data]], None], first: tuple[int, str]) -> None:
    tampered = copy.deepcopy(CHAIN)
    tamper(tampered)
    assert found(read(tampered))[0] == first


@given(st.integers(0, 9), st.sampled_from(["actor", "target", "previous_hash", "sequence", "hash", "at"]))
def test_no_field_of_any_entry_can_be_changed_unseen(place: int, name: str) -> None:
    tampered = copy.deepcopy(CHAIN)
    value = tampered[place][name]
    other = f"{value}"[:-1] + ("1" if f"{value}"[-1] == "0" else "0")
    tampered[place][name] = int(other) if isinstance(value, int) else other
    assert read(tampered).faults()


def test_a_tail_written_anew_is_told_by_an_anchor_or_a_link_that_was_kept() -> None:
    anew = copy.deepcopy(CHAIN)
    renumbered(anew)
    assert found(read(anew)) == []
    assert found(read(anew, (7, CHAIN[6]["hash"]))) == [(7, "rewritten")]
    chain = read(anew)
    chain.expect(9, CHAIN[8]["hash"], "--expect")
    assert found(chain) == [(9, "rewritten")]
    chain = read(anew)
    head = Head(9, CHAIN[8]["hash"], 9)
    chain.head(head, head)
    assert found(chain) == [(9, "rewritten")]


def test_a_topic_cut_off_is_told_by_an_anchor_or_by_the_service() -> None:
    assert found(read(CHAIN[:6])) == []
    assert found(read(CHAIN[:6], (8, CHAIN[7]["hash"]))) == [(7, "truncated")]
    chain = read(CHAIN[:6])
    chain.head(Head(10, CHAIN[9]["hash"], 8), Head(10, CHAIN[9]["hash"], 10))
    assert found(chain) == [(7, "truncated")]


def test_what_is_on_its_way_to_the_topic_is_not_missed() -> None:
    chain = read(CHAIN[:6])
    chain.head(Head(10, CHAIN[9]["hash"], 6), Head(10, CHAIN[9]["hash"], 6))
    assert found(chain) == []


def test_a_database_cut_off_is_told_by_the_topic() -> None:
    chain = read(CHAIN)
    chain.head(Head(6, CHAIN[5]["hash"], 6), Head(6, CHAIN[5]["hash"], 6))
    assert found(chain) == [(7, "truncated")]


def test_a_database_that_has_other_entries_or_lacks_some_is_told() -> None:
    entries = [AuditRecorded.model_validate(data) for data in CHAIN]
    chain = read(CHAIN)
    chain.in_database(entries[0], 1)
    chain.in_database(entries[1].model_copy(update={"actor": "p-2"}), 2)
    chain.in_database(entries[4], 3)
    chain.database_ends(5, Head(5, CHAIN[4]["hash"], 5))
    assert found(chain) == [(2, "database"), (3, "database")]
    chain.database_ends(5, Head(8, CHAIN[7]["hash"], 8))
    assert found(chain) == [(2, "database"), (3, "database"), (6, "database")]
    rewritten = entries[5].model_copy(update={"actor": "p-2"})
    data = rewritten.model_dump(mode="json", exclude_none=True)
    chain = read(CHAIN)
    chain.in_database(rewritten.model_copy(update={"hash": entry_hash(data)}), 6)
    assert found(chain) == [(6, "database")]


@pytest.mark.parametrize("data", [{}, {"sequence": "1", "hash": "00"}, {"sequence": 0, "hash": "0" * 64}])
def test_what_is_no_entry_or_anchor_is_told(data: Data) -> None:
    chain = Chain("quota")
    chain.entry(data, "topic/0/0")
    chain.anchor({"sequence": "1"}, "topic/0/1")
    chain.unreadable("topic/0/2", "not JSON")
    assert found(chain) == [(0, "unreadable")] * 3
