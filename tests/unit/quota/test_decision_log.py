"""The decision log between checks and database: what it costs a check, and what becomes of a bad decision."""

import asyncio
import logging
from collections import Counter
from collections.abc import Sequence
from datetime import datetime
from typing import Any, cast

import pytest

from tests.support.quota_events import NOW, NoPrices
from tokenomics_chassis.outbox import OutboxEvent
from tokenomics_chassis.postgres import Pool
from tokenomics_contracts.units import MicroUsd
from tokenomics_quota.domain.checks import Answer, Call, Decided
from tokenomics_quota.domain.friction import Decision
from tokenomics_quota.domain.pricing import Priced, Quantities
from tokenomics_quota.projections.balances import QuotaView
from tokenomics_quota.projections.governance import Governance
from tokenomics_quota.storage import decision_log
from tokenomics_quota.storage.decision_log import OutboxDecisionLog
from tokenomics_quota.streams.events import decision_event

BALANCES = QuotaView(Governance(NoPrices())).touched_by("ada", None, NOW).balances
ANSWER = Answer(Decision.ALLOW_WITH_NUDGE, [], BALANCES, Priced(MicroUsd(1), "book"), None, [], 0, 0)


def decided(decision_id: str, *, caller: str = "ide", at: datetime = NOW) -> Decided:
    call = Call("ada", "acme", "one", Quantities(1), None)
    return Decided(decision_id, call, caller, ANSWER, {}, stale=False, decided_at=at, traceparent=None)


class KeptInMemory(OutboxDecisionLog):
    """A log whose database takes everything."""

    def __init__(self) -> None:
        super().__init__(cast("Pool", None), self._described)
        self.described = 0
        self.written: list[list[str]] = []

    def _described(self, each: Decided) -> OutboxEvent:
        self.described += 1
        return decision_event(each)

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
    await log.add(decided("d1"))
    assert log.described == 0
    await log.finish()
    assert log.written == [["decision/d1"]]


async def test_checks_have_their_turn_while_many_decisions_are_told() -> None:
    log, told_between_turns = KeptInMemory(), []
    for number in range(1_000):
        await log.add(decided(f"d{number}"))
    finishing = asyncio.create_task(log.finish())
    while not finishing.done():
        before = log.described
        await asyncio.sleep(0)
        told_between_turns.append(log.described - before)
    assert max(told_between_turns) <= decision_log.SLICE
    assert [each for group in log.written for each in group] == [f"decision/d{n}" for n in range(1_000)]
    assert max(map(len, log.written)) == decision_log.GROUP


async def test_what_came_while_a_group_was_written_waits_for_others_too(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(decision_log, "LINGER_SECONDS", 0.1)
    log, stopping = KeptInMemory(), asyncio.Event()
    running = asyncio.create_task(log.run(stopping))
    await log.add(decided("d1"))
    while not log.written:  # noqa: ASYNC110 - the group is being written from here on
        await asyncio.sleep(0)
    await log.add(decided("d2"))
    for _ in range(20):
        await asyncio.sleep(0)
    await log.add(decided("d3"))
    stopping.set()
    await running
    assert log.written == [["decision/d1"], ["decision/d2", "decision/d3"]]


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        ({"caller": "Ada Lovelace"}, "caller: String should match pattern"),
        ({"at": NOW.replace(tzinfo=None)}, "ValueError in format_time"),
    ],
)
async def test_a_decision_that_cant_be_told_is_named_and_counted_and_harms_no_other(
    bad: dict[str, Any], reason: str, unrecorded: Counter[str], caplog: pytest.LogCaptureFixture
) -> None:
    log = KeptInMemory()
    for each in (decided("d1"), decided("d2", **bad), decided("d3")):
        await log.add(each)
    await log.finish()
    assert log.written == [["decision/d1", "decision/d3"]]
    assert unrecorded == {"contract": 1}
    (said,) = caplog.records
    assert said.levelno == logging.ERROR
    assert said.__dict__["decision_id"] == "d2"
    assert said.__dict__["reason"].startswith(reason)
    assert "Ada" not in str(said.__dict__)


async def test_a_group_of_which_nothing_can_be_told_does_not_end_the_log(unrecorded: Counter[str]) -> None:
    log, stopping = KeptInMemory(), asyncio.Event()
    running = asyncio.create_task(log.run(stopping))
    await log.add(decided("d1", caller=""))
    while not unrecorded:  # noqa: ASYNC110 - nothing else says that its group is over
        await asyncio.sleep(0.001)
    await log.add(decided("d2"))
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
    await log.add(decided("last"))
    await running
    assert log.written == [["decision/last"]]
