"""Privacy: totals that are told together, so that no few people's can be worked out from them."""

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping
from itertools import islice
from typing import Final

FEWEST_PEOPLE: Final = 5
"""A total of fewer tells what one of them used, to who knows the others' shares."""

Cell = tuple[str, str]
"""A row and a column of a table; the one without a name is of those who belong to none."""

_Sizes = defaultdict[str, dict[str, int]]
"""How many people are in a row's cells, by column."""

_REST: Final = ""


def are_enough(people: Iterable[object]) -> bool:
    """Whether they are so many that their total tells of none of them; looks at no more than it must."""
    return len(list(islice(people, FEWEST_PEOPLE))) == FEWEST_PEOPLE


def told_apart(people: Mapping[Cell, Collection[str]]) -> tuple[frozenset[str], frozenset[str]]:
    """Return which rows and columns of a table may be told by name, beside its sum.

    The others are told together, as a rest of the rows and one of the columns; where a rest is of some, but
    too few even so, there is none named beside it. The smallest give way: for a rest of too few is the sum
    without the others, and columns beside rows can tell what neither does. A role that is of one team
    alone, taken from that team, leaves those of it with other roles.

    Parameters
    ----------
    people
        Who counts in each cell; one person may in several.
    """
    rows, columns = (_largest_first(people, place) for place in (0, 1))
    while columns and tells_of_few(people, rows, columns):
        columns.pop()
    return frozenset(rows), frozenset(columns)


def _largest_first(people: Mapping[Cell, Collection[str]], place: int) -> list[str]:
    """Return the rows or the columns of enough people that leave a rest of enough, or of none."""
    groups, rest = defaultdict[str, set[str]](set), set[str]()
    for cell, members in people.items():
        groups[cell[place]].update(members)
    named = [name for name, members in groups.items() if name and are_enough(members)]
    named.sort(key=lambda name: (-len(groups[name]), name))
    for name in groups.keys() - set(named):
        rest |= groups[name]
    while named and rest and not are_enough(rest):
        rest |= groups[named.pop()]
    return named


def tells_of_few(
    people: Mapping[Cell, Collection[str]], rows: Collection[str], columns: Collection[str]
) -> bool:
    """Whether the totals of these rows and columns and of both rests tell that of too few people.

    Some cells' total can be worked out exactly where rows and columns fall in two halves, these cells lie
    between rows of the first and columns of the second, and no cell lies the other way round: the rows of
    the first half less its columns are they. Of such cells with a given one among them, the fewest are a
    least cut between its row and its column. (D. Gusfield, A graph theoretic approach to statistical data
    security, SIAM Journal on Computing 17, 1988.)
    """
    merged, counted = defaultdict[Cell, set[str]](set), set[str]()
    for (row, column), members in people.items():
        if members:
            merged[row if row in rows else _REST, column if column in columns else _REST].update(members)
    sizes = _Sizes(dict)
    for (row, column), members in merged.items():
        # Once each, though they be in several cells: cells have at least so many people together.
        sizes[row][column] = len(members - counted)
        counted |= members
    rows_of = defaultdict[str, list[str]](list)
    for row, column in merged:
        rows_of[column].append(row)
    few = [cell for cell, members in merged.items() if not are_enough(members)]
    return not all(_Ways(sizes, rows_of, *cell).are_enough() for cell in few)


class _Ways:
    """Ways from a row to a column: as many as people are in the least cut between them.

    They lead from rows to columns by people of a cell, each once, and back by any cell.
    """

    def __init__(self, sizes: _Sizes, rows_of: Mapping[str, Collection[str]], row: str, column: str) -> None:
        self._sizes = sizes
        self._rows_of = rows_of
        self._row, self._column = row, column
        self._taken = defaultdict[Cell, int](int)

    def are_enough(self) -> bool:
        return all(self._take_one() for _ in range(FEWEST_PEOPLE))

    def _take_one(self) -> bool:
        came_from, ahead = dict[str, Cell](), [self._row]
        if self._is_open(self._row, self._column):
            return self._take(came_from, self._row)
        while ahead:
            for there, cell in self._steps_from(ahead.pop()):
                if there == self._row or there in came_from:
                    continue
                came_from[there] = cell
                if self._is_open(there, self._column):
                    return self._take(came_from, there)
                ahead.append(there)
        return False

    def _steps_from(self, row: str) -> Iterator[tuple[str, Cell]]:
        for column in self._sizes[row]:
            if self._is_open(row, column):
                for there in self._rows_of[column]:
                    yield there, (row, column)

    def _is_open(self, row: str, column: str) -> bool:
        return self._sizes[row].get(column, 0) > self._taken[row, column]

    def _take(self, came_from: Mapping[str, Cell], row: str) -> bool:
        self._taken[row, self._column] += 1
        while row != self._row:
            before, column = came_from[row]
            self._taken[row, column] -= 1  # somebody of it may go the other way now
            self._taken[before, column] += 1
            row = before
        return True
