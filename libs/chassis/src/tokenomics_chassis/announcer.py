"""The announcer: one leader judges committed totals and says what is due and unsaid."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence

from tokenomics_chassis.changes import Change, ChangeFollower, listen
from tokenomics_chassis.failpoints import failpoint
from tokenomics_chassis.leadership import lead
from tokenomics_chassis.postgres import Connection, Schemas, Session, wait_for
from tokenomics_chassis.versions import hold_active

Judge = Callable[[Connection, Sequence[Change]], Awaitable[None]]
"""Judges inside the announcer's open transaction and writes announcements, with ids unique by constraint, and
their outbox rows. Must not commit, and be repeatable. The first call of a term tells every partition as
``restarted``; a call without changes is a tick: time alone may have made something due."""

Prepare = Callable[[Session, asyncio.Event], Awaitable[None]]
"""Returns when a term may begin to judge, or when the event is set; it works on the session that holds the
leader's lock. See :class:`~tokenomics_chassis.recall.Recall`."""


PACE_SECONDS = 0.1
"""Changes that follow each other faster are judged together."""


READ_ON_SECONDS = 30.0
"""How often a term reads on what the own topic tells."""


class Announcer:
    """Calls a judge after every change and on a tick, in one process at a time.

    The lock that makes it the leader and the transactions it judges in live on one session: a leader that was
    deposed can't commit.
    """

    def __init__(
        self,
        url: str,
        schemas: Schemas,
        prepare: Prepare,
        judge: Judge,
        *,
        read_on: Prepare | None = None,
        tick_seconds: float = 5.0,
    ) -> None:
        """Wire it.

        Parameters
        ----------
        read_on
            Called twice a minute between judgements, so that the next term has little to prepare.
        """
        self._url = url
        self._schemas = schemas
        self._prepare = prepare
        self._judge = judge
        self._read_on = read_on
        self._tick_seconds = tick_seconds

    async def run(self, stopping: asyncio.Event) -> None:
        """Announce until ``stopping`` is set; a judgement under way is finished."""
        await lead(self._url, self._schemas, "announcer", self._announce, stopping)

    async def _announce(self, connection: Session, stopping: asyncio.Event) -> None:
        await self._prepare(connection, stopping)
        follower = ChangeFollower()
        now = asyncio.get_running_loop().time
        tick_at = now() + self._tick_seconds
        read_on_at = now() + READ_ON_SECONDS
        async with listen(connection, self._schemas.changed_channel) as signal:
            while not stopping.is_set():
                changes = await follower.poll(connection)
                if changes or now() >= tick_at:
                    async with connection.transaction():
                        if not await self._serves(connection):
                            break
                        await self._judge(connection, changes)
                        failpoint("announcer.after_judge")
                    failpoint("announcer.after_commit")
                    follower.acknowledge(changes)
                    tick_at = now() + self._tick_seconds
                    await wait_for(stopping, PACE_SECONDS)
                if self._read_on is not None and now() >= read_on_at:
                    await self._read_on(connection, stopping)
                    read_on_at = now() + READ_ON_SECONDS
                await signal.wait()
        await wait_for(stopping, PACE_SECONDS)

    async def _serves(self, connection: Session) -> bool:
        """Whether it is still this version's turn to speak: what no longer serves says nothing."""
        version = self._schemas.version
        return version is not None and await hold_active(connection, version)
