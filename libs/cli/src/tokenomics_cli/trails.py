"""``tokenomics quota usage|looks``: what is counted on a subject, and who looked at it."""

from typing import Annotated

import typer

from tokenomics.quota.v1 import quota_pb2 as pb
from tokenomics.quota.v1.quota_pb2_grpc import QuotaServiceStub
from tokenomics_cli.failures import CommandError, Exit
from tokenomics_cli.output import JsonFlag, message_as_dict, out, print_json, print_table, usd
from tokenomics_cli.rpc import OnBehalfOf, TokenFile, connect
from tokenomics_contracts.units import parse_time

Subject = Annotated[str, typer.Argument(help="whose: your own id, as the directory has it")]
Limit = Annotated[int, typer.Option(min=1, help="at most so many")]


def usage_command(
    subject: Subject,
    *,
    since: Annotated[str, typer.Option(help="a time with its offset; the start of the period else")] = "",
    before: Annotated[str, typer.Option(help="a time with its offset; now else")] = "",
    limit: Limit = 100,
    on_behalf_of: OnBehalfOf = None,
    token_file: TokenFile = None,
    as_json: JsonFlag = False,
) -> None:
    """List what is counted on you, request by request, newest first; nobody else is given it."""
    request = pb.ListUsageRequest(subject=subject)
    for field, text in (("since", since), ("before", before)):
        if text:
            try:
                getattr(request, field).FromDatetime(parse_time(text))
            except ValueError as error:
                raise CommandError(f"--{field} {error}", Exit.USAGE) from None
    with connect(token_file, on_behalf_of or subject) as quota:
        usage = list(quota.pages(QuotaServiceStub(quota.channel).ListUsage, request, "usage", limit))
    if as_json:
        print_json([message_as_dict(each) for each in usage])
    elif not usage:
        out().print("nothing is counted")
    else:
        print_table(
            ("time", "tool", "provider", "model", "input", "output", "cost", "project", "event"),
            (
                (
                    each.time.ToJsonString(),
                    each.tool,
                    each.provider,
                    each.model,
                    f"{each.input_tokens:,}",
                    f"{each.output_tokens:,}",
                    usd(each.cost_micro_usd),
                    each.project,
                    f"{each.source} {each.id}",
                )
                for each in usage
            ),
        )


def looks_command(
    subject: Subject,
    *,
    limit: Limit = 100,
    on_behalf_of: OnBehalfOf = None,
    token_file: TokenFile = None,
    as_json: JsonFlag = False,
) -> None:
    """List who looked at your data, newest first; auditors may ask for others."""
    request = pb.ListLooksRequest(subject=subject)
    with connect(token_file, on_behalf_of or subject) as quota:
        looks = list(quota.pages(QuotaServiceStub(quota.channel).ListLooks, request, "looks", limit))
    if as_json:
        print_json([message_as_dict(look) for look in looks])
    elif not looks:
        out().print("nobody looked")
    else:
        print_table(
            ("at", "who", "by right of", "through", "method"),
            (
                (
                    look.at.ToJsonString(),
                    look.person_id,
                    look.basis,
                    look.caller,
                    look.method.rpartition("/")[2],
                )
                for look in looks
            ),
        )
