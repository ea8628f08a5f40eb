"""Derived state depends on the log alone: not on interleaving, batch borders or repetition."""

import asyncio
import random
from collections.abc import Sequence
from datetime import timedelta
from itertools import count

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.memory_ledger import MemoryLedger
from tests.support.quota_events import (
    LONG_AGO,
    NOW,
    NoPrices,
    approved,
    correction,
    group,
    person,
    price_book,
    quota_policy,
    record,
    revoked,
    settled,
    sources,
    team,
    usage,
)
from tokenomics_chassis.parking import Skips
from tokenomics_chassis.projection import Batch, Source, by_topic
from tokenomics_chassis.records import Record, SourceId
from tokenomics_contracts.cloudevents import RejectionCode
from tokenomics_contracts.events.base import Event
from tokenomics_quota.domain.accounts import parse_account_id
from tokenomics_quota.projections.balances import QuotaView
from tokenomics_quota.projections.governance import Governance
from tokenomics_quota.streams.events import OWN_TOPIC, skip_from_record
from tokenomics_quota.streams.projection import APPROVALS, USAGE, OwnEvents, QuotaProjection
from tokenomics_quota.usecases.projecting import KnownGovernance

ALIAS = "alias:" + "a" * 32
State = tuple[object, ...]


PARTITION_OF = {"ada": 0, "bob": 1, ALIAS: 2, "stranger": 0}


def events() -> st.SearchStrategy[tuple[str, Event, timedelta]]:
    """Few ids, subjects and instants: so that events meet."""
    ids = st.sampled_from(["a", "b", "c", "d"])
    ages = st.sampled_from([timedelta(days=days) for days in (0, 20, 40, 70, 420)])
    subjects = st.sampled_from(["ada", "bob", ALIAS, "stranger"])
    recorded = st.builds(
        lambda subject, tokens, project, reported, hold_id: usage(
            subject,
            input_tokens=tokens,
            project=project,
            cost_micro_usd=reported,
            hold_id=hold_id,
        ),
        subjects,
        st.integers(0, 3),
        st.sampled_from([None, "apollo"]),
        st.sampled_from([None, 7]),
        st.sampled_from([None, "h1", "h2"]),
    )
    corrected = st.builds(correction, ids, st.integers(1, 3), st.integers(10, 12), subjects)
    return st.tuples(ids, st.one_of(recorded, recorded, corrected), ages)


def settlements() -> st.SearchStrategy[tuple[str, Event, timedelta]]:
    """Draw what callers say their holds cost, and what the ledger says that usage had them cost."""
    return st.tuples(
        st.sampled_from(["s1", "s2", "s3"]),
        st.builds(
            lambda hold_id, cost, subject, by: settled(hold_id, cost, subject, usage_identity=by),
            st.sampled_from(["h1", "h2"]),
            st.integers(0, 2),
            st.sampled_from(["ada", "bob", ALIAS]),
            st.sampled_from([None, None, "0" * 32]),
        ),
        st.sampled_from([timedelta(), timedelta(days=20), timedelta(days=70)]),
    )


def directory_events() -> st.SearchStrategy[tuple[str, Event, timedelta]]:
    ids = st.sampled_from([f"g{number}" for number in range(5)])
    since = st.sampled_from([LONG_AGO, NOW - timedelta(days=30), NOW - timedelta(days=5)])
    people = st.builds(
        lambda subject, since, team_id, aliases: person(
            subject, since=since, team_id=team_id, aliases=aliases
        ),
        st.sampled_from(["ada", "bob"]),
        since,
        st.sampled_from(["red", "blue"]),
        st.sampled_from([(), (ALIAS,)]),
    )
    teams = st.builds(
        lambda since, cost_centre: team("red", since=since, cost_centre_id=cost_centre),
        since,
        st.sampled_from([None, "cc1", "cc2"]),
    )
    groups = st.builds(
        lambda since, members: group("on-call", *members, since=since),
        since,
        st.sampled_from([(), ("ada",), ("bob",)]),
    )
    return st.tuples(ids, st.one_of(people, people, teams, groups), st.just(timedelta()))


def approvals() -> st.SearchStrategy[tuple[str, Event]]:
    """Few ids and requests, so that one contradicts or repeats another; groups are told by the directory."""
    ids, requests = st.sampled_from(["x", "y", "z"]), st.sampled_from(["r1", "r2"])
    instants = st.sampled_from([NOW - timedelta(days=30), NOW - timedelta(days=5), NOW])
    granted = st.builds(
        lambda request_id, target, since, amount: approved(
            request_id, target=target, since=since, until=since + timedelta(days=20), amount_micro_usd=amount
        ),
        requests,
        st.sampled_from(["subject/ada", "group/on-call", "team/red"]),
        instants,
        st.integers(1, 3),
    )
    ended = st.builds(revoked, requests, instants)
    return st.tuples(ids, st.one_of(granted, granted, ended))


def policies() -> st.SearchStrategy[list[Event]]:
    """Chains of policies, some of which break."""
    versions = st.lists(st.sampled_from([1, 2, 2, 3]), max_size=3)
    zone = st.sampled_from(["UTC", "Pacific/Kiritimati"])
    since = st.sampled_from([LONG_AGO, NOW - timedelta(days=20)])
    return st.builds(
        lambda versions, zone, since, rate, may: [
            *(
                quota_policy(version, since=since, time_zone=zone, default_allowance_micro_usd=5)
                for version in versions
            ),
            *(price_book(version, since=since, rate=rate * version) for version in versions),
            *(
                sources(
                    version,
                    since=since,
                    may_backfill=may,
                    backfill_counts_in_balances=may and version > 1,
                )
                for version in versions
            ),
        ],
        versions,
        zone,
        since,
        st.integers(1, 3).map(lambda factor: factor * 1_000_000),
        st.booleans(),
    )


def log_of(
    usage_events: Sequence[tuple[str, Event, timedelta]],
    settled_events: Sequence[tuple[str, Event, timedelta]],
    governing_events: Sequence[tuple[str, Event, timedelta]],
    policy_events: Sequence[Event],
    approval_events: Sequence[Sequence[tuple[str, Event]]] = (),
    *,
    spread: bool = False,
) -> list[list[Record]]:
    """Append usage to the partition of its key; append times rise within each, and tie between them.

    Approvals come as the contents of their partitions. ``spread``: by turns instead of by key.
    """
    by_partition = [
        [
            each
            for turn, each in enumerate(events_of_topic)
            if (turn % 3 if spread else PARTITION_OF[each[1].key]) == partition
        ]
        for events_of_topic in (usage_events, settled_events)
        for partition in (0, 1, 2)
    ]
    partitions = [
        [
            record(
                event,
                event_id,
                partition=partition % 3,
                offset=offset,
                time=NOW - age,
                appended_at=NOW + timedelta(seconds=offset),
            )
            for offset, (event_id, event, age) in enumerate(contents)
        ]
        for partition, contents in enumerate(by_partition)
    ]
    partitions.append(
        [
            record(event, event_id, offset=offset, appended_at=NOW + timedelta(seconds=offset))
            for offset, (event_id, event, _) in enumerate(governing_events)
        ]
    )
    partitions.append(
        [
            record(event, f"policy-{offset}", offset=offset, appended_at=NOW + timedelta(seconds=offset))
            for offset, event in enumerate(policy_events)
        ]
    )
    partitions += [
        [
            record(
                event,
                event_id,
                partition=partition,
                offset=offset,
                appended_at=NOW + timedelta(seconds=offset),
            )
            for offset, (event_id, event) in enumerate(contents)
        ]
        for partition, contents in enumerate(approval_events)
    ]
    return partitions


def limits(governance: Governance) -> list[int | None]:
    """Return what some accounts may use at instants around those at which something begins or ends."""
    view = QuotaView(governance)
    return [
        view.balance(
            parse_account_id(f"{owner}/all/{month}"), NOW + timedelta(days=days, seconds=seconds)
        ).limit_micro_usd
        for owner in ("subject/ada", "subject/bob", "team/red")
        for month in ("2026-10", "2026-11", "2026-12")
        for days in (-30, -10, -5, 0, 15, 20)
        for seconds in (-1, 0)
    ]


async def project(log: Sequence[Sequence[Record]], choices: random.Random) -> State:
    """Project the log in one interleaving, cut into batches, some of them given twice."""
    ledger = MemoryLedger()
    by_place = {each[:3]: each for partition in log for each in partition}

    known = KnownGovernance(Governance(NoPrices()))
    provisional = OwnEvents(lambda _: ledger, known)
    projections = by_topic(
        QuotaProjection(lambda _: ledger, known), Skips(OWN_TOPIC, skip_from_record, provisional)
    )
    change_seq = count(1)
    parked: dict[tuple[str, int, int], str] = {}

    async def apply(records: Sequence[Record]) -> None:
        first = records[0]
        source = Source(SourceId(0), first.topic, first.partition, next(change_seq))
        outcome = await projections[first.topic].apply(None, Batch(source, records))  # type: ignore[arg-type] # the ledger needs none
        for place in outcome.cleared:
            parked.pop(place, None)
        for each in outcome.rejected:
            parked.setdefault(each.record[:3], each.code)
        for rejected in outcome.rejected_places:
            parked.setdefault(rejected.place, rejected.code)

    remaining = [list(partition) for partition in log if partition]
    while remaining:
        partition = choices.choice(remaining)
        size = choices.randint(1, len(partition))
        await apply(partition[:size])
        if choices.random() < 0.2 and partition[0].topic in {USAGE, OWN_TOPIC, APPROVALS}:
            await apply(partition[:size])
        del partition[:size]
        remaining = [each for each in remaining if each]
    for place in [place for place, code in parked.items() if code == RejectionCode.TOO_LATE]:
        del parked[place]
        await apply([by_place[place]])
    return (
        {key: fact for key, fact in ledger.rows.items() if fact.received.event_kind != "awaited"},
        ledger.totals(),
        ledger.days(),
        dict(sorted(parked.items())),
        {key: event for key, (_, event) in ledger.governing.items()},
        limits(await known.read(ledger)),
    )


LOGS = st.builds(
    log_of,
    st.lists(events(), max_size=16),
    st.lists(settlements(), max_size=5),
    st.lists(directory_events(), max_size=5),
    policies(),
    st.lists(approvals(), max_size=5).map(
        lambda approvals: [[each for each in approvals if each[1].key == key] for key in ("r1", "r2")]
    ),
    spread=st.booleans(),
)


@settings(max_examples=150)
@given(LOGS, st.randoms(use_true_random=False))
def test_any_interleaving_and_any_batches_give_the_same_state(
    log: list[list[Record]], choices: random.Random
) -> None:
    one = asyncio.run(project(log, choices))
    other = asyncio.run(project(log, choices))
    assert one == other


FOUNDING = [("ada", person("ada"), timedelta()), ("bob", person("bob"), timedelta())]


@settings(max_examples=300)
@given(
    st.builds(
        log_of,
        st.just([]),
        st.just([]),
        st.lists(directory_events(), max_size=3).map(lambda events: FOUNDING + events),
        st.just([quota_policy(default_allowance_micro_usd=5)]),
        st.lists(st.lists(approvals(), min_size=1, max_size=4), min_size=2, max_size=2),
    ),
    st.randoms(use_true_random=False),
)
def test_any_interleaving_of_approvals_gives_the_same_limits(
    log: list[list[Record]], choices: random.Random
) -> None:
    one = asyncio.run(project(log, choices))
    other = asyncio.run(project(log, choices))
    assert one == other  # also of who partitions by anything but keys


def test_what_repeats_a_late_record_is_parked_only_while_that_does_not_count() -> None:
    """The permission is read before, between and after: whoever holds the identity meanwhile differs."""
    late = timedelta(days=70)
    log = log_of(
        [
            ("a", usage(input_tokens=1), late),
            ("a", usage(input_tokens=2), timedelta()),
            ("a", usage(input_tokens=1), late),
        ],
        [],
        [],
        [sources(may_backfill=True)],
    )
    states = [asyncio.run(project(log, random.Random(seed))) for seed in range(30)]
    assert all(state == states[0] for state in states)
    assert states[0][3] == {(USAGE, 0, 1): RejectionCode.IDENTITY_CONFLICT}


def test_the_totals_are_those_of_the_facts() -> None:
    log = log_of(
        [
            ("a", usage(input_tokens=60), timedelta()),
            ("a", usage(input_tokens=60), timedelta()),
            ("x", correction("a", 1, 11, "bob"), timedelta()),
            ("b", usage("stranger"), timedelta()),
        ],
        [],
        [("p", person(cost_centre_id="cc1"), timedelta())],
        [price_book()],
    )
    _, totals, days, parked, _, _ = asyncio.run(project(log, random.Random(1)))
    assert totals == {
        "subject/ada/operational/2026-11": 11,
        "team/red/operational/2026-11": 11,
        "cost_centre/cc1/operational/2026-11": 11,
        "unattributed/unattributed/operational/2026-11": 100,
    }
    today = NOW.toordinal()
    assert days == {
        ("subject/ada", today): 11,
        ("team/red", today): 11,
        ("cost_centre/cc1", today): 11,
        ("unattributed/unattributed", today): 100,
    }
    assert parked == {}


def test_what_a_caller_said_counts_until_usage_names_the_hold_and_again_when_it_no_longer_does() -> None:
    """Usage that names the hold, lower in the log, counts until a lower record takes its identity."""
    said = [("s", settled("h1", 30), timedelta())]
    naming = ("a", usage("bob", hold_id="h1"), timedelta())
    own = "subject/ada/operational/2026-11"
    for usage_events, totals in (
        ([], {own: 30}),
        ([("a", usage("bob"), timedelta())], {own: 30, "unattributed/unattributed/operational/2026-11": 100}),
        ([naming], {"unattributed/unattributed/operational/2026-11": 100}),
        ([("a", usage("ada"), timedelta()), naming], {own: 130}),
    ):
        log = log_of(usage_events, said, [("p", person(team_id="red"), timedelta())], [price_book()])
        found = asyncio.run(project(log, random.Random(1)))[1]
        assert isinstance(found, dict)
        assert {account: total for account, total in found.items() if "team" not in account} == totals
