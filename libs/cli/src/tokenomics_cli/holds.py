"""``tokenomics quota hold|settle|release|extend|holds``: amounts that are kept free for calls under way."""

from collections.abc import Iterable
from enum import StrEnum
from typing import Annotated

import typer
from google.protobuf.duration_pb2 import Duration

from tokenomics.quota.v1 import quota_pb2
from tokenomics.quota.v1.quota_pb2_grpc import QuotaServiceStub
from tokenomics_cli.amounts import micro_usd
from tokenomics_cli.calls import (
    CachedInputTokens,
    Caller,
    DataClass,
    Experiment,
    InputTokens,
    Model,
    OutputTokens,
    Project,
    Provider,
    ServiceTier,
    Tier,
    UseCase,
    call_request,
)
from tokenomics_cli.failures import CommandError, Exit
from tokenomics_cli.output import JsonFlag, message_as_dict, out, print_json, print_table, usd
from tokenomics_cli.quota import EXIT_OF_DECISION, print_answer
from tokenomics_cli.rpc import OnBehalfOf, TokenFile, connect
from tokenomics_contracts.units import MAX_COST_MICRO_USD, parse_time

_LONGEST_TTL_SECONDS = 86_400

HoldId = Annotated[str, typer.Argument(metavar="HOLD", help="the hold's id")]


class State(StrEnum):
    """Where a hold stands."""

    LIVE = "live"
    SETTLED = "settled"
    RELEASED = "released"
    EXPIRED = "expired"


def hold_command(
    hold_id: Annotated[
        str, typer.Argument(metavar="HOLD", help="an id of your own: the same id is the same hold")
    ],
    subject: Caller,
    *,
    provider: Provider,
    model: Model,
    input_tokens: InputTokens = 0,
    cached_input_tokens: CachedInputTokens = 0,
    output_tokens: OutputTokens = 0,
    service_tier: Tier = ServiceTier.STANDARD,
    project: Project = "",
    use_case: UseCase = "",
    experiment: Experiment = False,
    data_class: DataClass = "",
    amount_usd: Annotated[
        str, typer.Option(metavar="USD", help="what to hold; what the call is expected to cost else")
    ] = "",
    ttl_seconds: Annotated[
        float | None,
        typer.Option(min=1, max=_LONGEST_TTL_SECONDS, help="how long it lives at most; 10 minutes else"),
    ] = None,
    parent: Annotated[str, typer.Option(help="a live hold of which it is a part")] = "",
    on_behalf_of: OnBehalfOf = None,
    token_file: TokenFile = None,
    as_json: JsonFlag = False,
) -> None:
    """Hold what a call is expected to cost on every account that it touches, all or nothing.

    Exit code: as of `check`. A hold is placed unless it is 1.
    """
    request = quota_pb2.PlaceHoldRequest(
        hold_id=hold_id,
        call=call_request(
            subject,
            provider=provider,
            model=model,
            input_tokens=input_tokens,
            cached_input_tokens=cached_input_tokens,
            output_tokens=output_tokens,
            service_tier=service_tier,
            project=project,
            use_case=use_case,
            experiment=experiment,
            data_class=data_class,
        ),
        amount_micro_usd=_amount("--amount-usd", amount_usd) if amount_usd else 0,
        parent_hold_id=parent,
    )
    if ttl_seconds is not None:
        request.ttl.CopyFrom(_duration(ttl_seconds))
    with connect(token_file, on_behalf_of) as quota:
        answer = quota.call(QuotaServiceStub(quota.channel).PlaceHold, request)
    if as_json:
        print_json(message_as_dict(answer))
    else:
        if answer.HasField("hold"):
            _print_holds([answer.hold])
        print_answer(answer.check)
    raise typer.Exit(EXIT_OF_DECISION.get(answer.check.decision, Exit.INTERNAL))


def settle_command(
    hold_id: HoldId,
    *,
    cost_usd: Annotated[str, typer.Option(metavar="USD", help="what the call cost, e.g. 0.0125")],
    on_behalf_of: OnBehalfOf = None,
    token_file: TokenFile = None,
    as_json: JsonFlag = False,
) -> None:
    """End a hold with its cost, before its usage event arrives and takes the place of it."""
    cost_micro_usd = _amount("--cost-usd", cost_usd)
    request = quota_pb2.SettleHoldRequest(hold_id=hold_id, cost_micro_usd=cost_micro_usd)
    with connect(token_file, on_behalf_of) as quota:
        answer = quota.call(QuotaServiceStub(quota.channel).SettleHold, request)
    _print_ended(answer, as_json=as_json)


def release_command(
    hold_id: HoldId,
    *,
    on_behalf_of: OnBehalfOf = None,
    token_file: TokenFile = None,
    as_json: JsonFlag = False,
) -> None:
    """End a hold without usage."""
    request = quota_pb2.ReleaseHoldRequest(hold_id=hold_id)
    with connect(token_file, on_behalf_of) as quota:
        answer = quota.call(QuotaServiceStub(quota.channel).ReleaseHold, request)
    _print_ended(answer, as_json=as_json)


def extend_command(
    hold_id: HoldId,
    *,
    until: Annotated[str, typer.Option(help="the wished end, e.g. 2026-11-20T15:00:00Z")],
    on_behalf_of: OnBehalfOf = None,
    token_file: TokenFile = None,
    as_json: JsonFlag = False,
) -> None:
    """Move a live hold's end to a later time, at most to the end of its period and to 24 hours from now."""
    request = quota_pb2.ExtendHoldRequest(hold_id=hold_id)
    try:
        request.expires_at.FromDatetime(parse_time(until))
    except ValueError as error:
        raise CommandError(f"--until {error}", Exit.USAGE) from None
    with connect(token_file, on_behalf_of) as quota:
        answer = quota.call(QuotaServiceStub(quota.channel).ExtendHold, request)
    _print_ended(answer, as_json=as_json)


def holds_command(
    *,
    subject: Annotated[str, typer.Option(help="whose; everybody's else, or your own")] = "",
    account: Annotated[str, typer.Option(help="on this account, e.g. team/team-07/all/2026-11")] = "",
    state: Annotated[State | None, typer.Option(help="only those that stand there")] = None,
    limit: Annotated[int, typer.Option(min=1, help="at most this many")] = 100,
    on_behalf_of: OnBehalfOf = None,
    token_file: TokenFile = None,
    as_json: JsonFlag = False,
) -> None:
    """List holds, the newest first."""
    request = quota_pb2.ListHoldsRequest(
        subject=subject,
        account_id=account,
        state=quota_pb2.HoldState.Value(f"HOLD_STATE_{state.name if state else 'UNSPECIFIED'}"),
    )
    with connect(token_file, on_behalf_of) as quota:
        holds = list(quota.pages(QuotaServiceStub(quota.channel).ListHolds, request, "holds", limit))
    if as_json:
        print_json({"holds": [message_as_dict(hold) for hold in holds]})
    else:
        _print_holds(holds)


def _amount(option: str, text: str) -> int:
    return micro_usd(option, text, smallest=0, largest=MAX_COST_MICRO_USD)


def _duration(seconds: float) -> Duration:
    duration = Duration()
    duration.FromNanoseconds(round(seconds * 1_000_000_000))
    return duration


_Ended = quota_pb2.SettleHoldResponse | quota_pb2.ReleaseHoldResponse | quota_pb2.ExtendHoldResponse


def _print_ended(answer: _Ended, *, as_json: bool) -> None:
    if as_json:
        print_json(message_as_dict(answer))
    else:
        _print_holds([answer.hold])


def _print_holds(holds: Iterable[quota_pb2.Hold]) -> None:
    rows = [
        (
            hold.hold_id,
            hold.subject,
            quota_pb2.HoldState.Name(hold.state).removeprefix("HOLD_STATE_").lower(),
            usd(hold.amount_micro_usd),
            usd(hold.settled_micro_usd),
            usd(hold.remaining_micro_usd),
            hold.expires_at.ToJsonString(),
            f"hold {hold.parent_hold_id}" if hold.parent_hold_id else ", ".join(hold.account_ids),
        )
        for hold in holds
    ]
    if rows:
        print_table(("hold", "subject", "state", "held", "settled", "left", "ends", "on"), rows)
    else:
        out().print("no holds", style="dim")
