"""What a command prints: tables for people, JSON for machines, failures for both."""

import json
import sys
from collections.abc import Iterable
from typing import Annotated, Any

import typer
from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from tokenomics_cli.failures import CommandError

JsonFlag = Annotated[bool, typer.Option("--json", help="print one JSON document instead of text")]

_SHOWN_PROBLEMS = 20


def out() -> Console:
    """Return the console of answers: standard output, in colour on a terminal only."""
    return Console(highlight=False, soft_wrap=True)


def err() -> Console:
    """Return the console of progress and failures: standard error."""
    return Console(stderr=True, highlight=False, soft_wrap=True)


def print_json(value: Any) -> None:
    """Print one JSON document to standard output."""
    print(json.dumps(value, indent=2))  # noqa: T201 - this is the command's answer


def print_json_line(value: Any) -> None:
    """Print one of a stream of JSON documents, a line each, at once."""
    print(json.dumps(value), flush=True)  # noqa: T201 - as above


def print_table(columns: Iterable[str], rows: Iterable[Iterable[object]]) -> None:
    """Print a table; the cells are taken literally, whatever brackets are in them."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*(Text(str(cell)) for cell in row))
    out().print(table)


def counting_bar() -> Progress:
    """Return a bar on standard error for what is counted up to a number; it goes when it is done."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    return Progress(*columns, console=err(), transient=True)


def print_failure(error: CommandError, *, as_json: bool) -> None:
    """Print why a command failed to standard error: what, where, what to do."""
    if as_json:
        failure = {
            "message": str(error),
            "hint": error.hint,
            "problems": [problem._asdict() for problem in error.problems],
            "exit_code": int(error.exit_code),
        }
        sys.stderr.write(json.dumps({"error": failure}) + "\n")
        return
    console = err()
    console.print(Text.assemble(("error: ", "bold red"), str(error)))
    for problem in error.problems[:_SHOWN_PROBLEMS]:
        console.print(Text(f"  {problem}"))
    unshown = len(error.problems) - _SHOWN_PROBLEMS
    if unshown > 0:
        console.print(Text(f"  and {unshown} more (--json lists all)"))
    if error.hint:
        console.print(Text.assemble(("hint: ", "bold"), error.hint))


def message_as_dict(message: Message) -> dict[str, Any]:
    """Return protobuf's own JSON form, with every field: 64-bit integers are strings, bytes base64."""
    return MessageToDict(message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True)


def usd(micro_usd: int) -> str:
    """Write an amount for people, exact to the micro-USD."""
    sign, whole, rest = "-" if micro_usd < 0 else "", *divmod(abs(micro_usd), 1_000_000)
    return f"{sign}${whole:,}.{rest:06d}"
