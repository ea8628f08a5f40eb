"""``tokenomics quota budget|watch``: where a shared budget stands, and where it will end."""

from typing import Annotated

import typer

from tokenomics.quota.v1 import quota_pb2
from tokenomics.quota.v1.quota_pb2_grpc import QuotaServiceStub
from tokenomics_cli.failures import CommandError, Exit
from tokenomics_cli.output import JsonFlag, message_as_dict, out, print_json, print_json_line, usd
from tokenomics_cli.quota import print_accounts, print_freshness
from tokenomics_cli.rpc import OnBehalfOf, TokenFile, connect

_KINDS = {
    "project": quota_pb2.ACCOUNT_KIND_PROJECT,
    "team": quota_pb2.ACCOUNT_KIND_TEAM,
    "cost_centre": quota_pb2.ACCOUNT_KIND_COST_CENTRE,
}

Owner = Annotated[
    str, typer.Argument(metavar="KIND/ID", help="e.g. team/team-07, project/apollo or cost_centre/cc-1")
]


def budget_command(
    owner: Owner,
    *,
    period: Annotated[str, typer.Option(help="YYYY-MM; the current one else")] = "",
    on_behalf_of: OnBehalfOf = None,
    token_file: TokenFile = None,
    as_json: JsonFlag = False,
) -> None:
    """Show a shared budget with its forecast for the period's end, to its owner and governance."""
    kind, owner_id = _kind_and_id(owner)
    request = quota_pb2.GetBudgetRequest(kind=kind, owner_id=owner_id, period=period)
    with connect(token_file, on_behalf_of) as quota:
        answer = quota.call(QuotaServiceStub(quota.channel).GetBudget, request)
    if as_json:
        print_json(message_as_dict(answer))
    else:
        _print_budget(answer.budget)
        print_freshness(answer.freshness)


def watch_command(
    owner: Owner,
    *,
    on_behalf_of: OnBehalfOf = None,
    token_file: TokenFile = None,
    as_json: JsonFlag = False,
) -> None:
    """Show a shared budget, and again whenever it has changed, until interrupted; as JSON one line each."""
    kind, owner_id = _kind_and_id(owner)
    request = quota_pb2.WatchBudgetRequest(kind=kind, owner_id=owner_id)
    with connect(token_file, on_behalf_of) as quota:
        for answer in quota.watch(QuotaServiceStub(quota.channel).WatchBudget, request):
            if as_json:
                print_json_line(message_as_dict(answer))
            else:
                _print_budget(answer.budget)
                print_freshness(answer.freshness)


def _kind_and_id(owner: str) -> tuple[quota_pb2.AccountKind.ValueType, str]:
    kind, _, owner_id = owner.partition("/")
    if kind not in _KINDS or not owner_id:
        raise CommandError(
            f"{owner}: should be written KIND/ID with a kind of {', '.join(_KINDS)}", Exit.USAGE
        )
    return _KINDS[kind], owner_id


def _print_budget(budget: quota_pb2.Budget) -> None:
    print_accounts([budget.account])
    console = out()
    if budget.buffer_micro_usd:
        console.print(f"  kept back: {usd(budget.buffer_micro_usd)}")
    if budget.experiment_posted_micro_usd:
        console.print(f"  for experiments: {usd(budget.experiment_posted_micro_usd)}")
    if budget.forecast_method:
        console.print(
            f"  at the period's end: about {usd(budget.forecast_micro_usd)},"
            f" in four of five cases {usd(budget.forecast_low_micro_usd)}"
            f" to {usd(budget.forecast_high_micro_usd)}"
        )
    else:
        console.print("  at the period's end: nobody can say yet; a forecast takes some days of use")
    owners = ", ".join(budget.owner_person_ids) or "nobody"
    console.print(f"  decided about by: {owners}", markup=False)
