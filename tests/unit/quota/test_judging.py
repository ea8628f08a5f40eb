"""Who may have another limit by an approval is judged again, nobody else; the same is said of everybody."""

import asyncio
from collections.abc import Callable, Collection, Iterable, Mapping
from datetime import date, datetime
from itertools import chain, product
from typing import cast

from hypothesis import given
from hypothesis import strategies as st

from tests.support.memory_ledger import MemoryLedger
from tests.support.quota_events import (
    NOW,
    NoPrices,
    approved,
    governance,
    governing,
    group,
    person,
    quota_policy,
    revoked,
    shared,
)
from tests.unit.quota.test_approvals import (
    ALLOWANCES,
    DAY,
    INSTANTS,
    LIMIT,
    MOMENT,
    histories,
)
from tokenomics_chassis.records import SourceId
from tokenomics_contracts.events.base import Event
from tokenomics_contracts.events.quota import Announced, ThresholdCrossed
from tokenomics_contracts.units import AccountId, MicroUsd, PeriodId, split_account_id
from tokenomics_quota.domain.accounts import Account, AccountKind, parse_account_id
from tokenomics_quota.domain.findings import Rule
from tokenomics_quota.domain.friction_budgets import Friction
from tokenomics_quota.domain.holds import AccountState
from tokenomics_quota.domain.interventions import Bypass
from tokenomics_quota.domain.timeline import Timeline
from tokenomics_quota.ports import Found, Ledger
from tokenomics_quota.projections.balances import QuotaView
from tokenomics_quota.projections.governance import Governance, GoverningEvent
from tokenomics_quota.usecases.announcing import TotalsJudge
from tokenomics_quota.usecases.projecting import KnownGovernance

SOURCE = SourceId(1)
ALIAS = f"alias:{7:032}"
BUDGETS = [
    {"kind": kind, "owner_id": owner_id, "limit_micro_usd": LIMIT}
    for kind, owner_id in (("team", "red"), ("team", "blue"), ("project", "atlas"), ("cost_centre", "cc"))
]
FOUNDING = (
    quota_policy(allowances=ALLOWANCES, budgets=BUDGETS),
    person("ada", aliases=(ALIAS,)),
    person("bob", team_id="blue"),
)
OWNERS = ("subject/ada", "subject/bob", "team/red", "team/blue", "project/atlas", "cost_centre/cc")
EVERYBODY = "everybody"


class Company:
    """Totals, and what governs them, without any database."""

    def __init__(self) -> None:
        self.ledger = MemoryLedger()
        self.posted: dict[AccountId, MicroUsd] = {}
        self.moved: list[AccountId] = []
        self._told = 0

    async def tell(self, *events: Event | GoverningEvent) -> None:
        listed = list[GoverningEvent]()
        for event in events:
            self._told += 1
            listed.append(
                event if isinstance(event, GoverningEvent) else governing(event, 1_000 + self._told)
            )
        version = await self.ledger.governing_version()
        await self.ledger.put_governing_events(listed, version.number + 1)

    def use(self, owner: str, micro_usd: int, period: str = "2026-11") -> None:
        account_id = AccountId(f"{owner}/operational/{period}")
        self.posted[account_id] = MicroUsd(self.posted.get(account_id, 0) + micro_usd)
        self.moved.append(account_id)


class Announcer:
    """One that judges a company, and remembers what it said and whose totals it looked at."""

    def __init__(self, company: Company) -> None:
        self.said = set[tuple[AccountId, int, int]]()
        self.looked_at: set[tuple[str, str]] | str = set()
        self._company = company
        self._seen = 0
        self._judge: TotalsJudge | None = None

    async def judge(self, now: datetime, *, anew: bool = False) -> set[tuple[str, str]] | str:
        """Return whose totals it asked for beside those that moved."""
        anew = anew or self._judge is None
        if self._judge is None:
            self._judge = TotalsJudge(KnownGovernance(Governance(NoPrices())))
        self.looked_at = set()
        moved = {SOURCE: self._seen} if self._seen < len(self._company.moved) else {}
        self._seen = len(self._company.moved)
        await self._judge.judge(cast("Ledger", self._company.ledger), self, moved, now, anew=anew)
        return self.looked_at

    async def totals(
        self, moved: Mapping[SourceId, int] | None, *, since: PeriodId
    ) -> Mapping[AccountId, MicroUsd]:
        if moved is None:
            self.looked_at = EVERYBODY
            accounts: Collection[AccountId] = self._company.posted.keys()
        else:
            accounts = self._company.moved[moved[SOURCE] :]
        return {each: self._company.posted[each] for each in accounts if split_account_id(each)[3] >= since}

    async def totals_of(
        self, owners: Collection[tuple[str, str]], *, since: PeriodId
    ) -> Mapping[AccountId, MicroUsd]:
        self.looked_at = set(owners)
        return {
            each: posted
            for each, posted in self._company.posted.items()
            if split_account_id(each)[3] >= since and parse_account_id(each)[:2] in owners
        }

    async def announce(self, due: Iterable[Announced], now: datetime) -> int:
        del now
        crossed = (each for each in due if isinstance(each, ThresholdCrossed))
        unsaid = {(each.account_id, each.threshold_basis_points, each.limit_micro_usd) for each in crossed}
        unsaid -= self.said
        self.said |= unsaid
        return len(unsaid)

    async def days(
        self, owners: Collection[str], *, since: date, before: date
    ) -> Mapping[str, Mapping[date, MicroUsd]]:
        del owners, since, before
        return {}

    async def unsettled(self, period: PeriodId, *, at_most: int) -> Found:
        del period, at_most
        return Found([], {})

    async def unsettled_of(self, accounts: Collection[Account]) -> Found:
        del accounts
        return Found([], {})

    async def friction(self, week: date) -> Friction:
        del week
        return Friction(0, {})

    async def forget_friction(self, before: date) -> None:
        del before

    async def was_closed(self, period: PeriodId) -> bool:
        del period
        return False

    async def closed(self, accounts: Collection[Account]) -> Collection[AccountId]:
        del accounts
        return ()


async def judged(*events: Event) -> tuple[Company, Announcer]:
    """Return a company where everybody used 90 %, and its announcer that has said so."""
    company = Company()
    await company.tell(*FOUNDING, *events)
    for owner in OWNERS:
        company.use(owner, LIMIT * 9 // 10)
    announcer = Announcer(company)
    assert await announcer.judge(NOW) == EVERYBODY
    return company, announcer


async def test_an_approval_has_those_judged_again_whom_it_concerns_and_nobody_else() -> None:
    company, announcer = await judged(group("on-call", "ada", "bob"))
    for number, (target, concerned) in enumerate(
        [
            ("subject/ada", {("subject", "ada")}),
            ("team/red", {("team", "red")}),
            ("project/atlas", {("project", "atlas")}),
            ("cost_centre/cc", {("cost_centre", "cc")}),
            ("group/on-call", {("subject", "ada"), ("subject", "bob")}),
        ]
    ):
        await company.tell(approved(f"r{number}", target=target, amount_micro_usd=1))
        assert await announcer.judge(NOW) == concerned
        assert await announcer.judge(NOW) == set()
    await company.tell(revoked("r1", NOW), revoked("unknown"))
    assert await announcer.judge(NOW) == {("team", "red")}


async def test_a_grant_is_seen_to_begin_and_to_end_at_its_instant_for_whom_it_is() -> None:
    company, announcer = await judged()
    await company.tell(approved("r1", since=NOW + DAY, until=NOW + 2 * DAY, amount_micro_usd=LIMIT // 5))
    await company.tell(approved("r2", target="team/red", until=NOW + 2 * DAY, amount_micro_usd=LIMIT // 5))
    assert await announcer.judge(NOW) == {("subject", "ada"), ("team", "red")}
    ada, red = (
        ("subject/ada/all/2026-11", 7_000, LIMIT * 6 // 5),
        ("team/red/all/2026-11", 7_000, LIMIT * 6 // 5),
    )
    assert (ada in announcer.said, red in announcer.said) == (False, True)
    assert await announcer.judge(NOW + DAY - MOMENT) == set()
    assert await announcer.judge(NOW + DAY) == {("subject", "ada")}
    assert ada in announcer.said
    assert await announcer.judge(NOW + 2 * DAY) == {("subject", "ada"), ("team", "red")}
    assert await announcer.judge(NOW + 3 * DAY) == set()


async def test_all_else_that_governs_has_everybody_judged_again_and_prices_and_assets_nobody_twice() -> None:
    company, announcer = await judged(approved())
    for event in (
        person("ada", manager_id="boss"),
        group("on-call", "ada"),
        quota_policy(2, allowances=ALLOWANCES, budgets=BUDGETS),
    ):
        await company.tell(event, approved("r2", until=NOW + 9 * DAY))
        assert await announcer.judge(NOW) == EVERYBODY
        assert await announcer.judge(NOW) == set()
    await company.tell(shared("prompt-1"))
    assert await announcer.judge(NOW) == set()


async def test_a_clock_that_is_set_back_has_everybody_judged_again_once() -> None:
    _, announcer = await judged(approved(until=NOW + 9 * DAY))
    assert await announcer.judge(NOW - DAY) == EVERYBODY
    assert await announcer.judge(NOW - DAY) == set()
    assert await announcer.judge(NOW) == set()


async def test_an_approval_for_very_many_has_everybody_judged_again() -> None:
    company, announcer = await judged(group("all", *(f"p{number}" for number in range(1_001))))
    await company.tell(approved(target="group/all"))
    assert await announcer.judge(NOW) == EVERYBODY


Step = GoverningEvent | tuple[str, int, str] | datetime


def steps() -> st.SearchStrategy[list[Step]]:
    """Return what is told and used, and between all that when it is judged or asked for; clocks step back."""
    used = st.tuples(
        st.sampled_from(OWNERS), st.integers(-LIMIT // 4, LIMIT), st.sampled_from(["2026-10", "2026-11"])
    )
    moves = st.builds(
        lambda team_id, role, days: governing(
            person("bob", team_id=team_id, role=role, since=NOW + days * DAY), 900
        ),
        st.sampled_from(["red", "blue"]),
        st.sampled_from(["engineer", "guest"]),
        st.integers(-1, 1),
    )
    others = st.lists(st.one_of(used, moves), max_size=3)
    happening = st.tuples(histories(), others).map(chain.from_iterable).map(list).flatmap(st.permutations)
    instants = st.lists(st.lists(st.sampled_from(INSTANTS), max_size=2), min_size=15, max_size=15)
    at_first: list[Step] = [(owner, LIMIT * 9 // 10, "2026-11") for owner in OWNERS]
    return st.builds(
        lambda happened, asked: [
            *at_first,
            *chain.from_iterable((step, *at) for step, at in zip([NOW, *happened], asked, strict=False)),
        ],
        happening,
        instants,
    )


@given(steps())
def test_whatever_happens_in_whatever_order_the_same_is_said_as_if_everybody_were_judged(
    happening: list[Step],
) -> None:
    async def happen() -> None:
        company = Company()
        await company.tell(*FOUNDING)
        announcer, plain = Announcer(company), Announcer(company)
        for step in happening:
            match step:
                case GoverningEvent():
                    await company.tell(step)
                case datetime():
                    await announcer.judge(step)
                    assert await plain.judge(step, anew=True) == EVERYBODY
                    assert announcer.said == plain.said
                case owner, micro_usd, period:
                    company.use(owner, micro_usd, period)

    asyncio.run(happen())


@given(steps())
def test_whoever_is_asked_of_at_any_time_a_view_that_keeps_what_follows_answers_like_one_that_keeps_nothing(
    happening: list[Step],
) -> None:
    state, totals = governance(*FOUNDING), dict[AccountId, MicroUsd]()
    keeping = QuotaView(state)
    for step in happening:
        match step:
            case GoverningEvent():
                keeping.governance = state = state.with_events([step], state.version + 1)
            case datetime():
                fresh = QuotaView(state)
                fresh.put_totals(totals)
                for subject, project_id in product(("ada", "bob", ALIAS, "eve"), (None, "atlas")):
                    asked = (subject, project_id, step)
                    kept, anew = keeping.touched_by(*asked), fresh.touched_by(*asked)
                    assert (kept.balances, kept.headroom) == (anew.balances, anew.headroom)
                    assert kept.standing == anew.standing
            case owner, micro_usd, period:
                account_id = AccountId(f"{owner}/operational/{period}")
                totals[account_id] = MicroUsd(totals.get(account_id, 0) + micro_usd)
                keeping.put_totals({account_id: totals[account_id]})


Doing = Callable[[QuotaView], None]


def doings() -> st.SearchStrategy[list[tuple[int, Doing]]]:
    """Return what comes to a view beside events, and after how many steps."""

    def advising(rules: frozenset[Rule], since: datetime) -> Doing:
        week = Timeline([(since, rules), (since + 7 * DAY, frozenset())], before=frozenset[Rule]())
        return lambda view: view.put_fallen_back(week)

    def passing(owner: str, since: datetime, until: datetime) -> Doing:
        kind, owner_id = owner.split("/")
        bypass = Bypass("b", AccountKind(kind), owner_id, since, until, "incident", "O-1", "boss")
        return lambda view: view.put_interventions({}, [bypass])

    def shutting(owner: str, state: AccountState) -> Doing:
        return lambda view: view.put_interventions({AccountId(f"{owner}/all/2026-11"): state}, ())

    owners, instants = st.sampled_from(OWNERS), st.sampled_from(INSTANTS)
    doing = st.one_of(
        st.builds(advising, st.frozensets(st.sampled_from([Rule.ALLOWANCES, Rule.BUDGETS])), instants),
        st.builds(passing, owners, instants, instants),
        st.builds(shutting, owners, st.sampled_from(AccountState)),
    )
    return st.lists(st.tuples(st.integers(0, 40), doing), max_size=6)


@given(steps(), doings())
def test_rules_that_fell_back_bypasses_and_shut_accounts_are_never_kept_longer_than_they_hold(
    happening: list[Step], beside: list[tuple[int, Doing]]
) -> None:
    state = governance(*FOUNDING)
    keeping, done = QuotaView(state), list[Doing]()
    for number, step in enumerate(happening):
        for _, doing in (each for each in beside if each[0] == number):
            doing(keeping)
            done.append(doing)
        match step:
            case GoverningEvent():
                keeping.governance = state = state.with_events([step], state.version + 1)
            case datetime():
                fresh = QuotaView(state)
                for doing in done:
                    doing(fresh)
                for subject, project_id in product(("ada", "bob", ALIAS, "eve"), (None, "atlas")):
                    kept, anew = (each.touched_by(subject, project_id, step) for each in (keeping, fresh))
                    assert (kept.standing, kept.headroom) == (anew.standing, anew.headroom)
