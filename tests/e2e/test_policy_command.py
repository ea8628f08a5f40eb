"""Policies from file to force: tried, proposed, published, compared and taken back, on the service itself."""

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tokenomics_cli.app import run
from tokenomics_cli.kafka import read_events
from tokenomics_cli.policy_log import POLICY_TOPIC
from tokenomics_contracts.events.policy import PolicyPublished
from tokenomics_tools.stack import GOVERNANCE, Source, Stack, start_stack
from tokenomics_tools.stack.processes import poll
from tokenomics_tools.stack.services import QuotaProcesses, quota_processes

pytestmark = pytest.mark.timeout(300)

SINCE = "2026-01-01T00:00:00Z"
HOLDS: dict[str, Any] = {
    "name": "support at 95 %",
    "role": "support",
    "spent": [{"account": "subject", "basis_points": 9_500}],
    "expect": "JUSTIFICATION_REQUIRED",
}
FAILS = HOLDS | {"expect": "ALLOW"}


@pytest.fixture(scope="module")
def services() -> Iterator[tuple[Stack, QuotaProcesses]]:
    with (
        start_stack(Source.EMBEDDED) as stack,
        quota_processes(stack, stack.new_database("quota")) as quota,
    ):
        yield stack, quota


@pytest.fixture(autouse=True)
def log(services: tuple[Stack, QuotaProcesses], monkeypatch: pytest.MonkeyPatch) -> str:
    stack, quota = services
    monkeypatch.setenv("TOKENOMICS_KAFKA_BOOTSTRAP", stack.kafka.bootstrap)
    monkeypatch.setenv("TOKENOMICS_QUOTA_ADDRESS", quota.address)
    monkeypatch.setenv("TOKENOMICS_TOKEN", stack.issuer.token(GOVERNANCE))
    monkeypatch.setenv("COLUMNS", "200")
    return stack.kafka.bootstrap


class Command:
    """The command, on policy files that a test writes."""

    def __init__(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self._folder = folder
        self._capsys = capsys
        self.printed = ""
        self.complaint = ""

    def next(self, kind: str, document: dict[str, Any]) -> str:
        """Write a file that may be published next."""
        return self.file(kind, (self.newest(kind) or 0) + 1, document)

    def newest(self, kind: str) -> int | None:
        listed = {each["kind"]: each["version"] for each in self.json("show")}
        return listed.get(kind)

    def file(self, kind: str, version: int, document: dict[str, Any]) -> str:
        path = self._folder / f"{kind}-{version}.yaml"
        policy = {"kind": kind, "version": version, "effective_from": SINCE, "document": document}
        replaces = {"replaces": version - 1} if version > 1 else {}
        path.write_text(yaml.safe_dump(policy | replaces, sort_keys=False))
        return str(path)

    def __call__(self, *arguments: str) -> int:
        code = run(["policy", *arguments])
        self.printed, self.complaint = self._capsys.readouterr()
        return code

    def json(self, *arguments: str) -> Any:
        assert self(*arguments, "--json") in {0, 1}, self.complaint
        return json.loads(self.printed)


@pytest.fixture
def policy(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Command:
    return Command(tmp_path, capsys)


def quota(limit: int = 30_000_000, *examples: dict[str, Any]) -> dict[str, Any]:
    allowances = [{"role": "support", "limit_micro_usd": limit}]
    return {"time_zone": "UTC", "allowances": allowances, "examples": list(examples)}


def versions(bootstrap: str, kind: str) -> list[tuple[int, int | None]]:
    events = asyncio.run(read_events(bootstrap, POLICY_TOPIC, PolicyPublished))
    return [(event.version, event.replaces) for _, event in events if event.kind == kind]


def test_a_quota_policy_is_published_only_when_its_examples_hold(
    policy: Command, log: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = versions(log, "quota")
    broken = policy.next("quota", quota(1_000, HOLDS, FAILS | {"name": "wrong"}))
    assert policy("test", broken) == 1
    assert "support at 95 %" in policy.printed
    assert "quota, example 'wrong': should be ALLOW, is JUSTIFICATION_REQUIRED" in policy.complaint
    assert policy("apply", broken) == 1
    homeless = policy.next("quota", quota(1_000, HOLDS | {"role": "nobody"}))
    assert policy("test", homeless) == 65
    assert "document.examples.0.spent.0.basis_points: should be micro_usd" in policy.complaint
    assert policy("apply", homeless) == 65
    good = policy.next("quota", quota(1_000, HOLDS))
    assert policy("test", good) == 0
    with monkeypatch.context() as alone:
        alone.setenv("TOKENOMICS_QUOTA_ADDRESS", "127.0.0.1:1")
        assert policy("test", good) == 69
        assert policy("apply", good) == 69
        assert "the examples can't be judged" in policy.complaint
        assert "--without-examples" in policy.complaint
        alone.delenv("TOKENOMICS_QUOTA_ADDRESS")
        assert policy("apply", good) == 2
    assert versions(log, "quota") == before
    assert policy("apply", good) == 0
    assert policy("apply", good) == 0, "publishing it again changes nothing"
    assert len(versions(log, "quota")) == len(before) + 1


def test_what_promises_nothing_or_is_published_unjudged_needs_no_service(
    policy: Command, log: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = len(versions(log, "quota"))
    monkeypatch.delenv("TOKENOMICS_QUOTA_ADDRESS")
    assert policy("apply", policy.next("sources", {"sources": []})) == 0
    assert policy("apply", policy.next("quota", quota(2_000, FAILS)), "--without-examples") == 0
    assert len(versions(log, "quota")) == before + 1


def test_files_are_judged_together_and_published_together_or_not_at_all(policy: Command, log: str) -> None:
    use_cases = policy.file("use_cases", 1, {"use_cases": [], "unregistered": "deny"})
    example = {"name": "unregistered", "role": "support", "use_case": "x", "expect": "DENIED"}
    promising = policy.next("quota", quota(3_000, example))
    assert policy("test", promising) == 1, "no use cases are in force"
    assert policy("test", promising, use_cases) == 0
    bad = policy.file("baseline", 1, {"acceptable_use": " "})
    before = versions(log, "quota")
    assert policy("apply", promising, use_cases, bad) == 65
    assert "baseline-1.yaml, line " in policy.complaint
    assert versions(log, "use_cases") == []
    assert versions(log, "quota") == before
    assert policy("apply", promising, use_cases) == 0
    assert versions(log, "use_cases") == [(1, None)]
    assert policy.json("show", "use_cases")["document"]["unregistered"] == "deny"


def test_a_comparison_tells_what_changes_for_whom(policy: Command) -> None:
    assert policy("apply", policy.next("quota", quota(4_000))) == 0
    newest = policy.newest("quota") or 0
    file = policy.next("quota", quota(5_000) | {"default_allowance_micro_usd": 7})
    assert policy("diff", file, "--no-text") == 1
    assert [line.strip() for line in policy.printed.splitlines()] == [
        f"quota: version {newest} -> {newest + 1}, from {SINCE}",
        "allowances[support].limit_micro_usd: 4_000 -> 5_000",
        "default_allowance_micro_usd: (none) -> 7",
        "touches roles: support",
        "touches everybody",
    ]
    assert policy("diff", file) == 1
    assert "+  default_allowance_micro_usd: 7" in policy.printed
    compared = policy.json("diff", file)["quota"]
    assert compared["changes"][1] == {"path": "default_allowance_micro_usd", "old": None, "new": 7}
    assert compared["touches"] == {"roles": ["support"], "everybody": ["everybody"]}
    assert "+  default_allowance_micro_usd: 7" in compared["text"]
    assert policy("apply", file) == 0
    assert policy("diff", file) == 0
    assert policy.printed == ""


def test_an_earlier_version_is_published_again_as_a_new_one(policy: Command, log: str) -> None:
    assert policy("apply", policy.file("baseline", 1, {"acceptable_use": "Think first."})) == 0
    assert policy("rollback", "baseline") == 1
    assert "baseline version 1 is the first: nothing was before it" in policy.complaint
    assert policy("apply", policy.file("baseline", 2, {"acceptable_use": "Think twice."})) == 0
    assert policy.json("rollback", "baseline") == [{"kind": "baseline", "version": 3, "published": True}]
    restored = policy.json("show", "baseline")
    assert (restored["replaces"], restored["document"]["acceptable_use"]) == (2, "Think first.")
    assert policy("rollback", "baseline", "--to", "1") == 1
    assert "version 3, the newest, says what version 1 says" in policy.complaint
    assert policy("rollback", "baseline", "--to", "9") == 1
    assert "baseline version 9 is not published" in policy.complaint
    assert policy("show", "baseline", "--version", "9") == 1
    assert "baseline version 9 is not published" in policy.complaint
    assert policy("rollback", "scoring") == 1
    assert "scoring is not published" in policy.complaint
    assert policy("rollback", "baseline", "--to", "2", "--effective-from", "tomorrow") == 2
    assert policy("rollback", "baseline", "--to", "2", "--effective-from", "2199-01-01T00:00:00Z") == 0
    assert versions(log, "baseline") == [(1, None), (2, 1), (3, 2), (4, 3)]
    listed = policy.json("show", "baseline", "--history")
    assert [(each["version"], each["state"]) for each in listed] == [
        (1, "superseded"),
        (2, "superseded"),
        (3, "in force"),
        (4, "to come"),
    ]


def test_a_rollback_to_rules_that_no_longer_keep_their_promise_is_refused(policy: Command, log: str) -> None:
    assert policy("apply", policy.next("quota", quota(6_000, FAILS)), "--without-examples") == 0
    assert policy("apply", policy.next("quota", quota(7_000))) == 0
    before = versions(log, "quota")
    assert policy("rollback", "quota") == 1
    assert "should be ALLOW, is JUSTIFICATION_REQUIRED" in policy.complaint
    assert versions(log, "quota") == before
    assert policy("rollback", "quota", "--without-examples") == 0
    assert len(versions(log, "quota")) == len(before) + 1


def test_a_proposal_is_kept_with_the_service_until_governance_publishes_it(
    policy: Command, tmp_path: Path
) -> None:
    assert policy("apply", policy.next("sources", {"sources": []})) == 0
    file = policy.next("sources", {"sources": [{"source": "//new", "owner_id": "p-1"}]})

    def proposed() -> bool:  # once the service has seen what was published
        return policy("propose", file) == 0

    assert poll(proposed, timeout_seconds=30), policy.complaint
    ((proposal_id, kind),) = [each.values() for each in policy.json("propose", file)]
    assert kind == "sources"
    (listed,) = policy.json("proposals", "--kind", "sources")
    assert (listed["proposal_id"], listed["outdated"]) == (proposal_id, False)
    assert listed["policy"]["document"]["sources"][0]["source"] == "//new"
    assert policy("proposals") == 0
    assert proposal_id in policy.printed
    assert policy("proposals", proposal_id) == 0
    adopted = tmp_path / "adopted.yaml"
    adopted.write_text(policy.printed)
    assert policy("apply", str(adopted)) == 0
    assert policy.json("show", "sources")["document"]["sources"][0]["source"] == "//new"
    assert poll(lambda: policy.json("proposals", proposal_id)[0]["outdated"], timeout_seconds=30)
    assert policy("proposals", "nothing") == 1


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["show", "--version", "1"], "--version goes with a kind, and not with --history"),
        (["show", "quota", "--history", "--version", "1"], "--version goes with a kind"),
        (["show", "quota", "--version", "0"], "should be greater than or equal to 1"),
        (["show", "unheard-of"], "unheard-of is not published"),
        (["rollback", "quota", "--to", "0"], "should be greater than or equal to 1"),
        (["rollback", "quota", "--effective-from", "x"], "--effective-from: x should be an RFC 3339 time"),
        (["proposals", "two words"], "proposal_id: must be an identifier"),
        (["proposals", "--kind", "scoring"], "kind: must be one of"),
        (["apply", "nowhere.yaml"], "nowhere.yaml can't be read"),
        (["apply"], "Missing argument"),
        (["test"], "Missing argument"),
    ],
)
def test_a_wrong_argument_is_named(policy: Command, arguments: list[str], complaint: str) -> None:
    assert policy(*arguments) != 0
    assert complaint in " ".join(policy.complaint.replace("│", " ").split())
