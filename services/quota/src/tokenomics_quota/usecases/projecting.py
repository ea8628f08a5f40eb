"""Projecting: from events to facts and posted amounts."""

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import NamedTuple

from tokenomics_chassis.projection import Source
from tokenomics_contracts.events.policy import PolicyPublished
from tokenomics_contracts.units import HoldId
from tokenomics_quota.domain.effective import LogOrder
from tokenomics_quota.domain.identity import Contest, Judged, Rival
from tokenomics_quota.ports import GoverningVersion, Ledger
from tokenomics_quota.projections.facts import AssetReuse, LateUsage, Line, Received
from tokenomics_quota.projections.governance import Governance, GoverningEvent
from tokenomics_quota.projections.usage import UsageFold, rederive, spread


class KnownGovernance:
    """The governing state as it was last read, kept between transactions.

    What a transaction that is rolled back had read of its own changes is recognised by its version's id, and
    so is a restored database: then everything is read again.
    """

    def __init__(self, nothing: Governance) -> None:
        self._nothing = self._known = nothing
        self._version = GoverningVersion(0, None)

    async def locked(self, ledger: Ledger, *, exclusive: bool = False) -> Governance:
        """Lock the governing state and return it."""
        await ledger.lock_governance(exclusive=exclusive)
        return await self.read(ledger)

    async def read(self, ledger: Ledger) -> Governance:
        """Return the governing state; reads only what changed since the last time."""
        version = await ledger.governing_version()
        if version != self._version:
            if not await ledger.went_through(self._version):
                self._known, self._version = self._nothing, GoverningVersion(0, None)
            events = await ledger.governing_events(after=self._version.number)
            self._known = self._known.with_events(events, version.number)
            self._version = version
        return self._known

    def forget(self, before: datetime) -> Governance:
        """Let go of what was carried over to periods that had ended by then; return the governing state.

        Each month leaves something to almost every account. Who shows this month and the one before asks for
        none of it later.
        """
        self._known = self._known.forgetting(before)
        return self._known


class UsageApplied(NamedTuple):
    """What became of a batch of usage events."""

    too_late: Sequence[LogOrder]
    rivals: Judged
    changed: bool


async def apply_usage(
    ledger: Ledger,
    known: KnownGovernance,
    source: Source,
    events: Sequence[Received | LateUsage | AssetReuse],
) -> UsageApplied:
    """Fold usage events into facts and post what they cost, in the ledger's transaction."""
    governance = await known.locked(ledger)
    received, too_late, reuses = list[Received](), list[LogOrder](), list[AssetReuse]()
    for event in events:
        if isinstance(event, Received):
            received.append(event)
            continue
        if isinstance(event, AssetReuse):
            reuses.append(event)
            continue
        permission = governance.backfill(event.source, event.received.order.appended_at)
        if permission.allowed:
            received.append(event.received._replace(counted=permission.counts_in_balances))
        else:
            too_late.append(event.received.order)
    fold = await _fold(ledger, governance, received)
    rivals, changed = await _write(ledger, source, fold)
    if reuses:
        await ledger.put_reuses(reuses, source)
    return UsageApplied(too_late, rivals, changed or bool(reuses))


async def _judge_provisional(ledger: Ledger, fold: UsageFold) -> None:
    """Let usage that names a hold take the place of what the hold's caller had said, or give it back.

    The rows are locked before it is looked who names their holds, and what this transaction changed of that
    is written: of two partitions whose usage names one hold, the one that comes second sees the first one's.
    """
    if provisional := await ledger.provisional(fold.holds):
        named = await ledger.named(_holds(fact.received for fact in provisional))
        if judged := fold.judge_provisional(provisional, named):
            await ledger.update(judged)


async def apply_provisional(
    ledger: Ledger, known: KnownGovernance, source: Source, events: Sequence[Received]
) -> UsageApplied:
    """Fold what callers said their holds cost into facts that count until usage names the hold.

    The governing lock is taken exclusively, as by what governs: so no usage is under way that could name
    these holds and miss them, and usage need not look for holds that somebody settles meanwhile. It costs
    usage a wait for a small batch, and only where holds are settled by call.
    """
    governance = await known.locked(ledger, exclusive=True)
    named = await ledger.named(_holds(events))
    fold = await _fold(
        ledger, governance, [event._replace(counted=event.hold_id not in named) for event in events]
    )
    rivals, changed = await _write(ledger, source, fold)
    return UsageApplied((), rivals, changed)


def _holds(received: Iterable[Received]) -> set[HoldId]:
    return {each.hold_id for each in received if each.hold_id is not None}


async def _write(ledger: Ledger, source: Source, fold: UsageFold) -> tuple[Judged, bool]:
    """Write what was folded; return what becomes of rivals, and whether any total changed."""
    if new := fold.new():
        await ledger.insert(new)
    if changed := fold.changed():
        await ledger.update(changed)
    if fold.holds:
        await _judge_provisional(ledger, fold)
    rivals = await _judge_rivals(ledger, source.topic, fold.contests())
    postings = fold.postings()
    if postings:
        await ledger.post(postings, source)
    return rivals, bool(postings)


async def _judge_rivals(ledger: Ledger, topic: str, contests: Sequence[Contest]) -> Judged:
    """Remember the rivals of a batch, and judge them and those of earlier ones that it concerns."""
    judged = Judged([], [])
    if not contests:
        return judged
    concerned = [contest.identity for contest in contests if contest.is_about_earlier_rivals]
    earlier = await ledger.rivals(topic, concerned) if concerned else {}
    await ledger.put_rivals(topic, {contest.identity: contest.rivals for contest in contests})
    for contest in contests:
        conflicts, cleared = contest.judge(earlier.get(contest.identity, ()))
        judged.conflicts.extend(conflicts)
        judged.cleared.extend(cleared)
    return judged


async def _fold(ledger: Ledger, governance: Governance, received: Sequence[Received]) -> UsageFold:
    identities = {event.identity for event in received}
    originals = {event.corrects for event in received if event.corrects is not None}
    if originals:
        await ledger.await_originals(originals)
    stored = await ledger.facts(identities | originals)
    # A stored correction may lose its identity to a lower record: then its original is derived again.
    corrected = {
        fact.received.corrects for fact in stored.values() if fact.received.corrects is not None
    } - stored.keys()
    if corrected:
        stored |= await ledger.facts(corrected)
    corrections = await ledger.corrections(stored.keys()) if stored else {}
    fold = UsageFold(governance, stored, corrections)
    for event in received:
        fold.add(event)
    return fold


class GoverningApplied(NamedTuple):
    """What became of a batch of governing events."""

    rivals: Judged
    mismatches: Sequence[LogOrder]
    """Policies written against another version than the one in force."""
    changed: bool


async def apply_governing(
    ledger: Ledger, known: KnownGovernance, source: Source, events: Sequence[GoverningEvent]
) -> GoverningApplied:
    """Bring governing events into force and derive again just the facts that they touch."""
    before = await known.locked(ledger, exclusive=True)
    holders = await ledger.governing_holders(source.topic, {event.identity for event in events})
    accepted: dict[bytes, GoverningEvent] = {}
    ousted: list[GoverningEvent] = []
    mismatches, rivals = list[LogOrder](), dict[bytes, set[Rival]]()
    after = before
    for event in events:
        holder = accepted.get(event.identity) or holders.get(event.identity)
        if holder is not None and event.order >= holder.order:
            if event.order != holder.order:
                rivals.setdefault(event.identity, set()).add(Rival(event.digest, event.order))
        elif not _replaces_the_version_in_force(after, event):
            mismatches.append(event.order)
        else:
            if holder is not None:
                ousted.append(holder)
                rivals.setdefault(event.identity, set()).add(Rival(holder.digest, holder.order))
            accepted[event.identity] = event
            if isinstance(event.event, PolicyPublished):
                after = after.with_events([event], before.version + 1)
    now = {**holders, **accepted}
    contests = [
        Contest(
            identity, holders[identity].digest if identity in holders else None, now[identity].digest, each
        )
        for identity, each in rivals.items()
    ]
    judged = await _judge_rivals(ledger, source.topic, contests)
    if not accepted:
        return GoverningApplied(judged, mismatches, changed=False)
    after = before.with_events(accepted.values(), before.version + 1)
    await ledger.put_governing_events(accepted.values(), after.version)
    changed = await _rederive(ledger, before, after, [*accepted.values(), *ousted], source)
    return GoverningApplied(judged, mismatches, changed)


def _replaces_the_version_in_force(governance: Governance, governing: GoverningEvent) -> bool:
    event = governing.event
    if not isinstance(event, PolicyPublished):
        return True
    return event.replaces == governance.replaceable(event.kind, governing.order)


async def _rederive(
    ledger: Ledger,
    before: Governance,
    after: Governance,
    events: Iterable[GoverningEvent],
    source: Source,
) -> bool:
    """Derive again what the events may have changed; whether any total did."""
    lines: dict[Line, int] = {}
    for scope in after.scopes(before, events):
        async for facts in ledger.facts_in(scope):
            corrected = [
                fact.received.identity for fact in facts if fact.derived and fact.derived.applied_revision
            ]
            corrections = await ledger.corrections(corrected) if corrected else {}
            changed, moved = rederive(facts, corrections, after)
            if changed:
                await ledger.update(changed)
            for line, amount in moved.items():
                lines[line] = lines.get(line, 0) + amount
    postings = spread(lines)
    if postings:
        await ledger.post(postings, source)
    return bool(postings)
