"""``tokenomics policy``: write policies, try them, publish them, and see what is in force."""

import asyncio
import difflib
from collections.abc import Sequence
from datetime import datetime
from hashlib import sha256
from pathlib import Path
from typing import Annotated, Any

import typer
from pydantic import ValidationError
from rich.text import Text

from tokenomics.quota.v1 import quota_pb2 as pb
from tokenomics.quota.v1.quota_pb2_grpc import QuotaServiceStub
from tokenomics_chassis.clock import SystemClock
from tokenomics_chassis.rpc.structs import from_struct, to_struct
from tokenomics_cli.failures import CommandError, Exit
from tokenomics_cli.output import JsonFlag, out, print_json, print_table
from tokenomics_cli.policy_changes import Comparison, compare
from tokenomics_cli.policy_files import Written, as_file, as_shown, as_written, as_yaml, read_policies
from tokenomics_cli.policy_log import Known, due, newest_of, publish_policies, published_policies, states
from tokenomics_cli.policy_simulations import simulate_command
from tokenomics_cli.policy_trials import Trial, Tried, try_policies
from tokenomics_cli.rpc import OnBehalfOf, TokenFile, connect, timestamp_of
from tokenomics_cli.settings import KafkaSettings, settings_of
from tokenomics_contracts.events.policy import PolicyPublished
from tokenomics_contracts.units import format_time, parse_time

_DIFF_STYLES = {"+": "green", "-": "red", "@": "cyan"}
_ABSENT = "(none)"

commands = typer.Typer(no_args_is_help=True, help="Write, try, publish, show and compare policies.")
commands.command("simulate")(simulate_command)

PolicyFiles = Annotated[
    list[Path],
    typer.Argument(
        help="YAML, one document a kind: kind, version, replaces (the version it was written against; "
        "absent for the first), effective_from, document"
    ),
]
Unchecked = Annotated[
    bool,
    typer.Option("--without-examples", help="publish though nobody looks whether the policy's examples hold"),
]


@commands.command("apply")
def apply_command(
    files: PolicyFiles,
    *,
    without_examples: Unchecked = False,
    on_behalf_of: OnBehalfOf = None,
    token_file: TokenFile = None,
    as_json: JsonFlag = False,
) -> None:
    """Publish policies, all or none.

    Each is checked against its kind and the newest version; the service must find that its examples hold. The
    newest version again, saying the same, is left alone.
    """
    written = read_policies(*files)
    bootstrap = settings_of(KafkaSettings).kafka_bootstrap
    policies = [each.policy for each in written]
    new = due(asyncio.run(published_policies(bootstrap)), policies)
    if not without_examples:
        _require_examples([each for each in written if each.policy in new], written, token_file, on_behalf_of)
    asyncio.run(publish_policies(bootstrap, new, SystemClock()))
    _print_published(policies, new, as_json=as_json)


def _require_examples(
    new: list[Written], beside: list[Written], token_file: Path | None, on_behalf_of: str | None
) -> None:
    promising = [each for each in new if "examples" in as_written(each.policy)]
    if not promising:
        return
    try:
        with connect(token_file, on_behalf_of) as quota:
            trial = try_policies(quota, promising, beside)
    except CommandError as error:
        raise CommandError(
            f"the examples can't be judged: {error}",
            error.exit_code,
            hint=f"nothing was published; --without-examples does it unjudged. {error.hint or ''}".strip(),
        ) from error
    trial.require_ok()


def _print_published(policies: list[PolicyPublished], new: list[PolicyPublished], *, as_json: bool) -> None:
    if as_json:
        print_json(
            [{"kind": each.kind, "version": each.version, "published": each in new} for each in policies]
        )
        return
    for each in policies:
        out().print(
            f"{each.kind} version {each.version} {'published' if each in new else 'was there already'}"
        )


@commands.command("test")
def try_command(
    files: PolicyFiles,
    *,
    on_behalf_of: OnBehalfOf = None,
    token_file: TokenFile = None,
    as_json: JsonFlag = False,
) -> None:
    """Have the service judge policies and their examples; nothing is published.

    The policies of all files are judged together, with those of other kinds that are in force. Exit code: 1
    when an example doesn't hold, 65 when a document is wrong.
    """
    written = read_policies(*files)
    with connect(token_file, on_behalf_of) as quota:
        trial = try_policies(quota, written, written)
    if as_json:
        print_json(_trial_as_dict(trial))
    else:
        for each in trial.examples:
            out().print(_told(each))
        if not trial.examples:
            out().print("nothing is wrong; there are no examples")
    trial.require_ok()


def _told(tried: Tried) -> Text:
    because = f" ({', '.join(tried.reason_codes)})" if tried.reason_codes else ""
    if tried.holds:
        verdict, came = ("holds   ", "green"), f"{tried.actual}{because}"
    else:
        verdict, came = ("BROKEN  ", "bold red"), f"promises {tried.expected}, gives {tried.actual}{because}"
    return Text.assemble(verdict, f"{tried.kind}: {tried.name}: {came}")


def _trial_as_dict(trial: Trial) -> dict[str, Any]:
    return {
        "ok": not trial.problems and not trial.failing,
        "problems": [each._asdict() for each in trial.problems],
        "examples": [{**each._asdict(), "holds": each.holds} for each in trial.examples],
    }


@commands.command("show")
def show_command(
    kind: Annotated[str | None, typer.Argument(help="absent: list the newest version of every kind")] = None,
    *,
    version: Annotated[int | None, typer.Option(min=1, help="an older version of the kind")] = None,
    history: Annotated[
        bool, typer.Option("--history", help="list every version, of the kind or of all kinds")
    ] = False,
    as_json: JsonFlag = False,
) -> None:
    """Show published policies."""
    if version is not None and (kind is None or history):
        raise CommandError("--version goes with a kind, and not with --history", Exit.USAGE)
    known = asyncio.run(published_policies(settings_of(KafkaSettings).kafka_bootstrap))
    if kind is not None and kind not in known:
        raise CommandError(f"{kind} is not published", Exit.REFUSED, hint=_LIST_ALL)
    if kind is None or history:
        _print_versions({kind: known[kind]} if kind else known, every=history, as_json=as_json)
        return
    found = [one for one in known[kind] if version in {None, one.version}]
    if not found:
        raise CommandError(
            f"{kind} version {version} is not published",
            Exit.REFUSED,
            hint=f"list all: tokenomics policy show {kind} --history",
        )
    if as_json:
        print_json(as_file(found[-1]))
    else:
        out().print(as_yaml(found[-1]), end="", markup=False)


_LIST_ALL = "list all: tokenomics policy show"


def _print_versions(known: Known, *, every: bool, as_json: bool) -> None:
    now = SystemClock().now()
    listed = [
        (policy, state)
        for versions in known.values()
        for policy, state in [*zip(versions, states(versions, now), strict=True)][None if every else -1 :]
    ]
    if as_json:
        print_json([as_file(policy) | {"state": state} for policy, state in listed])
        return
    print_table(
        ("kind", "version", "replaces", "effective from", "state"),
        (
            (one.kind, one.version, one.replaces or "", format_time(one.effective_from), state)
            for one, state in listed
        ),
    )


@commands.command("diff")
def diff_command(
    files: PolicyFiles,
    *,
    text: Annotated[bool, typer.Option("--text/--no-text", help="show the lines that differ, too")] = True,
    as_json: JsonFlag = False,
) -> None:
    """Compare policies with the newest published versions; exit code 1 when they differ.

    First what it means: each value that changes, in the order of the document, and whom that is about. Then
    the lines.
    """
    policies = [each.policy for each in read_policies(*files)]
    known = asyncio.run(published_policies(settings_of(KafkaSettings).kafka_bootstrap))
    diffs = {}
    for policy in policies:
        newest = newest_of(known, policy.kind)
        compared = compare(newest, policy)
        lines = _lines_that_differ(newest, policy)
        diffs[policy.kind] = {
            "changes": [each._asdict() for each in compared.changes],
            "touches": compared.touches,
            "text": lines,
        }
        if not as_json and lines:
            _print_comparison(newest, policy, compared)
            for line in lines if text else ():
                out().print(Text(line, style=_DIFF_STYLES.get(line[0], "")))
    if as_json:
        print_json(diffs)
    if any(diff["text"] for diff in diffs.values()):
        raise typer.Exit(Exit.REFUSED)


def _print_comparison(newest: PolicyPublished | None, policy: PolicyPublished, compared: Comparison) -> None:
    console = out()
    versions = (
        f"version {newest.version} -> {policy.version}" if newest else f"version {policy.version}, the first"
    )
    console.print(Text(f"{policy.kind}: {versions}, from {format_time(policy.effective_from)}", style="bold"))
    for path, old, new in compared.changes:
        console.print(Text(f"  {path}: {_shown(old)} -> {_shown(new)}"))
    if not compared.changes:
        console.print("  means the same")
    for kind, names in compared.touches.items():
        listed = "everybody" if kind == "everybody" else f"{kind.replace('_', ' ')}: {', '.join(names)}"
        console.print(Text(f"  touches {listed}"))


def _shown(value: Any) -> str:
    match value:
        case None:
            return _ABSENT
        case bool():
            return str(value).lower()
        case int():
            return f"{value:_}"
        case dict():
            return "{" + ", ".join(f"{name}: {_shown(each)}" for name, each in value.items()) + "}"
        case list():
            return "[" + ", ".join(map(_shown, value)) + "]"
    return str(value)


def _lines_that_differ(newest: PolicyPublished | None, policy: PolicyPublished) -> list[str]:
    before = as_yaml(newest).splitlines() if newest else []
    name = (
        f"{policy.kind} version {newest.version} (published)"
        if newest
        else f"{policy.kind} (nothing published)"
    )
    after = f"{policy.kind} version {policy.version} (file)"
    return list(difflib.unified_diff(before, as_yaml(policy).splitlines(), name, after, lineterm=""))


@commands.command("rollback")
def rollback_command(
    kind: Annotated[str, typer.Argument(help="kind of the policy")],
    *,
    to: Annotated[
        int | None, typer.Option(min=1, help="version to go back to; absent: the one before the newest")
    ] = None,
    effective_from: Annotated[
        str | None, typer.Option(metavar="TIME", help="e.g. 2026-12-01T00:00:00Z; absent: now")
    ] = None,
    without_examples: Unchecked = False,
    on_behalf_of: OnBehalfOf = None,
    token_file: TokenFile = None,
    as_json: JsonFlag = False,
) -> None:
    """Publish an earlier version's document again, as a new version: history is never rewritten."""
    now = SystemClock().now()
    since = now if effective_from is None else _time(effective_from)
    bootstrap = settings_of(KafkaSettings).kafka_bootstrap
    known = asyncio.run(published_policies(bootstrap))
    policy = _rolled_back(kind, known.get(kind, ()), to, since)
    if not without_examples:
        _require_examples([as_shown(policy)], [], token_file, on_behalf_of)
    asyncio.run(publish_policies(bootstrap, [policy], SystemClock()))
    _print_published([policy], [policy], as_json=as_json)


def _rolled_back(
    kind: str, versions: Sequence[PolicyPublished], to: int | None, since: datetime
) -> PolicyPublished:
    if not versions:
        raise CommandError(f"{kind} is not published", Exit.REFUSED, hint=_LIST_ALL)
    newest = versions[-1]
    wanted = newest.replaces if to is None else to
    if wanted is None:
        raise CommandError(
            f"{kind} version {newest.version} is the first: nothing was before it", Exit.REFUSED
        )
    found = [each for each in versions if each.version == wanted]
    if not found:
        raise CommandError(
            f"{kind} version {wanted} is not published",
            Exit.REFUSED,
            hint=f"list all: tokenomics policy show {kind} --history",
        )
    if found[0].document == newest.document:
        raise CommandError(
            f"{kind} version {newest.version}, the newest, says what version {wanted} says", Exit.REFUSED
        )
    return newest.model_copy(
        update={
            "version": newest.version + 1,
            "replaces": newest.version,
            "effective_from": since,
            "document": found[0].document,
        }
    )


def _time(text: str) -> datetime:
    try:
        return parse_time(text)
    except ValueError as error:
        raise CommandError(f"--effective-from: {text} {error}", Exit.USAGE) from None


@commands.command("propose")
def propose_command(
    files: PolicyFiles,
    *,
    on_behalf_of: OnBehalfOf = None,
    token_file: TokenFile = None,
    as_json: JsonFlag = False,
) -> None:
    """Leave policies with the service, for governance to look at and publish; the same again is the same."""
    proposals = [(_proposal_id(each.policy), each.policy) for each in read_policies(*files)]
    with connect(token_file, on_behalf_of) as quota:
        for proposal_id, policy in proposals:
            request = pb.ProposePolicyRequest(
                proposal_id=proposal_id,
                kind=policy.kind,
                replaces=policy.replaces or 0,
                effective_from=timestamp_of(policy.effective_from),
                document=to_struct(as_written(policy)),
            )
            quota.call(QuotaServiceStub(quota.channel).ProposePolicy, request)
    if as_json:
        print_json([{"proposal_id": proposal_id, "kind": policy.kind} for proposal_id, policy in proposals])
        return
    for proposal_id, policy in proposals:
        out().print(f"{policy.kind} proposed as {proposal_id}")


def _proposal_id(policy: PolicyPublished) -> str:
    return f"{policy.kind}-{policy.version}-{sha256(policy.model_dump_json().encode()).hexdigest()[:12]}"


@commands.command("proposals")
def proposals_command(
    proposal_id: Annotated[
        str | None, typer.Argument(help="print this one as a file for `policy apply`; absent: list all")
    ] = None,
    *,
    kind: Annotated[str, typer.Option(help="only of this kind")] = "",
    on_behalf_of: OnBehalfOf = None,
    token_file: TokenFile = None,
    as_json: JsonFlag = False,
) -> None:
    """Show what was proposed, the newest first."""
    proposals: list[pb.PolicyProposal] = []
    request = pb.ListPolicyProposalsRequest(kind=kind, proposal_id=proposal_id or "")
    with connect(token_file, on_behalf_of) as quota:
        while True:
            page = quota.call(QuotaServiceStub(quota.channel).ListPolicyProposals, request)
            proposals += page.proposals
            if not page.next_page_token:
                break
            request.page_token = page.next_page_token
    if proposal_id and not proposals:
        raise CommandError(
            f"nothing was proposed as {proposal_id}",
            Exit.REFUSED,
            hint="list all: tokenomics policy proposals",
        )
    if as_json:
        print_json([_proposal_as_dict(each) for each in proposals])
    elif proposal_id:
        out().print(as_yaml(_proposed_policy(proposals[0])), end="", markup=False)
    else:
        print_table(
            ("proposal", "kind", "replaces", "effective from", "by", "at", "state"),
            (
                (
                    each.proposal_id,
                    each.kind,
                    each.replaces or "",
                    each.effective_from.ToJsonString(),
                    each.proposed_by,
                    each.proposed_at.ToJsonString(),
                    "outdated" if each.outdated else "open",
                )
                for each in proposals
            ),
        )


def _proposed_policy(proposal: pb.PolicyProposal) -> PolicyPublished:
    try:
        return PolicyPublished.model_validate(_proposal_as_file(proposal))
    except ValidationError as error:
        raise CommandError(
            f"{proposal.proposal_id} holds what this command can't read: {error.error_count()} problems",
            Exit.BAD_DATA,
            hint="bring command and service to one version, or print it with --json",
        ) from None


def _proposal_as_file(proposal: pb.PolicyProposal) -> dict[str, Any]:
    return {
        "kind": proposal.kind,
        "version": proposal.replaces + 1,
        "replaces": proposal.replaces or None,
        "effective_from": proposal.effective_from.ToJsonString(),
        "document": from_struct(proposal.document),
    }


def _proposal_as_dict(proposal: pb.PolicyProposal) -> dict[str, Any]:
    return {
        "proposal_id": proposal.proposal_id,
        "proposed_by": proposal.proposed_by,
        "proposed_at": proposal.proposed_at.ToJsonString(),
        "outdated": proposal.outdated,
        "policy": _proposal_as_file(proposal),
    }
