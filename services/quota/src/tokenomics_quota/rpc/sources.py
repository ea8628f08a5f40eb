"""How sources of events are doing, for their owners and operators."""

from collections.abc import Awaitable, Callable, Collection, Sequence
from datetime import datetime
from typing import Any

import grpc

from tokenomics.quota.v1 import quota_pb2 as pb
from tokenomics_chassis.event_sources import SourceState
from tokenomics_chassis.rpc.errors import InvalidRequestError, NotFoundError, PermissionDeniedError
from tokenomics_chassis.rpc.identity import current_identity
from tokenomics_contracts.units import MAX_EVENT_NAME_LENGTH, is_event_name
from tokenomics_quota.domain.policies import SourcesPolicy
from tokenomics_quota.projections.balances import QuotaView
from tokenomics_quota.rpc.moments import Moments
from tokenomics_quota.rpc.views import Views

Context = grpc.aio.ServicerContext[Any, Any]

ReadStates = Callable[[datetime, Collection[str] | None], Awaitable[Sequence[SourceState]]]
"""Returns what is known at a time of some sources, or of all, as the version that serves has it."""


class Sources:
    """Tells from the committed state what was read of sources, and from the view who answers for them."""

    def __init__(self, views: Views, moments: Moments, read_states: ReadStates) -> None:
        self._views = views
        self._moments = moments
        self._read_states = read_states

    async def GetSourceStatus(  # noqa: N802 - the contract's name
        self, request: pb.GetSourceStatusRequest, _context: Context
    ) -> pb.GetSourceStatusResponse:
        """Return one source, or all that may be shown to who asks."""
        if request.source and not is_event_name(request.source):
            raise InvalidRequestError(
                {"source": f"must have 1 to {MAX_EVENT_NAME_LENGTH} printable characters"}
            )
        view, now = self._views.at_hand()
        policy = view.governance.sources.at(now)
        asked = _asked(request.source, view, policy, now)
        lag, expected_since = self._moments.at(view, now).lag, view.governance.sources.since(now)
        states = {each.source: each for each in await self._read_states(now, asked)}
        named = policy.rules if asked is None else policy.rules.keys() & asked
        sources = sorted({*states, *named})
        if request.source and not sources:
            raise NotFoundError("neither policy nor events name this source")
        known_until = None if lag is None else now - lag
        return pb.GetSourceStatusResponse(
            sources=[
                _status(source, states.get(source), policy, expected_since, known_until) for source in sources
            ]
        )


def _asked(source: str, view: QuotaView, policy: SourcesPolicy, now: datetime) -> Collection[str] | None:
    """Return which sources to tell of; ``None``: all.

    Raises
    ------
    PermissionDeniedError
        The one that is asked for isn't for this person.
    """
    person = current_identity().on_behalf_of
    if person is None or view.governance.directory.has_privilege(person, now, "operator"):
        return [source] if source else None
    left = view.governance.directory.has_left(person, now)
    owned = [name for name, rule in policy.rules.items() if rule.owner_id == person and not left]
    if source and source not in owned:
        raise PermissionDeniedError("only the source's owner and operators may see this")
    return [source] if source else owned


def _status(
    source: str,
    state: SourceState | None,
    policy: SourcesPolicy,
    expected_since: datetime,
    known_until: datetime | None,
) -> pb.SourceStatus:
    status, rule = pb.SourceStatus(source=source), policy.rules.get(source)
    if state is not None:
        status.last_event_at.FromDatetime(state.last_event_at)
        status.events_last_day, status.parked_events = state.events_last_day, state.parked
        if state.median_delay is not None:
            status.median_delay.FromTimedelta(state.median_delay)
    if rule is not None:
        status.owner_id = rule.owner_id
        if rule.silent_after is not None:
            status.silent_after.FromTimedelta(rule.silent_after)
        if known_until is not None:
            last_event_at = None if state is None else state.last_event_at
            status.silent = rule.silence(last_event_at, expected_since, known_until) is not None
    return status
