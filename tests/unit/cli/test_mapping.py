"""A tool's export becomes events, and what is wrong with a row is said by field."""

import json
from pathlib import Path
from typing import Any

import pytest

from tokenomics_cli.emit import EMITTED_MODELS
from tokenomics_cli.failures import CommandError, Exit
from tokenomics_cli.mapping import RowMapping
from tokenomics_cli.rows import Format, InputFile
from tokenomics_contracts.cloudevents import EncodedEvent

EXAMPLES = Path(__file__).parents[3] / "examples"
ROW = {
    "time": "2026-11-20T10:00:00+01:00",
    "subject": "p-1",
    "tool": "chat",
    "provider": "openai",
    "model": "gpt-4o",
    "input_tokens": 10,
    "output_tokens": 5,
}


def mapping(type_name: str = "usage.recorded", **options: Any) -> RowMapping:
    options = {"columns": {}, "constants": {}} | options
    return RowMapping(EMITTED_MODELS[type_name], "//tool.example", **options)


def header(event: EncodedEvent, name: str) -> str:
    return dict(event.headers)[name].decode()


def test_the_event_is_keyed_by_subject_and_identified_by_its_row() -> None:
    event = mapping().event(ROW, "row-id")
    assert event.key == b"p-1"
    assert header(event, "ce_id") == "row-id"
    assert header(event, "ce_source") == "//tool.example"
    assert header(event, "ce_time") == "2026-11-20T09:00:00Z"


def test_the_example_export_is_accepted_as_its_readme_maps_it() -> None:
    readme = (EXAMPLES / "README.md").read_text().replace("\\\n", " ").split()
    options = {
        option: dict(value.split("=") for at, value in enumerate(readme) if readme[at - 1] == option)
        for option in ("--map", "--set")
    }
    example = mapping(columns=options["--map"], constants=options["--set"])
    with (EXAMPLES / "usage.csv").open("rb") as stream:
        rows = list(InputFile(stream, Format.CSV).rows())
    assert len({example.event(row.fields, str(row.line)).key for row in rows}) == 3
    assert not any(example.unsent(row.fields) for row in rows)


def test_an_id_of_the_tools_own_goes_first() -> None:
    assert header(mapping().event({**ROW, "id": 7}, "row-id"), "ce_id") == "7"


def test_columns_are_renamed_constants_filled_in_and_text_read_as_numbers() -> None:
    row = {"ts": "2026-11-20 10:00:00.1234567", "who": "p-1", "in": "10", "out": "5", "prompt": "secret"}
    event = mapping(
        columns={"ts": "time", "who": "subject", "in": "input_tokens", "out": "output_tokens"},
        constants={"tool": "chat", "provider": "openai", "model": "gpt-4o"},
        time_zone="Europe/Berlin",
    ).event(row, "id")
    assert json.loads(event.value)["input_tokens"] == 10
    assert header(event, "ce_time") == "2026-11-20T09:00:00.123456Z"


def test_a_column_that_is_no_field_never_leaves_the_file() -> None:
    row = {**ROW, "prompt": "secret"}
    assert mapping().unsent(row) == {"prompt"}
    assert b"secret" not in mapping().event(row, "id").value


def test_corrections_name_the_event_they_replace() -> None:
    row = {
        "time": ROW["time"],
        "subject": "p-1",
        "original_source": "//tool.example",
        "original_id": "7",
        "revision": "1",
        "input_tokens": "10",
        "output_tokens": "5",
    }
    assert json.loads(mapping("usage.corrected").event(row, "id").value)["revision"] == 1


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"time": None}, "time: should be there"),
        ({"time": "2026-11-20 10:00:00"}, "--time-zone"),
        ({"subject": "somebody@example.com"}, "subject: "),
        ({"input_tokens": "ten"}, "input_tokens: "),
        ({"input_tokens": 1.5}, "input_tokens: "),
        ({"cached_input_tokens": 11}, "cached_input_tokens"),
        ({"id": ""}, "id should have"),
    ],
)
def test_a_bad_row_is_refused_by_field(change: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        mapping().event(ROW | change, "id")


def test_a_field_that_the_event_does_not_have_is_a_usage_error_that_lists_those_it_has() -> None:
    with pytest.raises(CommandError) as refused:
        mapping(columns={"who": "user"})
    assert refused.value.exit_code is Exit.USAGE
    assert "subject" in (refused.value.hint or "")
