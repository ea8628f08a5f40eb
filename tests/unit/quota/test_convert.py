"""What a request costs the server beside its answer."""

import tracemalloc

import pytest

from tokenomics.quota.v1 import quota_pb2 as pb
from tokenomics_chassis.rpc.errors import InvalidRequestError
from tokenomics_quota.rpc.convert import call_from_pb

LONG = 1_000_000


@pytest.mark.parametrize("field", ["subject", "provider", "model", "project", "use_case", "data_class"])
def test_a_refused_request_leaves_nothing_in_memory_however_long_it_is(field: str) -> None:
    tracemalloc.start()
    try:
        for number in range(10):
            fields = {
                "subject": "ada",
                "provider": "acme",
                "model": "one",
                field: f"{number}".ljust(LONG, "x"),
            }
            with pytest.raises(InvalidRequestError):
                call_from_pb(pb.CheckQuotaRequest(**fields))  # type: ignore[arg-type] # the fields of the request
        left, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert left < 2 * LONG  # the last request is still ours
