"""What an account has used of its limit: the state that checks are answered from."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, time, timedelta
from operator import attrgetter
from typing import Any, Final, NamedTuple

from tokenomics_contracts.units import (
    MAX_LIMIT_MICRO_USD,
    UNATTRIBUTED,
    AccountId,
    MicroUsd,
    PeriodId,
    split_account_id,
)
from tokenomics_contracts.units import Purpose as CallPurpose
from tokenomics_quota.domain.accounts import Account, AccountKind, Purpose, parse_account_id
from tokenomics_quota.domain.approvals import NOTHING_GRANTED
from tokenomics_quota.domain.balance import Balance, Bounds, Touched, headroom_of
from tokenomics_quota.domain.directory import Attribution
from tokenomics_quota.domain.findings import Rule
from tokenomics_quota.domain.friction_budgets import NOBODY_FELL_BACK
from tokenomics_quota.domain.holds import AccountState
from tokenomics_quota.domain.interventions import Bypass, Shut
from tokenomics_quota.domain.spikes import DayUse
from tokenomics_quota.domain.standing import Standing
from tokenomics_quota.domain.timeline import EVER, NEVER, Timeline
from tokenomics_quota.projections.governance import Governance
from tokenomics_quota.projections.totals import PeriodTotals

_DAY: Final = timedelta(days=1)
_MOST_KEPT = 10_000


_NOTHING_PENDING: Final[Timeline[MicroUsd]] = Timeline((), before=MicroUsd(0))
_Key = str | tuple[str | None, ...]


def _key(subject: str, project_id: str | None, purpose: CallPurpose) -> _Key:
    """Return what is kept of a caller under: the subject alone for most calls."""
    if purpose != "operational":
        return subject, project_id, purpose
    return (subject, project_id) if project_id else subject


class _Kept(NamedTuple):
    since: datetime
    until: datetime
    touched: Touched
    amounts_version: int
    """At which the amounts in it were looked up."""
    governed_since: datetime
    governed_until: datetime
    """While what governs holds, and only amounts may change."""


class QuotaView:
    """Governance, totals and what is held as of one moment, in memory.

    Attributes
    ----------
    horizon
        Totals of this period and later ones are at hand; earlier ones are not in the view.
    next_offsets
        How far each partition is applied, by ``topic/partition``; replaced as a whole by each refresh, never
        changed.
    as_of
        Append time of the newest event applied.
    ledger_change_seq
        How far the hold ledger is applied.
    bypass_seq
        The newest change of a bypass that is applied.
    asset_users
        How many others used each asset that somebody shared; replaced as a whole, never changed.
    refreshed_at
        When the view last equalled the committed state, by a clock that never steps; ``None`` before the
        first load.
    refresh_began
        The same moment in seconds of the event loop's clock.
    """

    def __init__(self, governance: Governance) -> None:
        self.governance = governance
        self.horizon = PeriodId("")
        self.next_offsets: dict[str, int] = {}
        self.as_of: datetime | None = None
        self.ledger_change_seq = self.bypass_seq = 0
        self.asset_users: Mapping[str, int] = {}
        self.refreshed_at: datetime | None = None
        self.refresh_began: float | None = None
        self._kept: dict[_Key, _Kept] = {}
        self._balances: dict[Account, Balance] = {}
        """Of shared accounts, as they were last kept of a caller."""
        self._bounds: dict[Bounds, Bounds] = {}
        """One object for all accounts that are alike."""
        self._standings: dict[Standing, Standing] = {}
        """One object for all callers that are alike."""
        self._kept_under = governance
        self._totals: dict[PeriodId, PeriodTotals] = {}
        self._pending: dict[Account, Timeline[MicroUsd]] = {}
        self._day_uses: dict[str, DayUse] = {}
        self._shut: dict[Account, AccountState] = {}
        """Accounts that take no holds; few."""
        self._bypasses: tuple[Bypass, ...] = ()
        self._fallen_back = NOBODY_FELL_BACK
        self._amounts_version = 0

    def put_totals(self, totals: Mapping[AccountId, MicroUsd]) -> None:
        """Replace the posted totals of these accounts."""
        self._amounts_version += bool(totals)
        for account, total in totals.items():
            kind, owner_id, purpose, period = split_account_id(account)
            if period not in self._totals:
                self._totals[period] = PeriodTotals(period)
            self._totals[period].put(kind, self.governance.remembered(owner_id), purpose, total)

    def put_pending(self, pending: Mapping[AccountId, Timeline[MicroUsd]]) -> None:
        """Replace what pends on these accounts, over time: nothing has to happen for a hold to end."""
        self._amounts_version += bool(pending)
        for account_id, amounts in pending.items():
            account = parse_account_id(account_id)
            account = account._replace(owner_id=self.governance.remembered(account.owner_id))
            if amounts.starts or amounts.at(EVER):
                self._pending[account] = amounts
            else:
                self._pending.pop(account, None)

    def put_day_uses(self, subjects: Iterable[str], uses: Mapping[str, DayUse]) -> None:
        """Replace what these subjects have used on a day; those without any have too little to look at."""
        for subject in subjects:
            if (use := uses.get(subject)) is not None:
                self._day_uses[self.governance.remembered(subject)] = use
            else:
                self._day_uses.pop(subject, None)
            self._amounts_version += 1

    def clear_day_uses(self) -> None:
        """Forget what was used on days."""
        self._amounts_version += 1
        self._day_uses.clear()

    def subjects(self) -> set[str]:
        """Return the subjects that a cost touched, in any period at hand."""
        return {subject for totals in self._totals.values() for subject in totals.owners(AccountKind.SUBJECT)}

    def _day_use(self, own: Account, now: datetime) -> tuple[DayUse | None, datetime, datetime]:
        """Return what the owner of an account has used today, and from when and until when that holds."""
        use = self._day_uses.get(own.owner_id) if own.kind is AccountKind.SUBJECT else None
        if use is None:
            return None, EVER, NEVER
        start = datetime.combine(use.day, time(), UTC)
        end = start + _DAY
        if start <= now < end:
            return use, start, end
        return (None, EVER, start) if now < start else (None, end, NEVER)

    def put_interventions(self, states: Mapping[AccountId, AccountState], bypasses: Sequence[Bypass]) -> None:
        """Replace the states of these accounts, and all bypasses."""
        shut = dict(self._shut)
        for account_id, state in states.items():
            account = parse_account_id(account_id)
            if state is AccountState.OPEN:
                shut.pop(account, None)
            else:
                shut[account] = state
        if shut != self._shut or tuple(bypasses) != self._bypasses:
            self._shut, self._bypasses = shut, tuple(bypasses)
            self._kept.clear()  # it happens seldom, and may concern many callers

    def put_fallen_back(self, rules: Timeline[frozenset[Rule]]) -> None:
        """Replace which rules only advise, as they have interrupted too many calls."""
        if rules.steps() != self._fallen_back.steps():
            self._fallen_back = rules
            self._kept.clear()

    def clear_pending(self) -> None:
        """Forget all that pends, and which accounts are shut."""
        self._amounts_version += 1
        self._pending.clear()
        self._shut = {}
        self._kept.clear()

    def pending(self, account: Account) -> Timeline[MicroUsd]:
        """Return what pends on an account over time: held, or settled by call and not shown as posted yet."""
        return self._pending.get(account, _NOTHING_PENDING)

    def clear_totals(self) -> None:
        """Forget all totals."""
        self._amounts_version += 1
        self._totals.clear()

    def drop_before(self, period: PeriodId) -> None:
        """Forget the totals, and what pends, of periods before this one."""
        self.horizon = period
        self._amounts_version += 1
        for earlier in [known for known in self._totals if known < period]:
            del self._totals[earlier]
        for account in [known for known in self._pending if known.period < period]:
            del self._pending[account]
        for account in [known for known in self._shut if known.period < period]:
            del self._shut[account]

    def posted(self, account: Account) -> MicroUsd:
        """Return what is posted to an account; for purpose ``all`` both purposes together."""
        kind, owner_id, purpose, period = account
        totals = self._totals.get(period)
        return totals.posted(kind, owner_id, purpose) if totals else MicroUsd(0)

    def is_touched(self, account: Account) -> bool:
        """Whether a cost of its period touched an account, for whatever purpose; free usage leaves none."""
        totals = self._totals.get(account.period)
        return totals is not None and totals.is_touched(account.kind, account.owner_id)

    def touched(self, period: PeriodId) -> Sequence[AccountId]:
        """Return the accounts, for purpose ``all``, that a cost of a period touched, by id.

        The sequence given stays as it is. Asking again costs nothing unless accounts were added.
        """
        totals = self._totals.get(period)
        return totals.touched() if totals else ()

    def balance(self, account: Account, now: datetime) -> Balance:
        """Return an account against its effective limit: what policy gives, and the grants of the instant.

        A limit is that of the instant; an account of a past period keeps the limit it ended with. Grants are
        for all purposes together, and leave unlimited what is unlimited.
        """
        governance = self.governance
        _, end = governance.calendars.at(now).bounds(account.period)
        at = governance.instant_in(account.period, now)
        limit = governance.limit(account.kind, account.owner_id, at, account.purpose)
        thresholds = governance.quota_policies.at(at).thresholds
        bounds = Bounds(None, end, thresholds)
        if limit is not None:
            amount, granted = limit.micro_usd, NOTHING_GRANTED
            if account.purpose is Purpose.ALL:
                granted = governance.granted(account).at(at)
                granted = granted.at_most(MicroUsd(MAX_LIMIT_MICRO_USD - amount))
            if granted.micro_usd:
                amount = MicroUsd(amount + granted.micro_usd)
            members = governance.members(account).at(at)
            bounds = Bounds(amount, end, thresholds, limit.hard, granted, members, limit.allowance_micro_usd)
        return Balance(account, bounds, self.posted(account), self.pending(account).at(now))

    def touched_by(
        self, subject: str, project_id: str | None, now: datetime, purpose: CallPurpose = "operational"
    ) -> Touched:
        """Return the accounts that decide a call of a subject (or alias) now.

        Those that it would be counted on: for all purposes together and, where a budget limits what is for
        experiments, for that, too.

        What follows from governance is worked out once and kept for as long as it holds; then a check costs
        two look-ups an account, and none while no amounts have moved and no hold has ended.
        """
        kept = self._kept.get(_key(subject, project_id, purpose))
        if kept is not None:
            since, until, touched, amounts_version, _, _ = kept
            if (
                amounts_version == self._amounts_version
                and since <= now < until
                and self._kept_under is self.governance
            ):
                return touched
        return self._touched_anew(subject, project_id, now, purpose)

    def _touched_anew(
        self, subject: str, project_id: str | None, now: datetime, purpose: CallPurpose
    ) -> Touched:
        if self._kept_under is not self.governance or len(self._kept) > _MOST_KEPT:
            self._let_go()
        subject = self.governance.remembered(subject)  # so that the key holds no text of its own
        key = _key(subject, project_id, purpose)
        kept = self._kept.get(key)
        if kept is None or not kept.governed_since <= now < kept.governed_until:
            kept = self._governed(subject, project_id, now, purpose)
        kept = self._kept[key] = self._as_of(kept, now)
        return kept.touched

    def _let_go(self) -> None:
        """Keep what still follows: an approval changes it for few, all else that governs for anybody."""
        changed = self.governance.changed_since(self._kept_under)
        if changed is None or len(self._kept) > _MOST_KEPT:
            for kept in (self._kept, self._balances, self._bounds, self._standings):
                kept.clear()
        elif changed:
            self._kept = {
                key: each
                for key, each in self._kept.items()
                if changed.isdisjoint([balance.account[:2] for balance in each.touched.balances])
            }
        self._kept_under = self.governance

    def _governed(self, subject: str, project_id: str | None, now: datetime, purpose: CallPurpose) -> _Kept:
        """Work out balances, and until when they hold: the first turn of all that was asked for them."""
        governance = self.governance
        # Asked of the directory, so that it isn't kept beside what follows from it.
        attribution = governance.directory.attribution(subject)
        calendar = governance.calendars.at(now)
        period = calendar.period_of(now)
        carrier = attribution.at(now)
        accounts = self._deciding(carrier, project_id, now, purpose)
        balances = tuple(self._with_shared_bounds(self.balance(account, now)) for account in accounts)
        timelines: list[Timeline[Any]] = [
            attribution,
            governance.calendars,
            governance.quota_policies,
            governance.use_cases,
            *(
                governance.directory.member(account.owner_id)
                for account in accounts
                if account.kind is AccountKind.SUBJECT
            ),
            *(governance.granted(account) for account in accounts if account.purpose is Purpose.ALL),
            governance.unlocks(carrier, project_id),
            governance.stages(carrier.team_id, now),
            self._fallen_back,
            *(governance.members(each.account) for each in balances if each.limit_micro_usd is not None),
        ]
        start, end = calendar.bounds(period)
        since = max(start, *(timeline.since(now) for timeline in timelines))
        until = min(end, *(timeline.until(now) for timeline in timelines))
        standing = governance.standing(carrier, project_id, now)
        if advising := self._fallen_back.at(now):
            standing = standing._replace(advising=advising)
        shut = tuple(Shut(each, self._shut[each]) for each in accounts if each in self._shut)
        bypass = None
        if covering := [each for each in self._bypasses if each.covers(accounts)]:
            turns = sorted({instant for each in covering for instant in (each.started_at, each.ends_at)})
            since = max(since, *(instant for instant in turns if instant <= now), since)
            until = min(until, *(instant for instant in turns if instant > now), until)
            in_force = [each for each in covering if each.started_at <= now < each.ends_at]
            bypass = max(in_force, key=attrgetter("ends_at"), default=None)
        if shut or bypass:
            standing = standing.intervened(shut, bypass)
        standing = self._standings.setdefault(standing, standing)
        touched = Touched(balances, headroom_of(balances, standing), standing)
        return _Kept(since, until, touched, -1, since, until)

    def _with_shared_bounds(self, balance: Balance) -> Balance:
        bounds = self._bounds.setdefault(balance.bounds, balance.bounds)
        return self._one_for_all(balance._replace(bounds=bounds))

    def _as_of(self, kept: _Kept, now: datetime) -> _Kept:
        """Return the same with the amounts of now, and until when they hold if nothing happens."""
        balances = kept.touched.balances
        pending = [self.pending(balance.account) for balance in balances]
        amounts = [
            (self.posted(balance.account), each.at(now))
            for balance, each in zip(balances, pending, strict=True)
        ]
        touched = kept.touched
        day_use, since, until = self._day_use(balances[0].account, now)
        if day_use != touched.day_use:
            touched = replace(touched, day_use=day_use)
        if amounts != [(balance.posted_micro_usd, balance.pending_micro_usd) for balance in balances]:
            touched = touched.with_balances(
                tuple(
                    self._one_for_all(balance._replace(posted_micro_usd=posted, pending_micro_usd=held))
                    for balance, (posted, held) in zip(balances, amounts, strict=True)
                )
            )
        return _Kept(
            max(since, kept.governed_since, *(each.since(now) for each in pending)),
            min(until, kept.governed_until, *(each.until(now) for each in pending)),
            touched,
            self._amounts_version,
            kept.governed_since,
            kept.governed_until,
        )

    def _one_for_all(self, balance: Balance) -> Balance:
        """Return the one object that all callers whose calls count on a shared account keep of it."""
        if not balance.shared:
            return balance
        known = self._balances.get(balance.account)
        if known != balance:
            known = self._balances[balance.account] = balance
        return known

    def accounts_of(
        self, subject: str, project_id: str | None, now: datetime, purpose: CallPurpose = "operational"
    ) -> list[Account]:
        """Return the accounts that decide a call of a subject (or alias) now: the caller's own first."""
        carrier = self.governance.directory.attribution(subject).at(now)
        return self._deciding(carrier, project_id, now, purpose)

    def _deciding(
        self, carrier: Attribution, project_id: str | None, now: datetime, purpose: CallPurpose
    ) -> list[Account]:
        accounts = _accounts(carrier, project_id, self.governance.calendars.at(now).period_of(now))
        if purpose == "operational":
            return accounts
        own, *shared = (account.for_purpose(Purpose.EXPERIMENT) for account in accounts)
        policy = self.governance.quota_policies.at(now)
        limited = [each for each in shared if policy.budget(each.kind, each.owner_id, each.purpose)]
        return [*accounts, own, *limited] if limited else accounts


def _accounts(attribution: Attribution, project_id: str | None, period: PeriodId) -> list[Account]:
    subject_id, team_id, cost_centre_id = attribution
    accounts = [
        Account(AccountKind.SUBJECT, subject_id, Purpose.ALL, period)
        if subject_id
        else Account(AccountKind.UNATTRIBUTED, UNATTRIBUTED, Purpose.ALL, period)
    ]
    if project_id:
        accounts.append(Account(AccountKind.PROJECT, project_id, Purpose.ALL, period))
    if team_id:
        accounts.append(Account(AccountKind.TEAM, team_id, Purpose.ALL, period))
    if cost_centre_id:
        accounts.append(Account(AccountKind.COST_CENTRE, cost_centre_id, Purpose.ALL, period))
    return accounts
