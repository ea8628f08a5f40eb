"""A look is recorded before it is granted, and once in a while."""

from collections.abc import Sequence
from datetime import timedelta

import pytest

from tests.support.quota_events import NOW
from tokenomics_contracts.units import SubjectId
from tokenomics_quota.domain.looks import Basis, Look, RecordedLook
from tokenomics_quota.usecases import looking
from tokenomics_quota.usecases.looking import MERGED_FOR, Looking


class Log:
    def __init__(self) -> None:
        self.recorded: list[Look] = []
        self.is_away = False

    async def record(self, looks: Sequence[Look]) -> None:
        if self.is_away:
            raise ConnectionError
        self.recorded += looks

    async def looks_at(self, subject: str, *, before: int | None, limit: int) -> Sequence[RecordedLook]:
        raise NotImplementedError


def look(subject: str = "ada", basis: Basis = Basis.MANAGER) -> Look:
    return Look(SubjectId("boss"), "portal", SubjectId(subject), "/s/GetBalance", basis)


async def test_one_record_stands_for_equal_looks_until_it_is_old() -> None:
    log = Log()
    looks = Looking(log)
    await looks.record([look(), look(), look("eve")], NOW)
    await looks.record([look(), look(basis=Basis.GOVERNANCE)], NOW + MERGED_FOR)
    assert log.recorded == [look(), look("eve"), look(basis=Basis.GOVERNANCE)]
    await looks.record([look()], NOW + MERGED_FOR + timedelta(seconds=1))
    assert log.recorded[3:] == [look()]


async def test_what_could_not_be_recorded_is_recorded_when_it_is_asked_again() -> None:
    log = Log()
    looks = Looking(log)
    log.is_away = True
    with pytest.raises(ConnectionError):
        await looks.record([look()], NOW)
    log.is_away = False
    await looks.record([look()], NOW)
    assert log.recorded == [look()]


async def test_of_too_many_remembered_looks_the_oldest_is_recorded_anew(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(looking, "MOST_MERGED", 2)
    log = Log()
    looks = Looking(log)
    for subject in ("a", "b", "c", "b", "a"):
        await looks.record([look(subject)], NOW)
    assert [each.subject for each in log.recorded] == ["a", "b", "c", "a"]
