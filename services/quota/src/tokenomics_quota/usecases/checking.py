"""Checking: may this call go ahead, at what price, and what unblocks the caller."""

from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from operator import attrgetter
from typing import Final, NamedTuple, Self

from tokenomics_contracts.units import MicroUsd, SubjectId
from tokenomics_quota.domain.accounts import Account, AccountKind
from tokenomics_quota.domain.balance import Balance, Touched, headroom_of
from tokenomics_quota.domain.checks import Answer, Call, Reason, Unblock, answered, capped
from tokenomics_quota.domain.friction import Band, Decision, ask
from tokenomics_quota.domain.policies import QuotaPolicy
from tokenomics_quota.domain.pricing import PriceBook, in_micro_usd, priced
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


class Terms(NamedTuple):
    """What governs a check."""

    governance: Governance
    quota_policy: QuotaPolicy
    price_book: PriceBook
    until: datetime
    """When time alone may put others of them in force; nothing says that it will."""

    @classmethod
    def at(cls, governance: Governance, now: datetime) -> Self:
        """Return the terms that are in force now."""
        policies, books = governance.quota_policies, governance.price_books
        until = min(policies.until(now), books.until(now))
        return cls(governance, policies.at(now), books.at(now), until)


def check(
    terms: Terms,
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
    governance, quota_policy, book, _ = terms
    quantities = call.quantities
    tariff = book.tariff(call.provider, call.model, quantities, now)
    exact_cost = tariff.exact_cost(quantities)
    cost = in_micro_usd(exact_cost)
    balances, headroom = touched.balances, touched.headroom
    asking: Sequence[_Asking] = ()
    if headroom is not None and cost > headroom.before_asking:
        asking = _asking(balances, touched.standing.unlocks.justified_until, cost)
    if sees is not everything:
        headroom = headroom_of(balance for balance in balances if sees(balance.account))
    caps = None
    if headroom is not None and tariff.output:
        output = quantities.output_tokens
        caps = capped(
            (
                tariff.output_tokens_within(headroom.within_bands, exact_cost, output),
                tariff.output_tokens_within(headroom.within_limits, exact_cost, output),
            )
        )
    return answered(
        (
            asking[0].decision if asking else Decision.ALLOW,
            [_reason(each) for each in asking] if asking else (),
            balances,
            priced((cost, tariff.pricing)),
            caps,
            _unblocks(governance, asking, now) if asking else (),
            quota_policy.version,
            book.version,
        )
    )


class _Asking(NamedTuple):
    """An account that asks something of the caller."""

    decision: Decision
    balance: Balance
    band: Band
    """Where it would stand with the call."""
    justified_until: datetime | None
    """When a reason that was given ceases to open the band."""


def _asking(
    balances: Iterable[Balance], justified_until: datetime | None, cost_micro_usd: MicroUsd
) -> list[_Asking]:
    """Return the accounts that ask something of the caller, those that ask for most first."""
    asking = []
    for balance in balances:
        band = balance.band_with(cost_micro_usd)
        asked = ask(band, shared=balance.shared)
        if asked is Decision.JUSTIFICATION_REQUIRED and justified_until is not None:
            asking.append(_Asking(Decision.ALLOW_WITH_NUDGE, balance, band, justified_until))
        elif asked is not Decision.ALLOW:
            asking.append(_Asking(asked, balance, band, None))
    asking.sort(key=attrgetter("decision"), reverse=True)  # which keeps the order of those that ask the same
    return asking


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
    """Return who decides about an account: whose office it is, then those to whom that one delegated it.

    A person's manager, a service's responsible, a unit's owner. Nobody decides about their own account.
    """
    directory = governance.directory
    if account.kind is AccountKind.SUBJECT:
        member = directory.member(account.owner_id).at(now)
        responsible = member.value.responsible_id if member else None
    else:
        unit = directory.unit(account.kind.value, account.owner_id).at(now)
        responsible = unit.value.owner_id if unit else None
    if responsible is None:
        return ()
    own = account.owner_id if account.kind is AccountKind.SUBJECT else None
    candidates = dict.fromkeys([responsible, *directory.delegates(responsible, now)])
    return tuple(each for each in candidates if each != own and not directory.has_left(each, now))


def _reason(asking: _Asking) -> Reason:
    _, balance, band, justified_until = asking
    if justified_until is not None:
        message = f"The reason you gave lets you go on until {justified_until:%Y-%m-%d %H:%M} UTC."
        return Reason("justified_until_expiry", message, balance.account.account_id)
    code = f"{balance.account.kind.value}_in_{band.label}_band"
    return Reason(code, _MESSAGES[balance.shared, band], balance.account.account_id)


def _unblocks(governance: Governance, asking: Iterable[_Asking], now: datetime) -> list[Unblock]:
    return [
        _unblock(governance, each, now) for each in asking if each.decision >= Decision.JUSTIFICATION_REQUIRED
    ]


def _unblock(governance: Governance, asking: _Asking, now: datetime) -> Unblock:
    asked, balance, *_ = asking
    if asked is Decision.JUSTIFICATION_REQUIRED:
        return Unblock(asked, "Give a business reason; it opens this band for a while.", ())
    who = deciders(governance, balance.account, now)
    return Unblock(asked, f"Ask for a grant on {balance.account.account_id}.", who)
