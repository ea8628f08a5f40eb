"""What people do by hand: freezing and closing accounts, letting a scope pass for a while."""

import re
from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import Any, Final

import grpc

from tokenomics.quota.v1 import quota_pb2 as pb
from tokenomics_chassis.rpc.errors import InvalidRequestError, PermissionDeniedError
from tokenomics_chassis.rpc.identity import current_identity
from tokenomics_contracts.units import (
    EARLIEST_TIME,
    IDENTIFIER_PATTERN,
    SLUG_PATTERN,
    UNATTRIBUTED,
    AccountId,
)
from tokenomics_quota.domain.accounts import Account, AccountKind, Purpose
from tokenomics_quota.domain.interventions import Decided
from tokenomics_quota.projections.balances import QuotaView
from tokenomics_quota.rpc.balances import account_from_text, require_existing
from tokenomics_quota.rpc.consistency import LEDGER
from tokenomics_quota.rpc.convert import IDENTIFIER, instant_from_pb, is_identifier, kind_from_pb
from tokenomics_quota.rpc.views import Views, require_governance
from tokenomics_quota.usecases.intervening import Intervening
from tokenomics_quota.usecases.seeing import deciders

_CODE: Final = "must be a code: lower-case letters, digits and . _ -, at most 64"
_TICKET: Final = "must be the id of a ticket"

Context = grpc.aio.ServicerContext[Any, Any]
_Request = (
    pb.FreezeAccountRequest
    | pb.UnfreezeAccountRequest
    | pb.CloseAccountRequest
    | pb.StartBypassRequest
    | pb.EndBypassRequest
)
_Move = Callable[[AccountId, Decided], Awaitable[int]]


class Interventions:
    """Does what operators, owners and governance ask for, with a reason's code and a ticket."""

    def __init__(self, views: Views, intervening: Intervening) -> None:
        self._views = views
        self._intervening = intervening

    async def FreezeAccount(  # noqa: N802 - the contract's name
        self, request: pb.FreezeAccountRequest, _context: Context
    ) -> pb.FreezeAccountResponse:
        """Stop new holds on an account."""
        token = await self._move(request, self._intervening.freeze, self._require_operator_or_owner)
        return pb.FreezeAccountResponse(token=token)

    async def UnfreezeAccount(  # noqa: N802
        self, request: pb.UnfreezeAccountRequest, _context: Context
    ) -> pb.UnfreezeAccountResponse:
        """Let a frozen account take holds again."""
        token = await self._move(request, self._intervening.unfreeze, self._require_operator_or_owner)
        return pb.UnfreezeAccountResponse(token=token)

    async def CloseAccount(  # noqa: N802
        self, request: pb.CloseAccountRequest, _context: Context
    ) -> pb.CloseAccountResponse:
        """End an account for good."""
        token = await self._move(request, self._intervening.close, self._require_governance)
        return pb.CloseAccountResponse(token=token)

    async def StartBypass(  # noqa: N802
        self, request: pb.StartBypassRequest, _context: Context
    ) -> pb.StartBypassResponse:
        """Let a scope pass until a time."""
        wrong = _wrong_reason(request) | _wrong_bypass_id(request.bypass_id)
        kind, until = None, EARLIEST_TIME
        try:
            kind = kind_from_pb(request.scope_kind)
        except InvalidRequestError as error:
            wrong["scope_kind"] = error.violations["kind"]
        if request.scope_kind == pb.ACCOUNT_KIND_UNSPECIFIED:
            wrong["scope_kind"] = "must be set"
        if not is_identifier(request.scope_owner_id):
            wrong["scope_owner_id"] = IDENTIFIER
        if request.HasField("until"):
            until = instant_from_pb(request.until, "until", wrong)
        else:
            wrong["until"] = "must be set"
        if wrong or kind is None:
            raise InvalidRequestError(wrong)
        self._require_operator()
        _require_known(*self._views.at_hand(), kind, request.scope_owner_id)
        change_seq = await self._intervening.start_bypass(
            request.bypass_id, kind, request.scope_owner_id, until, _decided(request)
        )
        return pb.StartBypassResponse(token=_token(change_seq))

    async def EndBypass(  # noqa: N802
        self, request: pb.EndBypassRequest, _context: Context
    ) -> pb.EndBypassResponse:
        """End a bypass before its time."""
        if wrong := _wrong_reason(request) | _wrong_bypass_id(request.bypass_id):
            raise InvalidRequestError(wrong)
        self._require_operator()
        change_seq = await self._intervening.end_bypass(request.bypass_id, _decided(request))
        return pb.EndBypassResponse(token=_token(change_seq))

    async def _move(
        self,
        request: pb.FreezeAccountRequest | pb.UnfreezeAccountRequest | pb.CloseAccountRequest,
        move: _Move,
        require: Callable[[Account], None],
    ) -> pb.FreshnessToken:
        wrong, account = _wrong_reason(request), None
        try:
            account = account_from_text("account_id", request.account_id)
        except InvalidRequestError as error:
            wrong |= error.violations
        if account is not None and account.purpose is not Purpose.ALL:
            wrong["account_id"] = "must be an account for all purposes: it takes both in"
        if wrong or account is None:
            raise InvalidRequestError(wrong)
        require(account)
        view, now = self._views.at_hand()
        require_existing(view, account, now)
        return _token(await move(account.account_id, _decided(request)))

    def _require_operator(self, or_owner_of: Account | None = None) -> None:
        person = current_identity().on_behalf_of
        if person is None:
            return
        view, now = self._views.at_hand()
        governance = view.governance
        if governance.directory.has_privilege(person, now, "operator"):
            return
        if or_owner_of is None:
            raise PermissionDeniedError("only operators may do this")
        if person not in deciders(governance, or_owner_of, now):
            raise PermissionDeniedError("only operators and who decides about the account may do this")

    def _require_operator_or_owner(self, account: Account) -> None:
        self._require_operator(or_owner_of=account)

    def _require_governance(self, _account: Account) -> None:
        require_governance(*self._views.at_hand())


def _require_known(view: QuotaView, now: datetime, kind: AccountKind, owner_id: str) -> None:
    """Refuse a scope that no call can be of: whoever mistypes one in a hurry would learn it from nothing.

    Raises
    ------
    NotFoundError
        It is one.
    """
    directory = view.governance.directory
    if kind is AccountKind.UNATTRIBUTED:
        known = owner_id == UNATTRIBUTED
    elif kind is AccountKind.SUBJECT:
        known = bool(directory.member(owner_id).starts)
    else:
        known = bool(directory.unit(kind, owner_id).starts or directory.headcount(kind, owner_id).starts)
    if not known:
        period = view.governance.calendars.at(now).period_of(now)
        require_existing(view, Account(kind, owner_id, Purpose.ALL, period), now)


def _wrong_reason(request: _Request) -> dict[str, str]:
    """Hold that it is done for a reason, told by a code and a ticket."""
    rules = {
        "reason_code": (re.fullmatch(SLUG_PATTERN, request.reason_code), _CODE),
        "ticket_id": (re.fullmatch(IDENTIFIER_PATTERN, request.ticket_id), _TICKET),
    }
    return {field: message for field, (holds, message) in rules.items() if not holds}


def _wrong_bypass_id(bypass_id: str) -> dict[str, str]:
    return {} if is_identifier(bypass_id) else {"bypass_id": IDENTIFIER}


def _decided(request: _Request) -> Decided:
    identity = current_identity()
    decided_by = identity.on_behalf_of or identity.caller
    return Decided(request.reason_code, request.ticket_id, decided_by, identity.caller)


def _token(change_seq: int) -> pb.FreshnessToken:
    return pb.FreshnessToken(aggregate_id=LEDGER, aggregate_version=change_seq)
