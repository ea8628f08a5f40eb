"""Grants extend limits and unlocks permit, from instant to instant, in whatever order they become known."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from itertools import pairwise, permutations, product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.quota_events import (
    LONG_AGO,
    NOW,
    NoPrices,
    approved,
    delegation,
    governance,
    governing,
    group,
    lapsed,
    person,
    price_book,
    quota_policy,
    revoked,
    team,
)
from tokenomics_contracts.events.approvals import ApprovalApproved, ApprovalLapsed, ApprovalRevoked
from tokenomics_contracts.events.base import Event
from tokenomics_contracts.events.directory import DelegationEnded, GroupUpserted, PersonLeft
from tokenomics_contracts.events.quota import PeriodClosed
from tokenomics_contracts.units import MAX_LIMIT_MICRO_USD, AccountId, MicroUsd, SubjectId
from tokenomics_quota.domain.accounts import Account, AccountKind, parse_account_id
from tokenomics_quota.domain.approvals import ModelAccess, Target
from tokenomics_quota.domain.balance import headroom_of
from tokenomics_quota.domain.checks import Answer, Call
from tokenomics_quota.domain.directory import Attribution
from tokenomics_quota.domain.friction import Band, Decision
from tokenomics_quota.domain.pricing import Quantities
from tokenomics_quota.projections.balances import QuotaView
from tokenomics_quota.projections.governance import Governance, GoverningEvent
from tokenomics_quota.usecases.checking import Terms, check
from tokenomics_quota.usecases.seeing import deciders

DAY, MOMENT = timedelta(days=1), timedelta(microseconds=1)
LIMIT = 1_000
TURN = datetime(2026, 12, 1, tzinfo=NOW.tzinfo)
ADA, BOB, RED = "subject/ada/all/2026-11", "subject/bob/all/2026-11", "team/red/all/2026-11"
ALLOWANCES = [{"role": "engineer", "limit_micro_usd": LIMIT}]


def company(*events: Event) -> QuotaView:
    """Return a view of ada, of team red, who may use 1,000 micro-USD a month, and what else is told."""
    return QuotaView(governance(quota_policy(allowances=ALLOWANCES), price_book(), person("ada"), *events))


def limits(view: QuotaView, account_id: str, *instants: datetime) -> list[int | None]:
    return [view.balance(parse_account_id(account_id), instant).limit_micro_usd for instant in instants]


def test_a_grant_counts_from_its_start_to_its_expiry_and_not_a_moment_longer() -> None:
    view = company(approved(since=NOW, until=NOW + DAY))
    around = (NOW - MOMENT, NOW, NOW + DAY - MOMENT, NOW + DAY)
    assert limits(view, ADA, *around) == [1_000, 1_100, 1_100, 1_000]


def test_grants_add_up_and_each_ends_by_itself() -> None:
    view = company(
        approved("r1", since=NOW, until=NOW + 3 * DAY),
        approved("r2", since=NOW + DAY, until=NOW + 2 * DAY, amount_micro_usd=7, overdraft=True),
    )
    around = [NOW + days * DAY for days in (0, 1, 2, 3)]
    assert limits(view, ADA, *around) == [1_100, 1_107, 1_100, 1_000]
    balance = view.balance(parse_account_id(ADA), NOW + DAY)
    assert (balance.base_limit_micro_usd, balance.bounds.granted) == (1_000, (107, 7))


def test_a_revocation_ends_a_grant_at_its_own_instant_whenever_it_is_told() -> None:
    grant, end = approved(since=NOW, until=NOW + 9 * DAY), revoked(at=NOW + DAY)
    for order in permutations([grant, end, end, revoked(at=NOW + 2 * DAY)]):
        view = company(*order)
        assert limits(view, ADA, NOW, NOW + DAY - MOMENT, NOW + DAY) == [1_100, 1_100, 1_000]


def test_a_grant_that_is_revoked_before_it_starts_never_counts() -> None:
    view = company(approved(since=NOW, until=NOW + DAY), revoked(at=NOW))
    assert limits(view, ADA, NOW, NOW + DAY - MOMENT) == [1_000, 1_000]


def test_a_lapse_says_what_the_expiry_says_already() -> None:
    view = company(lapsed(at=NOW + DAY), approved(since=NOW, until=NOW + DAY))
    assert limits(view, ADA, NOW + DAY - MOMENT, NOW + DAY) == [1_100, 1_000]


def test_a_request_is_approved_once_the_first_in_the_log_counts() -> None:
    first, second = approved(amount_micro_usd=1), approved(amount_micro_usd=2)
    assert limits(company(first, second), ADA, NOW) == [1_001]
    assert limits(company(second, first), ADA, NOW) == [1_002]
    told_late = Governance(NoPrices()).with_events(
        [
            governing(event, offset)
            for offset, event in enumerate([quota_policy(allowances=ALLOWANCES), person("ada")])
        ],
        1,
    )
    told_late = told_late.with_events([governing(second, 9)], 2).with_events([governing(first, 8)], 3)
    assert limits(QuotaView(told_late), ADA, NOW) == [1_001]


def test_a_grant_is_there_once_in_the_period_in_which_it_starts() -> None:
    view = company(approved(since=TURN - DAY, until=TURN + DAY))
    assert limits(view, ADA, TURN - MOMENT, TURN) == [1_100, 1_100]  # November keeps what it ended with
    assert limits(view, "subject/ada/all/2026-12", TURN, TURN + DAY) == [1_000, 1_000]


def test_a_grant_for_each_period_is_there_anew_after_the_turn_until_it_expires() -> None:
    view = company(approved(since=TURN - DAY, until=TURN + DAY, counts_in="each_period"))
    december = "subject/ada/all/2026-12"
    assert limits(view, ADA, TURN - DAY - MOMENT, TURN - MOMENT) == [1_000, 1_100]
    assert limits(view, december, TURN, TURN + DAY - MOMENT, TURN + DAY) == [1_100, 1_100, 1_000]


def test_the_period_of_a_grant_turns_in_the_zone_in_force_when_it_starts() -> None:
    start = TURN - timedelta(hours=5)  # the first of December in Tokyo
    grant = approved(since=start, until=start + DAY)
    zone = quota_policy(2, time_zone="Asia/Tokyo", allowances=ALLOWANCES)
    assert limits(company(grant), ADA, start) == [1_100]
    assert limits(company(grant, zone), "subject/ada/all/2026-12", start) == [1_100]


@pytest.mark.parametrize("kind", ["team", "project", "cost_centre"])
def test_a_shared_budget_takes_grants_too(kind: str) -> None:
    budget = quota_policy(
        2, allowances=ALLOWANCES, budgets=[{"kind": kind, "owner_id": "x", "limit_micro_usd": 5}]
    )
    view = company(budget, approved(kind="budget_override", target=f"{kind}/x"))
    assert limits(view, f"{kind}/x/all/2026-11", NOW) == [105]
    assert limits(view, ADA, NOW) == [1_000]


def test_what_is_unlimited_stays_so() -> None:
    view = company(approved(target="team/red"), approved("r2", target="subject/stranger"))
    for account_id in (RED, "subject/stranger/all/2026-11"):
        balance = view.balance(parse_account_id(account_id), NOW)
        assert (balance.limit_micro_usd, balance.base_limit_micro_usd) == (None, None)
        assert balance.bounds.granted == (0, 0)


def test_a_single_purpose_has_no_limit_to_extend() -> None:
    account = parse_account_id("subject/ada/experiment/2026-11")
    assert company(approved()).balance(account, NOW).limit_micro_usd is None


def test_no_grant_lifts_a_limit_beyond_what_a_limit_can_be() -> None:
    view = company(
        approved(amount_micro_usd=MAX_LIMIT_MICRO_USD, overdraft=True), approved("r2", amount_micro_usd=5)
    )
    balance = view.balance(parse_account_id(ADA), NOW)
    assert balance.limit_micro_usd == MAX_LIMIT_MICRO_USD
    assert balance.base_limit_micro_usd == 1_000
    assert balance.bounds.granted == (MAX_LIMIT_MICRO_USD - 1_000, MAX_LIMIT_MICRO_USD - 1_000)


def test_a_grant_to_a_group_reaches_who_is_a_member_at_the_instant() -> None:
    view = company(
        person("bob"),
        group("on-call", "ada"),
        group("on-call", "bob", since=NOW),
        approved(target="group/on-call", since=NOW - DAY, until=NOW + DAY),
    )
    around = (NOW - DAY - MOMENT, NOW - DAY, NOW - MOMENT, NOW, NOW + DAY)
    assert limits(view, ADA, *around) == [1_000, 1_100, 1_100, 1_000, 1_000]
    assert limits(view, "subject/bob/all/2026-11", *around) == [1_000, 1_000, 1_000, 1_100, 1_000]


def test_who_has_left_has_no_grant() -> None:
    gone = PersonLeft(person_id="ada", effective_from=NOW)  # type: ignore[arg-type] # an id
    view = company(approved(), gone)
    assert limits(view, ADA, NOW - MOMENT, NOW) == [1_100, 0]


def test_an_account_above_its_limit_stands_below_it_while_a_grant_lasts() -> None:
    view = company(approved(since=NOW, until=NOW + DAY))
    view.put_totals({AccountId("subject/ada/operational/2026-11"): MicroUsd(1_000)})
    bands = [
        view.touched_by("ada", None, NOW + offset).balances[0].band for offset in (-MOMENT, 0 * DAY, DAY)
    ]
    assert bands == [Band.APPROVE, Band.JUSTIFY, Band.APPROVE]


def test_the_next_change_of_a_limit_is_a_grants_border_or_a_groups() -> None:
    soon = NOW + timedelta(hours=1)
    assert company(approved(since=soon, until=NOW + DAY)).governance.next_change(NOW) == soon
    assert company(approved(until=soon)).governance.next_change(NOW) == soon
    assert company(revoked(at=soon)).governance.next_change(NOW) == soon
    assert company(group("on-call", "ada", since=soon)).governance.next_change(NOW) == soon


def test_a_state_tells_whom_approvals_since_another_may_concern() -> None:
    ada, bob, red, atlas = ("subject", "ada"), ("subject", "bob"), ("team", "red"), ("project", "atlas")
    told: list[tuple[Event, list[Target]]] = [
        (revoked("unknown"), []),
        (revoked("r1", NOW + 9 * DAY), []),
        (revoked("r1", NOW), [ada]),
        (approved("r3", "model_access", "team/red"), [red]),
        (approved("r4", target="group/on-call"), [ada, bob]),
        (approved("unknown", since=NOW, until=NOW + DAY), []),
        (closed("project/atlas/all/2026-11", 7), [atlas]),
    ]
    first = company(
        group("on-call", "ada", "bob"), approved("r1"), approved("r2", "justification")
    ).governance
    state = first
    for number, (event, concerned) in enumerate(told, start=2):
        before, state = state, state.with_events([governing(event, 90 + number)], number)
        assert state.changed_since(before) == frozenset(concerned)
    assert state.changed_since(state) == frozenset()
    assert state.changed_since(first) == frozenset({ada, bob, red, atlas})
    assert first.changed_since(state) is None, "who goes back must look at everything"
    moved = state.with_events([governing(person("eve"), 98)], 9)
    assert moved.changed_since(state) is None
    later = state
    for number in range(10, 120):
        later = later.with_events([governing(approved(f"r{number}"), number)], number)
    assert later.changed_since(state) is None, "that is too long ago"


def test_who_keeps_what_follows_lets_go_of_it_for_whom_an_approval_is() -> None:
    view = company(person("bob", team_id="blue"))
    kept = {subject: view.touched_by(subject, None, NOW) for subject in ("ada", "bob")}
    view.governance = view.governance.with_events([governing(approved(), 50)], 2)
    after = {subject: view.touched_by(subject, None, NOW) for subject in ("ada", "bob")}
    assert after["bob"] is kept["bob"]
    assert (after["ada"].balances[0].limit_micro_usd, kept["ada"].balances[0].limit_micro_usd) == (
        1_100,
        1_000,
    )


def asked(view: QuotaView, posted: int, now: datetime) -> Answer:
    view.put_totals({AccountId("subject/ada/operational/2026-11"): MicroUsd(posted)})
    call = Call("ada", "acme", "one", Quantities(0, 0, 0, 0, 0, "standard"), None)
    return check(Terms.at(view.governance, now), view.touched_by("ada", None, now), call, now)


def test_a_justification_opens_the_justify_band_until_it_expires() -> None:
    view = company(approved(kind="justification", since=NOW, until=NOW + DAY))
    around = (NOW - MOMENT, NOW, NOW + DAY - MOMENT, NOW + DAY)
    answers = [asked(view, 950, instant) for instant in around]
    required, nudged = Decision.JUSTIFICATION_REQUIRED, Decision.ALLOW_WITH_NUDGE
    assert [answer.decision for answer in answers] == [required, nudged, nudged, required]
    assert answers[1].reasons[0].code == "justified_until_expiry"
    assert answers[1].reasons[0].message.endswith("until 2026-11-21 12:00 UTC.")
    assert answers[1].unblocks == []


def test_a_justification_opens_no_other_band_and_asks_nothing_of_who_needs_none() -> None:
    view = company(approved(kind="justification"))
    assert asked(view, 600, NOW).decision is Decision.ALLOW
    assert asked(view, 750, NOW).reasons[0].code == "subject_in_nudge_band"
    assert asked(view, 1_000, NOW).decision is Decision.APPROVAL_REQUIRED


def test_of_several_justifications_the_longest_holds() -> None:
    view = company(
        approved("r1", "justification", until=NOW + DAY), approved("r2", "justification", until=NOW + 2 * DAY)
    )
    assert view.touched_by("ada", None, NOW).standing.unlocks.justified_until == NOW + 2 * DAY


def test_models_are_unlocked_for_every_call_that_is_counted_on_the_target() -> None:
    def unlocked(*events: Event, project_id: str | None = None) -> tuple[ModelAccess, ...]:
        view = company(team(cost_centre_id="cc1"), group("on-call", "ada"), *events)
        return view.touched_by("ada", project_id, NOW).standing.unlocks.models

    acme = ModelAccess((("acme", "*"),), ("internal",))
    for target in ("subject/ada", "group/on-call", "team/red", "cost_centre/cc1"):
        assert unlocked(approved(kind="model_access", target=target)) == (acme,)
    atlas = approved(kind="model_access", target="project/atlas")
    assert (unlocked(atlas), unlocked(atlas, project_id="atlas")) == ((), (acme,))
    assert unlocked(approved(kind="model_access", until=NOW)) == ()


def test_who_can_unblock_are_the_manager_and_whom_the_manager_delegated_to() -> None:
    def who(*events: Event, now: datetime = NOW, account_id: str = ADA) -> tuple[str, ...]:
        state = governance(
            person("ada", manager_id="boss"), team(owner_id="lead"), person("boss", manager_id="top"), *events
        )
        return deciders(state, parse_account_id(account_id), now)

    deputy = delegation("boss", "deputy", since=NOW, until=NOW + DAY)
    assert who(deputy, now=NOW - MOMENT) == ("boss",)
    assert who(deputy, now=NOW) == ("boss", "deputy")
    assert who(deputy, now=NOW + DAY) == ("boss",)
    ended = DelegationEnded(delegation_id="d-1", effective_from=NOW + MOMENT)  # type: ignore[arg-type] # an id
    assert who(ended, deputy, now=NOW + MOMENT) == ("boss",)
    assert who(delegation("lead", "deputy"), account_id=RED) == ("lead", "deputy")
    # Who was delegated to can't hand it on; nobody decides about themselves; who left decides nothing.
    assert who(deputy, delegation("deputy", "third", delegation_id="d-2")) == ("boss", "deputy")
    assert who(delegation("boss", "ada")) == ("boss",)
    gone = [person("deputy"), PersonLeft(person_id="deputy", effective_from=LONG_AGO)]  # type: ignore[arg-type]
    assert who(deputy, *gone) == ("boss",)


def test_what_is_kept_of_a_caller_follows_grants_and_unlocks_on_the_instant() -> None:
    view = company(
        group("on-call", "ada", since=NOW + DAY),
        group("on-call", since=NOW + 3 * DAY),
        approved("r1", since=NOW + DAY, until=NOW + 5 * DAY),
        approved("r2", since=NOW, until=NOW + 6 * DAY, target="group/on-call"),
        approved("r3", "justification", since=NOW + 2 * DAY, until=NOW + 4 * DAY),
        revoked("r1", NOW + 3 * DAY),
    )
    seen = set()
    for hours in (*range(-6, 24 * 7), *range(24 * 7, -6, -5)):
        instant = NOW + timedelta(hours=hours)
        kept = view.touched_by("ada", None, instant)
        anew = [view.balance(each, instant) for each in view.accounts_of("ada", None, instant)]
        carrier = Attribution(SubjectId("ada"), view.governance.attribution("ada").at(instant).team_id, None)
        assert (kept.balances, kept.headroom) == (tuple(anew), headroom_of(anew, kept.standing))
        assert kept.standing == view.governance.standing(carrier, None, instant)
        seen.add((kept.balances[0].limit_micro_usd, kept.standing.unlocks.justified_until))
    assert len(seen) == 4


def closed(
    account_id: str, micro_usd: int, *, starts_at: datetime = TURN, ends_at: datetime = TURN + 31 * DAY
) -> PeriodClosed:
    account = parse_account_id(account_id)
    carried = {"amount_micro_usd": micro_usd, "starts_at": starts_at, "ends_at": ends_at}
    return PeriodClosed.model_validate(
        {
            "account_id": account_id,
            "kind": account.kind.value,
            "owner_id": account.owner_id,
            "purpose": "all",
            "period": account.period,
            "version": 1,
            "posted_micro_usd": 0,
            "experiment_micro_usd": 0,
            "carry_over": carried,
            "positions": {},
        }
    )


def test_what_was_carried_over_is_there_in_the_next_period_alone() -> None:
    view = company(closed(ADA, 7), approved(since=TURN, until=TURN + DAY))
    december, january = ADA.replace("2026-11", "2026-12"), ADA.replace("2026-11", "2027-01")
    around = (TURN - MOMENT, TURN, TURN + DAY, TURN + 31 * DAY - MOMENT)
    assert limits(view, ADA, *around) == [1_000, 1_000, 1_000, 1_000]
    assert limits(view, december, *around) == [1_107, 1_107, 1_007, 1_007]
    assert limits(view, january, TURN + 31 * DAY) == [1_000]


def test_what_was_carried_over_ends_with_who_leaves_and_is_told_once_a_stretch() -> None:
    gone = PersonLeft(person_id="ada", effective_from=TURN + DAY)  # type: ignore[arg-type] # an id
    view = company(closed(ADA, 7), closed(ADA, 8), closed("subject/bob/all/2026-11", 9), gone)
    december = ADA.replace("2026-11", "2026-12")
    assert limits(view, december, TURN, TURN + DAY) == [1_008, 0]


def test_what_is_carried_over_changes_limits_once() -> None:
    state = company(closed(ADA, 7)).governance
    assert state.next_change(NOW) == TURN
    assert state.next_change(TURN + DAY) == TURN + 31 * DAY  # also that of the period
    for amount, changed in ((7, False), (8, True)):
        after = state.with_events([governing(closed(ADA, amount), 99)], 2)
        assert after.changed_since(state) == frozenset({("subject", "ada")} if changed else ())
        assert limits(QuotaView(state), ADA.replace("2026-11", "2026-12"), TURN) == [1_007], (
            "states are values"
        )


def test_what_has_ended_is_let_go_of_when_nobody_asks_for_it_any_more() -> None:
    ended = closed(ADA.replace("2026-11", "2026-09"), 5, starts_at=TURN - 61 * DAY, ends_at=TURN - 30 * DAY)
    state = company(ended, closed(ADA, 7), approved(since=TURN - 50 * DAY, until=TURN - 40 * DAY)).governance
    october, december = ADA.replace("2026-11", "2026-10"), ADA.replace("2026-11", "2026-12")
    for forgotten, kept in ((TURN - 30 * DAY - MOMENT, 5), (TURN - 30 * DAY, 0)):
        view = QuotaView(state.forgetting(forgotten))
        assert limits(view, october, TURN - 45 * DAY) == [1_100 + kept], "what was approved stays"
        assert limits(view, december, TURN) == [1_007]


TARGETS = ("subject/ada", "subject/bob", "group/on-call", "team/red")
STARTS = tuple(NOW + days * DAY for days in (-2, -1, 0, 1))
INSTANTS = sorted(start + step for start in (*STARTS, NOW + 2 * DAY) for step in (-MOMENT, 0 * DAY, MOMENT))


def histories() -> st.SearchStrategy[list[GoverningEvent]]:
    """Few requests, targets, instants and identities: so that events meet."""
    requests, instants = st.sampled_from(["r1", "r2", "r3"]), st.sampled_from(STARTS)
    approvals = st.builds(
        lambda request_id, target, since, days, amount, kind: approved(
            request_id,
            kind if target.startswith("subject") or kind == "boost" else "boost",
            target,
            since=since,
            until=since + days * DAY,
            **(
                {}
                if kind == "justification" and target.startswith("subject")
                else {"amount_micro_usd": amount}
            ),
        ),
        requests,
        st.sampled_from(TARGETS),
        instants,
        st.integers(1, 3),
        st.integers(1, 3),
        st.sampled_from(["boost", "boost", "justification"]),
    )
    ends = st.builds(revoked, requests, instants)
    lapses = st.builds(lapsed, requests, instants)
    groups = st.builds(
        lambda members, since: group("on-call", *members, since=since),
        st.lists(st.sampled_from(["ada", "bob"]), unique=True),
        instants,
    )
    events = st.lists(
        st.tuples(st.one_of(approvals, approvals, approvals, ends, lapses, groups), st.integers(0, 7)),
        max_size=12,
    )
    return events.map(
        lambda listed: [
            governing(event, offset)._replace(identity=bytes([number]))
            for offset, (event, number) in enumerate(listed)
        ]
    )


class Plainly:
    """The same questions, answered from the list of events in force by what the rules say."""

    def __init__(self, events: Sequence[GoverningEvent]) -> None:
        self._in_force = list({(event.topic, event.identity): event for event in events}.values())

    def granted(self, account: Account, at: datetime) -> int:
        return sum(
            each.amount_micro_usd or 0
            for each in self._holding(at)
            if self._reaches(each.target.kind, each.target.id, account, at)
        )

    def justified(self, subject: str, at: datetime) -> bool:
        return any(each.kind == "justification" and each.target.id == subject for each in self._holding(at))

    def _reaches(self, kind: str, target_id: str, account: Account, at: datetime) -> bool:
        if kind != "group":
            return (kind, target_id) == (account.kind, account.owner_id)
        versions = [
            (each.event.effective_from, each.order, each.event.member_ids)
            for each in self._in_force
            if isinstance(each.event, GroupUpserted) and each.event.effective_from <= at
        ]
        return bool(versions) and account.owner_id in max(versions)[2] and account.kind is AccountKind.SUBJECT

    def _holding(self, at: datetime) -> list[ApprovalApproved]:
        first: dict[str, ApprovalApproved] = {}
        for each in sorted(self._in_force, key=lambda each: each.order):
            if isinstance(each.event, ApprovalApproved):
                first.setdefault(each.event.request_id, each.event)
        ends = [
            each.event for each in self._in_force if isinstance(each.event, ApprovalRevoked | ApprovalLapsed)
        ]
        return [
            each
            for each in first.values()
            if each.starts_at <= at < each.expires_at
            and not any(end.request_id == each.request_id and end.ended_at <= at for end in ends)
        ]


@given(histories(), st.sets(st.integers(0, 12)))
def test_any_history_in_any_batches_grants_what_its_events_in_force_say(
    events: list[GoverningEvent], borders: set[int]
) -> None:
    budget = [{"kind": "team", "owner_id": "red", "limit_micro_usd": LIMIT}]
    founding = [quota_policy(allowances=ALLOWANCES, budgets=budget), person("ada"), person("bob")]
    state = governance(*founding)
    for version, (start, end) in enumerate(pairwise([0, *sorted(borders), len(events)]), start=2):
        batch = {(event.topic, event.identity): event for event in events[start:end]}
        before, state = state, state.with_events(batch.values(), version)
        concerned = state.changed_since(before)
        for account_id in (ADA, BOB, RED):
            if concerned is not None and parse_account_id(account_id)[:2] not in concerned:
                assert _governed(state, account_id) == _governed(before, account_id)
    for earlier, later in product(INSTANTS, INSTANTS):
        turned = state.changed_between(earlier, later) if earlier < later else None
        for account_id in (ADA, BOB, RED):
            if turned is not None and parse_account_id(account_id)[:2] not in turned:
                assert len(set(limits(QuotaView(state), account_id, earlier, later))) == 1
    plainly, view = Plainly(events), QuotaView(state)
    for account_id in (ADA, BOB, RED):
        account = parse_account_id(account_id)
        for at in INSTANTS:
            balance = view.balance(account, at)
            assert balance.limit_micro_usd == LIMIT + plainly.granted(account, at)
            if account.kind is AccountKind.SUBJECT:
                kept = view.touched_by(account.owner_id, None, at)
                assert kept.balances[0] == balance
                assert (kept.standing.unlocks.justified_until is not None) == plainly.justified(
                    account.owner_id, at
                )


def _governed(state: Governance, account_id: str) -> list[object]:
    view, (kind, owner_id, *_) = QuotaView(state), parse_account_id(account_id)
    carrier = Attribution(SubjectId(owner_id) if kind is AccountKind.SUBJECT else None, None, None)
    unlocks = state.unlocks(carrier, None)
    return [*limits(view, account_id, *INSTANTS), *map(unlocks.at, INSTANTS)]
