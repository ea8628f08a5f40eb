"""What is told of a projection is what happened to it."""

from pathlib import Path

from tests.integration.chassis_rpc.processes import Collector, Running
from tests.support import toy_projection as toy
from tokenomics_tools.stack import Stack


async def test_a_batch_is_a_span_linked_to_its_causes_and_its_traces_are_measured(
    stack: Stack,
    tmp_path: Path,
    collector: Collector,
) -> None:
    url = stack.new_database("observed")
    await toy.MIGRATIONS.migrate(url)
    script = """
from tests.support import toy_projection as toy
from tokenomics_chassis.observed import ObservedProjection, StateMetrics
from tokenomics_chassis.operations import Operations
from tokenomics_chassis.parking import Parking
from tokenomics_chassis.postgres import create_pool
from tokenomics_chassis.projector import Projector
from tokenomics_chassis.records import Record

def record(offset, value, cause):
    traceparent = f"00-{cause * 32}-{cause * 16}-01".encode()
    return Record(toy.AMOUNTS, 0, offset, 1000, b"a", value, (("traceparent", traceparent),))

async def start(process):
    settings = load(ServiceSettings)
    pool = await process.enter(await create_pool(settings.database_url, toy.SCHEMAS, application_name="test"))
    projection = ObservedProjection(toy.Toy())
    records = [record(0, b"1", "a"), record(1, b"nonsense", "b"), record(2, b"1", "b")]
    await Projector(pool, toy.SCHEMAS, projection).process(toy.AMOUNTS, 0, records)
    backend = Operations(
        pool,
        Parking(pool, toy.SCHEMAS, projection, toy.skipped_event, trail=toy.TRAIL),
        derived_version=1,
        bootstrap=settings.kafka_bootstrap,
        skip_event_id=str,
    )
    metrics = StateMetrics(pool, backend)
    await metrics.look()
"""
    environment = {"TOKENOMICS_DATABASE_URL": url, "TOKENOMICS_OTLP_ENDPOINT": collector.endpoint}
    code, lines = Running(script, tmp_path, PYTHONPATH=str(Path.cwd()), **environment).finish()
    assert code == 0, lines
    (span,) = collector.spans
    assert span.name == f"process {toy.AMOUNTS}"
    assert [link.trace_id.hex() for link in span.links] == ["a" * 32, "b" * 32]
    (projected,) = collector.metrics["tokenomics.projection.records"].sum.data_points
    (parked,) = collector.metrics["tokenomics.parked.events"].gauge.data_points
    (outbox,) = collector.metrics["tokenomics.outbox.events"].gauge.data_points
    assert (projected.as_int, parked.as_int, outbox.as_int) == (3, 1, 0)
    (batch,) = collector.metrics["tokenomics.projection.batch.duration"].histogram.data_points
    assert batch.count == 1
    assert "tokenomics.projection.lag" not in collector.metrics  # nobody could be asked for the log's end
