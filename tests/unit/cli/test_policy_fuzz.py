"""Whatever a policy file holds, it is read or refused in words, and published as a whole or not at all."""

from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from tests.support.damage import damaged, json_values
from tests.support.policy_documents import COMPLETE
from tokenomics_cli import policy
from tokenomics_cli.app import run
from tokenomics_cli.documents import parse_documents
from tokenomics_cli.failures import CommandError, Exit
from tokenomics_cli.policy_files import read_policies
from tokenomics_contracts.events.policy import validate_document


def whole(kind: str) -> dict[str, Any]:
    return {"kind": kind, "version": 1, "effective_from": "2026-01-01T00:00:00Z", "document": COMPLETE[kind]}


def as_text(values: list[Any]) -> str:
    return yaml.safe_dump_all(values, allow_unicode=True, sort_keys=False)


def read(text: str, folder: Path) -> None:
    """Read a file; nothing but a refusal with its place may be raised."""
    path = folder / "policies.yaml"
    path.write_text(text, encoding="utf-8", errors="surrogatepass")
    refusal = None
    try:
        for each in read_policies(path):
            assert validate_document(each.policy.kind, each.document.value["document"]) == []
    except CommandError as error:
        refusal = error
    if refusal is not None:
        assert refusal.exit_code is Exit.BAD_DATA
        lines = text.count("\n") + 2
        assert all(1 <= problem.line <= lines and problem.message for problem in refusal.problems)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fuzz")


@given(text=st.text(max_size=60) | st.text("{}[]:,-&*!#|>'\"%@`?~ \n\tab01", max_size=60))
def test_arbitrary_text_is_read_or_refused(folder: Path, text: str) -> None:
    read(text, folder)


@given(raw=st.binary(max_size=60))
def test_arbitrary_bytes_are_read_or_refused(folder: Path, raw: bytes) -> None:
    path = folder / "bytes.yaml"
    path.write_bytes(raw)
    with pytest.raises(CommandError):
        assert read_policies(path)


@given(data=st.data(), kind=st.sampled_from(sorted(COMPLETE)))
def test_a_damaged_policy_is_read_or_refused(folder: Path, data: st.DataObject, kind: str) -> None:
    read(as_text([data.draw(damaged(whole(kind)))]), folder)


@given(data=st.data(), kind=st.sampled_from(sorted(COMPLETE)))
def test_damaged_yaml_is_read_or_refused(folder: Path, data: st.DataObject, kind: str) -> None:
    text = as_text([whole(kind)])
    start = data.draw(st.integers(0, len(text)))
    end = data.draw(st.integers(start, min(len(text), start + 40)))
    inserted = data.draw(st.text("{}[]:,-&*!|'\" \n\tab019e.", max_size=8))
    read(text[:start] + inserted + text[end:], folder)


@given(value=json_values)
def test_what_yaml_writes_is_read_with_a_line_for_each_path(value: Any) -> None:
    try:
        text = as_text([value])
        documents = parse_documents(text, "text")
    except (CommandError, UnicodeEncodeError, yaml.YAMLError):
        return
    for document in documents:
        assert document.lines[""] >= 1


@given(
    data=st.data(),
    good=st.lists(st.sampled_from(sorted(COMPLETE)), unique=True, max_size=4),
)
def test_a_file_with_anything_bad_in_it_publishes_nothing(
    folder: Path, data: st.DataObject, good: list[str]
) -> None:
    kind = data.draw(st.sampled_from(sorted(set(COMPLETE) - set(good))))
    bad = data.draw(damaged(whole(kind)))
    documents = [whole(each) for each in good]
    documents.insert(data.draw(st.integers(0, len(good))), bad)
    path = folder / "several.yaml"
    path.write_text(as_text(documents), encoding="utf-8", errors="surrogatepass")
    publishing = mock.AsyncMock()
    with (
        mock.patch.dict("os.environ", TOKENOMICS_KAFKA_BOOTSTRAP="nowhere:1"),
        mock.patch.object(policy, "published_policies", mock.AsyncMock(return_value={})),
        mock.patch.object(policy, "publish_policies", publishing),
    ):
        code = run(["policy", "apply", str(path), "--without-examples"])
    if code == Exit.OK:
        (_, published, _), _ = publishing.call_args
        written = {each.kind for each in published}
        assert written >= set(good), "all of the file or nothing"
    else:
        assert code in {Exit.BAD_DATA, Exit.REFUSED}
        publishing.assert_not_called()
