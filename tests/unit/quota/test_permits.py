"""Which calls are permitted, by model, role, class of the data and use case."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.quota_events import LONG_AGO, NOW, governance, person, published, quota_policy
from tokenomics_quota.domain.findings import Rule
from tokenomics_quota.domain.friction import Decision
from tokenomics_quota.domain.permits import Permits
from tokenomics_quota.domain.policies import NO_USE_CASES, Access, ModelName, ModelRule
from tokenomics_quota.domain.standing import Standing
from tokenomics_quota.projections.governance import Governance

OK: list[tuple[Decision, str]] = []
NOT_APPROVED = [(Decision.DENIED, "model_not_approved")]
ON_APPROVAL = [(Decision.APPROVAL_REQUIRED, "model_not_approved")]


def rule(*models: str, access: Access = "approved", **fields: Any) -> ModelRule:
    names = tuple(ModelName("acme", model) for model in models)
    conditions = {name: frozenset(values) for name, values in fields.items()}
    return ModelRule(names, access, **({"roles": None, "data_classes": None} | conditions))


def found(
    *rules: ModelRule,
    model: str = "one",
    role: str | None = "engineer",
    data_class: str = "internal",
    provider: str = "acme",
) -> list[tuple[Decision, str]]:
    permits = Permits(rules, {}, NO_USE_CASES, role)
    return [(each.decision, each.code) for each in permits.objections(provider, model, data_class, None)]


def standing(state: Governance, subject: str) -> Standing:
    return state.standing(state.attribution(subject).at(NOW), None, NOW)


@pytest.mark.parametrize(
    ("rules", "call", "expected"),
    [
        ([rule("one")], {}, OK),
        ([rule("one")], {"model": "one-b"}, NOT_APPROVED),
        ([rule("one")], {"provider": "other"}, NOT_APPROVED),
        ([rule("on*")], {}, OK),
        ([rule("one*")], {}, OK),
        ([rule("one-*")], {}, NOT_APPROVED),
        ([rule("*")], {"model": "anything"}, OK),
        ([rule("two", "one")], {}, OK),
        ([rule("one", roles=["lead"])], {}, NOT_APPROVED),
        ([rule("one", roles=["lead", "engineer"])], {}, OK),
        ([rule("one", roles=["lead"])], {"role": None}, NOT_APPROVED),
        ([rule("one")], {"role": None}, OK),
        ([rule("one", data_classes=["public"])], {}, NOT_APPROVED),
        ([rule("one", data_classes=["public"])], {"data_class": "public"}, OK),
        ([rule("one", access="on_approval")], {}, ON_APPROVAL),
        # The most specific name decides.
        ([rule("*"), rule("one*", access="on_approval")], {}, ON_APPROVAL),
        ([rule("*"), rule("one*", access="on_approval"), rule("one")], {}, OK),
        ([rule("*"), rule("one", access="refused")], {}, NOT_APPROVED),
        ([rule("one*", access="refused"), rule("o*")], {}, NOT_APPROVED),
        # Of those that speak of the call.
        ([rule("*"), rule("one", access="refused", roles=["intern"])], {}, OK),
        ([rule("*"), rule("one", access="refused", data_classes=["secret"])], {}, OK),
        # Of equals the one that lets most through.
        ([rule("one", access="refused"), rule("one", roles=["engineer"])], {}, OK),
        ([rule("one", access="on_approval"), rule("one", access="refused")], {}, ON_APPROVAL),
    ],
)
def test_the_most_specific_rule_that_speaks_of_a_call_decides(
    rules: list[ModelRule], call: dict[str, Any], expected: list[tuple[Decision, str]]
) -> None:
    assert found(*rules, **call) == found(*reversed(rules), **call) == expected


names = st.text("ab", max_size=3)
rules_of_all_kinds = st.builds(
    ModelRule,
    st.lists(st.builds(ModelName, st.sampled_from("xy"), names | names.map("{}*".format)), min_size=1).map(
        tuple
    ),
    st.sampled_from(["approved", "on_approval", "refused"]),
    st.none() | st.frozensets(st.sampled_from(["engineer", "lead"]), min_size=1),
    st.none() | st.frozensets(st.sampled_from(["public", "internal"]), min_size=1),
)


@given(
    st.lists(rules_of_all_kinds, max_size=6),
    st.sampled_from("xy"),
    names,
    st.sampled_from(["engineer", "lead", None]),
    st.sampled_from(["public", "internal"]),
)
def test_a_call_is_approved_exactly_where_one_of_the_most_specific_rules_approves_it(
    rules: list[ModelRule], provider: str, model: str, role: str | None, data_class: str
) -> None:
    speaking = [
        (len(name.model) if name.model == model else len(name.model) - 100, each.access)
        for each in rules
        if (each.roles is None or role in each.roles)
        and (each.data_classes is None or data_class in each.data_classes)
        for name in each.models
        if name.provider == provider
        and (name.model == model or (name.model[-1:] == "*" and model.startswith(name.model[:-1])))
    ]
    closest = max((closeness for closeness, _ in speaking), default=0)
    accesses = {access for closeness, access in speaking if closeness == closest}
    permits = Permits(rules, {}, NO_USE_CASES, role)
    for _ in range(2):  # what is remembered is what was found
        decisions = [each.decision for each in permits.objections(provider, model, data_class, None)]
        if "approved" in accesses:
            assert decisions == []
        else:
            assert decisions == [Decision.APPROVAL_REQUIRED if "on_approval" in accesses else Decision.DENIED]


def test_what_is_refused_names_what_is_approved_for_the_same_data() -> None:
    rules = [
        rule("small*", data_classes=["secret"]),
        rule("large", access="on_approval"),
        rule("open", data_classes=["public"]),
    ]
    permits = Permits(rules, {}, NO_USE_CASES, "engineer")
    (refused,) = permits.objections("acme", "huge", "secret", None)
    assert refused.way == "Approved for it: acme small*."
    (nothing_left,) = permits.objections("acme", "huge", "internal", None)
    assert nothing_left.way == "No model is approved for your role with data of this class."


def test_prohibited_data_is_refused_whatever_model_and_role() -> None:
    permits = Permits([rule("*")], {"health": "Use the clinic's own system."}, NO_USE_CASES, None)
    (refused,) = permits.objections("acme", "one", "health", None)
    assert refused[:3] == (Rule.PROHIBITED_DATA, Decision.DENIED, "data_class_prohibited")
    assert refused.way == "Use the clinic's own system."
    assert permits.objections("acme", "one", "internal", None) == ()


@pytest.mark.parametrize(
    ("unregistered", "use_case", "data_class", "expected"),
    [
        ("deny", None, "internal", OK),
        ("deny", "triage", "internal", OK),
        ("deny", "gossip", "internal", [(Decision.DENIED, "use_case_not_registered")]),
        ("deny", "draft", "internal", [(Decision.DENIED, "use_case_not_approved")]),
        ("deny", "triage", "secret", [(Decision.DENIED, "use_case_not_for_data_class")]),
        ("nudge", "gossip", "internal", [(Decision.ALLOW_WITH_NUDGE, "use_case_not_registered")]),
        ("allow", "gossip", "internal", OK),
    ],
)
def test_a_use_case_that_a_call_names_should_be_registered_for_its_data(
    unregistered: str, use_case: str | None, data_class: str, expected: list[tuple[Decision, str]]
) -> None:
    registered: dict[str, Any] = {"owner_id": "boss", "class": "internal", "purpose": "Sorts tickets."}
    state = governance(
        published(
            "use_cases",
            1,
            LONG_AGO,
            {
                "unregistered": unregistered,
                "use_cases": [
                    registered | {"use_case_id": "triage", "approved": True, "data_classes": ["internal"]},
                    registered | {"use_case_id": "draft", "approved": False},
                ],
            },
        ),
        person("ada"),
    )
    permits = standing(state, "ada").permits
    objections = () if permits is None else permits.objections("acme", "one", data_class, use_case)
    assert [(each.decision, each.code) for each in objections] == expected


def test_callers_of_one_role_share_what_they_may_call() -> None:
    stated = quota_policy(models=[{"models": [{"provider": "acme", "model": "*"}], "roles": ["lead"]}])
    state = governance(stated, *(person(each, role="lead") for each in ("ada", "bob")), person("eve"))
    ada, bob, eve = (standing(state, each) for each in ("ada", "bob", "eve"))
    assert ada == bob
    assert ada.permits is bob.permits is not eve.permits
    assert standing(state, "nobody").permits is not None


def test_without_rules_nobody_is_asked_what_they_call() -> None:
    assert standing(governance(quota_policy(), person("ada")), "ada").permits is None
