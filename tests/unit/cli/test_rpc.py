"""A failed call says what the service said, and gives the shell the right code."""

from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from google.rpc import code_pb2, error_details_pb2

from tests.support.answering import answering, refuse
from tokenomics.quota.v1 import quota_pb2
from tokenomics_cli.app import run


class Quota:
    """Answers checks as the subject's name asks, and remembers who asked."""

    def __init__(self) -> None:
        self.metadata: dict[str, str | bytes] = {}
        self.request = quota_pb2.CheckQuotaRequest()
        self.answer = quota_pb2.CheckQuotaResponse()
        self.limit = 0

    def check(
        self, request: quota_pb2.CheckQuotaRequest, context: grpc.ServicerContext
    ) -> quota_pb2.CheckQuotaResponse:
        self.metadata = dict(context.invocation_metadata())
        self.request = request
        if request.subject in code_pb2.Code.keys():  # noqa: SIM118 - not a mapping
            info = error_details_pb2.ErrorInfo(reason="WHY", domain="test")
            fields = error_details_pb2.BadRequest(field_violations=[{"field": "model", "description": "odd"}])
            retry = error_details_pb2.RetryInfo(retry_delay={"seconds": 2})
            more = (retry,) if request.subject == "UNAVAILABLE" else ()
            refuse(context, code_pb2.Code.Value(request.subject), "no", info, fields, *more)
        decision = quota_pb2.Decision.Value(f"DECISION_{request.subject}")
        self.answer.decision = decision
        return self.answer

    def suggest(
        self, request: quota_pb2.SuggestAlternativesRequest, _context: grpc.ServicerContext
    ) -> quota_pb2.SuggestAlternativesResponse:
        self.request, self.limit = request.call, request.limit
        return quota_pb2.SuggestAlternativesResponse(nudge=self.answer.nudge, estimated_cost_micro_usd=16_500)


@pytest.fixture
def quota(monkeypatch: pytest.MonkeyPatch) -> Iterator[Quota]:
    servicer = Quota()
    with answering(monkeypatch, {"CheckQuota": servicer.check, "SuggestAlternatives": servicer.suggest}):
        yield servicer


def check(subject: str, *options: str) -> int:
    return run(["quota", "check", subject, "--provider", "openai", "--model", "gpt-4o", *options])


@pytest.mark.parametrize(
    ("decision", "code"),
    [
        ("ALLOW", 0),
        ("ALLOW_WITH_NUDGE", 0),
        ("JUSTIFICATION_REQUIRED", 10),
        ("APPROVAL_REQUIRED", 11),
        ("DENIED", 1),
    ],
)
@pytest.mark.usefixtures("quota")
def test_each_decision_has_its_exit_code(
    decision: str, code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    assert check(decision) == code
    assert decision in capsys.readouterr().out


@pytest.mark.parametrize(
    ("status", "code"),
    [
        ("UNAUTHENTICATED", 77),
        ("PERMISSION_DENIED", 77),
        ("INVALID_ARGUMENT", 65),
        ("NOT_FOUND", 1),
        ("FAILED_PRECONDITION", 1),
        ("UNAVAILABLE", 69),
        ("UNIMPLEMENTED", 69),
        ("INTERNAL", 70),
    ],
)
@pytest.mark.usefixtures("quota")
def test_each_status_has_its_exit_code_and_the_services_own_words(
    status: str, code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    assert check(status) == code
    said = capsys.readouterr()
    assert f"{status} (WHY): no; model: odd" in said.err
    assert said.out == ""


def test_the_caller_and_the_person_it_asks_for_travel_with_the_call(quota: Quota) -> None:
    assert check("ALLOW", "--on-behalf-of", "p-1") == 0
    assert quota.metadata["authorization"] == "Bearer the-token"
    assert quota.metadata["tokenomics-on-behalf-of"] == "p-1"


def test_a_token_may_come_from_a_file(quota: Quota, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TOKENOMICS_TOKEN")
    (tmp_path / "token").write_text("from-file\n")
    assert check("ALLOW", "--token-file", str(tmp_path / "token")) == 0
    assert quota.metadata["authorization"] == "Bearer from-file"


def test_nobody_there_is_unavailable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOKENOMICS_QUOTA_ADDRESS", "127.0.0.1:1")
    monkeypatch.setenv("TOKENOMICS_TOKEN", "the-token")
    assert check("ALLOW") == 69


def test_a_token_never_leaves_this_machine_in_the_clear(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TOKENOMICS_QUOTA_ADDRESS", "quota.example:443")
    monkeypatch.setenv("TOKENOMICS_TOKEN", "the-token")
    assert check("ALLOW") == 2
    assert "TOKENOMICS_QUOTA_TLS_CA" in capsys.readouterr().err


def test_a_missing_setting_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("TOKENOMICS_QUOTA_ADDRESS", raising=False)
    assert check("ALLOW", "--json") == 2
    assert "TOKENOMICS_QUOTA_ADDRESS is not set" in capsys.readouterr().err


def test_a_place_is_written_topic_partition_offset(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TOKENOMICS_QUOTA_ADDRESS", "127.0.0.1:1")
    assert run(["ops", "skip", "somewhere", "--reason", "r", "--ticket", "t"]) == 2
    assert "topic/partition/offset" in capsys.readouterr().err


def test_a_retry_names_exactly_one_selection() -> None:
    assert run(["ops", "retry", "--reason", "r", "--ticket", "t"]) == 2
    assert run(["ops", "retry", "t/0/1", "--all", "--reason", "r", "--ticket", "t"]) == 2


def test_a_check_says_how_fresh_it_must_be(quota: Quota) -> None:
    places = ("--at-least-as-fresh", "usage/0=7", "--at-least-as-fresh", "usage/1=9")
    assert check("ALLOW", *places) == 0
    assert dict(quota.request.at_least_as_fresh.next_offsets) == {"usage/0": 7, "usage/1": 9}
    assert check("ALLOW", "--fully-consistent") == 0
    assert quota.request.fully_consistent
    assert check("ALLOW", "--fully-consistent", *places) == 2


@pytest.mark.parametrize(
    "place", ["usage/0", "=1", "usage/0=-1", "usage/0=x", "usage/0=99999999999999999999"]
)
@pytest.mark.usefixtures("quota")
def test_a_place_that_is_none_is_refused_before_the_call(place: str) -> None:
    assert check("ALLOW", "--at-least-as-fresh", place) == 2


def test_what_of_a_limit_is_granted_and_lent_is_shown(
    quota: Quota, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    account = quota.answer.accounts.add(account_id="subject/p-1/all/2026-11", limit_micro_usd=250)
    assert check("ALLOW") == 0
    assert "lent" not in capsys.readouterr().out
    account.grants_micro_usd, account.overdraft_micro_usd = 50, 20
    assert check("ALLOW") == 0
    assert "$0.000250  $0.000050 (lent: $0.000020)" in capsys.readouterr().out


def test_a_stale_answer_says_so_and_how_far_calls_go_on(
    quota: Quota, capsys: pytest.CaptureFixture[str]
) -> None:
    assert check("ALLOW") == 0
    assert "stale" not in capsys.readouterr().out
    quota.answer.freshness.stale = True
    quota.answer.degradation.cap_micro_usd, quota.answer.degradation.remaining_micro_usd = (
        5_000_000,
        1_500_000,
    )
    assert check("ALLOW") == 0
    printed = capsys.readouterr().out
    assert "stale" in printed
    assert "$1.500000 more of $5.000000" in printed


@pytest.mark.usefixtures("quota")
def test_the_hint_is_the_services_own_time_to_try_again(capsys: pytest.CaptureFixture[str]) -> None:
    assert check("UNAVAILABLE") == 69
    assert "try again in 2 s" in capsys.readouterr().err


ADVICE = quota_pb2.Nudge(
    text="Nearly used up. acme small would cost less.",
    cheaper_models=[
        quota_pb2.CheaperModel(provider="acme", model="small", saving_micro_usd=11_000),
    ],
    cached_input=quota_pb2.CachedInput(saving_micro_usd=10_800, pays_from_calls=2),
    batch_tier=quota_pb2.BatchTier(saving_micro_usd=8_251),
    shorter_context=quota_pb2.ShorterContext(input_tokens=3_900, saving_micro_usd=300),
)
SAVINGS = (
    "acme small",
    "$0.011000",
    "pays from 2 calls",
    "$0.010800",
    "$0.008251",
    "3900 input",
    "$0.000300",
)


def test_a_check_and_a_suggestion_print_each_cheaper_way_and_what_it_saves(
    quota: Quota, capsys: pytest.CaptureFixture[str]
) -> None:
    quota.answer.nudge.CopyFrom(ADVICE)
    quota.answer.reasons.add(message="Nearly used up.")
    assert check("ALLOW_WITH_NUDGE") == 0
    printed = capsys.readouterr().out
    assert printed.count("Nearly used up.") == 1
    assert all(saving in printed for saving in SAVINGS)
    assert suggest("p-1", "--limit", "5") == 0
    printed = capsys.readouterr().out
    assert "about $0.016500" in printed
    assert all(saving in printed for saving in SAVINGS)
    assert quota.limit == 5


def test_a_suggestion_says_when_nothing_better_is_known(
    quota: Quota, capsys: pytest.CaptureFixture[str]
) -> None:
    assert (
        suggest("p-1", "--input-tokens", "10", "--cached-input-tokens", "4", "--service-tier", "batch") == 0
    )
    assert "nothing better is known" in capsys.readouterr().out
    assert quota.limit == 3
    asked = (quota.request.estimated_cached_input_tokens, quota.request.service_tier)
    assert asked == (4, quota_pb2.SERVICE_TIER_BATCH)


@pytest.mark.parametrize(
    "option",
    [
        ("--limit", "0"),
        ("--limit", "21"),
        ("--limit", "x"),
        ("--input-tokens", "-1"),
        ("--cached-input-tokens", "-1"),
        ("--output-tokens", "1.5"),
        ("--service-tier", "express"),
    ],
)
@pytest.mark.usefixtures("quota")
def test_a_wrong_argument_is_refused_before_the_call_and_named(
    option: tuple[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert suggest("p-1", *option) == 2
    assert option[0] in capsys.readouterr().err


def suggest(subject: str, *options: str) -> int:
    return run(["quota", "suggest", subject, "--provider", "openai", "--model", "gpt-4o", *options])
