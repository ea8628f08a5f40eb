"""The only wiring: which adapter stands behind which port, in each of the service's processes."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta
from functools import cache
from random import Random
from typing import NamedTuple
from uuid import uuid4

from tokenomics.operations.v1.operations_pb2_grpc import add_OperationsServiceServicer_to_server
from tokenomics.quota.v1.quota_pb2_grpc import add_QuotaServiceServicer_to_server
from tokenomics_chassis.announcer import Announcer, Judge
from tokenomics_chassis.audit import Anchors, AuditLog, AuditTrail
from tokenomics_chassis.changes import Change
from tokenomics_chassis.clock import SystemClock
from tokenomics_chassis.consumer import ProjectionConsumer
from tokenomics_chassis.event_sources import source_states
from tokenomics_chassis.log_reader import log_reader
from tokenomics_chassis.metrics import VIEW_LAG
from tokenomics_chassis.migrations import Migrations, MigrationSource
from tokenomics_chassis.observed import ObservedProjection, StateMetrics
from tokenomics_chassis.operations import Operations, ServedOperations
from tokenomics_chassis.outbox import OutboxEvent
from tokenomics_chassis.parking import Parking, Skip, Skips
from tokenomics_chassis.postgres import Pool, Schemas, Session, create_pool, session
from tokenomics_chassis.process import ExitCode, Process, ReadinessCheck, all_of, run
from tokenomics_chassis.projection import Connection, Projection
from tokenomics_chassis.projector import Projector
from tokenomics_chassis.readiness import database_check
from tokenomics_chassis.rebuilds import Rebuilds
from tokenomics_chassis.recall import Kind, Recall
from tokenomics_chassis.relay import Relay
from tokenomics_chassis.replay import Replay
from tokenomics_chassis.rpc.errors import PermissionDeniedError, UnavailableError
from tokenomics_chassis.rpc.identity import Authenticator, Identity
from tokenomics_chassis.rpc.operations import Authorise, OperationsServicer
from tokenomics_chassis.rpc.server import RpcServer
from tokenomics_chassis.serving import LoadedVersions, Serving
from tokenomics_chassis.settings import ServiceSettings, load
from tokenomics_chassis.telemetry import current_traceparent
from tokenomics_chassis.topics import create_topics, end_offsets, end_offsets_if_known, verify_topics
from tokenomics_chassis.verification import Verifications
from tokenomics_chassis.versions import (
    FED,
    HAVE_TABLES,
    EachVersion,
    VersionState,
    VersionWork,
    active_version,
    list_versions,
)
from tokenomics_contracts.catalogue import topics
from tokenomics_contracts.cloudevents import RejectionCode
from tokenomics_quota.domain.interventions import Intervention
from tokenomics_quota.metrics import LEDGER_WAITING
from tokenomics_quota.projections.balances import QuotaView
from tokenomics_quota.projections.freshness import FreshnessMeter
from tokenomics_quota.projections.governance import Governance
from tokenomics_quota.rpc.advice import Advice
from tokenomics_quota.rpc.balances import Balances
from tokenomics_quota.rpc.budgets import Budgets
from tokenomics_quota.rpc.checks import Checks
from tokenomics_quota.rpc.desk import LedgerDesk
from tokenomics_quota.rpc.drifts import Drifts
from tokenomics_quota.rpc.holds import Holds
from tokenomics_quota.rpc.interventions import Interventions
from tokenomics_quota.rpc.leases import Leases
from tokenomics_quota.rpc.looks import Looks
from tokenomics_quota.rpc.moments import Moments
from tokenomics_quota.rpc.policies import Policies
from tokenomics_quota.rpc.servicer import quota_servicer
from tokenomics_quota.rpc.simulations import Simulations
from tokenomics_quota.rpc.sources import Sources
from tokenomics_quota.rpc.trails import Trails
from tokenomics_quota.rpc.views import Views
from tokenomics_quota.settings import ProjectSettings, ServeSettings
from tokenomics_quota.storage.announcements import PostgresAnnouncements, remember
from tokenomics_quota.storage.decision_log import OutboxDecisionLog
from tokenomics_quota.storage.default_price_book import DefaultPriceBook
from tokenomics_quota.storage.drift import DriftWatch, PostgresDrifts
from tokenomics_quota.storage.friction import FrictionLog
from tokenomics_quota.storage.history import ServedHistory
from tokenomics_quota.storage.hold_ledger import PostgresHoldLedger, PostgresHoldList, hold_transactions
from tokenomics_quota.storage.interventions import PostgresInterventions, interventions
from tokenomics_quota.storage.late_usage import LateUsageMender
from tokenomics_quota.storage.ledger import PostgresLedger
from tokenomics_quota.storage.looks import AuditedLooks
from tokenomics_quota.storage.policy_trail import PolicyTrail
from tokenomics_quota.storage.proposals import PostgresProposals
from tokenomics_quota.storage.settling import Settler
from tokenomics_quota.storage.simulations import PostgresSimulations, Simulator
from tokenomics_quota.storage.sources import PostgresSources
from tokenomics_quota.storage.state import hashed_part
from tokenomics_quota.storage.told_changes import ToldChanges
from tokenomics_quota.storage.usage_trail import ServedUsageTrail
from tokenomics_quota.storage.view_feed import ViewFeed, not_ready_because
from tokenomics_quota.streams.decoding import report_from_record
from tokenomics_quota.streams.events import (
    OWN_TOPIC,
    SOURCE,
    announcement_event,
    announcement_from_record,
    announcement_id,
    decision_event,
    skip_event_id,
    skip_from_record,
    skipped_event,
)
from tokenomics_quota.streams.hold_events import hold_event
from tokenomics_quota.streams.intervention_events import intervention_event
from tokenomics_quota.streams.ledger_events import told_change_from_record
from tokenomics_quota.streams.log_ends import LogEnds
from tokenomics_quota.streams.projection import USAGE, OwnEvents, QuotaProjection
from tokenomics_quota.usecases.announcing import TotalsJudge
from tokenomics_quota.usecases.budgeting import Budgeting
from tokenomics_quota.usecases.freshening import Freshening
from tokenomics_quota.usecases.friction import FrictionCounts
from tokenomics_quota.usecases.intervening import Intervening
from tokenomics_quota.usecases.projecting import KnownGovernance
from tokenomics_quota.usecases.refreshes import Refreshes
from tokenomics_quota.usecases.silences import LogLevel, SilenceAnnouncer
from tokenomics_quota.usecases.turns import Turns

SERVICE = "quota"

READ_FIRST = (frozenset({OWN_TOPIC}), QuotaProjection.topics - {USAGE})
"""The own topic, then what governs usage: see :class:`ProjectionConsumer`."""

TOPICS = QuotaProjection.topics | {OWN_TOPIC}
"""Everything that a version of the derived state follows from."""

MIGRATE_PATIENCE_SECONDS = 60
"""How long a migration, which is to end, waits for database and broker; the other processes wait for ever."""

TRAIL = AuditTrail(SERVICE, OWN_TOPIC, SOURCE)

_OWN = Schemas(SERVICE, None)
_CLOCK = SystemClock()
_IDS = Random()  # noqa: S311 - seeded by the system; a decision's id is unique, and no secret
_PRICES = DefaultPriceBook()


@cache
def migrations(schemas: Schemas) -> Migrations:
    """Return the migrations of the service's own schema, and of one version of the derived state if named."""
    return Migrations(schemas, [MigrationSource("tokenomics_quota", "storage/migrations")])


def projections() -> tuple[Projection, Skips]:
    """Return what projects the input topics, and what the own one: live, in replays and in retries."""
    known = KnownGovernance(Governance(_PRICES))
    provisional = OwnEvents(PostgresLedger, known)
    return (
        ObservedProjection(QuotaProjection(PostgresLedger, known)),
        Skips(OWN_TOPIC, skip_from_record, others=provisional),
    )


def projector(settings: ProjectSettings, pool: Pool, schemas: Schemas) -> Projector:
    """Return the projector, as live processes and replays run it."""
    projection, skips = projections()
    return Projector(
        pool,
        schemas,
        projection,
        skips=skips,
        read_records=log_reader(settings.kafka_bootstrap),
        max_parked_in_a_row=settings.max_parked_in_a_row,
    )


def recall(settings: ServiceSettings) -> Recall:
    """Return what a term of the announcer begins with."""
    announcements = Kind(announcement_from_record, remember)
    audit = Kind(TRAIL.from_record, TRAIL.remember, TRAIL.open)
    changes = ToldChanges(hold_ledger, intervention_ledger)
    ledger = Kind(told_change_from_record, changes.keep, changes.do_again)
    return Recall(settings.kafka_bootstrap, OWN_TOPIC, QuotaProjection.topics, [announcements, audit, ledger])


def hold_ledger(connection: Connection) -> PostgresHoldLedger:
    """Return the hold ledger on a connection with an open transaction."""
    return PostgresHoldLedger(connection, _OWN, hold_event)


def intervention_ledger(connection: Connection) -> PostgresInterventions:
    """Return what people do by hand in the ledger's line, on a connection with an open transaction."""
    return PostgresInterventions(connection, hold_ledger(connection), TRAIL, _intervention_event)


def operations(settings: ServiceSettings, pool: Pool, schemas: Schemas) -> Operations:
    """Return what operators work with, on one version of the derived state."""
    assert schemas.version is not None
    projection, skips = projections()
    return Operations(
        pool,
        Parking(
            pool,
            schemas,
            projection,
            _skipped_event,
            read_records=log_reader(settings.kafka_bootstrap),
            trail=TRAIL,
            skips=skips,
        ),
        derived_version=schemas.version,
        bootstrap=settings.kafka_bootstrap,
        skip_event_id=skip_event_id,
    )


def migrate() -> ExitCode:
    """Bring schemas and topics up to date, and end."""
    settings = load(ServiceSettings)

    async def start(_process: Process) -> None:
        url = settings.database_url
        await migrations(_OWN).migrate(url)
        async with session(url, _OWN, application_name="quota migrate") as connection:
            live = [each.version for each in await list_versions(connection) if each.state in HAVE_TABLES]
        for version in live:
            await migrations(Schemas(SERVICE, version)).migrate(url)
        await create_topics(settings.kafka_bootstrap, topics())

    return run(SERVICE, settings, start, patience_seconds=MIGRATE_PATIENCE_SECONDS)


def project() -> ExitCode:
    """Project topics into every live version of the derived state until stopped."""
    settings = load(ProjectSettings)

    async def start(process: Process) -> None:
        pool = await _own_pool(process, settings, "quota project")
        feeds = EachVersion(pool, FED, lambda version: _feed(settings, version))
        process.readiness["consumer"] = feeds.not_ready_because
        process.supervise("feeds", feeds.run)

    return run(SERVICE, settings, start)


def _feed(settings: ProjectSettings, version: int) -> VersionWork:
    schemas = Schemas(SERVICE, version)
    readiness: list[ReadinessCheck] = []

    async def work(stopping: asyncio.Event) -> None:
        async with _version_pool(settings, schemas, "quota project") as pool:
            consumer = ProjectionConsumer(
                settings.kafka_bootstrap,
                _group(settings, version),
                projector(settings, pool, schemas),
                _CLOCK,
                read_first=READ_FIRST,
                patient_topics=frozenset({OWN_TOPIC}),
            )
            readiness[:] = [consumer.not_ready_because]
            operator = operations(settings, pool, schemas)
            mender = LateUsageMender(pool, lambda: _retry_late(operator))
            await all_of(stopping, consumer.run, mender.run, StateMetrics(pool, operator).run)

    async def not_ready_because() -> str | None:
        return await readiness[0]() if readiness else "it has not begun yet"

    return VersionWork(work, not_ready_because)


def relay() -> ExitCode:
    """Announce what is due and send the outbox, while leading, until stopped."""
    settings = load(ServiceSettings)

    async def start(process: Process) -> None:
        pool = await _own_pool(process, settings, "quota relay")
        announcers = EachVersion(pool, {VersionState.ACTIVE}, lambda version: _announcer(settings, version))
        process.supervise("relay", Relay(settings.database_url, _OWN, settings.kafka_bootstrap).run)
        process.supervise("announcer", announcers.run)
        settlers = EachVersion(pool, {VersionState.ACTIVE}, lambda version: _settler(settings, version))
        process.supervise("settler", settlers.run)
        watches = EachVersion(pool, {VersionState.ACTIVE}, lambda version: _drift_watch(settings, version))
        process.supervise("drift watch", watches.run)
        process.supervise("audit anchors", Anchors(settings.database_url, _OWN, TRAIL).run)

    return run(SERVICE, settings, start)


def _announcer(settings: ServiceSettings, version: int) -> VersionWork:
    recalling = recall(settings)
    level = LogLevel(lambda: end_offsets_if_known(settings.kafka_bootstrap, TOPICS), _CLOCK)

    async def read_on(connection: Session, stopping: asyncio.Event) -> None:
        await recalling.read_on(connection, stopping)
        await level.look()

    announcer = Announcer(
        settings.database_url, Schemas(SERVICE, version), recalling, _judge(level), read_on=read_on
    )
    return VersionWork(announcer.run, _ready)


def _settler(settings: ServiceSettings, version: int) -> VersionWork:
    settler = Settler(
        settings.database_url,
        Schemas(SERVICE, version),
        hold_ledger,
        intervention_ledger,
        ends=lambda: end_offsets(settings.kafka_bootstrap, TOPICS),
        sources={USAGE: "recorded", OWN_TOPIC: "provisional"},
    )
    return VersionWork(settler.run, _ready)


def _drift_watch(settings: ServiceSettings, version: int) -> VersionWork:
    return VersionWork(DriftWatch(settings.database_url, Schemas(SERVICE, version), _CLOCK.now).run, _ready)


async def _ready() -> None:
    return None


def replay() -> ExitCode:
    """Work off rebuilds, verifications and simulations, while leading, until stopped."""
    settings = load(ProjectSettings)

    async def mend(pool: Pool, schemas: Schemas) -> None:
        await _retry_late(operations(settings, pool, schemas))

    async def start(process: Process) -> None:
        _ = await _own_pool(process, settings, "quota replay")
        worker = Replay(
            settings.database_url,
            SERVICE,
            settings.kafka_bootstrap,
            migrations=migrations,
            projector=lambda pool, schemas: projector(settings, pool, schemas),
            read_first=READ_FIRST,
            group=lambda version: _group(settings, version),
            mend=mend,
            hashed_part=hashed_part,
        )
        process.supervise("replay", worker.run)
        simulator = Simulator(settings.database_url, SERVICE, Governance(_PRICES))
        process.supervise("simulator", simulator.run)

    return run(SERVICE, settings, start)


def serve() -> ExitCode:
    """Serve gRPC until stopped."""
    settings = load(ServeSettings)

    async def start(process: Process) -> None:
        pool = await _own_pool(process, settings, "quota serve", may_be_away=True)
        serving = Serving[QuotaView]()
        held = _Held({}, {})
        meter = FreshnessMeter()
        decisions = OutboxDecisionLog(pool, decision_event, _new_id)
        projected = [topic for topic in topics() if topic.name in QuotaProjection.topics]
        ends = LogEnds(settings.kafka_bootstrap, projected, serving, meter, _CLOCK)
        freshening, refreshes = Freshening(serving, ends), Refreshes()
        turns = Turns(
            hold_transactions(pool, _OWN, hold_event),
            lambda: (serving.version, serving.current),
            freshening,
        )

        LEDGER_WAITING.read = lambda: turns.waiting

        def refreshed() -> None:
            if serving.current is not None:
                meter.observe_view(serving.current.next_offsets)
            freshening.view_moved()
            refreshes.view_moved()

        def serving_version() -> int:
            if serving.version is None:
                raise UnavailableError("the view is being loaded")
            return serving.version

        def serving_pool() -> Pool:
            return held.pools[serving_version()]

        def serving_schemas() -> Schemas:
            return Schemas(SERVICE, serving_version())

        feeds = EachVersion(
            pool,
            FED,
            lambda version: _served_version(settings, version, serving, held, refreshed),
        )
        views, moments = Views(serving, _CLOCK), Moments(meter, _CLOCK)
        audit = AuditLog(pool, TRAIL)
        looks = Looks(views, AuditedLooks(audit), _CLOCK)
        friction = FrictionCounts()
        VIEW_LAG.read = lambda: _seconds(meter.lag(_CLOCK.steady()))
        server = RpcServer(settings, process, await Authenticator.load(settings, _CLOCK))
        desk = LedgerDesk(
            views,
            turns,
            decisions,
            looks,
            friction=friction,
            longest_wait_seconds=settings.grpc_default_deadline_seconds,
        )
        server.add(
            add_QuotaServiceServicer_to_server,
            quota_servicer(
                Checks(
                    views,
                    moments,
                    freshening,
                    decisions,
                    looks,
                    friction=friction,
                    new_id=_new_id,
                    longest_wait_seconds=settings.grpc_default_deadline_seconds,
                    draining=process.draining,
                ),
                Balances(views, moments, looks),
                Budgets(
                    views,
                    moments,
                    Budgeting(ServedHistory(serving_pool, _CLOCK)),
                    refreshes,
                    process.draining,
                ),
                Advice(views, looks),
                Sources(views, moments, lambda at, sources: source_states(serving_pool(), at, sources)),
                Drifts(
                    views, PostgresDrifts(settings.database_url, serving_schemas).compare, process.draining
                ),
                Policies(views, PostgresProposals(pool)),
                Simulations(views, PostgresSimulations(pool), process.draining),
                Holds(views, desk, PostgresHoldList(pool)),
                Leases(desk),
                looks,
                Interventions(views, Intervening(interventions(pool, intervention_ledger))),
                Trails(
                    views,
                    ServedUsageTrail(
                        serving_pool, log_reader(settings.kafka_bootstrap), USAGE, report_from_record
                    ),
                ),
            ),
        )
        server.add(
            add_OperationsServiceServicer_to_server,
            OperationsServicer(
                ServedOperations(held.operations, lambda: serving.version),
                Rebuilds(pool, settings.database_url, SERVICE, settings.kafka_bootstrap, TOPICS, trail=TRAIL),
                Verifications(pool, SERVICE, hashed_part, TRAIL),
                audit=audit,
                authorise=_privileged(serving),
                draining=process.draining,
            ),
        )

        async def not_ready() -> str | None:
            return not_ready_because(serving.current, _CLOCK.steady())

        process.readiness["view"] = not_ready
        process.readiness["log ends"] = ends.not_ready_because
        process.supervise("decision log", decisions.run)
        process.supervise("friction", FrictionLog(pool, friction, uuid4(), _CLOCK).run)
        process.supervise("turns of the ledger", turns.run)
        process.supervise("views", feeds.run)
        process.supervise("loaded versions", LoadedVersions(pool, uuid4(), serving).run)
        process.supervise("log ends", ends.run)
        process.supervise("gRPC server", server.run)
        process.supervise("refreshes", refreshes.run)
        process.supervise("freshening", freshening.run)  # stopped first: who waits is told at once

    return run(SERVICE, settings, start)


class _Held(NamedTuple):
    """What a server has of each version that it holds a view of."""

    pools: dict[int, Pool]
    operations: dict[int, Operations]


def _served_version(
    settings: ServeSettings,
    version: int,
    serving: Serving[QuotaView],
    held: _Held,
    refreshed: Callable[[], None],
) -> VersionWork:
    schemas = Schemas(SERVICE, version)
    view = QuotaView(Governance(_PRICES))

    async def work(stopping: asyncio.Event) -> None:
        async with _version_pool(settings, schemas, "quota serve") as pool:
            held.pools[version], held.operations[version] = pool, operations(settings, pool, schemas)
            try:
                feed = ViewFeed(settings.database_url, schemas, view, serving, _CLOCK, refreshed=refreshed)
                await feed.run(stopping)
            finally:
                serving.drop(version)
                del held.pools[version], held.operations[version]

    async def not_ready() -> str | None:
        return not_ready_because(view, _CLOCK.steady())

    return VersionWork(work, not_ready)


def _new_id() -> str:
    return f"{_IDS.getrandbits(128):032x}"


def _seconds(lag: timedelta | None) -> float | None:
    return None if lag is None else lag.total_seconds()


async def _own_pool(
    process: Process, settings: ServiceSettings, application_name: str, *, may_be_away: bool = False
) -> Pool:
    """Open a pool on what is never rebuilt, having refused schemas and topics this code isn't written for.

    From then on the process is ready only while the schemas are right, and the database there unless it
    ``may_be_away``.
    """
    pool = await process.enter(
        await create_pool(settings.database_url, _OWN, application_name=application_name)
    )
    async with pool.acquire() as connection:
        await _verify_schemas(connection)
    await verify_topics(settings.kafka_bootstrap, topics())
    process.readiness["database"] = database_check(pool, _verify_schemas, may_be_away=may_be_away)
    return pool


async def _verify_schemas(connection: Connection) -> None:
    await migrations(_OWN).verify(connection)
    await migrations(Schemas(SERVICE, await active_version(connection))).verify(connection)


@asynccontextmanager
async def _version_pool(
    settings: ServiceSettings, schemas: Schemas, application_name: str
) -> AsyncIterator[Pool]:
    """Open a pool on one version of the derived state, having refused another schema."""
    async with await create_pool(settings.database_url, schemas, application_name=application_name) as pool:
        async with pool.acquire() as connection:
            await migrations(schemas).verify(connection)
        yield pool


def _group(settings: ServiceSettings, version: int) -> str:
    return f"{settings.consumer_group or SERVICE}_v{version}"


def _intervention_event(done: Intervention) -> OutboxEvent:
    return intervention_event(done, current_traceparent())


def _skipped_event(skip: Skip) -> OutboxEvent:
    return skipped_event(skip, _CLOCK.now(), current_traceparent())


async def _retry_late(operator: Operations) -> int:
    result = await operator.retry(RejectionCode.TOO_LATE)
    return result.applied


def _judge(level: LogLevel) -> Judge:
    totals = TotalsJudge(KnownGovernance(Governance(_PRICES)))
    silences = SilenceAnnouncer(KnownGovernance(Governance(_PRICES)), level)
    policies = PolicyTrail(TRAIL)

    async def judge(connection: Connection, changes: Sequence[Change]) -> None:
        moved = {change.position.source_id: change.old_change_seq for change in changes if change.has_rows}
        announcements = PostgresAnnouncements(connection, announcement_id, announcement_event)
        anew = any(change.restarted for change in changes)
        ledger, now = PostgresLedger(connection), _CLOCK.now()
        await totals.judge(ledger, announcements, moved, now, anew=anew)
        await silences.judge(ledger, PostgresSources(connection), announcements, now)
        await policies.record(connection)

    return judge


def _privileged(serving: Serving[QuotaView]) -> Authorise:
    """Let workloads through that the table of callers lists, and of people only those with a privilege."""

    def authorise(identity: Identity, *privileges: str) -> None:
        if identity.on_behalf_of is None:
            return
        if (view := serving.current) is None:
            raise UnavailableError("the view is being loaded")
        directory = view.governance.directory
        if not directory.has_privilege(identity.on_behalf_of, _CLOCK.now(), *privileges):
            raise PermissionDeniedError(f"it takes the privilege {' or '.join(privileges)} to do this")

    return authorise
