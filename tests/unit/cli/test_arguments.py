"""What each argument of each command refuses, by itself or by the field in which the service judges it.

An argument that a command gains fails the first test until it stands in the table.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, NamedTuple
from unittest import mock

import grpc
import pytest
import typer
from google.protobuf.message import Message
from google.rpc.error_details_pb2 import BadRequest

from tests.support.answering import answering, refuse
from tokenomics.operations.v1 import operations_pb2
from tokenomics.quota.v1 import quota_pb2
from tokenomics_cli import policy, policy_simulations
from tokenomics_cli.app import app, run
from tokenomics_cli.failures import Exit

RED: Final = "team/red/all/2026-11"
CALL: Final = ["--provider", "acme", "--model", "one"]
WHY: Final = ["--reason", "incident", "--ticket", "OPS-1"]
DECIDED: Final = ["--reason", "launch", "--decided-by", "p-2"]
UNTIL: Final = ["--until", "2026-12-01T00:00:00Z"]
FILES: Final = ["policies.yaml"]
PRICES: Final = """
kind: price_book
version: 1
effective_from: 2026-01-01T00:00:00Z
document:
  fallback: {input: 1, output: 1}
"""

COMMANDS: Final[dict[str, list[str]]] = {
    "emit": ["usage.jsonl", "--source", "//x"],
    "policy apply": FILES,
    "policy test": FILES,
    "policy show": [],
    "policy diff": FILES,
    "policy rollback": ["quota"],
    "policy propose": FILES,
    "policy proposals": [],
    "policy simulate": [*FILES, "--since", "2026-11-01T00:00:00Z", "--before", "2026-11-02T00:00:00Z"],
    "directory apply": FILES,
    "approvals grant": ["r", "--to", "team/red", "--amount-usd", "50", *UNTIL, *DECIDED],
    "approvals justify": ["r", "--subject", "p-1", *UNTIL, *DECIDED],
    "approvals unlock-model": [
        *("r", "--to", "subject/p-1", "--model", "acme/big", "--data-class", "internal", *UNTIL, *DECIDED),
    ],
    "approvals revoke": ["r", *DECIDED],
    "approvals list": [],
    "quota check": ["ada", *CALL],
    "quota suggest": ["ada", *CALL],
    "quota hold": ["h", "ada", *CALL],
    "quota settle": ["h", "--cost-usd", "1"],
    "quota release": ["h"],
    "quota extend": ["h", *UNTIL],
    "quota holds": [],
    "quota balance": ["ada"],
    "quota budget": ["team/red"],
    "quota watch": ["team/red"],
    "quota drift": [],
    "quota freeze": [RED, *WHY],
    "quota unfreeze": [RED, *WHY],
    "quota close": [RED, *WHY],
    "quota usage": ["ada"],
    "quota looks": ["ada"],
    "ops positions": [],
    "ops parked": [],
    "ops retry": ["t/0/1", *WHY],
    "ops skip": ["t/0/1", *WHY],
    "ops sources": [],
    "ops verify": WHY,
    "ops rebuild start": WHY,
    "ops rebuild list": [],
    "ops rebuild watch": ["b"],
    "ops rebuild promote": ["b", *WHY],
    "ops rebuild rollback": ["b", *WHY],
    "ops rebuild retire": ["b", *WHY],
    "ops bypass start": ["b", "team/red", "--until", "4h", *WHY],
    "ops bypass end": ["b", *WHY],
    "audit verify": [],
    "audit list": [],
}
"""Each command with nothing wrong in it."""


class Wrong(NamedTuple):
    """A wrong value, and what is said of it."""

    command: str
    parameter: str
    """An option's name, or that of an argument."""
    value: str
    said: str
    by_service: bool = False
    """It goes to the service as it is, in the field that is said: the service judges it."""


def by_service(parameter: str, field: str, *commands: str, value: str = "a b") -> list[Wrong]:
    return [Wrong(command, parameter, value, field, by_service=True) for command in commands]


def by_itself(parameter: str, value: str, said: str, *commands: str) -> list[Wrong]:
    return [Wrong(command, parameter, value, said) for command in commands]


TIME: Final = "should be an RFC 3339 time with its offset"
PLACE: Final = "should be written topic/partition/offset"
ACCOUNTED: Final = ("quota freeze", "quota unfreeze", "quota close")
BYPASSES: Final = ("ops bypass start", "ops bypass end")
CHANGED: Final = ("ops rebuild promote", "ops rebuild rollback", "ops rebuild retire")
FOR_A_REASON: Final = (
    *(*ACCOUNTED, *BYPASSES, *CHANGED, "ops rebuild start", "ops verify", "ops retry", "ops skip"),
)
GRANTS: Final = ("approvals grant", "approvals justify", "approvals unlock-model")
TOKENS: Final = ("--input-tokens", "--cached-input-tokens", "--output-tokens")

TABLE: Final[list[Wrong]] = [
    *by_itself("file", "nowhere.jsonl", "nowhere.jsonl is no file", "emit"),
    *by_itself("--source", "", "--source : should have 1 to 256 printable characters", "emit"),
    *by_itself("--type", "usage.guessed", "--type usage.guessed: should be one of usage.recorded", "emit"),
    *by_itself("--format", "xml", "--format", "emit"),
    *by_itself("--map", "column", "--map column: should be written name=value", "emit"),
    *by_itself("--set", "=x", "--set =x: should be written name=value", "emit"),
    *by_itself("--time-zone", "Mars", "--time-zone Mars: should be an IANA zone", "emit"),
    *by_itself("--state", "/nowhere", "/nowhere can't keep the resume marker", "emit"),
    *by_itself(
        *("files", "nowhere.yaml", "nowhere.yaml can't be read"),
        *("policy apply", "policy test", "policy diff", "policy propose", "policy simulate"),
    ),
    *by_itself("file", "nowhere.yaml", "nowhere.yaml can't be read", "directory apply"),
    *by_itself("kind", "laws", "laws is not published", "policy show", "policy rollback"),
    *by_itself("--version", "0", "--version", "policy show"),
    *by_itself("--to", "0", "--to", "policy rollback"),
    *by_itself("--effective-from", "soon", f"--effective-from: soon {TIME}", "policy rollback"),
    *by_service("proposal_id", "proposal_id", "policy proposals"),
    *by_service("--kind", "kind", "policy proposals", value="laws"),
    *by_itself("--since", "soon", f"--since: soon {TIME}", "policy simulate"),
    *by_itself("--before", "soon", f"--before: soon {TIME}", "policy simulate"),
    *by_service("--id", "simulation_id", "policy simulate"),
    *by_itself("request_id", "a b", "REQUEST_ID: ", *GRANTS, "approvals revoke"),
    *by_itself("--to", "red", "--to: ", "approvals grant", "approvals unlock-model", "approvals list"),
    *by_itself("--subject", "", "--subject: ", "approvals justify"),
    *by_itself("--amount-usd", "lots", "--amount-usd: lots should be", "approvals grant"),
    *by_itself("--kind", "gift", "--kind", "approvals grant"),
    *by_itself("--model", "big", "--model: ", "approvals unlock-model"),
    *by_itself("--data-class", "Top Secret", "--data-class: ", "approvals unlock-model"),
    *by_itself("--until", "soon", f"--until: {TIME}", *GRANTS),
    *by_itself("--from", "now", f"--from: {TIME}", *GRANTS),
    *by_itself("--at", "now", f"--at: {TIME}", "approvals revoke"),
    *by_itself("--reason", "because we can", "--reason: ", *GRANTS, "approvals revoke"),
    *by_itself("--decided-by", "rule:", "--decided-by: ", *GRANTS, "approvals revoke"),
    *(
        wrong
        for command, place in (("quota check", ""), ("quota suggest", "call."), ("quota hold", "call."))
        for wrong in (
            *by_service("subject", f"{place}subject", command),
            *by_service("--provider", f"{place}provider", command),
            *by_service("--model", f"{place}model", command),
            *by_service("--project", f"{place}project", command),
            *by_service("--use-case", f"{place}use_case", command),
            *by_service("--data-class", f"{place}data_class", command),
            *(each for option in TOKENS for each in by_itself(option, "-1", option, command)),
            *(each for option in TOKENS for each in by_itself(option, "1" * 20, option, command)),
            *by_itself("--service-tier", "express", "--service-tier", command),
        )
    ),
    *by_itself(
        *("--at-least-as-fresh", "usage/0", "usage/0: should be written topic/partition=offset"),
        "quota check",
    ),
    *by_itself("--limit", "21", "--limit", "quota suggest"),
    *by_service("hold_id", "hold_id", "quota hold", "quota settle", "quota release", "quota extend"),
    *by_itself("--amount-usd", "-1", "--amount-usd: -1 should be", "quota hold"),
    *by_itself("--ttl-seconds", "0", "--ttl-seconds", "quota hold"),
    *by_service("--parent", "parent_hold_id", "quota hold"),
    *by_itself("--cost-usd", "much", "--cost-usd: much should be", "quota settle"),
    *by_itself("--until", "soon", f"--until {TIME}", "quota extend", "ops bypass start"),
    *by_service("--subject", "subject", "quota holds"),
    *by_service("--account", "account_id", "quota holds"),
    *by_itself("--state", "dead", "--state", "quota holds"),
    *by_itself("--limit", "0", "--limit", "quota holds", "quota usage", "quota looks", "audit list"),
    *by_service("target", "subject", "quota balance"),
    *by_service("target", "account_id", "quota balance", value="a/b"),
    *by_service("--project", "project", "quota balance"),
    *by_itself("owner", "red", "red: should be written KIND/ID", "quota budget", "quota watch"),
    *by_service("--period", "period", "quota budget", value="May"),
    *by_service("account", "account_id", "quota drift"),
    *by_service("account_id", "account_id", *ACCOUNTED),
    *by_itself("subject", "a b", "a b: should be the id of a person", "quota usage", "quota looks"),
    *by_itself("--since", "soon", f"--since {TIME}", "quota usage"),
    *by_itself("--before", "soon", f"--before {TIME}", "quota usage"),
    *by_service("--reason", "reason_code", *FOR_A_REASON),
    *by_service("--ticket", "ticket_id", *FOR_A_REASON),
    *by_service("--topic", "topic", "ops parked"),
    *by_service("--code", "error_code", "ops parked"),
    *by_itself("--code", "a b", "exactly one of them", "ops retry"),
    *by_itself("places", "t/0", f"t/0: {PLACE}", "ops retry"),
    *by_itself("place", "t/0/x", f"t/0/x: {PLACE}", "ops skip"),
    *by_itself("place", f"t/{2**31}/0", PLACE, "ops skip"),
    *by_itself("place", f"t/0/{2**63}", PLACE, "ops skip"),
    *by_service("source", "source", "ops sources"),
    *by_service("part", "part", "ops verify"),
    *by_service("--id", "verify_id", "ops verify"),
    *by_service("--id", "rebuild_id", "ops rebuild start"),
    *by_service("rebuild_id", "rebuild_id", "ops rebuild watch", *CHANGED),
    *by_service("bypass_id", "bypass_id", *BYPASSES),
    *by_itself("scope", "red", "red: should be written subject|", "ops bypass start"),
    *by_service("scope", "scope_owner_id", "ops bypass start", value="team/a b"),
    *by_itself("--expect", "7", "7: should be written sequence:hash", "audit verify"),
    *by_service("--action", "action", "audit list"),
    *by_service("--target", "target", "audit list"),
    *by_service("--actor", "actor", "audit list"),
]

CALLERS: Final = {"--on-behalf-of", "--token-file"}
"""Of every command that calls the service: looked at in tests of their own."""


def parameters() -> dict[str, dict[str, Any]]:
    """Return the parameters of every command, by its words and by their names; flags take no value."""
    return {
        " ".join(words): {
            each.opts[0] if each.param_type_name == "option" else each.name: each
            for each in command.params
            if not getattr(each, "is_flag", False)
        }
        for words, command in _commands(typer.main.get_command(app), ())
    }


def _commands(command: Any, words: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Any]]:
    inner = getattr(command, "commands", None)
    if inner is None:
        yield words, command
        return
    for name, each in inner.items():
        yield from _commands(each, (*words, name))


def test_every_argument_of_every_command_is_in_the_table() -> None:
    known = {(command, name) for command, named in parameters().items() for name in named.keys() - CALLERS}
    assert {(each.command, each.parameter) for each in TABLE} == known
    assert COMMANDS.keys() == parameters().keys()


def with_value(command: str, parameter: str, value: str) -> list[str]:
    """Return a command line with a wrong value."""
    words = list(COMMANDS[command])
    if parameter.startswith("--"):
        if parameter in words:
            words[words.index(parameter) + 1] = value
        else:
            words += [parameter, value]
        return [*command.split(), *words]
    arguments = [name for name in parameters()[command] if not name.startswith("--")]
    place = arguments.index(parameter)
    words[place : place + (len(words) > place and not words[place].startswith("--"))] = [value]
    return [*command.split(), *words]


def said_of(message: Message, path: str = "") -> Iterator[BadRequest.FieldViolation]:
    for field, value in message.ListFields():
        if isinstance(value, Message) and value.DESCRIPTOR.file.package.startswith("tokenomics."):
            yield from said_of(value, f"{path}{field.name}.")
        else:
            yield BadRequest.FieldViolation(field=f"{path}{field.name}", description=f"is <{value}>")


@pytest.fixture
def service(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Serve a service that finds every field of every request wrong, and says what it has."""

    def answer(request: Any, context: grpc.ServicerContext) -> None:
        code = grpc.StatusCode.INVALID_ARGUMENT.value[0]
        refuse(context, code, "wrong", BadRequest(field_violations=said_of(request)))

    methods = [
        method.name
        for file, name in ((quota_pb2, "QuotaService"), (operations_pb2, "OperationsService"))
        for method in file.DESCRIPTOR.services_by_name[name].methods
        if not method.client_streaming
    ]
    with answering(monkeypatch, dict.fromkeys(methods, answer)):
        yield


@pytest.fixture(autouse=True)
def nothing_is_published(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    Path("usage.jsonl").write_text("", encoding="utf-8")
    Path(FILES[0]).write_text(PRICES, encoding="utf-8")
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("TOKENOMICS_KAFKA_BOOTSTRAP", "127.0.0.1:1")
    monkeypatch.setattr(policy, "published_policies", mock.AsyncMock(return_value={}))
    monkeypatch.setattr("tokenomics_cli.emit.require_topic", mock.AsyncMock(return_value="cluster"))


@pytest.mark.parametrize("wrong", TABLE, ids=lambda wrong: " ".join(wrong[:3]))
@pytest.mark.usefixtures("service")
def test_a_wrong_argument_is_named(wrong: Wrong, capsys: pytest.CaptureFixture[str]) -> None:
    code = run(with_value(wrong.command, wrong.parameter, wrong.value))
    told = capsys.readouterr().err
    if wrong.by_service:
        # An owner stands behind its kind.
        value = wrong.value.removeprefix("team/")
        assert (code, f"{wrong.said}: is <{value}>" in told) == (Exit.BAD_DATA, True), told
    else:
        assert wrong.said in told
        assert code in {Exit.USAGE, Exit.BAD_DATA, Exit.REFUSED, Exit.LOCAL_FILE}


@pytest.mark.parametrize(
    "command",
    # Those that publish ask the service only when there is something to publish.
    [
        each
        for each in COMMANDS
        if "--token-file" in parameters()[each] and each not in {"policy apply", "policy rollback"}
    ],
)
@pytest.mark.parametrize(
    ("option", "value", "said"),
    [
        ("--token-file", "/nowhere/token", "/nowhere/token can't be read"),
        ("--on-behalf-of", "jane@example.org", "jane@example.org: should be the id of a person"),
        ("--on-behalf-of", "jä", "jä: should be the id of a person"),
    ],
)
def test_a_caller_that_is_none_is_named(  # noqa: PLR0917 - fixtures
    command: str,
    option: str,
    value: str,
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("TOKENOMICS_QUOTA_ADDRESS", "127.0.0.1:1")
    if option != "--token-file":
        monkeypatch.setenv("TOKENOMICS_TOKEN", "the-token")
    for module in (policy, policy_simulations):
        monkeypatch.setattr(module, "read_policies", mock.Mock(return_value=[]))
    assert run([*command.split(), *COMMANDS[command], option, value]) == Exit.USAGE
    assert said in capsys.readouterr().err


def test_what_is_no_text_is_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TOKENOMICS_QUOTA_ADDRESS", "127.0.0.1:1")
    monkeypatch.setenv("TOKENOMICS_TOKEN", "the-token")
    assert run(["quota", "balance", "\udcff"]) == Exit.USAGE
    assert "should be text in UTF-8" in capsys.readouterr().err
