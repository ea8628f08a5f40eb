"""``tokenomics ops rebuild`` and ``ops verify``: the derived state is filled anew, exchanged, recomputed."""

from collections.abc import Iterator
from typing import Annotated, Any
from uuid import uuid4

import typer
from google.protobuf.message import Message

from tokenomics.operations.v1 import operations_pb2
from tokenomics.operations.v1.operations_pb2_grpc import OperationsServiceStub
from tokenomics_cli.failures import Exit
from tokenomics_cli.output import JsonFlag, counting_bar, message_as_dict, out, print_json, print_table
from tokenomics_cli.rpc import OnBehalfOf, Reason, Service, Ticket, TokenFile, connect

commands = typer.Typer(no_args_is_help=True, help="Fill the derived state anew beside what serves.")

RebuildId = Annotated[str, typer.Argument(metavar="REBUILD", help="id of the rebuild, as `list` shows it")]


@commands.command("start")
def start_command(
    *,
    reason: Reason,
    ticket: Ticket,
    rebuild_id: Annotated[
        str | None, typer.Option("--id", help="an id of your own; a made-up one else")
    ] = None,
    watch: Annotated[bool, typer.Option("--watch", help="wait until it is caught up")] = False,
    on_behalf_of: OnBehalfOf = None,
    token_file: TokenFile = None,
    as_json: JsonFlag = False,
) -> None:
    """Fill the next version of the derived state, beside the one that serves."""
    request = operations_pb2.StartRebuildRequest(
        rebuild_id=rebuild_id or f"rebuild-{uuid4()}", reason_code=reason, ticket_id=ticket
    )
    with connect(token_file, on_behalf_of) as service:
        rebuild = service.call(OperationsServiceStub(service.channel).StartRebuild, request).rebuild
        if watch:
            rebuild = _watched(service, rebuild.rebuild_id)
    _show(rebuild, as_json=as_json)


@commands.command("list")
def list_command(
    *,
    everything: Annotated[bool, typer.Option("--all", help="retired versions too")] = False,
    on_behalf_of: OnBehalfOf = None,
    token_file: TokenFile = None,
    as_json: JsonFlag = False,
) -> None:
    """List the versions of the derived state, newest first."""
    request = operations_pb2.ListRebuildsRequest(include_retired=everything)
    with connect(token_file, on_behalf_of) as service:
        answer = service.call(OperationsServiceStub(service.channel).ListRebuilds, request)
    if as_json:
        print_json([message_as_dict(rebuild) for rebuild in answer.rebuilds])
        return
    print_table(
        ("rebuild", "version", "state", "applied", "lag", "started at", "what is wrong"),
        (
            (
                one.rebuild_id,
                one.derived_version,
                _state(one),
                f"{one.applied_records:,}",
                f"{one.lag:,}",
                one.started_at.ToJsonString(),
                one.error_message,
            )
            for one in answer.rebuilds
        ),
    )


@commands.command("watch")
def watch_command(
    rebuild_id: RebuildId,
    *,
    on_behalf_of: OnBehalfOf = None,
    token_file: TokenFile = None,
    as_json: JsonFlag = False,
) -> None:
    """Show a rebuild's progress until it is caught up; exit code 1 when it failed."""
    with connect(token_file, on_behalf_of) as service:
        rebuild = _watched(service, rebuild_id)
    _show(rebuild, as_json=as_json)


@commands.command("promote")
def promote_command(
    rebuild_id: RebuildId,
    *,
    reason: Reason,
    ticket: Ticket,
    on_behalf_of: OnBehalfOf = None,
    token_file: TokenFile = None,
    as_json: JsonFlag = False,
) -> None:
    """Make a version serve that is caught up."""
    request = operations_pb2.PromoteRebuildRequest(
        rebuild_id=rebuild_id, reason_code=reason, ticket_id=ticket
    )
    with connect(token_file, on_behalf_of) as service:
        answer = service.call(OperationsServiceStub(service.channel).PromoteRebuild, request)
    _show(answer.rebuild, as_json=as_json)


@commands.command("rollback")
def rollback_command(
    rebuild_id: Annotated[str, typer.Argument(metavar="REBUILD", help="the one that serves and shall not")],
    *,
    reason: Reason,
    ticket: Ticket,
    on_behalf_of: OnBehalfOf = None,
    token_file: TokenFile = None,
    as_json: JsonFlag = False,
) -> None:
    """Make the version serve again that served before."""
    request = operations_pb2.RollbackRebuildRequest(
        rebuild_id=rebuild_id, reason_code=reason, ticket_id=ticket
    )
    with connect(token_file, on_behalf_of) as service:
        answer = service.call(OperationsServiceStub(service.channel).RollbackRebuild, request)
    _show(answer.rebuild, as_json=as_json)


@commands.command("retire")
def retire_command(
    rebuild_id: RebuildId,
    *,
    reason: Reason,
    ticket: Ticket,
    on_behalf_of: OnBehalfOf = None,
    token_file: TokenFile = None,
    as_json: JsonFlag = False,
) -> None:
    """Stop feeding a version that doesn't serve, and drop its tables."""
    request = operations_pb2.RetireRebuildRequest(rebuild_id=rebuild_id, reason_code=reason, ticket_id=ticket)
    with connect(token_file, on_behalf_of) as service:
        answer = service.call(OperationsServiceStub(service.channel).RetireRebuild, request)
    _show(answer.rebuild, as_json=as_json)


def verify_command(
    part: Annotated[
        str, typer.Argument(metavar="[ACCOUNT]", help="this account alone; everything else")
    ] = "",
    *,
    reason: Reason,
    ticket: Ticket,
    verify_id: Annotated[
        str | None, typer.Option("--id", help="an id of your own; a made-up one else")
    ] = None,
    on_behalf_of: OnBehalfOf = None,
    token_file: TokenFile = None,
    as_json: JsonFlag = False,
) -> None:
    """Recompute the derived state from the log and compare; exit code 1 when it differs."""
    request = operations_pb2.StartVerifyRequest(
        verify_id=verify_id or f"verify-{uuid4()}", part=part, reason_code=reason, ticket_id=ticket
    )
    with connect(token_file, on_behalf_of) as service:
        stub = OperationsServiceStub(service.channel)
        verify = service.call(stub.StartVerify, request).verify
        watched = operations_pb2.WatchVerifyRequest(verify_id=verify.verify_id)
        verify = _last(service.watch(stub.WatchVerify, watched), "verify", "recomputed")
    equal = verify.state == operations_pb2.VERIFY_STATE_EQUAL
    if as_json:
        print_json(message_as_dict(verify))
    elif equal:
        out().print(f"equal: {verify.applied_records:,} records recomputed, hash {verify.live_hash}")
    elif verify.state == operations_pb2.VERIFY_STATE_DIFFERENT:
        out().print(f"different in {', '.join(verify.different_tables)}: a rebuild mends it")
    else:
        out().print(f"failed without a verdict: {verify.error_message}")
    if not equal:
        raise typer.Exit(Exit.REFUSED)


def _watched(service: Service, rebuild_id: str) -> Any:
    stub = OperationsServiceStub(service.channel)
    request = operations_pb2.WatchRebuildRequest(rebuild_id=rebuild_id)
    return _last(service.watch(stub.WatchRebuild, request), "rebuild", "applied")


def _last(answers: Iterator[Message], field: str, done: str) -> Any:
    """Show what a watch tells as a bar on standard error, and return the last of it."""
    seen: Any = None
    with counting_bar() as progress:
        task = progress.add_task(f"records {done}", total=None)
        for answer in answers:
            seen = getattr(answer, field)
            total = max(seen.total_records, seen.applied_records)
            progress.update(task, completed=seen.applied_records, total=total or None)
    return seen


def _state(rebuild: operations_pb2.Rebuild) -> str:
    name = operations_pb2.RebuildState.Name(rebuild.state)
    return name.removeprefix("REBUILD_STATE_").lower().replace("_", " ")


def _show(rebuild: operations_pb2.Rebuild, *, as_json: bool) -> None:
    if as_json:
        print_json(message_as_dict(rebuild))
    else:
        wrong = f": {rebuild.error_message}" if rebuild.error_message else ""
        out().print(f"{rebuild.rebuild_id} (version {rebuild.derived_version}) is {_state(rebuild)}{wrong}")
    if rebuild.state == operations_pb2.REBUILD_STATE_FAILED:
        raise typer.Exit(Exit.REFUSED)
