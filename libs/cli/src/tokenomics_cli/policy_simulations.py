"""``tokenomics policy simulate``: what policies would have decided about usage that is recorded."""

from collections.abc import Collection
from datetime import datetime
from pathlib import Path
from typing import Annotated
from uuid import uuid4

import typer

from tokenomics.quota.v1 import quota_pb2 as pb
from tokenomics.quota.v1.quota_pb2_grpc import QuotaServiceStub
from tokenomics_chassis.rpc.structs import to_struct
from tokenomics_cli.failures import CommandError, Exit
from tokenomics_cli.output import (
    JsonFlag,
    counting_bar,
    err,
    message_as_dict,
    out,
    print_json,
    print_table,
    usd,
)
from tokenomics_cli.policy_files import as_written, read_policies
from tokenomics_cli.rpc import OnBehalfOf, Service, TokenFile, connect, timestamp_of
from tokenomics_contracts.units import parse_time


def simulate_command(
    files: Annotated[
        list[Path],
        typer.Argument(
            help="YAML as for `policy apply`, of kinds quota and price_book; effective from --since"
        ),
    ],
    *,
    since: Annotated[str, typer.Option(metavar="TIME", help="usage from then on, e.g. 2026-11-01T00:00:00Z")],
    before: Annotated[str, typer.Option(metavar="TIME", help="usage before that time")],
    simulation_id: Annotated[
        str | None, typer.Option("--id", help="an id of your own, to ask again by; a made-up one else")
    ] = None,
    on_behalf_of: OnBehalfOf = None,
    token_file: TokenFile = None,
    as_json: JsonFlag = False,
) -> None:
    """Have recorded usage judged as these policies would have judged it; nothing live changes.

    Each usage event is one call, checked just before it happened. The service goes on when this command is
    stopped: the same command with the same --id watches on. Exit code: 1 when the simulation failed.
    """
    request = pb.StartSimulationRequest(
        simulation_id=simulation_id or f"simulation-{uuid4()}",
        since=timestamp_of(_time("--since", since)),
        before=timestamp_of(_time("--before", before)),
        documents={each.policy.kind: to_struct(as_written(each.policy)) for each in read_policies(*files)},
    )
    with connect(token_file, on_behalf_of) as quota:
        simulation = quota.call(QuotaServiceStub(quota.channel).StartSimulation, request).simulation
        if not as_json:
            err().print(f"simulating as {simulation.simulation_id}", markup=False)
        simulation = _watched(quota, simulation)
    if as_json:
        print_json(message_as_dict(simulation))
    elif simulation.state == pb.SIMULATION_STATE_COMPLETED:
        _print_result(simulation.result)
    if simulation.state == pb.SIMULATION_STATE_FAILED:
        raise CommandError(f"the simulation failed: {simulation.error_message}", Exit.REFUSED)


def _time(option: str, text: str) -> datetime:
    try:
        return parse_time(text)
    except ValueError as error:
        raise CommandError(f"{option}: {text} {error}", Exit.USAGE) from None


def _watched(quota: Service, simulation: pb.Simulation) -> pb.Simulation:
    request = pb.WatchSimulationRequest(simulation_id=simulation.simulation_id)
    try:
        with counting_bar() as progress:
            task = progress.add_task("usage events replayed", total=None)
            for answer in quota.watch(QuotaServiceStub(quota.channel).WatchSimulation, request):
                simulation = answer.simulation
                total = simulation.total_events or None
                progress.update(task, completed=simulation.replayed_events, total=total)
    except CommandError as error:
        hint = f"the same command with --id {simulation.simulation_id} watches on"
        raise CommandError(str(error), error.exit_code, hint=hint) from error
    return simulation


def _print_result(result: pb.SimulationResult) -> None:
    print_table(
        ("decision", "calls then", "calls simulated", "cost then", "cost simulated"),
        (
            (
                pb.Decision.Name(each.decision).removeprefix("DECISION_"),
                f"{each.actual:,}",
                f"{each.simulated:,}",
                usd(each.actual_micro_usd),
                usd(each.simulated_micro_usd),
            )
            for each in result.decisions
        ),
    )
    changes = result.changes
    say = out().print
    say(
        f"{changes.stricter_calls:,} of {changes.calls:,} calls would have been decided more strictly, "
        f"{changes.milder_calls:,} more mildly; they are {result.changed_subjects:,} subjects'"
    )
    say(
        f"interrupted: {changes.newly_interrupted_calls:,} calls more, "
        f"{changes.no_longer_interrupted_calls:,} fewer; "
        f"{result.interrupted_subjects:,} subjects, {result.actual_interrupted_subjects:,} then"
    )
    say(
        f"spend: {usd(result.simulated_posted_micro_usd)}, {usd(result.posted_micro_usd)} then; "
        f"calls that would have been newly denied cost {usd(result.newly_denied_micro_usd)}"
    )
    _print_groups("team", result.teams)
    _print_groups("role", result.roles)


def _print_groups(kind: str, groups: Collection[pb.DecisionChanges]) -> None:
    if not groups:
        out().print(f"by {kind}: nothing can be told that isn't of fewer than five people")
        return
    print_table(
        (kind, "people", "calls", "stricter", "milder", "newly interrupted", "no longer"),
        (
            (
                each.name or "(others)",
                each.people,
                *(
                    f"{count:,}"
                    for count in (
                        each.calls,
                        each.stricter_calls,
                        each.milder_calls,
                        each.newly_interrupted_calls,
                        each.no_longer_interrupted_calls,
                    )
                ),
            )
            for each in groups
        ),
    )
