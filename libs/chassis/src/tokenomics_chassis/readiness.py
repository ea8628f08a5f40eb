"""Whether the database is one that a running process can work on."""

import asyncio
from collections.abc import Awaitable, Callable

from tokenomics_chassis.migrations import NewerSchemaError, WrongSchemaError
from tokenomics_chassis.postgres import Connection, Pool, is_away
from tokenomics_chassis.process import ReadinessCheck

_ANSWER_SECONDS = 1.0


def database_check(
    pool: Pool, verify: Callable[[Connection], Awaitable[None]], *, may_be_away: bool = False
) -> ReadinessCheck:
    """Return a check of the database and its schema.

    A schema that is newer than this code keeps nobody from being ready: it was brought there for the version
    that is being rolled out, whose pods take over one by one. A start refuses it.

    Parameters
    ----------
    verify
        Raises :class:`WrongSchemaError` for schemas that this code wasn't written for.
    may_be_away
        The process does its work without the database for a while; another check knows for how long.
    """

    async def check() -> str | None:
        try:
            async with asyncio.timeout(_ANSWER_SECONDS), pool.acquire() as connection:
                await verify(connection)
        except NewerSchemaError:
            return None
        except WrongSchemaError as error:
            return str(error)
        except Exception as error:
            if may_be_away and is_away(error):
                return None
            raise
        return None

    return check
