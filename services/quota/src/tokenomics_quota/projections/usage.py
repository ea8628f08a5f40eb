"""The fold of usage events into facts and amounts to post.

Pure and commutative: whatever the order in which records of several partitions are folded, however they
are cut into batches, and however often they are repeated, the facts and the sums over all sources are the
same. Of records that share an identity the lowest in the log counts; a correction replaces the quantities
of its original, whichever comes first; the highest revision wins. What a hold's caller said it cost counts as
long as no usage names the hold.
"""

from collections.abc import Collection, Iterable, Mapping
from typing import Protocol

from tokenomics_contracts.units import MAX_COST_MICRO_USD, AccountId, HoldId, MicroUsd
from tokenomics_quota.domain.directory import Attribution
from tokenomics_quota.domain.effective import GOVERNING_REACH
from tokenomics_quota.domain.identity import Contest, Rival
from tokenomics_quota.domain.periods import MonthCalendar
from tokenomics_quota.domain.pricing import PriceBook, price
from tokenomics_quota.domain.timeline import Timeline
from tokenomics_quota.projections.facts import Derived, Fact, Line, Postings, Received, line_of


class Governing(Protocol):
    """What the derivation of a fact asks of policies and the directory."""

    def attribution(self, subject: str) -> Timeline[Attribution]:
        """Return who carries the usage of a subject id or alias, over time."""
        ...

    @property
    def price_books(self) -> Timeline[PriceBook]:
        """The price book in force, over time."""
        ...

    @property
    def calendars(self) -> Timeline[MonthCalendar]:
        """The calendar whose periods turn, over time."""
        ...


def derive(received: Received, correction: Received | None, governing: Governing) -> Derived:
    """Derive what a fact costs, who carries it and in which period it counts.

    Everything is judged at the event's own time. ``correction`` replaces the quantities and the reported
    cost, never the time, the subject or the model. A price beyond what a tool may report counts as that: it
    is a price book's mistake, which a later one mends, and must not carry sums out of a ledger's 64 bits.
    """
    at = received.occurred_at
    book = governing.price_books.at(at)
    billed = correction or received
    cost_micro_usd, pricing = price(
        received.provider or "",
        received.model or "",
        billed.quantities,
        book=book,
        at=at,
        reported_micro_usd=billed.reported_cost_micro_usd,
    )
    if cost_micro_usd > MAX_COST_MICRO_USD:
        cost_micro_usd = MicroUsd(MAX_COST_MICRO_USD)
    subject_id, team_id, cost_centre_id = governing.attribution(received.subject).at(at)
    # Once per event, hence by the shortest way to a tuple: see docs/performance.md.
    return tuple.__new__(
        Derived,
        (
            (correction.revision or 0) if correction else 0,
            cost_micro_usd,
            pricing,
            0 if pricing == "reported" else book.version,
            subject_id,
            team_id,
            cost_centre_id,
            governing.calendars.at(at).period_of(at),
        ),
    )


def winning_correction(original: Received, corrections: Iterable[Received]) -> Received | None:
    """Return the correction that counts: the highest revision, of equals the lowest in the log.

    A correction that reaches back further than the governing reach leaves its original as it is.
    """
    applicable = [
        correction
        for correction in corrections
        if original.occurred_at >= correction.order.appended_at - GOVERNING_REACH
    ]
    # Of two with one revision the lower in the log wins: the same rule as for one identity.
    return max(
        applicable,
        key=lambda correction: (correction.revision or 0, tuple(-part for part in correction.order)),
        default=None,
    )


class UsageFold:
    """Folds received events over the facts that the store already holds.

    Parameters
    ----------
    governing
        Policies and directory to derive under.
    stored
        The facts that share an identity with a folded event, or are corrected by one, by identity.
    corrections
        The stored corrections of those facts, by the identity of the original, then by their own.

    Attributes
    ----------
    holds
        Holds that more or fewer facts name than before: their provisional facts are to be judged again.
    """

    def __init__(
        self,
        governing: Governing,
        stored: Mapping[bytes, Fact],
        corrections: Mapping[bytes, Mapping[bytes, Received]],
    ) -> None:
        self._governing = governing
        self._stored = stored
        self._corrections = {original: dict(found) for original, found in corrections.items()}
        self._lines: dict[Line, int] = {}
        self._written: dict[bytes, Fact] = {}
        self._rivals: dict[bytes, set[Rival]] = {}
        self.holds: set[HoldId] = set()

    def add(self, received: Received) -> None:
        """Fold one event: it counts unless a lower record holds its identity."""
        identity = received.identity
        current = self._written.get(identity) or self._stored.get(identity)
        if current is None or current.received.event_kind == "awaited":
            self._accept(received)
            return
        holder = current.received
        if received.order == holder.order:  # tried again
            return
        loser = received
        if received.order < holder.order:
            loser = holder
            self._withdraw(current)
            self._accept(received)
        self._rivals.setdefault(identity, set()).add(Rival(loser.digest, loser.order))

    def contests(self) -> list[Contest]:
        """Return the identities that several records claimed."""
        found = []
        for identity, rivals in self._rivals.items():
            stored = self._stored.get(identity)
            before = stored.received.digest if stored and stored.received.event_kind != "awaited" else None
            current = self._written.get(identity) or self._stored[identity]
            found.append(Contest(identity, before, current.received.digest, rivals))
        return found

    def new(self) -> list[Fact]:
        """Return the facts to insert."""
        return [fact for identity, fact in self._written.items() if identity not in self._stored]

    def changed(self) -> list[Fact]:
        """Return the facts to update."""
        return [fact for identity, fact in self._written.items() if identity in self._stored]

    def postings(self) -> Postings:
        """Return what to add to totals, leaving out what cancels."""
        return spread(self._lines)

    def judge_provisional(self, provisional: Iterable[Fact], named: Collection[HoldId]) -> list[Fact]:
        """Let provisional facts count that no usage names, and no others; return those that changed."""
        changed = []
        for received, derived in provisional:
            assert derived is not None
            counted = received.hold_id not in named
            if counted != received.counted:
                amount = derived.cost_micro_usd
                self._add(received, derived, amount if counted else -amount)
                changed.append(Fact(received._replace(counted=counted), derived))
        return changed

    def _accept(self, received: Received) -> None:
        if received.event_kind == "corrected":
            assert received.corrects is not None
            self._corrections.setdefault(received.corrects, {})[received.identity] = received
            self._written[received.identity] = Fact(received, None)
            self._derive_again(received.corrects)
            return
        corrections = self._corrections.get(received.identity)
        correction = winning_correction(received, corrections.values()) if corrections else None
        derived = derive(received, correction, self._governing)
        self._written[received.identity] = tuple.__new__(Fact, (received, derived))
        self._post(received, derived, derived.cost_micro_usd)
        if received.hold_id is not None:
            self._names(received)

    def _withdraw(self, fact: Fact) -> None:
        received, derived = fact
        if derived is not None:
            self._post(received, derived, -derived.cost_micro_usd)
            self._names(received)
        if received.corrects is not None:
            self._corrections[received.corrects].pop(received.identity)
            self._derive_again(received.corrects)

    def _derive_again(self, identity: bytes) -> None:
        """Re-derive an original whose corrections changed; nothing to do while it is awaited."""
        current = self._written.get(identity) or self._stored.get(identity)
        if current is None or current.derived is None:
            return
        received, before = current.received, current.derived
        correction = winning_correction(received, self._corrections.get(identity, {}).values())
        derived = derive(received, correction, self._governing)
        self._written[identity] = Fact(received, derived)
        self._post(received, before, -before.cost_micro_usd)
        self._post(received, derived, derived.cost_micro_usd)

    def _names(self, received: Received) -> None:
        if (hold_id := received.names) is not None:
            self.holds.add(hold_id)

    def _post(self, received: Received, derived: Derived, amount_micro_usd: int) -> None:
        if received.counted:
            self._add(received, derived, amount_micro_usd)

    def _add(self, received: Received, derived: Derived, amount_micro_usd: int) -> None:
        line = line_of(received, derived)
        self._lines[line] = self._lines.get(line, 0) + amount_micro_usd


def rederive(
    facts: Iterable[Fact],
    corrections: Mapping[bytes, Mapping[bytes, Received]],
    governing: Governing,
) -> tuple[list[Fact], dict[Line, int]]:
    """Derive facts again after a governing event.

    Returns
    -------
    tuple
        The facts that changed, and what to add to each line.
    """
    changed: list[Fact] = []
    lines: dict[Line, int] = {}
    for received, before in facts:
        if before is None:
            continue
        correction = winning_correction(received, corrections.get(received.identity, {}).values())
        derived = derive(received, correction, governing)
        if derived == before:
            continue
        changed.append(Fact(received, derived))
        if received.counted:
            for line, amount in (
                (line_of(received, before), -before.cost_micro_usd),
                (line_of(received, derived), derived.cost_micro_usd),
            ):
                lines[line] = lines.get(line, 0) + amount
    return changed, lines


def spread(lines: Mapping[Line, int]) -> Postings:
    """Spread the amounts of lines over their accounts and days, leaving out what cancels."""
    by_account: dict[AccountId, int] = {}
    by_day: dict[tuple[str, int], int] = {}
    for line, amount in lines.items():
        if amount:
            for account_id in line.accounts():
                by_account[account_id] = by_account.get(account_id, 0) + amount
            for owner in line.owners():
                key = (owner, line.day)
                by_day[key] = by_day.get(key, 0) + amount
    return Postings(
        {account_id: MicroUsd(amount) for account_id, amount in by_account.items() if amount},
        {key: MicroUsd(amount) for key, amount in by_day.items() if amount},
    )
