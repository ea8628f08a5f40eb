"""Announcing silences: of a source that is quiet for too long its owner is told, once for each silence."""

from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Final

from tokenomics_chassis.clock import Clock
from tokenomics_contracts.events.quota import SourceSilent
from tokenomics_quota.ports import Announcements, Ledger, ReadSources
from tokenomics_quota.usecases.projecting import KnownGovernance

LOOK_SECONDS: Final = 5
"""How often it is looked who is quiet."""

_SECOND: Final = timedelta(seconds=1)

Offsets = Mapping[tuple[str, int], int]
"""By topic and partition."""


class LogLevel:
    """Knows until when all that was appended is projected.

    Parameters
    ----------
    read_ends
        Returns the end offsets of all that is projected; ``None`` while the broker can't be asked.
    """

    def __init__(self, read_ends: Callable[[], Awaitable[Offsets | None]], clock: Clock) -> None:
        self._read_ends = read_ends
        self._clock = clock
        self._read: tuple[datetime, Offsets] | None = None

    async def look(self) -> None:
        """Ask the broker how far the log goes now."""
        at = self._clock.now()
        if (ends := await self._read_ends()) is not None:
            self._read = at, ends

    def reached(self, next_offsets: Offsets) -> datetime | None:
        """Return when the log went no further than this, if it is known."""
        if self._read is None:
            return None
        at, ends = self._read
        return at if all(next_offsets.get(place, 0) >= end for place, end in ends.items()) else None


class SilenceAnnouncer:
    """Judges which sources are silent, as the only one of its service to do so at a time.

    Nobody is called silent for what isn't read yet: it is judged up to an instant at which the projection was
    level with the log.
    """

    def __init__(self, known: KnownGovernance, level: LogLevel) -> None:
        self._known = known
        self._level = level
        self._looked_at = self._look_at = datetime.min.replace(tzinfo=UTC)

    async def judge(
        self, ledger: Ledger, sources: ReadSources, announcements: Announcements, now: datetime
    ) -> int:
        """Announce what is due and unsaid, every few seconds; return how many announcements that made."""
        if self._looked_at <= now < self._look_at:
            return 0
        self._looked_at, self._look_at = now, now + LOOK_SECONDS * _SECOND
        governance = await self._known.locked(ledger)
        rules = governance.sources.at(now).rules
        if all(rule.silent_after is None for rule in rules.values()):
            return 0
        until = self._level.reached(await sources.next_offsets())
        if until is None:
            return 0
        expected_since = governance.sources.since(now)
        last_seen = await sources.last_seen(rules)
        due = []
        for source, rule in rules.items():
            last_event_at = last_seen.get(source)
            silence = rule.silence(last_event_at, expected_since, until)
            if silence is not None and rule.silent_after is not None:
                due.append(
                    SourceSilent(
                        source=source,
                        owner_id=rule.owner_id,
                        last_event_at=last_event_at,
                        silent_after_seconds=rule.silent_after // _SECOND,
                        silent_for_seconds=silence // _SECOND,
                    )
                )
        return await announcements.announce(due, now)
