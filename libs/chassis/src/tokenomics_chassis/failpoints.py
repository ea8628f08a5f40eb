"""Named points at which a fault test may kill the process; inert unless the environment arms them.

``TOKENOMICS_FAILPOINTS`` holds ``name=probability,...``. A hit appends the name to the file
``TOKENOMICS_FAILPOINTS_LOG`` (so that a proof can count its hits) and kills the process with SIGKILL.
"""

import os
import random
import signal
from collections.abc import Mapping

VARIABLE = "TOKENOMICS_FAILPOINTS"
LOG_VARIABLE = "TOKENOMICS_FAILPOINTS_LOG"

FAILPOINTS = frozenset(
    {
        "projector.after_read",
        "projector.after_apply",
        "projector.before_commit",
        "projector.after_commit",
        "projector.after_kafka_commit",
        "relay.after_read",
        "relay.after_send",
        "relay.after_delete",
        "announcer.after_judge",
        "announcer.after_commit",
        "replay.before_caught_up",
        "turn.before_commit",
        "turn.after_commit",
        "simulation.before_result",
    }
)
"""Every point that processes pass: the chassis', and those of a service's own transactions."""


def parse(text: str) -> Mapping[str, float]:
    """Read ``name=probability,...``.

    Raises
    ------
    ValueError
        For an unknown name or a probability outside 0..1: a misspelt fault test must not pass.
    """
    armed: dict[str, float] = {}
    for item in filter(None, text.split(",")):
        name, _, probability = item.partition("=")
        if name not in FAILPOINTS:
            raise ValueError(f"unknown failpoint {name!r}")
        armed[name] = float(probability)
        if not 0 <= armed[name] <= 1:
            raise ValueError(f"the probability of failpoint {name} is not within 0..1: {probability}")
    return armed


_ARMED = parse(os.environ.get(VARIABLE, ""))


def failpoint(name: str) -> None:
    """Die here, by SIGKILL, with the probability the environment gives this point."""
    if _ARMED and random.random() < _ARMED.get(name, 0):  # noqa: S311 - chaos, not cryptography
        _die(name)


def _die(name: str) -> None:
    if path := os.environ.get(LOG_VARIABLE):
        log = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        os.write(log, f"{name}\n".encode())  # one append: lines of concurrent processes never mix
    os.kill(os.getpid(), signal.SIGKILL)
