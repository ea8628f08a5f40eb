"""Holds: placed, ended and listed."""

from datetime import timedelta
from typing import Any, Final

import grpc
from google.protobuf.duration_pb2 import Duration

from tokenomics.quota.v1 import quota_pb2 as pb
from tokenomics_chassis.rpc.errors import InvalidRequestError
from tokenomics_chassis.rpc.identity import current_identity
from tokenomics_chassis.rpc.paging import page_size, wrong_page_size
from tokenomics_contracts.units import (
    EARLIEST_TIME,
    MAX_COST_MICRO_USD,
    AccountId,
    HoldId,
    MicroUsd,
    SubjectId,
)
from tokenomics_quota.domain.accounts import parse_account_id
from tokenomics_quota.domain.checks import Call
from tokenomics_quota.domain.holds import (
    DEFAULT_TTL,
    LONGEST_TTL,
    SHORTEST_TTL,
    digest_of,
)
from tokenomics_quota.ports import HoldList, HoldsWanted
from tokenomics_quota.rpc.convert import (
    CHOSEN_ID,
    call_from_pb,
    instant_from_pb,
    is_identifier,
)
from tokenomics_quota.rpc.desk import LedgerDesk, account_of
from tokenomics_quota.rpc.held import (
    STATES,
    call_fields,
    check_to_pb,
    hold_to_pb,
    subject_of,
    token_of,
    wrong_id,
)
from tokenomics_quota.rpc.views import Views, authorize, sight
from tokenomics_quota.usecases.holding import Done, Extending, Placing, Releasing, Settling
from tokenomics_quota.usecases.seeing import everything

_FOREIGN_TOKEN: Final = {"page_token": "is not of this call"}
_LARGEST_NUMBER: Final = 2**63 - 1
_DIGITS: Final = 19

_STATES_FROM_PB: Final = {number: state for state, number in STATES.items()}
_AMOUNT: Final = f"must be 0 to {MAX_COST_MICRO_USD}"
_TTL: Final = f"must be {SHORTEST_TTL.total_seconds():.0f} s to {LONGEST_TTL.total_seconds():.0f} s"

Context = grpc.aio.ServicerContext[Any, Any]


class Holds:
    """Gives commands on holds to the ledger, and answers what became of them."""

    def __init__(self, views: Views, desk: LedgerDesk, listed: HoldList) -> None:
        self._views = views
        self._desk = desk
        self._listed = listed

    async def PlaceHold(  # noqa: N802 - the contract's name
        self, request: pb.PlaceHoldRequest, context: Context
    ) -> pb.PlaceHoldResponse:
        """Place a hold on every account of a call, or tell what speaks against it."""
        done = await self._desk.perform(self._placing(request), context)
        await self._desk.look_at([request.call.subject], "PlaceHold")
        check = check_to_pb(done)
        return pb.PlaceHoldResponse(hold=hold_to_pb(done.held) if done.held else None, check=check)

    async def SettleHold(  # noqa: N802 - the contract's name
        self, request: pb.SettleHoldRequest, context: Context
    ) -> pb.SettleHoldResponse:
        """End a hold with what its call cost."""
        wrong = wrong_id(request.hold_id)
        if not 0 <= request.cost_micro_usd <= MAX_COST_MICRO_USD:
            wrong["cost_micro_usd"] = _AMOUNT
        if wrong:
            raise InvalidRequestError(wrong)
        cost = MicroUsd(request.cost_micro_usd)
        done = await self._desk.perform(Settling(HoldId(request.hold_id), cost, self._desk.sees()), context)
        await self._desk.look_at(subject_of(done), "SettleHold")
        return pb.SettleHoldResponse(hold=_held_to_pb(done), token=token_of(done.moment.change_seq))

    async def ReleaseHold(  # noqa: N802 - the contract's name
        self, request: pb.ReleaseHoldRequest, context: Context
    ) -> pb.ReleaseHoldResponse:
        """End a hold without usage."""
        if wrong := wrong_id(request.hold_id):
            raise InvalidRequestError(wrong)
        done = await self._desk.perform(Releasing(HoldId(request.hold_id), self._desk.sees()), context)
        await self._desk.look_at(subject_of(done), "ReleaseHold")
        return pb.ReleaseHoldResponse(hold=_held_to_pb(done), token=token_of(done.moment.change_seq))

    async def ExtendHold(  # noqa: N802 - the contract's name
        self, request: pb.ExtendHoldRequest, context: Context
    ) -> pb.ExtendHoldResponse:
        """Move a live hold's end to a later instant."""
        wrong, wished_end = wrong_id(request.hold_id), EARLIEST_TIME
        if not request.HasField("expires_at"):
            wrong["expires_at"] = "must be set"
        else:
            wished_end = instant_from_pb(request.expires_at, "expires_at", wrong)
        if wrong:
            raise InvalidRequestError(wrong)
        done = await self._desk.perform(
            Extending(HoldId(request.hold_id), wished_end, self._desk.sees()), context
        )
        await self._desk.look_at(subject_of(done), "ExtendHold")
        return pb.ExtendHoldResponse(hold=_held_to_pb(done))

    async def ListHolds(  # noqa: N802 - the contract's name
        self, request: pb.ListHoldsRequest, _context: Context
    ) -> pb.ListHoldsResponse:
        """Return a page of holds, newest first: a person's own, or those of whom the person decides about."""
        wanted = _wanted_from_pb(request)
        view, now = self._views.at_hand()
        sees, person = sight(view, now), current_identity().on_behalf_of
        subject = wanted.subject or (person if sees is not everything else None)
        if subject is not None:
            subject = view.governance.directory.attribution(subject).at(now).subject_id or SubjectId(subject)
            authorize(sees, account_of(subject))
        page = await self._listed.page(wanted._replace(subject=subject))
        await self._desk.look_at([each.hold.subject for each in page.holds], "ListHolds")
        return pb.ListHoldsResponse(
            holds=map(hold_to_pb, page.holds), next_page_token=str(page.before_no or "")
        )

    def _placing(self, request: pb.PlaceHoldRequest) -> Placing:
        call, sees = _call_from_pb(request), self._desk.sees()
        tell = self._desk.telling("call", sees, named=bool(request.parent_hold_id))
        ttl = request.ttl.ToTimedelta() if request.HasField("ttl") else DEFAULT_TTL
        fields = {
            **call_fields("call", call),
            "amount_micro_usd": request.amount_micro_usd,
            "ttl": ttl // timedelta(microseconds=1),
            "parent_hold_id": request.parent_hold_id,
            "tokenomics-on-behalf-of": current_identity().on_behalf_of or "",
        }
        return Placing(
            HoldId(request.hold_id),
            call,
            MicroUsd(request.amount_micro_usd),
            ttl,
            HoldId(request.parent_hold_id) if request.parent_hold_id else None,
            digest_of(fields),
            tuple(fields),
            sees,
            tell,
        )


def _call_from_pb(request: pb.PlaceHoldRequest) -> Call:
    """Read the call that is to be held for.

    Raises
    ------
    InvalidRequestError
        Naming every field of the whole request that is wrong.
    """
    wrong = wrong_id(request.hold_id)
    call: Call | None = None
    try:
        call = call_from_pb(request.call)
    except InvalidRequestError as error:
        wrong |= {f"call.{field}": message for field, message in error.violations.items()}
    if not 0 <= request.amount_micro_usd <= MAX_COST_MICRO_USD:
        wrong["amount_micro_usd"] = _AMOUNT
    if request.HasField("ttl") and not _is_ttl(request.ttl):
        wrong["ttl"] = _TTL
    if request.parent_hold_id:
        if not is_identifier(request.parent_hold_id):
            wrong["parent_hold_id"] = CHOSEN_ID
        elif request.parent_hold_id == request.hold_id:
            wrong["parent_hold_id"] = "must be another hold"
    if wrong or call is None:
        raise InvalidRequestError(wrong)
    return call


def _is_ttl(duration: Duration) -> bool:
    try:
        return SHORTEST_TTL <= duration.ToTimedelta() <= LONGEST_TTL
    except (ValueError, OverflowError):
        return False


def _held_to_pb(done: Done) -> pb.Hold:
    assert done.held is not None
    return hold_to_pb(done.held)


def _wanted_from_pb(request: pb.ListHoldsRequest) -> HoldsWanted:
    """Read which holds to list.

    Raises
    ------
    InvalidRequestError
        Naming every field that is wrong.
    """
    wrong = {}
    if request.subject and not is_identifier(request.subject):
        wrong["subject"] = CHOSEN_ID
    if request.account_id:
        try:
            parse_account_id(request.account_id)
        except ValueError as error:
            wrong["account_id"] = str(error)
    if request.state != pb.HOLD_STATE_UNSPECIFIED and request.state not in _STATES_FROM_PB:
        wrong["state"] = "is not a state of this contract"
    wrong |= wrong_page_size(request.page_size)
    token = request.page_token
    before = int(token) if token.isascii() and token.isdigit() and len(token) <= _DIGITS else 0
    if token and not 0 < before <= _LARGEST_NUMBER:
        wrong |= _FOREIGN_TOKEN
    if wrong:
        raise InvalidRequestError(wrong)
    return HoldsWanted(
        SubjectId(request.subject) if request.subject else None,
        AccountId(request.account_id) if request.account_id else None,
        _STATES_FROM_PB.get(request.state),
        before if token else _LARGEST_NUMBER,
        page_size(request.page_size),
    )
