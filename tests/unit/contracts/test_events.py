"""What event models and policy documents refuse."""

import copy
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import msgspec
import pytest
from pydantic import ValidationError

from tokenomics_contracts.catalogue import topics
from tokenomics_contracts.cloudevents import Envelope, EventRejected
from tokenomics_contracts.events.directory import PersonUpserted
from tokenomics_contracts.events.policy import (
    PolicyPublished,
    QuotaDocument,
    Window,
    validate_document,
)
from tokenomics_contracts.events.usage import UsageRecorded
from tokenomics_contracts.registry import EVENT_MODELS, parse
from tokenomics_contracts.units import (
    AccountId,
    parse_time,
    split_account_id,
)

TIME = datetime(2026, 11, 3, tzinfo=UTC)
MODELS = {model.type_name: model for model in EVENT_MODELS}
EXAMPLES: dict[str, dict[str, Any]] = {
    example["type"]: example["data"] for topic in topics() for example in topic.examples
}
POLICIES: dict[str, dict[str, Any]] = {
    example["data"]["kind"]: example["data"]["document"]
    for topic in topics()
    for example in topic.examples
    if example["type"] == PolicyPublished.type_name
}


def rejection(type_name: str, data: object) -> EventRejected:
    with pytest.raises(EventRejected) as caught:
        parse(Envelope("1", "urn:x", type_name, TIME, None, msgspec.json.encode(data), None))
    return caught.value


def integer_fields() -> list[tuple[str, str]]:
    return [
        (type_name, field)
        for type_name, data in EXAMPLES.items()
        for field, value in data.items()
        if isinstance(value, int) and not isinstance(value, bool)
    ]


@pytest.mark.parametrize(("type_name", "field"), integer_fields())
@pytest.mark.parametrize("value", [1.0, 0.5, True, "1", None, -1, 2**63])
def test_no_integer_field_takes_anything_but_an_integer_in_bounds(
    type_name: str, field: str, value: object
) -> None:
    if value is None and not MODELS[type_name].model_fields[field].is_required():
        value = "none"
    if value == -1 and field == "adjustment_micro_usd":  # the one that may be negative
        value = -(2**63)
    rejected = rejection(type_name, EXAMPLES[type_name] | {field: value})
    assert rejected.code == "invalid_data"
    assert rejected.message.startswith(f"{field}: ")


@pytest.mark.parametrize(
    ("type_name", "field"),
    [
        (type_name, field)
        for type_name, data in EXAMPLES.items()
        for field in data
        if (field.endswith("_id") and field != "original_id") or field in {"subject", "project", "use_case"}
    ],
)
@pytest.mark.parametrize("value", ["jane@example.com", "two words", "", "a\n", "x" * 300, 7])
def test_no_identifier_is_an_e_mail_prose_or_empty(type_name: str, field: str, value: object) -> None:
    rejected = rejection(type_name, EXAMPLES[type_name] | {field: value})
    assert rejected.code == "invalid_data"
    assert str(value) not in rejected.message or not value


@pytest.mark.parametrize(
    "value", ["2026-11-01T00:00:00", "2026-11-01", 1_800_000_000, "2200-01-01T00:00:00Z", None]
)
def test_a_time_without_its_offset_or_out_of_range_is_refused(value: object) -> None:
    type_name = PersonUpserted.type_name
    rejected = rejection(type_name, EXAMPLES[type_name] | {"effective_from": value})
    assert rejected.message.startswith("effective_from: ")


def test_a_naive_time_is_refused_in_python_too() -> None:
    naive = datetime(2026, 11, 1)  # noqa: DTZ001
    with pytest.raises(ValidationError, match="time zone"):
        PersonUpserted.model_validate(EXAMPLES[PersonUpserted.type_name] | {"effective_from": naive})


def test_times_are_kept_in_utc() -> None:
    moment = datetime(2026, 11, 1, 2, tzinfo=timezone(timedelta(hours=2)))
    event = PersonUpserted.model_validate(EXAMPLES[PersonUpserted.type_name] | {"effective_from": moment})
    assert event.effective_from.isoformat() == "2026-11-01T00:00:00+00:00"
    assert parse_time("2026-11-01T02:00:00+02:00") == event.effective_from


@pytest.mark.parametrize("model", EVENT_MODELS)
def test_unknown_fields_are_ignored_and_events_are_frozen(model: type[PersonUpserted]) -> None:
    data = EXAMPLES[model.type_name]
    event = model.model_validate(data | {"a_newer_field": {"x": 1}})
    assert event == model.model_validate(data)
    with pytest.raises(ValidationError, match="frozen"):
        setattr(event, model.key_field if hasattr(model, "key_field") else "topic", "other")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"cached_input_tokens": 3000, "cache_creation_tokens": 2000}, "should not exceed input_tokens"),
        ({"reasoning_tokens": 513}, "should not exceed output_tokens"),
        ({"service_tier": "turbo"}, "service_tier: "),
        ({"purpose": "all"}, "purpose: "),
        ({"model": "two words"}, "model: "),
        ({"model": "modèle"}, "model: "),
    ],
)
def test_quantities_that_contradict_each_other_are_refused(changes: dict[str, object], message: str) -> None:
    data = EXAMPLES_USAGE | changes
    assert message in rejection(UsageRecorded.type_name, data).message


EXAMPLES_USAGE = next(
    example["data"]
    for topic in topics()
    for example in topic.examples
    if example["type"] == UsageRecorded.type_name and example["data"].get("project")
)


@pytest.mark.parametrize(
    ("type_name", "code"),
    [
        ("tokenomics.usage.recorded.v2", "unknown_version"),
        ("tokenomics.usage.recorded.v0", "unknown_version"),
        ("tokenomics.usage.recorded", "unknown_version"),
        ("tokenomics.usage.imagined.v1", "unknown_type"),
        ("", "unknown_type"),
        ("com.example.other", "unknown_type"),
    ],
)
def test_unknown_types_and_unknown_versions_are_told_apart(type_name: str, code: str) -> None:
    assert rejection(type_name, {}).code == code


@pytest.mark.parametrize("data", [[], "text", 7, None])
def test_data_that_is_no_object_is_invalid(data: object) -> None:
    assert rejection(UsageRecorded.type_name, data).code == "invalid_data"


NOON = "2026-11-02T12:00:00Z"


@pytest.mark.parametrize("kind", sorted(POLICIES.keys() - {"notifier"}))
def test_the_example_policies_have_no_problem(kind: str) -> None:
    assert validate_document(kind, POLICIES[kind]) == []


@pytest.mark.parametrize(
    ("kind", "path", "value", "expected_path", "message"),
    [
        ("quota", ("time_zone",), "Mars/Olympus", "time_zone", "IANA"),
        ("quota", ("time_zone",), "../etc/passwd", "time_zone", "IANA"),
        ("quota", ("thresholds", "nudge_basis_points"), 9_500, "thresholds", "rise strictly"),
        ("quota", ("budgets", 1, "limit_micro_usd"), 1.5, "budgets.1.limit_micro_usd", "integer"),
        ("quota", ("budgets", 1, "limit"), 1, "budgets.1.limit", "not permitted"),
        ("quota", ("budgets", 1, "kind"), "person", "budgets.1.kind", "team"),
        ("quota", ("allowances", 1, "role"), "engineer", "", "repeated: engineer"),
        ("quota", ("models", 0, "models", 0, "model"), "a*b", "models.0.models.0.model", "at its end only"),
        ("quota", ("models", 0, "models", 0, "provider"), "a b", "models.0.models.0.provider", "pattern"),
        ("quota", ("models", 0, "models"), [], "models.0.models", "at least 1 item"),
        ("quota", ("models", 0, "roles"), [], "models.0.roles", "at least 1 item"),
        ("quota", ("models", 0, "roles"), ["a/b"], "models.0.roles.0", "pattern"),
        ("quota", ("models", 0, "data_classes"), ["Secret"], "models.0.data_classes.0", "pattern"),
        ("quota", ("models", 0, "access"), "denied", "models.0.access", "'approved', 'on_approval' or"),
        ("quota", ("models",), [], "models", "at least 1 item"),
        ("quota", ("prohibited_data", 0, "data_class"), "", "prohibited_data.0.data_class", "pattern"),
        ("quota", ("prohibited_data", 0, "permitted_way"), " ", "prohibited_data.0.permitted_way", "text"),
        (
            "quota",
            ("prohibited_data", 0, "permitted_way"),
            "x" * 501,
            "prohibited_data.0.permitted_way",
            "500",
        ),
        ("quota", ("prohibited_data", 1, "data_class"), "health", "", "repeated: health"),
        ("quota", ("rollout", "stages", 0, "stage"), "on", "rollout.stages.0.stage", "'observe', 'nudge' or"),
        ("quota", ("rollout", "stages", 0, "from"), "soon", "rollout.stages.0.from", "RFC 3339"),
        ("quota", ("rollout", "stages", 0, "from_"), NOON, "rollout.stages.0.from_", "not permitted"),
        ("quota", ("rollout", "stages", 0, "rules"), [], "rollout.stages.0.rules", "at least 1 item"),
        (
            "quota",
            ("rollout", "stages", 0, "rules"),
            ["prohibited_data"],
            "rollout.stages.0.rules.0",
            "'allowances', 'budgets'",
        ),
        ("quota", ("rollout", "stages", 1, "from"), NOON, "rollout", "repeated: models from 2026-11-02"),
        ("quota", ("rollout", "cohorts", 0, "cohort"), "a", "rollout.cohorts.0.cohort", "'comparison'"),
        ("quota", ("rollout", "cohorts", 0, "stages"), [], "rollout.cohorts.0.stages", "at least 1 item"),
        ("quota", ("rollout", "teams", 1, "team_id"), "team-07", "rollout", "repeated: team-07"),
        ("quota", ("rollout", "teams", 1, "stages"), None, "rollout.teams.1", "cohort or stages"),
        ("quota", ("rollout", "first_days_observe"), 367, "rollout.first_days_observe", "366"),
        ("quota", ("rollout", "first_days_observe"), -1, "rollout.first_days_observe", "0"),
        ("quota", ("rollout", "shadow"), ["prohibited_data"], "rollout.shadow.0", "'allowances', 'budgets'"),
        ("quota", ("rollout", "shadow"), ["models", "models"], "rollout", "repeated: models"),
        ("quota", ("allowances", 0, "enforcement"), "firm", "allowances.0.enforcement", "'soft' or 'hard'"),
        ("quota", ("budgets", 0, "enforcement"), True, "budgets.0.enforcement", "'soft' or 'hard'"),
        ("quota", ("budgets", 0, "alert_basis_points"), 0, "budgets.0.alert_basis_points", "greater"),
        ("quota", ("budgets", 0, "alert_basis_points"), "80%", "budgets.0.alert_basis_points", "integer"),
        ("quota", ("default_allowance_enforcement",), None, "default_allowance_enforcement", "'soft' or"),
        ("quota", ("thresholds", "nudge"), 7_000, "thresholds.nudge", "not permitted"),
        ("price_book", ("prices", 0, "model"), "a*b", "prices.0", "at its end only"),
        ("price_book", ("prices", 0, "rates", "input"), "3", "prices.0.rates.input", "integer"),
        ("price_book", ("prices", 1, "windows", 0, "until"), "16:30", "prices.1", "should differ"),
        ("price_book", ("prices", 1, "windows", 0, "from"), 990, "prices.1.windows.0.from", "string"),
        ("price_book", ("fallback",), None, "fallback", "a mapping"),
        ("sources", ("sources", 0, "backfill_counts_in_balances"), True, "sources.0", "may_backfill"),
        ("sources", ("sources", 0, "may_backfill"), "yes", "sources.0.may_backfill", "boolean"),
        ("baseline", ("acceptable_use",), " \n", "acceptable_use", "not only spaces"),
        ("baseline", ("acceptable_use",), "bell\a", "acceptable_use", "printable"),
        ("baseline", ("approved_tools", 1, "tool"), "chat", "", "repeated: chat"),
        (
            "baseline",
            ("approved_tools", 1, "data_classes"),
            [],
            "approved_tools.1.data_classes",
            "at least 1",
        ),
        ("baseline", ("training_url",), "http://learning.example", "training_url", "pattern"),
        ("use_cases", ("use_cases", 0, "human_review"), False, "use_cases.0", "law or customers"),
        (
            "use_cases",
            ("use_cases", 0, "outcome", "baseline"),
            42.5,
            "use_cases.0.outcome.baseline",
            "string",
        ),
        ("use_cases", ("use_cases", 1, "use_case_id"), "support-replies", "", "repeated: support-replies"),
        ("use_cases", ("unregistered",), "refuse", "unregistered", "'allow', 'nudge' or 'deny'"),
    ],
)
def test_a_wrong_document_is_refused_with_the_path_of_its_field(
    kind: str, path: tuple[str | int, ...], value: object, expected_path: str, message: str
) -> None:
    document = copy.deepcopy(POLICIES[kind])
    place: Any = document
    for step in path[:-1]:
        place = place[step]
    place[path[-1]] = value
    (problem,) = validate_document(kind, document)
    assert problem.path == expected_path
    assert message in problem.message


def test_a_hard_default_allowance_needs_an_amount() -> None:
    document = {"time_zone": "UTC", "default_allowance_enforcement": "hard"}
    (problem,) = validate_document("quota", document)
    assert "needs default_allowance_micro_usd" in problem.message
    assert validate_document("quota", document | {"default_allowance_micro_usd": 0}) == []


@pytest.mark.parametrize(
    ("windows", "fits"),
    [
        ([("08:00", "12:00"), ("12:00", "18:00")], True),
        ([("22:00", "06:00"), ("06:00", "22:00")], True),
        ([("08:00", "12:00"), ("11:59", "18:00")], False),
        ([("22:00", "06:00"), ("05:00", "07:00")], False),
    ],
)
def test_windows_of_a_price_may_not_overlap(windows: list[tuple[str, str]], fits: bool) -> None:  # noqa: FBT001
    document = copy.deepcopy(POLICIES["price_book"])
    rates = document["fallback"]
    document["prices"][0]["windows"] = [
        {"from": start, "until": until, "rates": rates} for start, until in windows
    ]
    assert (validate_document("price_book", document) == []) is fits


def test_a_window_over_midnight_covers_its_minutes() -> None:
    window = Window.model_validate({"from": "23:59", "until": "00:01", "rates": {"input": 1, "output": 1}})
    assert window.minutes() == {1439, 0} == {minute for minute in range(1440) if window.covers(minute)}


def test_an_unknown_kind_is_a_problem_for_the_writer_and_opaque_to_the_reader() -> None:
    (problem,) = validate_document("notifier", {})
    assert problem.path == "kind"
    event = PolicyPublished.model_validate(
        EXAMPLES[PolicyPublished.type_name] | {"kind": "notifier", "document": {"x": [1, {"y": None}]}}
    )
    assert event.document == {"x": [1, {"y": None}]}


def test_a_published_document_is_read_by_the_model_of_its_kind() -> None:
    data = {
        "kind": "quota",
        "version": 1,
        "effective_from": "2026-11-01T00:00:00Z",
        "document": POLICIES["quota"],
    }
    assert isinstance(PolicyPublished.model_validate(data).document, QuotaDocument)
    bad = data | {"document": POLICIES["quota"] | {"time_zone": "Nowhere"}}
    assert "document: time_zone: should be an IANA" in rejection(PolicyPublished.type_name, bad).message
    backwards = data | {"replaces": 1}
    assert "lower than version" in rejection(PolicyPublished.type_name, backwards).message


def test_an_account_id_names_its_parts() -> None:
    assert split_account_id(AccountId("team/team-07/all/2026-11")) == ("team", "team-07", "all", "2026-11")
    with pytest.raises(ValueError, match="unpack"):
        split_account_id(AccountId("team/team-07"))
