"""A gRPC service whose methods are served by several objects, each a topic of its own."""

from collections.abc import Iterable
from typing import TypeVar

Servicer = TypeVar("Servicer")


def methods_of(servicer: type) -> frozenset[str]:
    """Return the methods of a generated servicer class, or those that a part serves."""
    return frozenset(name for name in vars(servicer) if name[0].isupper())


def joined(base: type[Servicer], parts: Iterable[object]) -> Servicer:
    """Return a servicer whose methods are the parts'.

    Parameters
    ----------
    base
        The generated class: it answers UNIMPLEMENTED for what no part serves.
    parts
        Their public methods that begin with a capital letter are methods of the service.

    Raises
    ------
    ValueError
        Two parts serve one method, or a part serves one that the service doesn't have.
    """
    servicer = base()
    served: dict[str, object] = {}
    for part in parts:
        for name in methods_of(type(part)):
            if name in served or name not in methods_of(base):
                raise ValueError(f"{type(part).__name__}.{name} is served already or not in the contract")
            served[name] = getattr(part, name)
    vars(servicer).update(served)
    return servicer
