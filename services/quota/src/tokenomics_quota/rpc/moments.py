"""What the answers of one short moment have in common, worked out once for all of them."""

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Final, NamedTuple

from tokenomics.quota.v1 import quota_pb2 as pb
from tokenomics_chassis.clock import Clock
from tokenomics_quota.projections.balances import QuotaView
from tokenomics_quota.projections.freshness import FreshnessMeter
from tokenomics_quota.rpc.consistency import LEDGER
from tokenomics_quota.usecases.checking import Terms
from tokenomics_quota.usecases.degrading import StaleTab

_TENTH: Final = timedelta(milliseconds=100)
_RESOLUTION: Final = timedelta(microseconds=1)


class Moment(NamedTuple):
    """One state of the view and how fresh it is, to a tenth of a second. What is in it stays as it is."""

    terms: Terms
    next_offsets: Mapping[str, int]
    freshness: pb.Freshness
    """Not to be changed."""
    freshness_in_answer: bytes
    """The freshness as the part of a serialized ``CheckQuotaResponse`` that it is."""
    lag: timedelta | None
    """``None``: the view was never level with the log."""
    tab: StaleTab | None
    """Of what is let through while the view is stale; ``None``: it isn't."""


class _Kept(NamedTuple):
    since: datetime
    until: datetime
    view: QuotaView
    level_at: datetime | None
    moment: Moment


class Moments:
    """Makes moments, a new one only when something in it changes."""

    def __init__(self, meter: FreshnessMeter, clock: Clock) -> None:
        self._meter = meter
        self._clock = clock
        self._kept: _Kept | None = None

    def at(self, view: QuotaView, now: datetime) -> Moment:
        """Return the moment of an answer given now."""
        if self._kept is not None:
            since, until, kept_view, level_at, moment = self._kept
            if (
                since <= now < until
                and kept_view is view
                and moment.next_offsets is view.next_offsets
                and level_at is self._meter.level_at
                and moment.terms.governance is view.governance
            ):
                return moment
        self._kept = self._keep(view, now)
        return self._kept.moment

    def _keep(self, view: QuotaView, now: datetime) -> _Kept:
        lag, terms = self._meter.lag(self._clock.steady()), Terms.at(view.governance, now, view.asset_users)
        degrade = terms.quota_policy.degrade
        stale = degrade.is_stale(lag)
        turns = [terms.until]
        if lag is not None:
            turns.append(now + _TENTH - lag % _TENTH)
            if not stale:
                turns.append(now + degrade.stale_after - lag + _RESOLUTION)
        freshness = _freshness(view, lag, stale=stale)
        in_answer = pb.CheckQuotaResponse(freshness=freshness).SerializeToString()
        tab = None
        if stale:
            tab = (self._kept and self._kept.moment.tab) or StaleTab()
        moment = Moment(terms, view.next_offsets, freshness, in_answer, lag, tab)
        return _Kept(now, min(turns), view, self._meter.level_at, moment)


def _freshness(view: QuotaView, lag: timedelta | None, *, stale: bool) -> pb.Freshness:
    token = pb.FreshnessToken(next_offsets=view.next_offsets)
    if view.ledger_change_seq:
        token.aggregate_id, token.aggregate_version = LEDGER, view.ledger_change_seq
    freshness = pb.Freshness(token=token, stale=stale)
    if view.as_of is not None:
        freshness.as_of.FromDatetime(view.as_of)
    if lag is not None:
        freshness.lag.FromMilliseconds(lag // _TENTH * 100)
    return freshness
