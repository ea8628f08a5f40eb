"""Which calls are permitted: by model, role of the caller, class of the data, and use case."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Final, NamedTuple

from tokenomics_quota.domain.findings import Finding, Rule
from tokenomics_quota.domain.friction import Decision
from tokenomics_quota.domain.policies import Access, AlternativeRule, ModelName, ModelRule, UseCasesPolicy

_REMEMBERED_CALLS: Final = 4_096
_NAMED: Final = 5
"""Models that an objection names."""

_NOT_APPROVED: Final = "This model is not approved for your role with data of this class."
_ON_APPROVAL: Final = "This model needs an approval for your role with data of this class."
_PROHIBITED: Final = "Data of this class may not be sent to any model."
_NOTHING_APPROVED: Final = "No model is approved for your role with data of this class."
_LENIENCY: Final[Mapping[Access, int]] = {"refused": 0, "on_approval": 1, "approved": 2}


_UNREGISTERED: Final = {
    "allow": Decision.ALLOW,
    "nudge": Decision.ALLOW_WITH_NUDGE,
    "deny": Decision.DENIED,
}


class Substitute(NamedTuple):
    """A model that does as well as another."""

    provider: str
    model: str
    awaits_approval: bool
    """Whether it is for those alone who have an approval for it."""


class Permits:
    """Which calls the callers of one role may make.

    What it found is remembered: a call like another costs one look-up.

    Parameters
    ----------
    models
        ``None`` lets any model be called.
    prohibited_data
        The permitted way by class of data.
    role
        ``None`` for callers that the directory doesn't know.
    alternatives
        Which models do as well as others.
    """

    def __init__(
        self,
        models: Sequence[ModelRule] | None,
        prohibited_data: Mapping[str, str],
        use_cases: UseCasesPolicy,
        role: str | None,
        alternatives: Sequence[AlternativeRule] = (),
    ) -> None:
        self._models: list[tuple[ModelName, ModelRule]] | None = None
        if models is not None:
            self._models = _most_specific_first(
                rule for rule in models if rule.roles is None or role in rule.roles
            )
        self._prohibited_data = prohibited_data
        self._use_cases = use_cases
        self._alternatives = alternatives
        self._substitutes: dict[tuple[str, str, str, str | None], tuple[Substitute, ...]] = {}
        self._found: dict[tuple[str, str, str, str | None], tuple[Finding, ...]] = {}

    def objections(
        self, provider: str, model: str, data_class: str, use_case_id: str | None
    ) -> tuple[Finding, ...]:
        """Return what stands against a call, the gravest first."""
        key = (provider, model, data_class, use_case_id)
        found = self._found.get(key)
        if found is None:
            if len(self._found) >= _REMEMBERED_CALLS:
                self._found.clear()
            found = self._found[key] = self._look(*key)
        return found

    def substitutes(
        self, provider: str, model: str, data_class: str, use_case_id: str | None
    ) -> tuple[Substitute, ...]:
        """Return the models that do as well in such a call, of those that are permitted for its data."""
        key = (provider, model, data_class, use_case_id)
        found = self._substitutes.get(key)
        if found is None:
            if len(self._substitutes) >= _REMEMBERED_CALLS:
                self._substitutes.clear()
            found = self._substitutes[key] = tuple(self._look_for_substitutes(*key))
        return found

    def _look_for_substitutes(
        self, provider: str, model: str, data_class: str, use_case_id: str | None
    ) -> Iterator[Substitute]:
        named = dict.fromkeys(
            sufficient
            for rule in self._alternatives
            if rule.speaks_of(provider, model, use_case_id)
            for sufficient in rule.sufficient
        )
        for name in named:
            objections = self.objections(*name, data_class, None)
            if all(each.decision is Decision.APPROVAL_REQUIRED for each in objections):
                yield Substitute(*name, awaits_approval=bool(objections))

    def _look(
        self, provider: str, model: str, data_class: str, use_case_id: str | None
    ) -> tuple[Finding, ...]:
        if (way := self._prohibited_data.get(data_class)) is not None:
            return (
                Finding(Rule.PROHIBITED_DATA, Decision.DENIED, "data_class_prohibited", _PROHIBITED, way),
            )
        found = (self._of_model(provider, model, data_class), self._of_use_case(use_case_id, data_class))
        return tuple(sorted(filter(None, found), key=lambda finding: -finding.decision))

    def _of_model(self, provider: str, model: str, data_class: str) -> Finding | None:
        if self._models is None:
            return None
        covering = (
            rule.access
            for name, rule in self._models
            if name.covers(provider, model) and _includes(rule.data_classes, data_class)
        )
        match next(covering, "refused"):
            case "approved":
                return None
            case "on_approval":
                decision, message = Decision.APPROVAL_REQUIRED, _ON_APPROVAL
                way = f"Ask for access to {provider} {model}."
            case _:
                decision, message, way = Decision.DENIED, _NOT_APPROVED, self._permitted_way(data_class)
        return Finding(Rule.MODELS, decision, "model_not_approved", message, way)

    def _permitted_way(self, data_class: str) -> str:
        names = dict.fromkeys(
            f"{name.provider} {name.model}"
            for name, rule in self._models or ()
            if rule.access == "approved" and _includes(rule.data_classes, data_class)
        )
        listed = ", ".join(islice(names, _NAMED))
        return f"Approved for it: {listed}." if listed else _NOTHING_APPROVED

    def _of_use_case(self, use_case_id: str | None, data_class: str) -> Finding | None:
        decision = _UNREGISTERED[self._use_cases.unregistered]
        if use_case_id is None or decision is Decision.ALLOW:
            return None
        registered = self._use_cases.registered.get(use_case_id)
        if registered is None:
            code, what = "use_case_not_registered", "is not registered"
        elif not registered.approved:
            code, what = "use_case_not_approved", "is registered, but not approved"
        elif not _includes(registered.data_classes, data_class):
            code, what = "use_case_not_for_data_class", "was not registered for data of this class"
        else:
            return None
        return Finding(
            Rule.USE_CASES,
            decision,
            code,
            f"The use case {what}.",
            "Name a registered and approved use case, or ask for this one to be registered.",
        )


def _includes(names: frozenset[str] | None, name: str) -> bool:
    return names is None or name in names


def _most_specific_first(rules: Iterable[ModelRule]) -> list[tuple[ModelName, ModelRule]]:
    named = [(name, rule) for rule in rules for name in rule.models]
    named.sort(key=lambda each: (each[0].specificity, _LENIENCY[each[1].access]), reverse=True)
    return named
