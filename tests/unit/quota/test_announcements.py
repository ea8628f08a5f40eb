"""What the own topic says was announced is read as it was written, or refused."""

from typing import Any
from uuid import UUID

import pytest
from pydantic import ValidationError

from tests.support.quota_events import NOW, record
from tokenomics_chassis.outbox import OutboxEvent
from tokenomics_chassis.records import Record
from tokenomics_contracts.events.quota import Ground, ParkedSkipped, ThresholdCrossed
from tokenomics_contracts.rejection import EventRejected
from tokenomics_quota.ports import Announcement
from tokenomics_quota.streams.events import announcement_event, announcement_from_record, announcement_id


def crossed(**fields: Any) -> ThresholdCrossed:
    defaults: dict[str, Any] = {
        "account_id": "subject/ada/all/2026-11",
        "kind": "subject",
        "owner_id": "ada",
        "purpose": "all",
        "period": "2026-11",
        "threshold_basis_points": 7_000,
        "band": "nudge",
        "limit_micro_usd": 200,
        "posted_micro_usd": 150,
    }
    return ThresholdCrossed(**(defaults | fields))


def heard(event: OutboxEvent) -> Record:
    return Record(event.topic, 0, 0, 0, event.key, event.value, tuple(event.headers))


def test_an_announcement_is_read_as_it_was_made() -> None:
    event = announcement_event(crossed(), NOW)
    assert announcement_from_record(heard(event)) == (
        announcement_id(crossed()),
        Announcement(crossed(), NOW),
    )
    assert dict(event.headers)["ce_id"] == str(announcement_id(crossed())).encode()


def test_the_id_of_a_threshold_is_that_of_earlier_versions() -> None:
    assert announcement_id(crossed()) == UUID("0a3d0cc1-a893-5869-8346-4a84695834d3")


def test_an_announcement_is_another_when_limit_or_threshold_is_and_not_when_the_amount_is() -> None:
    assert announcement_id(crossed(posted_micro_usd=160)) == announcement_id(crossed())
    others = [crossed(limit_micro_usd=190), crossed(threshold_basis_points=7_100)]
    assert len({announcement_id(each) for each in (crossed(), *others)}) == 3


def test_other_events_of_the_own_topic_announce_nothing() -> None:
    skipped = ParkedSkipped(
        topic="t", partition=0, offset=1, reason_code="not_an_event", ticket_id="OPS-1", decided_by="op"
    )
    assert announcement_from_record(record(skipped, "s")) is None


def test_an_announcement_that_is_not_true_in_itself_can_be_neither_made_nor_read() -> None:
    with pytest.raises(ValidationError, match="below its bound"):
        crossed(posted_micro_usd=139)
    assert crossed(posted_micro_usd=140).ground == Ground(140, 200, 7_000)
    event = announcement_event(crossed(), NOW)
    lying = event._replace(
        value=(event.value or b"").replace(b'"posted_micro_usd":150', b'"posted_micro_usd":139')
    )
    with pytest.raises(EventRejected, match="below its bound"):
        announcement_from_record(heard(lying))


def test_a_damaged_record_is_refused() -> None:
    event = announcement_event(crossed(), NOW)
    with pytest.raises(EventRejected):
        announcement_from_record(heard(event._replace(value=(event.value or b"")[:-1])))
