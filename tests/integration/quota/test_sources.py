"""How sources are doing, and who is told; that a silence is announced once, and only when it is one."""

from collections.abc import Mapping
from datetime import datetime, timedelta

import grpc
import pytest

from tests.integration.quota.harness import Quota
from tests.integration.quota.serving import Served, refused, violated_fields
from tests.support.clocks import SetClock
from tests.support.quota_events import LONG_AGO, NOW, SOURCE, NoPrices, person, published, usage
from tokenomics.quota.v1 import quota_pb2 as pb
from tokenomics_contracts.events.policy import PolicyPublished
from tokenomics_quota.projections.governance import Governance
from tokenomics_quota.storage.announcements import PostgresAnnouncements
from tokenomics_quota.storage.ledger import PostgresLedger
from tokenomics_quota.storage.sources import PostgresSources
from tokenomics_quota.streams.events import announcement_event, announcement_id
from tokenomics_quota.usecases.projecting import KnownGovernance
from tokenomics_quota.usecases.silences import LOOK_SECONDS, LogLevel, SilenceAnnouncer

HOUR = timedelta(hours=1)
QUIET, FREE = "urn:test:quiet", "urn:test:free"


def policy(version: int = 1, *, since: datetime = LONG_AGO, silent_after: int = 3_600) -> PolicyPublished:
    rules = [
        {"source": SOURCE, "owner_id": "ada", "silent_after_seconds": silent_after},
        {"source": QUIET, "owner_id": "eve", "silent_after_seconds": silent_after},
        {"source": FREE, "owner_id": "ada"},
    ]
    return published("sources", version, since, {"sources": rules})


async def company(quota: Quota) -> None:
    """Tell six events of the test's source: one comes late, one takes another's id and is parked."""
    await quota.tell(person("ada"), "ada")
    await quota.tell(person("eve"), "eve")
    await quota.tell(person("ops", privileges=["operator"]), "ops")
    await quota.tell(policy(), "sources")
    await quota.tell(usage(), "a", time=NOW - HOUR, appended_at=NOW - timedelta(minutes=10))
    await quota.tell(person("bob"), "ada")


@pytest.fixture
async def told(service: Served) -> Served:
    await company(service.quota)
    await service.refresh()
    service.level()
    return service


async def statuses(
    service: Served, source: str = "", person_id: str | None = None
) -> dict[str, pb.SourceStatus]:
    request = pb.GetSourceStatusRequest(source=source)
    answer = await service.stub.GetSourceStatus(request, metadata=service.metadata(person_id))
    return {each.source: each for each in answer.sources}


async def test_a_source_tells_who_owns_it_and_how_it_is_doing(told: Served) -> None:
    found = await statuses(told)
    assert list(found) == sorted([SOURCE, QUIET, FREE])
    ours, never, free = found[SOURCE], found[QUIET], found[FREE]
    assert (ours.owner_id, ours.silent, ours.events_last_day, ours.parked_events) == ("ada", False, 6, 1)
    assert ours.last_event_at.ToDatetime(tzinfo=NOW.tzinfo) == NOW
    assert ours.silent_after.seconds == 3_600
    assert ours.median_delay.ToMilliseconds() == 0
    assert (never.owner_id, never.silent, never.events_last_day) == ("eve", True, 0)
    assert not never.HasField("last_event_at")
    assert not never.HasField("median_delay")
    assert not free.silent
    assert not free.HasField("silent_after")


async def test_a_source_is_silent_only_as_far_as_the_log_is_known(told: Served) -> None:
    told.clock.time = NOW + 2 * HOUR
    assert not (await statuses(told, SOURCE))[SOURCE].silent
    told.level()
    assert (await statuses(told, SOURCE))[SOURCE].silent


async def test_sources_are_told_to_their_owners_and_to_operators(told: Served) -> None:
    assert set(await statuses(told, person_id="ada")) == {SOURCE, FREE}
    assert set(await statuses(told, person_id="eve")) == {QUIET}
    assert set(await statuses(told, person_id="ops")) == {SOURCE, QUIET, FREE}
    assert set(await statuses(told, person_id="stranger")) == set()
    assert set(await statuses(told, SOURCE, "ada")) == {SOURCE}
    assert await refused(statuses(told, SOURCE, "eve")) is grpc.StatusCode.PERMISSION_DENIED
    assert await refused(statuses(told, "urn:nobody", "eve")) is grpc.StatusCode.PERMISSION_DENIED


async def test_a_source_that_nobody_names_is_not_found(told: Served) -> None:
    assert await refused(statuses(told, "urn:nobody")) is grpc.StatusCode.NOT_FOUND
    assert await refused(statuses(told, "urn:nobody", "ops")) is grpc.StatusCode.NOT_FOUND


@pytest.mark.parametrize("source", ["a\nb", "\0", "x" * 257])
async def test_a_malformed_source_is_refused_by_name(told: Served, source: str) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await statuses(told, source)
    assert error.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert violated_fields(error.value) == {"source"}


class Announcer:
    """Judges silences as the relay process does, on a log whose ends and a clock that a test tells of."""

    def __init__(self, quota: Quota) -> None:
        self._quota = quota
        self.clock = SetClock()
        self.ends: Mapping[tuple[str, int], int] | None = {}
        self.level = LogLevel(self._read_ends, self.clock)
        self._announcer = SilenceAnnouncer(KnownGovernance(Governance(NoPrices())), self.level)

    async def _read_ends(self) -> Mapping[tuple[str, int], int] | None:
        return self.ends

    async def judge(self, now: datetime, *, look: bool = True) -> int:
        self.clock.time = now
        if look:
            await self.level.look()
        async with self._quota.pool.acquire() as connection, connection.transaction():
            announcements = PostgresAnnouncements(connection, announcement_id, announcement_event)
            ledger, sources = PostgresLedger(connection), PostgresSources(connection)
            return await self._announcer.judge(ledger, sources, announcements, now)


async def said(quota: Quota) -> list[tuple[str, str, int]]:
    rows = await quota.pool.fetch("SELECT key, about, measured FROM announcement ORDER BY announced_at, key")
    return [tuple(row) for row in rows]


async def test_each_silence_is_said_once(quota: Quota) -> None:
    await company(quota)
    announcer = Announcer(quota)
    assert await announcer.judge(NOW + HOUR) == 1
    assert await announcer.judge(NOW + 2 * HOUR) == 1
    assert await announcer.judge(NOW + 3 * HOUR) == 0
    assert await Announcer(quota).judge(NOW + 3 * HOUR) == 0
    assert await said(quota) == [
        (QUIET, "silent/never", (NOW + HOUR - LONG_AGO) // timedelta(seconds=1)),
        (SOURCE, "silent/2026-11-20T12:00:00Z", 7_200),
    ]
    await quota.tell(usage(), "b", appended_at=NOW + 4 * HOUR)
    assert await announcer.judge(NOW + 5 * HOUR) == 0
    assert await announcer.judge(NOW + 6 * HOUR) == 1
    assert (await said(quota))[-1] == (SOURCE, "silent/2026-11-20T16:00:00Z", 7_200)
    assert await quota.pool.fetchval("SELECT count(*) FROM outbox") == 3


async def test_no_silence_is_said_while_the_log_may_hold_what_breaks_it(quota: Quota) -> None:
    await company(quota)
    announcer = Announcer(quota)
    announcer.ends = None
    assert await announcer.judge(NOW + 2 * HOUR) == 0
    announcer.ends = {("tokenomics.usage.v1", 0): 2}
    assert await announcer.judge(NOW + 3 * HOUR) == 0
    await quota.tell(usage(), "b", appended_at=NOW + 2 * HOUR)
    assert await announcer.judge(NOW + 3 * HOUR + timedelta(seconds=LOOK_SECONDS), look=False) == 1
    assert [key for key, *_ in await said(quota)] == [QUIET]


async def test_a_source_without_a_limit_is_never_called_silent(quota: Quota) -> None:
    await company(quota)
    lenient = {"sources": [{"source": SOURCE, "owner_id": "ada"}]}
    await quota.tell(published("sources", 2, LONG_AGO, lenient), "2")
    assert await Announcer(quota).judge(NOW + 100 * HOUR) == 0


async def test_another_limit_does_not_say_the_same_silence_again(quota: Quota) -> None:
    await company(quota)
    announcer = Announcer(quota)
    assert await announcer.judge(NOW + 2 * HOUR) == 2
    await quota.tell(policy(2, silent_after=60), "2")
    assert await announcer.judge(NOW + 3 * HOUR) == 0
