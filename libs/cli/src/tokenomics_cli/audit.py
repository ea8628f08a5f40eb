"""``tokenomics audit``: what was done and looked at, and whether the trail of it is whole."""

import asyncio
import re
from datetime import UTC
from typing import Annotated

import typer

from tokenomics.operations.v1 import operations_pb2 as pb
from tokenomics.operations.v1.operations_pb2_grpc import OperationsServiceStub
from tokenomics_cli.chains import Chain, Head
from tokenomics_cli.failures import CommandError, Exit
from tokenomics_cli.kafka import records
from tokenomics_cli.output import JsonFlag, message_as_dict, out, print_json, print_table
from tokenomics_cli.rpc import OnBehalfOf, Service, TokenFile, connect
from tokenomics_cli.settings import KafkaSettings, settings_of
from tokenomics_contracts.audit import AuditAnchored, AuditRecorded
from tokenomics_contracts.catalogue import own_topic
from tokenomics_contracts.cloudevents import decode
from tokenomics_contracts.json_data import load_json
from tokenomics_contracts.rejection import EventRejected

commands = typer.Typer(no_args_is_help=True, help="What was done and looked at, and whether that is all.")

_CHAIN = "quota"
_EXPECTED = re.compile(r"([1-9][0-9]{0,17}):([0-9a-f]{64})")


@commands.command("verify")
def verify_command(
    *,
    database: Annotated[
        bool, typer.Option("--database", help="compare the database's copy too; for auditors")
    ] = False,
    offline: Annotated[
        bool, typer.Option("--offline", help="read the topic alone, without asking the service")
    ] = False,
    expect: Annotated[
        list[str] | None,
        typer.Option(metavar="SEQUENCE:HASH", help="a link kept elsewhere that must be in the chain; often"),
    ] = None,
    on_behalf_of: OnBehalfOf = None,
    token_file: TokenFile = None,
    as_json: JsonFlag = False,
) -> None:
    """Recompute the audit trail from its topic; exit code 1 when it isn't whole.

    It tells what was edited, inserted, deleted, moved or cut off, the first broken link first, by the hashes,
    by the anchors, by links that you kept, and by the head that the service has.
    """
    if offline and database:
        raise CommandError("give --offline or --database, not both", Exit.USAGE)
    chain = Chain(_CHAIN)
    for sequence, hash_ in map(_expected, expect or ()):
        chain.expect(sequence, hash_, "--expect")
    if offline:
        asyncio.run(_read(chain))
    else:
        with connect(token_file, on_behalf_of) as service:
            before = _head(service)
            asyncio.run(_read(chain))
            if database:
                _compare(chain, service, before)
            chain.head(before, _head(service))
    faults = chain.faults()
    if as_json:
        newest = {"sequence": chain.last, "hash": chain.hash_of(chain.last)}
        print_json(
            {
                "chain": chain.name,
                "whole": not faults,
                "head": newest,
                "anchors": len(chain.anchors),
                "faults": [fault._asdict() for fault in faults],
            }
        )
    elif faults:
        print_table(
            ("entry", "what", "seen at", "why"),
            ((fault.sequence or "", fault.kind, fault.place, fault.message) for fault in faults),
        )
    else:
        out().print(
            f"whole: {chain.last:,} entries, {len(chain.anchors):,} anchors;"
            f" keep {chain.last}:{chain.hash_of(chain.last)} for --expect"
        )
    if faults:
        raise typer.Exit(Exit.REFUSED)


@commands.command("list")
def list_command(
    *,
    action: Annotated[str, typer.Option(help="only this action, e.g. parked.skipped")] = "",
    target: Annotated[str, typer.Option(help="only what was done to this")] = "",
    actor: Annotated[str, typer.Option(help="only what this person or workload did")] = "",
    limit: Annotated[int, typer.Option(min=1, help="at most so many")] = 100,
    on_behalf_of: OnBehalfOf = None,
    token_file: TokenFile = None,
    as_json: JsonFlag = False,
) -> None:
    """List the audit trail, newest first; for auditors."""
    with connect(token_file, on_behalf_of) as service:
        request = pb.ListAuditRequest(action=action, target=target, actor=actor)
        listed = OperationsServiceStub(service.channel).ListAudit
        entries = list(service.pages(listed, request, "entries", limit))
    if as_json:
        print_json([message_as_dict(entry) for entry in entries])
        return
    print_table(
        ("entry", "at", "who", "through", "did", "to", "reason", "ticket", "details"),
        (
            (
                entry.sequence,
                entry.at.ToJsonString(),
                entry.actor,
                entry.caller,
                entry.action,
                entry.target,
                entry.reason_code,
                entry.ticket_id,
                " ".join(f"{name}={value}" for name, value in sorted(entry.details.items())),
            )
            for entry in entries
        ),
    )


def _expected(text: str) -> tuple[int, str]:
    match = _EXPECTED.fullmatch(text)
    if match is None:
        raise CommandError(
            f"{text}: should be written sequence:hash, as `audit verify` prints it", Exit.USAGE
        )
    return int(match[1]), match[2]


async def _read(chain: Chain) -> None:
    topic = own_topic(chain.name).name
    async for record in records(settings_of(KafkaSettings).kafka_bootstrap, topic):
        place = f"{record.topic}/{record.partition}/{record.offset}"
        try:
            envelope = decode(record.headers, record.value)
            if envelope.type not in {AuditRecorded.type_name, AuditAnchored.type_name}:
                continue
            data = load_json(envelope.data)
        except EventRejected as rejection:
            if record.key in {chain.name.encode(), f"{chain.name}.anchors".encode()}:
                chain.unreadable(place, rejection.message)
            continue
        if not isinstance(data, dict):
            chain.unreadable(place, "is no object")
        elif data.get("chain") == chain.name:
            take = chain.entry if envelope.type == AuditRecorded.type_name else chain.anchor
            take(data, place)


def _head(service: Service) -> Head:
    stub = OperationsServiceStub(service.channel)
    head = service.call(stub.GetAuditHead, pb.GetAuditHeadRequest())
    return Head(head.sequence, head.hash, head.relayed_sequence)


def _compare(chain: Chain, service: Service, head: Head) -> None:
    expected = 1
    listed = OperationsServiceStub(service.channel).ListAudit
    for entry in service.pages(listed, pb.ListAuditRequest(oldest_first=True), "entries"):
        chain.in_database(_from_pb(chain.name, entry), expected)
        expected = entry.sequence + 1
    chain.database_ends(expected - 1, head)


def _from_pb(chain: str, entry: pb.AuditEntry) -> AuditRecorded:
    # As it is said, not as it should be: what is wrong with it is for the hash to tell.
    return AuditRecorded.model_construct(
        chain=chain,
        sequence=entry.sequence,
        previous_hash=entry.previous_hash,
        at=entry.at.ToDatetime(UTC),
        actor=entry.actor,
        caller=entry.caller,
        action=entry.action,
        target=entry.target,
        reason_code=entry.reason_code or None,
        ticket_id=entry.ticket_id or None,
        details=dict(entry.details),
        once=entry.once or None,
        hash=entry.hash,
    )
