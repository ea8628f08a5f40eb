"""The starter policies are whole, keep their promises at any time, and show every field there is."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from tests.support.policy_documents import fields
from tokenomics_cli.policy_files import Written, as_written, read_policies
from tokenomics_contracts.events.policy import DOCUMENT_MODELS, QuotaDocument
from tokenomics_contracts.units import DecisionName
from tokenomics_quota.usecases.examples import Judged, judge_examples

FOLDER = Path(__file__).parents[3] / "examples" / "policies"
NAMES = ("pilot", "enterprise", "regulated")
INSTANTS = [
    datetime(2026, 1, 1, tzinfo=UTC),
    datetime(2026, 3, 31, 23, 59, 59, tzinfo=UTC),
    datetime(2028, 2, 29, 12, tzinfo=UTC),
]
"""When somebody may try them: what an example promises without a time must hold whenever."""


def starter(name: str) -> dict[str, Written]:
    return {each.policy.kind: each for each in read_policies(*sorted((FOLDER / name).glob("*.yaml")))}


def judged(name: str, now: datetime) -> list[Judged]:
    documents = {kind: each.policy.document for kind, each in starter(name).items()}
    quota = documents.pop("quota")
    assert isinstance(quota, QuotaDocument)
    found = []
    for one in judge_examples(quota, documents, now):  # type: ignore[arg-type] # each of a kind that is read
        assert isinstance(one, Judged), one
        found.append(one)
    return found


def test_there_are_three() -> None:
    assert {path.name for path in FOLDER.iterdir()} == set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_a_starter_has_a_first_version_of_every_kind_in_a_file_of_its_name(name: str) -> None:
    found = starter(name)
    assert set(found) == set(DOCUMENT_MODELS)
    for kind, each in found.items():
        assert Path(each.file).name == f"{kind}.yaml"
        assert (each.policy.version, each.policy.replaces) == (1, None)


@pytest.mark.parametrize("now", INSTANTS, ids=str)
@pytest.mark.parametrize("name", NAMES)
def test_every_example_holds_whenever_it_is_judged(name: str, now: datetime) -> None:
    assert [each for each in judged(name, now) if not each.holds] == []


@pytest.mark.parametrize(
    ("name", "decisions"),
    [
        ("pilot", {"ALLOW", "ALLOW_WITH_NUDGE", "JUSTIFICATION_REQUIRED", "DENIED"}),
        *(
            (
                name,
                {"ALLOW", "ALLOW_WITH_NUDGE", "JUSTIFICATION_REQUIRED", "APPROVAL_REQUIRED", "DENIED"},
            )
            for name in ("enterprise", "regulated")
        ),
    ],
)
def test_examples_show_each_decision_that_a_starter_makes(name: str, decisions: set[DecisionName]) -> None:
    assert {each.expected for each in judged(name, INSTANTS[0])} == decisions


def test_every_field_is_shown_by_some_starter() -> None:
    shown = {
        fields()[field]
        for name in NAMES
        for kind, each in starter(name).items()
        for field in named(as_written(each.policy), kind) & fields().keys()
    }
    assert set(fields().values()) - shown == set()


def named(value: Any, path: str) -> set[str]:
    if isinstance(value, dict):
        return {path}.union(*(named(inner, f"{path}.{name}") for name, inner in value.items()))
    if isinstance(value, list):
        return {path}.union(*(named(inner, f"{path}[]") for inner in value))
    return {path}
