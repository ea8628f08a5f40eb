"""``python -m tokenomics_tools.bench.prepared_server HOST:PORT ANSWER``: the floor of a check.

The same kind of server with the same messages and nothing behind them: requests are parsed, and a prepared
answer (hexadecimal) is returned to each.
"""

import asyncio
import sys
from collections.abc import AsyncIterator
from typing import Any

import grpc
import uvloop

from tokenomics.quota.v1 import quota_pb2 as pb
from tokenomics.quota.v1.quota_pb2_grpc import QuotaServiceServicer, add_QuotaServiceServicer_to_server


class _Servicer(QuotaServiceServicer):
    def __init__(self, answer: pb.CheckQuotaResponse) -> None:
        self._answer = answer
        self._result = pb.CheckResult(answer=answer)

    async def CheckQuota(  # noqa: N802 - the contract's name
        self, _request: pb.CheckQuotaRequest, _context: Any
    ) -> pb.CheckQuotaResponse:
        return self._answer

    async def BatchCheckQuota(  # noqa: N802
        self, request: pb.BatchCheckQuotaRequest, _context: Any
    ) -> pb.BatchCheckQuotaResponse:
        return pb.BatchCheckQuotaResponse(results=[self._result for _ in request.checks])

    async def StreamCheckQuota(  # noqa: N802
        self, requests: AsyncIterator[pb.StreamCheckQuotaRequest], _context: Any
    ) -> AsyncIterator[pb.StreamCheckQuotaResponse]:
        async for request in requests:
            yield pb.StreamCheckQuotaResponse(sequence=request.sequence, result=self._result)


async def _serve(address: str, answer: bytes) -> None:
    server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
    servicer = _Servicer(pb.CheckQuotaResponse.FromString(answer))  # type: ignore[abstract] # these methods are all
    add_QuotaServiceServicer_to_server(servicer, server)
    server.add_insecure_port(address)
    await server.start()
    await asyncio.get_running_loop().create_future()


if __name__ == "__main__":
    uvloop.run(_serve(sys.argv[1], bytes.fromhex(sys.argv[2])))
