"""``tokenomics ops``: where projections stand, and what to do about events they could not apply."""

from datetime import UTC, datetime, timedelta
from typing import Annotated

import typer
from google.protobuf.duration_pb2 import Duration

from tokenomics.operations.v1 import operations_pb2
from tokenomics.operations.v1.operations_pb2_grpc import OperationsServiceStub
from tokenomics.quota.v1 import quota_pb2
from tokenomics.quota.v1.quota_pb2_grpc import QuotaServiceStub
from tokenomics_chassis.clock import SystemClock
from tokenomics_cli import rebuilds
from tokenomics_cli.failures import CommandError, Exit
from tokenomics_cli.output import JsonFlag, message_as_dict, out, print_json, print_table
from tokenomics_cli.rpc import OnBehalfOf, Reason, Ticket, TokenFile, connect

commands = typer.Typer(no_args_is_help=True, help="Where projections stand, and what they could not apply.")
commands.add_typer(rebuilds.commands, name="rebuild")
commands.command("verify")(rebuilds.verify_command)

Place = Annotated[str, typer.Argument(metavar="TOPIC/PARTITION/OFFSET", help="as `ops parked` lists it")]

_PLACE_PARTS = 3
_PARTITIONS, _OFFSETS = range(2**31), range(2**63)
_SECOND_MS = 1_000


@commands.command("positions")
def positions_command(
    *,
    on_behalf_of: OnBehalfOf = None,
    token_file: TokenFile = None,
    as_json: JsonFlag = False,
) -> None:
    """Show how far each topic-partition is applied."""
    with connect(token_file, on_behalf_of) as quota:
        answer = quota.call(
            OperationsServiceStub(quota.channel).GetPositions, operations_pb2.GetPositionsRequest()
        )
    if as_json:
        print_json(message_as_dict(answer))
        return
    now = SystemClock().now()
    print_table(
        ("topic", "partition", "next offset", "lag", "parked", "as of", "age"),
        (
            (
                one.topic,
                one.partition,
                one.next_offset,
                one.lag if one.HasField("lag") else "unknown",
                one.parked_events or "",
                one.as_of.ToJsonString() if one.HasField("as_of") else "",
                _age(one, now),
            )
            for one in answer.positions
        ),
    )


def _age(position: operations_pb2.Position, now: datetime) -> str:
    """Say how old the newest event applied is: with a lag, about how long the partition has been behind."""
    if not position.HasField("as_of"):
        return ""
    return str(timedelta(seconds=max(0, int((now - position.as_of.ToDatetime(UTC)).total_seconds()))))


@commands.command("parked")
def parked_command(
    *,
    topic: Annotated[str, typer.Option(help="only this topic")] = "",
    code: Annotated[str, typer.Option(help="only this error code, e.g. too_late")] = "",
    on_behalf_of: OnBehalfOf = None,
    token_file: TokenFile = None,
    as_json: JsonFlag = False,
) -> None:
    """List events that the projection could not apply."""
    events: list[operations_pb2.ParkedEvent] = []
    page_token = ""
    with connect(token_file, on_behalf_of) as quota:
        method = OperationsServiceStub(quota.channel).ListParkedEvents
        while True:
            answer = quota.call(
                method,
                operations_pb2.ListParkedEventsRequest(topic=topic, error_code=code, page_token=page_token),
            )
            events += answer.events
            page_token = answer.next_page_token
            if not page_token:
                break
    if as_json:
        print_json([message_as_dict(event) for event in events])
        return
    if not events:
        out().print("nothing is parked")
        return
    print_table(
        ("place", "code", "attempts", "parked at", "what is wrong"),
        (
            (
                f"{event.place.topic}/{event.place.partition}/{event.place.offset}",
                event.error_code,
                event.attempts,
                event.parked_at.ToJsonString(),
                event.error_message,
            )
            for event in events
        ),
    )


@commands.command("retry")
def retry_command(
    places: Annotated[
        list[str] | None,
        typer.Argument(metavar="[TOPIC/PARTITION/OFFSET]...", help="as `ops parked` lists them"),
    ] = None,
    *,
    reason: Reason,
    ticket: Ticket,
    code: Annotated[str, typer.Option(help="every parked event with this error code")] = "",
    everything: Annotated[bool, typer.Option("--all", help="every parked event")] = False,
    on_behalf_of: OnBehalfOf = None,
    token_file: TokenFile = None,
    as_json: JsonFlag = False,
) -> None:
    """Apply parked events anew, once reader or policy was mended; exit code 1 when some stay parked."""
    if [bool(places), bool(code), everything].count(True) != 1:
        raise CommandError("name places, or give --code or --all: exactly one of them", Exit.USAGE)
    request = operations_pb2.RetryParkedEventsRequest(reason_code=reason, ticket_id=ticket)
    if places:
        request.places.places.extend(_place(place) for place in places)
    elif code:
        request.error_code = code
    else:
        request.all = True
    with connect(token_file, on_behalf_of) as quota:
        answer = quota.call(OperationsServiceStub(quota.channel).RetryParkedEvents, request)
    if as_json:
        print_json({"applied": answer.applied, "still_parked": answer.still_parked})
    else:
        out().print(f"{answer.applied} applied, {answer.still_parked} still parked")
    if answer.still_parked:
        raise typer.Exit(Exit.REFUSED)


@commands.command("skip")
def skip_command(
    place: Place,
    *,
    reason: Reason,
    ticket: Ticket,
    on_behalf_of: OnBehalfOf = None,
    token_file: TokenFile = None,
    as_json: JsonFlag = False,
) -> None:
    """Give a parked event up, for this and every later rebuild."""
    named = _place(place)
    request = operations_pb2.SkipParkedEventRequest(
        topic=named.topic,
        partition=named.partition,
        offset=named.offset,
        reason_code=reason,
        ticket_id=ticket,
    )
    with connect(token_file, on_behalf_of) as quota:
        answer = quota.call(OperationsServiceStub(quota.channel).SkipParkedEvent, request)
    if as_json:
        print_json({"event_id": answer.event_id})
    else:
        out().print(f"skipped; recorded as event {answer.event_id}")


@commands.command("sources")
def sources_command(
    source: Annotated[str, typer.Argument(help="as named in the events; none: all that you may see")] = "",
    *,
    on_behalf_of: OnBehalfOf = None,
    token_file: TokenFile = None,
    as_json: JsonFlag = False,
) -> None:
    """Show how sources of events are doing; exit code 1 when one of them is silent."""
    with connect(token_file, on_behalf_of) as quota:
        answer = quota.call(
            QuotaServiceStub(quota.channel).GetSourceStatus, quota_pb2.GetSourceStatusRequest(source=source)
        )
    if as_json:
        print_json([message_as_dict(each) for each in answer.sources])
    elif not answer.sources:
        out().print("no source is known")
    else:
        print_table(
            ("source", "owner", "last event", "usual delay", "last day", "parked", ""),
            (
                (
                    each.source,
                    each.owner_id,
                    each.last_event_at.ToJsonString() if each.HasField("last_event_at") else "never",
                    _delay(each.median_delay) if each.HasField("median_delay") else "",
                    each.events_last_day,
                    each.parked_events or "",
                    "silent" if each.silent else "",
                )
                for each in answer.sources
            ),
        )
    if any(each.silent for each in answer.sources):
        raise typer.Exit(Exit.REFUSED)


def _delay(delay: Duration) -> str:
    milliseconds = delay.ToMilliseconds()
    if milliseconds < _SECOND_MS:
        return f"{milliseconds} ms"
    return str(timedelta(seconds=milliseconds // _SECOND_MS))


def _place(text: str) -> operations_pb2.RecordPlace:
    parts = text.rsplit("/", 2)
    numbered = len(parts) == _PLACE_PARTS and parts[1].isdecimal() and parts[2].isdecimal()
    if not (numbered and int(parts[1]) in _PARTITIONS and int(parts[2]) in _OFFSETS):
        raise CommandError(f"{text}: should be written topic/partition/offset", Exit.USAGE)
    return operations_pb2.RecordPlace(topic=parts[0], partition=int(parts[1]), offset=int(parts[2]))
