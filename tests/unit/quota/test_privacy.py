"""Totals told together: whoever adds and subtracts them comes to nothing of few people."""

from collections.abc import Collection, Iterable, Mapping, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.differencing import groups_told
from tokenomics_quota.domain.privacy import FEWEST_PEOPLE, Cell, are_enough, tells_of_few, told_apart

Table = Mapping[Cell, frozenset[str]]

NAMES = ["", "a", "b", "c"]
CELLS = [(row, column) for row in NAMES for column in NAMES]


def table(sizes: Mapping[Cell, int]) -> Table:
    return {
        cell: frozenset(f"{place}.{number}" for number in range(size))
        for place, (cell, size) in enumerate(sizes.items())
    }


def moving_about(people: Sequence[Collection[Cell]]) -> Table:
    """Return the table of people of whom each counts in some cells."""
    return {cell: frozenset(str(who) for who, cells in enumerate(people) if cell in cells) for cell in CELLS}


TABLES = st.dictionaries(st.sampled_from(CELLS), st.sampled_from([0, 1, 2, 4, 5, 6, 9]), max_size=8).map(
    table
)
MOVING = st.lists(st.sets(st.sampled_from(CELLS), min_size=1, max_size=2), max_size=30).map(moving_about)


def totals(people: Table, rows: Collection[str], columns: Collection[str]) -> list[set[Cell]]:
    """Return of which cells each total is that is told: of the named, of both rests, and of all."""
    cells = {cell for cell, members in people.items() if members}
    by_row = [{cell for cell in cells if cell[0] == row} for row in rows]
    by_column = [{cell for cell in cells if cell[1] == column} for column in columns]
    return [*by_row, cells.difference(*by_row), *by_column, cells.difference(*by_column), cells]


def of_few(people: Table, told: Iterable[set[Cell]]) -> bool:
    return bool(groups_told(people, told, fewer_than=FEWEST_PEOPLE))


@given(TABLES | MOVING)
def test_no_total_of_few_people_can_be_worked_out_from_what_is_told(people: Table) -> None:
    rows, columns = told_apart(people)
    everybody = frozenset[str]().union(*people.values())
    if are_enough(everybody):
        assert not of_few(people, totals(people, rows, columns))
    else:
        assert not rows | columns


@given(TABLES)
def test_no_more_is_held_back_than_must_be(people: Table) -> None:
    rows, columns = told_apart(people)
    for place, told in ((0, rows), (1, columns)):
        sizes = dict[str, int]()
        for cell, members in people.items():
            sizes[cell[place]] = sizes.get(cell[place], 0) + len(members)
        held_back = [
            name for name, size in sizes.items() if name and name not in told and size >= FEWEST_PEOPLE
        ]
        if not held_back:
            continue
        largest = min(held_back, key=lambda name: (-sizes[name], name))
        more = (rows | {largest}, columns) if place == 0 else (rows, columns | {largest})
        beside = more if place else (more[0], frozenset[str]())
        assert of_few(people, totals(people, *beside))


@given(TABLES, st.sets(st.sampled_from(NAMES[1:])), st.sets(st.sampled_from(NAMES[1:])))
def test_what_tells_of_few_is_what_can_be_worked_out(
    people: Table, rows: set[str], columns: set[str]
) -> None:
    assert tells_of_few(people, rows, columns) is of_few(people, totals(people, rows, columns))


@pytest.mark.parametrize(
    ("sizes", "rows", "columns"),
    [
        # Two of another role in the team that alone has the analysts: red less analysts would be they.
        ({("red", "analyst"): 5, ("red", "engineer"): 2, ("blue", "engineer"): 9}, {"red", "blue"}, set()),
        # The same two beside an analyst elsewhere: nothing can be worked out.
        (
            {
                ("red", "analyst"): 5,
                ("red", "engineer"): 2,
                ("blue", "engineer"): 9,
                ("blue", "analyst"): 1,
            },
            {"red", "blue"},
            {"analyst", "engineer"},
        ),
        # A lead in each of five teams.
        (
            {(team, role): size for team in "vwxyz" for role, size in (("engineer", 6), ("lead", 1))},
            set("vwxyz"),
            {"engineer", "lead"},
        ),
        # One too few: red goes with green, for the sum less blue and red would be green.
        ({("blue", ""): 8, ("red", ""): 6, ("green", ""): 4}, {"blue"}, set()),
        ({("blue", ""): 8, ("red", ""): 6, ("green", ""): 0}, {"blue", "red"}, set()),
        ({("blue", "engineer"): 4}, set(), set()),
    ],
)
def test_the_smallest_give_way(sizes: Mapping[Cell, int], rows: set[str], columns: set[str]) -> None:
    assert told_apart(table(sizes)) == (frozenset(rows), frozenset(columns))


def test_who_counts_in_two_cells_is_one_person() -> None:
    movers = [{("a", ""), ("b", "")}] * 3
    assert told_apart(moving_about([*movers, *[{("c", "")}] * 8])) == (frozenset(), frozenset())
    assert told_apart(moving_about([*movers, *[{("c", "")}] * 8, *[{("a", "")}] * 2]))[0] == {"c"}
