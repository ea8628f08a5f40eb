"""What an approval must say, and may not."""

from typing import Any

import pytest
from pydantic import ValidationError

from tokenomics_contracts.events.approvals import ApprovalApproved, ApprovalRevoked

BOOST: dict[str, Any] = {
    "request_id": "req-1",
    "kind": "boost",
    "target": {"kind": "subject", "id": "p-1"},
    "amount_micro_usd": 1,
    "starts_at": "2026-11-20T00:00:00Z",
    "expires_at": "2026-11-21T00:00:00Z",
    "reason_code": "launch",
    "decided_by": "p-2",
}
NO_AMOUNT = {name: value for name, value in BOOST.items() if name != "amount_micro_usd"}
JUSTIFICATION = NO_AMOUNT | {"kind": "justification"}
ACCESS = NO_AMOUNT | {
    "kind": "model_access",
    "models": [{"provider": "acme", "model": "big-*"}],
    "data_classes": ["internal"],
}


@pytest.mark.parametrize(
    "approval",
    [
        BOOST,
        BOOST | {"kind": "break_glass", "decided_by": "rule:3", "target": {"kind": "group", "id": "on-call"}},
        BOOST | {"kind": "budget_override", "target": {"kind": "team", "id": "red"}, "overdraft": True},
        JUSTIFICATION,
        ACCESS,
        BOOST | {"expires_at": "2027-11-21T00:00:00Z"},
    ],
)
def test_what_says_all_that_its_kind_needs_is_read(approval: dict[str, Any]) -> None:
    assert ApprovalApproved.model_validate(approval, extra="forbid").key == "req-1"


@pytest.mark.parametrize(
    ("approval", "complaint"),
    [
        (NO_AMOUNT, "amount_micro_usd should be there"),
        (JUSTIFICATION | {"amount_micro_usd": 1}, "amount_micro_usd should be there"),
        (BOOST | {"amount_micro_usd": 0}, "amount_micro_usd"),
        (BOOST | {"amount_micro_usd": 10**15 + 1}, "amount_micro_usd"),
        (BOOST | {"amount_micro_usd": 1.0}, "amount_micro_usd"),
        (BOOST | {"counts_in": "every_period"}, "counts_in"),
        (BOOST | {"overdraft": 1}, "overdraft"),
        (JUSTIFICATION | {"overdraft": True}, "overdraft and counts_in go with an amount"),
        (JUSTIFICATION | {"counts_in": "each_period"}, "overdraft and counts_in go with an amount"),
        (JUSTIFICATION | {"target": {"kind": "team", "id": "red"}}, "target.kind should be subject"),
        (BOOST | {"kind": "budget_override"}, "target.kind should be project, team or cost_centre"),
        (BOOST | {"target": {"kind": "subject", "id": "alias:" + "a" * 32}}, "the id itself"),
        (BOOST | {"target": {"kind": "company", "id": "all"}}, "target.kind"),
        (BOOST | {"expires_at": BOOST["starts_at"]}, "expires_at should lie after starts_at"),
        (BOOST | {"expires_at": "2027-11-21T00:00:00.000001Z"}, "by 366 days at most"),
        (BOOST | {"expires_at": "tomorrow"}, "expires_at"),
        (BOOST | {"decided_by": "p-1"}, "decided_by should be another"),
        (BOOST | {"decided_by": "rule:0"}, "decided_by"),
        (BOOST | {"decided_by": "rule:latest"}, "decided_by"),
        (BOOST | {"reason_code": "Because we want to"}, "reason_code"),
        (BOOST | {"models": ACCESS["models"]}, "models and data_classes"),
        (ACCESS | {"models": []}, "models and data_classes"),
        (ACCESS | {"data_classes": []}, "models and data_classes"),
        (ACCESS | {"models": [{"provider": "acme", "model": "*-big"}]}, "'*' at its end only"),
    ],
)
def test_what_does_not_is_refused_naming_the_field(approval: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ValidationError) as refused:
        ApprovalApproved.model_validate(approval)
    assert complaint in str(refused.value)


def test_every_rule_that_is_broken_is_named() -> None:
    broken = JUSTIFICATION | {
        "overdraft": True,
        "target": {"kind": "team", "id": "red"},
        "expires_at": "2020-01-01T00:00:00Z",
    }
    with pytest.raises(ValidationError) as refused:
        ApprovalApproved.model_validate(broken)
    message = str(refused.value)
    assert all(each in message for each in ("expires_at should", "overdraft and", "target.kind should"))


def test_free_text_has_no_place() -> None:
    texts = {"reason": "my grandmother", "comment": "x"}
    assert not texts.keys() & (ApprovalApproved.model_fields.keys() | ApprovalRevoked.model_fields.keys())
    with pytest.raises(ValidationError):
        ApprovalApproved.model_validate(BOOST | texts, extra="forbid")
