"""The only wiring: which adapter stands behind which port, in each of the service's processes."""

from collections.abc import Awaitable, Callable, Sequence
from datetime import timedelta
from uuid import uuid4

from tokenomics.operations.v1.operations_pb2_grpc import add_OperationsServiceServicer_to_server
from tokenomics.quota.v1.quota_pb2_grpc import add_QuotaServiceServicer_to_server
from tokenomics_chassis.announcer import Announcer, Judge
from tokenomics_chassis.changes import Change
from tokenomics_chassis.clock import SystemClock
from tokenomics_chassis.consumer import ProjectionConsumer
from tokenomics_chassis.log_reader import log_reader
from tokenomics_chassis.migrations import Migrations, MigrationSource
from tokenomics_chassis.observed import ObservedProjection, StateMetrics
from tokenomics_chassis.operations import Operations
from tokenomics_chassis.outbox import OutboxEvent
from tokenomics_chassis.parking import Parking, Skip, Skips
from tokenomics_chassis.postgres import Pool, Schemas, create_pool
from tokenomics_chassis.process import ExitCode, Process, run
from tokenomics_chassis.projection import Connection
from tokenomics_chassis.projector import Projector
from tokenomics_chassis.recall import Recall
from tokenomics_chassis.relay import Relay
from tokenomics_chassis.rpc.errors import PermissionDeniedError
from tokenomics_chassis.rpc.identity import Authenticator, Identity
from tokenomics_chassis.rpc.operations import OperationsServicer
from tokenomics_chassis.rpc.server import RpcServer
from tokenomics_chassis.settings import ServiceSettings, load
from tokenomics_chassis.topics import create_topics, verify_topics
from tokenomics_contracts.catalogue import topics
from tokenomics_contracts.cloudevents import RejectionCode
from tokenomics_quota.ports import Announcement
from tokenomics_quota.projections.balances import QuotaView
from tokenomics_quota.projections.freshness import FreshnessMeter
from tokenomics_quota.projections.governance import Governance
from tokenomics_quota.rpc.convert import FreshnessWriter
from tokenomics_quota.rpc.servicer import QuotaServicer
from tokenomics_quota.settings import ProjectSettings, ServeSettings
from tokenomics_quota.storage.announcements import PostgresAnnouncements, remember
from tokenomics_quota.storage.decision_log import OutboxDecisionLog
from tokenomics_quota.storage.default_price_book import DefaultPriceBook
from tokenomics_quota.storage.late_usage import LateUsageMender
from tokenomics_quota.storage.ledger import PostgresLedger
from tokenomics_quota.storage.view_feed import ViewFeed
from tokenomics_quota.streams.events import (
    OWN_TOPIC,
    announcement_from_record,
    decision_event,
    skip_event_id,
    skip_from_record,
    skipped_event,
    threshold_event,
)
from tokenomics_quota.streams.log_ends import LogEnds
from tokenomics_quota.streams.projection import QuotaProjection
from tokenomics_quota.usecases.announcing import ThresholdAnnouncer
from tokenomics_quota.usecases.projecting import KnownGovernance

SERVICE = "quota"
PRODUCERS_FAULTS = frozenset(
    {RejectionCode.TOO_LATE, RejectionCode.IDENTITY_CONFLICT, RejectionCode.POLICY_MISMATCH}
)
"""Any number of these in a row says nothing against the reader."""

_CLOCK = SystemClock()
_PRICES = DefaultPriceBook()


def migrations(schemas: Schemas) -> Migrations:
    """Return the migrations of the service's schemas."""
    return Migrations(schemas, [MigrationSource("tokenomics_quota", "storage/migrations")])


def projection() -> QuotaProjection:
    """Return the projection, as live processes, replays and retries run it."""
    return QuotaProjection(PostgresLedger, KnownGovernance(Governance(_PRICES)))


def projector(settings: ProjectSettings, pool: Pool, schemas: Schemas) -> Projector:
    """Return the projector, as live processes and replays run it."""
    return Projector(
        pool,
        schemas,
        ObservedProjection(projection()),
        skips=Skips(OWN_TOPIC, skip_from_record),
        read_records=log_reader(settings.kafka_bootstrap),
        max_parked_in_a_row=settings.max_parked_in_a_row,
        blameless_codes=PRODUCERS_FAULTS,
    )


def recall(settings: ServiceSettings) -> Recall[Announcement]:
    """Return what a term of the announcer begins with."""
    return Recall(
        settings.kafka_bootstrap, OWN_TOPIC, QuotaProjection.topics, announcement_from_record, remember
    )


def operations(settings: ServiceSettings, pool: Pool, schemas: Schemas) -> Operations:
    """Return what operators work with."""
    return Operations(
        pool,
        Parking(
            pool, schemas, projection(), _skipped_event, read_records=log_reader(settings.kafka_bootstrap)
        ),
        derived_version=settings.derived_version,
        bootstrap=settings.kafka_bootstrap,
        skip_event_id=skip_event_id,
    )


def migrate() -> ExitCode:
    """Bring schemas and topics up to date, and end."""
    settings = load(ServiceSettings)

    async def start(_process: Process) -> None:
        await migrations(_schemas(settings)).migrate(settings.database_url)
        await create_topics(settings.kafka_bootstrap, topics())

    return run(SERVICE, settings, start)


def project() -> ExitCode:
    """Project topics into derived state until stopped."""
    settings = load(ProjectSettings)

    async def start(process: Process) -> None:
        schemas = _schemas(settings)
        pool = await _pool(process, settings, schemas, "quota project")
        consumer = ProjectionConsumer(
            settings.kafka_bootstrap,
            settings.consumer_group or schemas.derived,
            projector(settings, pool, schemas),
            _CLOCK,
            read_first=frozenset({OWN_TOPIC}),
        )
        process.readiness["consumer"] = consumer.not_ready_because
        operator = operations(settings, pool, schemas)
        process.supervise("consumer", consumer.run)
        process.supervise("late usage", LateUsageMender(pool, _retry_late(operator)).run)
        process.supervise("metrics", StateMetrics(pool, operator).run)

    return run(SERVICE, settings, start)


def relay() -> ExitCode:
    """Announce what is due and send the outbox, while leading, until stopped."""
    settings = load(ServiceSettings)

    async def start(process: Process) -> None:
        schemas = _schemas(settings)
        _ = await _pool(process, settings, schemas, "quota relay")
        process.supervise("relay", Relay(settings.database_url, schemas, settings.kafka_bootstrap).run)
        announcer = Announcer(settings.database_url, schemas, recall(settings), _judge())
        process.supervise("announcer", announcer.run)

    return run(SERVICE, settings, start)


def serve() -> ExitCode:
    """Serve gRPC until stopped."""
    settings = load(ServeSettings)

    async def start(process: Process) -> None:
        schemas = _schemas(settings)
        pool = await _pool(process, settings, schemas, "quota serve")
        view = QuotaView(Governance(_PRICES))
        meter = FreshnessMeter()
        decisions = OutboxDecisionLog(pool, decision_event)
        feed = ViewFeed(settings.database_url, schemas, view, _CLOCK)
        ends = LogEnds(settings.kafka_bootstrap, QuotaProjection.topics, view, meter, _CLOCK)
        server = RpcServer(settings, process, await Authenticator.load(settings, _CLOCK))
        freshness = FreshnessWriter(view, meter, timedelta(seconds=settings.stale_after_seconds))
        server.add(
            add_QuotaServiceServicer_to_server,
            # The stubs call methods abstract that the generated base class answers with UNIMPLEMENTED.
            QuotaServicer(view, freshness, decisions, _CLOCK, lambda: str(uuid4())),  # type: ignore[abstract]
        )
        server.add(
            add_OperationsServiceServicer_to_server,
            OperationsServicer(operations(settings, pool, schemas), _operators_only(view)),  # type: ignore[abstract]
        )
        process.readiness["view"] = feed.not_ready_because
        process.readiness["log ends"] = ends.not_ready_because
        process.supervise("decision log", decisions.run)
        process.supervise("view feed", feed.run)
        process.supervise("log ends", ends.run)
        process.supervise("gRPC server", server.run)

    return run(SERVICE, settings, start)


def _schemas(settings: ServiceSettings) -> Schemas:
    return Schemas(SERVICE, settings.derived_version)


async def _pool(process: Process, settings: ServiceSettings, schemas: Schemas, application_name: str) -> Pool:
    """Open a pool, having refused a schema or topics that this code wasn't written for."""
    pool = await process.enter(
        await create_pool(settings.database_url, schemas, application_name=application_name)
    )
    async with pool.acquire() as connection:
        await migrations(schemas).verify(connection)
    await verify_topics(settings.kafka_bootstrap, topics())
    return pool


def _skipped_event(skip: Skip) -> OutboxEvent:
    return skipped_event(skip, _CLOCK.now())


def _retry_late(operator: Operations) -> Callable[[], Awaitable[int]]:
    async def retry_late() -> int:
        result = await operator.retry(RejectionCode.TOO_LATE)
        return result.applied

    return retry_late


def _judge() -> Judge:
    announcer = ThresholdAnnouncer(KnownGovernance(Governance(_PRICES)))

    async def judge(connection: Connection, changes: Sequence[Change]) -> None:
        moved = {change.position.source_id: change.old_change_seq for change in changes if change.has_rows}
        announcements = PostgresAnnouncements(connection, threshold_event)
        await announcer.judge(PostgresLedger(connection), announcements, moved, _CLOCK.now())

    return judge


def _operators_only(view: QuotaView) -> Callable[[Identity], None]:
    """Let workloads through that the table of callers lists, and of people only operators."""

    def authorise(identity: Identity) -> None:
        if identity.on_behalf_of is None:
            return
        member = view.governance.directory.member(identity.on_behalf_of).at(_CLOCK.now())
        if member is None or member.value.left or "operator" not in member.value.privileges:
            raise PermissionDeniedError("only operators may do this")

    return authorise
