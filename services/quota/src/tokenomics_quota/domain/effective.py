"""Versions that take effect at an instant and may become known later."""

from collections.abc import Callable, Iterable
from datetime import UTC, datetime, timedelta
from operator import attrgetter
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
    """A value with the instant it takes effect from and the event that states it.

    One flat tuple: there is one for every person.
    """

    effective_from: datetime
    applies_from: datetime
    """First event time it governs: its effective time, but never beyond the governing reach."""
    append_ms: int
    partition: int
    record_offset: int
    identity: bytes
    """Of the event, among those of its topic: another event that takes its identity takes its place."""
    value: Value

    @property
    def order(self) -> LogOrder:
        """Place of the event in the log."""
        return LogOrder(self.append_ms, self.partition, self.record_offset)


def effective(value: Value, effective_from: datetime, order: LogOrder, identity: bytes) -> Effective[Value]:
    """Return a value as the event at a place of the log, with an identity, states it."""
    applies_from = max(effective_from, order.appended_at - GOVERNING_REACH)
    return Effective(effective_from, applies_from, *order, identity, value)


Rank = Callable[[Effective[Any]], Any]


def effective_dated(version: Effective[Any]) -> tuple[datetime, LogOrder]:
    """Rank of directory versions: the latest effective date wins, then the latest in the log.

    A correction that is sent today for last week doesn't undo a move planned for next month.
    """
    return version.effective_from, version.order


def latest_published(version: Effective[Any]) -> LogOrder:
    """Rank of policy versions: each replaces the one before, so the latest published wins."""
    return version.order


_APPLIES_FROM = attrgetter("applies_from")


def in_force(versions: Iterable[Effective[Value]], rank: Rank) -> Timeline[Effective[Value] | None]:
    """Return which version is in force at each instant: of those that apply, the highest in rank."""
    steps: list[tuple[datetime, Effective[Value] | None]] = []
    best: Effective[Value] | None = None
    for version in sorted(versions, key=_APPLIES_FROM):
        if best is None or rank(version) > rank(best):
            best = version
        steps.append((version.applies_from, best))
    return Timeline(steps, before=None)
