"""What was approved, each from an instant to an instant: grants that add to a limit, unlocks that permit."""

from collections.abc import Iterable, Iterator
from datetime import datetime
from itertools import chain, pairwise
from typing import Final, NamedTuple, TypeVar

from tokenomics_contracts.units import MicroUsd
from tokenomics_quota.domain.effective import LogOrder
from tokenomics_quota.domain.policies import ModelName
from tokenomics_quota.domain.timeline import Timeline

Target = tuple[str, str]
"""(kind, id); a kind is ``subject``, ``project``, ``team``, ``cost_centre`` or ``group``."""


class Grant(NamedTuple):
    """An addition to the limit of an account."""

    micro_usd: MicroUsd
    overdraft: bool
    """Lent beyond the budget."""
    each_period: bool
    """Whether it is there anew in each period; else in the one in which it starts, and in no other."""


class Justification(NamedTuple):
    """A reason was given: the justify band of the subject's account is open."""


class ModelAccess(NamedTuple):
    """Models may be used that policy doesn't approve, for data that it doesn't prohibit."""

    models: tuple[tuple[str, str], ...]
    """(provider, exact name or prefix ending in ``*``)."""
    data_classes: tuple[str, ...]


class Approval(NamedTuple):
    """An approval, as its event states it."""

    request_id: str
    target: Target
    starts_at: datetime
    ends_at: datetime
    """Exclusive."""
    what: Grant | Justification | ModelAccess
    order: LogOrder
    identity: bytes
    """Of the event, among those of its topic: another event that takes its identity takes its place."""


class Ending(NamedTuple):
    """The end of an approval before its time."""

    request_id: str
    ended_at: datetime
    identity: bytes


_Stated = TypeVar("_Stated", Approval, Ending)


class Approvals:
    """All approvals, those to come and those that have ended too. A value: changes make another."""

    def __init__(self) -> None:
        self._approved: dict[str, tuple[Approval, ...]] = {}
        """By request id: one, unless somebody approved a request twice."""
        self._ended: dict[str, tuple[Ending, ...]] = {}
        self._requests_of: dict[Target, tuple[str, ...]] = {}
        """What was ever approved for a target."""
        self._described: dict[bytes, str] = {}
        """Whose approval or ending each event states, by the event's identity."""

    def __bool__(self) -> bool:
        return bool(self._approved)

    def changed(
        self, approved: Iterable[Approval], ended: Iterable[Ending]
    ) -> "tuple[Approvals, frozenset[Target]]":
        """Return what holds with these too, and for which targets something else holds than before.

        Each replaces what has its identity.
        """
        after = Approvals()
        after._approved, after._ended = self._approved.copy(), self._ended.copy()
        after._requests_of, after._described = self._requests_of.copy(), self._described.copy()
        touched = set[str]()
        for approval in approved:
            touched |= after._put(after._approved, approval)
            known = after._requests_of.get(approval.target, ())
            if approval.request_id not in known:
                after._requests_of[approval.target] = (*known, approval.request_id)
        for ending in ended:
            touched |= after._put(after._ended, ending)
        differing = [
            (before, now)
            for request_id in touched
            if (before := self.of_request(request_id)) != (now := after.of_request(request_id))
        ]
        return after, frozenset(each.target for pair in differing for each in pair if each is not None)

    def _put(self, kept: dict[str, tuple[_Stated, ...]], stated: _Stated) -> set[str]:
        """Take something in; return the requests of which something is other than before."""
        former = self._described.get(stated.identity)
        if former is not None:
            _take_out(self._approved, former, stated.identity)
            _take_out(self._ended, former, stated.identity)
        self._described[stated.identity] = stated.request_id
        kept.setdefault(stated.request_id, ())
        kept[stated.request_id] += (stated,)
        return {stated.request_id} if former is None else {stated.request_id, former}

    def of_request(self, request_id: str) -> Approval | None:
        """Return what a request came to, with the end that it has now; ``None`` when it never holds.

        The first approval in the log counts, and the earliest end.
        """
        approved = self._approved.get(request_id)
        if not approved:
            return None
        first = min(approved, key=_order)
        end = min([first.ends_at, *(ending.ended_at for ending in self._ended.get(request_id, ()))])
        return first._replace(ends_at=end) if end > first.starts_at else None

    def of_target(self, target: Target) -> list[Approval]:
        """Return what was approved for a target and ever holds."""
        found = map(self.of_request, self._requests_of.get(target, ()))
        return [approval for approval in found if approval is not None and approval.target == target]

    def turning(self, after: datetime, until: datetime) -> frozenset[Target]:
        """Return for which targets something begins or ends to hold after an instant, and by another."""
        return frozenset(
            approval.target
            for approval in map(self.of_request, self._approved)
            if approval is not None
            and (after < approval.starts_at <= until or after < approval.ends_at <= until)
        )

    def changes(self) -> Iterator[datetime]:
        """Return every instant at which an approval may begin or end to hold."""
        for approved in self._approved.values():
            for approval in approved:
                yield approval.starts_at
                yield approval.ends_at
        for ended in self._ended.values():
            for ending in ended:
                yield ending.ended_at


def _order(approval: Approval) -> LogOrder:
    return approval.order


def _take_out(kept: dict[str, tuple[_Stated, ...]], request_id: str, identity: bytes) -> None:
    if request_id in kept:
        kept[request_id] = tuple(stated for stated in kept[request_id] if stated.identity != identity)


class CarriedOver(NamedTuple):
    """What an account had left when a period closed: a grant for the period after it, and no other."""

    starts_at: datetime
    ends_at: datetime
    """Exclusive."""
    what: Grant


class Leftovers:
    """All that periods left for those after them. A value: changes make another.

    That may be something for every account each month: what begins and ends together is kept together. Of an
    account there is one amount for a stretch of time.
    """

    def __init__(self) -> None:
        self._left: dict[tuple[datetime, datetime], dict[str, dict[str, MicroUsd]]] = {}
        """By start and end, kind and owner."""

    def __bool__(self) -> bool:
        return bool(self._left)

    def changed(
        self, left: Iterable[tuple[Target, datetime, datetime, MicroUsd]]
    ) -> "tuple[Leftovers, frozenset[Target]]":
        """Return what is left with these too, by whom, from when and until when; and for whom it is other."""
        after, changed, own = Leftovers(), set[Target](), set[tuple[datetime, datetime]]()
        after._left = self._left.copy()
        for (kind, owner_id), starts_at, ends_at, micro_usd in left:
            stretch = (starts_at, ends_at)
            if stretch not in own:
                own.add(stretch)
                kinds = self._left.get(stretch, {})
                after._left[stretch] = {kind: owners.copy() for kind, owners in kinds.items()}
            owners = after._left[stretch].setdefault(kind, {})
            if owners.get(owner_id) != micro_usd:
                changed.add((kind, owner_id))
            owners[owner_id] = micro_usd
        return after, frozenset(changed)

    def since(self, instant: datetime) -> "Leftovers":
        """Return what has not ended by an instant."""
        after = Leftovers()
        after._left = {stretch: kinds for stretch, kinds in self._left.items() if stretch[1] > instant}
        return after

    def of(self, target: Target) -> Iterator[CarriedOver]:
        """Return what was left to an account, whatever the period."""
        kind, owner_id = target
        for (starts_at, ends_at), kinds in self._left.items():
            micro_usd = kinds.get(kind, {}).get(owner_id)
            if micro_usd is not None:
                yield CarriedOver(starts_at, ends_at, Grant(micro_usd, overdraft=False, each_period=False))

    def changes(self) -> Iterator[datetime]:
        """Return every instant at which something begins or ends to hold."""
        return chain.from_iterable(self._left)


class Granted(NamedTuple):
    """What grants add to a limit at an instant; they add up."""

    micro_usd: MicroUsd
    overdraft_micro_usd: MicroUsd
    """The part of it that is lent."""

    def at_most(self, room: MicroUsd) -> "Granted":
        """Return as much of it as there is room for."""
        if self.micro_usd <= room:
            return self
        return Granted(room, min(self.overdraft_micro_usd, room))


NOTHING_GRANTED: Final = Granted(MicroUsd(0), MicroUsd(0))


class Unlocks(NamedTuple):
    """What is unlocked for a caller at an instant. Callers for whom the same is share one."""

    justified_until: datetime | None
    """When the justify band of the caller's account closes again; ``None``: it is closed."""
    models: tuple[ModelAccess, ...]

    def open(self, provider: str, model: str, data_class: str) -> bool:
        """Whether a model is open to the caller for data of a class."""
        return any(
            data_class in access.data_classes
            and any(ModelName(*named).covers(provider, model) for named in access.models)
            for access in self.models
        )


NOTHING_UNLOCKED: Final = Unlocks(None, ())

_NEVER_GRANTED: Final = Timeline[Granted]((), before=NOTHING_GRANTED)
_NEVER_UNLOCKED: Final = Timeline[Unlocks]((), before=NOTHING_UNLOCKED)


class Stretch(NamedTuple):
    """What holds, while it reaches somebody."""

    start: datetime
    end: datetime
    """Exclusive."""
    held: Approval | CarriedOver


def while_reached(held: Approval | CarriedOver, *conditions: Timeline[bool]) -> Iterator[Stretch]:
    """Return the stretches of its time in which all conditions hold."""
    start, end = held.starts_at, held.ends_at
    borders = {start, *(border for each in conditions for border in each.starts if start < border < end)}
    ordered = [*sorted(borders), end]
    for begin, following in pairwise(ordered):
        if all(condition.at(begin) for condition in conditions):
            yield Stretch(begin, following, held)


def granted_over_time(stretches: Iterable[tuple[Stretch, Grant]]) -> Timeline[Granted]:
    """Return what grants add up to at each instant."""
    moves = [
        (instant, sign * grant.micro_usd, sign * grant.micro_usd * grant.overdraft)
        for (start, end, _), grant in stretches
        for instant, sign in ((start, 1), (end, -1))
    ]
    if not moves:
        return _NEVER_GRANTED
    total = overdraft = 0
    steps = []
    for instant, amount, lent in sorted(moves):
        total, overdraft = total + amount, overdraft + lent
        steps.append((instant, Granted(MicroUsd(total), MicroUsd(overdraft))))
    return Timeline(steps, before=NOTHING_GRANTED)  # of several steps at one instant the last counts


def unlocked_over_time(stretches: Iterable[Stretch]) -> Timeline[Unlocks]:
    """Return what is unlocked at each instant."""
    found = [each for each in stretches if not isinstance(each.held.what, Grant)]
    if not found:
        return _NEVER_UNLOCKED

    def at(instant: datetime) -> Unlocks:
        holding = [each.held for each in found if each.start <= instant < each.end]
        justified = [each.ends_at for each in holding if isinstance(each.what, Justification)]
        models = {each.what for each in holding if isinstance(each.what, ModelAccess)}
        return Unlocks(max(justified, default=None), tuple(sorted(models)))

    borders = {border for start, end, _ in found for border in (start, end)}
    return Timeline([(border, at(border)) for border in borders], before=NOTHING_UNLOCKED)
