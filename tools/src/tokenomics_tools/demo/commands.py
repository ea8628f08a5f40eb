"""The ``tokenomics`` command, pointed at a running quota, as a person at a terminal would use it."""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tokenomics_tools.stack import OPERATOR, PORTAL, Stack, StackError

_PATIENCE_SECONDS = 120


class Commands:
    """Runs ``tokenomics`` commands: ``ops`` as the operator, the others as the portal.

    Parameters
    ----------
    address
        ``host:port`` of quota's gRPC server.
    folder
        Gets the tokens.
    """

    def __init__(self, stack: Stack, address: str, folder: Path) -> None:
        self._variables = {
            "TOKENOMICS_KAFKA_BOOTSTRAP": stack.kafka.bootstrap,
            "TOKENOMICS_QUOTA_ADDRESS": address,
        }
        self._token_paths = {caller: folder / f"{name}.token" for name, caller in _CALLERS.items()}
        for caller, path in self._token_paths.items():
            path.touch(mode=0o600)
            path.write_text(stack.issuer.token(caller), encoding="utf-8")

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        """Start a command; input and answer are pipes, its progress goes to our terminal."""
        caller = OPERATOR if arguments[0] == "ops" else PORTAL
        token = {"TOKENOMICS_TOKEN_FILE": str(self._token_paths[caller])}
        return subprocess.Popen(
            [sys.executable, "-m", "tokenomics_cli", *arguments, "--json"],
            env=os.environ | self._variables | token,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def run(self, *arguments: str, accepted: Sequence[int] = (0,)) -> tuple[int, Any]:
        """Run a command to its end and return its exit code and its JSON answer.

        Raises
        ------
        StackError
            See ``finish``.
        """
        return finish(self.start(*arguments), accepted)


def finish(command: subprocess.Popen[str], accepted: Sequence[int] = (0,)) -> tuple[int, Any]:
    """End a command's input, wait for it and return its exit code and its JSON answer, if it gave one.

    Raises
    ------
    StackError
        With another exit code than the accepted ones; the command has said why. Or it does not end.
    """
    try:
        answer, _ = command.communicate(timeout=_PATIENCE_SECONDS)
    except subprocess.TimeoutExpired as error:
        command.kill()
        raise StackError(f"{command.args!r} has not ended for {_PATIENCE_SECONDS} s") from error
    if command.returncode not in accepted:
        raise StackError(f"{command.args!r} ended with exit code {command.returncode}")
    return command.returncode, json.loads(answer) if answer else None


_CALLERS = {"portal": PORTAL, "operator": OPERATOR}
