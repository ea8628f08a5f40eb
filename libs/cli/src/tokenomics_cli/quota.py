"""``tokenomics quota``: may a call go ahead, and where do accounts stand."""

from collections.abc import Iterable
from typing import Annotated

import typer

from tokenomics.quota.v1 import quota_pb2
from tokenomics.quota.v1.quota_pb2_grpc import QuotaServiceStub
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
from tokenomics_cli.rpc import OnBehalfOf, TokenFile, connect

commands = typer.Typer(no_args_is_help=True, help="May a call go ahead, and where do accounts stand.")

_OFFSET_DIGITS = 18
"""More do not surely fit the 64 bits of an offset."""

EXIT_OF_DECISION = {
    quota_pb2.DECISION_ALLOW: Exit.OK,
    quota_pb2.DECISION_ALLOW_WITH_NUDGE: Exit.OK,
    quota_pb2.DECISION_JUSTIFICATION_REQUIRED: Exit.JUSTIFICATION_REQUIRED,
    quota_pb2.DECISION_APPROVAL_REQUIRED: Exit.APPROVAL_REQUIRED,
    quota_pb2.DECISION_DENIED: Exit.REFUSED,
}


@commands.command("check")
def check_command(
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
    at_least_as_fresh: Annotated[
        list[str] | None,
        typer.Option(
            metavar="TOPIC/PARTITION=OFFSET",
            help="wait until this offset is next in the answer's view; often",
        ),
    ] = None,
    fully_consistent: Annotated[
        bool,
        typer.Option("--fully-consistent", help="wait until all that is in the log now is in the answer"),
    ] = False,
    on_behalf_of: OnBehalfOf = None,
    token_file: TokenFile = None,
    as_json: JsonFlag = False,
) -> None:
    """Ask whether a call may go ahead.

    Exit code: 0 for ALLOW and ALLOW_WITH_NUDGE, 10 for JUSTIFICATION_REQUIRED, 11 for APPROVAL_REQUIRED, 1
    for DENIED.
    """
    request = call_request(
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
    )
    if at_least_as_fresh and fully_consistent:
        raise CommandError("give --at-least-as-fresh or --fully-consistent, not both", Exit.USAGE)
    if at_least_as_fresh:
        request.at_least_as_fresh.next_offsets.update(map(_next_offset, at_least_as_fresh))
    if fully_consistent:
        request.fully_consistent = True
    with connect(token_file, on_behalf_of) as quota:
        answer = quota.call(QuotaServiceStub(quota.channel).CheckQuota, request)
    if as_json:
        print_json(message_as_dict(answer))
    else:
        print_answer(answer)
    raise typer.Exit(EXIT_OF_DECISION.get(answer.decision, Exit.INTERNAL))


def _next_offset(text: str) -> tuple[str, int]:
    partition, _, offset = text.rpartition("=")
    if not partition or not offset.isdecimal() or len(offset) > _OFFSET_DIGITS:
        raise CommandError(f"{text}: should be written topic/partition=offset", Exit.USAGE)
    return partition, int(offset)


def print_answer(answer: quota_pb2.CheckQuotaResponse) -> None:
    """Print what a check decided, and on which accounts."""
    console = out()
    name = quota_pb2.Decision.Name(answer.decision).removeprefix("DECISION_")
    console.print(f"[bold]{name}[/bold]  this call: about {usd(answer.estimated_cost_micro_usd)}")
    # The nudge begins with the deciding reason.
    reasons = [answer.nudge.text, *(reason.message for reason in answer.reasons[1:])]
    for text in (*reasons, *(unblock.message for unblock in answer.unblocks)):
        if text:
            console.print(f"  {text}", markup=False)
    _print_advice(answer.nudge)
    if answer.shadow_reasons:
        name = quota_pb2.Decision.Name(answer.shadow_decision).removeprefix("DECISION_")
        console.print(f"were every rule enforced: {name}", style="dim")
        for reason in answer.shadow_reasons:
            console.print(f"  {reason.message}", style="dim", markup=False)
    print_accounts(answer.accounts)
    print_freshness(answer.freshness)
    if answer.HasField("degradation"):
        left, cap = answer.degradation.remaining_micro_usd, answer.degradation.cap_micro_usd
        console.print(
            f"degraded: this server lets {usd(left)} more of {usd(cap)} through meanwhile", style="dim"
        )


@commands.command("suggest")
def suggest_command(
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
    limit: Annotated[int, typer.Option(min=1, max=20, help="at most this many of each kind")] = 3,
    on_behalf_of: OnBehalfOf = None,
    token_file: TokenFile = None,
    as_json: JsonFlag = False,
) -> None:
    """Ask what would make a call cheaper: another model, the cache, a batch, less context, shared assets."""
    call = call_request(
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
    )
    with connect(token_file, on_behalf_of) as quota:
        answer = quota.call(
            QuotaServiceStub(quota.channel).SuggestAlternatives,
            quota_pb2.SuggestAlternativesRequest(call=call, limit=limit),
        )
    if as_json:
        print_json(message_as_dict(answer))
        return
    out().print(f"this call: about {usd(answer.estimated_cost_micro_usd)}")
    if not _print_advice(answer.nudge):
        out().print("nothing better is known", style="dim")


def _print_advice(nudge: quota_pb2.Nudge) -> bool:
    """Print what would make the call cheaper; whether there is any."""
    ways = [
        (f"{each.provider} {each.model}", each.estimated_cost_micro_usd, each.saving_micro_usd)
        for each in nudge.cheaper_models
    ]
    if nudge.HasField("cached_input"):
        cached = nudge.cached_input
        what = f"input from the cache (pays from {cached.pays_from_calls} calls that begin alike)"
        ways.append((what, cached.estimated_cost_micro_usd, cached.saving_micro_usd))
    if nudge.HasField("batch_tier"):
        batch = nudge.batch_tier
        ways.append(("in a batch, if it can wait", batch.estimated_cost_micro_usd, batch.saving_micro_usd))
    if nudge.HasField("shorter_context"):
        shorter = nudge.shorter_context
        what = f"at most {shorter.input_tokens} input tokens"
        ways.append((what, shorter.estimated_cost_micro_usd, shorter.saving_micro_usd))
    if ways:
        print_table(
            ("cheaper ways", "costs about", "saves"),
            ((what, usd(cost), usd(saving)) for what, cost, saving in ways),
        )
    if nudge.reusable_assets:
        print_table(
            ("shared for", "asset", "used by others"),
            ((each.use_case, each.asset_id, each.distinct_users) for each in nudge.reusable_assets),
        )
    return bool(ways or nudge.reusable_assets)


@commands.command("balance")
def balance_command(
    target: Annotated[
        str, typer.Argument(help="a subject, or an account id such as team/team-07/all/2026-11")
    ],
    *,
    project: Annotated[str, typer.Option(help="a project that the subject's calls are for")] = "",
    on_behalf_of: OnBehalfOf = None,
    token_file: TokenFile = None,
    as_json: JsonFlag = False,
) -> None:
    """Show an account's balance, or those of every account that a subject's calls touch."""
    named = {"account_id": target} if "/" in target else {"subject": target, "project": project}
    with connect(token_file, on_behalf_of) as quota:
        answer = quota.call(QuotaServiceStub(quota.channel).GetBalance, quota_pb2.GetBalanceRequest(**named))
    if as_json:
        print_json(message_as_dict(answer))
    else:
        print_accounts(answer.accounts)
        print_freshness(answer.freshness)


def print_accounts(accounts: Iterable[quota_pb2.AccountBalance]) -> None:
    """Print balances as a table."""
    print_table(
        ("account", "spent", "held", "limit", "of it granted", "used", "band"),
        (
            (
                account.account_id,
                usd(account.posted_micro_usd),
                usd(account.pending_micro_usd),
                "none" if account.unlimited else usd(account.limit_micro_usd),
                _granted(account),
                _share(account),
                quota_pb2.Band.Name(account.band).removeprefix("BAND_").lower(),
            )
            for account in accounts
        ),
    )


def _granted(account: quota_pb2.AccountBalance) -> str:
    if not account.grants_micro_usd:
        return ""
    lent = f" (lent: {usd(account.overdraft_micro_usd)})" if account.overdraft_micro_usd else ""
    return usd(account.grants_micro_usd) + lent


def _share(account: quota_pb2.AccountBalance) -> str:
    if account.unlimited or not account.limit_micro_usd:
        return ""
    used = account.posted_micro_usd + account.pending_micro_usd
    return f"{used * 100 // account.limit_micro_usd} %"


def print_freshness(freshness: quota_pb2.Freshness) -> None:
    """Print what an answer rests on."""
    lag_ms = freshness.lag.ToMilliseconds()
    behind = f"{lag_ms} ms behind" if freshness.HasField("lag") else "never level with the log yet"
    stale = "; stale, older than policy allows" if freshness.stale else ""
    as_of = f"as of {freshness.as_of.ToJsonString()}, " if freshness.HasField("as_of") else ""
    out().print(f"{as_of}{behind}{stale}", style="dim")
