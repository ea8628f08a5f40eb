"""What somebody works out who adds and subtracts totals, with any factors."""

from collections.abc import Collection, Hashable, Iterable, Mapping
from fractions import Fraction
from itertools import chain, combinations
from typing import Any


def groups_told(
    people: Mapping[Any, Collection[Hashable]], told: Iterable[Collection[Any]], *, fewer_than: int
) -> set[frozenset[Any]]:
    """Return of which few people's cells the total follows from the totals that are told.

    Parameters
    ----------
    people
        Of each cell; no total tells apart people of one cell.
    told
        Of which cells each total is that is told.
    fewer_than
        So many people are enough.
    """
    cells = [cell for cell, members in people.items() if members]
    basis: list[list[Fraction]] = []

    def left_of(vector: list[Fraction]) -> list[Fraction]:
        for one in basis:
            pivot = next(place for place, factor in enumerate(one) if factor)
            vector = [mine - vector[pivot] / one[pivot] * its for mine, its in zip(vector, one, strict=True)]
        return vector

    for total in told:
        left = left_of([Fraction(cell in total) for cell in cells])
        if any(left):
            basis.append(left)
    small = [cell for cell in cells if len(people[cell]) < fewer_than]
    groups = chain.from_iterable(combinations(small, count) for count in range(1, len(small) + 1))
    return {
        frozenset(group)
        for group in groups
        if len(set(chain.from_iterable(people[cell] for cell in group))) < fewer_than
        and not any(left_of([Fraction(cell in group) for cell in cells]))
    }
