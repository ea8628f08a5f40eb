"""Lanes keep the order of a partition, hold up no other, and never join what was not read together."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from aiokafka import ConsumerRecord, TopicPartition

from tokenomics_chassis.lanes import (
    BATCH_BYTES,
    BATCH_RECORDS,
    MOST_WAITING_BYTES,
    MOST_WAITING_RECORDS,
    Lanes,
)

A, B = TopicPartition("t", 0), TopicPartition("t", 1)


@dataclass
class At:
    offset: int
    value: bytes
    key: bytes | None = None
    headers: tuple[tuple[str, bytes | None], ...] = ()


def records(first: int, count: int, *, value_bytes: int = 1) -> list[Any]:
    value = bytes(value_bytes)
    return [At(offset, value) for offset in range(first, first + count)]


class Projected:
    """Takes batches down; a closed gate holds one partition up, a position of None sends its lane back."""

    def __init__(self) -> None:
        self.batches: list[tuple[TopicPartition, list[int]]] = []
        self.open = asyncio.Event()
        self.open.set()
        self.sends_back = False

    async def __call__(self, tp: TopicPartition, batch: Sequence[ConsumerRecord]) -> int | None:
        if tp == A:
            await self.open.wait()
        offsets = [each.offset for each in batch]
        self.batches.append((tp, offsets))
        return None if self.sends_back else offsets[-1] + 1


async def at_rest(lanes: Lanes) -> None:
    await lanes.rest(within_seconds=5)


async def test_what_comes_meanwhile_makes_the_next_batch_in_order() -> None:
    projected = Projected()
    projected.open.clear()
    lanes = Lanes(projected)
    lanes.add(A, records(0, 3))
    await asyncio.sleep(0)
    lanes.add(A, records(3, 2))
    lanes.add(A, records(5, 1))
    projected.open.set()
    await at_rest(lanes)
    assert projected.batches == [(A, [0, 1, 2]), (A, [3, 4, 5])]
    assert lanes.positions == {A: 6}


async def test_a_partition_that_is_held_up_holds_up_no_other() -> None:
    projected = Projected()
    projected.open.clear()
    lanes = Lanes(projected)
    lanes.add(A, records(0, 1))
    lanes.add(B, records(0, 1))
    await asyncio.sleep(0.01)
    assert lanes.positions == {B: 1}
    projected.open.set()
    await at_rest(lanes)
    assert lanes.positions == {A: 1, B: 1}


async def test_records_that_do_not_follow_each_other_share_no_batch() -> None:
    """After a rebalance the committed offset is read from again; a hole or a step back must show."""
    projected = Projected()
    projected.open.clear()
    lanes = Lanes(projected)
    for first, count in ((10, 1), (11, 2), (5, 4), (9, 1), (40, 1)):
        lanes.add(A, records(first, count))
        await asyncio.sleep(0)
    projected.open.set()
    await at_rest(lanes)
    assert projected.batches == [(A, [10]), (A, [11, 12]), (A, [5, 6, 7, 8, 9]), (A, [40])]


async def test_a_lane_sent_back_forgets_what_waits_and_goes_on_with_what_is_read_again() -> None:
    projected = Projected()
    projected.sends_back = True
    lanes = Lanes(projected)
    lanes.add(A, records(7, BATCH_RECORDS + 1))
    await at_rest(lanes)
    assert [batch[0] for _, batch in projected.batches] == [7]
    assert lanes.positions == {}
    projected.sends_back = False
    lanes.add(A, records(0, 2))
    await at_rest(lanes)
    assert lanes.positions == {A: 2}


async def test_room_is_waited_for_and_batches_are_bounded() -> None:
    projected = Projected()
    projected.open.clear()
    lanes = Lanes(projected)
    lanes.add(A, records(0, MOST_WAITING_RECORDS + BATCH_RECORDS + 1))
    waiting = asyncio.create_task(lanes.room())
    await asyncio.sleep(0.01)
    assert waiting.done() is False
    projected.open.set()
    async with asyncio.timeout(5):
        await waiting
    await at_rest(lanes)
    assert max(len(batch) for _, batch in projected.batches) == BATCH_RECORDS
    assert lanes.positions == {A: MOST_WAITING_RECORDS + BATCH_RECORDS + 1}


async def test_large_records_fill_lanes_and_batches_by_their_bytes() -> None:
    projected = Projected()
    projected.open.clear()
    lanes = Lanes(projected)
    third = BATCH_BYTES // 3
    lanes.add(A, [*records(0, 1, value_bytes=BATCH_BYTES + 1), *records(1, 7, value_bytes=third)])
    await asyncio.wait_for(lanes.room(), 5)
    too_much = At(8, b"", headers=(("odd", bytes(MOST_WAITING_BYTES)), ("empty", None)))
    lanes.add(A, [too_much])
    waiting = asyncio.create_task(lanes.room())
    await asyncio.sleep(0.01)
    assert waiting.done() is False
    projected.open.set()
    async with asyncio.timeout(5):
        await waiting
    await at_rest(lanes)
    assert projected.batches == [(A, [0]), (A, [1, 2, 3]), (A, [4, 5, 6]), (A, [7]), (A, [8])]


async def test_what_outlasts_its_time_is_cancelled() -> None:
    projected = Projected()
    projected.open.clear()
    lanes = Lanes(projected)
    lanes.add(A, records(0, 1))
    await lanes.rest(within_seconds=0.01)
    await asyncio.sleep(0)
    await at_rest(lanes)
    assert lanes.positions == {}
