"""``tokenomics directory``: publish who belongs where."""

import asyncio
import hashlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import typer
from pydantic import ValidationError

from tokenomics_chassis.clock import Clock, SystemClock
from tokenomics_cli.documents import Document, read_documents
from tokenomics_cli.failures import CommandError, Exit, Problem
from tokenomics_cli.kafka import publish, read_events
from tokenomics_cli.output import JsonFlag, out, print_json
from tokenomics_cli.rows import Format, InputFile
from tokenomics_cli.settings import KafkaSettings, settings_of
from tokenomics_contracts.catalogue import topics
from tokenomics_contracts.cloudevents import encode
from tokenomics_contracts.events.directory import DirectoryEvent
from tokenomics_contracts.events.policy import problems_of
from tokenomics_contracts.registry import EVENT_MODELS

DIRECTORY_TOPIC = "tokenomics.directory.v1"
SOURCE = "//tokenomics/cli/directory"

commands = typer.Typer(no_args_is_help=True, help="Publish people, services, teams, projects, cost centres.")

_TYPES = next(topic.types for topic in topics() if topic.name == DIRECTORY_TOPIC)
_MODELS: dict[str, type[DirectoryEvent]] = {
    model.type_name.removeprefix("tokenomics.").rpartition(".")[0]: model
    for model in EVENT_MODELS
    if model.type_name in _TYPES and issubclass(model, DirectoryEvent)
}
_SECTIONS = {
    "cost_centres": "cost_centre.upserted",
    "teams": "team.upserted",
    "projects": "project.upserted",
    "people": "person.upserted",
    "services": "service.upserted",
    "groups": "group.upserted",
    "delegations": "delegation.upserted",
}
_TOP_LEVEL = {"effective_from", *_SECTIONS}


class Entry(NamedTuple):
    """One entity's line of a directory file."""

    event: DirectoryEvent
    dated: bool
    """Whether the entry has an ``effective_from`` of its own, not just the file's."""


class _Draft(NamedTuple):
    """An entry before it is judged."""

    type: str
    fields: dict[str, Any]
    dated: bool
    document: Document
    path: str


def read_directory(path: Path) -> list[Entry]:
    """Read and judge a directory file: YAML by sections, or JSON lines that name their event type.

    Raises
    ------
    CommandError
        Naming line and path of every problem; nothing of such a file is published.
    """
    problems: list[Problem] = []
    entries: dict[tuple[str, str], Entry] = {}
    for draft in _from_lines(path, problems) if path.suffix == ".jsonl" else _from_yaml(path, problems):
        try:
            event = _MODELS[draft.type].model_validate(draft.fields, extra="forbid")
        except ValidationError as error:
            problems += [
                draft.document.problem(f"{draft.path}.{problem.path}".strip("."), problem.message)
                for problem in problems_of(error)
            ]
            continue
        if _entity(event) in entries:
            problems.append(draft.document.problem(draft.path, f"{event.key} appears a second time"))
        entries[_entity(event)] = Entry(event, draft.dated)
    if problems or not entries:
        raise CommandError(
            f"{path} can't be published" if problems else f"{path} holds no entry",
            Exit.BAD_DATA,
            problems=problems,
            hint="nothing was published: mend the file and run the command again",
        )
    return list(entries.values())


def _from_lines(path: Path, problems: list[Problem]) -> Iterator[_Draft]:
    try:
        stream = path.open("rb")
    except OSError as error:
        raise CommandError(f"{path} can't be read: {error}", Exit.BAD_DATA) from None
    with stream:
        for row in InputFile(stream, Format.JSONL).rows():
            fields = dict(row.fields)
            type_name = fields.pop("type", None)
            if row.problem:
                problems.append(Problem(row.line, "", row.problem))
            elif type_name not in _MODELS:
                problems.append(Problem(row.line, "type", f"should be one of {', '.join(_MODELS)}"))
            else:
                yield _Draft(type_name, fields, True, Document(fields, {"": row.line}), "")


def _from_yaml(path: Path, problems: list[Problem]) -> Iterator[_Draft]:
    for document in read_documents(path):
        if not isinstance(document.value, dict):
            problems.append(document.problem("", f"should be a mapping of {', '.join(sorted(_TOP_LEVEL))}"))
            continue
        problems += [
            document.problem(str(name), f"should be one of {', '.join(sorted(_TOP_LEVEL))}")
            for name in document.value.keys() - _TOP_LEVEL
        ]
        shared = {key: value for key, value in document.value.items() if key == "effective_from"}
        for section, type_name in _SECTIONS.items():
            listed = document.value.get(section) or []
            if not isinstance(listed, list):
                problems.append(document.problem(section, "should be a list"))
                continue
            for position, fields in enumerate(listed):
                entry_path = f"{section}.{position}"
                if isinstance(fields, dict):
                    dated = "effective_from" in fields
                    yield _Draft(type_name, shared | fields, dated, document, entry_path)
                else:
                    problems.append(document.problem(entry_path, "should be a mapping"))


def _entity(event: DirectoryEvent) -> tuple[str, str]:
    kind = event.type_name.removeprefix("tokenomics.").partition(".")[0]
    return kind, event.key


async def apply_directory(bootstrap: str, entries: list[Entry], clock: Clock) -> dict[str, int]:
    """Publish the entries that differ from what the topic says last of their entity.

    An entry that has only the file's ``effective_from`` is unchanged when everything else is: an export that
    is dated anew each day publishes just what happened. Repeating a call that failed publishes the rest.

    Returns
    -------
    dict
        How many were published, by event type, and under ``unchanged`` how many were not.
    """
    last: dict[tuple[str, str], tuple[str, DirectoryEvent]] = {}
    for envelope, event in await read_events(bootstrap, DIRECTORY_TOPIC, DirectoryEvent):
        last[_entity(event)] = envelope.id, event
    due = [entry.event for entry in entries if not _says(last.get(_entity(entry.event)), entry)]
    now = clock.now()
    await publish(
        bootstrap,
        DIRECTORY_TOPIC,
        [encode(event, id=_id(event, last.get(_entity(event))), source=SOURCE, time=now) for event in due],
    )
    counts = Counter(event.type_name.removeprefix("tokenomics.").rpartition(".")[0] for event in due)
    return {**dict(sorted(counts.items())), "unchanged": len(entries) - len(due)}


def _says(known: tuple[str, DirectoryEvent] | None, entry: Entry) -> bool:
    if known is None or type(known[1]) is not type(entry.event):
        return False
    left_out = set() if entry.dated else {"effective_from"}
    return known[1].model_dump(exclude=left_out) == entry.event.model_dump(exclude=left_out)


def _id(event: DirectoryEvent, known: tuple[str, DirectoryEvent] | None) -> str:
    """Return an id that is the same when the same change is published twice, and new when it comes again."""
    before = known[0] if known else ""
    content = f"{before}\n{event.type_name}\n{event.model_dump_json(exclude_none=True)}"
    return hashlib.blake2b(content.encode(), digest_size=16).hexdigest()


@commands.command("apply")
def apply_command(
    file: Annotated[
        Path,
        typer.Argument(
            help="YAML with people, services, teams, projects, cost_centres, groups, delegations; "
            "or .jsonl with a type in each line, such as person.left"
        ),
    ],
    *,
    as_json: JsonFlag = False,
) -> None:
    """Publish what a directory file changes; an entity that isn't in the file stays as it is."""
    entries = read_directory(file)
    counts = asyncio.run(apply_directory(settings_of(KafkaSettings).kafka_bootstrap, entries, SystemClock()))
    if as_json:
        print_json(counts)
        return
    for name, count in counts.items():
        out().print(f"{count:>6,} {name}")
