"""Values that hold from an instant on, looked up by time."""

from bisect import bisect_right
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from typing import Generic, TypeVar

Value = TypeVar("Value")

EVER = datetime.min.replace(tzinfo=UTC)
NEVER = datetime.max.replace(tzinfo=UTC)


Condition = TypeVar("Condition")


class Timeline(Generic[Value]):
    """A step function of time.

    Parameters
    ----------
    steps
        (instant, value) pairs: the value holds from the instant, inclusive, until the next one.
        Of two steps at one instant the later one given wins; a step to the value that holds already is none.
    before
        The value before the first step.
    """

    __slots__ = ("_starts", "_values")

    def __init__(self, steps: Iterable[tuple[datetime, Value]], before: Value) -> None:
        starts: list[datetime] = []
        values = [before]
        for start, value in sorted(steps, key=lambda step: step[0]):
            if starts and starts[-1] == start:
                starts.pop()
                values.pop()
            if value != values[-1]:
                starts.append(start)
                values.append(value)
        self._starts, self._values = tuple(starts), tuple(values)

    def at(self, instant: datetime) -> Value:
        """Return the value that holds at the instant."""
        return self._values[bisect_right(self._starts, instant)]

    def since(self, instant: datetime) -> datetime:
        """Return when the value at an instant began to hold; the first of all times for ever."""
        following = bisect_right(self._starts, instant)
        return self._starts[following - 1] if following else EVER

    def until(self, instant: datetime) -> datetime:
        """Return when the value at an instant ends to hold; the last of all times for never."""
        following = bisect_right(self._starts, instant)
        return self._starts[following] if following < len(self._starts) else NEVER

    def during(self, since: datetime, until: datetime) -> Sequence[Value]:
        """Return the values that hold at some instant from one to another, both inclusive."""
        return self._values[bisect_right(self._starts, since) : bisect_right(self._starts, until) + 1]

    @property
    def starts(self) -> Sequence[datetime]:
        """The instants at which the value may change, ascending."""
        return self._starts

    def steps(self) -> list[tuple[datetime, Value]]:
        """Return the (instant, value) pairs, ascending."""
        return list(zip(self._starts, self._values[1:], strict=True))


def total(timelines: Iterable[Timeline[int]]) -> Timeline[int]:
    """Return the sum of numbers, which are all 0 at first, at each instant."""
    moves: dict[datetime, int] = {}
    for timeline in timelines:
        before = 0
        for start, value in timeline.steps():
            moves[start] = moves.get(start, 0) + value - before
            before = value
    steps, summed = [], 0
    for start in sorted(moves):
        summed += moves[start]
        steps.append((start, summed))
    return Timeline(steps, before=0)


def while_holding(
    number: Timeline[int], condition: Timeline[Condition], holds: Callable[[Condition], bool]
) -> Timeline[int]:
    """Return a number while a condition holds, else 0."""
    starts = {*number.starts, *condition.starts}
    steps = [(start, number.at(start) if holds(condition.at(start)) else 0) for start in starts]
    return Timeline(steps, before=0)
