"""One suite for every ledger: in memory, as rules are tested on it, and on PostgreSQL, as it runs."""

from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import date, timedelta

import pytest

from tests.support.memory_ledger import MemoryLedger
from tests.support.quota_events import LONG_AGO, NOW, correction, person, record, settled, usage
from tokenomics_chassis.postgres import Schemas, create_pool
from tokenomics_chassis.projection import Source
from tokenomics_chassis.records import SourceId
from tokenomics_contracts.units import AccountId, HoldId, MicroUsd, PeriodId, SubjectId, TeamId
from tokenomics_quota.bootstrap import migrations
from tokenomics_quota.domain.effective import LogOrder
from tokenomics_quota.domain.identity import Rival
from tokenomics_quota.ports import GoverningVersion, Ledger
from tokenomics_quota.projections.facts import Derived, Fact, Postings, Received
from tokenomics_quota.projections.governance import Scope
from tokenomics_quota.storage.ledger import PostgresLedger
from tokenomics_quota.streams.decoding import (
    governing_event_from_record,
    own_event_from_record,
    usage_from_record,
)
from tokenomics_tools.stack import Stack

DERIVED = Derived(0, MicroUsd(100), "book", 1, SubjectId("ada"), TeamId("red"), None, PeriodId("2026-11"))
TOPIC = "tokenomics.usage.v1"
ACCOUNT = AccountId("subject/ada/operational/2026-11")

Totals = Callable[[], Awaitable[dict[str, int]]]


@pytest.fixture(params=["memory", "postgres"])
async def ledger_and_totals(
    request: pytest.FixtureRequest,
) -> AsyncIterator[tuple[Ledger, Totals, Source]]:
    if request.param == "memory":
        memory = MemoryLedger()

        async def memory_totals() -> dict[str, int]:
            days = {
                f"{owner} on {date.fromordinal(day)}": total for (owner, day), total in memory.days().items()
            }
            return {str(account_id): total for account_id, total in memory.totals().items()} | days

        yield memory, memory_totals, Source(SourceId(1), TOPIC, 0, 1)
        return
    stack: Stack = request.getfixturevalue("stack")
    url = stack.new_database("quota")
    schemas = Schemas("quota")
    await migrations(schemas).migrate(url)
    async with (
        await create_pool(url, schemas, application_name="test") as pool,
        pool.acquire() as connection,
        connection.transaction(),
    ):
        source_id = await connection.fetchval(
            "INSERT INTO position (topic, partition) VALUES ($1, 0) RETURNING source_id", TOPIC
        )

        async def totals() -> dict[str, int]:
            rows = await connection.fetch(
                "SELECT account_id, sum(posted_micro_usd)::bigint FROM posted"
                " GROUP BY 1 HAVING sum(posted_micro_usd) <> 0"
                " UNION ALL SELECT owner || ' on ' || day, sum(posted_micro_usd)::bigint FROM daily"
                " GROUP BY 1 HAVING sum(posted_micro_usd) <> 0"
            )
            return {row[0]: row[1] for row in rows}

        yield PostgresLedger(connection), totals, Source(source_id, TOPIC, 0, 1)


@pytest.fixture
def ledger(ledger_and_totals: tuple[Ledger, Totals, Source]) -> Ledger:
    return ledger_and_totals[0]


def recorded(event_id: str = "a", *, subject: str = "ada", offset: int = 0, age_days: int = 0) -> Received:
    read = usage_from_record(
        record(usage(subject), event_id, offset=offset, time=NOW - timedelta(days=age_days))
    )
    assert isinstance(read, Received)
    return read


def corrected(event_id: str, original_id: str, revision: int) -> Received:
    read = usage_from_record(record(correction(original_id, revision, 7), event_id, offset=9))
    assert isinstance(read, Received)
    return read


async def test_a_fact_comes_back_as_it_was_put(ledger: Ledger) -> None:
    fact = Fact(recorded(), DERIVED)
    await ledger.insert([fact])
    assert await ledger.facts([fact.received.identity, b"0" * 16]) == {fact.received.identity: fact}


async def test_an_update_rewrites_a_fact_whole(ledger: Ledger) -> None:
    fact = Fact(recorded(), DERIVED)
    await ledger.insert([fact])
    changed = Fact(fact.received._replace(record_offset=5), DERIVED._replace(cost_micro_usd=MicroUsd(7)))
    await ledger.update([changed])
    assert await ledger.facts([fact.received.identity]) == {fact.received.identity: changed}


async def test_an_awaited_original_is_found_until_it_arrives(ledger: Ledger) -> None:
    original, late = recorded("a"), corrected("x", "a", 1)
    await ledger.await_originals([original.identity])
    await ledger.await_originals([original.identity])
    awaited = (await ledger.facts([original.identity]))[original.identity]
    assert (awaited.received.event_kind, awaited.derived) == ("awaited", None)
    await ledger.insert([Fact(late, None)])
    assert await ledger.corrections([original.identity]) == {original.identity: {late.identity: late}}
    await ledger.update([Fact(original, DERIVED)])
    assert await ledger.facts([original.identity]) == {original.identity: Fact(original, DERIVED)}


async def test_awaiting_leaves_a_fact_that_is_there_alone(ledger: Ledger) -> None:
    fact = Fact(recorded(), DERIVED)
    await ledger.insert([fact])
    await ledger.await_originals([fact.received.identity])
    assert await ledger.facts([fact.received.identity]) == {fact.received.identity: fact}


@pytest.mark.parametrize(
    ("scope", "expected"),
    [
        (Scope(LONG_AGO, everything=True), {"a", "b", "old"}),
        (Scope(NOW - timedelta(days=1), everything=True), {"a", "b"}),
        (Scope(LONG_AGO, subjects=frozenset({"bob"})), {"b"}),
        (Scope(NOW, subjects=frozenset({"ada"})), {"a"}),
        (Scope(LONG_AGO, priced=True), {"a", "old"}),
    ],
)
async def test_a_scope_finds_just_the_recorded_facts_it_touches(
    ledger: Ledger, scope: Scope, expected: set[str]
) -> None:
    facts = {
        "a": recorded("a"),
        "b": recorded("b", subject="bob"),
        "old": recorded("old", age_days=30),
    }
    reported = DERIVED._replace(pricing="reported")
    await ledger.insert([Fact(each, reported if name == "b" else DERIVED) for name, each in facts.items()])
    await ledger.insert([Fact(corrected("x", "a", 1), None)])
    found = {fact.received.identity async for chunk in _chunks(ledger, scope) for fact in chunk}
    assert found == {facts[name].identity for name in expected}


async def test_provisional_facts_are_found_by_their_hold_and_so_is_usage_that_names_it(
    ledger: Ledger,
) -> None:
    said = own_event_from_record(record(settled("h1", 7), "s"))
    assert isinstance(said, Received)
    assert said is not None
    naming = recorded("a")._replace(hold_id=HoldId("h1"))
    kept_out = recorded("b")._replace(hold_id=HoldId("h2"), counted=False)
    provisional = Fact(said, DERIVED._replace(pricing="reported"))
    holds = [HoldId("h1"), HoldId("h2"), HoldId("h3")]
    await ledger.insert([provisional])
    assert set(await ledger.named(holds)) == set()
    await ledger.insert([Fact(naming, DERIVED), Fact(kept_out, DERIVED)])
    assert list(await ledger.provisional(holds)) == [provisional]
    assert set(await ledger.named(holds)) == {"h1"}
    assert list(await ledger.provisional(holds[1:])) == []
    found = {
        fact.received.identity
        async for chunk in _chunks(ledger, Scope(LONG_AGO, subjects=frozenset({"ada"})))
        for fact in chunk
    }
    assert found == {said.identity, naming.identity, kept_out.identity}


async def _chunks(ledger: Ledger, scope: Scope) -> AsyncIterator[list[Fact]]:
    async for chunk in ledger.facts_in(scope):
        yield list(chunk)


async def test_amounts_add_up_and_what_cancels_is_gone(
    ledger_and_totals: tuple[Ledger, Totals, Source],
) -> None:
    ledger, totals, source = ledger_and_totals
    today = NOW.toordinal()

    def posting(amount: int, day: int = today) -> Postings:
        return Postings({ACCOUNT: MicroUsd(amount)}, {("subject/ada", day): MicroUsd(amount)})

    await ledger.post(posting(5), source)
    await ledger.post(posting(7), source)
    assert await totals() == {ACCOUNT: 12, f"subject/ada on {NOW:%Y-%m-%d}": 12}
    await ledger.post(posting(-12), source)
    assert await totals() == {}
    await ledger.post(Postings({}, {("subject/ada", today): MicroUsd(-1)}), source)
    await ledger.post(Postings({}, {("subject/ada", today + 1): MicroUsd(1)}), source)
    assert await totals() == {"subject/ada on 2026-11-20": -1, "subject/ada on 2026-11-21": 1}


async def test_governing_events_are_read_from_the_version_they_came_with(ledger: Ledger) -> None:
    first, second = (
        governing_event_from_record(record(person(name), name, offset=offset))
        for offset, name in enumerate(("ada", "bob"))
    )
    assert first is not None
    assert second is not None
    await ledger.lock_governance(exclusive=True)
    start = await ledger.governing_version()
    version = start.number
    await ledger.put_governing_events([first], version + 1)
    await ledger.put_governing_events([second], version + 2)
    now = await ledger.governing_version()
    assert now.number == version + 2
    assert await ledger.went_through(start)
    assert await ledger.went_through(now)
    assert not await ledger.went_through(GoverningVersion(now.number, start.history_id))
    assert list(await ledger.governing_events(after=version)) == [first, second]
    assert list(await ledger.governing_events(after=version + 1)) == [second]
    replaced = first._replace(order=LogOrder(1, 0, 0))
    await ledger.put_governing_events([replaced], version + 3)
    assert list(await ledger.governing_events(after=version + 1)) == [second, replaced]


async def test_a_governing_event_is_found_by_its_identity_within_its_topic(ledger: Ledger) -> None:
    event = governing_event_from_record(record(person("ada"), "ada"))
    assert event is not None
    await ledger.lock_governance(exclusive=True)
    await ledger.put_governing_events([event], (await ledger.governing_version()).number + 1)
    asked = [event.identity, b"n" * 16]
    assert await ledger.governing_holders(event.topic, asked) == {event.identity: event}
    assert await ledger.governing_holders("another", asked) == {}


async def test_rivals_are_kept_once_by_topic_and_identity(ledger: Ledger) -> None:
    rivals = [Rival(b"d" * 16, LogOrder(1, 0, 5)), Rival(b"e" * 16, LogOrder(2, 0, 6))]
    await ledger.put_rivals(TOPIC, {b"a" * 16: rivals, b"b" * 16: [Rival(b"d" * 16, LogOrder(3, 1, 1))]})
    await ledger.put_rivals(TOPIC, {b"a" * 16: rivals[:1]})
    found = await ledger.rivals(TOPIC, [b"a" * 16, b"n" * 16])
    assert {identity: sorted(each) for identity, each in found.items()} == {b"a" * 16: rivals}
    assert await ledger.rivals("another", [b"b" * 16]) == {}
