"""Versions that take effect at an instant and may become known later."""

from collections.abc import Callable, Iterable
from datetime import UTC, datetime, timedelta
from typing import Any, Generic, NamedTuple, TypeVar

from tokenomics_quota.domain.timeline import Timeline

Value = TypeVar("Value")

LATENESS_BOUND = timedelta(days=62)
"""H: an event whose time lies more than this before its append timestamp is parked as too late."""

GOVERNING_REACH = timedelta(days=396)
"""R, 13 months: a governing or correcting event leaves facts unchanged that are older than this at its
own append timestamp, so that facts beyond it may be dropped."""


class LogOrder(NamedTuple):
    """Where a record stands in the log; of records sharing an identity the lowest counts."""

    append_ms: int
    partition: int
    offset: int

    @property
    def appended_at(self) -> datetime:
        """Append timestamp of the record."""
        return datetime.fromtimestamp(self.append_ms / 1000, tz=UTC)


class Effective(NamedTuple, Generic[Value]):
    """A value with the instant it takes effect from and its place in the log."""

    effective_from: datetime
    order: LogOrder
    value: Value

    @property
    def applies_from(self) -> datetime:
        """First event time it governs: its effective time, but never beyond the governing reach."""
        return max(self.effective_from, self.order.appended_at - GOVERNING_REACH)


Rank = Callable[[Effective[Any]], Any]


def effective_dated(version: Effective[Any]) -> tuple[datetime, LogOrder]:
    """Rank of directory versions: the latest effective date wins, then the latest in the log.

    A correction that is sent today for last week doesn't undo a move planned for next month.
    """
    return version.effective_from, version.order


def latest_published(version: Effective[Any]) -> LogOrder:
    """Rank of policy versions: each replaces the one before, so the latest published wins."""
    return version.order


def in_force(versions: Iterable[Effective[Value]], rank: Rank) -> Timeline[Effective[Value] | None]:
    """Return which version is in force at each instant: of those that apply, the highest in rank."""
    steps: list[tuple[datetime, Effective[Value] | None]] = []
    best: Effective[Value] | None = None
    for version in sorted(versions, key=lambda candidate: candidate.applies_from):
        if best is None or rank(version) > rank(best):
            best = version
        steps.append((version.applies_from, best))
    return Timeline(steps, before=None)
