"""Policies as they are published: versions of each kind, in the log."""

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Literal

from tokenomics_chassis.clock import Clock
from tokenomics_cli.failures import CommandError, Exit
from tokenomics_cli.kafka import publish, read_events
from tokenomics_contracts.cloudevents import encode
from tokenomics_contracts.events.policy import PolicyPublished

POLICY_TOPIC = "tokenomics.policy.v1"
SOURCE = "//tokenomics/cli/policy"

Known = Mapping[str, Sequence[PolicyPublished]]
"""Versions that took effect or will, by kind, oldest first."""

State = Literal["in force", "to come", "superseded"]


async def published_policies(bootstrap: str) -> Known:
    """Read every version that was written against the one before it: readers park the others."""
    versions: dict[str, list[PolicyPublished]] = {}
    for _, event in await read_events(bootstrap, POLICY_TOPIC, PolicyPublished):
        known = versions.setdefault(event.kind, [])
        if event.replaces == (known[-1].version if known else None):
            known.append(event)
    return {kind: known for kind, known in sorted(versions.items()) if known}


def newest_of(known: Known, kind: str) -> PolicyPublished | None:
    """Return the version that the next one must replace."""
    return known[kind][-1] if kind in known else None


def states(versions: Sequence[PolicyPublished], now: datetime) -> list[State]:
    """Say of each version of a kind, oldest first, whether it counts: the latest published wins."""
    found: list[State] = []
    earliest: datetime | None = None
    for version in reversed(versions):
        if earliest is not None and earliest <= max(version.effective_from, now):
            found.append("superseded")
        else:
            found.append("in force" if version.effective_from <= now else "to come")
        earliest = min(earliest or version.effective_from, version.effective_from)
    return found[::-1]


def due(known: Known, policies: Iterable[PolicyPublished]) -> list[PolicyPublished]:
    """Return the policies that say something else than the newest version of their kind.

    Raises
    ------
    CommandError
        One was written against another version than the newest (``REFUSED``).
    """
    found = [policy for policy in policies if policy != newest_of(known, policy.kind)]
    for policy in found:
        _require_successor(policy, newest_of(known, policy.kind))
    return found


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


async def publish_policies(bootstrap: str, policies: Iterable[PolicyPublished], clock: Clock) -> None:
    """Publish policies in their order.

    Two calls at the same time may both publish: readers take the first and park the other.

    Raises
    ------
    CommandError
        When not all could be written; those before the first failure may have been.
    """
    now = clock.now()
    await publish(
        bootstrap,
        POLICY_TOPIC,
        [
            encode(policy, id=f"{policy.kind}:{policy.version}", source=SOURCE, time=now)
            for policy in policies
        ],
    )
