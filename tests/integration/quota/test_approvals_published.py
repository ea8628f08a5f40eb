"""The grant publisher on a real topic: once per id, and only for whom the directory knows."""

import asyncio
import json
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest

from tests.support.quota_events import NOW, group, lapsed, person, quota_policy, usage
from tokenomics_chassis.clock import SystemClock
from tokenomics_chassis.topics import create_topics
from tokenomics_cli.app import run
from tokenomics_cli.approvals import APPROVALS_TOPIC, SOURCE, published_approvals
from tokenomics_cli.directory import DIRECTORY_TOPIC
from tokenomics_cli.emit import USAGE_TOPIC
from tokenomics_cli.failures import Exit
from tokenomics_cli.kafka import publish, read_events
from tokenomics_cli.policy_log import POLICY_TOPIC
from tokenomics_contracts.catalogue import topics
from tokenomics_contracts.cloudevents import encode
from tokenomics_contracts.events.base import Event
from tokenomics_contracts.units import format_time
from tokenomics_tools.stack import Source, Stack, start_stack
from tokenomics_tools.stack.issuer import GATEWAY
from tokenomics_tools.stack.processes import poll
from tokenomics_tools.stack.services import quota_processes

TODAY = SystemClock().now().replace(microsecond=0)  # the command's clock is this machine's


def days(count: int) -> str:
    return format_time(TODAY + timedelta(days=count))


UNTIL = ("--until", days(30))
BY = ("--reason", "launch", "--decided-by", "pub-boss")


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    """Yield a stack of our own: what others wrote would be listed, too."""
    with start_stack(Source.EMBEDDED) as running:
        yield running


@pytest.fixture
def bootstrap(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("TOKENOMICS_KAFKA_BOOTSTRAP", stack.kafka.bootstrap)
    ada, bob = person("pub-ada", team_id="pub-red"), person("pub-bob")
    events = [ada, bob, person("pub-boss", cost_centre_id="pub-cc"), group("pub-call", "pub-ada")]

    async def found() -> None:
        await create_topics(stack.kafka.bootstrap, topics())
        encoded = [encode(event, id=f"pub-{event.key}", source="/test", time=NOW) for event in events]
        await publish(stack.kafka.bootstrap, DIRECTORY_TOPIC, encoded)

    asyncio.run(found())
    return stack.kafka.bootstrap


def published(capsys: pytest.CaptureFixture[str], *arguments: str) -> Any:
    assert run(["approvals", *arguments, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def events_of(bootstrap: str, request_id: str) -> list[str]:
    found = asyncio.run(read_events(bootstrap, APPROVALS_TOPIC, Event))
    return [envelope.id for envelope, event in found if event.key == request_id and envelope.source == SOURCE]


def grant(request_id: str, to: str = "subject/pub-ada", *more: str, amount: str = "50") -> list[str]:
    return ["grant", request_id, "--to", to, "--amount-usd", amount, *UNTIL, *BY, *more]


def test_a_grant_is_published_once_however_often_it_is_sent(
    bootstrap: str, capsys: pytest.CaptureFixture[str]
) -> None:
    first = published(capsys, *grant("pub-1"))
    assert first["published"]
    again = published(capsys, *grant("pub-1"))
    assert not again["published"]
    assert events_of(bootstrap, "pub-1") == ["pub-1:approved"]
    for other in (
        grant("pub-1", amount="51"),
        grant("pub-1", "team/pub-red"),
        grant("pub-1", "subject/pub-ada", "--overdraft"),
    ):
        assert run(["approvals", *other]) == Exit.REFUSED
        assert "approved otherwise" in capsys.readouterr().err
    dated = grant("pub-1", "subject/pub-ada", "--from", days(-20))
    assert run(["approvals", *dated]) == Exit.REFUSED
    stated = asyncio.run(published_approvals(bootstrap))["pub-1"].approval
    assert (stated.amount_micro_usd, stated.counts_in) == (50_000_000, "first_period")


def test_what_the_directory_does_not_know_gets_nothing(
    bootstrap: str, capsys: pytest.CaptureFixture[str]
) -> None:
    for unknown in ("subject/pub-adda", "group/pub-team", "project/pub-red"):
        assert run(["approvals", *grant("pub-2", unknown)]) == Exit.REFUSED
        assert f"the directory doesn't know {unknown}" in capsys.readouterr().err
    by_nobody = [*grant("pub-2")[:-1], "pub-bosss"]
    assert run(["approvals", *by_nobody]) == Exit.REFUSED
    assert "the directory doesn't know subject/pub-bosss" in capsys.readouterr().err
    assert events_of(bootstrap, "pub-2") == []
    for number, known in enumerate(("team/pub-red", "cost_centre/pub-cc", "group/pub-call")):
        assert published(capsys, *grant(f"pub-2-{number}", known))["published"]
    assert published(capsys, *grant("pub-2-9")[:-1], "rule:3")["published"]


def test_an_approval_ends_once_and_can_be_ended_earlier(
    bootstrap: str, capsys: pytest.CaptureFixture[str]
) -> None:
    revoke = ["revoke", "pub-3", *BY]
    assert run(["approvals", *revoke]) == Exit.REFUSED
    assert "nothing was approved as pub-3" in capsys.readouterr().err
    published(capsys, *grant("pub-3"))
    late = published(capsys, *revoke, "--at", days(31))
    assert not late["published"], "it has ended by then"
    assert published(capsys, *revoke, "--at", days(9))["published"]
    assert not published(capsys, *revoke, "--at", days(9))["published"]
    assert published(capsys, *revoke, "--at", days(8))["published"]
    assert len(events_of(bootstrap, "pub-3")) == 3


def test_what_was_approved_is_listed_with_the_end_it_has(
    bootstrap: str, capsys: pytest.CaptureFixture[str]
) -> None:
    published(capsys, "justify", "pub-4", "--subject", "pub-ada", *UNTIL, *BY)
    unlock = ("--model", "acme/big-*", "--model", "acme/small", "--data-class", "internal")
    access = published(capsys, "unlock-model", "pub-5", "--to", "team/pub-red", *unlock, *UNTIL, *BY)
    assert access["event"]["models"] == [
        {"provider": "acme", "model": "big-*"},
        {"provider": "acme", "model": "small"},
    ]
    lapse = encode(lapsed("pub-4", TODAY + timedelta(days=3)), id="pub-4:lapsed", source="/test", time=NOW)
    asyncio.run(publish(bootstrap, APPROVALS_TOPIC, [lapse]))
    (shown,) = published(capsys, "list", "--to", "team/pub-red", "--all")[-1:]
    assert (shown["request_id"], shown["ends_at"]) == ("pub-5", days(30))
    everything = published(capsys, "list", "--all")
    assert {each["request_id"]: each["ends_at"] for each in everything}["pub-4"] == days(3)
    assert run(["approvals", "list", "--all"]) == 0
    assert "pub-5" in capsys.readouterr().out


@pytest.mark.timeout(300)
def test_a_published_grant_lifts_a_block_at_the_next_fresh_check_and_ends_by_itself(
    stack: Stack, bootstrap: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    allowance = {"role": "engineer", "limit_micro_usd": 1_000_000}
    policy = quota_policy(since=TODAY - timedelta(days=200), allowances=[allowance])
    used = usage("pub-bob", cost_micro_usd=1_000_000)
    for topic, event in ((POLICY_TOPIC, policy), (USAGE_TOPIC, used)):
        encoded = encode(event, id="pub-used", source="/test", time=SystemClock().now())
        asyncio.run(publish(bootstrap, topic, [encoded]))
    with quota_processes(stack, stack.new_database("quota")) as quota:
        monkeypatch.setenv("TOKENOMICS_QUOTA_ADDRESS", quota.address)
        monkeypatch.setenv("TOKENOMICS_TOKEN", stack.issuer.token(GATEWAY))

        def answer() -> str:
            """Check as fresh as the log is, and return the decision."""
            call = ("pub-bob", "--provider", "acme", "--model", "one", "--fully-consistent", "--json")
            assert run(["quota", "check", *call]) in {0, 11}
            decision: str = json.loads(capsys.readouterr().out)["decision"]
            return decision.removeprefix("DECISION_")

        assert answer() == "APPROVAL_REQUIRED"
        until = SystemClock().now() + timedelta(seconds=20)
        more = ("--amount-usd", "4", "--until", format_time(until), *BY)
        published(capsys, "grant", "pub-6", "--to", "subject/pub-bob", *more)
        assert answer() == "ALLOW"
        assert SystemClock().now() < until, "too slow a machine to see it in force"
        assert poll(lambda: SystemClock().now() >= until, timeout_seconds=60)
        assert answer() == "APPROVAL_REQUIRED"
