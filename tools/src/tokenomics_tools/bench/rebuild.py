"""Filling a version of the derived state from history, beside plainly reading the same records."""

import asyncio

from tokenomics_chassis.audit import AuditTrail
from tokenomics_chassis.postgres import Schemas, create_pool
from tokenomics_chassis.rebuilds import Rebuilds, applied_records
from tokenomics_chassis.versions import VersionState, Why, list_versions
from tokenomics_quota.streams.events import OWN_TOPIC
from tokenomics_tools.bench.plant import SCHEMAS, USAGE_TOPIC, Plant, Sample, Scale, plant, usage_events
from tokenomics_tools.bench.projection import LEAST_EVENTS, copy_of_database, rate, read
from tokenomics_tools.bench.rows import Pair, Row, paired
from tokenomics_tools.stack import StackError

_POLL_SECONDS = 0.02
_WITHIN_SECONDS = 300
_TRAIL = AuditTrail(SCHEMAS.service, OWN_TOPIC, "urn:tokenomics:bench")
_WHY = Why("bench", "none", "bench", "bench")


def measure(scale: Scale) -> list[Row]:
    """Measure how fast `replay` fills a version with the month, nothing else running."""
    with plant(events=int(scale.of(200_000, at_least=LEAST_EVENTS))) as made:
        made.publish_usage(usage_events(made.simulation))
        pairs = []
        for _ in range(scale.pairs):
            floor = read(made).records_per_second
            with copy_of_database(made) as url:
                pairs.append(Pair(rate(_filled(made, url)), floor))
    return [paired("rebuild, one process", "events/s", pairs)]


def _filled(made: Plant, url: str) -> list[Sample]:
    quota = made.quota(url)
    quota.start_replay()
    try:
        return asyncio.run(_follow(made, url))
    finally:
        quota.replay.terminate()
        quota.replay.wait(_WITHIN_SECONDS)


async def _follow(made: Plant, url: str) -> list[Sample]:
    now = asyncio.get_running_loop().time
    async with await create_pool(url, Schemas(SCHEMAS.service, None), application_name="bench") as pool:
        rebuilds = Rebuilds(
            pool, url, SCHEMAS.service, made.stack.kafka.bootstrap, {USAGE_TOPIC}, trail=_TRAIL
        )
        async with pool.acquire() as connection:
            await _TRAIL.open(connection)
        version = (await rebuilds.start("bench", _WHY)).version
        way = [Sample(now(), 0, 0)]
        async with asyncio.timeout(_WITHIN_SECONDS):
            while version.state is not VersionState.CAUGHT_UP:
                await asyncio.sleep(_POLL_SECONDS)
                applied = await applied_records(pool, SCHEMAS.service, version.version)
                if applied > way[-1].projected:
                    way.append(Sample(now(), 0, applied))
                version = (await list_versions(pool))[-1]
                if version.state is VersionState.FAILED:
                    raise StackError(f"the rebuild failed: {version.error_message}")
        return way
