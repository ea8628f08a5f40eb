"""Checking: may this call go ahead, at what price, and what unblocks the caller."""

from collections.abc import Callable
from datetime import datetime
from typing import Final

from tokenomics_contracts.units import MAX_TOKENS, SubjectId
from tokenomics_quota.domain.accounts import Account, AccountKind
from tokenomics_quota.domain.balance import Balance, Headroom, Touched, headroom_of
from tokenomics_quota.domain.checks import Answer, Call, Caps, Reason, Unblock
from tokenomics_quota.domain.friction import Band, Decision, ask
from tokenomics_quota.domain.pricing import PriceBook, Priced, Quantities, price
from tokenomics_quota.projections.governance import Governance

_NUDGE: Final = "You have used most of this period's allowance; a smaller model or a shorter context helps."
_MESSAGES: Final = {
    (False, Band.NUDGE): _NUDGE,
    (False, Band.JUSTIFY): "This period's allowance is nearly used up; please give a reason to go on.",
    (False, Band.APPROVE): "This period's allowance is used up; an approval lets you go on.",
    (True, Band.APPROVE): "The budget this call is counted on is used up; its owner can let you go on.",
}

Sight = Callable[[Account], bool]
"""Whether an account's numbers may be shown to who asks."""


def everything(_account: Account) -> bool:
    """Show all: what a workload that asks for itself sees."""
    return True


def estimate_cost(
    governance: Governance, provider: str, model: str, quantities: Quantities, at: datetime
) -> tuple[Priced, PriceBook]:
    """Price a call as usage at that time is priced."""
    book = governance.price_books.at(at)
    return price(provider, model, quantities, book=book, at=at), book


def check(
    governance: Governance,
    touched: Touched,
    call: Call,
    now: datetime,
    sees: Sight = everything,
) -> Answer:
    """Decide one call on the accounts that it would be counted on.

    The decision looks at where each account would stand *with* the call, so that one large call doesn't slip
    through from below a threshold; the balances tell where they stand without it. All accounts decide; the
    caps are those of the accounts that may be seen, for a cap tells how much is left.
    """
    estimate, book = estimate_cost(governance, call.provider, call.model, call.quantities, now)
    balances, headroom = touched
    asking: list[tuple[Decision, Balance, Band]] = []
    if headroom is not None and estimate.cost_micro_usd > headroom.before_asking:
        for balance in balances:
            standing = balance.standing_with(estimate.cost_micro_usd)
            asked = ask(standing)
            if asked is not Decision.ALLOW:
                asking.append((asked, balance, standing.band))
        asking.sort(key=lambda each: -each[0])
    if sees is not everything:
        headroom = headroom_of(balance for balance in balances if sees(balance.account))
    return Answer(
        asking[0][0] if asking else Decision.ALLOW,
        [_reason(balance, band) for _, balance, band in asking],
        balances,
        estimate,
        None if headroom is None else _caps(headroom, call, estimate, book, now),
        [
            _unblock(governance, asked, balance, now)
            for asked, balance, _ in asking
            if asked >= Decision.JUSTIFICATION_REQUIRED
        ],
        governance.quota_policies.at(now).version,
        book.version,
    )


def sight_of(governance: Governance, person: str, now: datetime) -> Sight:
    """Return which accounts' balances may be shown to a person.

    The accounts that a person's own calls are counted on, as every check shows them; an account to who
    decides about it; all to governance. So nobody but the person and the decider sees a person's account.
    """
    viewer = governance.directory.member(person).at(now)
    if viewer is None or viewer.value.left:
        return _nothing
    if "governance" in viewer.value.privileges:
        return everything
    subject_id, team_id, cost_centre_id = governance.attribution(person).at(now)
    own = {
        (AccountKind.SUBJECT, subject_id),
        (AccountKind.TEAM, team_id),
        (AccountKind.COST_CENTRE, cost_centre_id),
        *((AccountKind.PROJECT, project_id) for project_id in viewer.value.project_ids),
    }

    def sees(account: Account) -> bool:
        return (account.kind, account.owner_id) in own or person in deciders(governance, account, now)

    return sees


def _nothing(_account: Account) -> bool:
    return False


def deciders(governance: Governance, account: Account, now: datetime) -> tuple[SubjectId, ...]:
    """Return who decides about an account: a person's manager, a service's responsible, a unit's owner."""
    directory = governance.directory
    if account.kind is AccountKind.SUBJECT:
        member = directory.member(account.owner_id).at(now)
        responsible = member.value.responsible_id if member else None
    else:
        unit = directory.unit(account.kind.value, account.owner_id).at(now)
        responsible = unit.value.owner_id if unit else None
    return (responsible,) if responsible else ()


def _reason(balance: Balance, band: Band) -> Reason:
    code = f"{balance.account.kind.value}_in_{band.label}_band"
    return Reason(code, _MESSAGES[balance.shared, band], balance.account.account_id)


def _unblock(governance: Governance, asked: Decision, balance: Balance, now: datetime) -> Unblock:
    if asked is Decision.JUSTIFICATION_REQUIRED:
        return Unblock(asked, "Give a business reason; it opens this band for a while.", ())
    who = deciders(governance, balance.account, now)
    return Unblock(asked, f"Ask for a grant on {balance.account.account_id}.", who)


def _caps(headroom: Headroom, call: Call, estimate: Priced, book: PriceBook, now: datetime) -> Caps | None:
    # The rate of output doesn't depend on how much of it there is: the tier is chosen by the input. Taken
    # over the longest output there is, rounding to micro-USD doesn't show in it.
    quantities, already = call.quantities, call.quantities.output_tokens
    longer = quantities._replace(output_tokens=already + MAX_TOKENS)
    priced, _ = price(call.provider, call.model, longer, book=book, at=now)
    cost_of_most = priced - estimate.cost_micro_usd
    if cost_of_most <= 0:
        return None

    def fitting(room: int) -> int:
        more = (room - estimate.cost_micro_usd) * MAX_TOKENS // cost_of_most
        return min(max(0, already + more), MAX_TOKENS)

    return Caps(fitting(headroom.within_bands), fitting(headroom.within_limits))
