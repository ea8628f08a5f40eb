"""Commands on holds that share transactions."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta

import asyncpg
import pytest

from tests.support.memory_hold_ledger import MemoryHoldLedger
from tests.support.quota_events import NOW, governance, person, price_book, quota_policy
from tokenomics_chassis.rpc.errors import (
    AlreadyExistsError,
    InvalidRequestError,
    NotFoundError,
    OverloadedError,
    QuotaExceededError,
    StoppingError,
    UnavailableError,
)
from tokenomics_chassis.serving import Serving
from tokenomics_contracts.units import AccountId, HoldId, MicroUsd
from tokenomics_quota.domain.balance import Touched
from tokenomics_quota.domain.checks import Answer, Call
from tokenomics_quota.domain.holds import Change, HoldState, Moment, digest_of
from tokenomics_quota.domain.pricing import Quantities
from tokenomics_quota.metrics import LEDGER_TURN_COMMANDS, LEDGER_TURN_DURATION, LEDGER_TURNS_FAILED
from tokenomics_quota.ports import HoldLedger
from tokenomics_quota.projections.balances import QuotaView
from tokenomics_quota.usecases import turns as module
from tokenomics_quota.usecases.freshening import Freshening, NotFreshYetError
from tokenomics_quota.usecases.holding import (
    Command,
    Done,
    Drawing,
    LedgerShutError,
    Placing,
    Renewing,
    Settling,
    Tell,
    Told,
)
from tokenomics_quota.usecases.seeing import everything
from tokenomics_quota.usecases.turns import LedgerAwayError, LedgerBusyError, Turns

COMPANY = (
    price_book(),
    quota_policy(
        budgets=[{"kind": "team", "owner_id": "red", "limit_micro_usd": 100, "enforcement": "hard"}]
    ),
    person("ada"),
)


class NoEnds:
    """Nobody asks for the log's ends here."""

    read_at = None

    async def next(self) -> dict[str, int]:
        raise NotImplementedError


@dataclass
class Scene:
    """A ledger whose transactions are in a test's hands."""

    memory: MemoryHoldLedger = field(default_factory=lambda: MemoryHoldLedger(clock=NOW, governing_version=1))
    groups: list[int] = field(default_factory=list)
    """How many commands each transaction had that was committed."""
    gate: asyncio.Event = field(default_factory=asyncio.Event)
    """A transaction commits while it is set."""
    breaks: Callable[[], None] = lambda: None
    """Called before a commit."""

    def __post_init__(self) -> None:
        self.gate.set()
        self.view = QuotaView(governance(*COMPANY))
        serving = Serving[QuotaView]()
        serving.put(1, self.view, 1)
        self.freshening = Freshening(serving, NoEnds())
        self.turns = Turns(self.transaction, lambda: (serving.version, serving.current), self.freshening)
        self.stopping = asyncio.Event()

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[HoldLedger]:
        before = self.memory.change_seq
        yield self.memory
        await self.gate.wait()
        self.breaks()
        self.groups.append(self.memory.change_seq - before)

    def refresh(self, version: int = 1) -> None:
        """Let the view be at a version of what governs."""
        self.view.governance.version = version
        self.view.refresh_began = asyncio.get_running_loop().time()
        self.freshening.view_moved()

    def soon(self, *commands: Command, seconds: float = 20) -> list[asyncio.Task[Done]]:
        give_up_at = asyncio.get_running_loop().time() + seconds
        return [asyncio.create_task(self.turns.perform(command, give_up_at)) for command in commands]

    async def perform(self, command: Command, *, seconds: float = 20) -> Done:
        (task,) = self.soon(command, seconds=seconds)
        return await task


@pytest.fixture
async def scene() -> AsyncIterator[Scene]:
    made = Scene()
    running = asyncio.create_task(made.turns.run(made.stopping))
    yield made
    made.gate.set()
    made.stopping.set()
    await running


def told(_call: Call, _answer: Answer, _touched: Touched, moment: Moment) -> Told:
    return Told(b"told at %d" % moment.change_seq, lambda: None)


def placing(hold_id: str, amount: int = 10, tell: Tell = told) -> Placing:
    call = Call("ada", "acme", "one", Quantities(1), None)
    fields: dict[str, str | int] = {"hold_id": hold_id, "amount_micro_usd": amount}
    return Placing(
        HoldId(hold_id),
        call,
        MicroUsd(amount),
        timedelta(minutes=1),
        None,
        digest_of(fields),
        tuple(fields),
        everything,
        tell,
    )


def leasing(hold_id: str) -> Placing:
    return placing(hold_id)._replace(drawing=Drawing(timedelta(seconds=30), timedelta(seconds=10), b""))


def renewing(hold_id: str, read_call: Callable[[bytes], Call]) -> Renewing:
    nothing, draw_for = MicroUsd(0), timedelta(seconds=30)
    return Renewing(HoldId(hold_id), 1, nothing, nothing, draw_for, b"", everything, read_call, told)


def settling(hold_id: str, cost: int = 10) -> Settling:
    return Settling(HoldId(hold_id), MicroUsd(cost), everything)


async def errors(tasks: list[asyncio.Task[Done]]) -> list[type[BaseException] | None]:
    results = await asyncio.gather(*tasks, return_exceptions=True)
    return [type(each) if isinstance(each, BaseException) else None for each in results]


async def until(happened: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not happened():  # noqa: ASYNC110 - what happens is the product's, it sets no event
            await asyncio.sleep(0.001)


async def test_commands_that_come_while_a_transaction_runs_share_the_next_one(scene: Scene) -> None:
    scene.gate.clear()
    first = scene.soon(placing("h0"))
    await until(lambda: scene.memory.change_seq == 1)
    others = scene.soon(*(placing(f"h{number}", 1) for number in range(1, 41)))
    await asyncio.sleep(0.01)
    scene.gate.set()
    done = await asyncio.gather(*first, *others)
    assert scene.groups == [1, 40]
    assert [each.moment.change_seq for each in done] == list(range(1, 42))
    assert scene.memory.account_now(_red(scene)).live_micro_usd == 50


def _red(scene: Scene) -> AccountId:
    (found,) = (
        each.account_id
        for each in scene.memory.ledger_accounts.values()
        if each.account_id.startswith("team/")
    )
    return found


async def test_each_command_has_its_own_outcome(scene: Scene) -> None:
    scene.gate.clear()
    first = scene.soon(placing("h0", 90))
    await until(lambda: scene.memory.change_seq == 1)
    others = scene.soon(
        placing("h1", 11),
        placing("h2", 10),
        placing("h0", 90),
        placing("h0", 1),
        settling("h0"),
        settling("x"),
    )
    await asyncio.sleep(0.01)
    scene.gate.set()
    assert await errors([*first, *others]) == [
        None,
        QuotaExceededError,
        None,
        None,
        AlreadyExistsError,
        None,
        NotFoundError,
    ]
    again = others[2].result()
    assert (again.told, again.held) == (first[0].result().told, first[0].result().held)
    assert scene.groups == [1, 6]


async def test_what_speaks_against_answering_one_is_told_to_that_one(scene: Scene) -> None:
    def forbidden(_call: Call, _answer: Answer, _touched: Touched, _moment: Moment) -> Told:
        raise NotFoundError("not for you")

    tasks = scene.soon(placing("h1", tell=forbidden), placing("h2"))
    assert await errors(tasks) == [NotFoundError, None]
    assert [hold.hold_id for hold in scene.memory.rows.values()] == ["h2"]


async def test_what_breaks_a_transaction_breaks_that_command_alone(scene: Scene) -> None:
    def broken(_call: Call, _answer: Answer, _touched: Touched, _moment: Moment) -> Told:
        raise ZeroDivisionError

    tasks = scene.soon(placing("h1"), placing("h2", tell=broken), settling("x"))
    assert await errors(tasks) == [None, ZeroDivisionError, NotFoundError]


async def test_a_lease_that_can_not_be_judged_is_told_to_who_renews_it_alone(scene: Scene) -> None:
    def unreadable(_typical_call: bytes) -> Call:
        raise InvalidRequestError({"typical_call.model": "is none by the rules of today"})

    await scene.perform(leasing("lease"))
    tasks = scene.soon(renewing("lease", unreadable), placing("h"))
    assert await errors(tasks) == [InvalidRequestError, None]


@pytest.mark.parametrize("error", [asyncpg.ConnectionDoesNotExistError, asyncpg.UndefinedTableError])
async def test_a_database_that_is_away_or_new_is_told_to_all_at_once_and_the_next_turn_is_taken(
    scene: Scene, error: type[Exception]
) -> None:
    def away() -> None:
        raise error

    scene.breaks = away
    tasks = scene.soon(placing("h1"), placing("h2"), settling("x"))
    assert await errors(tasks) == [LedgerAwayError] * 3
    scene.breaks = lambda: None
    # In memory nothing is rolled back: as if the commit had gone through before the connection broke.
    again = await scene.perform(placing("h1"))
    assert again.told == b"told at 1"


async def test_who_went_away_is_left_out_and_breaks_nothing(scene: Scene) -> None:
    scene.gate.clear()
    first = scene.soon(placing("h0"))
    await until(lambda: scene.memory.change_seq == 1)
    gone, stays = scene.soon(placing("h1"), placing("h2"))
    await asyncio.sleep(0.01)
    gone.cancel()
    first[0].cancel()
    await asyncio.sleep(0.01)
    scene.gate.set()
    await stays
    assert scene.groups == [1, 1]
    assert {hold.hold_id for hold in scene.memory.rows.values()} == {"h0", "h2"}


async def test_a_turn_that_takes_too_long_is_told_in_time_and_done_all_the_same(scene: Scene) -> None:
    scene.gate.clear()
    assert await errors(scene.soon(placing("h0"), seconds=0.05)) == [LedgerBusyError]
    scene.gate.set()
    assert (await scene.perform(placing("h0"))).told == b"told at 1"


async def test_only_so_many_wait(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_WAITING", 3)
    monkeypatch.setattr(module, "LARGEST_GROUP", 2)
    scene.gate.clear()
    first = scene.soon(placing("h0", 1))
    await until(lambda: scene.memory.change_seq == 1)
    others = scene.soon(*(placing(f"h{number}", 1) for number in range(1, 6)))
    await asyncio.sleep(0.01)
    scene.gate.set()
    assert await errors([*first, *others]) == [None] * 4 + [OverloadedError] * 2
    assert scene.groups == [1, 2, 1]


async def test_who_went_away_takes_no_place_in_the_line(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MOST_WAITING", 3)
    scene.gate.clear()
    first = scene.soon(placing("h0", 1))
    await until(lambda: scene.memory.change_seq == 1)
    cancelled = scene.soon(placing("h1", 1), placing("h2", 1))
    late = scene.soon(placing("h3", 1), seconds=0.02)
    await until(lambda: scene.turns.waiting == 3)
    assert await errors(scene.soon(placing("h4", 1))) == [OverloadedError]
    cancelled[0].cancel()
    assert await errors([cancelled[0], *late]) == [asyncio.CancelledError, LedgerBusyError]
    assert scene.turns.waiting == 1
    others = scene.soon(placing("h5", 1), placing("h6", 1), placing("h7", 1))
    await until(lambda: scene.turns.waiting == 3)
    scene.gate.set()
    assert await errors([*first, cancelled[1], *others]) == [None] * 4 + [OverloadedError]
    assert [hold.hold_id for hold in scene.memory.rows.values()] == ["h0", "h2", "h5", "h6"]


async def test_a_hold_waits_for_the_view_to_know_what_governs(scene: Scene) -> None:
    scene.memory.governing_version = 2
    waiting = scene.soon(placing("h1"))[0]
    release = await asyncio.gather(scene.perform(settling("x")), return_exceptions=True)
    assert isinstance(release[0], NotFoundError)  # needs nothing that governs
    assert not waiting.done()
    scene.refresh(version=2)
    assert (await waiting).held is not None
    scene.memory.governing_version = 3
    assert await errors(scene.soon(placing("h2"), seconds=0.05)) == [NotFreshYetError]


async def test_a_view_of_another_version_of_the_derived_state_is_behind(scene: Scene) -> None:
    scene.memory.active_version = 2
    assert await errors(scene.soon(placing("h2"), seconds=0.05)) == [NotFreshYetError]


async def test_no_hold_is_placed_before_a_view_is_loaded() -> None:
    scene = Scene()
    turns = Turns(scene.transaction, lambda: (None, None), scene.freshening)
    running = asyncio.create_task(turns.run(scene.stopping))
    with pytest.raises(UnavailableError, match="being loaded"):
        await turns.perform(placing("h"), asyncio.get_running_loop().time() + 20)
    scene.stopping.set()
    await running


async def test_nothing_is_done_while_the_ledger_is_shut(scene: Scene) -> None:
    scene.memory.is_open = False
    assert await errors(scene.soon(placing("h1"), settling("x"))) == [LedgerShutError] * 2
    assert not scene.memory.rows


async def test_a_stop_lets_those_finish_that_wait_and_no_others_begin() -> None:
    scene = Scene()
    scene.gate.clear()
    running = asyncio.create_task(scene.turns.run(scene.stopping))
    first = scene.soon(placing("h0"))
    await until(lambda: scene.memory.change_seq == 1)
    second = scene.soon(placing("h1"))
    await asyncio.sleep(0.01)
    scene.stopping.set()
    await asyncio.sleep(0.01)
    assert await errors(scene.soon(placing("h2"))) == [StoppingError]
    scene.gate.set()
    assert await errors([*first, *second]) == [None, None]
    await running


async def test_a_repeated_placing_is_answered_as_it_was_whatever_became_of_the_hold(scene: Scene) -> None:
    placed = await scene.perform(placing("h"))
    settled = await scene.perform(settling("h", 7))
    assert settled.held is not None
    assert settled.held.state is HoldState.SETTLED
    scene.memory.clock = NOW + timedelta(days=1)
    again = await scene.perform(placing("h"))
    assert again[1:] == placed[1:]


async def test_which_fields_differ_is_told_to_who_may_see_the_hold_alone(scene: Scene) -> None:
    await scene.perform(placing("h", 10))
    with pytest.raises(AlreadyExistsError) as seen:
        await scene.perform(placing("h", 20))
    assert seen.value.metadata == {"differing_fields": "amount_micro_usd"}
    with pytest.raises(AlreadyExistsError) as unseen:
        await scene.perform(placing("h", 20)._replace(sees=lambda _account: False))
    assert unseen.value.metadata == {"differing_fields": "hold_id"}


async def test_a_command_that_changes_nothing_writes_nothing(scene: Scene) -> None:
    written = list[Change]()
    write = scene.memory.write

    async def counted(changes: list[Change], traceparents: dict[int, str]) -> None:
        written.extend(changes)
        await write(changes, traceparents)

    scene.memory.write = counted  # type: ignore[assignment,method-assign]
    await scene.perform(placing("h"))
    await scene.perform(placing("h"))
    await scene.perform(settling("h"))
    await scene.perform(settling("h"))
    assert len(written) == 2


async def test_the_trace_of_a_call_goes_with_its_command(scene: Scene) -> None:
    give_up_at = asyncio.get_running_loop().time() + 20
    await asyncio.gather(
        scene.turns.perform(placing("h1"), give_up_at, "trace-1"),
        scene.turns.perform(placing("h2"), give_up_at),
    )
    assert [trace for _, trace in scene.memory.happened] == ["trace-1", None]


@dataclass
class Observed:
    """What turns told of themselves."""

    seconds: list[float] = field(default_factory=list)
    commands: list[int] = field(default_factory=list)
    failures: list[tuple[int, dict[str, str]]] = field(default_factory=list)


@pytest.fixture
def observed(monkeypatch: pytest.MonkeyPatch) -> Observed:
    seen = Observed()
    monkeypatch.setattr(LEDGER_TURN_DURATION, "record", seen.seconds.append)
    monkeypatch.setattr(LEDGER_TURN_COMMANDS, "record", seen.commands.append)
    monkeypatch.setattr(LEDGER_TURNS_FAILED, "add", lambda *added: seen.failures.append(added))
    return seen


async def test_a_turn_is_measured_once_however_many_share_it(scene: Scene, observed: Observed) -> None:
    scene.gate.clear()
    first = scene.soon(placing("h0", 1))
    await until(lambda: scene.memory.change_seq == 1)
    others = scene.soon(*(placing(f"h{number}", 1) for number in range(1, 4)))
    await asyncio.sleep(0.05)
    assert scene.turns.waiting == 3
    assert observed.commands == []
    scene.gate.set()
    await asyncio.gather(*first, *others)
    assert scene.turns.waiting == 0
    assert observed.commands == [1, 3]
    assert observed.seconds[0] >= 0.05 > observed.seconds[1] > 0
    assert observed.failures == []


async def test_turns_that_fail_are_counted_by_cause_and_not_measured(
    scene: Scene, observed: Observed
) -> None:
    def away() -> None:
        raise asyncpg.ConnectionDoesNotExistError

    def broken(_call: Call, _answer: Answer, _touched: Touched, _moment: Moment) -> Told:
        raise ZeroDivisionError

    scene.breaks = away
    await errors(scene.soon(settling("x"), settling("y")))
    scene.breaks = lambda: None
    scene.memory.is_open = False
    await errors(scene.soon(settling("x"), settling("y")))
    scene.memory.is_open = True
    assert observed.failures == [(1, {"cause": "away"}), (1, {"cause": "shut"})]
    await errors(scene.soon(placing("h", tell=broken), settling("x")))
    assert observed.failures[2:] == [(1, {"cause": "command"})] * 2, "the turn of both, and its own"
    assert observed.commands == [1]
    assert len(observed.seconds) == 1


@dataclass
class Telling:
    """Counts what is told, and what is left of it."""

    told: list[str] = field(default_factory=list)
    left: list[str] = field(default_factory=list)

    def of(self, name: str) -> Tell:
        def tell(_call: Call, _answer: Answer, _touched: Touched, _moment: Moment) -> Told:
            self.told.append(name)
            return Told(name.encode(), lambda: self.left.append(name))

        return tell


async def test_what_a_decision_leaves_is_left_after_the_commit(scene: Scene) -> None:
    telling = Telling()
    scene.gate.clear()
    placed, refused = scene.soon(placing("h", 100, telling.of("h")), placing("i", 1, telling.of("i")))
    await until(lambda: scene.memory.change_seq == 2)
    await asyncio.sleep(0.01)
    assert telling.told == ["h", "i"]
    assert telling.left == []
    placed.cancel()
    scene.gate.set()
    assert await errors([placed, refused]) == [asyncio.CancelledError, QuotaExceededError]
    assert telling.left == ["h", "i"], "whatever became of the caller, and of the hold"
    await scene.perform(placing("h", 100, telling.of("h")))
    assert telling.left == ["h", "i"], "a hold that is there is judged no more"


async def test_a_turn_that_is_taken_again_leaves_what_its_last_time_came_to(scene: Scene) -> None:
    def broken(_call: Call, _answer: Answer, _touched: Touched, _moment: Moment) -> Told:
        raise ZeroDivisionError

    telling = Telling()
    tasks = scene.soon(placing("h1", 1, telling.of("h1")), placing("h2", tell=broken))
    assert await errors(tasks) == [None, ZeroDivisionError]
    assert telling.told == ["h1", "h1"]
    assert telling.left == ["h1"]


async def test_a_turn_that_was_not_committed_leaves_nothing(scene: Scene) -> None:
    def away() -> None:
        raise asyncpg.ConnectionDoesNotExistError

    telling = Telling()
    scene.breaks = away
    await errors(scene.soon(placing("h", 1, telling.of("h"))))
    assert (telling.told, telling.left) == (["h"], [])
