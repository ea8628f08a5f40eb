"""The recomputation itself, on histories small enough to work out by hand."""

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from tests.proofs.events import (
    POLICY,
    PROVIDER,
    USAGE,
    Draft,
    Message,
    approval_event,
    closed_event,
    correction_event,
    directory_event,
    ending_event,
    policy_event,
    price_book,
    quota_policy,
    settled_event,
    source_test,
    usage_event,
)
from tests.proofs.history import make_history
from tests.proofs.poison import POISONS, Brew
from tests.proofs.recompute import RawRecord, Recomputation, decode, recompute

NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)
LONG_AGO = NOW - timedelta(days=380)
DAY, MOMENT = timedelta(days=1), timedelta(microseconds=1)
BOOK = {"fallback": {"input": 1_000_000, "output": 1_000_000}}
"""One micro-USD a token."""


def appended(message: Message, at: datetime = NOW, *, partition: int = 0, offset: int = 0) -> RawRecord:
    return RawRecord(message.topic, partition, offset, round(at.timestamp() * 1000), *message[1:])


def told(*drafts: Draft | RawRecord) -> Recomputation:
    """Recompute from drafts in log order, a second apart, each in a partition of its topic's own."""
    return recompute(
        each
        if isinstance(each, RawRecord)
        else appended(each.binary(), NOW + timedelta(seconds=number), offset=number)
        for number, each in enumerate(drafts)
    )


def founded(*drafts: Draft | RawRecord) -> Recomputation:
    """Recompute with one person, alice, of team-1, whose cost centre is cc-1."""
    return told(
        policy_event("price_book", 1, LONG_AGO, NOW, BOOK),
        directory_event("team-1", "team.upserted", LONG_AGO, "team-1", NOW, cost_centre_id="cc-1"),
        directory_event(
            "alice", "person.upserted", LONG_AGO, "alice-1", NOW, role="analyst", team_id="team-1"
        ),
        *drafts,
    )


def used(id_: str = "u1", time: datetime = NOW, **data: Any) -> Draft:
    return usage_event("/tool", id_, time, **{"subject": "alice", **data})


def test_usage_is_posted_on_every_account_it_touches() -> None:
    result = founded(used(project="atlas", purpose="experiment"))
    assert result.totals == {
        f"{owner}/{purpose}/2026-11": 1100
        for owner in ("subject/alice", "team/team-1", "cost_centre/cc-1", "project/atlas")
        for purpose in ("experiment", "all")
    }


def test_an_unknown_subject_is_unattributed_until_the_directory_learns_it() -> None:
    stranger = used(subject="bob", project="atlas")
    assert set(founded(stranger).totals) == {
        f"{owner}/{purpose}/2026-11"
        for owner in ("unattributed/unattributed", "project/atlas")
        for purpose in ("operational", "all")
    }
    learned = directory_event(
        "bob", "person.upserted", LONG_AGO, "bob-1", NOW, role="analyst", team_id="team-1"
    )
    assert founded(stranger, learned).totals["subject/bob/all/2026-11"] == 1100


def test_the_lowest_record_of_an_identity_counts_and_a_contradiction_is_parked() -> None:
    late = appended(used(output_tokens=7).binary(), NOW, partition=1, offset=40)
    early = appended(used().binary(), NOW, partition=0, offset=50)
    again = appended(used().structured(), NOW, partition=0, offset=51)
    result = founded(late, early, again)
    assert result.parked == {(USAGE, 1, 40): "identity_conflict"}
    assert result.totals["subject/alice/all/2026-11"] == 1100
    assert result.counts["subject/alice/all/2026-11"] == 1


def test_the_highest_revision_wins_and_may_come_first() -> None:
    high = correction_event(used(), 2, "c2", NOW, input_tokens=5, output_tokens=1)
    low = correction_event(used(), 1, "c1", NOW, input_tokens=9, output_tokens=1)
    assert founded(high, used(), low).totals["subject/alice/all/2026-11"] == 6
    assert founded(high).totals == {}


def test_directory_versions_hold_from_their_effective_time_whatever_their_order_of_arrival() -> None:
    moved = directory_event(
        "alice", "person.upserted", NOW - timedelta(days=5), "alice-3", NOW, role="analyst", team_id="team-3"
    )
    earlier = directory_event(
        "alice", "person.upserted", NOW - timedelta(days=9), "alice-2", NOW, role="analyst", team_id="team-2"
    )
    teams = {
        days: next(
            account
            for account in founded(used(time=NOW - timedelta(days=days)), moved, earlier).totals
            if account.startswith("team/")
        )
        for days in (1, 7, 10)
    }
    assert teams == {
        1: "team/team-3/operational/2026-11",
        7: "team/team-2/operational/2026-11",
        10: "team/team-1/operational/2026-11",
    }


def test_an_alias_means_whoever_bears_it_at_the_time() -> None:
    alias = "alias:" + "0" * 32
    bearer = directory_event(
        "bob", "person.upserted", NOW - timedelta(days=3), "b", NOW, role="x", team_id="t", aliases=[alias]
    )
    before = used("u1", NOW - timedelta(days=4), subject=alias)
    after = used("u2", NOW - timedelta(days=2), subject=alias)
    result = founded(before, after, bearer)
    assert [fact.subject for fact in result.facts.values()] == [None, "bob"]


def test_who_left_keeps_team_and_cost_centre_for_what_is_still_used() -> None:
    left = directory_event("alice", "person.left", NOW - timedelta(days=5), "alice-left", NOW)
    result = founded(left, used())
    assert result.totals["team/team-1/all/2026-11"] == 1100
    assert result.directory.has_left("alice", NOW)
    assert not result.directory.has_left("alice", NOW - timedelta(days=6))


def test_a_period_turns_in_the_time_zone_of_the_policy_in_force() -> None:
    at = datetime(2026, 11, 1, 3, tzinfo=UTC)
    new_york = policy_event("quota", 1, LONG_AGO, NOW, quota_policy("America/New_York", 1))
    assert "subject/alice/all/2026-10" in founded(new_york, used(time=at)).totals
    assert "subject/alice/all/2026-11" in founded(used(time=at)).totals


def test_the_latest_published_policy_in_force_governs_and_one_against_another_version_is_parked() -> None:
    double = {"fallback": {"input": 2_000_000, "output": 2_000_000}}
    result = founded(
        used(),
        policy_event("price_book", 2, NOW - timedelta(days=1), NOW, double),
        policy_event("price_book", 3, NOW - timedelta(days=2), NOW, BOOK),
        policy_event("price_book", 5, LONG_AGO, NOW, double, replaces=4),
        policy_event("price_book", 4, LONG_AGO, NOW, BOOK),
        policy_event("price_book", 5, NOW, NOW + timedelta(days=1), double),
    )
    assert result.totals["subject/alice/all/2026-11"] == 2200
    assert result.parked == {(POLICY, 0, 6): "policy_mismatch"}


def test_policies_wait_for_one_of_their_kind_that_cannot_be_read() -> None:
    double = policy_event("price_book", 2, LONG_AGO, NOW, {"fallback": {"input": 2_000_000, "output": 0}})
    unreadable = appended(double.binary()._replace(value=b"{"), NOW, offset=1)
    result = told(
        policy_event("price_book", 1, LONG_AGO, NOW, BOOK),
        unreadable,
        double,
        policy_event("quota", 1, LONG_AGO, NOW, quota_policy("UTC", 1)),
        used(input_tokens=1, output_tokens=0),
    )
    assert result.parked == {(POLICY, 0, 1): "bad_json", (POLICY, 0, 2): "behind_parked"}


def test_what_governs_never_reaches_further_back_than_thirteen_months() -> None:
    archive = {"source": "/tool", "owner_id": "hr", "may_backfill": True, "backfill_counts_in_balances": True}
    sources = policy_event("sources", 1, LONG_AGO, NOW, {"sources": [archive]})
    ancient = timedelta(days=500)
    known = directory_event("bob", "person.upserted", NOW - ancient, "bob-1", NOW, role="x", team_id="t")
    totals = [
        founded(sources, known, used(time=NOW - age, subject="bob", cost_micro_usd=5)).totals
        for age in (timedelta(days=390), timedelta(days=400))
    ]
    assert totals[0]["subject/bob/all/2025-10"] == 5
    assert set(totals[1]) == {f"unattributed/unattributed/{each}/2025-10" for each in ("operational", "all")}


def test_a_late_event_is_parked_unless_its_source_may_backfill() -> None:
    late = used(time=NOW - timedelta(days=63))
    archive = {
        "source": "/tool",
        "owner_id": "hr",
        "may_backfill": True,
        "backfill_counts_in_balances": False,
    }
    sources = policy_event("sources", 1, LONG_AGO, NOW, {"sources": [archive]})
    assert list(founded(late).parked.values()) == ["too_late"]
    permitted = founded(sources, late)
    assert (permitted.parked, permitted.totals, len(permitted.facts)) == ({}, {}, 1)


@pytest.mark.parametrize(
    ("data", "at", "expected_micro_usd"),
    [
        # 1,000 x 3,000,001 + 100 x 15,000,003 pico-USD = 4,500.0013 micro-USD.
        ({"input_tokens": 1000, "output_tokens": 100}, "10:00", 4500),
        # Above 20,000 tokens the whole request pays the tier: 20,001 x 6,000,013 = 120,006.26.
        ({"input_tokens": 20_001, "output_tokens": 0}, "10:00", 120_006),
        ({"input_tokens": 20_000, "output_tokens": 0}, "10:00", 60_000),
        # 600 cached at 300,007 and 400 fresh at 3,000,001: 1,380.0046.
        ({"input_tokens": 1000, "cached_input_tokens": 600, "output_tokens": 0}, "10:00", 1380),
        # Half price for a batch, rounded half up: 2,250.0007.
        ({"input_tokens": 1000, "output_tokens": 100, "service_tier": "batch"}, "10:00", 2250),
        # The exact name beats the prefix: 900.001; another model of the family pays the prefix: 1,100.017.
        ({"model": "borealis-2026-09", "input_tokens": 1000, "output_tokens": 0}, "10:00", 900),
        ({"model": "borealis-2026-05", "input_tokens": 1000, "output_tokens": 0}, "10:00", 1100),
        # The night window opens at 22:00 and passes midnight: 1,000.033 instead of 2,000.003.
        ({"model": "cirrus-night", "input_tokens": 1000, "output_tokens": 0}, "22:00", 1000),
        ({"model": "cirrus-night", "input_tokens": 1000, "output_tokens": 0}, "06:29", 1000),
        ({"model": "cirrus-night", "input_tokens": 1000, "output_tokens": 0}, "06:30", 2000),
        # Nobody knows the model: 5,000.011.
        ({"model": "never-heard", "input_tokens": 1000, "output_tokens": 0}, "10:00", 5000),
        # What the tool says it cost is what it cost.
        ({"cost_micro_usd": 3}, "10:00", 3),
    ],
)
def test_price(data: dict[str, Any], at: str, expected_micro_usd: int) -> None:
    time = datetime.fromisoformat(f"2026-11-19T{at}:00Z")
    book = policy_event("price_book", 1, LONG_AGO, NOW, price_book(1))
    result = told(book, usage_event("/tool", "u1", time, **{"provider": PROVIDER, **data}))
    assert [fact.cost_micro_usd for fact in result.facts.values()] == [expected_micro_usd]


def test_half_a_micro_usd_is_rounded_up() -> None:
    book = {"fallback": {"input": 500_000, "output": 499_999}}
    policy = policy_event("price_book", 1, LONG_AGO, NOW, book)
    half, less = used("u1", input_tokens=1, output_tokens=0), used("u2", input_tokens=0, output_tokens=1)
    assert [fact.cost_micro_usd for fact in told(policy, half, less).facts.values()] == [1, 0]


def test_nothing_costs_more_than_a_million_usd() -> None:
    policy = policy_event("price_book", 1, LONG_AGO, NOW, {"fallback": {"input": 10**12, "output": 0}})
    dear = used("u1", input_tokens=10**9, output_tokens=0)
    assert [fact.cost_micro_usd for fact in told(policy, dear).facts.values()] == [10**12]


def test_thresholds_are_due_on_the_account_of_both_purposes() -> None:
    budgets = [("team", "team-1", 1571)]
    result = founded(policy_event("quota", 1, LONG_AGO, NOW, quota_policy("UTC", 1100, budgets)), used())
    assert result.thresholds_due(NOW) == {
        ("subject/alice/all/2026-11", 7000): (1100, 1100),
        ("subject/alice/all/2026-11", 9000): (1100, 1100),
        ("subject/alice/all/2026-11", 10_000): (1100, 1100),
        # 70 % of 1,571 is 1,099.7.
        ("team/team-1/all/2026-11", 7000): (1571, 1100),
    }


ALICE = "subject/alice/all/2026-11"


def limits(*drafts: Draft, account_id: str = ALICE, at: Sequence[datetime]) -> list[int | None]:
    budget = [("team", "team-1", 500)]
    policy = policy_event("quota", 1, LONG_AGO, NOW, quota_policy("UTC", 1000, budget))
    result = founded(policy, *drafts)
    assert result.parked == {}
    return [result.limit_micro_usd(account_id, instant) for instant in at]


def granted(request_id: str = "r1", target: str = "subject/alice", kind: str = "boost", **data: Any) -> Draft:
    """Grant 10 micro-USD from now on for a day."""
    body = {"amount_micro_usd": 10, **data}
    return approval_event(request_id, kind, target, (NOW, NOW + DAY), NOW, **body)


def test_grants_add_up_from_start_to_expiry() -> None:
    around = [NOW - MOMENT, NOW, NOW + DAY - MOMENT, NOW + DAY]
    assert limits(granted(), granted("r2"), at=around) == [1000, 1020, 1020, 1000]
    assert limits(granted(target="team/team-1"), account_id="team/team-1/all/2026-11", at=around) == [
        *(500, 510, 510, 500)
    ]


def test_the_first_approval_of_a_request_counts_until_its_earliest_end() -> None:
    second = granted(amount_micro_usd=7)
    second = replace(second, id="r1-again")
    ends = [
        ending_event("r1", "revoked", NOW + 2 * MOMENT, NOW, "e1"),
        ending_event("r1", "lapsed", NOW + MOMENT, NOW, "e2"),
    ]
    assert limits(*ends, granted(), second, at=[NOW, NOW + MOMENT]) == [1010, 1000]


def test_a_group_hands_its_grant_to_who_is_a_member_at_the_instant() -> None:
    rota = [
        directory_event("g", "group.upserted", NOW - DAY, "g1", NOW, member_ids=["alice"]),
        directory_event("g", "group.upserted", NOW + MOMENT, "g2", NOW, member_ids=["bob"]),
    ]
    assert limits(*rota, granted(target="group/g"), at=[NOW, NOW + MOMENT]) == [1010, 1000]


def test_who_has_left_is_granted_nothing() -> None:
    left = directory_event("alice", "person.left", NOW + MOMENT, "alice-left", NOW)
    assert limits(left, granted(), at=[NOW, NOW + MOMENT]) == [1010, 0]


def test_a_grant_counts_in_the_period_of_its_start_or_in_each() -> None:
    turn = datetime(2026, 12, 1, tzinfo=UTC)
    december = ALICE.replace("2026-11", "2026-12")
    for counts_in, expected in (("first_period", 1000), ("each_period", 1010)):
        spanning = approval_event(
            *("r1", "boost", "subject/alice", (turn - DAY, turn + DAY), NOW),
            amount_micro_usd=10,
            counts_in=counts_in,
        )
        assert limits(spanning, at=[turn - MOMENT, turn]) == [1010, 1010]  # November keeps what it ended with
        assert limits(spanning, account_id=december, at=[turn]) == [expected]


def test_what_a_period_leaves_is_there_in_the_next_until_who_has_it_leaves() -> None:
    begins, ends = datetime(2026, 12, 1, tzinfo=UTC), datetime(2027, 1, 1, tzinfo=UTC)
    left = closed_event(ALICE, 7, (begins, ends), NOW)
    gone = directory_event("alice", "person.left", begins + DAY, "alice-left", NOW)
    december, january = (ALICE.replace("2026-11", period) for period in ("2026-12", "2027-01"))
    assert limits(left, left, account_id=december, at=[begins, ends]) == [1007, 1007]
    assert limits(left, account_id=january, at=[ends]) == [1000]
    assert limits(left, gone, account_id=december, at=[begins, begins + DAY]) == [1007, 0]


def test_projects_make_of_an_allowance_what_the_policy_says_and_a_budget_keeps_its_buffer() -> None:
    def limit(*project_ids: str, **document: Any) -> list[int | None]:
        budget = {"kind": "team", "owner_id": "team-1", "limit_micro_usd": 500, "buffer_micro_usd": 20}
        overrides = [
            {"project_id": project_id, "mode": mode, "limit_micro_usd": amount}
            for project_id, mode, amount in (
                ("a", "add", 5),
                ("b", "add", 6),
                ("r", "replace", 70),
                ("s", "replace", 80),
            )
        ]
        policy = {
            "time_zone": "UTC",
            "overrides": overrides,
            "budgets": [{**budget, "experiment_limit_micro_usd": 9}],
        }
        place: dict[str, Any] = {"role": "analyst", "team_id": "team-1", "project_ids": list(project_ids)}
        member = directory_event("alice", "person.upserted", NOW, "alice-2", NOW, **place)
        result = founded(policy_event("quota", 1, LONG_AGO, NOW, policy | document), member)
        accounts = (ALICE, "team/team-1/all/2026-11", "team/team-1/experiment/2026-11")
        return [result.limit_micro_usd(account_id, NOW) for account_id in accounts]

    allowance = {"default_allowance_micro_usd": 100}
    assert limit(**allowance) == [100, 480, 9]
    assert limit("a", "b", **allowance)[0] == 111
    assert limit("a", "r", "s", **allowance)[0] == 85
    assert [limit("a")[0], limit("a", "r")[0]] == [None, 75]


def test_a_limit_is_never_above_a_billion_usd() -> None:
    assert limits(granted(amount_micro_usd=10**15), at=[NOW]) == [10**15]


def test_bands_and_reasons_hold_as_of_the_instant() -> None:
    policy = policy_event("quota", 1, LONG_AGO, NOW, quota_policy("UTC", 1100))
    justified = approval_event("r2", "justification", "subject/alice", (NOW, NOW + DAY), NOW)
    result = founded(policy, used(), granted(amount_micro_usd=100), justified)
    instants = [NOW - MOMENT, NOW, NOW + DAY]
    assert [result.band(ALICE, at) for at in instants] == ["approve", "justify", "approve"]
    assert [result.is_justified("alice", at) for at in instants] == [False, True, False]


@pytest.mark.parametrize(
    "wrong",
    [
        granted(amount_micro_usd=0),
        granted(amount_micro_usd=None),
        granted(target="company/all"),
        granted(target="subject/alias:" + "a" * 32),
        granted(decided_by="alice"),
        granted(expires_at=f"{NOW:%Y-%m-%dT%H:%M:%SZ}"),
        granted(kind="justification"),
        granted(kind="budget_override"),
    ],
)
def test_an_approval_that_says_what_its_kind_may_not_is_parked(wrong: Draft) -> None:
    assert list(founded(wrong).parked.values()) == ["invalid_data"]


@pytest.mark.parametrize("kind", POISONS)
def test_poison_is_parked_under_its_code(kind: str) -> None:
    code, make = POISONS[kind]
    victim = used()
    poison = appended(make(Brew(random.Random(1), victim, 1, NOW)), NOW + timedelta(minutes=1), offset=99)
    result = founded(victim, poison)
    assert result.parked == {(USAGE, 0, 99): code}
    assert len(result.facts) == 1


def test_a_skipped_record_is_as_if_it_had_never_been() -> None:
    value = b'{"topic": "tokenomics.usage.v1", "partition": 0, "offset": 99}'
    headers = (("ce_type", b"tokenomics.parked.skipped.v1"),)
    skip = RawRecord("tokenomics.quota.v1", 0, 0, 0, b"k", value, headers)
    poison = appended(used().binary()._replace(value=b"x"), offset=99)
    assert founded(poison).parked == {(USAGE, 0, 99): "bad_json"}
    result = founded(skip, poison)
    assert result.parked == {}


def test_what_a_caller_said_counts_until_usage_that_counts_names_the_hold() -> None:
    said = settled_event("h1", "s1", NOW, subject="alice", cost_micro_usd=700, project="atlas")
    own, project = "subject/alice/all/2026-11", "project/atlas/operational/2026-11"
    assert founded(said, said).totals[own] == founded(said).totals[project] == 700
    result = founded(used(hold_id="h1"), said)
    assert result.totals == founded(used()).totals
    assert [counts for _, counts in result.provisional.values()] == [False]
    other = settled_event("h1", "s2", NOW, subject="alice", cost_micro_usd=800)
    assert list(founded(said, other).parked.values()) == ["identity_conflict"]
    by_usage = settled_event("h1", "s2", NOW, subject="alice", usage_identity="0" * 32)
    assert own not in founded(by_usage).totals


def test_both_modes_say_the_same() -> None:
    draft = used(project="atlas")
    binary, structured = (decode(appended(message), {}) for message in (draft.binary(), draft.structured()))
    assert (binary.identity, binary.meaning) == (structured.identity, structured.meaning)


def test_a_connection_test_is_never_counted() -> None:
    result = founded(source_test("t1", NOW, "alice"))
    assert (result.facts, result.parked) == ({}, {})


def test_a_history_is_reproducible_and_holds_everything_awkward() -> None:
    history = make_history(1, NOW, 3000, 10)
    assert history == make_history(1, NOW, 3000, 10)
    assert history != make_history(2, NOW, 3000, 10)
    records = [
        appended(message, NOW + timedelta(milliseconds=offset), partition=hash_of(message), offset=offset)
        for offset, message in enumerate(history.messages())
    ]
    result = recompute(records)
    assert set(result.parked.values()) == {code for code, _ in POISONS.values()}
    kinds = Counter(account.split("/")[0] for account in result.totals)
    assert set(kinds) == {"subject", "team", "cost_centre", "project", "unattributed"}
    assert len(result.facts) == 3000 + 20


def hash_of(message: Message) -> int:
    """Give a partition that depends on the key alone."""
    return sum(message.key or b"") % 6
