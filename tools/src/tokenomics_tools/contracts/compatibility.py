"""Which JSON Schema changes break readers.

Every event that was valid stays valid and keeps its meaning: no field goes, nothing narrows, no default
changes. A difference that isn't known to be harmless counts as a break, so a misspelt keyword can't switch a
check off.
"""

from collections.abc import Iterator
from typing import Any

from tokenomics_contracts.events.policy import Problem
from tokenomics_contracts.schemas import JsonSchema

_ANNOTATIONS = frozenset({"$schema", "$defs", "$ref", "title", "description", "examples"})
_LOWER_BOUNDS = frozenset({"minimum", "exclusiveMinimum", "minLength", "minItems", "minProperties"})
_UPPER_BOUNDS = frozenset({"maximum", "exclusiveMaximum", "maxLength", "maxItems", "maxProperties"})
_SUBSCHEMAS = frozenset({"items", "additionalProperties", "propertyNames"})


def breaks(old: JsonSchema, new: JsonSchema) -> list[Problem]:
    """Say where `new` refuses, loses or reinterprets what `old` took. Empty: it breaks no reader."""
    return list(_Comparison(old, new).compare(old, new, ""))


class _Comparison:
    def __init__(self, old_root: JsonSchema, new_root: JsonSchema) -> None:
        self._old_definitions = old_root.get("$defs", {})
        self._new_definitions = new_root.get("$defs", {})
        self._under_way: set[tuple[str, str]] = set()

    def compare(self, old: JsonSchema, new: JsonSchema, path: str) -> Iterator[Problem]:
        references = old.get("$ref", ""), new.get("$ref", "")
        if all(references):
            if references in self._under_way:  # a recursive definition is as good as its first round
                return
            self._under_way.add(references)
        yield from self._compare_resolved(
            _resolve(old, self._old_definitions), _resolve(new, self._new_definitions), path
        )
        self._under_way.discard(references)

    def _compare_resolved(self, old: JsonSchema, new: JsonSchema, path: str) -> Iterator[Problem]:
        if "anyOf" in old or "anyOf" in new:
            yield from self._compare_alternatives(old, new, path)
            # What stands beside alternatives holds for all of them; a schema without any is its own only one.
            beside = {"default"}.union(*(schema for schema in (old, new) if "anyOf" in schema)) - {"anyOf"}
            old, new = ({key: schema[key] for key in schema.keys() & beside} for schema in (old, new))
        # The type comes first: it is what the message should name where an alternative is gone.
        for keyword in sorted(
            (old.keys() | new.keys()) - _ANNOTATIONS, key=lambda name: (name != "type", name)
        ):
            if keyword == "properties" and keyword in old:
                yield from self._compare_properties(old, new, path)
            elif keyword == "required":
                for name in sorted(set(new.get("required", ())) - set(old.get("required", ()))):
                    yield Problem(_join(path, name), "the field became required")
            elif keyword in _SUBSCHEMAS and keyword in old and keyword in new:
                yield from self.compare(old[keyword], new[keyword], f"{path}[]")
            elif keyword == "default" and _only_gained_fields(old, new):
                pass
            elif old.get(keyword) != new.get(keyword) and not _widens(
                keyword, old.get(keyword), new.get(keyword)
            ):
                yield Problem(path, f"{keyword} changed from {old.get(keyword)!r} to {new.get(keyword)!r}")

    def _compare_properties(self, old: JsonSchema, new: JsonSchema, path: str) -> Iterator[Problem]:
        for name, schema in old["properties"].items():
            candidate = new.get("properties", {}).get(name)
            if candidate is None:
                yield Problem(_join(path, name), "the field was removed or renamed")
                continue
            if name in old.get("required", ()):  # no event lacks it: a default reinterprets nothing
                candidate = {key: candidate[key] for key in candidate if key != "default"}
            yield from self.compare(schema, candidate, _join(path, name))

    def _compare_alternatives(self, old: JsonSchema, new: JsonSchema, path: str) -> Iterator[Problem]:
        for branch in _alternatives(old):
            verdicts = [list(self.compare(branch, candidate, path)) for candidate in _alternatives(new)]
            if all(verdicts):
                yield min(verdicts, key=len)[0]


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def _alternatives(schema: JsonSchema) -> list[JsonSchema]:
    alone = {key: schema[key] for key in schema if key != "default"}
    alternatives: list[JsonSchema] = schema.get("anyOf", [alone])
    return alternatives


def _resolve(schema: JsonSchema, definitions: dict[str, JsonSchema]) -> JsonSchema:
    if "$ref" in schema:
        name = schema["$ref"].removeprefix("#/$defs/")
        schema = definitions[name] | {key: schema[key] for key in schema if key != "$ref"}
    if "const" in schema:
        schema = {key: schema[key] for key in schema if key != "const"} | {"enum": [schema["const"]]}
    return schema


def _only_gained_fields(old: JsonSchema, new: JsonSchema) -> bool:
    """Whether a default object says the same of every field that there was."""
    before, after = old.get("default"), new.get("default")
    if not isinstance(before, dict) or not isinstance(after, dict):
        return False
    known = old.get("properties", {})
    return before == {name: value for name, value in after.items() if name in known or name in before}


def _widens(keyword: str, old: Any, new: Any) -> bool:
    if keyword == "default":  # an event without the field would mean something else
        return False
    if new is None:
        return True
    if old is None:
        return False
    if keyword in _LOWER_BOUNDS:
        return bool(new < old)
    if keyword in _UPPER_BOUNDS:
        return bool(new > old)
    return keyword == "enum" and set(old) <= set(new)
