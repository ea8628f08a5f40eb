"""``tokenomics emit``: send usage from a file or from standard input; what is sent twice counts once."""

import asyncio
import hashlib
import json
import os
from asyncio import Future
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Annotated, Any, NamedTuple
from zoneinfo import available_timezones

import typer
from aiokafka import AIOKafkaProducer
from aiokafka.structs import RecordMetadata
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

from tokenomics_cli.failures import CommandError, Exit, Problem
from tokenomics_cli.kafka import acknowledged, producer, require_topic, send
from tokenomics_cli.mapping import RowMapping
from tokenomics_cli.output import JsonFlag, err, out, print_json
from tokenomics_cli.rows import Format, InputFile, Row, RowIdentities, as_they_arrive
from tokenomics_cli.settings import KafkaSettings, settings_of
from tokenomics_contracts.catalogue import topics
from tokenomics_contracts.registry import EVENT_MODELS
from tokenomics_contracts.units import MAX_EVENT_NAME_LENGTH, is_event_name

USAGE_TOPIC = "tokenomics.usage.v1"

# Two chunks in flight bound the memory; a marker is written for each.
_CHUNK_ROWS = 1_000
_CHUNKS_IN_FLIGHT = 2
# What comes slowly is accounted for when so much time has passed.
_TICK_SECONDS = 1.0
_PROBLEMS_SHOWN = 10

_USAGE_TYPES = next(topic.types for topic in topics() if topic.name == USAGE_TOPIC)
EMITTED_MODELS = {
    model.type_name.removeprefix("tokenomics.").rpartition(".")[0]: model
    for model in EVENT_MODELS
    if model.type_name in _USAGE_TYPES
}
"""Event types that tools write, by the name used on the command line."""


@dataclass
class EmitReport:
    """What became of a file's rows."""

    sent: int = 0
    """Events that every replica has."""
    refused: int = 0
    """Rows that are no valid event, an earlier call's included; the reject file tells line and reason."""
    sent_before: int = 0
    """Rows that an earlier call had dealt with: skipped."""
    reject_file: Path | None = None
    unsent_columns: set[str] = field(default_factory=set)
    problems: list[Problem] = field(default_factory=list)
    """The first of the rows that this call refused."""


class _Marker(NamedTuple):
    """How far a file was dealt with: rows that end by ``bytes`` are acknowledged or in the reject file."""

    bytes: int
    digest: str
    refused: int
    reject_bytes: int


class _Progress:
    """The resume marker and the reject file of one input.

    They stand beside the file; in a folder that is given their names tell files of one name apart. Standard
    input can't be read again: it has no marker, and what was refused of it is never removed.
    """

    def __init__(self, folder: Path | None, input_path: Path | None, identity: dict[str, Any]) -> None:
        self._input_path = input_path
        self._identity = identity
        name = input_path.name if input_path else "stdin"
        if folder and input_path:
            name += f"-{hashlib.blake2b(bytes(input_path.resolve()), digest_size=4).hexdigest()}"
        self.folder = folder = folder or (input_path.parent if input_path else Path())
        self._marker_path = folder / f"{name}.resume.json"
        self.reject_path = folder / f"{name}.reject.jsonl"

    def load(self, *, from_start: bool) -> _Marker:
        """Return where to go on, after mending the reject file; the beginning when nothing fits."""
        marker = _Marker(0, "", 0, 0)
        if self._input_path is None:
            return marker
        if not from_start:
            try:
                stored = json.loads(self._marker_path.read_text(encoding="utf-8"))
                found = _Marker(**stored["marker"])
                if stored["identity"] == self._identity and self._fits(found):
                    marker = found
            except (OSError, ValueError, KeyError, TypeError):
                pass  # No marker, or not one of ours: everything is sent, what was sent before counts once.
        if not marker.refused:
            self.reject_path.unlink(missing_ok=True)
        else:
            with self.reject_path.open("r+b") as rejects:
                rejects.truncate(marker.reject_bytes)
        return marker

    def save(self, marker: _Marker) -> None:
        """Replace the marker, if there is one; what a power cut takes of it only costs sending again."""
        if self._input_path:
            draft = self._marker_path.with_suffix(".tmp")
            draft.write_text(
                json.dumps({"identity": self._identity, "marker": marker._asdict()}), encoding="utf-8"
            )
            draft.replace(self._marker_path)

    def _fits(self, marker: _Marker) -> bool:
        """Whether the file still begins as it did, and the reject file has what was put there."""
        assert self._input_path is not None
        digest, left = hashlib.blake2b(digest_size=16), marker.bytes
        with self._input_path.open("rb") as stream:
            while left and (block := stream.read(min(left, 1 << 20))):
                digest.update(block)
                left -= len(block)
        rejects_kept = not marker.refused or self.reject_path.stat().st_size >= marker.reject_bytes
        return rejects_kept and not left and digest.hexdigest() == marker.digest


class _Chunk(NamedTuple):
    """Rows handed to the producer together, and the marker that holds once they are acknowledged."""

    acknowledgements: list["Future[RecordMetadata]"]
    marker: _Marker


class _Sender:
    """Hands rows to the producer and writes markers behind their acknowledgements."""

    def __init__(
        self, client: AIOKafkaProducer, mapping: RowMapping, progress: _Progress, report: EmitReport
    ) -> None:
        self._client = client
        self._mapping = mapping
        self._progress = progress
        self._report = report
        self._chunks: deque[_Chunk] = deque()
        self._acknowledgements: list[Future[RecordMetadata]] = []
        self._rejects: IO[bytes] | None = None

    async def send(self, row: Row, row_id: str) -> None:
        """Send one row, or keep it in the reject file."""
        if row.problem:
            self._refuse(row, row.problem)
            return
        try:
            event = self._mapping.event(row.fields, row_id)
        except ValueError as error:
            self._refuse(row, str(error))
            return
        self._report.unsent_columns |= self._mapping.unsent(row.fields)
        self._acknowledgements.append(await send(self._client, USAGE_TOPIC, event))

    async def close_chunk(self, bytes_read: int, digest: str, *, in_flight: int) -> None:
        """End a chunk, and wait until at most ``in_flight`` of them are unacknowledged."""
        if self._rejects:
            self._rejects.flush()
        kept = self._progress.reject_path.stat().st_size if self._report.refused else 0
        marker = _Marker(bytes_read, digest, self._report.refused, kept)
        self._chunks.append(_Chunk(self._acknowledgements, marker))
        self._acknowledgements = []
        while len(self._chunks) > in_flight:
            chunk = self._chunks[0]
            await acknowledged(chunk.acknowledgements)
            self._report.sent += len(chunk.acknowledgements)
            self._progress.save(chunk.marker)
            self._chunks.popleft()

    def close(self) -> None:
        """Close the reject file; what is still in flight is left to the producer."""
        if self._rejects:
            self._rejects.close()

    def _refuse(self, row: Row, reason: str) -> None:
        report = self._report
        report.refused += 1
        if len(report.problems) < _PROBLEMS_SHOWN:
            report.problems.append(Problem(row.line, "", reason))
        if self._rejects is None:
            self._rejects = self._progress.reject_path.open("ab")
        # ASCII, so that bytes which aren't UTF-8 survive as escaped surrogates.
        kept = json.dumps({"line": row.line, "reason": reason, "text": row.text})
        self._rejects.write(kept.encode("ascii") + b"\n")


async def emit(
    bootstrap: str,
    mapping: RowMapping,
    input_path: Path | None,
    *,
    format_: Format,
    state_folder: Path | None = None,
    from_start: bool = False,
    on_progress: Callable[[int, EmitReport], None] = lambda _bytes, _report: None,
) -> EmitReport:
    """Send every row of a file (None: standard input) that is a valid event, in order.

    An event's id comes from its row (see :class:`RowIdentities`), so sending twice, in whole or in part,
    counts once. A marker beside the file remembers how far it was acknowledged; the next call goes on behind
    it unless the file's beginning, the mapping or the Kafka cluster is another.

    Parameters
    ----------
    state_folder
        Where marker and reject file go, under names of the file's whole path; beside the file by default, the
        current folder for standard input.
    from_start
        Send everything again.
    on_progress
        Called after each chunk with the bytes read so far.

    Raises
    ------
    CommandError
        When the file can't be read or Kafka fails; what was acknowledged until then stays sent and marked.
    """
    cluster_id = await require_topic(bootstrap, USAGE_TOPIC)
    progress = _Progress(state_folder, input_path, {"cluster_id": cluster_id, **mapping.describe()})
    report = EmitReport()
    with ExitStack() as resources:
        try:
            marker = progress.load(from_start=from_start)
            # Now rather than after the first events: a marker that can't be kept would be missed later.
            progress.save(marker)
        except OSError as error:
            raise CommandError(
                f"{progress.folder} can't keep the resume marker and the reject file: {error}",
                Exit.LOCAL_FILE,
                hint="name another folder by --state",
            ) from None
        report.refused = marker.refused
        if input_path:
            input_file = InputFile(resources.enter_context(input_path.open("rb")), format_)
            rows = _at_once(input_file.rows())
        else:
            # Not sys.stdin: at exit Python would wait for whoever reads it.
            input_file = InputFile(os.fdopen(0, "rb", closefd=False), format_)
            rows = as_they_arrive(input_file.rows(), _TICK_SECONDS)
        identities, unclosed = RowIdentities(), 0
        async with producer(bootstrap) as client:
            sender = _Sender(client, mapping, progress, report)
            try:
                async for row in rows:
                    if row is not None:
                        row_id = identities.of(row.fields)
                        if input_file.bytes_read <= marker.bytes:
                            report.sent_before += 1
                            continue
                        await sender.send(row, row_id)
                        unclosed += 1
                    if row is None or unclosed == _CHUNK_ROWS:
                        unclosed = 0
                        await sender.close_chunk(
                            input_file.bytes_read, input_file.digest(), in_flight=_CHUNKS_IN_FLIGHT
                        )
                        on_progress(input_file.bytes_read, report)
                await sender.close_chunk(input_file.bytes_read, input_file.digest(), in_flight=0)
                on_progress(input_file.bytes_read, report)
            finally:
                sender.close()
    report.reject_file = progress.reject_path if report.refused else None
    return report


async def _at_once(rows: Iterator[Row]) -> AsyncIterator[Row | None]:
    for row in rows:
        yield row


def _pairs(option: str, values: Sequence[str]) -> dict[str, str]:
    pairs = [value.partition("=") for value in values]
    for value, (name, equals, content) in zip(values, pairs, strict=True):
        if not (name and equals and content):
            raise CommandError(f"{option} {value}: should be written name=value", Exit.USAGE)
    if len({name for name, _, _ in pairs}) < len(pairs):
        raise CommandError(f"{option} names something twice", Exit.USAGE)
    return {name: content for name, _, content in pairs}


def command(
    file: Annotated[Path, typer.Argument(help="JSON lines or CSV; - reads standard input")],
    *,
    source: Annotated[
        str, typer.Option(envvar="TOKENOMICS_SOURCE", help="CloudEvents source, e.g. //gateway.example/eu")
    ],
    event_type: Annotated[
        str, typer.Option("--type", help=f"one of {', '.join(EMITTED_MODELS)}")
    ] = "usage.recorded",
    format_: Annotated[
        Format | None, typer.Option("--format", help="default: csv for *.csv, else jsonl")
    ] = None,
    columns: Annotated[
        list[str] | None, typer.Option("--map", metavar="COLUMN=FIELD", help="a column's field; repeat it")
    ] = None,
    constants: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="FIELD=VALUE", help="a field that is the same in every row; repeat it"),
    ] = None,
    time_zone: Annotated[
        str | None, typer.Option(help="IANA zone of times without an offset; without it they are refused")
    ] = None,
    state: Annotated[
        Path | None, typer.Option(help="folder of the resume marker and the reject file; default: FILE's")
    ] = None,
    from_start: Annotated[bool, typer.Option("--from-start", help="send again what was sent before")] = False,
    as_json: JsonFlag = False,
) -> None:
    """Send usage events from a file; a row sent twice counts once.

    Each row needs the event's fields and "time"; "id" where the tool has one, otherwise the row's content
    makes it. Rows that are no valid event are kept with line and reason in FILE.reject.jsonl (of standard
    input in stdin.reject.jsonl, behind earlier ones), the others are sent (exit code 65). Interrupted, the
    same command goes on where it stopped.
    """
    if event_type not in EMITTED_MODELS:
        raise CommandError(f"--type {event_type}: should be one of {', '.join(EMITTED_MODELS)}", Exit.USAGE)
    if not is_event_name(source):
        raise CommandError(
            f"--source {source}: should have 1 to {MAX_EVENT_NAME_LENGTH} printable characters", Exit.USAGE
        )
    if time_zone is not None and time_zone not in available_timezones():
        raise CommandError(f"--time-zone {time_zone}: should be an IANA zone, e.g. Europe/Berlin", Exit.USAGE)
    mapping = RowMapping(
        EMITTED_MODELS[event_type],
        source,
        columns=_pairs("--map", columns or ()),
        constants=_pairs("--set", constants or ()),
        time_zone=time_zone,
    )
    bootstrap = settings_of(KafkaSettings).kafka_bootstrap
    path = None if str(file) == "-" else file
    if path and not path.is_file():
        raise CommandError(f"{path} is no file", Exit.BAD_DATA)
    format_ = format_ or (Format.CSV if file.suffix.lower() == ".csv" else Format.JSONL)
    report = emit_with_bar(
        bootstrap, mapping, path, format_=format_, state_folder=state, from_start=from_start
    )
    _print_report(report, as_json=as_json)
    if report.refused:
        raise typer.Exit(Exit.BAD_DATA)


def emit_with_bar(
    bootstrap: str,
    mapping: RowMapping,
    path: Path | None,
    *,
    format_: Format,
    state_folder: Path | None = None,
    from_start: bool = False,
) -> EmitReport:
    """Do what :func:`emit` does, with a progress bar on a terminal."""
    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        TextColumn("{task.fields[sent]:,} events"),
        TimeElapsedColumn(),
        console=err(),
        disable=not err().is_terminal,
    )
    with bar:
        task = bar.add_task("sending", total=path.stat().st_size if path else None, sent=0)

        def show(bytes_read: int, report: EmitReport) -> None:
            bar.update(task, completed=bytes_read, sent=report.sent)

        return asyncio.run(
            emit(
                bootstrap,
                mapping,
                path,
                format_=format_,
                state_folder=state_folder,
                from_start=from_start,
                on_progress=show,
            )
        )


def _print_report(report: EmitReport, *, as_json: bool) -> None:
    if as_json:
        print_json(
            {
                "sent": report.sent,
                "refused": report.refused,
                "sent_before": report.sent_before,
                "reject_file": str(report.reject_file) if report.reject_file else None,
                "unsent_columns": sorted(report.unsent_columns),
                "problems": [problem._asdict() for problem in report.problems],
            }
        )
        return
    out().print(f"sent {report.sent:,} events to {USAGE_TOPIC}")
    if report.sent_before:
        out().print(f"{report.sent_before:,} rows had been dealt with before")
    if report.unsent_columns:
        out().print(
            f"not sent, no field of the event: {', '.join(sorted(report.unsent_columns))}", markup=False
        )
    if report.refused:
        err().print(f"{report.refused:,} rows are no valid event; they are in {report.reject_file}")
        for problem in report.problems:
            err().print(f"  {problem}", markup=False)
        err().print("mend them in the input and send it again: what was sent already counts once")
