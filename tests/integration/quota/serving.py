"""The gRPC service on a real view, whose refreshes, clock and log are in a test's hands."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import grpc
import pytest
from google.rpc.error_details_pb2 import BadRequest
from grpc_status import rpc_status

from tests.integration.quota.harness import TRAIL, Quota, intervention_ledger
from tests.support.clocks import SetClock
from tests.support.grpc import TokenIssuer, bearer, rpc_settings, served
from tests.support.quota_events import NoPrices, person, price_book, quota_policy, usage
from tokenomics.quota.v1 import quota_pb2 as pb
from tokenomics.quota.v1.quota_pb2_grpc import QuotaServiceStub, add_QuotaServiceServicer_to_server
from tokenomics_chassis.audit import AuditLog
from tokenomics_chassis.event_sources import source_states
from tokenomics_chassis.postgres import session
from tokenomics_chassis.serving import Serving
from tokenomics_quota.domain.checks import Decided
from tokenomics_quota.ports import Reserved
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
from tokenomics_quota.storage.drift import PostgresDrifts
from tokenomics_quota.storage.history import ServedHistory
from tokenomics_quota.storage.hold_ledger import PostgresHoldList, hold_transactions
from tokenomics_quota.storage.interventions import interventions
from tokenomics_quota.storage.looks import AuditedLooks
from tokenomics_quota.storage.proposals import PostgresProposals
from tokenomics_quota.storage.simulations import PostgresSimulations
from tokenomics_quota.storage.usage_trail import ServedUsageTrail
from tokenomics_quota.storage.view_feed import ViewFeed
from tokenomics_quota.streams.decoding import report_from_record
from tokenomics_quota.streams.hold_events import hold_event
from tokenomics_quota.streams.projection import USAGE
from tokenomics_quota.usecases.budgeting import Budgeting
from tokenomics_quota.usecases.freshening import Freshening
from tokenomics_quota.usecases.friction import FrictionCounts
from tokenomics_quota.usecases.intervening import Intervening
from tokenomics_quota.usecases.refreshes import Refreshes
from tokenomics_quota.usecases.turns import Turns

if TYPE_CHECKING:
    from tokenomics.quota.v1.quota_pb2_grpc import QuotaServiceAsyncStub

CALLER = "system:serviceaccount:ai:portal"


@dataclass
class Decisions:
    """A decision log in memory."""

    kept: list[Decided] = field(default_factory=list)
    on_add: Callable[[], None] = lambda: None
    """Called when a decision has been kept."""
    reserved: int = 0
    """Places that were given, of which some may never be taken."""

    def add(self, decided: Decided) -> str:
        decision_id, keep = self.reserve(decided)
        keep()
        return decision_id

    def reserve(self, decided: Decided) -> Reserved:
        self.reserved += 1

        def keep() -> None:
            self.kept.append(decided)
            self.on_add()

        return Reserved(f"kept-{self.reserved}", keep)


@dataclass
class Ends:
    """The ends of a log that is only told of."""

    offsets: dict[str, int] = field(default_factory=dict)
    read_at: float | None = None
    asked: int = 0

    async def next(self) -> dict[str, int]:
        self.asked += 1
        self.read_at = asyncio.get_running_loop().time()
        return dict(self.offsets)


@dataclass
class Served:
    """The service, its view's feed, and a stub that calls it."""

    channel: grpc.aio.Channel
    stub: "QuotaServiceAsyncStub"
    view: QuotaView
    feed: ViewFeed
    decisions: Decisions
    token: str
    quota: Quota
    clock: SetClock
    meter: FreshnessMeter
    ends: Ends
    freshening: Freshening
    draining: asyncio.Event
    friction: FrictionCounts

    def level(self) -> None:
        """Let the view be known to be level with the log."""
        self.meter.observe_ends({}, self.clock.steady())
        self.meter.observe_view({})

    def metadata(self, person_id: str | None = None) -> tuple[tuple[str, str], ...]:
        asserted = {"tokenomics_on_behalf_of": person_id} if person_id else {}
        return bearer(self.token, **asserted)

    async def refresh(self) -> None:
        async with session(self.quota.url, self.quota.schemas, application_name="test") as connection:
            await self.feed.refresh(connection)


@asynccontextmanager
async def serve(quota: Quota, folder: Path) -> AsyncIterator[Served]:
    """Serve quota's database from a view that is refreshed by hand."""
    issuer, decisions, meter, clock = TokenIssuer(), Decisions(), FreshnessMeter(), SetClock()
    view, serving = QuotaView(Governance(NoPrices())), Serving[QuotaView]()
    methods = ["/tokenomics.quota.v1.QuotaService/*"]
    settings = rpc_settings(
        folder, issuer, [{"subject": CALLER, "methods": methods, "may_act_for_people": True}]
    )
    ends = Ends()
    freshening = Freshening(serving, ends)
    draining, refreshes = asyncio.Event(), Refreshes()

    def refreshed() -> None:
        freshening.view_moved()
        refreshes.view_moved()

    turns = Turns(
        hold_transactions(quota.pool, quota.schemas, hold_event),
        lambda: (serving.version, serving.current),
        freshening,
    )
    views, moments = Views(serving, clock), Moments(meter, clock)
    looks = Looks(views, AuditedLooks(AuditLog(quota.pool, TRAIL)), clock)
    friction = FrictionCounts()
    desk = LedgerDesk(views, turns, decisions, looks, friction=friction, longest_wait_seconds=1)
    servicer = quota_servicer(
        Checks(
            views,
            moments,
            freshening,
            decisions,
            looks,
            friction=friction,
            new_id=lambda: "decision-1",
            longest_wait_seconds=1,
            draining=draining,
        ),
        Balances(views, moments, looks),
        Budgets(views, moments, Budgeting(ServedHistory(lambda: quota.pool, clock)), refreshes, draining),
        Advice(views, looks),
        Sources(views, moments, lambda at, sources: source_states(quota.pool, at, sources)),
        Drifts(views, PostgresDrifts(quota.url, lambda: quota.schemas).compare, draining),
        Policies(views, PostgresProposals(quota.pool)),
        Simulations(views, PostgresSimulations(quota.pool), draining),
        Holds(views, desk, PostgresHoldList(quota.pool)),
        Leases(desk),
        looks,
        Interventions(views, Intervening(interventions(quota.pool, intervention_ledger))),
        Trails(views, ServedUsageTrail(lambda: quota.pool, quota.read_records, USAGE, report_from_record)),
    )
    async with (
        _running(turns.run),
        served(settings, lambda server: server.add(add_QuotaServiceServicer_to_server, servicer)) as rpc,
    ):
        yield Served(
            rpc.channel,
            QuotaServiceStub(rpc.channel),
            view,
            ViewFeed(quota.url, quota.schemas, view, serving, clock, refreshed=refreshed),
            decisions,
            issuer.token(CALLER),
            quota,
            clock,
            meter,
            ends,
            freshening,
            draining,
            friction,
        )


@asynccontextmanager
async def _running(task: Callable[[asyncio.Event], Awaitable[None]]) -> AsyncIterator[None]:
    """Run a task of the process until the block is left, and let it come to its end."""
    stopping = asyncio.Event()
    running = asyncio.ensure_future(task(stopping))
    try:
        yield
    finally:
        stopping.set()
        await running


def check_request(subject: str = "ada", **fields: object) -> pb.CheckQuotaRequest:
    return pb.CheckQuotaRequest(**({"subject": subject, "provider": "acme", "model": "one"} | fields))  # type: ignore[arg-type] # the fields of the request


async def company(quota: Quota) -> None:
    await quota.tell(price_book(), "book")
    await quota.tell(quota_policy(allowances=[{"role": "engineer", "limit_micro_usd": 200}]), "policy")
    await quota.tell(person("ada", manager_id="boss"), "ada")
    await quota.tell(person("eve", team_id="blue"), "eve")
    await quota.tell(usage("ada", input_tokens=150, output_tokens=0), "a")


async def refused(answering: Awaitable[object]) -> grpc.StatusCode:
    with pytest.raises(grpc.aio.AioRpcError) as refusal:
        await answering
    return refusal.value.code()


def violated_fields(error: grpc.aio.AioRpcError) -> set[str]:
    status = rpc_status.from_call(error)  # type: ignore[arg-type] # an AioRpcError is a call, too
    assert status is not None
    for detail in status.details:
        bad_request = BadRequest()
        if detail.Unpack(bad_request):
            return {violation.field for violation in bad_request.field_violations}
    return set()
