"""``python -m tokenomics_tools.bench.row_server HOST:PORT URL PLACED SETTLED``: the floor of a hold.

The same kind of server with the same messages: requests are parsed, one row is written in a transaction of
its own, and a prepared answer (hexadecimal) is returned.
"""

import sys
from typing import Any

import grpc
import uvloop

from tokenomics.quota.v1 import quota_pb2 as pb
from tokenomics.quota.v1.quota_pb2_grpc import QuotaServiceServicer, add_QuotaServiceServicer_to_server
from tokenomics_chassis.postgres import Pool, Schemas, create_pool

_TABLE = "CREATE TABLE call (number bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, hold_id text NOT NULL)"
_ROW = "INSERT INTO call (hold_id) VALUES ($1)"


class _Servicer(QuotaServiceServicer):
    def __init__(self, pool: Pool, placed: pb.PlaceHoldResponse, settled: pb.SettleHoldResponse) -> None:
        self._pool = pool
        self._placed = placed
        self._settled = settled

    async def PlaceHold(  # noqa: N802 - the contract's name
        self, request: pb.PlaceHoldRequest, _context: Any
    ) -> pb.PlaceHoldResponse:
        await self._pool.execute(_ROW, request.hold_id)
        return self._placed

    async def SettleHold(  # noqa: N802
        self, request: pb.SettleHoldRequest, _context: Any
    ) -> pb.SettleHoldResponse:
        await self._pool.execute(_ROW, request.hold_id)
        return self._settled


async def _serve(address: str, url: str, placed: bytes, settled: bytes) -> None:
    async with await create_pool(url, Schemas("public", None), application_name="bench-floor") as pool:
        await pool.execute(_TABLE)
        server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
        servicer = _Servicer(  # type: ignore[abstract] # these methods are all
            pool, pb.PlaceHoldResponse.FromString(placed), pb.SettleHoldResponse.FromString(settled)
        )
        add_QuotaServiceServicer_to_server(servicer, server)
        server.add_insecure_port(address)
        await server.start()
        await server.wait_for_termination()


if __name__ == "__main__":
    uvloop.run(_serve(sys.argv[1], sys.argv[2], bytes.fromhex(sys.argv[3]), bytes.fromhex(sys.argv[4])))
