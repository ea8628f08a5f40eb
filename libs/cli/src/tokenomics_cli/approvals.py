"""``tokenomics approvals``: publish what was approved, until there is a service in which it is decided."""

import asyncio
from collections import Counter
from collections.abc import Iterator, Mapping
from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any, Final, NamedTuple, TypeVar

import typer
from pydantic import ValidationError

from tokenomics_chassis.clock import Clock, SystemClock
from tokenomics_cli.amounts import micro_usd
from tokenomics_cli.directory import DIRECTORY_TOPIC
from tokenomics_cli.failures import CommandError, Exit
from tokenomics_cli.kafka import publish, read_events
from tokenomics_cli.output import JsonFlag, out, print_json, print_table, usd
from tokenomics_cli.settings import KafkaSettings, settings_of
from tokenomics_contracts.cloudevents import encode
from tokenomics_contracts.events.approvals import ApprovalApproved, ApprovalLapsed, ApprovalRevoked
from tokenomics_contracts.events.approvals import Target as ApprovalTarget
from tokenomics_contracts.events.base import Event, Value
from tokenomics_contracts.events.directory import DirectoryEvent, PersonUpserted, ServiceUpserted
from tokenomics_contracts.events.policy import problems_of
from tokenomics_contracts.units import MAX_LIMIT_MICRO_USD, format_time, parse_time

APPROVALS_TOPIC: Final = "tokenomics.approvals.v1"
SOURCE: Final = "//tokenomics/cli/approvals"

V = TypeVar("V", bound=Value)

commands = typer.Typer(
    no_args_is_help=True,
    help="Publish grants, unlocks and their ends. Interim, until there is a service that decides about them.",
)

_MICRO: Final = 1_000_000
_OPTIONS: Final = {
    "request_id": "REQUEST_ID",
    "target": "--to",
    "amount_micro_usd": "--amount-usd",
    "models": "--model",
    "data_classes": "--data-class",
    "starts_at": "--from",
    "expires_at": "--until",
    "ended_at": "--at",
    "reason_code": "--reason",
    "decided_by": "--decided-by",
}
"""Where on the command line a field comes from."""
_NOT_PUBLISHED: Final = "nothing was published: mend the command and run it again"

RequestId = Annotated[str, typer.Argument(help="id of the request, unique for ever: the same id counts once")]
Target = Annotated[
    str,
    typer.Option(
        "--to", metavar="KIND/ID", help="subject, project, team, cost_centre or group, e.g. team/team-07"
    ),
]
Until = Annotated[str, typer.Option(metavar="TIME", help="when it ends, e.g. 2026-12-01T00:00:00Z")]
From = Annotated[str | None, typer.Option("--from", metavar="TIME", help="when it begins; absent: now")]
Reason = Annotated[str, typer.Option(help="a code such as launch_week; no free text")]
DecidedBy = Annotated[str, typer.Option(metavar="PERSON", help="who decided, or rule:VERSION of a policy")]


class Approved(NamedTuple):
    """What the topic says of one request."""

    approval: ApprovalApproved
    ends: list[datetime]
    """Earlier ends that it was given."""

    @property
    def ends_at(self) -> datetime:
        """The end that it has now."""
        return min([self.approval.expires_at, *self.ends])


class GrantKind(StrEnum):
    """Kinds of approvals that add an amount."""

    BOOST = "boost"
    BUDGET_OVERRIDE = "budget_override"
    BREAK_GLASS = "break_glass"


def _judged(
    model: type[V],
    fields: dict[str, Any],
    options: Mapping[str, str] = _OPTIONS,
    hint: str | None = _NOT_PUBLISHED,
) -> V:
    try:
        return model.model_validate(fields, extra="forbid")
    except ValidationError as error:
        found = []
        for path, message in problems_of(error):
            option = options.get(path.partition(".")[0])
            found.append(f"{option}: {message}" if option else message)
        raise CommandError("; ".join(found), Exit.USAGE, hint=hint) from None


def _time(option: str, text: str) -> datetime:
    try:
        return parse_time(text)
    except ValueError as error:
        raise CommandError(f"{option}: {error}", Exit.USAGE) from None


async def published_approvals(bootstrap: str) -> dict[str, Approved]:
    """Read what was approved, by request id: the first approval of a request counts, and every end."""
    found: dict[str, Approved] = {}
    ends: dict[str, list[datetime]] = {}
    for _, event in await read_events(bootstrap, APPROVALS_TOPIC, Event):
        if isinstance(event, ApprovalApproved):
            found.setdefault(event.request_id, Approved(event, ends.setdefault(event.request_id, [])))
        elif isinstance(event, ApprovalRevoked | ApprovalLapsed):
            ends.setdefault(event.request_id, []).append(event.ended_at)
    return found


async def approve(bootstrap: str, approval: ApprovalApproved, clock: Clock, *, dated: bool) -> bool:
    """Publish an approval, unless the topic has it.

    Parameters
    ----------
    dated
        Whether its start was given; one that begins "now" is the same that began when it was first published.

    Returns
    -------
    bool
        Whether it was published now.

    Raises
    ------
    CommandError
        The request was approved otherwise, or the directory doesn't know the target or who decided
        (``REFUSED``).
    """
    known = (await published_approvals(bootstrap)).get(approval.request_id)
    if known is not None:
        left_out = set() if dated else {"starts_at"}
        if known.approval.model_dump(exclude=left_out) == approval.model_dump(exclude=left_out):
            return False
        raise CommandError(
            f"{approval.request_id} was approved otherwise", Exit.REFUSED, hint="give this one another id"
        )
    await _require_known(bootstrap, approval)
    await _publish(bootstrap, approval, f"{approval.request_id}:approved", clock)
    return True


async def _require_known(bootstrap: str, approval: ApprovalApproved) -> None:
    named = Counter(
        entity
        for _, event in await read_events(bootstrap, DIRECTORY_TOPIC, DirectoryEvent)
        for entity in _entities(event)
    )
    target, decider = (approval.target.kind, approval.target.id), ("subject", approval.decided_by)
    needed = [target] if approval.decided_by.startswith("rule:") else [target, decider]
    unknown = ["/".join(entity) for entity in needed if entity not in named]
    if unknown:
        raise CommandError(
            f"the directory doesn't know {' and '.join(unknown)}",
            Exit.REFUSED,
            hint="check the id, or publish it first: tokenomics directory apply",
        )


def _entities(event: DirectoryEvent) -> Iterator[tuple[str, str]]:
    """Return what a directory event describes, and the units that it places somebody in."""
    kind = event.key_field.removesuffix("_id")
    yield "subject" if kind in {"person", "service"} else kind, event.key
    if isinstance(event, PersonUpserted | ServiceUpserted):
        yield "team", event.team_id
        yield from (("project", project_id) for project_id in event.project_ids)
    if cost_centre_id := getattr(event, "cost_centre_id", None):
        yield "cost_centre", cost_centre_id


async def revoke(bootstrap: str, revocation: ApprovalRevoked, clock: Clock) -> bool:
    """Publish the end of an approval, unless it has ended by then; return whether that was so.

    Raises
    ------
    CommandError
        Nothing was approved under this id (``REFUSED``).
    """
    known = (await published_approvals(bootstrap)).get(revocation.request_id)
    if known is None:
        raise CommandError(
            f"nothing was approved as {revocation.request_id}",
            Exit.REFUSED,
            hint="list what was: tokenomics approvals list",
        )
    if known.ends_at <= revocation.ended_at:
        return False
    name = f"{revocation.request_id}:revoked:{format_time(revocation.ended_at)}"
    await _publish(bootstrap, revocation, name, clock)
    return True


async def _publish(bootstrap: str, event: Event, event_id: str, clock: Clock) -> None:
    await publish(bootstrap, APPROVALS_TOPIC, [encode(event, id=event_id, source=SOURCE, time=clock.now())])


@commands.command("grant")
def grant_command(
    request_id: RequestId,
    *,
    to: Target,
    amount_usd: Annotated[str, typer.Option(metavar="USD", help="what is added to the limit, e.g. 50")],
    until: Until,
    from_: From = None,
    kind: Annotated[
        GrantKind, typer.Option(help="budget_override extends a shared budget, the others anybody's")
    ] = GrantKind.BOOST,
    each_period: Annotated[
        bool,
        typer.Option(
            "--each-period", help="the amount is there anew in each period; else once, in the first"
        ),
    ] = False,
    overdraft: Annotated[bool, typer.Option("--overdraft", help="mark it as lent beyond the budget")] = False,
    reason: Reason,
    decided_by: DecidedBy,
    as_json: JsonFlag = False,
) -> None:
    """Add an amount to a limit, until a time."""
    fields = {
        "kind": kind.value,
        "target": _target(to),
        "amount_micro_usd": micro_usd("--amount-usd", amount_usd, smallest=1, largest=MAX_LIMIT_MICRO_USD),
        "counts_in": "each_period" if each_period else "first_period",
        "overdraft": overdraft,
    }
    _approve(request_id, fields, until, from_, reason, decided_by, as_json=as_json)


@commands.command("justify")
def justify_command(
    request_id: RequestId,
    *,
    subject: Annotated[str, typer.Option(help="whose justify band opens")],
    until: Until,
    from_: From = None,
    reason: Reason,
    decided_by: DecidedBy,
    as_json: JsonFlag = False,
) -> None:
    """Open the justify band of a person or service, until a time."""
    fields = {"kind": "justification", "target": {"kind": "subject", "id": subject}}
    options = {**_OPTIONS, "target": "--subject"}
    _approve(request_id, fields, until, from_, reason, decided_by, options, as_json=as_json)


@commands.command("unlock-model")
def unlock_command(
    request_id: RequestId,
    *,
    to: Target,
    model: Annotated[
        list[str], typer.Option(metavar="PROVIDER/MODEL", help="a name, or a prefix ending in *; often")
    ],
    data_class: Annotated[list[str], typer.Option(help="class of data that it may be used for; often")],
    until: Until,
    from_: From = None,
    reason: Reason,
    decided_by: DecidedBy,
    as_json: JsonFlag = False,
) -> None:
    """Let models be used that policy doesn't approve, until a time; never for prohibited data."""
    models = [dict(zip(("provider", "model"), each.split("/", 1), strict=False)) for each in model]
    fields = {
        "kind": "model_access",
        "target": _target(to),
        "models": models,
        "data_classes": data_class,
    }
    _approve(request_id, fields, until, from_, reason, decided_by, as_json=as_json)


def _target(text: str) -> dict[str, str]:
    kind, _, id_ = text.partition("/")
    return {"kind": kind, "id": id_}


def _approve(  # noqa: PLR0917 - what every approval has, in the order of the options
    request_id: str,
    fields: dict[str, Any],
    until: str,
    from_: str | None,
    reason: str,
    decided_by: str,
    options: Mapping[str, str] = _OPTIONS,
    *,
    as_json: bool,
) -> None:
    clock = SystemClock()
    approval = _judged(
        ApprovalApproved,
        {
            "request_id": request_id,
            **fields,
            "starts_at": _time("--from", from_) if from_ else clock.now(),
            "expires_at": _time("--until", until),
            "reason_code": reason,
            "decided_by": decided_by,
        },
        options,
    )
    bootstrap = settings_of(KafkaSettings).kafka_bootstrap
    published = asyncio.run(approve(bootstrap, approval, clock, dated=from_ is not None))
    _say(approval, published=published, done="published", as_json=as_json)


@commands.command("revoke")
def revoke_command(
    request_id: RequestId,
    *,
    at: Annotated[str | None, typer.Option(metavar="TIME", help="when it ends; absent: now")] = None,
    reason: Reason,
    decided_by: DecidedBy,
    as_json: JsonFlag = False,
) -> None:
    """End an approval before its time."""
    clock = SystemClock()
    revocation = _judged(
        ApprovalRevoked,
        {
            "request_id": request_id,
            "ended_at": _time("--at", at) if at else clock.now(),
            "reason_code": reason,
            "decided_by": decided_by,
        },
    )
    published = asyncio.run(revoke(settings_of(KafkaSettings).kafka_bootstrap, revocation, clock))
    _say(revocation, published=published, done="revoked", as_json=as_json)


def _say(event: ApprovalApproved | ApprovalRevoked, *, published: bool, done: str, as_json: bool) -> None:
    if as_json:
        print_json({"published": published, "event": event.model_dump(mode="json", exclude_none=True)})
    else:
        out().print(f"{event.request_id} {done if published else 'was there already'}", markup=False)


@commands.command("list")
def list_command(
    to: Annotated[
        str | None, typer.Option("--to", metavar="KIND/ID", help="only what is for this one")
    ] = None,
    *,
    everything: Annotated[bool, typer.Option("--all", help="what has ended, too")] = False,
    as_json: JsonFlag = False,
) -> None:
    """List what was approved and has not ended, by its end."""
    if to is not None:
        options = dict.fromkeys(("", *ApprovalTarget.model_fields), "--to")
        _judged(
            ApprovalTarget, _target(to), options, "say for what, as it was approved: e.g. --to team/team-07"
        )
    known = asyncio.run(published_approvals(settings_of(KafkaSettings).kafka_bootstrap))
    now = SystemClock().now()
    shown = [
        each
        for each in sorted(known.values(), key=lambda each: each.ends_at)
        if (everything or each.ends_at > now) and to in {None, _name(each.approval)}
    ]
    if as_json:
        print_json(
            [
                each.approval.model_dump(mode="json", exclude_none=True)
                | {"ends_at": format_time(each.ends_at)}
                for each in shown
            ]
        )
        return
    print_table(
        ("request", "kind", "to", "amount", "from", "until"),
        (
            (
                each.approval.request_id,
                each.approval.kind,
                _name(each.approval),
                usd(each.approval.amount_micro_usd) if each.approval.amount_micro_usd else "",
                format_time(each.approval.starts_at),
                format_time(each.ends_at),
            )
            for each in shown
        ),
    )


def _name(approval: ApprovalApproved) -> str:
    return f"{approval.target.kind}/{approval.target.id}"
