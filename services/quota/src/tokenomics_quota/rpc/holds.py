"""Holds: placed, ended and listed."""

from collections.abc import Iterable, Mapping, Sequence
from contextvars import copy_context
from datetime import timedelta
from hashlib import blake2b
from typing import Any, Final, cast

import grpc
from google.protobuf.duration_pb2 import Duration

from tokenomics.quota.v1 import quota_pb2 as pb
from tokenomics_chassis.rpc.errors import InvalidRequestError
from tokenomics_chassis.rpc.identity import current_identity
from tokenomics_chassis.telemetry import current_traceparent
from tokenomics_contracts.units import (
    EARLIEST_TIME,
    LATEST_TIME,
    MAX_COST_MICRO_USD,
    AccountId,
    HoldId,
    MicroUsd,
    PeriodId,
    SubjectId,
)
from tokenomics_quota.domain.accounts import Account, AccountKind, Purpose, parse_account_id
from tokenomics_quota.domain.balance import Touched
from tokenomics_quota.domain.checks import Answer, Call, decided
from tokenomics_quota.domain.friction import Decision
from tokenomics_quota.domain.holds import (
    DEFAULT_TTL,
    LONGEST_TTL,
    SHORTEST_TTL,
    HeldNow,
    HoldState,
    Moment,
    digest_of,
)
from tokenomics_quota.domain.standing import Standing
from tokenomics_quota.ports import DecisionLog, HoldList, HoldsWanted
from tokenomics_quota.rpc.consistency import LEDGER
from tokenomics_quota.rpc.convert import (
    account_to_pb,
    answer_to_bytes,
    call_from_pb,
    check_bound,
    is_identifier,
    name_account,
    time_from_pb,
    timestamp_to_pb,
)
from tokenomics_quota.rpc.looks import Looks
from tokenomics_quota.rpc.views import Views, authorize, sight
from tokenomics_quota.usecases.freshening import give_up_at
from tokenomics_quota.usecases.holding import Command, Done, Extending, Placing, Releasing, Settling
from tokenomics_quota.usecases.seeing import Sight, everything
from tokenomics_quota.usecases.turns import Turns

_PAGE_SIZE: Final = 100
_LARGEST_PAGE_SIZE: Final = 1_000
_FOREIGN_TOKEN: Final = {"page_token": "is not of this call"}
_LARGEST_NUMBER: Final = 2**63 - 1
_DIGITS: Final = 19

_STATES: Final = {
    HoldState.LIVE: pb.HOLD_STATE_LIVE,
    HoldState.SETTLED: pb.HOLD_STATE_SETTLED,
    HoldState.RELEASED: pb.HOLD_STATE_RELEASED,
    HoldState.EXPIRED: pb.HOLD_STATE_EXPIRED,
}
_STATES_FROM_PB: Final = {number: state for state, number in _STATES.items()}
_IDENTIFIER: Final = "must be an identifier: letters, digits and . _ : -, at most 128"
_AMOUNT: Final = f"must be 0 to {MAX_COST_MICRO_USD}"
_TTL: Final = f"must be {SHORTEST_TTL.total_seconds():.0f} s to {LONGEST_TTL.total_seconds():.0f} s"
_NO_ACCOUNTS: Final = Touched((), None, Standing(None, None, None))

Context = grpc.aio.ServicerContext[Any, Any]


class Holds:
    """Gives commands on holds to the ledger, and answers what became of them.

    Parameters
    ----------
    longest_wait_seconds
        How long a call without a deadline waits for its turn.
    """

    def __init__(
        self,
        views: Views,
        turns: Turns,
        listed: HoldList,
        decisions: DecisionLog,
        looks: Looks,
        *,
        longest_wait_seconds: float,
    ) -> None:
        self._views = views
        self._turns = turns
        self._listed = listed
        self._decisions = decisions
        self._looks = looks
        self._longest_wait_seconds = longest_wait_seconds

    async def PlaceHold(  # noqa: N802 - the contract's name
        self, request: pb.PlaceHoldRequest, context: Context
    ) -> pb.PlaceHoldResponse:
        """Place a hold on every account of a call, or tell what speaks against it."""
        done = await self._perform(self._placing(request), context)
        await self._look_at([request.call.subject], "PlaceHold")
        check = _check_to_pb(done)
        return pb.PlaceHoldResponse(hold=_hold_to_pb(done.held) if done.held else None, check=check)

    async def SettleHold(  # noqa: N802 - the contract's name
        self, request: pb.SettleHoldRequest, context: Context
    ) -> pb.SettleHoldResponse:
        """End a hold with what its call cost."""
        wrong = _wrong_id(request.hold_id)
        if not 0 <= request.cost_micro_usd <= MAX_COST_MICRO_USD:
            wrong["cost_micro_usd"] = _AMOUNT
        if wrong:
            raise InvalidRequestError(wrong)
        cost = MicroUsd(request.cost_micro_usd)
        done = await self._perform(Settling(HoldId(request.hold_id), cost, self._sees()), context)
        await self._look_at(_subject_of(done), "SettleHold")
        return pb.SettleHoldResponse(hold=_held_to_pb(done), token=_token(done.moment.change_seq))

    async def ReleaseHold(  # noqa: N802 - the contract's name
        self, request: pb.ReleaseHoldRequest, context: Context
    ) -> pb.ReleaseHoldResponse:
        """End a hold without usage."""
        if wrong := _wrong_id(request.hold_id):
            raise InvalidRequestError(wrong)
        done = await self._perform(Releasing(HoldId(request.hold_id), self._sees()), context)
        await self._look_at(_subject_of(done), "ReleaseHold")
        return pb.ReleaseHoldResponse(hold=_held_to_pb(done), token=_token(done.moment.change_seq))

    async def ExtendHold(  # noqa: N802 - the contract's name
        self, request: pb.ExtendHoldRequest, context: Context
    ) -> pb.ExtendHoldResponse:
        """Move a live hold's end to a later instant."""
        wrong, wished_end = _wrong_id(request.hold_id), EARLIEST_TIME
        if not request.HasField("expires_at"):
            wrong["expires_at"] = "must be set"
        else:
            try:
                wished_end = time_from_pb(request.expires_at, "expires_at")
            except InvalidRequestError as error:
                wrong |= error.violations
            else:
                if not EARLIEST_TIME <= wished_end < LATEST_TIME:
                    wrong["expires_at"] = "must be a time between the years 2000 and 2199"
        if wrong:
            raise InvalidRequestError(wrong)
        done = await self._perform(Extending(HoldId(request.hold_id), wished_end, self._sees()), context)
        await self._look_at(_subject_of(done), "ExtendHold")
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
            authorize(sees, _account_of(subject))
        found = await self._listed.page(wanted._replace(subject=subject, size=wanted.size + 1))
        page = found[: wanted.size]
        await self._look_at([each.hold.subject for each in page], "ListHolds")
        return pb.ListHoldsResponse(
            holds=map(_hold_to_pb, page),
            next_page_token=str(page[-1].hold.hold_no) if len(found) > wanted.size else "",
        )

    async def _perform(self, command: Command, context: Context) -> Done:
        left = cast("float | None", context.time_remaining())  # its stub leaves out that there may be none
        if left is None:
            left = self._longest_wait_seconds
        return await self._turns.perform(command, give_up_at(left), current_traceparent())

    async def _look_at(self, subjects: Iterable[str], method: str) -> None:
        """Record that who asks is about to be shown holds of these subjects, where that is a look."""
        if current_identity().on_behalf_of is None:
            return
        view, now = self._views.at_hand()
        directory = view.governance.directory
        carriers = (directory.attribution(subject).at(now).subject_id for subject in subjects)
        await self._looks.record(
            sight(view, now), [_account_of(carrier) for carrier in carriers if carrier], method
        )

    def _sees(self) -> Sight:
        view, now = self._views.at_hand()
        return sight(view, now)

    def _placing(self, request: pb.PlaceHoldRequest) -> Placing:
        call = _call_from_pb(request)
        view, now = self._views.at_hand()
        sees, identity = sight(view, now), current_identity()
        next_offsets, calling = view.next_offsets, copy_context()

        def tell(answer: Answer, touched: Touched, moment: Moment) -> bytes:
            if sees is not everything:
                authorize(sees, touched.balances[0].account)
            fields = ("call.estimated_input_tokens", "call.estimated_output_tokens")
            check_bound(answer.estimate.cost_micro_usd, *fields)
            decision_id = ""
            if answer.decision is not Decision.ALLOW or answer.shadow is not None:
                kept = (call, identity.caller, answer, next_offsets, False, moment.now)
                decision_id = self._decisions.add(decided(kept))
            named = bool(request.parent_hold_id) or answer.decision is Decision.DENIED
            return _told(answer, touched, decision_id, sees, named=named)

        ttl = request.ttl.ToTimedelta() if request.HasField("ttl") else DEFAULT_TTL
        fields = _fields(request, call, ttl, identity.on_behalf_of)
        return Placing(
            HoldId(request.hold_id),
            call,
            MicroUsd(request.amount_micro_usd),
            ttl,
            HoldId(request.parent_hold_id) if request.parent_hold_id else None,
            digest_of(fields),
            tuple(fields),
            sees,
            lambda *said: calling.run(tell, *said),  # by who takes the turn, and as if by the call
        )


def _call_from_pb(request: pb.PlaceHoldRequest) -> Call:
    """Read the call that is to be held for.

    Raises
    ------
    InvalidRequestError
        Naming every field of the whole request that is wrong.
    """
    wrong = _wrong_id(request.hold_id)
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
            wrong["parent_hold_id"] = _IDENTIFIER
        elif request.parent_hold_id == request.hold_id:
            wrong["parent_hold_id"] = "must be another hold"
    if wrong or call is None:
        raise InvalidRequestError(wrong)
    return call


def _wrong_id(hold_id: str) -> dict[str, str]:
    return {} if is_identifier(hold_id) else {"hold_id": _IDENTIFIER}


def _is_ttl(duration: Duration) -> bool:
    try:
        return SHORTEST_TTL <= duration.ToTimedelta() <= LONGEST_TTL
    except (ValueError, OverflowError):
        return False


def _fields(
    request: pb.PlaceHoldRequest, call: Call, ttl: timedelta, person: str | None
) -> Mapping[str, str | int]:
    """Return what makes a request the same as another one; new fields go to the end."""
    quantities = call.quantities
    return {
        "call.subject": call.subject,
        "call.provider": call.provider,
        "call.model": call.model,
        "call.estimated_input_tokens": quantities.input_tokens,
        "call.estimated_output_tokens": quantities.output_tokens,
        "call.estimated_cached_input_tokens": quantities.cached_input_tokens,
        "call.service_tier": quantities.service_tier,
        "call.project": call.project_id or "",
        "call.use_case": call.use_case_id or "",
        "call.purpose": call.purpose,
        "call.data_class": call.data_class,
        "amount_micro_usd": request.amount_micro_usd,
        "ttl": ttl // timedelta(microseconds=1),
        "parent_hold_id": request.parent_hold_id,
        "tokenomics-on-behalf-of": person or "",
    }


def _account_of(subject: str) -> Account:
    """Return the account by which it is judged who may see a subject's holds."""
    return Account(AccountKind.SUBJECT, subject, Purpose.ALL, PeriodId(""))


def _subject_of(done: Done) -> list[str]:
    return [done.held.hold.subject] if done.held else []


def _told(answer: Answer, touched: Touched, decision_id: str, sees: Sight, *, named: bool) -> bytes:
    """Write what is answered beside a hold, without what follows from the hold: see :func:`_check_to_pb`.

    Parameters
    ----------
    named
        Whether to name accounts: no hold does.
    """
    rest = answer_to_bytes(answer, _NO_ACCOUNTS, decision_id, b"")
    accounts = []
    for place, balance in enumerate(touched.balances):
        account = account_to_pb(balance, seen=sees(balance.account))
        for field in _FOLLOWING:
            account.ClearField(field)
        if named:
            account.account_id = balance.account.account_id
        if place == 0:
            account.resets_at.FromDatetime(balance.bounds.resets_at)
        accounts.append(account)
    return rest + pb.CheckQuotaResponse(accounts=accounts).SerializeToString()


_FOLLOWING: Final[tuple[Any, ...]] = (  # its stub wants literals
    "account_id",
    "kind",
    "owner_id",
    "purpose",
    "period",
    "base_limit_micro_usd",
    "remaining_micro_usd",
    "resets_at",
)
"""Fields of an account that follow from its others, from the hold and from the first account."""


def _check_to_pb(done: Done) -> pb.CheckQuotaResponse:
    """Read what was told beside a hold, and fill in what follows; the same whenever it is asked for."""
    check, held = pb.CheckQuotaResponse.FromString(done.told), done.held
    change_seq = done.moment.change_seq
    account_ids: Sequence[str] = [account.account_id for account in check.accounts]
    if held is not None:
        account_ids = held.account_ids or account_ids
        change_seq = held.hold.hold_no
        check.decision_id = check.decision_id or _decision_id(held.hold.hold_id)
    for account, account_id in zip(check.accounts, account_ids, strict=True):
        name_account(account, parse_account_id(account_id))
        account.base_limit_micro_usd = account.limit_micro_usd - account.grants_micro_usd
        if not account.unlimited:
            used = account.posted_micro_usd + account.pending_micro_usd
            account.remaining_micro_usd = account.limit_micro_usd - used
        account.resets_at.CopyFrom(check.accounts[0].resets_at)
    check.freshness.token.CopyFrom(_token(change_seq))
    return check


def _decision_id(hold_id: HoldId) -> str:
    """Return the id of the plain ALLOW that a hold was placed with: no record has it."""
    return blake2b(hold_id.encode(), digest_size=16).hexdigest()


def _held_to_pb(done: Done) -> pb.Hold:
    assert done.held is not None
    return _hold_to_pb(done.held)


def _hold_to_pb(held: HeldNow) -> pb.Hold:
    hold = held.hold
    return pb.Hold(
        hold_id=hold.hold_id,
        subject=hold.subject,
        state=_STATES[held.state],
        amount_micro_usd=hold.amount_micro_usd,
        settled_micro_usd=(hold.cost_micro_usd or 0) + hold.parts_micro_usd,
        account_ids=held.account_ids,
        placed_at=timestamp_to_pb(hold.placed_at),
        expires_at=timestamp_to_pb(hold.expires_at),
        parent_hold_id=held.parent_id or "",
        remaining_micro_usd=held.left_micro_usd,
    )


def _token(change_seq: int) -> pb.FreshnessToken:
    return pb.FreshnessToken(aggregate_id=LEDGER, aggregate_version=change_seq)


def _wanted_from_pb(request: pb.ListHoldsRequest) -> HoldsWanted:
    """Read which holds to list.

    Raises
    ------
    InvalidRequestError
        Naming every field that is wrong.
    """
    wrong = {}
    if request.subject and not is_identifier(request.subject):
        wrong["subject"] = _IDENTIFIER
    if request.account_id:
        try:
            parse_account_id(request.account_id)
        except ValueError as error:
            wrong["account_id"] = str(error)
    if request.state != pb.HOLD_STATE_UNSPECIFIED and request.state not in _STATES_FROM_PB:
        wrong["state"] = "is not a state of this contract"
    if request.page_size < 0:
        wrong["page_size"] = "must not be negative"
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
        min(request.page_size or _PAGE_SIZE, _LARGEST_PAGE_SIZE),
    )
