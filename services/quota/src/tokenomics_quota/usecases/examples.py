"""Judging a quota policy's examples by the very rules of a check, on a company made up for each."""

from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, Final, NamedTuple

from tokenomics_contracts.events.approvals import (
    ApprovalApproved,
    ApprovalKind,
    Target,
    UnlockedModel,
)
from tokenomics_contracts.events.base import Event
from tokenomics_contracts.events.directory import PersonUpserted, ProjectUpserted, TeamUpserted
from tokenomics_contracts.events.policy import (
    FULL,
    Example,
    PolicyDocument,
    PolicyPublished,
    Problem,
    QuotaDocument,
    Spent,
)
from tokenomics_contracts.units import EARLIEST_TIME, DecisionName, MicroUsd, PersonId, TeamId
from tokenomics_quota.domain.accounts import Account, Purpose
from tokenomics_quota.domain.checks import Call
from tokenomics_quota.domain.effective import LogOrder
from tokenomics_quota.domain.pricing import ModelPrice, Quantities, Rates
from tokenomics_quota.domain.spikes import DayUse, SpikeRule, usual
from tokenomics_quota.projections.balances import QuotaView
from tokenomics_quota.projections.governance import Governance, GoverningEvent
from tokenomics_quota.usecases.checking import Terms, check

_CALLER: Final = PersonId("example")
_NO_TEAM: Final = TeamId("example:team")
"""Team of a caller whose example names none."""

_AN_INSTANT: Final = timedelta(microseconds=1)
_APPENDED: Final = LogOrder(int(EARLIEST_TIME.timestamp() * 1000), 0, 0)
_A_TOKEN_A_MICRO_USD: Final = 1_000_000
"""Pico-USD: so that a call of so many input tokens costs so many micro-USD."""


class Judged(NamedTuple):
    """What became of an example."""

    name: str
    expected: DecisionName
    actual: DecisionName
    reasons: tuple[str, ...]
    """Codes, the deciding one first; empty for a plain ALLOW."""

    @property
    def holds(self) -> bool:
        """Whether the rules give what the example says."""
        return self.actual == self.expected


def judge_examples(
    document: QuotaDocument, beside: Mapping[str, PolicyDocument], now: datetime
) -> Iterator[Judged | Problem]:
    """Judge each example of a quota policy, in order; a problem says why one can't be judged.

    Each has a company of its own: the policies have been in force for ever, and nobody works there but the
    caller and the other members that the example counts.

    Parameters
    ----------
    beside
        Policies of other kinds, by kind. Prices don't matter: an example says what its call costs.
    """
    policies = [
        PolicyPublished.model_validate(
            {"kind": kind, "version": 1, "effective_from": EARLIEST_TIME, "document": each}
        )
        for kind, each in {**beside, "quota": document}.items()
        if kind != "price_book"
    ]
    governance = _governed(Governance(_OnePrice()), policies)
    for place, example in enumerate(document.examples):
        judged = _judge(governance, example, now)
        if isinstance(judged, Problem):
            judged = judged._replace(path=f"examples.{place}.{judged.path}")
        yield judged


def _judge(policies: Governance, example: Example, now: datetime) -> Judged | Problem:
    at = example.at or now
    view = QuotaView(_governed(policies, (*_directory(example), *_approvals(example, at))))
    accounts = view.accounts_of(_CALLER, example.project_id, at)
    by_kind = {account.kind.value: account for account in accounts}
    for place, spent in enumerate(example.spent):
        account = by_kind[spent.account]
        posted = _posted(view.governance, account, spent, at)
        if posted is None:
            problem = f"should be micro_usd: the {spent.account} has no limit to be a share of"
            return Problem(f"spent.{place}.basis_points", problem)
        view.put_totals({account.for_purpose(Purpose(example.purpose)).account_id: posted})
    view.put_day_uses((_CALLER,), _day_uses(example, at, view.governance.quota_policies.at(at).spikes))
    touched = view.touched_by(_CALLER, example.project_id, at, example.purpose)
    answer = check(Terms.at(view.governance, at), touched, _call(example), at)
    codes = tuple(reason.code for reason in answer.reasons)
    return Judged(example.name, example.expect, answer.decision.label, codes)


class _OnePrice:
    """A price source by which every call costs a micro-USD a token."""

    def find(self, _provider: str, _model: str) -> ModelPrice:
        """Know every model."""
        return ModelPrice.flat(Rates.of(input=_A_TOKEN_A_MICRO_USD, output=_A_TOKEN_A_MICRO_USD))


def _governed(before: Governance, events: Iterable[Event]) -> Governance:
    described = [
        GoverningEvent("", f"{event.type_name} {event.key}".encode(), b"", _APPENDED, event)
        for event in events
    ]
    return before.with_events(described, before.version + 1)


def _directory(example: Example) -> Iterator[Event]:
    team_id = example.team_id or _NO_TEAM
    yield TeamUpserted(
        team_id=team_id,
        cost_centre_id=example.cost_centre_id,
        effective_from=example.team_since or EARLIEST_TIME,
    )
    if example.project_id:
        yield ProjectUpserted(project_id=example.project_id, effective_from=EARLIEST_TIME)
    for person_id in (_CALLER, *(PersonId(f"{_CALLER}:{number}") for number in range(1, example.members))):
        yield PersonUpserted(
            person_id=person_id,
            role=example.role,
            team_id=team_id,
            project_ids=(example.project_id,) if example.project_id else (),
            effective_from=EARLIEST_TIME,
        )


def _approvals(example: Example, at: datetime) -> Iterator[Event]:
    """Approve what the example says is approved, for the instant of its call and no longer."""
    owners = {
        "subject": _CALLER,
        "project": example.project_id,
        "team": example.team_id,
        "cost_centre": example.cost_centre_id,
    }
    for granted in example.granted:
        target = Target.model_construct(kind=granted.account, id=owners[granted.account])
        yield _approval("boost", at, target, amount_micro_usd=granted.micro_usd)
    caller = Target(kind="subject", id=_CALLER)
    if example.justified:
        yield _approval("justification", at, caller)
    if example.model_unlocked:
        model = UnlockedModel(provider=example.provider, model=example.model)
        yield _approval("model_access", at, caller, models=(model,), data_classes=(example.data_class,))


def _approval(kind: ApprovalKind, at: datetime, target: Target, **what: Any) -> ApprovalApproved:
    # Not validated: nothing in it is from outside, and the last instant of all has none after it.
    return ApprovalApproved.model_construct(
        request_id=f"{kind}:{target.kind}",
        kind=kind,
        target=target,
        starts_at=at,
        expires_at=at + _AN_INSTANT,
        reason_code="example",
        decided_by="example:decider",
        **what,
    )


def _posted(governance: Governance, account: Account, spent: Spent, at: datetime) -> MicroUsd | None:
    if spent.micro_usd is not None:
        return spent.micro_usd
    assert spent.basis_points is not None
    limit = governance.limit(account.kind, account.owner_id, at)
    return None if limit is None else MicroUsd(-(-limit.micro_usd * spent.basis_points // FULL))


def _day_uses(example: Example, at: datetime, rule: SpikeRule | None) -> dict[str, DayUse]:
    if rule is None or example.used_today_micro_usd < rule.watched_from_micro_usd:
        return {}
    today = at.astimezone(UTC).date()
    before = {
        today - timedelta(days=ago): example.usual_day_micro_usd for ago in range(1, rule.window.days + 1)
    }
    known = usual(before, today, rule)
    return {} if known is None else {_CALLER: DayUse(today, example.used_today_micro_usd, known)}


def _call(example: Example) -> Call:
    return Call(
        _CALLER,
        example.provider,
        example.model,
        Quantities(example.cost_micro_usd),
        example.project_id,
        example.purpose,
        example.data_class,
        example.use_case,
    )
