"""``tokenomics policy``: publish, show and compare policy versions."""

import asyncio
import difflib
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import typer
import yaml
from pydantic import ValidationError
from rich.text import Text

from tokenomics_chassis.clock import Clock, SystemClock
from tokenomics_cli.documents import Document, read_documents
from tokenomics_cli.failures import CommandError, Exit, Problem
from tokenomics_cli.kafka import publish, read_events
from tokenomics_cli.output import JsonFlag, out, print_json, print_table
from tokenomics_cli.settings import KafkaSettings, settings_of
from tokenomics_contracts.cloudevents import encode
from tokenomics_contracts.events.policy import (
    DOCUMENT_MODELS,
    PolicyPublished,
    problems_of,
    validate_document,
)

POLICY_TOPIC = "tokenomics.policy.v1"
SOURCE = "//tokenomics/cli/policy"

_DIFF_STYLES = {"+": "green", "-": "red", "@": "cyan"}

commands = typer.Typer(no_args_is_help=True, help="Publish, show and compare policy versions.")

PolicyFile = Annotated[
    Path,
    typer.Argument(
        help="YAML, one document a kind: kind, version, replaces (the version it was written against; "
        "absent for the first), effective_from, document"
    ),
]


class Applied(NamedTuple):
    """What became of one policy of a file."""

    kind: str
    version: int
    published: bool
    """False: this version is the newest already, and says the same."""


def read_policies(path: Path) -> list[PolicyPublished]:
    """Read and judge a policy file.

    Raises
    ------
    CommandError
        Naming line and path of every problem; nothing of such a file is published.
    """
    documents = read_documents(path)
    problems = [problem for document in documents for problem in _problems(document)]
    kinds = [document.value.get("kind") for document in documents if isinstance(document.value, dict)]
    for document, kind in zip(documents, kinds, strict=False):
        if kinds.count(kind) > 1:
            problems.append(document.problem("kind", "should appear in one document of a file only"))
    if problems or not documents:
        raise CommandError(
            f"{path} can't be published" if problems else f"{path} holds no policy",
            Exit.BAD_DATA,
            problems=problems,
            hint="nothing was published: mend the file and run the command again",
        )
    return [PolicyPublished.model_validate(document.value) for document in documents]


def _problems(document: Document) -> Iterable[Problem]:
    if not isinstance(document.value, dict):
        return [document.problem("", "should be a mapping with kind, version, effective_from and document")]
    kind = document.value.get("kind")
    inside = validate_document(kind, document.value.get("document")) if kind in DOCUMENT_MODELS else []
    found = [
        document.problem(f"document.{problem.path}".removesuffix("."), problem.message) for problem in inside
    ]
    if kind is not None and kind not in DOCUMENT_MODELS:
        found.append(document.problem("kind", f"should be one of {', '.join(DOCUMENT_MODELS)}"))
    try:
        PolicyPublished.model_validate(document.value, extra="forbid")
    except ValidationError as error:
        # What is wrong inside the document was told above, path by path.
        told = {"document", "kind"} if found else set()
        found += [document.problem(*problem) for problem in problems_of(error) if problem.path not in told]
    return found


async def published_policies(bootstrap: str) -> dict[str, list[PolicyPublished]]:
    """Read the versions that took effect, by kind, oldest first.

    A version that wasn't written against the one before it is left out: readers park it.
    """
    versions: dict[str, list[PolicyPublished]] = {}
    for _, event in await read_events(bootstrap, POLICY_TOPIC, PolicyPublished):
        known = versions.setdefault(event.kind, [])
        if event.replaces == (known[-1].version if known else None):
            known.append(event)
    return versions


async def apply_policies(bootstrap: str, policies: list[PolicyPublished], clock: Clock) -> list[Applied]:
    """Publish policies, all or none; the newest version again, with the same content, is left alone.

    Two calls at the same time may both publish: readers take the first and park the other.

    Raises
    ------
    CommandError
        When one was written against another version than the newest (``REFUSED``), or Kafka fails.
    """
    known = await published_policies(bootstrap)
    newest = {kind: versions[-1] for kind, versions in known.items() if versions}
    due = [policy for policy in policies if policy != newest.get(policy.kind)]
    for policy in due:
        _require_successor(policy, newest.get(policy.kind))
    now = clock.now()
    await publish(
        bootstrap,
        POLICY_TOPIC,
        [encode(policy, id=f"{policy.kind}:{policy.version}", source=SOURCE, time=now) for policy in due],
    )
    return [Applied(policy.kind, policy.version, policy in due) for policy in policies]


def _require_successor(policy: PolicyPublished, newest: PolicyPublished | None) -> None:
    name = f"{policy.kind} version {policy.version}"
    if newest and policy.version <= newest.version:
        reason = f"{name} is not above version {newest.version}, which is published"
    elif policy.replaces != (newest.version if newest else None):
        against = f"replaces version {policy.replaces}" if policy.replaces else "replaces nothing"
        reason = (
            f"{name} {against}, but {f'version {newest.version}' if newest else 'no version'} is published"
        )
    else:
        return
    hint = (
        f"see `tokenomics policy diff`, then set version: {newest.version + 1} and replaces: {newest.version}"
        if newest
        else "leave replaces out of a kind's first version"
    )
    raise CommandError(reason, Exit.REFUSED, hint=hint)


@commands.command("apply")
def apply_command(file: PolicyFile, *, as_json: JsonFlag = False) -> None:
    """Publish a file's policies after checking each against its kind and the newest version."""
    policies = read_policies(file)
    bootstrap = settings_of(KafkaSettings).kafka_bootstrap
    applied = asyncio.run(apply_policies(bootstrap, policies, SystemClock()))
    if as_json:
        print_json([one._asdict() for one in applied])
        return
    for one in applied:
        out().print(
            f"{one.kind} version {one.version} {'published' if one.published else 'was there already'}"
        )


@commands.command("show")
def show_command(
    kind: Annotated[str | None, typer.Argument(help="absent: list the newest version of every kind")] = None,
    *,
    version: Annotated[int | None, typer.Option(help="an older version of the kind")] = None,
    as_json: JsonFlag = False,
) -> None:
    """Show published policies."""
    known = asyncio.run(published_policies(settings_of(KafkaSettings).kafka_bootstrap))
    if kind is None:
        newest = [versions[-1] for _, versions in sorted(known.items()) if versions]
        if as_json:
            print_json([_as_file(policy) for policy in newest])
            return
        print_table(
            ("kind", "version", "replaces", "effective from"),
            ((one.kind, one.version, one.replaces or "", one.effective_from.isoformat()) for one in newest),
        )
        return
    found = [one for one in known.get(kind, ()) if version in {None, one.version}]
    if not found:
        wanted = kind if version is None else f"{kind} version {version}"
        raise CommandError(
            f"{wanted} is not published", Exit.REFUSED, hint="list all: tokenomics policy show"
        )
    if as_json:
        print_json(_as_file(found[-1]))
    else:
        out().print(_as_yaml(found[-1]), end="", markup=False)


@commands.command("diff")
def diff_command(file: PolicyFile, *, as_json: JsonFlag = False) -> None:
    """Compare a file's policies with the newest published versions; exit code 1 when they differ."""
    policies = read_policies(file)
    known = asyncio.run(published_policies(settings_of(KafkaSettings).kafka_bootstrap))
    diffs = {policy.kind: _diff(known.get(policy.kind, []), policy) for policy in policies}
    if as_json:
        print_json(diffs)
    else:
        for line in (line for lines in diffs.values() for line in lines):
            out().print(Text(line, style=_DIFF_STYLES.get(line[0], "")))
    if any(diffs.values()):
        raise typer.Exit(Exit.REFUSED)


def _diff(known: list[PolicyPublished], policy: PolicyPublished) -> list[str]:
    newest = known[-1] if known else None
    before = _as_yaml(newest).splitlines() if newest else []
    name = (
        f"{policy.kind} version {newest.version} (published)"
        if newest
        else f"{policy.kind} (nothing published)"
    )
    after = f"{policy.kind} version {policy.version} (file)"
    return list(difflib.unified_diff(before, _as_yaml(policy).splitlines(), name, after, lineterm=""))


def _as_file(policy: PolicyPublished) -> dict[str, Any]:
    return policy.model_dump(mode="json", by_alias=True, exclude_none=True)


def _as_yaml(policy: PolicyPublished) -> str:
    return yaml.safe_dump(_as_file(policy), sort_keys=False, allow_unicode=True)
