"""What the own topic says was announced is read as it was written, or refused."""

import pytest

from tests.support.quota_events import NOW, record
from tokenomics_chassis.outbox import OutboxEvent
from tokenomics_chassis.records import Record
from tokenomics_contracts.events.quota import ParkedSkipped
from tokenomics_contracts.rejection import EventRejected
from tokenomics_contracts.units import BasisPoints, MicroUsd, PeriodId
from tokenomics_quota.domain.accounts import Account, AccountKind, Purpose
from tokenomics_quota.domain.friction import Band
from tokenomics_quota.ports import Announcement, DueThreshold
from tokenomics_quota.streams.events import announcement_from_record, threshold_event

ACCOUNT = Account(AccountKind.SUBJECT, "ada", Purpose.ALL, PeriodId("2026-11"))
DUE = DueThreshold(ACCOUNT, Band.NUDGE, BasisPoints(7_000), MicroUsd(200), MicroUsd(150))


def heard(event: OutboxEvent) -> Record:
    return Record(event.topic, 0, 0, 0, event.key, event.value, tuple(event.headers))


def test_an_announcement_is_read_as_it_was_made() -> None:
    announcement_id, event = threshold_event(DUE, NOW)
    assert announcement_from_record(heard(event)) == Announcement(
        announcement_id, ACCOUNT.account_id, BasisPoints(7_000), MicroUsd(200), MicroUsd(150), NOW
    )


def test_other_events_of_the_own_topic_announce_nothing() -> None:
    skipped = ParkedSkipped(
        topic="t", partition=0, offset=1, reason_code="not_an_event", ticket_id="OPS-1", decided_by="op"
    )
    assert announcement_from_record(record(skipped, "s")) is None


def test_an_announcement_that_is_not_true_in_itself_is_refused() -> None:
    _, event = threshold_event(DUE._replace(posted_micro_usd=MicroUsd(139)), NOW)
    with pytest.raises(EventRejected, match="below the threshold"):
        announcement_from_record(heard(event))


def test_a_damaged_record_is_refused() -> None:
    _, event = threshold_event(DUE, NOW)
    with pytest.raises(EventRejected):
        announcement_from_record(heard(event._replace(value=(event.value or b"")[:-1])))
