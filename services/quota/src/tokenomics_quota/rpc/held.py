"""Between what is held and messages."""

from collections.abc import Sequence
from hashlib import blake2b
from typing import Final

from tokenomics.quota.v1 import quota_pb2 as pb
from tokenomics_contracts.units import HoldId
from tokenomics_quota.domain.accounts import parse_account_id
from tokenomics_quota.domain.balance import Touched
from tokenomics_quota.domain.checks import Answer, Call
from tokenomics_quota.domain.holds import HeldNow, HoldState
from tokenomics_quota.domain.standing import Standing
from tokenomics_quota.rpc.consistency import LEDGER
from tokenomics_quota.rpc.convert import (
    CHOSEN_ID,
    amounts_to_pb,
    answer_to_bytes,
    complete_account,
    is_identifier,
    timestamp_to_pb,
)
from tokenomics_quota.usecases.holding import Done
from tokenomics_quota.usecases.seeing import Sight

STATES: Final = {
    HoldState.LIVE: pb.HOLD_STATE_LIVE,
    HoldState.SETTLED: pb.HOLD_STATE_SETTLED,
    HoldState.RELEASED: pb.HOLD_STATE_RELEASED,
    HoldState.EXPIRED: pb.HOLD_STATE_EXPIRED,
}
_NO_ACCOUNTS: Final = Touched((), None, Standing(None, None, None))


def wrong_id(hold_id: str, field: str = "hold_id") -> dict[str, str]:
    """Say what is wrong with the id of a hold or lease, by its field."""
    return {} if is_identifier(hold_id) else {field: CHOSEN_ID}


def call_fields(prefix: str, call: Call) -> dict[str, str | int]:
    """Return what makes a call the same as another one; a field that is new goes to a request's end."""
    quantities = call.quantities
    return {
        f"{prefix}.subject": call.subject,
        f"{prefix}.provider": call.provider,
        f"{prefix}.model": call.model,
        f"{prefix}.estimated_input_tokens": quantities.input_tokens,
        f"{prefix}.estimated_output_tokens": quantities.output_tokens,
        f"{prefix}.estimated_cached_input_tokens": quantities.cached_input_tokens,
        f"{prefix}.service_tier": quantities.service_tier,
        f"{prefix}.project": call.project_id or "",
        f"{prefix}.use_case": call.use_case_id or "",
        f"{prefix}.purpose": call.purpose,
        f"{prefix}.data_class": call.data_class,
    }


def told_beside(answer: Answer, touched: Touched, decision_id: str, sees: Sight, *, named: bool) -> bytes:
    """Write what is answered beside a hold, without what follows from the hold: see :func:`check_to_pb`.

    Parameters
    ----------
    named
        Whether to name accounts: no hold does.
    """
    rest = answer_to_bytes(answer, _NO_ACCOUNTS, decision_id, b"")
    accounts = [amounts_to_pb(balance, seen=sees(balance.account)) for balance in touched.balances]
    accounts[0].resets_at.CopyFrom(timestamp_to_pb(touched.balances[0].bounds.resets_at))
    if named:
        for account, balance in zip(accounts, touched.balances, strict=True):
            account.account_id = balance.account.account_id
    return rest + pb.CheckQuotaResponse(accounts=accounts).SerializeToString()


def check_to_pb(done: Done) -> pb.CheckQuotaResponse:
    """Read what was told beside a hold, and fill in what follows; the same whenever it is asked for."""
    check, held = pb.CheckQuotaResponse.FromString(done.told), done.held
    change_seq = done.moment.change_seq
    account_ids: Sequence[str] = [account.account_id for account in check.accounts]
    if held is not None:
        account_ids = held.account_ids or account_ids
        change_seq = held.hold.hold_no
        check.decision_id = check.decision_id or _decision_id(held.hold.hold_id)
    for account, account_id in zip(check.accounts, account_ids, strict=True):
        complete_account(account, parse_account_id(account_id), check.accounts[0].resets_at)
    check.freshness.token.CopyFrom(token_of(change_seq))
    return check


def _decision_id(hold_id: HoldId) -> str:
    """Return the id of the plain ALLOW that a hold was placed with: no record has it."""
    return blake2b(hold_id.encode(), digest_size=16).hexdigest()


def subject_of(done: Done) -> list[str]:
    """Return whose hold it is, if there is one."""
    return [done.held.hold.subject] if done.held else []


def hold_to_pb(held: HeldNow) -> pb.Hold:
    """Write a hold as it stands."""
    hold = held.hold
    return pb.Hold(
        hold_id=hold.hold_id,
        subject=hold.subject,
        state=STATES[held.state],
        amount_micro_usd=hold.amount_micro_usd,
        settled_micro_usd=(hold.cost_micro_usd or 0) + hold.parts_micro_usd,
        account_ids=held.account_ids,
        placed_at=timestamp_to_pb(hold.placed_at),
        expires_at=timestamp_to_pb(hold.expires_at),
        parent_hold_id=held.parent_id or "",
        remaining_micro_usd=held.left_micro_usd,
    )


def token_of(change_seq: int) -> pb.FreshnessToken:
    """Write what a view must have come to for showing a command."""
    return pb.FreshnessToken(aggregate_id=LEDGER, aggregate_version=change_seq)
