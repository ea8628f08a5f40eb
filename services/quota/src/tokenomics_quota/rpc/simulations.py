"""Simulations: what other policies would have decided about recorded usage."""

import asyncio
import json
from collections.abc import AsyncIterator
from datetime import datetime
from typing import Any, Final, Literal

import grpc

from tokenomics.quota.v1 import quota_pb2 as pb
from tokenomics_chassis.postgres import wait_for
from tokenomics_chassis.rpc.errors import (
    AlreadyExistsError,
    FailedPreconditionError,
    InvalidRequestError,
    NotFoundError,
    StoppingError,
)
from tokenomics_chassis.rpc.identity import current_identity
from tokenomics_chassis.rpc.structs import from_struct
from tokenomics_contracts.events.policy import DOCUMENT_MODELS, PolicyDocument, validate_document
from tokenomics_contracts.units import EARLIEST_TIME
from tokenomics_quota.domain.simulations import (
    LONGEST,
    SIMULATED_KINDS,
    Asked,
    Changes,
    Simulation,
    SimulationResult,
    SimulationState,
)
from tokenomics_quota.ports import Simulations as Store
from tokenomics_quota.projections.governance import Governance
from tokenomics_quota.rpc.convert import CHOSEN_ID, instant_from_pb, is_identifier, timestamp_to_pb
from tokenomics_quota.rpc.policies import located, objections
from tokenomics_quota.rpc.views import Views, require_governance
from tokenomics_quota.rpc.watching import Watchers

MOST_WATCHING: Final = 100
MOST_BYTES: Final = 1_000_000
"""Of documents, as JSON."""

_LOOK_SECONDS: Final = 0.5
_KIND: Final = f"decides about no recorded usage: simulate {' or '.join(sorted(SIMULATED_KINDS))}"
_STATES: Final = {
    SimulationState.RUNNING: pb.SIMULATION_STATE_RUNNING,
    SimulationState.COMPLETED: pb.SIMULATION_STATE_COMPLETED,
    SimulationState.FAILED: pb.SIMULATION_STATE_FAILED,
}

Context = grpc.aio.ServicerContext[Any, Any]


class Simulations:
    """Records simulations for the replay process, and tells how far they are.

    Parameters
    ----------
    draining
        Set when the process stops: streams come to their end.
    """

    def __init__(self, views: Views, store: Store, draining: asyncio.Event) -> None:
        self._views = views
        self._store = store
        self._draining = draining
        self._watchers = Watchers("simulations")

    async def StartSimulation(  # noqa: N802 - the contract's name
        self, request: pb.StartSimulationRequest, _context: Context
    ) -> pb.StartSimulationResponse:
        """Record what is to be simulated."""
        view, now = self._views.at_hand()
        require_governance(view, now)
        asked, documents = _asked_from_pb(request, now)
        kept = await self._store.find(asked.simulation_id)
        if kept is None:
            view, now = self._views.at_hand()
            await _require_simulable(asked, documents, view.governance, now)
            kept = await self._store.add(asked)
        if kept is None:
            raise FailedPreconditionError("too many simulations wait already: try again when one has ended")
        if differing := kept.asked.differs_in(asked):
            raise AlreadyExistsError("another simulation has this id", differing)
        return pb.StartSimulationResponse(simulation=_simulation_to_pb(kept))

    async def WatchSimulation(  # noqa: N802 - the contract's name
        self, request: pb.WatchSimulationRequest, _context: Context
    ) -> AsyncIterator[pb.WatchSimulationResponse]:
        """Tell how far a simulation is at once, then whenever it has moved, until it has ended."""
        with self._watchers.one_more(MOST_WATCHING):
            told: Simulation | None = None
            while told is None or told.state is SimulationState.RUNNING:
                if told is not None and await wait_for(self._draining, _LOOK_SECONDS):
                    raise StoppingError("this server stops: watch on at another one")
                simulation = await self._find(request.simulation_id)
                if simulation != told:
                    yield pb.WatchSimulationResponse(simulation=_simulation_to_pb(simulation))
                    told = simulation

    async def GetSimulation(  # noqa: N802 - the contract's name
        self, request: pb.GetSimulationRequest, _context: Context
    ) -> pb.GetSimulationResponse:
        """Return a simulation as it stands."""
        return pb.GetSimulationResponse(simulation=_simulation_to_pb(await self._find(request.simulation_id)))

    async def _find(self, simulation_id: str) -> Simulation:
        require_governance(*self._views.at_hand())
        if not is_identifier(simulation_id):
            raise InvalidRequestError({"simulation_id": CHOSEN_ID})
        simulation = await self._store.find(simulation_id)
        if simulation is None:
            raise NotFoundError(f"there is no simulation {simulation_id}")
        return simulation


def _asked_from_pb(
    request: pb.StartSimulationRequest, now: datetime
) -> tuple[Asked, dict[str, PolicyDocument]]:
    wrong = dict[str, str]()
    if not is_identifier(request.simulation_id):
        wrong["simulation_id"] = CHOSEN_ID
    text, documents = _documents_from_pb(request, wrong)
    since, before = _range_from_pb(request, wrong)
    if wrong:
        raise InvalidRequestError(wrong)
    identity = current_identity()
    requested_by = identity.on_behalf_of or identity.caller
    return Asked(request.simulation_id, text, since, before, requested_by, now), documents


def _documents_from_pb(
    request: pb.StartSimulationRequest, wrong: dict[str, str]
) -> tuple[str, dict[str, PolicyDocument]]:
    documents = dict[str, PolicyDocument]()
    sent = {kind: from_struct(struct) for kind, struct in request.documents.items()}
    text = json.dumps(sent, sort_keys=True)
    if not sent:
        wrong["documents"] = "must have one document or more"
    if len(text) > MOST_BYTES:
        wrong["documents"] = f"must have at most {MOST_BYTES:,} bytes as JSON"
        return text, documents
    for kind, document in sorted(sent.items()):
        if kind not in SIMULATED_KINDS:
            wrong[f"documents[{kind}]"] = _KIND
        elif problems := validate_document(kind, document):
            wrong |= located(f"documents[{kind}]", {each.path: each.message for each in problems})
        else:
            documents[kind] = DOCUMENT_MODELS[kind].model_validate(document)
    return text, documents


def _range_from_pb(request: pb.StartSimulationRequest, wrong: dict[str, str]) -> tuple[datetime, datetime]:
    since = _instant_from_pb(request, "since", wrong)
    before = _instant_from_pb(request, "before", wrong)
    if not {"since", "before"} & wrong.keys():
        if before <= since:
            wrong["before"] = "must be later than since"
        elif before - since > LONGEST:
            wrong["before"] = f"must be at most {LONGEST.days} days after since"
    return since, before


def _instant_from_pb(
    request: pb.StartSimulationRequest, field: Literal["since", "before"], wrong: dict[str, str]
) -> datetime:
    if not request.HasField(field):
        wrong[field] = "must be set"
        return EARLIEST_TIME
    return instant_from_pb(getattr(request, field), field, wrong)


async def _require_simulable(
    asked: Asked, documents: dict[str, PolicyDocument], governance: Governance, now: datetime
) -> None:
    """Refuse what begins too long ago, or breaks its promises: asked again later it has its answer still."""
    wrong = dict[str, str]()
    if asked.since < now - LONGEST:
        wrong["since"] = f"must be at most {LONGEST.days} days ago"
    for kind, document in json.loads(asked.documents).items():
        beside = {other: each for other, each in documents.items() if other != kind}
        found = await objections(kind, document, beside, governance, now)
        wrong |= located(f"documents[{kind}]", found)
    if wrong:
        raise InvalidRequestError(wrong)


def _simulation_to_pb(simulation: Simulation) -> pb.Simulation:
    asked, state, replayed_events, total_events, result, error_message, ended_at = simulation
    return pb.Simulation(
        simulation_id=asked.simulation_id,
        state=_STATES[state],
        replayed_events=replayed_events,
        total_events=total_events,
        result=None if result is None else _result_to_pb(result),
        error_message=error_message or "",
        kinds=sorted(json.loads(asked.documents)),
        since=timestamp_to_pb(asked.since),
        before=timestamp_to_pb(asked.before),
        requested_by=asked.requested_by,
        requested_at=timestamp_to_pb(asked.requested_at),
        ended_at=None if ended_at is None else timestamp_to_pb(ended_at),
    )


def _result_to_pb(result: SimulationResult) -> pb.SimulationResult:
    return pb.SimulationResult(
        decisions=[
            pb.DecisionCount(
                decision=pb.Decision.Value(f"DECISION_{each.decision.label}"),
                actual=each.actual,
                simulated=each.simulated,
                actual_micro_usd=each.actual_micro_usd,
                simulated_micro_usd=each.simulated_micro_usd,
            )
            for each in result.decisions
        ],
        posted_micro_usd=result.posted_micro_usd,
        simulated_posted_micro_usd=result.simulated_posted_micro_usd,
        interrupted_subjects=result.simulated_interrupted_subjects,
        actual_interrupted_subjects=result.interrupted_subjects,
        changed_subjects=result.changed_subjects,
        changes=_changes_to_pb(result.changes),
        newly_denied_micro_usd=result.newly_denied_micro_usd,
        teams=map(_changes_to_pb, result.teams),
        roles=map(_changes_to_pb, result.roles),
    )


def _changes_to_pb(changes: Changes) -> pb.DecisionChanges:
    return pb.DecisionChanges(
        name=changes.name,
        people=changes.people,
        calls=changes.calls,
        stricter_calls=changes.stricter,
        milder_calls=changes.milder,
        newly_interrupted_calls=changes.newly_interrupted,
        no_longer_interrupted_calls=changes.no_longer_interrupted,
    )
