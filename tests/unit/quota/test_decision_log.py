"""The decision log between checks and database: what is told by itself, what in sums, and what can't be."""

import asyncio
import logging
from collections import Counter
from collections.abc import Sequence
from datetime import datetime, timedelta
from itertools import count
from typing import cast

import pytest

from tests.support.quota_events import NOW, NoPrices
from tokenomics_chassis.outbox import OutboxEvent
from tokenomics_chassis.postgres import Pool
from tokenomics_contracts.units import MicroUsd
from tokenomics_quota.domain.checks import Answer, Call, Decided
from tokenomics_quota.domain.decision_records import DecisionRecord
from tokenomics_quota.domain.friction import Decision
from tokenomics_quota.domain.pricing import Priced, Quantities
from tokenomics_quota.projections.balances import QuotaView
from tokenomics_quota.projections.governance import Governance
from tokenomics_quota.storage import decision_log
from tokenomics_quota.storage.decision_log import OutboxDecisionLog
from tokenomics_quota.streams.events import decision_event

BALANCES = QuotaView(Governance(NoPrices())).touched_by("ada", None, NOW).balances
ANSWER = Answer(Decision.ALLOW_WITH_NUDGE, [], BALANCES, Priced(MicroUsd(1), "book"), None, [], 0, 0)


def decided(subject: str = "ada", *, caller: str = "ide", cost: int = 1, at: datetime = NOW) -> Decided:
    call = Call(subject, "acme", "one", Quantities(1), None)
    answer = ANSWER._replace(estimate=Priced(MicroUsd(cost), "book"))
    return Decided(call, caller, answer, {}, stale=False, decided_at=at)


class KeptInMemory(OutboxDecisionLog):
    """A log whose database takes everything."""

    def __init__(self) -> None:
        numbers = count(1)
        super().__init__(cast("Pool", None), self._described, lambda: f"d{next(numbers)}")
        self.described = 0
        self.written: list[list[str]] = []
        self.told: list[DecisionRecord] = []

    def _described(self, each: DecisionRecord) -> OutboxEvent:
        self.described += 1
        event = decision_event(each)
        self.told.append(each)
        return event

    async def _append(self, group: Sequence[tuple[str, OutboxEvent]]) -> None:
        self.written.append([aggregate_id for aggregate_id, _ in group])
        await asyncio.sleep(0)

    async def finish(self) -> None:
        stopping = asyncio.Event()
        stopping.set()
        await self.run(stopping)


class Counted:
    """A counter of the telemetry that can be looked at."""

    def __init__(self) -> None:
        self.by_cause: Counter[str] = Counter()

    def add(self, amount: int, attributes: dict[str, str]) -> None:
        self.by_cause[attributes["cause"]] += amount


@pytest.fixture
def unrecorded(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    counter = Counted()
    monkeypatch.setattr(decision_log, "DECISIONS_UNRECORDED", counter)
    return counter.by_cause


async def test_a_check_does_not_wait_for_its_record_to_be_told() -> None:
    log = KeptInMemory()
    assert log.add(decided()) == "d1"
    assert log.described == 0
    await log.finish()
    assert log.written == [["decision/d1"]]


async def test_checks_have_their_turn_while_many_decisions_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decision_log, "SINGLE_A_SECOND", 1_000)
    log, told_between_turns = KeptInMemory(), []
    for _ in range(1_000):
        log.add(decided())
    finishing = asyncio.create_task(log.finish())
    while not finishing.done():
        before = log.described
        await asyncio.sleep(0)
        told_between_turns.append(log.described - before)
    assert max(told_between_turns) <= decision_log.SLICE
    assert [each for group in log.written for each in group] == [f"decision/d{n}" for n in range(1, 1_001)]
    assert max(map(len, log.written)) == decision_log.GROUP


async def test_what_came_while_a_group_was_written_waits_for_others_too(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(decision_log, "LINGER_SECONDS", 0.1)
    log, stopping = KeptInMemory(), asyncio.Event()
    running = asyncio.create_task(log.run(stopping))
    log.add(decided())
    while not log.written:  # noqa: ASYNC110 - the group is being written from here on
        await asyncio.sleep(0)
    log.add(decided())
    for _ in range(20):
        await asyncio.sleep(0)
    log.add(decided())
    stopping.set()
    await running
    assert log.written == [["decision/d1"], ["decision/d2", "decision/d3"]]


async def test_a_decision_that_cant_be_told_is_named_and_counted_and_harms_no_other(
    unrecorded: Counter[str], caplog: pytest.LogCaptureFixture
) -> None:
    log = KeptInMemory()
    for each in (decided(), decided(caller="Ada Lovelace"), decided()):
        log.add(each)
    await log.finish()
    assert log.written == [["decision/d1", "decision/d3"]]
    assert unrecorded == {"contract": 1}
    (said,) = caplog.records
    assert said.levelno == logging.ERROR
    assert said.__dict__["decision_id"] == "d2"
    assert said.__dict__["reason"].startswith("caller: String should match pattern")
    assert "Ada" not in str(said.__dict__)


async def test_a_group_of_which_nothing_can_be_told_does_not_end_the_log(unrecorded: Counter[str]) -> None:
    log, stopping = KeptInMemory(), asyncio.Event()
    running = asyncio.create_task(log.run(stopping))
    log.add(decided(caller=""))
    while not unrecorded:  # noqa: ASYNC110 - nothing else says that its group is over
        await asyncio.sleep(0.001)
    log.add(decided())
    stopping.set()
    await running
    assert log.written == [["decision/d2"]]


@pytest.mark.parametrize("moments", range(4))
async def test_a_decision_that_comes_with_the_stop_is_written(moments: int) -> None:
    log, stopping = KeptInMemory(), asyncio.Event()
    running = asyncio.create_task(log.run(stopping))
    await asyncio.sleep(0.001)
    stopping.set()
    for _ in range(moments):
        await asyncio.sleep(0)
    if running.done():
        return
    log.add(decided())
    await running
    assert log.written == [["decision/d1"]]


async def test_what_is_more_than_a_second_bears_is_summed_and_each_decision_is_told_of_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(decision_log, "SINGLE_A_SECOND", 2)
    log = KeptInMemory()
    ids = [log.add(decided(cost=cost)) for cost in (1, 2, 4, 8, 16)]
    ids.append(log.add(decided("eve", cost=32)))
    ids.append(log.add(decided(cost=64, at=NOW + timedelta(seconds=1))))
    assert ids == ["d1", "d2", "d3.1", "d3.2", "d3.3", "d4.1", "d5"]
    await log.finish()
    told = {each.decision_id: (each.decisions, each.estimated_cost_micro_usd) for each in log.told}
    assert told == {"d1": (1, 1), "d2": (1, 2), "d3": (3, 28), "d4": (1, 32), "d5": (1, 64)}


async def test_sums_are_written_while_others_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decision_log, "SINGLE_A_SECOND", 0)
    monkeypatch.setattr(decision_log, "SUMMING_SECONDS", 0.02)
    log, stopping = KeptInMemory(), asyncio.Event()
    running = asyncio.create_task(log.run(stopping))
    log.add(decided())
    log.add(decided())
    async with asyncio.timeout(5):
        while not log.written:  # noqa: ASYNC110 - nothing else says that a sum was written
            await asyncio.sleep(0.001)
    assert log.add(decided()) == "d2.1"
    stopping.set()
    await running
    assert [(each.decision_id, each.decisions) for each in log.told] == [("d1", 2), ("d2", 1)]


class Away(KeptInMemory):
    """A log whose database is away until it is told otherwise."""

    def __init__(self) -> None:
        super().__init__()
        self.is_away = True

    async def _append(self, group: Sequence[tuple[str, OutboxEvent]]) -> None:
        if self.is_away:
            raise ConnectionRefusedError
        await super()._append(group)


async def test_no_check_waits_while_the_database_is_away_and_nothing_is_lost_when_it_is_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(decision_log, "MOST_WAITING", 50)
    log, stopping = Away(), asyncio.Event()
    running = asyncio.create_task(log.run(stopping))
    for number in range(2_000):  # over 20 seconds
        log.add(decided(f"p-{number % 7}", at=NOW + timedelta(milliseconds=10 * number)))
        if number % 500 == 0:
            await asyncio.sleep(0.06)  # the first are under way by now
    log.is_away = False
    stopping.set()
    await running
    assert sum(each.decisions for each in log.told) == 2_000
    assert len(log.told) < 200


async def test_what_there_is_no_room_for_is_counted_said_once_and_answered(
    monkeypatch: pytest.MonkeyPatch, unrecorded: Counter[str], caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(decision_log, "SINGLE_A_SECOND", 0)
    monkeypatch.setattr(decision_log, "MOST_SUMS", 2)
    log = KeptInMemory()
    for subject in ("ada", "eve", "joe", "ada", "joe"):
        assert log.add(decided(subject))
    assert unrecorded == {"room": 2}
    assert len(caplog.records) == 1
    await log.finish()
    assert [(each.decision_id, each.decisions) for each in log.told] == [("d1", 2), ("d2", 1)]
    log.add(decided("joe"))
    await log.finish()
    assert unrecorded == {"room": 2}


async def test_a_decision_that_is_reserved_is_told_of_once_it_is_kept_and_never_before() -> None:
    log = KeptInMemory()
    first, second = log.reserve(decided(cost=1)), log.reserve(decided(cost=2))
    await log.finish()
    assert log.written == []
    second.keep()
    await log.finish()
    assert (first.decision_id, second.decision_id) == ("d1", "d2")
    assert [(each.decision_id, each.estimated_cost_micro_usd) for each in log.told] == [("d2", 2)]


async def test_a_reserved_decision_joins_a_sum_only_once_it_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decision_log, "SINGLE_A_SECOND", 0)
    log = KeptInMemory()
    rolled_back, retried = log.reserve(decided(cost=1)), log.reserve(decided(cost=2))
    assert (rolled_back.decision_id, retried.decision_id) == ("d1.1", "d1.2")
    retried.keep()
    assert log.add(decided(cost=4)) == "d1.3"
    late = log.reserve(decided(cost=8))
    await log.finish()
    late.keep()  # its sum is told already
    assert log.add(decided(cost=16)) == "d2.1"
    await log.finish()
    told = [(each.decision_id, each.decisions, each.estimated_cost_micro_usd) for each in log.told]
    assert sorted(told) == [("d1", 2, 6), ("d1.4", 1, 8), ("d2", 1, 16)]


async def test_a_reserved_decision_without_room_is_counted_once_it_is_kept(
    monkeypatch: pytest.MonkeyPatch, unrecorded: Counter[str]
) -> None:
    monkeypatch.setattr(decision_log, "SINGLE_A_SECOND", 0)
    monkeypatch.setattr(decision_log, "MOST_SUMS", 0)
    log = KeptInMemory()
    reserved = log.reserve(decided())
    assert reserved.decision_id == "d1"
    assert unrecorded == {}
    reserved.keep()
    assert unrecorded == {"room": 1}
