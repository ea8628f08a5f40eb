"""Checking: may this call go ahead, at what price, and what unblocks the caller."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Final, NamedTuple, Self

from tokenomics_contracts.units import MicroUsd
from tokenomics_quota.domain.accounts import Account, Purpose
from tokenomics_quota.domain.advice import advise
from tokenomics_quota.domain.approvals import Unlocks
from tokenomics_quota.domain.balance import Touched, headroom_of, own_use
from tokenomics_quota.domain.checks import NO_ADVICE, Answer, Call, Reason, Shadow, Unblock, answered, capped
from tokenomics_quota.domain.findings import Finding, Rule
from tokenomics_quota.domain.friction import Band, Decision, ask
from tokenomics_quota.domain.holds import AccountState
from tokenomics_quota.domain.interventions import Bypass, Shut
from tokenomics_quota.domain.policies import QuotaPolicy
from tokenomics_quota.domain.pricing import PriceBook, in_micro_usd, priced
from tokenomics_quota.domain.rollout import judge
from tokenomics_quota.projections.governance import Governance
from tokenomics_quota.usecases.seeing import Sight, deciders, everything

_NUDGE: Final = "You have used most of this period's allowance; a smaller model or a shorter context helps."
_MESSAGES: Final = {
    (False, Band.NUDGE): _NUDGE,
    (False, Band.JUSTIFY): "This period's allowance is nearly used up.",
    (False, Band.APPROVE): "This period's allowance is used up.",
    (True, Band.APPROVE): "The budget this call is counted on is used up.",
}

_EXPERIMENTS: Final = (
    "What the budget that this call is counted on has for experiments is used up.",
    "Its owner decides how much is for experiments; everyday work goes on.",
)
_JUSTIFY: Final = "Give a business reason; it opens this band for a while."
_JUSTIFY_SPIKE: Final = "Give a business reason; it lets you go on for a while."


NOBODY: Final[Mapping[str, int]] = {}


class Terms(NamedTuple):
    """What governs a check."""

    governance: Governance
    quota_policy: QuotaPolicy
    price_book: PriceBook
    until: datetime
    """When time alone may put others of them in force; nothing says that it will."""
    asset_users: Mapping[str, int] = NOBODY
    """How many others used what somebody shared."""

    @classmethod
    def at(cls, governance: Governance, now: datetime, asset_users: Mapping[str, int] = NOBODY) -> Self:
        """Return the terms that are in force now."""
        policies, books = governance.quota_policies, governance.price_books
        until = min(policies.until(now), books.until(now))
        return cls(governance, policies.at(now), books.at(now), until, asset_users)


def check(
    terms: Terms,
    touched: Touched,
    call: Call,
    now: datetime,
    sees: Sight = everything,
) -> Answer:
    """Decide one call by what it calls and on the accounts that it would be counted on.

    The decision looks at where each account would stand *with* the call, so that one large call doesn't slip
    through from below a threshold; the balances tell where they stand without it. All accounts decide; the
    caps are those of the accounts that may be seen, for a cap tells how much is left.
    """
    governance, quota_policy, book, _, asset_users = terms
    quantities = call.quantities
    tariff = book.tariff(call.provider, call.model, quantities, now)
    exact_cost = tariff.exact_cost(quantities)
    cost = in_micro_usd(exact_cost)
    balances, headroom = touched.balances, touched.headroom
    standing = touched.standing
    objections: tuple[Finding, ...] = ()
    if standing.permits is not None:
        objections = standing.permits.objections(call.provider, call.model, call.data_class, call.use_case_id)
    findings: Sequence[Finding] = ()
    shadow: Sequence[Finding] = ()
    day_use = touched.day_use
    if (
        objections
        or standing.shut
        or (headroom is not None and cost > headroom.before_asking)
        or (day_use is not None and cost > day_use.room_micro_usd)
    ):
        of_call = (*_not_unlocked(objections, call, standing.unlocks), *_of_shut(standing.shut))
        findings, shadow = judge(
            (*of_call, *_of_accounts(touched, cost), *_of_day(touched, cost)), standing.asking
        )
    decision = findings[0].decision if findings else Decision.ALLOW
    if sees is not everything:
        headroom = headroom_of(balances, standing, sees)
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
            decision,
            [_reason(each) for each in findings] if findings else _bypassed(standing.bypass, shadow),
            balances,
            priced((cost, tariff.pricing)),
            caps,
            _unblocks(governance, findings, balances[0].account, now) if findings else (),
            quota_policy.version,
            book.version,
            Shadow(max(decision, shadow[0].decision), [_reason(each) for each in shadow]) if shadow else None,
            standing.cohort,
            advise(
                call,
                tariff,
                book,
                now,
                standing,
                headroom,
                governance.assets.serving(call.use_case_id, asset_users, now),
            )
            if findings
            else NO_ADVICE,
            _interrupting(findings) if findings else (),
        )
    )


def _interrupting(findings: Iterable[Finding]) -> set[Rule]:
    return {each.rule for each in findings if each.decision >= Decision.JUSTIFICATION_REQUIRED}


def _not_unlocked(objections: Iterable[Finding], call: Call, unlocks: Unlocks) -> Iterator[Finding]:
    """Leave out that a model needs an approval, for who has it."""
    for objection in objections:
        awaits_approval = objection.rule is Rule.MODELS and objection.decision is Decision.APPROVAL_REQUIRED
        if not (awaits_approval and unlocks.open(call.provider, call.model, call.data_class)):
            yield objection


def _of_shut(shut: Iterable[Shut]) -> Iterator[Finding]:
    """Return what accounts ask that take nothing."""
    for account, state in shut:
        account_id = account.account_id
        if state is AccountState.FROZEN:
            yield Finding(
                Rule.SHUT_ACCOUNTS,
                Decision.APPROVAL_REQUIRED,
                "account_frozen",
                "An account that this call is counted on is frozen.",
                f"Its owner or an operator can unfreeze {account_id}.",
                account,
            )
        else:
            yield Finding(
                Rule.SHUT_ACCOUNTS,
                Decision.DENIED,
                "account_closed",
                "An account that this call is counted on is closed for good.",
                f"Use another project or team than that of {account_id}.",
                account,
            )


def _bypassed(bypass: Bypass | None, shadow: Sequence[Finding]) -> Sequence[Reason]:
    """Say of a call that would have been held back why it isn't."""
    if bypass is None or not shadow:
        return ()
    until = f"An operator lets calls pass until {bypass.ends_at:%Y-%m-%d %H:%M} UTC."
    return [Reason("bypassed", until, None)]


def _of_accounts(touched: Touched, cost_micro_usd: MicroUsd) -> Iterator[Finding]:
    """Return what the accounts ask of the caller, by where they would stand with the call."""
    balances, unlocks = touched.balances, touched.standing.unlocks
    for balance in balances:
        band, account, shared = balance.band_with(cost_micro_usd), balance.account, balance.shared
        asked = ask(band, shared=shared)
        if asked is Decision.ALLOW:
            continue
        own = own_use(balances, touched.standing, balance)
        if shared and balance.spares(own, cost_micro_usd):
            continue
        code, message = f"{account.kind.value}_in_{band.label}_band", _MESSAGES[shared, band]
        way = f"Ask for a grant on {account.account_id}."
        if account.purpose is Purpose.EXPERIMENT:
            code, message, way = f"{account.kind.value}_experiments_in_{band.label}_band", *_EXPERIMENTS
        if asked is Decision.JUSTIFICATION_REQUIRED:
            way = _JUSTIFY
        rule = Rule.BUDGETS if shared else Rule.ALLOWANCES
        yield _justified(Finding(rule, asked, code, message, way, account), unlocks)


def _of_day(touched: Touched, cost_micro_usd: MicroUsd) -> Iterator[Finding]:
    """Return that a caller's day would be a spike with the call."""
    day_use = touched.day_use
    if day_use is not None and cost_micro_usd > day_use.room_micro_usd:
        found = Finding(
            Rule.SPIKES,
            Decision.JUSTIFICATION_REQUIRED,
            "spike",
            day_use.message,
            _JUSTIFY_SPIKE,
            touched.balances[0].account,
        )
        yield _justified(found, touched.standing.unlocks)


def _justified(finding: Finding, unlocks: Unlocks) -> Finding:
    """Ask for no reason of who has given one that still holds."""
    if finding.decision is not Decision.JUSTIFICATION_REQUIRED or unlocks.justified_until is None:
        return finding
    return finding._replace(
        decision=Decision.ALLOW_WITH_NUDGE,
        code="justified_until_expiry",
        message=f"The reason you gave lets you go on until {unlocks.justified_until:%Y-%m-%d %H:%M} UTC.",
    )


def _reason(finding: Finding) -> Reason:
    account = finding.account
    return Reason(finding.code, finding.message, account.account_id if account else None)


def _unblocks(
    governance: Governance, findings: Iterable[Finding], own: Account, now: datetime
) -> list[Unblock]:
    """Return what lets the caller go on; who decides about its own account decides about what it may call."""
    return [
        Unblock(
            each.decision,
            each.way,
            deciders(governance, each.account or own, now)
            if each.decision is Decision.APPROVAL_REQUIRED
            else (),
        )
        for each in findings
        if each.decision >= Decision.JUSTIFICATION_REQUIRED
    ]
