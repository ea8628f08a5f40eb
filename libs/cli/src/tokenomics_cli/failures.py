"""How a command fails: a message, what to do about it, and an exit code."""

from collections.abc import Sequence
from enum import IntEnum
from typing import NamedTuple


class Exit(IntEnum):
    """Exit codes of every command; the numbers above 64 are those of ``sysexits.h``."""

    OK = 0
    REFUSED = 1
    """The answer is no: a denied call, a policy written against another version, a diff that isn't empty."""
    USAGE = 2
    """The command line or a ``TOKENOMICS_…`` variable is wrong."""
    JUSTIFICATION_REQUIRED = 10
    APPROVAL_REQUIRED = 11
    BAD_DATA = 65
    """The input is wrong, in whole or in part; what could be sent was sent."""
    UNAVAILABLE = 69
    """Kafka or the service can't be reached, or answers that it isn't ready; trying again may help."""
    INTERNAL = 70
    LOCAL_FILE = 74
    """A file of this machine can't be read or written."""
    PERMISSION = 77
    """The caller is not known or may not do this."""
    INTERRUPTED = 130


class Problem(NamedTuple):
    """One thing wrong with an input file."""

    line: int
    """Counted from 1."""
    path: str
    """Field, dotted, as in ``document.prices.0.rates.input``; empty for the line as a whole."""
    message: str
    file: str = ""
    """Empty where the command was given one file only."""

    def __str__(self) -> str:
        where = f"{self.file}, line {self.line}" if self.file else f"line {self.line}"
        return f"{where}: {self.path}: {self.message}" if self.path else f"{where}: {self.message}"


class CommandError(Exception):
    """A command can't go on, or its answer is no.

    Parameters
    ----------
    message
        What is wrong and where.
    exit_code
        What the shell gets.
    hint
        What to do now.
    problems
        Each thing wrong with an input file.
    """

    def __init__(
        self, message: str, exit_code: Exit, *, hint: str | None = None, problems: Sequence[Problem] = ()
    ) -> None:
        super().__init__(message)
        self.exit_code = exit_code
        self.hint = hint
        self.problems = tuple(problems)
