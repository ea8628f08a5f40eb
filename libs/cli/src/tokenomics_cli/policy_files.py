"""Policies as governance writes them: YAML files, judged before anything is published."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from pydantic import ValidationError

from tokenomics_cli.documents import Document, parse_documents, read_documents
from tokenomics_cli.failures import CommandError, Exit, Problem
from tokenomics_contracts.events.policy import (
    DOCUMENT_MODELS,
    PolicyPublished,
    problems_of,
    validate_document,
)

_KIND = f"should be one of {', '.join(DOCUMENT_MODELS)}"


class Written(NamedTuple):
    """A policy of a file."""

    policy: PolicyPublished
    document: Document
    file: str
    """Where it stands, for messages; empty where there is one file only."""

    def problem(self, path: str, message: str) -> Problem:
        """Locate a problem of the policy's document."""
        where = f"document.{path}".removesuffix(".")
        return self.document.problem(where, message)._replace(file=self.file)


def read_policies(*paths: Path) -> list[Written]:
    """Read and judge policy files.

    Raises
    ------
    CommandError
        Naming line and path of every problem; nothing of such files is published.
    """
    documents = [
        (document, str(path) if len(paths) > 1 else "") for path in paths for document in read_documents(path)
    ]
    kinds = [document.value.get("kind") for document, _ in documents if isinstance(document.value, dict)]
    problems = [
        problem._replace(file=file) for document, file in documents for problem in _problems(document, kinds)
    ]
    if problems or not documents:
        names = ", ".join(map(str, paths))
        raise CommandError(
            f"{names} can't be published" if problems else f"{names}: no policy is in there",
            Exit.BAD_DATA,
            problems=problems,
            hint="nothing was published: mend what is wrong and run the command again",
        )
    return [
        Written(PolicyPublished.model_validate(document.value), document, file)
        for document, file in documents
    ]


def _problems(document: Document, kinds: list[Any]) -> Iterable[Problem]:
    if not isinstance(document.value, dict):
        return [document.problem("", "should be a mapping with kind, version, effective_from and document")]
    kind = document.value.get("kind")
    known = isinstance(kind, str) and kind in DOCUMENT_MODELS
    inside = validate_document(str(kind), document.value.get("document")) if known else []
    found = [
        document.problem(f"document.{problem.path}".removesuffix("."), problem.message) for problem in inside
    ]
    if kind is not None and not known:
        found.append(document.problem("kind", _KIND))
    if known and kinds.count(kind) > 1:
        found.append(document.problem("kind", "should be that of one document only"))
    try:
        PolicyPublished.model_validate(document.value, extra="forbid")
    except ValidationError as error:
        # What is wrong inside the document was told above, path by path.
        told = {"document", "kind"} if found else set()
        found += [document.problem(*problem) for problem in problems_of(error) if problem.path not in told]
    return found


def as_shown(policy: PolicyPublished) -> Written:
    """Return a policy as if it stood in a file, with the lines in which ``policy show`` prints it."""
    (document,) = parse_documents(as_yaml(policy), "the policy as it is shown")
    return Written(policy, document, f"{policy.kind} as it is shown")


def as_written(policy: PolicyPublished) -> dict[str, Any]:
    """Return a policy's document with what it says itself, and nothing that was left to the defaults."""
    document: dict[str, Any] = policy.model_dump(mode="json", by_alias=True, exclude_unset=True)["document"]
    return document


def as_file(policy: PolicyPublished) -> dict[str, Any]:
    """Return a policy as a file would say it, with what was left to the defaults spelled out."""
    return policy.model_dump(mode="json", by_alias=True, exclude_none=True)


def as_yaml(policy: PolicyPublished) -> str:
    """Write a policy as a file would say it."""
    return yaml.safe_dump(as_file(policy), sort_keys=False, allow_unicode=True)
