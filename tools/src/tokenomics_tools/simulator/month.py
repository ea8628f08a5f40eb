"""The current calendar month to date, filled with usage."""

from bisect import bisect_right
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from itertools import accumulate
from random import Random
from typing import Any
from zoneinfo import ZoneInfo

from tokenomics_tools.simulator.company import Company, Member
from tokenomics_tools.simulator.prices import PRICES
from tokenomics_tools.simulator.trace import Trace

_TURN_MARGIN = timedelta(minutes=10)
_WORKING_HOURS = range(9, 18)
_EVENING_HOURS = range(18, 23)
_SATURDAY = 5

_TOOLS = {
    "engineer": ("ide-assistant", "chat"),
    "support": ("helpdesk", "chat"),
    "analyst": ("notebook", "chat"),
    "lead": ("chat",),
    "bot": ("ci-bot",),
}
_USE_CASES = ("code-review", "ticket-summary", "test-generation")
_BOT_ACTIVITY = 6.0
_SHARE_STRANGER = 0.002


def time_zone_at(now: datetime) -> str:
    """Return the time zone in which the company's months turn.

    In the last minutes before a month turns there, one in which it doesn't turn: a demonstration that ran
    across the turn would ask about a month that has no usage yet.
    """
    home = ZoneInfo("Europe/Berlin")
    turns = now.astimezone(home).month != (now + _TURN_MARGIN).astimezone(home).month
    return "UTC" if turns else home.key


def month_start(now: datetime, time_zone: str) -> datetime:
    """Return when the current month began in the time zone, in UTC."""
    return (
        now.astimezone(ZoneInfo(time_zone))
        .replace(day=1, hour=0, minute=0, second=0, microsecond=0)
        .astimezone(UTC)
    )


class OfficeClock:
    """Turns shares of the month's activity into instants: busy in working hours, quiet at night and weekends.

    Instants ascend with the share and lie between the month's start and now, however little of the month has
    passed.
    """

    def __init__(self, now: datetime, time_zone: str) -> None:
        start, zone = month_start(now, time_zone), ZoneInfo(time_zone)
        hours = int((now - start) / timedelta(hours=1)) + 1
        self._edges = [start + timedelta(hours=hour) for hour in range(hours)] + [now]
        weights = (self._activity(edge.astimezone(zone)) for edge in self._edges[:-1])
        lengths = (
            (end - begin) / timedelta(hours=1)
            for begin, end in zip(self._edges, self._edges[1:], strict=False)
        )
        self._done = list(
            accumulate(
                (weight * length for weight, length in zip(weights, lengths, strict=True)), initial=0.0
            )
        )

    @staticmethod
    def _activity(local: datetime) -> float:
        hourly = 10.0 if local.hour in _WORKING_HOURS else 2.0 if local.hour in _EVENING_HOURS else 0.3
        return hourly * (0.15 if local.weekday() >= _SATURDAY else 1.0)

    def at(self, share: float) -> datetime:
        """Return the instant by which this share, from 0 to below 1, of the month's activity has happened."""
        wanted = share * self._done[-1]
        hour = min(bisect_right(self._done, wanted), len(self._edges) - 1) - 1
        begin, end = self._edges[hour], self._edges[hour + 1]
        weight = self._done[hour + 1] - self._done[hour]
        within = (wanted - self._done[hour]) / weight if weight else 0.0
        return begin + (end - begin) * within


def usage_of_month(
    random: Random, company: Company, trace: Trace, *, events: int, now: datetime, time_zone: str
) -> Iterator[dict[str, Any]]:
    """Yield the month's usage, oldest first: lines as ``tokenomics emit`` reads them.

    The trace is repeated until ``events`` requests are there and stretched over the month to date; who made a
    request, with which tool and model, is drawn from a skewed distribution: few use much, most use little.
    """
    clock = OfficeClock(now, time_zone)
    habits = [_Habit(random, member) for member in company.members]
    activity = [habit.activity for habit in habits]
    stranger = _Habit(random, Member(company.stranger, "engineer", "", (), ()))
    shares = [*activity, sum(activity) * _SHARE_STRANGER]
    makers = random.choices([*habits, stranger], shares, k=events)
    requests = trace.requests
    for number, maker in enumerate(makers):
        cycle, index = divmod(number, len(requests))
        request = requests[index]
        share = (cycle + request.position) * len(requests) / events
        yield {
            "time": clock.at(min(share, 1.0)).isoformat(),
            **maker.call(random, request.context_tokens, request.generated_tokens),
        }


class _Habit:
    """How one member uses AI tools."""

    def __init__(self, random: Random, member: Member) -> None:
        self._member = member
        self._models = random.sample(list(PRICES), 3)
        self.activity = _BOT_ACTIVITY if member.is_bot else random.lognormvariate(0, 0.55)

    def call(self, random: Random, context_tokens: int, generated_tokens: int) -> dict[str, Any]:
        member = self._member
        provider, model = random.choices(self._models, (6, 3, 1))[0]
        call: dict[str, Any] = {
            "subject": random.choice((member.subject, *member.aliases)),
            "tool": random.choice(_TOOLS[member.role]),
            "provider": provider,
            "model": model,
            "input_tokens": context_tokens,
            "output_tokens": generated_tokens,
            "latency_ms": 200 + 12 * generated_tokens + random.randrange(400),
            "outcome": "success",
        }
        if random.random() < 0.3:
            call["cached_input_tokens"] = context_tokens // 2
        elif provider == "anthropic" and random.random() < 0.2:
            call["cache_creation_tokens"] = context_tokens // 2
        if model == "gpt-5":
            call["reasoning_tokens"] = generated_tokens // 3
        if member.project_ids and random.random() < 0.6:
            call["project"] = member.project_ids[0]
            call["use_case"] = random.choice(_USE_CASES)
        if random.random() < 0.05:
            call["purpose"] = "experiment"
        if member.is_bot:
            call["service_tier"] = "batch"
        return call
