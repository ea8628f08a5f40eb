"""Judging and relaying by hand: what is due is said when a test asks for it."""

import json
from datetime import datetime
from typing import Any

from tests.integration.quota.harness import Quota
from tests.support.quota_events import NOW, NoPrices
from tokenomics_chassis.records import Record, SourceId
from tokenomics_quota.projections.governance import Governance
from tokenomics_quota.storage.announcements import PostgresAnnouncements
from tokenomics_quota.storage.ledger import PostgresLedger
from tokenomics_quota.streams.events import announcement_event, announcement_id
from tokenomics_quota.usecases.announcing import TotalsJudge
from tokenomics_quota.usecases.projecting import KnownGovernance


class Announcer:
    """Judges as the relay process does: everything at first, then what moved since the last time."""

    def __init__(self, quota: Quota) -> None:
        self._quota = quota
        self._judge = TotalsJudge(KnownGovernance(Governance(NoPrices())))
        self._seen: dict[SourceId, int] = {}
        self._anew = True

    async def judge(self, now: datetime = NOW) -> int:
        async with self._quota.pool.acquire() as connection, connection.transaction():
            rows = await connection.fetch("SELECT source_id, change_seq FROM position")
            moved = {
                SourceId(row[0]): self._seen.get(SourceId(row[0]), 0)
                for row in rows
                if row[1] != self._seen.get(SourceId(row[0]), 0)
            }
            announcements = PostgresAnnouncements(connection, announcement_id, announcement_event)
            made = await self._judge.judge(
                PostgresLedger(connection), announcements, moved, now, anew=self._anew
            )
            self._seen = {SourceId(row[0]): row[1] for row in rows}
            self._anew = False
            return made

    async def judge_all(self, now: datetime = NOW) -> int:
        """Judge until there is nothing left to say."""
        total = 0
        while True:
            made, before = 0, total
            for _ in range(16):  # a call goes through one closed period at a time
                made = await self.judge(now)
                total += made
            if total == before:
                return total


async def outbox(quota: Quota, event_type: str) -> list[dict[str, Any]]:
    """Return the data of what waits to be sent, of one type, in order."""
    rows = await quota.pool.fetch("SELECT header_names, header_values, value FROM outbox ORDER BY id")
    return [
        json.loads(row["value"])
        for row in rows
        if dict(zip(row["header_names"], row["header_values"], strict=True))["ce_type"] == event_type.encode()
    ]


async def relayed(quota: Quota, appended_at: datetime = NOW) -> list[Record]:
    """Send what waits in the outbox into the own topic, project it, and return the records."""
    rows = await quota.pool.fetch("DELETE FROM outbox RETURNING *")
    records = []
    for row in sorted(rows, key=lambda row: row["id"]):
        place = (row["topic"], 0)
        headers = tuple(zip(row["header_names"], row["header_values"], strict=True))
        append_ms = int(appended_at.timestamp() * 1000)
        record = Record(*place, quota.ends[place], append_ms, row["key"], row["value"], headers)
        await quota.projector.process(*place, [record])
        quota.ends[place] += 1
        records.append(record)
    return records
