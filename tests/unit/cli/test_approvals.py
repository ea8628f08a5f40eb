"""What the grant publisher refuses before it reads or writes anything, and with which words."""

import pytest

from tokenomics_cli.app import run
from tokenomics_cli.failures import Exit

DECIDED = ("--until", "2026-12-01T00:00:00Z", "--from", "2026-11-20T00:00:00Z")
BY = ("--reason", "launch", "--decided-by", "p-2")
GRANT = ("grant", "req-1", "--to", "team/red", "--amount-usd", "50", *DECIDED, *BY)
JUSTIFY = ("justify", "req-1", "--subject", "p-1", *DECIDED, *BY)
UNLOCK = (
    *("unlock-model", "req-1", "--to", "subject/p-1", "--model", "acme/big-*", "--data-class", "internal"),
    *(*DECIDED, *BY),
)
REVOKE = ("revoke", "req-1", "--at", "2026-11-20T00:00:00Z", *BY)


def with_option(command: tuple[str, ...], option: str, value: str) -> list[str]:
    """Replace an option's value, or the id."""
    if option == "REQUEST_ID":
        return [command[0], value, *command[2:]]
    place = command.index(option)
    return [*command[: place + 1], value, *command[place + 2 :]]


@pytest.mark.parametrize(
    ("command", "option", "value", "complaint"),
    [
        (GRANT, "REQUEST_ID", "two words", "REQUEST_ID: "),
        (GRANT, "--to", "red", "--to: "),
        (GRANT, "--to", "team/", "--to: "),
        (GRANT, "--to", "company/all", "--to: "),
        (GRANT, "--to", "subject/jane@example.com", "--to: "),
        (GRANT, "--to", "subject/alias:" + "a" * 32, "--to: "),
        (GRANT, "--to", "subject/p-2", "decided_by should be another"),
        (GRANT, "--amount-usd", "0", "--amount-usd: 0 should be"),
        (GRANT, "--amount-usd", "-5", "--amount-usd: -5 should be"),
        (GRANT, "--amount-usd", "lots", "--amount-usd: lots should be"),
        (GRANT, "--amount-usd", "0.0000001", "six decimals"),
        (GRANT, "--until", "2026-12-01", "--until: "),
        (GRANT, "--until", "2026-11-20T00:00:00Z", "expires_at should lie after starts_at"),
        (GRANT, "--until", "2028-11-20T00:00:00Z", "by 366 days at most"),
        (GRANT, "--from", "now", "--from: "),
        (GRANT, "--reason", "because we can", "--reason: "),
        (GRANT, "--decided-by", "rule:latest", "--decided-by: "),
        (GRANT, "--decided-by", "jane@example.com", "--decided-by: "),
        (JUSTIFY, "--subject", "", "--subject: "),
        (JUSTIFY, "--decided-by", "p-1", "decided_by should be another"),
        (UNLOCK, "--model", "big", "--model: "),
        (UNLOCK, "--model", "acme/*big", "'*' at its end only"),
        (UNLOCK, "--data-class", "Top Secret", "--data-class: "),
        (REVOKE, "REQUEST_ID", "", "REQUEST_ID: "),
        (REVOKE, "--at", "now", "--at: "),
        (REVOKE, "--reason", "No!", "--reason: "),
        (REVOKE, "--decided-by", "rule:", "--decided-by: "),
    ],
)
def test_a_wrong_argument_is_refused_by_its_name(
    command: tuple[str, ...], option: str, value: str, complaint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["approvals", *with_option(command, option, value)]) == Exit.USAGE
    assert complaint in capsys.readouterr().err


@pytest.mark.parametrize("target", ["red", "team/", "company/all", "subject/alias:" + "a" * 32])
def test_a_listing_for_what_can_be_no_target_says_how_one_is_named(
    target: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["approvals", "list", "--to", target]) == Exit.USAGE
    told = capsys.readouterr().err
    assert told.startswith("error: --to: ")
    assert "hint: say for what, as it was approved: e.g. --to team/team-07" in told
    assert "published" not in told


@pytest.mark.parametrize("kind", ["justification", "model_access", "gift"])
def test_only_what_adds_an_amount_can_be_granted(kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["approvals", *GRANT, "--kind", kind]) == Exit.USAGE
    assert "--kind" in capsys.readouterr().err


def test_every_wrong_argument_is_named_at_once(capsys: pytest.CaptureFixture[str]) -> None:
    wrong = with_option(tuple(with_option(GRANT, "--to", "red")), "--reason", "Because!")
    assert run(["approvals", *wrong]) == Exit.USAGE
    told = capsys.readouterr().err
    assert "--to: " in told
    assert "--reason: " in told
