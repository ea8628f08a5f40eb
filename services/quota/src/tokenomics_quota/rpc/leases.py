"""Leases: acquired, renewed and returned."""

from datetime import timedelta
from typing import Final

from google.protobuf.duration_pb2 import Duration

from tokenomics.quota.v1 import quota_pb2 as pb
from tokenomics_chassis.rpc.errors import InvalidRequestError
from tokenomics_chassis.rpc.identity import current_identity
from tokenomics_contracts.units import MAX_COST_MICRO_USD, MAX_VERSION, HoldId, MicroUsd
from tokenomics_quota.domain.holds import LONGEST_TTL, HeldNow, Moment, digest_of
from tokenomics_quota.domain.pricing import Tariff
from tokenomics_quota.rpc.convert import call_from_pb, service_tier_to_pb
from tokenomics_quota.rpc.desk import Context, LedgerDesk
from tokenomics_quota.rpc.held import call_fields, check_to_pb, hold_to_pb, subject_of, token_of, wrong_id
from tokenomics_quota.usecases.holding import (
    Done,
    Drawing,
    Placing,
    Price,
    Renewing,
    Returning,
)

SHORTEST_DRAW: Final = timedelta(seconds=1)
DEFAULT_DRAW: Final = timedelta(minutes=1)
LONGEST_DRAW: Final = timedelta(hours=1)
"""For so long, and the longest call, a client that died keeps others from what it holds."""

DEFAULT_LONGEST_CALL: Final = timedelta(minutes=10)

_AMOUNT: Final = f"must be 1 to {MAX_COST_MICRO_USD}"
_ADDED: Final = f"must be 0 to {MAX_COST_MICRO_USD}"
_DRAW_FOR: Final = f"must be {SHORTEST_DRAW.total_seconds():.0f} s to {LONGEST_DRAW.total_seconds():.0f} s"
_LONGEST_CALL: Final = f"must be 0 s to {(LONGEST_TTL - LONGEST_DRAW).total_seconds():.0f} s"


class Leases:
    """Gives commands on leases to the ledger, and answers what became of them."""

    def __init__(self, desk: LedgerDesk) -> None:
        self._desk = desk

    async def AcquireLease(  # noqa: N802 - the contract's name
        self, request: pb.AcquireLeaseRequest, context: Context
    ) -> pb.AcquireLeaseResponse:
        """Hold an amount that the client draws from by itself."""
        done = await self._desk.perform(self._acquiring(request), context)
        await self._desk.look_at([request.typical_call.subject], "AcquireLease")
        return pb.AcquireLeaseResponse(lease=_lease_to_pb(done), check=check_to_pb(done))

    async def RenewLease(  # noqa: N802 - the contract's name
        self, request: pb.RenewLeaseRequest, context: Context
    ) -> pb.RenewLeaseResponse:
        """Add to what a lease holds, and let its client draw on."""
        done = await self._desk.perform(self._renewing(request), context)
        await self._desk.look_at(subject_of(done), "RenewLease")
        return pb.RenewLeaseResponse(lease=_lease_to_pb(done), check=check_to_pb(done))

    async def ReturnLease(  # noqa: N802 - the contract's name
        self, request: pb.ReturnLeaseRequest, context: Context
    ) -> pb.ReturnLeaseResponse:
        """Free what was not drawn; nothing is drawn from then on."""
        wrong = wrong_id(request.lease_id, "lease_id")
        if not 0 <= request.drawn_micro_usd <= MAX_COST_MICRO_USD:
            wrong["drawn_micro_usd"] = _ADDED
        if wrong:
            raise InvalidRequestError(wrong)
        drawn = MicroUsd(request.drawn_micro_usd)
        returning = Returning(HoldId(request.lease_id), drawn, self._desk.sees())
        done = await self._desk.perform(returning, context)
        await self._desk.look_at(subject_of(done), "ReturnLease")
        return pb.ReturnLeaseResponse(lease=_lease_to_pb(done), token=token_of(done.moment.change_seq))

    def _acquiring(self, request: pb.AcquireLeaseRequest) -> Placing:
        wrong, call = wrong_id(request.lease_id, "lease_id"), None
        try:
            call = call_from_pb(request.typical_call)
        except InvalidRequestError as error:
            wrong |= {f"typical_call.{field}": message for field, message in error.violations.items()}
        if not 0 < request.amount_micro_usd <= MAX_COST_MICRO_USD:
            wrong["amount_micro_usd"] = _AMOUNT
        draw_for = _duration(request.draw_for) if request.HasField("draw_for") else DEFAULT_DRAW
        if draw_for is None or not SHORTEST_DRAW <= draw_for <= LONGEST_DRAW:
            wrong["draw_for"] = _DRAW_FOR
        longest_call = DEFAULT_LONGEST_CALL
        if request.HasField("longest_call"):
            asked = _duration(request.longest_call)
            if asked is None or not timedelta() <= asked <= LONGEST_TTL - LONGEST_DRAW:
                wrong["longest_call"] = _LONGEST_CALL
            else:
                longest_call = asked
        if wrong or call is None or draw_for is None:
            raise InvalidRequestError(wrong)
        sees = self._desk.sees()
        fields = {
            **call_fields("typical_call", call),
            "amount_micro_usd": request.amount_micro_usd,
            "draw_for": draw_for // timedelta(microseconds=1),
            "longest_call": longest_call // timedelta(microseconds=1),
            "tokenomics-on-behalf-of": current_identity().on_behalf_of or "",
        }
        return Placing(
            HoldId(request.lease_id),
            call,
            MicroUsd(request.amount_micro_usd),
            draw_for + longest_call,
            None,
            digest_of(fields),
            tuple(fields),
            sees,
            self._desk.telling("typical_call", sees),
            Drawing(draw_for, longest_call, request.typical_call.SerializeToString(deterministic=True)),
        )

    def _renewing(self, request: pb.RenewLeaseRequest) -> Renewing:
        wrong = wrong_id(request.lease_id, "lease_id")
        if not 1 <= request.renewal <= MAX_VERSION:
            wrong["renewal"] = f"must be 1 to {MAX_VERSION}"
        for field in ("drawn_micro_usd", "amount_micro_usd"):
            if not 0 <= getattr(request, field) <= MAX_COST_MICRO_USD:
                wrong[field] = _ADDED
        draw_for = _duration(request.draw_for) if request.HasField("draw_for") else DEFAULT_DRAW
        if draw_for is None or not SHORTEST_DRAW <= draw_for <= LONGEST_DRAW:
            wrong["draw_for"] = _DRAW_FOR
        if wrong or draw_for is None:
            raise InvalidRequestError(wrong)
        sees = self._desk.sees()
        fields = {
            "renewal": request.renewal,
            "drawn_micro_usd": request.drawn_micro_usd,
            "amount_micro_usd": request.amount_micro_usd,
            "draw_for": draw_for // timedelta(microseconds=1),
        }
        return Renewing(
            HoldId(request.lease_id),
            request.renewal,
            MicroUsd(request.drawn_micro_usd),
            MicroUsd(request.amount_micro_usd),
            draw_for,
            digest_of(fields),
            sees,
            lambda typical_call: call_from_pb(pb.CheckQuotaRequest.FromString(typical_call)),
            self._desk.telling("typical_call", sees),
        )


def _duration(duration: Duration) -> timedelta | None:
    try:
        return duration.ToTimedelta()
    except (ValueError, OverflowError):
        return None


def _lease_to_pb(done: Done) -> pb.Lease | None:
    held = done.held
    if held is None or held.hold.lease is None:
        return None
    lease = held.hold.lease
    answer = pb.Lease(hold=hold_to_pb(held), renewal=lease.renewal)
    answer.draw_for.FromTimedelta(_left_to_draw(held, done.moment))
    if done.price is not None:
        answer.price.CopyFrom(_price_to_pb(done.price))
    return answer


def _left_to_draw(held: HeldNow, moment: Moment) -> timedelta:
    """Return how long the client may draw, counted from before its request, which was before the moment."""
    lease = held.hold.lease
    assert lease is not None
    if lease.is_returned or not held.hold.is_live(moment.now):
        return timedelta()
    return max(timedelta(), lease.draw_until - moment.now)


def _price_to_pb(price: Price) -> pb.LeasePrice:
    starts = (0, *price.by_size.borders)
    return pb.LeasePrice(
        provider=price.provider,
        model=price.model,
        service_tier=service_tier_to_pb(price.service_tier),
        steps=map(_rates_to_pb, starts, price.by_size.values),
        price_book_version=price.price_book_version,
    )


def _rates_to_pb(start: int, tariff: Tariff) -> pb.SizedRates:
    return pb.SizedRates(
        from_input_tokens=start,
        per_request=tariff.request,
        per_input_token=tariff.input,
        per_cached_input_token=tariff.input + tariff.cached_input,
        per_output_token=tariff.output,
    )
