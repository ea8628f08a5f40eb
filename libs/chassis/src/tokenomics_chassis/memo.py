"""Remembering what a pure function returned, where calls are many and arguments come from anywhere."""

from collections.abc import Callable
from typing import ParamSpec, TypeVar

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")


def memo(most: int) -> Callable[[Callable[Arguments, Result]], Callable[Arguments, Result]]:
    """Remember up to so many results, then begin anew.

    Unlike ``functools.lru_cache`` it keeps no order: a look-up touches one entry instead of its neighbours as
    well, of which each may have to come from main memory. Arguments are positional.
    """

    def remembering(function: Callable[Arguments, Result]) -> Callable[Arguments, Result]:
        known: dict[object, Result] = {}

        def look_up(*arguments: Arguments.args, **_: Arguments.kwargs) -> Result:
            try:
                return known[arguments]
            except KeyError:
                if len(known) >= most:
                    known.clear()
                result = known[arguments] = function(*arguments)  # type: ignore[call-arg]
                return result

        return look_up

    return remembering
