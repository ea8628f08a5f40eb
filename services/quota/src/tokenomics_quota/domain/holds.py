"""Holds: amounts that are kept free on accounts for calls under way, each resolved exactly once.

Commands are pure functions of what the ledger's books say, of what is asked for, and of the ledger's moment.
They return what changes, or why nothing does; the books take changes in, one after the other. So it makes no
difference how commands are grouped into transactions.

What is live on an account at an instant is the sum of what its holds have left then. A hold ends at its
instant by itself: no command has to see it for its amount to be free again.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import Enum, StrEnum
from hashlib import blake2b
from typing import Final, NamedTuple
from zlib import crc32

from tokenomics_contracts.units import AccountId, HoldId, MicroUsd, ProjectId, SubjectId
from tokenomics_contracts.units import Purpose as CallPurpose
from tokenomics_quota.domain.friction import Decision

SHORTEST_TTL: Final = timedelta(seconds=1)
LONGEST_TTL: Final = timedelta(hours=24)
"""A hold that nobody resolves keeps its amount for so long at most; extending it needs somebody there."""

DEFAULT_TTL: Final = timedelta(minutes=10)
"""Longer than almost every call takes, and short enough not to be missed when a client dies."""

MOST_LIVE_PARTS: Final = 1_000
"""Of one hold and of all parts below it together."""

DEEPEST_PART: Final = 8
"""Holds above a part at the most."""

TENTH: Final = timedelta(milliseconds=100)
"""Holds end at full tenths of a second, so that ends of an account fall together."""

_NOTHING: Final = MicroUsd(0)
_WHOLE: Final = 16
_BYTE: Final = 0xFF


class HoldKind(StrEnum):
    """What a hold is for."""

    CALL = "call"
    """One call: its usage ends it."""
    LEASE = "lease"
    """Many calls that its client decides: the usage of each settles some of it."""
    PART = "part"
    """A call within another hold, and on no account itself: it uses what that one has left."""


class HoldState(StrEnum):
    """Where a hold stands. Past its end ``LIVE`` says that nobody has written that down yet."""

    LIVE = "live"
    SETTLED = "settled"
    RELEASED = "released"
    EXPIRED = "expired"


class AccountState(StrEnum):
    """Whether an account takes holds."""

    OPEN = "open"
    FROZEN = "frozen"
    CLOSED = "closed"


class Lease(NamedTuple):
    """What a hold is beside, that its client draws from by itself."""

    draw_until: datetime
    """When its client stops drawing, by the ledger's clock."""
    longest_call: timedelta
    """For so long after that, at least, what it drew is held."""
    typical_call: bytes
    """As its writer reads it: what a renewal is judged and priced by."""
    renewal: int = 0
    """Number of the latest one."""
    renewal_digest: bytes = b""
    """Of what that one asked for."""
    drawn_micro_usd: MicroUsd = MicroUsd(0)
    """As its client last said."""
    is_returned: bool = False
    """Its client draws no more."""


class Hold(NamedTuple):
    """An amount kept free on every account of a call."""

    hold_no: int
    """The ledger's number of the command that placed it."""
    hold_id: HoldId
    kind: HoldKind
    state: HoldState
    subject: SubjectId
    project_id: ProjectId | None
    purpose: CallPurpose
    amount_micro_usd: MicroUsd
    account_nos: tuple[int, ...]
    """Empty for a part."""
    placed_at: datetime
    expires_at: datetime
    digest: bytes
    """Of what was asked for: see :func:`digest_of`."""
    answer: bytes
    """What its caller was answered beside the hold."""
    parent_no: int | None
    root_no: int | None
    """Of a part, the hold that is on accounts."""
    placed_until: datetime
    """Its end as it was placed."""
    covered_micro_usd: MicroUsd = MicroUsd(0)
    """What usage settled of it while it was live, by its parts or by itself."""
    cost_micro_usd: MicroUsd | None = None
    """What usage of it cost, in full, parts not included."""
    parts_micro_usd: MicroUsd = MicroUsd(0)
    """Of what is covered, what its parts settled."""
    settling_micro_usd: MicroUsd = MicroUsd(0)
    """Of the cost, what its accounts count as settling."""
    usage_named: bool = False
    """Whether a usage event ended it: it is settled by no second one."""
    lease: Lease | None = None

    @property
    def left_micro_usd(self) -> MicroUsd:
        """What of it is not settled."""
        return MicroUsd(self.amount_micro_usd - self.covered_micro_usd)

    @property
    def as_placed(self) -> "Hold":
        """What it was when it was placed, whatever became of it."""
        return self._replace(
            state=HoldState.LIVE,
            expires_at=self.placed_until,
            covered_micro_usd=MicroUsd(0),
            cost_micro_usd=None,
            parts_micro_usd=MicroUsd(0),
            settling_micro_usd=MicroUsd(0),
            usage_named=False,
        )

    def is_live(self, now: datetime) -> bool:
        """Whether it counts at the ledger's now."""
        return self.state is HoldState.LIVE and now < self.expires_at

    def state_at(self, now: datetime) -> HoldState:
        """Where it stands at the ledger's now, whether that is written down or not."""
        return state_at(self.state, self.expires_at, now)


def state_at(written: HoldState, expires_at: datetime, now: datetime) -> HoldState:
    """Return where a hold stands at the ledger's now of which something is written down."""
    return HoldState.EXPIRED if written is HoldState.LIVE and expires_at <= now else written


class HeldNow(NamedTuple):
    """A hold as it stands at an instant."""

    hold: Hold
    state: HoldState
    account_ids: tuple[AccountId, ...]
    parent_id: HoldId | None
    left_micro_usd: MicroUsd


class LedgerAccount(NamedTuple):
    """What an account holds beside what is posted to it, as of the ledger's now."""

    account_no: int
    account_id: AccountId
    state: AccountState = AccountState.OPEN
    placements: int = 0
    """Number of its latest placement."""
    live_micro_usd: MicroUsd = MicroUsd(0)
    settling_micro_usd: MicroUsd = MicroUsd(0)
    """Settled by call, in full, until a fact shows it as posted."""
    covered_micro_usd: MicroUsd = MicroUsd(0)
    """Settled within holds that were live then."""

    @property
    def pending_micro_usd(self) -> MicroUsd:
        """What is used of it beside what is posted."""
        return MicroUsd(self.live_micro_usd + self.settling_micro_usd)


class Placement(NamedTuple):
    """A hold's coming on an account: it shows that the account's limit was kept."""

    account_no: int
    account_id: AccountId
    sequence: int
    """Among the placements on this account."""
    hold_no: int
    committed_before_micro_usd: MicroUsd
    """Covered and live just before."""
    amount_micro_usd: MicroUsd
    limit_then_micro_usd: MicroUsd | None
    """The hard limit that it had to fit under."""


class Ending(NamedTuple):
    """More, or less, of an account's live amount ends at an instant."""

    account_no: int
    expires_at: datetime
    amount_micro_usd: int


class Event(Enum):
    """What happened to a hold."""

    PLACED = "placed"
    EXTENDED = "extended"
    RENEWED = "renewed"
    RETURNED = "returned"
    SETTLED = "settled"
    RELEASED = "released"
    EXPIRED = "expired"


class Moment(NamedTuple):
    """A command's place in the ledger's line."""

    change_seq: int
    """Larger than every one before; no other command has it."""
    now: datetime
    """Never before that of an earlier command, whatever the clock does."""


class Placed(NamedTuple):
    """How a hold came to be."""

    decision: Decision
    reason_codes: tuple[str, ...]
    """Why the decision is no plain ALLOW, the deciding reason first."""
    parent_id: HoldId | None
    placements: Sequence[Placement]


class Happened(NamedTuple):
    """Something to be told of a hold."""

    event: Event
    hold: Hold
    """As it is after that."""
    moment: Moment
    cost_micro_usd: MicroUsd | None = None
    """What a settlement costs."""
    usage_identity: bytes | None = None
    """Of the usage event that settled it; ``None``: its caller did."""
    placed: Placed | None = None
    placements: Sequence[Placement] = ()
    """Of what a renewal added."""


class Change(NamedTuple):
    """What a command changes."""

    hold: Hold
    """The one that the command names, as it is after."""
    holds: Sequence[Hold] = ()
    """New and changed ones, as they are after."""
    accounts: Sequence[LedgerAccount] = ()
    placements: Sequence[Placement] = ()
    endings: Sequence[Ending] = ()
    happened: Sequence[Happened] = ()


class Why(Enum):
    """Why a command changes nothing."""

    UNKNOWN = "no such hold"
    ENDED = "the hold has ended"
    LEASE = "it is a lease: usage settles what is drawn from it, and it is renewed or returned"
    NO_LEASE = "it is a hold for one call, no lease"
    NO_TIME = "no time to draw is left before its price or its period ends"
    RENEWED_OTHERWISE = "this renewal was made with another request"
    OUT_OF_TURN = "renewals are numbered one after the other"
    MOVED = "its calls are counted on other accounts by now: acquire another lease"
    SETTLED = "the hold was settled"
    SETTLED_OTHERWISE = "the hold was settled with another amount"
    ACCOUNT_SHUT = "an account takes no holds"
    LIMIT = "a hard limit refuses the amount"
    PARENT_ENDED = "the parent hold has ended, or is none that can have parts"
    PARENT_EXHAUSTED = "the parent hold has less left"
    TOO_MANY_PARTS = "the parent hold has as many live parts as it may, or is as deep a part as there may be"


class Refusal(NamedTuple):
    """A command that changes nothing."""

    why: Why
    hold: Hold | None = None
    """The one that it named, as it is; of a refused part, the parent."""
    accounts: Sequence[tuple[AccountId, str]] = ()
    """Those that refuse, and what each says."""
    left_micro_usd: MicroUsd = MicroUsd(0)
    """Of an exhausted parent."""


class Books:
    """What some commands may touch of the ledger: holds they name with the trees of these, and accounts.

    A value while a command looks at it. :meth:`take` brings in what it changes.

    Parameters
    ----------
    accounts
        With what is live at the ledger's now.
    holds
        Those named; of each, those above it, and all live ones of its tree.
    """

    def __init__(self, accounts: Iterable[LedgerAccount] = (), holds: Iterable[Hold] = ()) -> None:
        self._accounts: dict[int, LedgerAccount] = {}
        self._account_nos: dict[AccountId, int] = {}
        self._holds: dict[int, Hold] = {}
        self._hold_nos: dict[HoldId, int] = {}
        self._parts: dict[int, dict[int, None]] = {}
        """Numbers of the parts at hand, in order, by that of their parent."""
        for account in accounts:
            self._put_account(account)
        for hold in holds:
            self._put_hold(hold)

    def hold(self, hold_id: HoldId) -> Hold | None:
        """Return the hold with this id."""
        hold_no = self._hold_nos.get(hold_id)
        return None if hold_no is None else self._holds[hold_no]

    def numbered(self, hold_no: int) -> Hold:
        """Return the hold with this number."""
        return self._holds[hold_no]

    def account(self, account_id: AccountId) -> LedgerAccount:
        """Return the account with this id."""
        return self._accounts[self._account_nos[account_id]]

    def accounts_of(self, hold: Hold) -> list[LedgerAccount]:
        """Return the accounts that a hold is on; those of its root for a part."""
        return [self._accounts[account_no] for account_no in self.root_of(hold).account_nos]

    def root_of(self, hold: Hold) -> Hold:
        """Return the hold on accounts that this one is, or is a part of."""
        return hold if hold.root_no is None else self._holds[hold.root_no]

    def above(self, hold: Hold) -> list[Hold]:
        """Return the holds that this one is a part of, its parent first."""
        found = []
        while hold.parent_no is not None:
            hold = self._holds[hold.parent_no]
            found.append(hold)
        return found

    def parts_of(self, hold: Hold, now: datetime) -> list[Hold]:
        """Return the parts of a hold, not the parts of these, that are live."""
        parts = (self._holds[each] for each in self._parts.get(hold.hold_no, ()))
        return [part for part in parts if part.is_live(now)]

    def below(self, hold: Hold, now: datetime) -> list[Hold]:
        """Return everything live below a hold."""
        found = self.parts_of(hold, now)
        for part in found:  # which grows meanwhile
            found += self.parts_of(part, now)
        return found

    def left_of(self, hold: Hold, now: datetime) -> MicroUsd:
        """Return what of a hold is neither settled nor kept free for a part of it; 0 once it has ended."""
        if not hold.is_live(now):
            return MicroUsd(0)
        kept_free = sum(part.left_micro_usd for part in self.parts_of(hold, now))
        return MicroUsd(hold.left_micro_usd - kept_free)

    def take(self, change: Change) -> None:
        """Let what a command changed be so."""
        for account in change.accounts:
            self._put_account(account)
        for hold in change.holds:
            self._put_hold(hold)

    def _put_account(self, account: LedgerAccount) -> None:
        self._accounts[account.account_no] = account
        self._account_nos[account.account_id] = account.account_no

    def _put_hold(self, hold: Hold) -> None:
        self._holds[hold.hold_no] = hold
        self._hold_nos[hold.hold_id] = hold.hold_no
        if hold.parent_no is not None:
            self._parts.setdefault(hold.parent_no, {})[hold.hold_no] = None


class Limited(NamedTuple):
    """An account to be held on."""

    account_id: AccountId
    posted_micro_usd: MicroUsd
    hard_limit_micro_usd: MicroUsd | None
    """``None``: it takes every hold."""


class Place(NamedTuple):
    """Asks for a hold."""

    hold_id: HoldId
    kind: HoldKind
    subject: SubjectId
    project_id: ProjectId | None
    purpose: CallPurpose
    amount_micro_usd: MicroUsd
    ttl: timedelta
    digest: bytes
    decision: Decision
    reason_codes: tuple[str, ...]
    answer: bytes
    period_end: datetime
    """Nothing is held beyond."""
    accounts: Sequence[Limited] = ()
    """None for a part."""
    parent_id: HoldId | None = None
    """Of a part."""
    leasing: "Leasing | None" = None
    """Of a lease; its time to live is that to draw and that of the longest call together."""


class Leasing(NamedTuple):
    """How a client wishes to draw."""

    draw_for: timedelta
    longest_call: timedelta
    typical_call: bytes
    same_until: datetime
    """What it is priced by holds so long: drawing ends then in any case."""


class Renew(NamedTuple):
    """Asks for a further stretch of a lease."""

    lease_id: HoldId
    renewal: int
    digest: bytes
    drawn_micro_usd: MicroUsd
    amount_micro_usd: MicroUsd
    """To draw from beside what is left."""
    draw_for: timedelta
    same_until: datetime
    """See :class:`Leasing`."""
    period_end: datetime
    accounts: Sequence[Limited]
    """That calls are counted on now."""


def digest_of(fields: Mapping[str, str | int]) -> bytes:
    """Return what tells one request from another, and in which fields.

    16 bytes over everything that is set, then a byte for each field. A field that is added at the end later,
    and not set, leaves the digest as it was but for its own byte.
    """
    texts = [str(value).encode() if value else b"" for value in fields.values()]
    stated = b"\n".join(f"{name}=".encode() + text for name, text in zip(fields, texts, strict=True) if text)
    return blake2b(stated, digest_size=_WHOLE).digest() + bytes(crc32(text) & _BYTE for text in texts)


def differing_fields(digest: bytes, other: bytes, fields: Iterable[str]) -> list[str]:
    """Name the fields that two requests differ in, by their digests; none when they are the same.

    All of them where their bytes are the same by chance.
    """
    if digest[:_WHOLE] == other[:_WHOLE]:
        return []
    named = list(fields)
    marks = zip(named, digest[_WHOLE:], other[_WHOLE:], strict=False)
    return [name for name, mark, other_mark in marks if mark != other_mark] or named


def place(books: Books, asked: Place, at: Moment) -> Change | Refusal:
    """Place a hold whose id is free, all of it on all accounts, or nothing.

    On an account with a hard limit both what is committed (covered and live) and what is used (posted, live
    and settling) must stay within with the amount. What usage cost beyond holds is no part of the first, so
    that it holds however far behind the log posted amounts are.
    """
    assert books.hold(asked.hold_id) is None
    if asked.kind is HoldKind.PART:
        return _place_part(books, asked, at)
    accounts = [books.account(limited.account_id) for limited in asked.accounts]
    if refusing := shut(accounts):
        return Refusal(Why.ACCOUNT_SHUT, accounts=refusing)
    if refusal := _over_limits(accounts, asked.accounts, asked.amount_micro_usd):
        return refusal
    account_nos = tuple(account.account_no for account in accounts)
    hold = _new_hold(asked, at, ends_before=asked.period_end, account_nos=account_nos)
    if (leasing := asked.leasing) is not None:
        wished = min(at.now + leasing.draw_for, leasing.same_until)
        draw_until = min(wished, hold.expires_at - leasing.longest_call)
        if draw_until <= at.now:
            return Refusal(Why.NO_TIME)
        hold = hold._replace(lease=Lease(draw_until, leasing.longest_call, leasing.typical_call))
    placements, held_on = _held_on(accounts, asked.accounts, hold.hold_no, asked.amount_micro_usd)
    return Change(
        hold,
        (hold,),
        held_on,
        placements,
        [Ending(account.account_no, hold.expires_at, asked.amount_micro_usd) for account in accounts],
        (_placed(hold, asked, placements, at),),
    )


def _over_limits(
    accounts: Sequence[LedgerAccount], limits: Sequence[Limited], amount: MicroUsd
) -> Refusal | None:
    refusing = [
        (account.account_id, said)
        for account, limited in zip(accounts, limits, strict=True)
        if (said := _exceeded(account, limited, amount)) is not None
    ]
    return Refusal(Why.LIMIT, accounts=refusing) if refusing else None


def _held_on(
    accounts: Sequence[LedgerAccount], limits: Sequence[Limited], hold_no: int, amount: MicroUsd
) -> tuple[list[Placement], list[LedgerAccount]]:
    """Return the placements of an amount, and the accounts after them."""
    placements = [
        Placement(
            account.account_no,
            account.account_id,
            account.placements + 1,
            hold_no,
            MicroUsd(account.covered_micro_usd + account.live_micro_usd),
            amount,
            limited.hard_limit_micro_usd,
        )
        for account, limited in zip(accounts, limits, strict=True)
    ]
    held_on = [
        account._replace(
            placements=account.placements + 1, live_micro_usd=MicroUsd(account.live_micro_usd + amount)
        )
        for account in accounts
    ]
    return placements, held_on


def place_again(books: Books, hold: Hold, placements: Sequence[Placement]) -> Change:
    """Take in a hold that the ledger had placed and forgot: as it was then, whatever the limits are now."""
    accounts = [(books.account(placement.account_id), placement) for placement in placements]
    return Change(
        hold,
        (hold,),
        [
            account._replace(
                placements=max(account.placements, placement.sequence),
                live_micro_usd=MicroUsd(account.live_micro_usd + placement.amount_micro_usd),
            )
            for account, placement in accounts
        ],
        placements,
        [Ending(each.account_no, hold.expires_at, each.amount_micro_usd) for each in placements],
    )


def _place_part(books: Books, asked: Place, at: Moment) -> Change | Refusal:
    assert asked.parent_id is not None
    parent = books.hold(asked.parent_id)
    if parent is None or parent.kind is HoldKind.LEASE or not parent.is_live(at.now):
        return Refusal(Why.PARENT_ENDED, parent)
    root = books.root_of(parent)
    if refusing := shut(books.accounts_of(root)):
        return Refusal(Why.ACCOUNT_SHUT, accounts=refusing)
    if len(books.above(parent)) >= DEEPEST_PART or len(books.below(root, at.now)) >= MOST_LIVE_PARTS:
        return Refusal(Why.TOO_MANY_PARTS, parent)
    if asked.amount_micro_usd > (left := books.left_of(parent, at.now)):
        return Refusal(Why.PARENT_EXHAUSTED, parent, left_micro_usd=left)
    hold = _new_hold(asked, at, ends_before=parent.expires_at, above=(parent.hold_no, root.hold_no))
    return Change(hold, (hold,), happened=(_placed(hold, asked, (), at),))


def _placed(hold: Hold, asked: Place, placements: Sequence[Placement], at: Moment) -> Happened:
    placed = Placed(asked.decision, asked.reason_codes, asked.parent_id, placements)
    return Happened(Event.PLACED, hold, at, placed=placed)


def _new_hold(
    asked: Place,
    at: Moment,
    *,
    ends_before: datetime,
    account_nos: tuple[int, ...] = (),
    above: tuple[int | None, int | None] = (None, None),
) -> Hold:
    end = _cut(min(at.now + asked.ttl, ends_before))
    return Hold(
        at.change_seq,
        asked.hold_id,
        asked.kind,
        HoldState.LIVE,
        asked.subject,
        asked.project_id,
        asked.purpose,
        asked.amount_micro_usd,
        account_nos,
        at.now,
        end,
        asked.digest,
        asked.answer,
        *above,
        end,
    )


def shut(accounts: Iterable[LedgerAccount]) -> list[tuple[AccountId, str]]:
    """Return which of these accounts take no holds, and what each says of that."""
    return [
        (account.account_id, f"is {account.state}")
        for account in accounts
        if account.state is not AccountState.OPEN
    ]


def _exceeded(account: LedgerAccount, limited: Limited, amount: MicroUsd) -> str | None:
    limit = limited.hard_limit_micro_usd
    if limit is None:
        return None
    committed = account.covered_micro_usd + account.live_micro_usd
    used = limited.posted_micro_usd + account.pending_micro_usd
    left = limit - max(committed, used)
    return None if amount <= left else f"{left} micro-USD are left of {limit}, {amount} are asked for"


def _cut(instant: datetime) -> datetime:
    return instant - timedelta(microseconds=instant.microsecond % (TENTH // timedelta(microseconds=1)))


def settle(books: Books, hold_id: HoldId, cost_micro_usd: MicroUsd, at: Moment) -> Change | Refusal:
    """End a hold with its cost, as its caller says it, until usage tells it.

    The cost counts in full on every account from now on; it is covered as far as there was something left of
    the hold. The same cost again changes nothing.
    """
    hold = books.hold(hold_id)
    if hold is None:
        return Refusal(Why.UNKNOWN)
    if hold.kind is HoldKind.LEASE:
        return Refusal(Why.LEASE, hold)
    if hold.state is HoldState.SETTLED:
        same = hold.cost_micro_usd == cost_micro_usd
        return Change(hold) if same else Refusal(Why.SETTLED_OTHERWISE, hold)
    if not hold.is_live(at.now):
        return Refusal(Why.ENDED, hold)
    draft = _Draft(books, at)
    draft.settle(hold, cost_micro_usd, settling=cost_micro_usd)
    return draft.change_of(hold)


def settle_by_usage(
    books: Books, hold_id: HoldId, cost_micro_usd: MicroUsd, usage_identity: bytes, at: Moment
) -> Change | Refusal:
    """Settle a hold by a usage event that names it, whose cost is posted already.

    A call's first usage event ends it; it takes the place of what the call's caller may have settled. Every
    one settles some of a lease. What can't be settled, because the hold ended before or usage settled it
    already, changes nothing here: it is a cost that no hold covers.
    """
    hold = books.hold(hold_id)
    if hold is None:
        return Refusal(Why.UNKNOWN)
    draft = _Draft(books, at)
    if hold.is_live(at.now):
        draft.settle(hold, cost_micro_usd, usage_identity=usage_identity)
    elif hold.state is HoldState.SETTLED and not hold.usage_named:
        draft.settle_anew(hold, cost_micro_usd, usage_identity)
    else:
        return Refusal(Why.SETTLED if hold.state is HoldState.SETTLED else Why.ENDED, hold)
    return draft.change_of(hold)


def shown(books: Books, hold_id: HoldId, at: Moment) -> Change | Refusal:
    """Let a hold's cost count as settling no longer: a fact shows it as posted."""
    hold = books.hold(hold_id)
    if hold is None:
        return Refusal(Why.UNKNOWN)
    draft = _Draft(books, at)
    if hold.settling_micro_usd:
        draft.move(hold, settling=-hold.settling_micro_usd)
        draft.put(hold._replace(settling_micro_usd=MicroUsd(0)))
    return draft.change_of(hold)


def release(books: Books, hold_id: HoldId, at: Moment) -> Change | Refusal:
    """End a hold without usage, and the parts of it with it. One that has ended without stays as it is."""
    hold = books.hold(hold_id)
    if hold is None:
        return Refusal(Why.UNKNOWN)
    if hold.state is HoldState.SETTLED:
        return Refusal(Why.SETTLED, hold)
    if hold.lease is not None:
        return Refusal(Why.LEASE, hold)
    if not hold.is_live(at.now):
        return Change(hold)
    draft = _Draft(books, at)
    draft.release_parts(hold)
    if hold.kind is not HoldKind.PART:
        draft.move(hold, live=-hold.left_micro_usd)
    draft.end(hold, Event.RELEASED)
    return draft.change_of(hold)


def extend(
    books: Books, hold_id: HoldId, wished_end: datetime, period_end: datetime, at: Moment
) -> Change | Refusal:
    """Move a live hold's end to a later instant.

    At most to the end of its period, of the hold that it is a part of, and of the longest time to live from
    now on. Never to an earlier one: so that commands that overtake each other end up the same.
    """
    hold = books.hold(hold_id)
    if hold is None:
        return Refusal(Why.UNKNOWN)
    if hold.lease is not None:
        return Refusal(Why.LEASE, hold)
    if not hold.is_live(at.now):
        return Refusal(Why.ENDED, hold)
    ends_before = period_end if hold.parent_no is None else books.numbered(hold.parent_no).expires_at
    end = _cut(min(wished_end, ends_before, at.now + LONGEST_TTL))
    draft = _Draft(books, at)
    if end > hold.expires_at:
        if hold.kind is not HoldKind.PART:
            draft.move_end(hold, end)
        extended = hold._replace(expires_at=end)
        draft.put(extended)
        draft.tell(Event.EXTENDED, extended)
    return draft.change_of(hold)


def renew(books: Books, asked: Renew, at: Moment) -> Change | Refusal:
    """Add to what a lease holds, and let its client draw on. The same renewal again changes nothing."""
    hold = books.hold(asked.lease_id)
    if hold is None:
        return Refusal(Why.UNKNOWN)
    lease = hold.lease
    if lease is None:
        return Refusal(Why.NO_LEASE, hold)
    if asked.renewal == lease.renewal and asked.digest == lease.renewal_digest:
        return Change(hold)
    accounts = [books.account(limited.account_id) for limited in asked.accounts]
    if refusal := _not_renewable(hold, lease, asked, accounts, at):
        return refusal
    wished_end = min(at.now + asked.draw_for + lease.longest_call, at.now + LONGEST_TTL, asked.period_end)
    expires_at = max(hold.expires_at, _cut(wished_end))
    draw_until = min(at.now + asked.draw_for, asked.same_until, expires_at - lease.longest_call)
    if draw_until <= at.now:
        return Refusal(Why.NO_TIME, hold)
    renewed = lease._replace(
        draw_until=draw_until,
        renewal=asked.renewal,
        renewal_digest=asked.digest,
        drawn_micro_usd=max(lease.drawn_micro_usd, asked.drawn_micro_usd),
    )
    placements, _ = _held_on(accounts, asked.accounts, hold.hold_no, asked.amount_micro_usd)
    return renew_again(books, hold, renewed, expires_at, placements, at)


def _not_renewable(
    hold: Hold, lease: Lease, asked: Renew, accounts: Sequence[LedgerAccount], at: Moment
) -> Refusal | None:
    if asked.renewal == lease.renewal:
        return Refusal(Why.RENEWED_OTHERWISE, hold)
    if lease.is_returned or not hold.is_live(at.now):
        return Refusal(Why.ENDED, hold)
    if asked.renewal != lease.renewal + 1:
        return Refusal(Why.OUT_OF_TURN, hold)
    if tuple(account.account_no for account in accounts) != hold.account_nos:
        return Refusal(Why.MOVED, hold)
    if refusing := shut(accounts):
        return Refusal(Why.ACCOUNT_SHUT, accounts=refusing)
    return _over_limits(accounts, asked.accounts, asked.amount_micro_usd)


def renew_again(  # noqa: PLR0917 - what a renewal changes
    books: Books,
    hold: Hold,
    lease: Lease,
    expires_at: datetime,
    placements: Sequence[Placement],
    at: Moment,
) -> Change:
    """Renew a lease as it was told to be renewed."""
    draft = _Draft(books, at)
    draft.move_end(hold, expires_at)
    added = placements[0].amount_micro_usd if placements else MicroUsd(0)
    for placement in placements:
        account = draft.accounts[placement.account_no]
        draft.accounts[placement.account_no] = account._replace(
            placements=placement.sequence, live_micro_usd=MicroUsd(account.live_micro_usd + added)
        )
        draft.endings.append(Ending(placement.account_no, expires_at, added))
    renewed = hold._replace(
        amount_micro_usd=MicroUsd(hold.amount_micro_usd + added), expires_at=expires_at, lease=lease
    )
    draft.put(renewed)
    draft.happened.append(Happened(Event.RENEWED, renewed, at, placements=placements))
    return draft.change_of(hold)._replace(placements=placements)


def give_back(books: Books, lease_id: HoldId, drawn_micro_usd: MicroUsd, at: Moment) -> Change | Refusal:
    """Let a lease be drawn from no more, and free what was not.

    What was drawn stays held until usage settles it or the lease ends by its time. One that was returned, or
    has ended, stays as it is.
    """
    hold = books.hold(lease_id)
    if hold is None:
        return Refusal(Why.UNKNOWN)
    lease = hold.lease
    if lease is None:
        return Refusal(Why.NO_LEASE, hold)
    if lease.is_returned or not hold.is_live(at.now):
        return Change(hold)
    kept = min(hold.amount_micro_usd, max(drawn_micro_usd, hold.covered_micro_usd))
    draft = _Draft(books, at)
    draft.move(hold, live=kept - hold.amount_micro_usd)
    returned = hold._replace(
        amount_micro_usd=kept,
        lease=lease._replace(is_returned=True, drawn_micro_usd=drawn_micro_usd, draw_until=at.now),
    )
    draft.put(returned)
    draft.tell(Event.RETURNED, returned)
    return draft.change_of(hold)


def expire(books: Books, hold_id: HoldId, at: Moment) -> Change | Refusal:
    """Write down that a hold's end has come; what it kept is free since that instant."""
    hold = books.hold(hold_id)
    if hold is None:
        return Refusal(Why.UNKNOWN)
    draft = _Draft(books, at)
    if hold.state is HoldState.LIVE and not hold.is_live(at.now):
        draft.end(hold, Event.EXPIRED)
    return draft.change_of(hold)


_ENDED: Final = {Event.RELEASED: HoldState.RELEASED, Event.EXPIRED: HoldState.EXPIRED}


@dataclass(slots=True)
class _Draft:
    """A command's change while it is put together."""

    books: Books
    at: Moment
    holds: dict[int, Hold] = field(default_factory=dict)
    accounts: dict[int, LedgerAccount] = field(default_factory=dict)
    endings: list[Ending] = field(default_factory=list)
    happened: list[Happened] = field(default_factory=list)

    def change_of(self, hold: Hold) -> Change:
        """Return the change, of a command that names a hold."""
        return Change(
            self.holds.get(hold.hold_no, hold),
            tuple(self.holds.values()),
            tuple(self.accounts.values()),
            (),
            tuple(self.endings),
            tuple(self.happened),
        )

    def put(self, hold: Hold) -> None:
        self.holds[hold.hold_no] = hold

    def tell(
        self, event: Event, hold: Hold, cost: MicroUsd | None = None, usage_identity: bytes | None = None
    ) -> None:
        self.happened.append(Happened(event, hold, self.at, cost, usage_identity))

    def move(self, hold: Hold, *, live: int = 0, covered: int = 0, settling: int = 0) -> None:
        """Move amounts of the accounts that a hold, or its root, is on."""
        root = self.books.root_of(hold)
        for known in self.books.accounts_of(root):
            account = self.accounts.get(known.account_no, known)
            self.accounts[account.account_no] = account._replace(
                live_micro_usd=MicroUsd(account.live_micro_usd + live),
                covered_micro_usd=MicroUsd(account.covered_micro_usd + covered),
                settling_micro_usd=MicroUsd(account.settling_micro_usd + settling),
            )
            if live:
                self.endings.append(Ending(account.account_no, root.expires_at, live))

    def move_end(self, hold: Hold, end: datetime) -> None:
        """Let what a hold has left end at another instant."""
        for account in self.books.accounts_of(hold):
            self.accounts[account.account_no] = account
            self.endings += (
                Ending(account.account_no, hold.expires_at, -hold.left_micro_usd),
                Ending(account.account_no, end, hold.left_micro_usd),
            )

    def end(self, hold: Hold, event: Event) -> None:
        ended = hold._replace(state=_ENDED[event])
        self.put(ended)
        self.tell(event, ended)

    def release_parts(self, hold: Hold) -> None:
        """Let everything live below a hold that ends end with it."""
        for part in self.books.below(hold, self.at.now):
            self.end(part, Event.RELEASED)

    def settle(
        self,
        hold: Hold,
        cost: MicroUsd,
        *,
        settling: MicroUsd = _NOTHING,
        usage_identity: bytes | None = None,
    ) -> None:
        """Settle a live hold; all of it unless it is a lease."""
        covered = min(cost, hold.left_micro_usd)
        if ends := hold.kind is not HoldKind.LEASE:
            self.release_parts(hold)
        # What a part has left stays live: it falls back to the hold above.
        freed = hold.left_micro_usd if hold.kind is HoldKind.CALL else covered
        self.move(hold, live=-freed, covered=covered, settling=settling)
        self._cover_above(hold, covered)
        settled = hold._replace(
            state=HoldState.SETTLED if ends else HoldState.LIVE,
            covered_micro_usd=MicroUsd(hold.covered_micro_usd + covered),
            cost_micro_usd=MicroUsd((hold.cost_micro_usd or 0) + cost),
            settling_micro_usd=settling,
            usage_named=ends and usage_identity is not None,
        )
        self.put(settled)
        self.tell(Event.SETTLED, settled, cost, usage_identity)

    def settle_anew(self, hold: Hold, cost: MicroUsd, usage_identity: bytes) -> None:
        """Let the cost that usage tells take the place of the one that a caller had told.

        A smaller one gives back what was covered of it, to the hold above where that is live. Of a larger one
        no more is covered: the hold has ended.
        """
        own = hold.covered_micro_usd - hold.parts_micro_usd
        less = max(own - cost, 0)
        falls_back = hold.kind is HoldKind.PART and self.books.root_of(hold).is_live(self.at.now)
        self.move(hold, live=less if falls_back else 0, covered=-less, settling=-hold.settling_micro_usd)
        self._cover_above(hold, -less)
        settled = hold._replace(
            covered_micro_usd=MicroUsd(hold.covered_micro_usd - less),
            cost_micro_usd=cost,
            settling_micro_usd=MicroUsd(0),
            usage_named=True,
        )
        self.put(settled)
        self.tell(Event.SETTLED, settled, cost, usage_identity)

    def _cover_above(self, hold: Hold, covered: int) -> None:
        if covered:
            for above in self.books.above(hold):
                self.put(
                    above._replace(
                        covered_micro_usd=MicroUsd(above.covered_micro_usd + covered),
                        parts_micro_usd=MicroUsd(above.parts_micro_usd + covered),
                    )
                )
