"""Quota with one thing changed: `python -m tests.proofs.variant NAME COMMAND`.

All but `mended-reader` and `set-clock` are defects: each shows that the proof named beside it can fail.
"""

import asyncio
import os
import runpy
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, NamedTuple
from uuid import uuid4
from zoneinfo import ZoneInfo

import asyncpg
import grpc
import jwt

from tokenomics_chassis import consumer, lanes, outbox, parking
from tokenomics_chassis.catch_up import _CatchUp
from tokenomics_chassis.projection import Batch, Outcome
from tokenomics_chassis.recall import Recall
from tokenomics_chassis.rpc.errors import UnavailableError
from tokenomics_contracts.registry import REGISTRY
from tokenomics_contracts.units import MicroUsd, Purpose
from tokenomics_contracts.upcast import Upcast
from tokenomics_quota.domain import holds
from tokenomics_quota.domain.balance import Balance
from tokenomics_quota.domain.periods import MonthCalendar
from tokenomics_quota.projections.balances import QuotaView
from tokenomics_quota.rpc.views import Views
from tokenomics_quota.storage import hold_ledger, mapping
from tokenomics_quota.storage.announcements import PostgresAnnouncements
from tokenomics_quota.storage.told_changes import ToldChanges
from tokenomics_quota.storage.view_feed import ViewFeed
from tokenomics_quota.streams.projection import QuotaProjection
from tokenomics_quota.usecases import closing, projecting
from tokenomics_quota.usecases.degrading import StaleTab

SCHEMAS = "quota_v1, quota"
EFFECT_DELAY_SECONDS = 1
LOADING_SECONDS = 2


class Change(NamedTuple):
    """An attribute to replace."""

    owner: Any
    name: str
    replacement: Any


def position_before_effect() -> list[Change]:
    """exactly-once: the position is committed at once, the effect a moment later."""
    apply = QuotaProjection.apply
    pending: set[asyncio.Task[None]] = set()

    async def apply_later(self: QuotaProjection, batch: Batch) -> None:
        await asyncio.sleep(EFFECT_DELAY_SECONDS)
        connection = await asyncpg.connect(
            os.environ["TOKENOMICS_DATABASE_URL"], server_settings={"search_path": SCHEMAS}
        )
        try:
            async with connection.transaction():
                await apply(self, connection, batch)
        finally:
            await connection.close()

    async def defer(self: QuotaProjection, _: object, batch: Batch) -> Outcome:
        task = asyncio.create_task(apply_later(self, batch))
        pending.add(task)
        task.add_done_callback(pending.discard)
        return Outcome(changed=False)

    return [Change(QuotaProjection, "apply", defer)]


def no_rederivation() -> list[Change]:
    """replay-equals-live: what governs usage leaves what is already counted as it is."""

    async def rederive(*_: object) -> bool:
        return False

    return [Change(projecting, "_rederive", rederive)]


def forgetful_announcer() -> list[Change]:
    """thresholds-once: announcements have random ids, and nobody remembers what was said."""

    async def announce(self: Any, due: Any, now: Any) -> int:
        said = list(due)
        for each in said:
            event = self._encode(each, now)
            id_ = str(uuid4())
            headers = [(name, id_.encode() if name == "ce_id" else value) for name, value in event.headers]
            await outbox.append(self._connection, id_, 1, **{**event._asdict(), "headers": headers})
        return len(said)

    return [Change(PostgresAnnouncements, "announce", announce)]


def truncated_parking() -> list[Change]:
    """poison-is-parked: what is parked loses its last byte."""
    row = parking._row

    def truncated(rejected: Any) -> Any:
        values = list(row(rejected))
        values[5] = values[5] and values[5][:-1]
        return tuple(values)

    return [Change(parking, "_row", truncated)]


def forgetful_tab() -> list[Change]:
    """stale-view: what a server lets through while its view is stale is forgotten with each answer."""
    admit = StaleTab.admit

    def forget(self: StaleTab, *arguments: Any) -> Any:
        self._let_through.clear()
        return admit(self, *arguments)

    return [Change(StaleTab, "admit", forget)]


def expired_tokens_pass() -> list[Change]:
    """wrong-identity-refused: nobody looks at the expiry of a token."""
    decode: Any = jwt.decode

    def lenient(*arguments: Any, options: Any, **named: Any) -> Any:
        return decode(*arguments, options={**options, "verify_exp": False}, **named)

    return [Change(jwt, "decode", lenient)]


def leaky_rebuild() -> list[Change]:
    """rebuild-under-traffic: what reads history drops the last record of each batch."""
    project = _CatchUp._project

    async def drop_last(self: Any, tp: Any, polled: Any) -> int | None:
        return await project(self, tp, polled[:-1] or polled)

    return [Change(_CatchUp, "_project", drop_last)]


def announcements_not_recalled() -> list[Change]:
    """lost-database: a term of the announcer judges at once, knowing what the database knows."""

    async def judge_at_once(self: Recall, connection: Any, _: object) -> None:
        for kind in self._kinds:
            if kind.read is not None:
                await kind.read(connection)

    return [Change(Recall, "__call__", judge_at_once)]


def holds_not_recalled() -> list[Change]:
    """holds-survive-lost-database: the ledger opens with what the database knows."""

    async def keep_nothing(*_: object) -> int:
        return 0

    return [Change(ToldChanges, "keep", keep_nothing)]


def ends_unseen() -> list[Change]:
    """abandoned-holds: what a hold kept is free when it is written down that it has ended, not before."""
    at_its_instant = "past.expires_at <= $3"
    never = f"{at_its_instant} AND false"
    assert at_its_instant in hold_ledger._ACCOUNTS
    return [Change(hold_ledger, "_ACCOUNTS", hold_ledger._ACCOUNTS.replace(at_its_instant, never))]


def returned_with_its_draws() -> list[Change]:
    """leases-return: a lease that is returned frees all that usage has not settled, drawn or not."""
    give_back = holds.give_back

    def give_all_back(books: Any, lease_id: Any, _: MicroUsd, at: Any) -> Any:
        return give_back(books, lease_id, MicroUsd(0), at)

    return [Change(holds, "give_back", give_all_back)]


def commits_believed() -> list[Change]:
    """restored-backup: what Kafka has committed counts as projected, nobody looks into the gap below it."""

    async def nothing_there(_: object, __: object, ___: int, until: int) -> int:
        return until

    def stay(*_: object) -> None:
        pass

    return [Change(consumer._Witness, "first_offset", nothing_there), Change(consumer, "_seek", stay)]


def loading_is_denied() -> list[Change]:
    """restart-storm: a server that is still loading its view says that the caller may not ask."""
    run = ViewFeed.run

    async def late(self: ViewFeed, stopping: asyncio.Event) -> None:
        await asyncio.sleep(LOADING_SECONDS)
        await run(self, stopping)

    return [
        Change(UnavailableError, "code", grpc.StatusCode.PERMISSION_DENIED),
        Change(ViewFeed, "run", late),
    ]


def lanes_without_a_measure() -> list[Change]:
    """slow-and-full: what waits for the database is counted in records, however large they are."""
    return [Change(lanes, name, sys.maxsize) for name in ("BATCH_BYTES", "MOST_WAITING_BYTES")]


def lingering_grants() -> list[Change]:
    """grants-expire-on-the-instant: what is kept of a caller holds until an event comes or a period turns."""
    governed = QuotaView._governed

    def linger(self: QuotaView, subject: str, project_id: str | None, now: datetime, purpose: Purpose) -> Any:
        calendar = self.governance.calendars.at(now)
        _, turn = calendar.bounds(calendar.period_of(now))
        return governed(self, subject, project_id, now, purpose)._replace(governed_until=turn)

    return [Change(QuotaView, "_governed", linger)]


def everybody_is_asked() -> list[Change]:
    """shared-budget-fairness: a budget that is used up asks all of its members, whatever they have used."""
    return [Change(Balance, "room_of_member", lambda *_: None)]


def clocks_never_change() -> list[Change]:
    """period-turn: a zone's periods turn as if it had its January's offset from UTC all year."""
    make = MonthCalendar.__init__

    def without_summer_time(self: MonthCalendar, time_zone: str) -> None:
        make(self, time_zone)
        offset = datetime(2026, 1, 1, tzinfo=ZoneInfo(time_zone)).utcoffset()
        assert offset is not None
        self._zone = timezone(offset)  # type: ignore[assignment] # a zone of another kind

    return [Change(MonthCalendar, "__init__", without_summer_time)]


def set_clock() -> list[Change]:
    """Not a defect: what a server answers is of the time that the file PROOF_CLOCK tells."""
    at_hand, clock = Views.at_hand, Path(os.environ["PROOF_CLOCK"])

    def as_told(self: Views) -> tuple[QuotaView, datetime]:
        view, _ = at_hand(self)
        return view, datetime.fromisoformat(clock.read_text())

    return [Change(Views, "at_hand", as_told)]


def stepped_clock() -> list[Change]:
    """Not a defect: the hold ledger asks a clock that a proof moves, where it would ask PostgreSQL's."""
    begin = hold_ledger._BEGIN.replace("clock_timestamp()", "quota.stepped_clock()")
    assert begin != hold_ledger._BEGIN
    return [Change(hold_ledger, "_BEGIN", begin)]


def forgetful_ledger() -> list[Change]:
    """holds-never-overshoot: what is live on an account is looked up as if nothing were."""
    row = mapping.ledger_account_from_row

    def forget(found: Any) -> Any:
        return row(found)._replace(live_micro_usd=MicroUsd(0), covered_micro_usd=MicroUsd(0))

    return [Change(hold_ledger, "ledger_account_from_row", forget)]


def adjusted_by_the_total() -> list[Change]:
    """late-usage-adjusts: an adjustment tells the new total instead of what it adds."""
    closings = closing._closings

    def by_the_total(*arguments: Any) -> Iterator[Any]:
        for each in closings(*arguments):
            adjusts = each.posted_micro_usd if each.version > 1 else 0
            yield each.model_copy(update={"adjustment_micro_usd": adjusts})

    return [Change(closing, "_closings", by_the_total)]


def repriced_unseen() -> list[Change]:
    """reprice-is-visible: what governs changes totals without moving the cursor by which others see it."""
    rederive = projecting._rederive

    async def unseen(*arguments: Any) -> bool:
        await rederive(*arguments)
        return False

    return [Change(projecting, "_rederive", unseen)]


def mended_reader() -> list[Change]:
    """Not a defect: a reader that has learned `usage.recorded.v99`, which is v1 under another name."""
    old = "tokenomics.usage.recorded.v99"
    step = Upcast("tokenomics.usage.recorded.v1", dict)
    return [Change(REGISTRY, "_upcasts", {**REGISTRY._upcasts, old: step})]


VARIANTS: dict[str, Callable[[], list[Change]]] = {
    make.__name__.replace("_", "-"): make
    for make in (
        position_before_effect,
        no_rederivation,
        forgetful_announcer,
        truncated_parking,
        forgetful_tab,
        expired_tokens_pass,
        leaky_rebuild,
        announcements_not_recalled,
        holds_not_recalled,
        ends_unseen,
        returned_with_its_draws,
        commits_believed,
        loading_is_denied,
        lanes_without_a_measure,
        lingering_grants,
        everybody_is_asked,
        clocks_never_change,
        set_clock,
        stepped_clock,
        forgetful_ledger,
        adjusted_by_the_total,
        repriced_unseen,
        mended_reader,
    )
}


@contextmanager
def applied(name: str | None) -> Iterator[None]:
    """Change this process, and change it back; several names are joined by `+`."""
    changes = [change for each in (name or "").split("+") if each for change in VARIANTS[each]()]
    before = [Change(each.owner, each.name, getattr(each.owner, each.name)) for each in changes]
    for each in changes:
        setattr(*each)
    try:
        yield
    finally:
        for each in before:
            setattr(*each)


if __name__ == "__main__":
    _, variant, *arguments = sys.argv
    sys.argv = ["tokenomics_quota", *arguments]
    with applied(variant):
        runpy.run_module("tokenomics_quota", run_name="__main__", alter_sys=True)
