"""What freshness a check asks for, and waiting for it."""

from collections.abc import Sequence
from functools import cache, reduce
from typing import Any, Final, cast

import grpc

from tokenomics.quota.v1 import quota_pb2 as pb
from tokenomics_chassis.rpc.errors import InvalidRequestError, RpcError
from tokenomics_contracts.catalogue import topics
from tokenomics_quota.usecases.freshening import Freshening, Want, give_up_at

LEDGER: Final = "ledger"
"""The aggregate that tokens name: the hold ledger is one line of changes."""


def is_content(check: pb.CheckQuotaRequest) -> bool:
    """Whether a check takes the view as it is."""
    return check.WhichOneof("consistency") is None


def seconds_left(context: grpc.aio.ServicerContext[Any, Any], without_deadline: float) -> float:
    """Return how long a call may still take."""
    left = cast("float | None", context.time_remaining())  # its stub leaves out that there may be none
    return without_deadline if left is None else left


async def as_fresh_as_asked(
    freshening: Freshening, checks: Sequence[pb.CheckQuotaRequest], seconds: float
) -> dict[int, RpcError]:
    """Wait, once for all of the checks, until the view that serves is as fresh as they ask for.

    Returns
    -------
    dict
        Why a check can't be answered, by its place among the checks; empty when all can.
    """
    failures: dict[int, RpcError] = {}
    wants: dict[int, Want] = {}
    of_everything: list[int] = []
    until = give_up_at(seconds)
    for place, check in enumerate(checks):
        try:
            match check.WhichOneof("consistency"):
                case "at_least_as_fresh":
                    wants[place] = _want_from_pb(check.at_least_as_fresh)
                case "fully_consistent" if check.fully_consistent:
                    of_everything.append(place)
                case "fully_consistent" | "minimize_latency" as field if not getattr(check, field):
                    raise InvalidRequestError({field: "must be true when set"})
        except RpcError as error:
            failures[place] = error
    if of_everything:
        try:
            wants |= dict.fromkeys(of_everything, await freshening.everything_now(until))
        except RpcError as error:
            failures |= dict.fromkeys(of_everything, error)
    if wants:
        try:
            await freshening.until(reduce(Want.and_also, wants.values()), until)
        except RpcError as error:
            failures |= {place: error for place, want in wants.items() if not freshening.has(want)}
    return failures


def _want_from_pb(token: pb.FreshnessToken) -> Want:
    """Read what the view must have applied.

    Raises
    ------
    InvalidRequestError
        Naming every entry that is wrong.
    """
    offsets = dict(token.next_offsets)
    violations = {
        f"at_least_as_fresh.next_offsets[{partition}]": "must not be negative"
        if partition in _partitions()
        else "must be keyed by a topic that quota reads and one of its partitions, as topic/partition"
        for partition, offset in offsets.items()
        if offset < 0 or partition not in _partitions()
    }
    if token.aggregate_id not in {"", LEDGER}:
        violations["at_least_as_fresh.aggregate_id"] = f"must be {LEDGER}, or empty"
    change_seq = token.aggregate_version
    if change_seq < 0 or (change_seq and not token.aggregate_id):
        violations["at_least_as_fresh.aggregate_version"] = "must not be negative, and goes with aggregate_id"
    if violations:
        raise InvalidRequestError(violations)
    return Want(offsets, ledger_change_seq=change_seq)


@cache
def _partitions() -> frozenset[str]:
    """Name the partitions that a view has positions of; how many a topic has is fixed for its life."""
    return frozenset(f"{topic.name}/{number}" for topic in topics() for number in range(topic.partitions))
