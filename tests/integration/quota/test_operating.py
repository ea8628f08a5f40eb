"""What operators do to parked events is seen in traces, on a real database."""

from contextlib import AbstractContextManager

import pytest

from tests.integration.quota.harness import Quota
from tests.support.quota_events import record, usage
from tokenomics_chassis import observed
from tokenomics_chassis.operations import Operations
from tokenomics_chassis.parking import Skip
from tokenomics_chassis.settings import ServiceSettings
from tokenomics_chassis.telemetry import span
from tokenomics_quota.bootstrap import operations
from tokenomics_quota.streams.projection import USAGE

NOBODY_LISTENS = "127.0.0.1:1"


@pytest.fixture
async def operator(quota: Quota) -> Operations:
    """Work on a database where one damaged event is parked."""
    await quota.projector.process(USAGE, 0, [record(usage("ada"), "a")._replace(value=b"{", offset=0)])
    settings = ServiceSettings(database_url=quota.url, kafka_bootstrap=NOBODY_LISTENS)
    return operations(settings, quota.pool, quota.schemas)


async def test_a_skip_continues_the_trace_of_the_call(quota: Quota, operator: Operations) -> None:
    traceparent = f"00-{'a' * 32}-{'b' * 16}-01"
    with span("skip", traceparent=traceparent):
        await operator.skip(Skip(USAGE, 0, 0, "malformed", "OPS-7", "operator-1"), "console")
    rows = await quota.pool.fetch("SELECT header_names, header_values FROM outbox ORDER BY id")
    told = [dict(zip(*row, strict=True)) for row in rows]
    assert [each["ce_type"].decode().split(".")[1] for each in told] == ["parked", "audit"]
    assert [each["traceparent"].decode().split("-")[1] for each in told] == ["a" * 32] * 2


async def test_a_retry_is_a_batch_like_any_other(
    operator: Operations, monkeypatch: pytest.MonkeyPatch
) -> None:
    names: list[str] = []

    def seen(name: str, **_: object) -> AbstractContextManager[object]:
        names.append(name)
        return span(name)

    monkeypatch.setattr(observed, "span", seen)
    await operator.retry(None)
    assert names == [f"process {USAGE}"]
