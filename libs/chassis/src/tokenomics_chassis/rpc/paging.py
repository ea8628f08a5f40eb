"""How long a page of a listing is, the same in every listing of every service."""

from typing import Final

_USUAL: Final = 100
_LARGEST: Final = 1_000


def wrong_page_size(asked: int) -> dict[str, str]:
    """Say what is wrong with the ``page_size`` of a request, by its field."""
    return {} if asked >= 0 else {"page_size": "must not be negative"}


def page_size(asked: int) -> int:
    """Return how many a page has at most: as many as asked for, up to a bound; for 0 as usual."""
    return min(asked or _USUAL, _LARGEST)
