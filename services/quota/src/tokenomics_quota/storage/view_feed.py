"""Keeps the in-memory view at the committed state: hints by NOTIFY, truth by polling."""

import asyncio
from collections.abc import Callable, Iterable
from datetime import UTC, date, datetime, timedelta
from functools import partial
from typing import Final

import asyncpg

from tokenomics_chassis.changes import ChangeFollower, listen
from tokenomics_chassis.clock import Clock
from tokenomics_chassis.postgres import Backoff, Schemas, Session, is_away, session
from tokenomics_chassis.serving import Serving
from tokenomics_chassis.versions import active_version
from tokenomics_contracts.units import AccountId, PeriodId, split_account_id
from tokenomics_quota.domain.accounts import AccountKind
from tokenomics_quota.domain.findings import Rule
from tokenomics_quota.domain.friction_budgets import NOBODY_FELL_BACK, fallen_back, week_of
from tokenomics_quota.domain.policies import QuotaPolicy
from tokenomics_quota.domain.spikes import DayUse, SpikeRule
from tokenomics_quota.domain.timeline import Timeline
from tokenomics_quota.projections.balances import QuotaView
from tokenomics_quota.projections.governance import Governance
from tokenomics_quota.storage.assets import asset_users
from tokenomics_quota.storage.friction import told_of_friction
from tokenomics_quota.storage.ledger import PostgresLedger
from tokenomics_quota.storage.pending import pending_changes
from tokenomics_quota.storage.totals import committed_totals, daily_totals
from tokenomics_quota.usecases.day_uses import DayUses
from tokenomics_quota.usecases.projecting import KnownGovernance

_SUBJECT: Final = AccountKind.SUBJECT.value

UNREFRESHED_BOUND = timedelta(seconds=60)
"""For so long a view answers without having been refreshed, saying that it is stale, before it is not ready.

It outlasts a restart or a failover of the database: taking every replica out for that would turn answers that
are a minute old into none. What lasts longer is a replica cut off, and the others do better without it.
"""

SET_BACK_BOUND = timedelta(days=31)
"""A clock that is set back by so much finds everything that its view needs for it."""


def not_ready_because(view: QuotaView | None, now: datetime) -> str | None:
    """Tell why a view shouldn't be asked: never loaded, or not refreshed for too long."""
    if view is None or view.refreshed_at is None:
        return "the view is not loaded yet"
    age = now - view.refreshed_at
    if age > UNREFRESHED_BOUND:
        return f"the view was last refreshed {age.total_seconds():.0f} s ago"
    return None


class ViewFeed:
    """Feeds the view of one version of the derived state; the only writer of it.

    Parameters
    ----------
    refreshed
        Called after each refresh of the view, whether anything has changed or not.
    """

    def __init__(
        self,
        url: str,
        schemas: Schemas,
        view: QuotaView,
        serving: Serving[QuotaView],
        clock: Clock,
        *,
        refreshed: Callable[[], None],
    ) -> None:
        assert schemas.version is not None
        self._url = url
        self._schemas = schemas
        self._version = schemas.version
        self._view = view
        self._serving = serving
        self._known = KnownGovernance(view.governance)
        self._clock = clock
        self._refreshed = refreshed
        self._follower = ChangeFollower()
        self._from_scratch = True
        self._day_uses = DayUses()
        self._looked_for: tuple[date, SpikeRule | None] | None = None
        """Day, and how spikes were looked for on it."""

    async def run(self, stopping: asyncio.Event) -> None:
        """Follow until told to stop; a lost database leaves the view as it is, older by the minute."""
        backoff = Backoff(max_seconds=1.0)
        while not stopping.is_set():
            try:
                async with session(self._url, self._schemas, application_name="quota view") as connection:
                    await self._follow(connection, stopping, backoff)
            except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError) as error:
                if not is_away(error):
                    raise
                await backoff.pause(stopping, error, "refreshing the view")

    async def _follow(self, connection: Session, stopping: asyncio.Event, backoff: Backoff) -> None:
        # Another server may answer now, or the old one from a backup: both may lack what the view holds.
        self._from_scratch = True
        async with listen(connection, self._schemas.changed_channel) as signal:
            while not stopping.is_set():
                await self.refresh(connection)
                backoff.reset()
                await signal.wait()

    async def refresh(self, connection: Session) -> None:
        """Bring the view to the committed state, read in one snapshot.

        A view that answers while another version serves stands still: see :class:`Serving`.
        """
        now, steady, view = self._clock.now(), self._clock.steady(), self._view
        began = asyncio.get_running_loop().time()
        async with connection.transaction(isolation="repeatable_read", readonly=True):
            active = await active_version(connection)
            if not self._serving.may_move(self._version, active):
                return
            governance = await self._known.read(PostgresLedger(connection))
            horizon = _previous_period(governance, now)
            follower, changes = self._follower, await self._follower.poll(connection)
            # The horizon goes back with the clock or a time zone: totals were dropped that count again.
            whole = (
                self._from_scratch or horizon < view.horizon or any(change.restarted for change in changes)
            )
            if whole:
                follower = ChangeFollower()
                changes = await follower.poll(connection)
            moved = {each.position.source_id: each.old_change_seq for each in changes if each.has_rows}
            totals = await committed_totals(connection, None if whole else moved, since=horizon)
            anew = whole or governance.assets is not view.governance.assets
            of_assets = await asset_users(connection, governance.assets.nominees, None if anew else moved)
            known_change_seq = None if whole else view.ledger_change_seq
            held = await pending_changes(connection, known_change_seq, since=horizon)
            advising = await _advising(connection, governance.quota_policies.at(now), now)
            looking_for = now.astimezone(UTC).date(), governance.quota_policies.at(now).spikes
            users, day_uses = await self._used_today(connection, totals, *looking_for)
        # From here on nothing awaits: a check sees the view before or after, never between.
        if whole:
            view.clear_totals()
            view.next_offsets, view.as_of = {}, None
        if held.whole:
            view.clear_pending()
        if whole or horizon != view.horizon:
            earliest, _ = governance.calendars.at(now).bounds(horizon)
            governance = self._known.forget(earliest - SET_BACK_BOUND)
        if whole or looking_for != self._looked_for:
            view.clear_day_uses()
        view.governance = governance
        view.asset_users = of_assets if anew else {**view.asset_users, **of_assets}
        view.put_totals(totals)
        view.put_pending(held.pending)
        view.put_day_uses(users, day_uses)
        view.put_interventions(held.states, held.bypasses)
        view.ledger_change_seq, view.bypass_seq = held.change_seq, held.bypass_seq
        view.put_fallen_back(advising)
        if horizon != view.horizon:
            view.drop_before(horizon)
        positions = [change.position for change in changes]
        view.next_offsets = view.next_offsets | {
            f"{each.topic}/{each.partition}": each.next_offset for each in positions
        }
        view.as_of = max(
            (moment for moment in (view.as_of, *(each.as_of for each in positions)) if moment), default=None
        )
        follower.acknowledge(changes)
        self._follower, self._from_scratch, self._looked_for = follower, False, looking_for
        view.refreshed_at, view.refresh_began = steady, began
        self._serving.put(self._version, view, active)
        self._refreshed()

    async def _used_today(
        self, connection: Session, moved: Iterable[AccountId], today: date, rule: SpikeRule | None
    ) -> tuple[set[str], dict[str, DayUse]]:
        """Return whose use of today is to be put anew, and what it is where it is worth a look."""
        if rule is None:
            return set(), {}
        users = {owner_id for kind, owner_id, *_ in map(split_account_id, moved) if kind == _SUBJECT}
        if (today, rule) != self._looked_for:
            users |= self._view.subjects()
        return users, await self._day_uses.find(partial(daily_totals, connection), users, today, rule)


async def _advising(connection: Session, policy: QuotaPolicy, now: datetime) -> Timeline[frozenset[Rule]]:
    """Return which rules only advise this week, as they have interrupted too many calls of it."""
    budgets, week = policy.friction, week_of(now)
    if not budgets:
        return NOBODY_FELL_BACK
    return fallen_back(budgets, week, await told_of_friction(connection, week, budgets))


def _previous_period(governance: Governance, now: datetime) -> PeriodId:
    calendar = governance.calendars.at(now)
    return calendar.before(calendar.period_of(now))
