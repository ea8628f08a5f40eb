"""``tokenomics quota drift``: are kept totals what they are the totals of."""

from typing import Annotated

import typer

from tokenomics.quota.v1 import quota_pb2
from tokenomics.quota.v1.quota_pb2_grpc import QuotaServiceStub
from tokenomics_cli.failures import Exit
from tokenomics_cli.output import JsonFlag, counting_bar, message_as_dict, out, print_json, print_table, usd
from tokenomics_cli.rpc import OnBehalfOf, TokenFile, connect

_ALL = "all"


def drift_command(
    account: Annotated[
        str,
        typer.Argument(metavar="[ACCOUNT|all]", help="an account id, in its period; or all of all periods"),
    ] = _ALL,
    *,
    on_behalf_of: OnBehalfOf = None,
    token_file: TokenFile = None,
    as_json: JsonFlag = False,
) -> None:
    """Have totals added up anew from facts and holds, and compared; exit code 1 when one differs."""
    request = quota_pb2.CheckDriftRequest(account_id="" if account == _ALL else account)
    compared = drifting = 0
    drifts: list[quota_pb2.Drift] = []
    with (
        connect(token_file, on_behalf_of) as quota,
        counting_bar() as progress,
    ):
        task = progress.add_task("periods compared", total=None)
        for step in quota.watch(QuotaServiceStub(quota.channel).CheckDrift, request):
            compared += step.compared_totals
            drifting += step.drifting_totals
            drifts.extend(step.drifts)
            progress.update(task, completed=step.step, total=step.steps)
    if as_json:
        told = [message_as_dict(each) for each in drifts]
        print_json({"compared_totals": compared, "drifting_totals": drifting, "drifts": told})
    elif drifting:
        _print_drifts(drifts)
        out().print(
            f"{drifting:,} of {compared:,} totals differ: a rebuild mends what is derived from the log"
        )
    else:
        out().print(f"{compared:,} totals are what they are the totals of")
    if drifting:
        raise typer.Exit(Exit.REFUSED)


def _print_drifts(drifts: list[quota_pb2.Drift]) -> None:
    print_table(
        ("total", "of", "kept", "added up", "difference"),
        (
            (
                each.name,
                quota_pb2.KeptTotal.Name(each.kept).removeprefix("KEPT_TOTAL_").lower(),
                usd(each.kept_micro_usd),
                usd(each.recomputed_micro_usd),
                usd(each.kept_micro_usd - each.recomputed_micro_usd),
            )
            for each in drifts
        ),
    )
