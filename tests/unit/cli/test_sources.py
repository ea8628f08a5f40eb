"""What operators are shown of sources of events."""

import json
from collections.abc import Iterator
from datetime import timedelta

import grpc
import pytest

from tests.support.answering import answering
from tokenomics.quota.v1 import quota_pb2
from tokenomics_cli.app import run


class Quota:
    """Tells of sources, and remembers which it was asked for."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.answer = quota_pb2.GetSourceStatusResponse()

    def status(
        self, request: quota_pb2.GetSourceStatusRequest, _context: grpc.ServicerContext
    ) -> quota_pb2.GetSourceStatusResponse:
        self.asked.append(request.source)
        return self.answer


@pytest.fixture
def quota(monkeypatch: pytest.MonkeyPatch) -> Iterator[Quota]:
    servicer = Quota()
    with answering(monkeypatch, {"GetSourceStatus": servicer.status}):
        yield servicer


def test_sources_are_listed_and_a_silent_one_is_an_answer_of_no(
    quota: Quota, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["ops", "sources"]) == 0
    assert "no source is known" in capsys.readouterr().out
    one = quota.answer.sources.add(source="//gw", owner_id="ada", events_last_day=41, parked_events=2)
    one.last_event_at.FromJsonString("2026-11-20T12:00:00Z")
    one.median_delay.FromTimedelta(timedelta(milliseconds=80))
    assert run(["ops", "sources", "//gw"]) == 0
    printed = capsys.readouterr().out
    assert all(told in printed for told in ("//gw", "ada", "2026-11-20T12:00:00Z", "80 ms", "41", "2"))
    quota.answer.sources.add(source="//ide", silent=True)
    assert run(["ops", "sources", "--json"]) == 1
    told = json.loads(capsys.readouterr().out)
    assert [each["source"] for each in told] == ["//gw", "//ide"]
    assert run(["ops", "sources"]) == 1
    printed = capsys.readouterr().out
    assert "never" in printed
    assert "silent" in printed
    assert quota.asked == ["", "//gw", "", ""]


def test_a_delay_of_hours_is_told_as_such(quota: Quota, capsys: pytest.CaptureFixture[str]) -> None:
    quota.answer.sources.add(source="//gw").median_delay.FromTimedelta(timedelta(hours=3, seconds=7))
    assert run(["ops", "sources"]) == 0
    assert "3:00:07" in capsys.readouterr().out
