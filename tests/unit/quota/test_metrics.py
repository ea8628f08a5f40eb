"""Every metric of the service is in the list of what to watch."""

import re
from pathlib import Path

import tokenomics_chassis.metrics
import tokenomics_quota.metrics

REPOSITORY = Path(__file__).parents[3]
README = REPOSITORY / "services/quota/README.md"
MODULES = (tokenomics_chassis.metrics, tokenomics_quota.metrics)


def made() -> set[str]:
    """Return the names of the instruments; names of meters have no third part."""
    sources = [Path(module.__file__ or "").read_text() for module in MODULES]
    return {name for source in sources for name in re.findall(r'"(tokenomics(?:\.[a-z_]+){2,})"', source)}


def listed() -> set[str]:
    """Return the names in the list, where a further one may leave out what it shares with the first."""
    names = set()
    for first, others in re.findall(
        r"^\| `(tokenomics\.[a-z_.]+)`((?:, `[a-z_.]+`)*)", README.read_text(), re.MULTILINE
    ):
        shared = ".".join(first.split(".")[:2])
        names |= {first, *(shared + rest for rest in re.findall(r"`([a-z_.]+)`", others))}
    return names


def test_every_metric_is_listed_for_who_watches_and_no_other() -> None:
    assert "tokenomics.ledger.turn.duration" in made()
    assert listed() == made()
