"""YAML (and JSON, which is YAML) whose problems can be shown by line."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from tokenomics_cli.failures import CommandError, Exit, Problem


class Document(NamedTuple):
    """One document of a file."""

    value: Any
    lines: dict[str, int]
    """Line of each dotted path, counted from 1; the document itself has the empty path."""

    def problem(self, path: str, message: str) -> Problem:
        """Locate a problem; a path that isn't there, such as a missing field's, has its parent's line."""
        known = path
        while known not in self.lines:
            known = known.rpartition(".")[0]
        return Problem(self.lines[known], path, message)


class _Loader(yaml.SafeLoader):
    """YAML 1.2's few plain types: 12:30 and no stay text, a date stays as it was written."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012 - PyYAML's own


_Loader.add_implicit_resolver("tag:yaml.org,2002:bool", re.compile(r"^(?:true|false)$"), list("tf"))
_Loader.add_implicit_resolver("tag:yaml.org,2002:null", re.compile(r"^(?:null|~|)$"), ["n", "~", ""])
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:int", re.compile(r"^-?(?:0|[1-9][0-9_]*)$"), list("-0123456789")
)
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][-+]?[0-9]+)?$"),
    list("-0123456789"),
)


def read_documents(path: Path) -> list[Document]:
    """Read every document of a YAML file; empty ones are left out.

    Raises
    ------
    CommandError
        When the file can't be read, isn't YAML, or has a key twice in one mapping: the second would silently
        win.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise CommandError(f"{path} can't be read: {error}", Exit.BAD_DATA) from None
    loader = _Loader(text)
    try:
        return [document for document in _documents(loader) if document.value is not None]
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        problem = Problem(mark.line + 1 if mark else 1, "", error.problem or str(error))
        raise CommandError(f"{path} is not valid YAML", Exit.BAD_DATA, problems=[problem]) from None
    except (yaml.YAMLError, RecursionError) as error:
        raise CommandError(f"{path} is not valid YAML: {error}", Exit.BAD_DATA) from None
    finally:
        loader.dispose()


def _documents(loader: _Loader) -> Iterator[Document]:
    while loader.check_node():
        node = loader.get_node()
        assert node is not None
        lines: dict[str, int] = {}
        _locate(node, "", lines)
        yield Document(loader.construct_document(node), lines)


def _locate(node: yaml.Node, path: str, lines: dict[str, int]) -> None:
    lines.setdefault(path, node.start_mark.line + 1)
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            inner = f"{path}.{key.value}" if path else str(key.value)
            if inner in lines:
                raise yaml.MarkedYAMLError(problem=f"{inner} appears twice", problem_mark=key.start_mark)
            # The key's line: a block value begins on the next one.
            lines[inner] = key.start_mark.line + 1
            _locate(value, inner, lines)
    elif isinstance(node, yaml.SequenceNode):
        for position, value in enumerate(node.value):
            _locate(value, f"{path}.{position}" if path else str(position), lines)
