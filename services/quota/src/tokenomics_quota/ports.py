"""What quota needs from the outside; adapters implement these protocols, ``bootstrap`` wires them."""

from collections.abc import AsyncIterator, Callable, Collection, Iterable, Mapping, Sequence
from datetime import date, datetime
from typing import NamedTuple, Protocol
from uuid import UUID

from tokenomics_chassis.projection import Source
from tokenomics_chassis.records import SourceId
from tokenomics_contracts.events.quota import Announced
from tokenomics_contracts.units import AccountId, HoldId, MicroUsd, PeriodId, SubjectId
from tokenomics_quota.domain.accounts import Account
from tokenomics_quota.domain.checks import Decided
from tokenomics_quota.domain.friction_budgets import Friction
from tokenomics_quota.domain.holds import (
    AccountState,
    Change,
    HeldNow,
    Hold,
    HoldState,
    LedgerAccount,
    Moment,
)
from tokenomics_quota.domain.identity import Rival
from tokenomics_quota.domain.interventions import Bypass, Intervention
from tokenomics_quota.domain.looks import Look, RecordedLook
from tokenomics_quota.domain.policies import Proposal
from tokenomics_quota.domain.simulations import Asked, Simulation
from tokenomics_quota.domain.trail import Reported, Used
from tokenomics_quota.projections.facts import AssetReuse, Fact, Postings, Received
from tokenomics_quota.projections.governance import GoverningEvent, Scope


class GoverningVersion(NamedTuple):
    """Names one state of what governs, in one history."""

    number: int
    history_id: UUID | None


Corrections = dict[bytes, dict[bytes, Received]]
"""Corrections by the identity of their original, then by their own."""


class Ledger(Protocol):
    """Derived state inside one open transaction."""

    async def lock_governance(self, *, exclusive: bool) -> None:
        """Hold the governing state still until the transaction ends.

        Usage batches share the lock; a governing event takes it exclusively, and so waits for the batches
        under way and holds up those to come: no fact is ever derived under a state that is being replaced.
        """
        ...

    async def governing_version(self) -> GoverningVersion:
        """Return the version of the governing state."""
        ...

    async def went_through(self, version: GoverningVersion) -> bool:
        """Whether the governing state was once at this very version, not just at its number."""
        ...

    async def governing_events(self, *, after: int) -> Sequence[GoverningEvent]:
        """Return the events that came into force after a version of the governing state."""
        ...

    async def governing_holders(
        self, topic: str, identities: Iterable[bytes]
    ) -> Mapping[bytes, GoverningEvent]:
        """Return the events in force that hold these identities among those of a topic."""
        ...

    async def put_governing_events(self, events: Iterable[GoverningEvent], version: int) -> None:
        """Write events into force, replacing holders of their identities, as this version."""
        ...

    async def await_originals(self, identities: Iterable[bytes]) -> None:
        """Leave an empty row for each original that hasn't arrived, so that original and correction meet."""
        ...

    async def facts(self, identities: Iterable[bytes]) -> dict[bytes, Fact]:
        """Return and lock the facts that hold these identities."""
        ...

    async def corrections(self, originals: Iterable[bytes]) -> Corrections:
        """Return the corrections of these originals."""
        ...

    async def provisional(self, holds: Iterable[HoldId]) -> Sequence[Fact]:
        """Return and lock the provisional facts of these holds."""
        ...

    async def named(self, holds: Iterable[HoldId]) -> Collection[HoldId]:
        """Return which of these holds are named by usage that counts."""
        ...

    def facts_in(self, scope: Scope) -> AsyncIterator[Sequence[Fact]]:
        """Return the recorded and provisional facts that a governing event may have changed, in chunks."""
        ...

    async def insert(self, facts: Iterable[Fact]) -> None:
        """Add facts whose identities are free.

        A concurrent transaction may take one first: that fails the transaction, and the whole is run again.
        """
        ...

    async def update(self, facts: Iterable[Fact]) -> None:
        """Rewrite facts."""
        ...

    async def put_rivals(self, topic: str, rivals: Mapping[bytes, Iterable[Rival]]) -> None:
        """Remember records whose identity a lower one holds; a known one stays as it is."""
        ...

    async def rivals(self, topic: str, identities: Iterable[bytes]) -> Mapping[bytes, Sequence[Rival]]:
        """Return the remembered rivals of these identities."""
        ...

    async def put_reuses(self, reuses: Iterable[AssetReuse], source: Source) -> None:
        """Remember who used which asset, for each source of them; what is known stays as it is."""
        ...

    async def post(self, postings: Postings, source: Source) -> None:
        """Add to what a source has posted to each account, and to each owner's days."""
        ...


class Announcement(NamedTuple):
    """What was announced, and when."""

    event: Announced
    announced_at: datetime


class Unsettled(NamedTuple):
    """An account whose total of a period isn't the one that was told when the period was closed."""

    account: Account
    """For purpose ``all``."""
    posted_micro_usd: MicroUsd
    experiment_micro_usd: MicroUsd
    told_version: int
    """Of the newest announcement of its closing; 0: there is none."""
    told_micro_usd: MicroUsd


class Found(NamedTuple):
    """Unsettled accounts as of one moment."""

    unsettled: Sequence[Unsettled]
    next_offsets: Mapping[str, int]
    """What was projected at that moment, by ``topic/partition``."""


class Announcements(Protocol):
    """Committed totals and what was said about them, inside one open transaction."""

    async def totals(
        self, moved: Mapping[SourceId, int] | None, *, since: PeriodId
    ) -> Mapping[AccountId, MicroUsd]:
        """Return committed totals of this period and later ones, in one snapshot.

        With ``moved`` (source id to the last ``change_seq`` seen), those that changed since, and both
        purposes of each; without it, all.
        """
        ...

    async def totals_of(
        self, owners: Collection[tuple[str, str]], *, since: PeriodId
    ) -> Mapping[AccountId, MicroUsd]:
        """Return committed totals of this period and later ones of owners, each (kind, id)."""
        ...

    async def days(
        self, owners: Collection[str], *, since: date, before: date
    ) -> Mapping[str, Mapping[date, MicroUsd]]:
        """Return what owners, each ``<kind>/<owner_id>``, used on each day."""
        ...

    async def unsettled(self, period: PeriodId, *, at_most: int) -> Found:
        """Find unsettled accounts of a period, by id; what was never told of is, once it has a total."""
        ...

    async def unsettled_of(self, accounts: Collection[Account]) -> Found:
        """Find those of these accounts, each for purpose ``all``, that are unsettled."""
        ...

    async def was_closed(self, period: PeriodId) -> bool:
        """Whether any account's closing of a period was told."""
        ...

    async def closed(self, accounts: Collection[Account]) -> Collection[AccountId]:
        """Return those of these accounts, each for purpose ``all``, whose closing was told."""
        ...

    async def friction(self, week: date) -> Friction:
        """Return what all servers have counted of a week (its Monday, UTC)."""
        ...

    async def forget_friction(self, *, before: date) -> None:
        """Forget what was counted of the weeks before this one."""
        ...

    async def announce(self, due: Iterable[Announced], now: datetime) -> int:
        """Say what was never said, whatever it is about; return how much that was.

        An announcement, its remembrance and its place in the outbox are one transaction's.
        """
        ...


class Proposals(Protocol):
    """Policy documents that somebody would have published."""

    async def find(self, proposal_id: str) -> Proposal | None:
        """Return the proposal that has this id."""
        ...

    async def add(self, proposal: Proposal) -> Proposal:
        """Keep a proposal; return what is kept under its id, which is another where the id was taken."""
        ...

    async def newest_first(
        self, kind: str | None, *, before: int | None, most: int
    ) -> Sequence[tuple[int, Proposal]]:
        """Return proposals with their numbers, which rise with each that is added.

        Parameters
        ----------
        kind
            Only of this kind.
        before
            Only those with a lower number.
        """
        ...


class Simulations(Protocol):
    """What other policies would have decided, as it was asked for and found."""

    async def find(self, simulation_id: str) -> Simulation | None:
        """Return the simulation that has this id."""
        ...

    async def add(self, asked: Asked) -> Simulation | None:
        """Record one to be worked off; return what is kept under its id, another's where the id was taken.

        ``None``: too many wait already.
        """
        ...


class History(Protocol):
    """What the version that serves has of the past, beyond what its view holds in memory."""

    async def days(self, owner: str, today: date) -> Mapping[date, MicroUsd]:
        """Return what an owner, ``<kind>/<owner_id>``, used on the days before today that a forecast goes by.

        It may be some minutes old: late usage changes a day that is over seldom, and little.
        """
        ...

    async def totals(self, accounts: Iterable[Account]) -> Mapping[AccountId, MicroUsd]:
        """Return what is posted to accounts, each of a single purpose and any period, that a cost touched."""
        ...


class ReadSources(Protocol):
    """What was read of sources of events, inside one open transaction."""

    async def last_seen(self, sources: Iterable[str]) -> Mapping[str, datetime]:
        """Return the append time of the newest event of each of these that was ever seen."""
        ...

    async def next_offsets(self) -> Mapping[tuple[str, int], int]:
        """Return how far each partition is projected, by topic and partition."""
        ...


class EndOffsets(Protocol):
    """Tells how far the log goes."""

    @property
    def read_at(self) -> float | None:
        """When the read began that succeeded last, by the event loop's clock; ``None`` before the first."""
        ...

    async def next(self) -> Mapping[str, int]:
        """Return the end offsets, by ``topic/partition``, as of a read that begins after this call.

        One read serves all who asked before it began. Waits while the broker is away.
        """
        ...


class UsageTrail(Protocol):
    """What is counted on a subject, request by request."""

    async def page(
        self,
        names: Collection[str],
        subject_id: str,
        since: datetime,
        before: datetime,
        *,
        behind: tuple[datetime, bytes] | None,
        limit: int,
    ) -> Sequence[Used]:
        """Return requests of a stretch of time, newest first.

        Parameters
        ----------
        names
            The subject's id and aliases: only what was reported under one of them is looked at.
        subject_id
            Only what is counted on this subject is returned: an alias may have been somebody else's.
        since, before
            Inclusive, exclusive.
        behind
            Time and identity of the last one of the page before.
        """
        ...

    async def reports(self, used: Sequence[Used]) -> Sequence[Reported | None]:
        """Return what the log says of requests, in their order; ``None`` where it holds it no more."""
        ...


class LookLog(Protocol):
    """Where looks are kept."""

    async def record(self, looks: Sequence[Look]) -> None:
        """Keep looks; they are durable when this returns.

        Raises
        ------
        UnavailableError
            They can't be kept now: nothing may be shown.
        """
        ...

    async def looks_at(self, subject: str, *, before: int | None, limit: int) -> Sequence[RecordedLook]:
        """Return looks at a subject's data, newest first, from before a number on."""
        ...


class Reserved(NamedTuple):
    """A place among the decision records."""

    decision_id: str
    keep: Callable[[], None]
    """Keeps the decision; to be called once, or never: then nothing is left of it."""


class DecisionLog(Protocol):
    """Where decision records go."""

    def add(self, decided: Decided) -> str:
        """Keep a decision and return its id: at once, before it is durable, whatever the database does.

        Too many at a time are summed; one that there is no room for is counted as unrecorded, and has an id
        all the same.
        """
        ...

    def reserve(self, decided: Decided) -> Reserved:
        """Give a decision its id before it is known whether it holds; see :meth:`add`."""
        ...


class Turn(NamedTuple):
    """A transaction's place in the ledger's line."""

    first_change_seq: int
    """The commands of the transaction have this number and those that follow."""
    now: datetime
    """The ledger's now: the database's clock, but never before that of an earlier turn."""
    is_open: bool
    """Whether nothing can be missing from the ledger: it isn't while a lost database is being recalled."""
    active_version: int
    """Of the derived state."""
    bypass_seq: int = 0
    """Number of the newest change of a bypass."""

    def moment(self, number: int) -> Moment:
        """Return the moment of the transaction's command with this number, from 0."""
        return Moment(self.first_change_seq + number, self.now)


class Committed(NamedTuple):
    """What the derived state says in the ledger's transaction."""

    governing_version: int
    posted: Mapping[AccountId, MicroUsd]
    """For purpose ``all`` of both purposes; nothing for an account that no cost touched."""


class ToldChange(NamedTuple):
    """An event that tells of a change of the hold ledger, hardly read yet."""

    change_seq: int
    event_id: str
    told_at: datetime
    event_type: str
    data: bytes


class HoldLedger(Protocol):
    """Holds and what accounts hold for them, inside one open transaction."""

    async def begin(self, commands: int) -> Turn:
        """Wait for the transactions before, and take as many numbers as there will be commands.

        Call it first: until the transaction ends no other one gets behind this.
        """
        ...

    async def begin_again(self, change_seq: int, now: datetime) -> None:
        """Take a turn for what is told again: its changes have numbers and moments already.

        Parameters
        ----------
        change_seq
            The largest number among them.
        now
            The earliest moment among them.
        """
        ...

    async def holds(self, named: Iterable[HoldId]) -> Sequence[Hold]:
        """Return the holds with these ids, those above them, and all live ones of their trees."""
        ...

    async def accounts(
        self, account_ids: Iterable[AccountId], account_nos: Iterable[int] = ()
    ) -> Sequence[LedgerAccount]:
        """Return these accounts as of the turn's now; one that no command ever named begins with nothing."""
        ...

    async def committed(self, version: int, account_ids: Iterable[AccountId]) -> Committed:
        """Return what a version of the derived state says of these accounts."""
        ...

    async def write(self, changes: Sequence[Change], traceparents: Mapping[int, str] | None = None) -> None:
        """Write what the turn's commands changed, in their order, and tell it.

        Parameters
        ----------
        traceparents
            Traces of the calls that gave commands, by the command's number in the ledger.
        """
        ...


class InterventionLedger(Protocol):
    """Account states and bypasses, inside one open transaction of the ledger's line."""

    async def begin(self, commands: int) -> Turn:
        """See :meth:`HoldLedger.begin`; it comes first."""
        ...

    async def account(self, account_id: AccountId) -> LedgerAccount:
        """Return an account as of the turn's now; one that no command ever named begins with nothing."""
        ...

    async def set_state(self, account_id: AccountId, state: AccountState, change_seq: int) -> None:
        """Open or shut an account to holds."""
        ...

    async def bypass(self, bypass_id: str) -> Bypass | None:
        """Return the bypass with this id."""
        ...

    async def put_bypass(self, bypass: Bypass, change_seq: int) -> None:
        """Write a bypass, or when one ended."""
        ...

    async def past_bypasses(self, limit: int) -> Sequence[Bypass]:
        """Return bypasses whose time has come and of which nobody has written that down."""
        ...

    async def tell(self, done: Intervention) -> None:
        """Tell what was done as an event."""
        ...

    async def record(self, done: Intervention) -> None:
        """Record in the audit trail what somebody did; nothing is to follow in the transaction.

        Raises
        ------
        UnavailableError
            It can't be recorded now.
        """
        ...


class HoldsWanted(NamedTuple):
    """Which holds to list; what is ``None`` leaves none out."""

    subject: SubjectId | None
    account_id: AccountId | None
    state: HoldState | None
    """At the ledger's now."""
    before_no: int
    """Only those with a smaller number."""
    size: int
    """At most so many."""


class HoldPage(NamedTuple):
    """Some of the holds that are wanted, the newest first."""

    holds: Sequence[HeldNow]
    before_no: int | None
    """Where the next page begins, which may have nothing; ``None``: there are no more."""


class HoldList(Protocol):
    """Where holds are looked up, outside any turn."""

    async def page(self, wanted: HoldsWanted) -> HoldPage:
        """Return holds as they stand: fewer than wanted where most are left out, so that it takes no long."""
        ...
