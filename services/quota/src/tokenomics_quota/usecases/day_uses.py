"""What subjects have used today, and the days that are spikes."""

from collections.abc import Awaitable, Collection, Iterable, Mapping
from datetime import UTC, date, datetime, timedelta
from typing import Final, Protocol

from tokenomics_contracts.events.quota import SpikeDetected
from tokenomics_contracts.units import MicroUsd, SubjectId
from tokenomics_quota.domain.accounts import Account, AccountKind
from tokenomics_quota.domain.spikes import DayUse, SpikeRule, Usual, usual
from tokenomics_quota.ports import Announcements
from tokenomics_quota.projections.governance import Governance

_DAY: Final = timedelta(days=1)


class Days(Protocol):
    """Tells what owners, each ``<kind>/<owner_id>``, used on each day in UTC."""

    def __call__(
        self, owners: Collection[str], /, *, since: date, before: date
    ) -> Awaitable[Mapping[str, Mapping[date, MicroUsd]]]:
        """Return it of the days from one on before another; owners and days without use are left out."""
        ...


class DayUses:
    """Finds out what subjects have used today, and remembers what is usual while day and rule are the same.

    So usage that comes late for a day before is looked at from the next day on.
    """

    def __init__(self) -> None:
        self._of: tuple[date, SpikeRule] | None = None
        self._usual: dict[str, Usual | None] = {}

    async def find(
        self, days: Days, subjects: Iterable[str], today: date, rule: SpikeRule
    ) -> dict[str, DayUse]:
        """Return the use of today (in UTC) of those who have used enough for a look, and have a usual day."""
        if self._of != (today, rule):
            self._of = (today, rule)
            self._usual.clear()
        owners = {f"{AccountKind.SUBJECT}/{subject}": subject for subject in subjects}
        found = await days(owners.keys(), since=today, before=today + _DAY)
        used = {
            owner: amount
            for owner, of_days in found.items()
            if (amount := of_days[today]) >= rule.watched_from_micro_usd
        }
        unknown = [owner for owner in used if owner not in self._usual]
        if unknown:
            before = await days(unknown, since=today - rule.window, before=today)
            for owner in unknown:
                self._usual[owner] = usual(before.get(owner, {}), today, rule)
        return {
            owners[owner]: DayUse(today, amount, known)
            for owner, amount in used.items()
            if (known := self._usual[owner]) is not None
        }


class Spiking:
    """Looks at what was used today by those whose accounts moved."""

    def __init__(self) -> None:
        self._day_uses = DayUses()

    async def judge(
        self, governance: Governance, announcements: Announcements, moved: Iterable[Account], now: datetime
    ) -> int:
        """Tell of days that are spikes; return how many announcements that made."""
        policy = governance.quota_policies.at(now)
        subjects = {account.owner_id for account in moved if account.kind is AccountKind.SUBJECT}
        if policy.spikes is None or not subjects:
            return 0
        today = now.astimezone(UTC).date()
        uses = await self._day_uses.find(announcements.days, subjects, today, policy.spikes)
        spikes = (
            _spike(subject, use, policy.version) for subject, use in uses.items() if use.room_micro_usd < 0
        )
        return await announcements.announce(spikes, now)


def _spike(subject: str, use: DayUse, policy_version: int) -> SpikeDetected:
    return SpikeDetected(
        subject=SubjectId(subject),
        day=use.day.isoformat(),
        posted_micro_usd=use.posted_micro_usd,
        usual_micro_usd=use.usual.micro_usd,
        spike_micro_usd=use.usual.spike_micro_usd,
        usual_days=use.usual.days,
        policy_version=policy_version,
    )
