"""``tokenomics quota freeze|unfreeze|close`` and ``ops bypass start|end``: what people do by hand."""

import re
from datetime import datetime, timedelta
from typing import Annotated, Any

import typer

from tokenomics.quota.v1 import quota_pb2 as pb
from tokenomics.quota.v1.quota_pb2_grpc import QuotaServiceStub
from tokenomics_chassis.clock import SystemClock
from tokenomics_cli.failures import CommandError, Exit
from tokenomics_cli.output import JsonFlag, message_as_dict, out, print_json
from tokenomics_cli.rpc import OnBehalfOf, Reason, Ticket, TokenFile, connect, timestamp_of
from tokenomics_contracts.units import parse_time

bypass_commands = typer.Typer(
    no_args_is_help=True, help="Let a scope pass every rule but prohibited data for a while."
)

_KINDS = {
    "subject": pb.ACCOUNT_KIND_SUBJECT,
    "project": pb.ACCOUNT_KIND_PROJECT,
    "team": pb.ACCOUNT_KIND_TEAM,
    "cost_centre": pb.ACCOUNT_KIND_COST_CENTRE,
    "unattributed": pb.ACCOUNT_KIND_UNATTRIBUTED,
}
_DURATION = re.compile(r"([1-9][0-9]{0,3})(m|h)")

AccountId = Annotated[str, typer.Argument(metavar="ACCOUNT", help="e.g. team/team-07/all/2026-11")]
BypassId = Annotated[str, typer.Argument(metavar="BYPASS", help="an id of your own; it names the bypass")]


def freeze_command(
    account_id: AccountId,
    *,
    reason: Reason,
    ticket: Ticket,
    on_behalf_of: OnBehalfOf = None,
    token_file: TokenFile = None,
    as_json: JsonFlag = False,
) -> None:
    """Stop new holds on an account at once; usage still counts. For operators and who decides about it."""
    request = pb.FreezeAccountRequest(account_id=account_id, reason_code=reason, ticket_id=ticket)
    _do("FreezeAccount", request, f"{account_id} is frozen", (token_file, on_behalf_of), as_json=as_json)


def unfreeze_command(
    account_id: AccountId,
    *,
    reason: Reason,
    ticket: Ticket,
    on_behalf_of: OnBehalfOf = None,
    token_file: TokenFile = None,
    as_json: JsonFlag = False,
) -> None:
    """Let a frozen account take holds again."""
    request = pb.UnfreezeAccountRequest(account_id=account_id, reason_code=reason, ticket_id=ticket)
    _do("UnfreezeAccount", request, f"{account_id} is open", (token_file, on_behalf_of), as_json=as_json)


def close_command(
    account_id: AccountId,
    *,
    reason: Reason,
    ticket: Ticket,
    on_behalf_of: OnBehalfOf = None,
    token_file: TokenFile = None,
    as_json: JsonFlag = False,
) -> None:
    """End an account for good, once nothing is held on it; usage is still counted. For governance."""
    request = pb.CloseAccountRequest(account_id=account_id, reason_code=reason, ticket_id=ticket)
    _do("CloseAccount", request, f"{account_id} is closed", (token_file, on_behalf_of), as_json=as_json)


@bypass_commands.command("start")
def start_command(
    bypass_id: BypassId,
    scope: Annotated[str, typer.Argument(metavar="KIND/OWNER", help="whose calls pass, e.g. team/team-07")],
    *,
    until: Annotated[
        str, typer.Option(help="when it ends by itself: a time with its offset, or e.g. 90m or 4h from now")
    ],
    reason: Reason,
    ticket: Ticket,
    on_behalf_of: OnBehalfOf = None,
    token_file: TokenFile = None,
    as_json: JsonFlag = False,
) -> None:
    """Let calls counted on the scope pass, and record what would have been asked; for operators."""
    kind, _, owner_id = scope.partition("/")
    if kind not in _KINDS or not owner_id:
        raise CommandError(f"{scope}: should be written {'|'.join(_KINDS)}/owner", Exit.USAGE)
    end = _end(until)
    request = pb.StartBypassRequest(
        bypass_id=bypass_id,
        scope_kind=_KINDS[kind],
        scope_owner_id=owner_id,
        until=timestamp_of(end),
        reason_code=reason,
        ticket_id=ticket,
    )
    done = f"calls counted on {scope} pass until {end:%Y-%m-%d %H:%M:%S} UTC"
    _do("StartBypass", request, done, (token_file, on_behalf_of), as_json=as_json)


@bypass_commands.command("end")
def end_command(
    bypass_id: BypassId,
    *,
    reason: Reason,
    ticket: Ticket,
    on_behalf_of: OnBehalfOf = None,
    token_file: TokenFile = None,
    as_json: JsonFlag = False,
) -> None:
    """End a bypass before its time; one that has ended stays as it is."""
    request = pb.EndBypassRequest(bypass_id=bypass_id, reason_code=reason, ticket_id=ticket)
    _do("EndBypass", request, f"bypass {bypass_id} has ended", (token_file, on_behalf_of), as_json=as_json)


def _do(method: str, request: Any, done: str, who: tuple[Any, Any], *, as_json: bool) -> None:
    with connect(*who) as quota:
        answer = quota.call(getattr(QuotaServiceStub(quota.channel), method), request)
    if as_json:
        print_json(message_as_dict(answer))
    else:
        out().print(done, markup=False)


def _end(text: str) -> datetime:
    if match := _DURATION.fullmatch(text):
        unit = timedelta(hours=1) if match[2] == "h" else timedelta(minutes=1)
        return SystemClock().now() + int(match[1]) * unit
    try:
        return parse_time(text)
    except ValueError as error:
        raise CommandError(f"--until {error}, or a time from now, e.g. 90m or 4h", Exit.USAGE) from None
