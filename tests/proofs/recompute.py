"""The independent recomputation: what the topics say, worked out a second time and as plainly as possible.

It reads the topics raw and holds every rule in its own words. It imports nothing of the product, which
import-linter sees to, so an error would have to be made twice, in two shapes, to go unseen. It is slow on
purpose: each fact looks up all that governs it, once, after everything has been read; nothing is incremental.
"""

import json
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime, timedelta
from typing import Any, NamedTuple
from zoneinfo import ZoneInfo

from aiokafka import AIOKafkaConsumer, TopicPartition

USAGE = "tokenomics.usage.v1"
DIRECTORY = "tokenomics.directory.v1"
POLICY = "tokenomics.policy.v1"
APPROVALS = "tokenomics.approvals.v1"
NOMINATIONS = "tokenomics.nominations.v1"
QUOTA = "tokenomics.quota.v1"

MS_AN_HOUR = 3_600_000
HOURS_A_DAY = 24
MAX_SOURCE_LENGTH = 256
MAX_EVENT_BYTES = 256 * 1024
TOO_LATE = timedelta(days=62)
REDERIVE = timedelta(days=396)
MAX_TOKENS = 10**9
MAX_COST_MICRO_USD = 10**12
MAX_LIMIT_MICRO_USD = 10**15
LONGEST_APPROVAL = timedelta(days=366)
BASIS = 10_000
PICO_PER_MICRO = 10**6
USUAL_THRESHOLDS = {
    "nudge_basis_points": 7000,
    "justify_basis_points": 9000,
    "approve_basis_points": 10_000,
}

REQUIRED_TOKENS = ("input_tokens", "output_tokens")
OPTIONAL_TOKENS = ("cached_input_tokens", "cache_creation_tokens", "reasoning_tokens")
USAGE_DEFAULTS = {
    "project": None,
    "use_case": None,
    "purpose": "operational",
    "data_class": "internal",
    "hold_id": None,
    "decision_id": None,
    "latency_ms": None,
    "outcome": None,
    "service_tier": "standard",
    "cost_micro_usd": None,
    **dict.fromkeys(OPTIONAL_TOKENS, 0),
}
USAGE_FIELDS = {
    *USAGE_DEFAULTS,
    *REQUIRED_TOKENS,
    *("subject", "tool", "provider", "model", "original_source", "original_id", "revision"),
}
ENTITY_ID_FIELDS = {
    "tokenomics.person.upserted": "person_id",
    "tokenomics.person.left": "person_id",
    "tokenomics.person.erased": "person_id",
    "tokenomics.service.upserted": "service_id",
    "tokenomics.team.upserted": "team_id",
    "tokenomics.project.upserted": "project_id",
    "tokenomics.cost_centre.upserted": "cost_centre_id",
    "tokenomics.group.upserted": "group_id",
    "tokenomics.delegation.upserted": "delegation_id",
    "tokenomics.delegation.ended": "delegation_id",
}
REUSED = "tokenomics.asset.reused"
UNCOUNTED_TYPES = {
    "tokenomics.outcome.recorded",
    "tokenomics.violation.detected",
    "tokenomics.detection.disputed",
    REUSED,
    "tokenomics.source.tested",
}
KNOWN_TYPES = {
    USAGE: {"tokenomics.usage.recorded", "tokenomics.usage.corrected", *UNCOUNTED_TYPES},
    DIRECTORY: set(ENTITY_ID_FIELDS),
    POLICY: {"tokenomics.policy.published"},
    QUOTA: {"tokenomics.hold.settled", "tokenomics.period.closed"},
    APPROVALS: {
        "tokenomics.approval.approved",
        "tokenomics.approval.revoked",
        "tokenomics.approval.lapsed",
    },
    NOMINATIONS: {"tokenomics.asset.published"},
}
GRANTING_KINDS = {"boost", "budget_override", "break_glass"}
TARGET_KINDS = {"subject", "project", "team", "cost_centre", "group"}
_IDENTIFIER = re.compile(r"[A-Za-z0-9][A-Za-z0-9:._-]{0,127}")
_WORD = re.compile(r"[!-~]{1,128}")

Place = tuple[str, int, int]
Identity = tuple[str, str]


class RawRecord(NamedTuple):
    """One Kafka record, untouched."""

    topic: str
    partition: int
    offset: int
    append_ms: int
    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes], ...]

    @property
    def place(self) -> Place:
        """Where the record lies."""
        return (self.topic, self.partition, self.offset)

    @property
    def rank(self) -> tuple[int, int, int]:
        """The order that decides which of several records with one identity counts."""
        return (self.append_ms, self.partition, self.offset)

    @property
    def appended_at(self) -> datetime:
        """The broker's append time."""
        return datetime.fromtimestamp(0, UTC) + timedelta(milliseconds=self.append_ms)


class RefusedError(Exception):
    """A record that has to be parked; `code` says why."""

    def __init__(self, code: str) -> None:
        super().__init__(code)
        self.code = code


@dataclass(frozen=True, slots=True)
class Event:
    """A decoded record: its envelope, and its data as plain JSON."""

    record: RawRecord
    identity: Identity
    type: str
    at: datetime
    data: Mapping[str, Any]

    @property
    def is_late(self) -> bool:
        """Whether it came so long after its time that only an allowed back-fill may count."""
        return self.at < self.record.appended_at - TOO_LATE

    @property
    def meaning(self) -> tuple[object, ...]:
        """What two records of one identity must share to be the same event."""
        known = dict(self.data)
        if self.record.topic == USAGE:
            said = {**USAGE_DEFAULTS, **self.data}
            known = {name: value for name, value in said.items() if name in USAGE_FIELDS} or said
        return (self.type, self.record.key, self.at, json.dumps(known, sort_keys=True))


@dataclass(frozen=True, slots=True)
class Fact:
    """A usage event that counts: whom, when, how much, and which accounts it was charged to."""

    identity: Identity
    place: Place
    at: datetime
    subject: str | None
    cost_micro_usd: int
    accounts: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Version:
    """One version of a directory entity or policy document."""

    effective_from: datetime
    reaches_back_to: datetime
    rank: tuple[int, int, int]
    data: Mapping[str, Any]

    def governs(self, at: datetime) -> bool:
        """Whether it may have a say about something that happened then."""
        return self.effective_from <= at and self.reaches_back_to <= at

    @property
    def precedence(self) -> tuple[datetime, tuple[int, int, int]]:
        """Order of directory versions: by effective time, then by place in the log."""
        return (self.effective_from, self.rank)


class Directory:
    """Who belonged where, when: the latest version at or before the instant governs it."""

    def __init__(self) -> None:
        self._versions: dict[tuple[str, str], list[Version]] = defaultdict(list)
        self._departures: dict[str, list[Version]] = defaultdict(list)
        self._bearers: dict[str, set[str]] = defaultdict(set)

    def learn(self, event: Event) -> None:
        """Take in one directory event, in any order."""
        entity_id = str(event.data[ENTITY_ID_FIELDS[event.type]])
        _, noun, verb = event.type.split(".")
        version = _version(event)
        if verb == "left":
            self._departures[entity_id].append(version)
        elif verb == "upserted":
            kind = "subject" if noun in {"person", "service"} else noun
            self._versions[kind, entity_id].append(version)
            for alias in event.data.get("aliases") or []:
                self._bearers[alias].add(entity_id)

    def in_force(self, kind: str, entity_id: str, at: datetime) -> Mapping[str, Any] | None:
        """Return what governs the instant, None when nothing was known; who left stays what they were."""
        version = _latest(self._versions.get((kind, entity_id), ()), at)
        return None if version is None else version.data

    def has_left(self, subject: str, at: datetime) -> bool:
        """Whether the person had gone by then, and not come back."""
        described = _latest(self._versions.get(("subject", subject), ()), at)
        departed = _latest(self._departures.get(subject, ()), at)
        return departed is not None and (described is None or described.precedence < departed.precedence)

    def subjects(self) -> list[str]:
        """Name every person and service there ever was."""
        return [entity_id for kind, entity_id in self._versions if kind == "subject"]

    def is_member(self, group_id: str, subject: str, at: datetime) -> bool:
        """Whether somebody was in a group then."""
        group = self.in_force("group", group_id, at)
        return group is not None and subject in group["member_ids"]

    def groups(self) -> list[str]:
        """Name every group there ever was."""
        return [entity_id for kind, entity_id in self._versions if kind == "group"]

    def resolve(self, subject: str, at: datetime) -> str | None:
        """Return the person or service meant, None when nobody known at that instant is."""
        bearing: list[tuple[Version, str]] = []
        for candidate in {subject} | self._bearers.get(subject, set()):
            version = _latest(self._versions.get(("subject", candidate), ()), at)
            if version is not None and (candidate == subject or subject in version.data.get("aliases", [])):
                bearing.append((version, candidate))
        return max(bearing, key=lambda each: each[0].precedence)[1] if bearing else None


class Policies:
    """The chains of policy documents: the last one published that was in force at the instant governs it."""

    def __init__(self) -> None:
        self._chains: dict[str, list[Version]] = defaultdict(list)
        self._published: dict[Identity, Event] = {}

    def learn(self, event: Event) -> None:
        """Take in one policy event, in log order.

        Raises
        ------
        RefusedError
            When it was written against another version, or says something else under the identity of one that
            took effect.
        """
        known = self._published.get(event.identity)
        if known is not None and known.meaning != event.meaning:
            raise RefusedError("identity_conflict")
        if known is not None:
            return
        chain = self._chains[event.data["kind"]]
        latest = chain[-1].data["version"] if chain else None
        if event.data.get("replaces") != latest:
            raise RefusedError("policy_mismatch")
        self._published[event.identity] = event
        chain.append(_version(event))

    def in_force(self, kind: str, at: datetime) -> Mapping[str, Any] | None:
        """Return the document that governs the instant; None when there is none."""
        for version in reversed(self._chains.get(kind, [])):
            if version.governs(at):
                document: Mapping[str, Any] = version.data["document"]
                return document
        return None

    def source_permission(self, source: str, appended_at: datetime) -> tuple[bool, bool]:
        """Return (may back-fill, back-fill counts in balances) of a source, for a record appended then."""
        for version in self._chains.get("sources", []):
            for each in version.data["document"].get("sources", []):
                until = each.get("backfill_until")
                if (
                    each["source"] == source
                    and each.get("may_backfill")
                    and version.effective_from <= appended_at
                    and (until is None or appended_at < _instant(until))
                ):
                    return True, bool(each.get("backfill_counts_in_balances"))
        return False, False


class Approvals:
    """What was approved: the first approval of a request counts, until its expiry or an earlier end."""

    def __init__(self) -> None:
        self._approved: set[str] = set()
        self._of_target: dict[tuple[str, str], list[Event]] = defaultdict(list)
        self._ends: dict[str, list[datetime]] = defaultdict(list)

    def leave(self, event: Event) -> None:
        """Take in what a closed period left: it is granted for the next, and nobody can end it."""
        carried, closed = event.data["carry_over"], event.data
        body = {
            "request_id": ("left", closed["account_id"]),
            "kind": "boost",
            "amount_micro_usd": carried["amount_micro_usd"],
            "starts_at": carried["starts_at"],
            "expires_at": carried["ends_at"],
        }
        self._of_target[closed["kind"], closed["owner_id"]].append(replace(event, data=body))

    def learn(self, event: Event) -> None:
        """Take in one event, in log order."""
        request_id = event.data["request_id"]
        if event.type == "tokenomics.approval.approved":
            if request_id not in self._approved:
                target = event.data["target"]
                self._of_target[target["kind"], target["id"]].append(event)
            self._approved.add(request_id)
        else:
            self._ends[request_id].append(_instant(event.data["ended_at"]))

    def holding(self, kind: str, target_id: str, at: datetime) -> list[Mapping[str, Any]]:
        """Return what is in force for a target at an instant."""
        return [
            event.data
            for event in self._of_target.get((kind, target_id), ())
            if _instant(event.data["starts_at"]) <= at < _instant(event.data["expires_at"])
            and all(at < end for end in self._ends.get(event.data["request_id"], ()))
        ]


@dataclass(slots=True)
class Recomputation:
    """What the state ought to be.

    Attributes
    ----------
    facts
        Every usage event that counts, by identity.
    provisional
        What callers said their holds cost, once a hold, and whether it counts: only while no usage that
        reaches balances names the hold.
    totals
        Account id to posted micro-USD.
    counts
        Account id to the number of facts posted on it.
    days
        (``<kind>/<owner id>``, date in UTC) to micro-USD used on it.
    parked
        Place to rejection code.
    last_seen
        (topic, partition, source of events) to the append time of its newest record.
    reuses
        (asset, who used it, as the tool named them).
    hourly
        The same with an hour since 1970 to its records of that hour, for the last 24 of each partition.
    """

    facts: dict[Identity, Fact] = field(default_factory=dict)
    provisional: dict[Identity, tuple[Fact, bool]] = field(default_factory=dict)
    totals: dict[str, int] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)
    reuses: set[tuple[str, str]] = field(default_factory=set)
    last_seen: dict[tuple[str, int, str], int] = field(default_factory=dict)
    hourly: dict[tuple[str, int, str, int], int] = field(default_factory=dict)
    days: dict[tuple[str, date], int] = field(default_factory=dict)
    parked: dict[Place, str] = field(default_factory=dict)
    directory: Directory = field(default_factory=Directory)
    policies: Policies = field(default_factory=Policies)
    approvals: Approvals = field(default_factory=Approvals)

    def limit_micro_usd(self, account_id: str, at: datetime) -> int | None:
        """Return the effective limit of an account at an instant; None is no limit.

        An account of a past period keeps the limit it ended with, one of a period to come has its first.
        """
        at = self._nearest(account_id.split("/")[3], at)
        base = self.base_limit_micro_usd(account_id, at)
        if base is None:
            return None
        granted = sum(int(each["amount_micro_usd"]) for each in self.grants(account_id, at))
        return min(base + granted, MAX_LIMIT_MICRO_USD)

    def grants(self, account_id: str, at: datetime) -> list[Mapping[str, Any]]:
        """Return the grants that extend an account's limit at an instant, and what was carried over to it."""
        kind, owner_id, purpose, period = account_id.split("/")
        return [
            each
            for each in self._approved_for(kind, owner_id, at)
            if purpose == "all"
            and each["kind"] in GRANTING_KINDS
            and (
                each.get("counts_in") == "each_period"
                or self.period_of(_instant(each["starts_at"])) == period
            )
        ]

    def is_justified(self, subject: str, at: datetime) -> bool:
        """Whether a reason that somebody gave holds at an instant."""
        return any(each["kind"] == "justification" for each in self._approved_for("subject", subject, at))

    def _approved_for(self, kind: str, owner_id: str, at: datetime) -> list[Mapping[str, Any]]:
        found = self.approvals.holding(kind, owner_id, at)
        if kind != "subject":
            return found
        if self.directory.in_force("subject", owner_id, at) is None or self.directory.has_left(owner_id, at):
            return []
        for group_id in self.directory.groups():
            if self.directory.is_member(group_id, owner_id, at):
                found += self.approvals.holding("group", group_id, at)
        return found

    def period_of(self, at: datetime) -> str:
        """Name the month of an instant, in the time zone of the policy in force then."""
        quota = self.policies.in_force("quota", at) or {}
        return at.astimezone(ZoneInfo(quota.get("time_zone", "UTC"))).strftime("%Y-%m")

    def bounds(self, period: str, at: datetime) -> tuple[datetime, datetime]:
        """Return when a period begins and ends, in the time zone of the policy in force at an instant."""
        quota = self.policies.in_force("quota", at) or {}
        zone, (year, month) = ZoneInfo(quota.get("time_zone", "UTC")), map(int, period.split("-"))
        begins = datetime(year, month, 1, tzinfo=zone).astimezone(UTC)
        ends = datetime(year + month // 12, month % 12 + 1, 1, tzinfo=zone).astimezone(UTC)
        return begins, ends

    def _nearest(self, period: str, at: datetime) -> datetime:
        """Return the instant of a period that is nearest to another."""
        begins, ends = self.bounds(period, at)
        return min(max(at, begins), ends - timedelta(microseconds=1))

    def band(self, account_id: str, at: datetime) -> str:
        """Name where an account stands at an instant by what is posted."""
        at = self._nearest(account_id.split("/")[3], at)
        posted, limit = self.totals.get(account_id, 0), self.limit_micro_usd(account_id, at)
        stated = (self.policies.in_force("quota", at) or {}).get("thresholds", {})
        thresholds = [stated.get(name, usual) for name, usual in USUAL_THRESHOLDS.items()]
        reached = (
            0
            if limit is None or posted <= 0
            else sum(posted * BASIS >= limit * threshold for threshold in thresholds)
        )
        return ("normal", "nudge", "justify", "approve")[reached]

    def base_limit_micro_usd(self, account_id: str, at: datetime) -> int | None:
        """Return what policy alone gives an account at an instant; None is no limit."""
        kind, owner_id, purpose, _ = account_id.split("/")
        quota = self.policies.in_force("quota", at)
        if quota is None or kind == "unattributed":
            return None
        if kind == "subject":
            return self._allowance(quota, owner_id, at) if purpose == "all" else None
        for budget in quota.get("budgets", []):
            if (budget["kind"], budget["owner_id"]) == (kind, owner_id):
                usable = int(budget["limit_micro_usd"]) - budget.get("buffer_micro_usd", 0)
                limit = {"all": usable, "experiment": budget.get("experiment_limit_micro_usd")}.get(purpose)
                return None if limit is None else int(limit)
        return None

    def _allowance(self, quota: Mapping[str, Any], owner_id: str, at: datetime) -> int | None:
        """Return what somebody's role gives, and what the projects make of it whose member they are."""
        subject = self.directory.in_force("subject", owner_id, at)
        if subject is None:
            return None
        if self.directory.has_left(owner_id, at):
            return 0
        limit = quota.get("default_allowance_micro_usd")
        for allowance in quota.get("allowances", []):
            if allowance["role"] == subject["role"]:
                limit = allowance["limit_micro_usd"]
        made = [
            each
            for each in quota.get("overrides", [])
            if each["project_id"] in (subject.get("project_ids") or [])
        ]
        instead = [each["limit_micro_usd"] for each in made if each["mode"] == "replace"]
        limit = max(instead, default=limit)
        if limit is None:
            return None
        more = sum(int(each["limit_micro_usd"]) for each in made if each["mode"] == "add")
        return min(int(limit) + more, MAX_LIMIT_MICRO_USD)

    def carry_over_micro_usd(self, account_id: str, at: datetime, posted_micro_usd: int) -> int:
        """Return what of an account's past period is left for the next: what policy gave, up to its cap."""
        kind, owner_id, _, period = account_id.split("/")
        at = self._nearest(period, at)
        quota, base = self.policies.in_force("quota", at), self.base_limit_micro_usd(account_id, at)
        if quota is None or base is None or (kind == "subject" and self.directory.has_left(owner_id, at)):
            return 0
        if kind == "subject":
            person = self.directory.in_force("subject", owner_id, at) or {}
            stated = [each for each in quota.get("allowances", []) if each["role"] == person.get("role")]
        else:
            budgets = quota.get("budgets", [])
            stated = [each for each in budgets if (each["kind"], each["owner_id"]) == (kind, owner_id)]
        usual = quota.get("default_allowance_carry_over_cap_micro_usd") if kind == "subject" else None
        cap = stated[0].get("carry_over_cap_micro_usd") if stated else usual
        return max(0, min(cap or 0, base - posted_micro_usd))

    def closed_by(self, period: str, at: datetime) -> bool:
        """Whether a period is to be told of by then."""
        _, ends = self.bounds(period, at)
        quota = self.policies.in_force("quota", ends - timedelta(microseconds=1)) or {}
        return ends + timedelta(days=quota.get("close_after_days", 5)) <= at

    def owner(self, account_id: str, at: datetime) -> str | None:
        """Return who decides about a shared account at an instant."""
        kind, owner_id, _, _ = account_id.split("/")
        unit = self.directory.in_force(kind, owner_id, at)
        return None if unit is None else unit.get("owner_id")

    def members(self, kind: str, owner_id: str, at: datetime) -> list[str]:
        """Return who belongs to a team, project or cost centre at an instant and has not left."""
        found = []
        for subject in self.directory.subjects():
            described = self.directory.in_force("subject", subject, at)
            if described is None or self.directory.has_left(subject, at):
                continue
            team = self.directory.in_force("team", described["team_id"], at) or {}
            centre = described.get("cost_centre_id") or team.get("cost_centre_id")
            belongs = {
                "team": [described["team_id"]],
                "project": described.get("project_ids") or [],
                "cost_centre": [centre],
            }
            if owner_id in belongs[kind]:
                found.append(subject)
        return found

    def asking(
        self, subject: str, project: str | None, cost_micro_usd: int, at: datetime
    ) -> tuple[set[str], set[str]]:
        """Return which shared accounts ask for an approval of a call, and which spare the caller for now.

        One asks once it has reached its limit with the call: a member who then has used a fair share, an
        equal part of the limit; who is no member; and all from where policy says so on. What somebody has
        used is all of it, wherever.
        """
        person, period = self.directory.resolve(subject, at), self.period_of(at)
        stated = (self.policies.in_force("quota", at) or {}).get("thresholds", {})
        approve = stated.get("approve_basis_points", BASIS)
        everybody = stated.get("everybody_basis_points")
        asking, spared = set[str](), set[str]()
        for account_id in _accounts({"project": project}, person, at, self):
            kind, owner_id, purpose, _ = account_id.split("/")
            limit = self.limit_micro_usd(account_id, at) if purpose == "all" else None
            used = self.totals.get(account_id, 0) + cost_micro_usd
            if kind == "subject" or limit is None or used <= 0 or used * BASIS < limit * approve:
                continue
            own = self.totals.get(f"subject/{person}/all/{period}", 0) + cost_micro_usd
            members = self.members(kind, owner_id, at)
            is_spared = (
                person in members
                and own * len(members) < limit
                and (everybody is None or used * BASIS < limit * everybody)
            )
            (spared if is_spared else asking).add(account_id)
        return asking, spared

    def thresholds_due(self, at: datetime) -> dict[tuple[str, int], tuple[int, int]]:
        """Return (account id, threshold) to (limit, posted) for each threshold the totals have reached."""
        quota = self.policies.in_force("quota", at)
        stated = (quota or {}).get("thresholds", {})
        thresholds = [stated.get(name, usual) for name, usual in USUAL_THRESHOLDS.items()]
        due = {}
        for account_id, posted in self.totals.items():
            limit = self.limit_micro_usd(account_id, at) if account_id.split("/")[2] == "all" else None
            if limit is None:
                continue
            alerts = [
                budget.get("alert_basis_points", 8000)
                for budget in (quota or {}).get("budgets", [])
                if account_id.startswith(f"{budget['kind']}/{budget['owner_id']}/")
            ]
            for threshold in (*thresholds, *alerts):
                if posted > 0 and posted * BASIS >= limit * threshold:
                    due[account_id, threshold] = (limit, posted)
        return due


def recompute(records: Iterable[RawRecord], versions: Mapping[str, set[str]] | None = None) -> Recomputation:
    """Work out the whole state from the raw records of usage, what governs it, and quota's own topic.

    Parameters
    ----------
    versions
        Event types of which more than version 1 can be read, and which; they all say the same.
    """
    result = Recomputation()
    records = list(records)
    _count_sources(records, result)
    events = _read(records, versions or {}, result.parked)
    for event in events[POLICY]:
        try:
            result.policies.learn(event)
        except RefusedError as refused:
            result.parked[event.record.place] = refused.code
    for event in _first_of_each_identity(events[DIRECTORY], result.parked):
        result.directory.learn(event)
    for event in _first_of_each_identity(events[APPROVALS], result.parked):
        result.approvals.learn(event)
    _first_of_each_identity(events[NOMINATIONS], result.parked)
    result.reuses = {
        (event.data["asset_id"], event.data["subject"])
        for event in events[USAGE]
        if event.type == REUSED and not event.is_late
    }
    closed = [event for event in events[QUOTA] if event.type == "tokenomics.period.closed"]
    for event in _first_of_each_identity(closed, result.parked):
        result.approvals.leave(event)
    said = [event for event in events[QUOTA] if event.type == "tokenomics.hold.settled"]
    _count_usage(events[USAGE], said, result)
    return result


def _read(
    records: Iterable[RawRecord], versions: Mapping[str, set[str]], parked: dict[Place, str]
) -> dict[str, list[Event]]:
    """Decode what was not skipped, by topic in log order; what can't be used is parked."""
    ordered = sorted(records, key=lambda record: (record.topic, record.rank))
    skipped = _skips(ordered)
    events: dict[str, list[Event]] = {topic: [] for topic in KNOWN_TYPES}
    unread: set[bytes] = set()  # keys of policies of which nobody can say what they replace
    for record in ordered:
        if record.topic not in events or record.place in skipped or not _concerns(record):
            continue
        if record.topic == POLICY and record.key in unread:
            parked[record.place] = "behind_parked"
            continue
        try:
            event = decode(record, versions)
        except RefusedError as refused:
            parked[record.place] = refused.code
            if record.topic == POLICY and record.key is not None:
                unread.add(record.key)
            continue
        if event.is_late and record.topic != USAGE:
            parked[record.place] = "too_late"
        else:
            events[record.topic].append(event)
    return events


def _concerns(record: RawRecord) -> bool:
    """Whether a record says something that state follows from, which little on the service's own topic does.

    That is what a hold's caller says it cost, and what a closed period left for the next.
    """
    if record.topic != QUOTA:
        return True
    match dict(record.headers).get("ce_type"):
        case b"tokenomics.hold.settled.v1":
            return json.loads(record.value or b"").get("usage_identity") is None
        case b"tokenomics.period.closed.v1":
            return json.loads(record.value or b"").get("carry_over") is not None
    return False


def _count_sources(records: Sequence[RawRecord], result: Recomputation) -> None:
    """Count what each source sent to a partition, whatever becomes of it."""
    newest: dict[tuple[str, int], int] = {}
    for record in records:
        place, hour = record.place[:2], record.append_ms // MS_AN_HOUR
        newest[place] = max(newest.get(place, 0), hour)
        if (source := _source(record)) is not None:
            of_source = (*place, source)
            result.last_seen[of_source] = max(result.last_seen.get(of_source, 0), record.append_ms)
            result.hourly[*of_source, hour] = result.hourly.get((*of_source, hour), 0) + 1
    for topic, partition, source, hour in list(result.hourly):
        if hour <= newest[topic, partition] - HOURS_A_DAY:
            del result.hourly[topic, partition, source, hour]


def _source(record: RawRecord) -> str | None:
    """Return what the header names, else the envelope; ``None``: it names none that can be printed."""
    headers = dict(record.headers)
    try:
        named = headers.get("ce_source")
        source = _envelope(record)[0]["source"] if named is None else named.decode()
    except (RefusedError, UnicodeDecodeError, AttributeError):
        return None
    return source if source.isprintable() and 0 < len(source) <= MAX_SOURCE_LENGTH else None


def _count_usage(events: Sequence[Event], said: Sequence[Event], result: Recomputation) -> None:
    in_time = []
    for event in events:
        may_backfill, _ = result.policies.source_permission(event.identity[0], event.record.appended_at)
        if event.is_late and not may_backfill:
            result.parked[event.record.place] = "too_late"
        else:
            in_time.append(event)
    counted = list(_first_of_each_identity(in_time, result.parked))
    corrections: dict[Identity, list[Event]] = defaultdict(list)
    for event in counted:
        if event.type == "tokenomics.usage.corrected":
            corrections[event.data["original_source"], event.data["original_id"]].append(event)
    counting, named = list[Fact](), set[object]()
    for event in counted:
        if event.type != "tokenomics.usage.recorded":
            continue
        fact = _fact(event, corrections.get(event.identity, ()), result)
        result.facts[event.identity] = fact
        if (
            event.is_late
            and not result.policies.source_permission(event.identity[0], event.record.appended_at)[1]
        ):
            continue
        counting.append(fact)
        named.add(event.data.get("hold_id"))
    by_hold = [replace(event, identity=("hold", event.data["hold_id"])) for event in said]
    for event in _first_of_each_identity(by_hold, result.parked):
        fact, counts_too = _fact(event, (), result), event.data["hold_id"] not in named
        result.provisional[event.identity] = (fact, counts_too)
        counting += [fact] if counts_too else []
    _total(counting, result)


def _total(counting: Iterable[Fact], result: Recomputation) -> None:
    totals: dict[str, int] = defaultdict(int)
    counts: dict[str, int] = defaultdict(int)
    days: dict[tuple[str, date], int] = defaultdict(int)
    for fact in counting:
        for account_id in fact.accounts:
            totals[account_id] += fact.cost_micro_usd
            counts[account_id] += 1
        for kind, owner_id in {tuple(account_id.split("/")[:2]) for account_id in fact.accounts}:
            days[f"{kind}/{owner_id}", fact.at.astimezone(UTC).date()] += fact.cost_micro_usd
    result.totals, result.counts, result.days = dict(totals), dict(counts), dict(days)


def _fact(event: Event, corrections: Iterable[Event], result: Recomputation) -> Fact:
    data = dict(event.data)
    reaching = [each for each in corrections if each.record.appended_at - REDERIVE <= event.at]
    if reaching:
        ruling = max(reaching, key=lambda each: (each.data["revision"], [-part for part in each.record.rank]))
        for name in (*REQUIRED_TOKENS, *OPTIONAL_TOKENS):
            data[name] = ruling.data.get(name, 0)
        data["service_tier"] = ruling.data.get("service_tier", "standard")
        data["cost_micro_usd"] = ruling.data.get("cost_micro_usd")
    subject = result.directory.resolve(data["subject"], event.at)
    return Fact(
        identity=event.identity,
        place=event.record.place,
        at=event.at,
        subject=subject,
        cost_micro_usd=_cost_micro_usd(data, event.at, result.policies),
        accounts=tuple(_accounts(data, subject, event.at, result)),
    )


def _accounts(data: Mapping[str, Any], subject: str | None, at: datetime, result: Recomputation) -> list[str]:
    owners = []
    if subject is None:
        owners.append(("unattributed", "unattributed"))
    else:
        version = result.directory.in_force("subject", subject, at)
        assert version is not None
        owners.append(("subject", subject))
        team_id = version.get("team_id")
        if team_id is not None:
            owners.append(("team", team_id))
        team = None if team_id is None else result.directory.in_force("team", team_id, at)
        cost_centre_id = version.get("cost_centre_id") or (team or {}).get("cost_centre_id")
        if cost_centre_id is not None:
            owners.append(("cost_centre", cost_centre_id))
    if data.get("project") is not None:
        owners.append(("project", data["project"]))
    period = result.period_of(at)
    purposes = (data.get("purpose", "operational"), "all")
    return [f"{kind}/{owner_id}/{purpose}/{period}" for kind, owner_id in owners for purpose in purposes]


def _cost_micro_usd(data: Mapping[str, Any], at: datetime, policies: Policies) -> int:
    if data.get("cost_micro_usd") is not None:
        return int(data["cost_micro_usd"])
    book = policies.in_force("price_book", at)
    assert book is not None, "every history of the proofs has a price book from its first day on"
    rates = _rates(book, data["provider"], data["model"], data["input_tokens"], at)
    cached, created = data.get("cached_input_tokens", 0), data.get("cache_creation_tokens", 0)
    pico_usd = (
        (data["input_tokens"] - cached - created) * rates["input"]
        + cached * _or_else(rates.get("cached_input"), rates["input"])
        + created * _or_else(rates.get("cache_creation"), rates["input"])
        + data["output_tokens"] * rates["output"]
    )
    tiers = book.get("service_tier_basis_points", {})
    scaled = pico_usd * tiers.get(data.get("service_tier", "standard"), BASIS)
    divisor = PICO_PER_MICRO * BASIS
    return min(int((2 * scaled + divisor) // (2 * divisor)), MAX_COST_MICRO_USD)


def _rates(
    book: Mapping[str, Any], provider: str, model: str, input_tokens: int, at: datetime
) -> Mapping[str, int]:
    def specificity(price: Mapping[str, Any]) -> int:
        pattern = price["model"]
        if price["provider"] != provider:
            return -1
        if pattern == model:
            return len(pattern) + 1000
        return len(pattern) if pattern.endswith("*") and model.startswith(pattern[:-1]) else -1

    best = max(book.get("prices", []), key=specificity, default=None)
    if best is None or specificity(best) < 0:
        fallback: Mapping[str, int] = book["fallback"]
        return fallback
    rates: Mapping[str, int] = best["rates"]
    for tier in sorted(best.get("tiers") or [], key=lambda each: int(each["above_input_tokens"])):
        if input_tokens > tier["above_input_tokens"]:
            rates = tier["rates"]
    clock = at.strftime("%H:%M")
    for window in best.get("windows") or []:
        opens, closes = window["from"], window["until"]
        if (opens <= clock < closes) if opens < closes else (clock >= opens or clock < closes):
            rates = window["rates"]
    return rates


def _or_else(value: int | None, default: int) -> int:
    return default if value is None else value


def _version(event: Event) -> Version:
    return Version(
        effective_from=_instant(event.data["effective_from"]),
        reaches_back_to=event.record.appended_at - REDERIVE,
        rank=event.record.rank,
        data=event.data,
    )


def _latest(versions: Iterable[Version], at: datetime) -> Version | None:
    return max(
        (each for each in versions if each.governs(at)), key=lambda each: each.precedence, default=None
    )


def _first_of_each_identity(events: Iterable[Event], parked: dict[Place, str]) -> list[Event]:
    """Keep the lowest record of each identity; park those that say something else under the same identity."""
    first: dict[Identity, Event] = {}
    for event in sorted(events, key=lambda each: each.record.rank):
        kept = first.setdefault(event.identity, event)
        if kept is not event and kept.meaning != event.meaning:
            parked[event.record.place] = "identity_conflict"
    return list(first.values())


def _skips(records: Iterable[RawRecord]) -> set[Place]:
    skips = set()
    for record in records:
        if record.topic == QUOTA and dict(record.headers).get("ce_type") == b"tokenomics.parked.skipped.v1":
            data = json.loads(record.value or b"")
            skips.add((data["topic"], data["partition"], data["offset"]))
    return skips


# Decoding: CloudEvents over Kafka, binary and structured, and what makes a record unusable.


def decode(record: RawRecord, versions: Mapping[str, set[str]]) -> Event:
    """Read one record.

    Raises
    ------
    RefusedError
        When it can't be used.
    """
    attributes, data = _envelope(record)
    kind, _, version = attributes["type"].rpartition(".v")
    if kind not in KNOWN_TYPES[record.topic]:
        raise RefusedError("unknown_type")
    if version not in versions.get(kind, {"1"}):
        raise RefusedError("unknown_version")
    if data is None:
        data = _json(record.value)
    try:
        _require(isinstance(data, dict), "not an object")
        CHECKS[record.topic](kind, data)
    except (KeyError, TypeError, ValueError) as error:
        raise RefusedError("invalid_data") from error
    identity = (attributes["source"], attributes["id"])
    return Event(record, identity, kind, _instant(attributes["time"]), data)


def _envelope(record: RawRecord) -> tuple[dict[str, str], Any]:
    """Return the attributes, and the data in structured mode; in binary mode the value holds it."""
    if record.value is None:
        raise RefusedError("bad_envelope")
    if len(record.value) > MAX_EVENT_BYTES:
        raise RefusedError("too_large")
    data = None
    try:
        attributes = {name: value.decode() for name, value in record.headers}
        if attributes.get("content-type", "").startswith("application/cloudevents+json"):
            attributes = _json(record.value)
            data = attributes.pop("data")
        else:
            attributes = {name.removeprefix("ce_"): value for name, value in attributes.items()}
        _instant(attributes["time"])
        named = all(
            isinstance(attributes[name], str) and attributes[name] for name in ("id", "source", "type")
        )
        _require(attributes["specversion"] == "1.0" and named, "attributes")
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise RefusedError("bad_envelope") from error
    return attributes, data


def _json(value: bytes | None) -> Any:
    try:
        return json.loads(value or b"", parse_constant=_refuse_constant)
    except ValueError as error:
        raise RefusedError("bad_json") from error


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def _instant(text: str) -> datetime:
    instant = datetime.fromisoformat(text)
    if instant.tzinfo is None:
        raise ValueError("an instant needs its offset from UTC")
    return instant.astimezone(UTC)


def _require(holds: bool, what: str) -> None:  # noqa: FBT001 - the condition is the point
    if not holds:
        raise ValueError(what)


def _whole(value: object, upper: int, lower: int = 0) -> int:
    _require(isinstance(value, int) and not isinstance(value, bool), "not an integer")
    assert isinstance(value, int)
    _require(lower <= value <= upper, "out of bounds")
    return value


def _identifier(value: object) -> None:
    _require(isinstance(value, str) and _IDENTIFIER.fullmatch(value) is not None, "not an identifier")


def _check_usage(kind: str, data: Mapping[str, Any]) -> None:
    _identifier(data["subject"])
    if kind == REUSED:
        _identifier(data["asset_id"])
    if kind in UNCOUNTED_TYPES:
        return
    tokens = {name: _whole(data[name], MAX_TOKENS) for name in REQUIRED_TOKENS}
    tokens |= {name: _whole(data.get(name, 0), MAX_TOKENS) for name in OPTIONAL_TOKENS}
    parts = tokens["cached_input_tokens"] + tokens["cache_creation_tokens"]
    _require(parts <= tokens["input_tokens"], "more cached than read")
    _require(tokens["reasoning_tokens"] <= tokens["output_tokens"], "more reasoned than written")
    _require(data.get("service_tier", "standard") in {"standard", "batch", "priority"}, "service tier")
    if data.get("cost_micro_usd") is not None:
        _whole(data["cost_micro_usd"], MAX_COST_MICRO_USD)
    if kind == "tokenomics.usage.corrected":
        _whole(data["revision"], 2**63 - 1, lower=1)
        _require(
            isinstance(data["original_source"], str) and isinstance(data["original_id"], str), "original"
        )
        return
    for name in ("provider", "model", "tool"):
        _require(isinstance(data[name], str) and _WORD.fullmatch(data[name]) is not None, name)
    _require(data.get("purpose", "operational") in {"operational", "experiment"}, "purpose")
    if data.get("project") is not None:
        _identifier(data["project"])


def _check_directory(kind: str, data: Mapping[str, Any]) -> None:
    _identifier(data[ENTITY_ID_FIELDS[kind]])
    _instant(data["effective_from"])
    if kind in {"tokenomics.person.upserted", "tokenomics.service.upserted"}:
        _identifier(data["team_id"])
        _require(isinstance(data["role"], str), "role")


def _check_policy(_: str, data: Mapping[str, Any]) -> None:
    _instant(data["effective_from"])
    _whole(data["version"], 2**31 - 1, lower=1)
    _require(isinstance(data["kind"], str) and isinstance(data["document"], dict), "kind and document")
    if data.get("replaces") is not None:
        _whole(data["replaces"], 2**31 - 1, lower=1)
    if data["kind"] == "quota":
        ZoneInfo(data["document"]["time_zone"])
    if data["kind"] == "price_book":
        _require(isinstance(data["document"]["fallback"], dict), "fallback")


def _check_own(kind: str, data: Mapping[str, Any]) -> None:
    if kind == "tokenomics.period.closed":
        _whole(data["carry_over"]["amount_micro_usd"], MAX_LIMIT_MICRO_USD, lower=1)
        return
    _identifier(data["subject"])
    _identifier(data["hold_id"])
    _whole(data["cost_micro_usd"], 2**63 - 1)


def _check_approval(kind: str, data: Mapping[str, Any]) -> None:
    _identifier(data["request_id"])
    if kind != "tokenomics.approval.approved":
        _instant(data["ended_at"])
        return
    target, grants = data["target"], data["kind"] in GRANTING_KINDS
    _identifier(target["id"])
    _require(target["kind"] in TARGET_KINDS and not target["id"].startswith("alias:"), "target")
    _require(data["kind"] in GRANTING_KINDS | {"justification", "model_access"}, "kind")
    _require(grants == (data.get("amount_micro_usd") is not None), "amount")
    if grants:
        _whole(data["amount_micro_usd"], MAX_LIMIT_MICRO_USD, lower=1)
    _require(data["kind"] != "justification" or target["kind"] == "subject", "whose band")
    _require(data["kind"] != "budget_override" or target["kind"] not in {"subject", "group"}, "whose budget")
    length = _instant(data["expires_at"]) - _instant(data["starts_at"])
    _require(timedelta(0) < length <= LONGEST_APPROVAL, "length")
    _require(target["kind"] != "subject" or data["decided_by"] != target["id"], "decided by")


def _check_asset(_: str, data: Mapping[str, Any]) -> None:
    for each in (data["nominee"], data["asset_id"], *data["use_cases"]):
        _identifier(each)
    _instant(data["published_at"])


CHECKS: dict[str, Callable[[str, Mapping[str, Any]], None]] = {
    USAGE: _check_usage,
    DIRECTORY: _check_directory,
    POLICY: _check_policy,
    QUOTA: _check_own,
    APPROVALS: _check_approval,
    NOMINATIONS: _check_asset,
}


# Reading


async def read_topics(bootstrap: str, topics: Iterable[str]) -> list[RawRecord]:
    """Read whole topics by partition, without a group, to the end offsets pinned at the start."""
    consumer = AIOKafkaConsumer(
        *topics,
        bootstrap_servers=bootstrap,
        group_id=None,
        auto_offset_reset="earliest",
        max_partition_fetch_bytes=4 * 1024 * 1024,
    )
    await consumer.start()
    try:
        ends: dict[TopicPartition, int] = await consumer.end_offsets(list(consumer.assignment()))
        records: list[RawRecord] = []
        while unread := [each for each, end in ends.items() if await consumer.position(each) < end]:
            batches = await consumer.getmany(*unread, timeout_ms=500)
            records.extend(
                RawRecord(
                    each.topic,
                    each.partition,
                    message.offset,
                    message.timestamp,
                    message.key,
                    message.value,
                    tuple(message.headers),
                )
                for each, batch in batches.items()
                for message in batch
                if message.offset < ends[each]
            )
        return records
    finally:
        await consumer.stop()
