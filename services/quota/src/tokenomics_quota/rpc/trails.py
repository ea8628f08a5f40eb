"""A subject's usage trail."""

import re
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import grpc

from tokenomics.quota.v1 import quota_pb2 as pb
from tokenomics_chassis.rpc.errors import InvalidRequestError, PermissionDeniedError
from tokenomics_chassis.rpc.identity import current_identity
from tokenomics_chassis.rpc.paging import page_size, wrong_page_size
from tokenomics_quota.domain.trail import Reported, Used
from tokenomics_quota.ports import UsageTrail
from tokenomics_quota.projections.balances import QuotaView
from tokenomics_quota.rpc.convert import (
    IDENTIFIER,
    call_purpose_to_pb,
    instant_from_pb,
    is_identifier,
    pricing_to_pb,
    service_tier_to_pb,
    timestamp_to_pb,
)
from tokenomics_quota.rpc.views import Views

_TOKEN: Final = re.compile(r"([0-9]{1,16})\.([0-9a-f]{32})")
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)

Context = grpc.aio.ServicerContext[Any, Any]


class NoConsentError(PermissionDeniedError):
    """Somebody else asks for a trail, and the subject has not consented."""

    reason = "NO_CONSENT"


class Trails:
    """Gives subjects what is counted on them, request by request.

    Nobody else is given it: consent is recorded with an approval's request, and there are none yet.
    """

    def __init__(self, views: Views, trail: UsageTrail) -> None:
        self._views = views
        self._trail = trail

    async def ListUsage(  # noqa: N802 - the contract's name
        self, request: pb.ListUsageRequest, _context: Context
    ) -> pb.ListUsageResponse:
        """Return a page of the subject's own usage, newest first."""
        view, now = self._views.at_hand()
        since, before, behind = _asked(request, view, now)
        if current_identity().on_behalf_of != request.subject:
            raise NoConsentError("a usage trail is for the subject, or needs the subject's consent")
        size = page_size(request.page_size)
        names = {request.subject, *view.governance.directory.aliases(request.subject)}
        found = await self._trail.page(names, request.subject, since, before, behind=behind, limit=size + 1)
        page = found[:size]
        reports = await self._trail.reports(page)
        return pb.ListUsageResponse(
            usage=map(_usage_to_pb, page, reports),
            next_page_token=_token(page[-1]) if len(found) > size else "",
        )


def _asked(
    request: pb.ListUsageRequest, view: QuotaView, now: datetime
) -> tuple[datetime, datetime, tuple[datetime, bytes] | None]:
    """Return from when and until when, and behind what, usage is asked for."""
    rules = {
        "subject": (is_identifier(request.subject), IDENTIFIER),
        "consent_id": (not request.consent_id or is_identifier(request.consent_id), IDENTIFIER),
        "page_token": (not request.page_token or _TOKEN.fullmatch(request.page_token), "is not of this call"),
    }
    wrong = {field: message for field, (holds, message) in rules.items() if not holds}
    wrong |= wrong_page_size(request.page_size)
    calendar = view.governance.calendars.at(now)
    since, _ = calendar.bounds(calendar.period_of(now))
    before = now + _MICROSECOND
    if request.HasField("since"):
        since = instant_from_pb(request.since, "since", wrong)
    if request.HasField("before"):
        before = instant_from_pb(request.before, "before", wrong)
    if request.HasField("since") and not wrong and since >= before:
        wrong["since"] = "must lie before `before`"
    if wrong:
        raise InvalidRequestError(wrong)
    behind = None
    if match := _TOKEN.fullmatch(request.page_token):
        behind = (_EPOCH + int(match[1]) * _MICROSECOND, bytes.fromhex(match[2]))
    return since, before, behind


def _token(last: Used) -> str:
    return f"{(last.occurred_at - _EPOCH) // _MICROSECOND}.{last.identity.hex()}"


def _usage_to_pb(used: Used, reported: Reported | None) -> pb.Usage:
    quantities = used.quantities
    usage = pb.Usage(
        time=timestamp_to_pb(used.occurred_at),
        provider=used.provider,
        model=used.model,
        input_tokens=quantities.input_tokens,
        cached_input_tokens=quantities.cached_input_tokens,
        cache_creation_tokens=quantities.cache_creation_tokens,
        output_tokens=quantities.output_tokens,
        reasoning_tokens=quantities.reasoning_tokens,
        service_tier=service_tier_to_pb(quantities.service_tier),
        project=used.project_id or "",
        purpose=call_purpose_to_pb(used.purpose),
        cost_micro_usd=used.cost_micro_usd,
        pricing=pricing_to_pb(used.pricing),
        revision=used.revision,
    )
    if reported is not None:
        usage.source, usage.id, usage.tool = reported.source, reported.event_id, reported.tool
        usage.use_case = reported.use_case or ""
    return usage
