"""The guide to policies has every field, with the default that it has and an example that is good."""

import re
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from pydantic_core import to_jsonable_python

from tests.support.policy_documents import default_of, fields, place_of
from tests.unit.contracts.test_policy_fields import changed
from tokenomics_cli.documents import parse_documents
from tokenomics_contracts.events.base import Value
from tokenomics_contracts.events.policy import DOCUMENT_MODELS, validate_document

GUIDE = Path(__file__).parents[3] / "docs" / "policies.md"


class Row(NamedTuple):
    field: str
    meaning: str
    default: str
    example: str


def rows() -> list[Row]:
    found, kind = [], ""
    for line in GUIDE.read_text().splitlines():
        if heading := re.fullmatch(r"## `(\w+)`", line):
            kind = heading[1]
        elif kind and (row := re.fullmatch(r"\| `([^`]+)` \| (.+) \| ([^|]+) \| `(.+)` \|", line)):
            found.append(Row(f"{kind}.{row[1]}", row[2], row[3], row[4]))
    return found


ROWS = rows()


def in_yaml(text: str) -> Any:
    (document,) = parse_documents(text, "a cell")
    return document.value


def test_the_guide_has_every_kind_in_its_order() -> None:
    assert re.findall(r"^## `(\w+)`", GUIDE.read_text(), re.MULTILINE) == list(DOCUMENT_MODELS)


def test_the_guide_has_every_field_once_and_no_other() -> None:
    told = [row.field for row in ROWS]
    assert len(told) == len(set(told))
    assert set(told) <= set(fields())
    by_model = {fields()[field] for field in told}
    assert set(fields().values()) - by_model == set()


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.field)
def test_the_guide_tells_the_default(row: Row) -> None:
    default = default_of(row.field)
    if default is ...:
        assert row.default == "required"
    elif default is None:
        assert row.default == "absent"
    elif isinstance(default, Value):
        assert row.default == "as below"
    else:
        assert in_yaml(row.default.strip("`")) == to_jsonable_python(default)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.field)
def test_the_guides_example_is_good(row: Row) -> None:
    kind, place = place_of(row.field)
    path = ".".join(map(str, place))
    assert validate_document(kind, changed(kind, {path: in_yaml(row.example)})) == []
