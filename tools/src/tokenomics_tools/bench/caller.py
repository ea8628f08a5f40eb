"""``python -m tokenomics_tools.bench.caller PLAN``: calls one method as fast as it is answered.

In a process of its own, so that its work is seen apart from the server's. Requests and answers stay bytes.
Prints a ``Report`` as JSON.
"""

import asyncio
import sys
from collections import deque
from itertools import cycle
from pathlib import Path
from time import perf_counter, process_time
from typing import Any

import grpc
import msgspec
import uvloop

_TIMEOUT_SECONDS = 30


class Plan(msgspec.Struct):
    """What to call, and for how long."""

    address: str
    method: str
    metadata: tuple[tuple[str, str], ...]
    requests: list[bytes]
    in_flight: int
    streams: int
    """Over how many streams; 0 for unary calls. A message and its answer count as a call."""
    warm_up_seconds: float
    seconds: float


class Report(msgspec.Struct):
    """What came of it, without the warm-up."""

    all_calls: int
    """With those of the warm-up."""
    calls_per_second: float
    p50_ms: float
    p99_ms: float
    caller_cpu_share: float
    """Of one core; near 1 it is the caller that is measured."""


async def _call(plan: Plan) -> Report:
    latencies: list[float] = []
    requests = cycle(plan.requests)
    async with grpc.aio.insecure_channel(plan.address) as channel:
        method: Any = (channel.stream_stream if plan.streams else channel.unary_unary)(plan.method)

        async def call(until: float) -> None:
            while (begun := perf_counter()) < until:
                await method(next(requests), metadata=plan.metadata, timeout=_TIMEOUT_SECONDS)
                latencies.append(perf_counter() - begun)

        async def stream(until: float) -> None:
            """Send the next message as an answer comes; they come in the order of the messages."""
            stream: Any = method(metadata=plan.metadata, timeout=_TIMEOUT_SECONDS)
            sent: deque[float] = deque()

            async def send() -> None:
                sent.append(perf_counter())
                await stream.write(next(requests))

            for _ in range(plan.in_flight // plan.streams):
                await send()
            while sent:
                if await stream.read() is grpc.aio.EOF:
                    raise RuntimeError(f"the stream ended with {await stream.code()}")
                latencies.append(perf_counter() - sent.popleft())
                if perf_counter() < until:
                    await send()
            await stream.done_writing()

        async def call_for(seconds: float) -> float:
            begun = perf_counter()
            callers = [stream] * plan.streams or [call] * plan.in_flight
            await asyncio.gather(*(each(begun + seconds) for each in callers))
            return perf_counter() - begun

        await call_for(plan.warm_up_seconds)
        warm_up_calls = len(latencies)
        latencies.clear()
        cpu_before = process_time()
        seconds = await call_for(plan.seconds)
        cpu_seconds = process_time() - cpu_before
    latencies.sort()
    return Report(
        all_calls=warm_up_calls + len(latencies),
        calls_per_second=len(latencies) / seconds,
        p50_ms=latencies[len(latencies) // 2] * 1000,
        p99_ms=latencies[len(latencies) * 99 // 100] * 1000,
        caller_cpu_share=cpu_seconds / seconds,
    )


if __name__ == "__main__":
    plan = msgspec.json.decode(Path(sys.argv[1]).read_bytes(), type=Plan)
    print(msgspec.json.encode(uvloop.run(_call(plan))).decode())
