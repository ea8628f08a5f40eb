"""Looking: who is shown a person's data is recorded before they are shown it."""

from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Final

from tokenomics_quota.domain.looks import Look
from tokenomics_quota.ports import LookLog

MERGED_FOR: Final = timedelta(minutes=10)
"""So long one record stands for all looks of one person, through one workload and method, by one right, at
one subject's data: who watches a page isn't recorded at every refresh of it."""

MOST_MERGED: Final = 20_000
"""Looks that a server remembers for that; of more the oldest are recorded anew."""


class Looking:
    """Records looks, each once in a while."""

    def __init__(self, log: LookLog) -> None:
        self._log = log
        self._recorded: dict[Look, datetime] = {}

    async def record(self, looks: Iterable[Look], now: datetime) -> None:
        """Return when these looks are recorded: only then may what was asked for be shown.

        Parameters
        ----------
        now
            By a clock that never steps.

        Raises
        ------
        UnavailableError
            They can't be recorded now.
        """
        new = [
            look
            for look in dict.fromkeys(looks)
            if (recorded_at := self._recorded.get(look)) is None or now - recorded_at > MERGED_FOR
        ]
        if not new:
            return
        await self._log.record(new)
        for look in new:
            self._recorded.pop(look, None)  # so that the order is that of the records
            self._recorded[look] = now
        while len(self._recorded) > MOST_MERGED:
            del self._recorded[next(iter(self._recorded))]
