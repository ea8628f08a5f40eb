"""What of quota's own topic becomes facts: what callers said their holds cost."""

from datetime import timedelta

import pytest

from tests.support.quota_events import NOW, record, settled, usage
from tokenomics_contracts.rejection import EventRejected, RejectionCode
from tokenomics_quota.projections.facts import Received
from tokenomics_quota.streams.decoding import own_event_from_record


def test_what_a_caller_said_is_a_fact_of_the_hold_whatever_the_events_id() -> None:
    one = own_event_from_record(record(settled("h", 7), "e1"))
    other = own_event_from_record(record(settled("h", 7), "e2", offset=5))
    assert isinstance(one, Received)
    assert isinstance(other, Received)
    assert (one.identity, one.digest) == (other.identity, other.digest)
    assert (one.event_kind, one.reported_cost_micro_usd, one.hold_id) == ("provisional", 7, "h")
    assert one.names is None


def test_what_usage_had_a_hold_cost_is_no_fact_and_neither_are_other_events() -> None:
    assert own_event_from_record(record(settled("h", 7, usage_identity="0" * 32), "e")) is None
    assert own_event_from_record(record(usage(hold_id="h"), "e")) is None


def test_what_a_caller_said_counts_no_more_when_it_comes_too_late() -> None:
    late = record(settled("h", 7), "e", time=NOW - timedelta(days=63))
    with pytest.raises(EventRejected) as caught:
        own_event_from_record(late)
    assert caught.value.code == RejectionCode.TOO_LATE
