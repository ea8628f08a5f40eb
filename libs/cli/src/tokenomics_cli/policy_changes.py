"""What changes from one policy document to the next, by what it means: the order of a list means nothing."""

from collections.abc import Iterable, Iterator
from typing import Any, Final, NamedTuple

from pydantic_core import to_jsonable_python

from tokenomics_contracts.events.base import Value
from tokenomics_contracts.events.policy import PolicyPublished

_WHO: Final = {
    "role": "roles",
    "roles": "roles",
    "team_id": "teams",
    "team_ids": "teams",
    "teams": "teams",
    "project_id": "projects",
    "project_ids": "projects",
    "cost_centre_id": "cost_centres",
    "source": "sources",
    "use_case_id": "use_cases",
    "tool": "tools",
    "cohort": "cohorts",
    "data_class": "data_classes",
    "model": "models",
}
"""Fields that name whom or what an entry is about."""

_NOBODY: Final = ("examples",)
"""Parts of a document that decide nothing."""

_EVERYBODY: Final = "everybody"


class Change(NamedTuple):
    """One value that differs; ``None`` where there is none."""

    path: str
    """Dotted; an entry of a list is named by what tells it from the others, as in `allowances[support]`."""
    old: Any
    new: Any


class Comparison(NamedTuple):
    """What changes, in the order of the new document; what it has no more comes last in its part."""

    changes: tuple[Change, ...]
    touches: dict[str, list[str]]
    """Whom or what the changes are about, by kind of it; `everybody` where they are about no one in
    particular."""


def compare(old: PolicyPublished | None, new: PolicyPublished) -> Comparison:
    """Compare the documents of two versions of a kind; without an old one, everything is new."""
    changes, touched = [], dict[str, dict[str, None]]()
    for change, about in _changes("", {} if old is None else _tree(old.document), _tree(new.document), ()):
        changes.append(change)
        if not change.path.startswith(_NOBODY):
            for kind, name in dict.fromkeys(about) or {(_EVERYBODY, _EVERYBODY): None}:
                touched.setdefault(kind, {})[name] = None
    return Comparison(tuple(changes), {kind: list(names) for kind, names in touched.items()})


def _tree(value: Any) -> Any:
    """Return JSON in which a list of entries is an object: by their names, or else by their places."""
    if isinstance(value, Value):
        fields = (
            (field.alias or name, getattr(value, name)) for name, field in type(value).model_fields.items()
        )
        tree = _Entry((name, _tree(each)) for name, each in fields if each is not None)
        tree.in_short = value.model_dump(mode="json", by_alias=True, exclude_defaults=True)
        return tree
    if value and isinstance(value, tuple) and all(isinstance(each, Value) for each in value):
        if all(each.named_by for each in value):
            return {f"[{_name(each)}]": _tree(each) for each in value}
        return _Nameless(map(_tree, value))
    return to_jsonable_python(value)


class _Entry(dict[str, Any]):
    """The fields of an entry, those at their defaults too."""

    in_short: dict[str, Any]
    """The entry as one would write it."""


def _written(tree: Any) -> Any:
    """Return what stands in a document, from its tree."""
    if isinstance(tree, _Entry):
        return tree.in_short
    if isinstance(tree, dict):
        return [_written(each) for each in tree.values()]
    return [_written(each) for each in tree] if isinstance(tree, _Nameless) else tree


class _Nameless(list[Any]):
    """Entries that nothing but their places tells apart."""

    def without(self, other: "_Nameless") -> dict[str, Any]:
        """Return the entries that another list doesn't have, by their places."""
        return {f"[{place}]": entry for place, entry in enumerate(self) if entry not in other}


def _name(entry: Value) -> str:
    return "/".join(str(getattr(entry, name)) for name in entry.named_by)


_About = tuple[tuple[str, str], ...]
"""Kind and name of whom the entries around a value are about."""


def _changes(path: str, old: Any, new: Any, about: _About) -> Iterator[tuple[Change, _About]]:
    if old == [] or new == []:  # of an empty list nobody knows what its entries would be
        old, new = old or type(new)(), new or type(old)()
    if isinstance(old, _Nameless) and isinstance(new, _Nameless):
        if len(old) == len(new):
            old, new = ({f"[{place}]": entry for place, entry in enumerate(each)} for each in (old, new))
        else:  # where one was put in or taken out, places say nothing about the others
            old, new = old.without(new), new.without(old)
    if isinstance(old, dict) and isinstance(new, dict):
        about = (*about, *_about(old), *_about(new))
        for name in [*new, *(name for name in old if name not in new)]:
            inner = f"{path}.{name}" if path and not name.startswith("[") else f"{path}{name}"
            yield from _changes(inner, old.get(name), new.get(name), about)
    elif old != new:
        yield Change(path, _written(old), _written(new)), (*about, *_about(old), *_about(new))


def _about(entry: Any) -> _About:
    if not isinstance(entry, dict):
        return ()
    found = [(kind, name) for field, kind in _WHO.items() for name in _names(entry.get(field))]
    if isinstance(owner := entry.get("owner_id"), str) and isinstance(kind := entry.get("kind"), str):
        found.append((f"{kind}s", owner))
    return tuple(found)


def _names(value: Any) -> Iterable[str]:
    if isinstance(value, str):
        return [value]
    return [name for name in value or () if isinstance(name, str)] if isinstance(value, list) else ()
