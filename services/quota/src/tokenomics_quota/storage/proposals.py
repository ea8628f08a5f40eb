"""Policy proposals on PostgreSQL."""

from collections.abc import Sequence

from tokenomics_chassis.postgres import Pool
from tokenomics_quota.domain.policies import Proposal

_COLUMNS = ", ".join(Proposal._fields)
_FIND = f"SELECT {_COLUMNS} FROM policy_proposal WHERE proposal_id = $1"
_ADD = f"""
INSERT INTO policy_proposal ({_COLUMNS}) VALUES ($1, $2, $3, $4, $5, $6, $7)
ON CONFLICT (proposal_id) DO NOTHING
"""
_NEWEST_FIRST = f"""
SELECT proposal_no, {_COLUMNS} FROM policy_proposal
WHERE ($1::text IS NULL OR kind = $1) AND ($2::bigint IS NULL OR proposal_no < $2)
ORDER BY proposal_no DESC LIMIT $3
"""


class PostgresProposals:
    """Implements :class:`tokenomics_quota.ports.Proposals` on a pool of the service's own schema."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def find(self, proposal_id: str) -> Proposal | None:
        """Look one up."""
        row = await self._pool.fetchrow(_FIND, proposal_id)
        return None if row is None else Proposal(*row)

    async def add(self, proposal: Proposal) -> Proposal:
        """Insert, unless another call was first; committed when it returns."""
        await self._pool.execute(_ADD, *proposal)
        kept = await self.find(proposal.proposal_id)
        assert kept is not None, "proposals are never deleted"
        return kept

    async def newest_first(
        self, kind: str | None, *, before: int | None, most: int
    ) -> Sequence[tuple[int, Proposal]]:
        """Read one page."""
        rows = await self._pool.fetch(_NEWEST_FIRST, kind, before, most)
        return [(row[0], Proposal(*row[1:])) for row in rows]
