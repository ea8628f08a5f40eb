"""YAML (and JSON, which is YAML) whose problems can be shown by line."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, NamedTuple

import yaml

from tokenomics_cli.failures import CommandError, Exit, Problem

_MOST_REPEATED: Final = 100_000
"""Values of a document that aliases may repeat."""


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
    return parse_documents(text, str(path))


def parse_documents(text: str, name: str) -> list[Document]:
    """Read every document of YAML text; empty ones are left out.

    Raises
    ------
    CommandError
        As ``read_documents``; it calls the text by its name.
    """
    try:
        loader = _Loader(text)
    except yaml.YAMLError as error:  # a character that YAML doesn't have
        raise CommandError(f"{name} is not valid YAML: {error}", Exit.BAD_DATA) from None
    try:
        return [document for document in _documents(loader) if document.value is not None]
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        problem = Problem(mark.line + 1 if mark else 1, "", error.problem or str(error))
        raise CommandError(f"{name} is not valid YAML", Exit.BAD_DATA, problems=[problem]) from None
    # The last two: a number of too many digits, a tag that its text doesn't fit.
    except (yaml.YAMLError, RecursionError, ValueError, LookupError) as error:
        raise CommandError(f"{name} is not valid YAML: {error}", Exit.BAD_DATA) from None
    finally:
        loader.dispose()


def _documents(loader: _Loader) -> Iterator[Document]:
    while loader.check_node():
        node = loader.get_node()
        assert node is not None
        lines = _Lines()
        lines.locate(node, "")
        yield Document(loader.construct_document(node), lines.by_path)


class _Lines:
    """Where everything in a document stands."""

    def __init__(self) -> None:
        self.by_path: dict[str, int] = {}
        self._located: set[int] = set()
        self._repeated = 0

    def locate(self, node: yaml.Node, path: str) -> None:
        """Note the lines of a node and of what is in it."""
        if id(node) in self._located:
            self._repeated += 1
            # A few nested aliases stand for more than any memory holds.
            if self._repeated > _MOST_REPEATED:
                raise yaml.MarkedYAMLError(problem="aliases repeat too much", problem_mark=node.start_mark)
        self._located.add(id(node))
        self.by_path.setdefault(path, node.start_mark.line + 1)
        if isinstance(node, yaml.MappingNode):
            for key, value in node.value:
                inner = f"{path}.{key.value}" if path else str(key.value)
                if inner in self.by_path:
                    raise yaml.MarkedYAMLError(problem=f"{inner} appears twice", problem_mark=key.start_mark)
                # The key's line: a block value begins on the next one.
                self.by_path[inner] = key.start_mark.line + 1
                self.locate(value, inner)
        elif isinstance(node, yaml.SequenceNode):
            for position, value in enumerate(node.value):
                self.locate(value, f"{path}.{position}" if path else str(position))
