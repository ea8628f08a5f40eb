"""Each check of `tokenomics_tools.contracts check` passes here and fires on a seeded violation."""

import copy
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tokenomics_contracts.schemas import JsonSchema, schemas
from tokenomics_tools.contracts import check

PROTO = Path(__file__).parents[2] / "proto"
QUOTA = Path("tokenomics/quota/v1/quota.proto")
USAGE = "tokenomics.usage.recorded.v1"
PERSON = "tokenomics.person.upserted.v1"
POLICY = "tokenomics.policy.published.v1"
BOOK = "policy_document.price_book"
QUOTA_POLICY = "policy_document.quota"


@pytest.fixture
def proto(tmp_path: Path) -> Path:
    """Copy the contracts, for a violation to be seeded."""
    return Path(shutil.copytree(PROTO, tmp_path / "proto", ignore=shutil.ignore_patterns("__pycache__")))


def replace(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert text.count(old) == 1
    path.write_text(text.replace(old, new))


@pytest.mark.parametrize("name", check.CHECKS)
def test_the_committed_contracts_pass(name: str) -> None:
    assert check.CHECKS[name](PROTO) == []


def test_generated_code_edited_by_hand_is_found(proto: Path) -> None:
    with (proto / "gen/src/tokenomics/quota/v1/quota_pb2.py").open("a") as file:
        file.write("# edited\n")
    assert check.stale_files(proto) == ["gen/src/tokenomics/quota/v1/quota_pb2.py"]


def test_a_proto_file_changed_without_generating_is_found(proto: Path) -> None:
    replace(proto / QUOTA, "string decision_id = 1;", "string decision_name = 1;")
    assert "gen/src/tokenomics/quota/v1/quota_pb2.py" in check.stale_files(proto)


def test_a_missing_and_a_left_over_file_are_found(proto: Path) -> None:
    (proto / f"schemas/{USAGE}.json").rename(proto / "schemas/left.over.json")
    assert check.stale_files(proto) == ["schemas/left.over.json", f"schemas/{USAGE}.json"]


@pytest.mark.parametrize(
    ("old", "new", "complaint"),
    [
        ("  // Id of this decision; usage events name it, so that advice taken is known.\n", "", "comment"),
        ("string decision_id = 1;", "string decisionId = 1;", "lower_snake_case"),
        ("  BAND_NUDGE = 2;", "  NUDGE = 2;", "prefix"),
        ("rpc EstimateCost(EstimateCostRequest)", "rpc EstimateCost(CheckQuotaRequest)", "EstimateCost"),
    ],
)
def test_a_proto_file_against_the_rules_is_found(proto: Path, old: str, new: str, complaint: str) -> None:
    replace(proto / QUOTA, old, new)
    problems = check.lint_problems(proto)
    assert problems
    assert any(complaint in problem for problem in problems)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("  string decision_id = 1;", "  bytes decision_id = 1;"),
        ("  string decision_id = 1;", "  string id = 1;"),
        ("  string decision_id = 1;", "  string decision_id = 99;"),
        ("  DECISION_DENIED = 5;", "  DECISION_DENIED = 6;"),
        ("  rpc ListLooks(ListLooksRequest) returns (ListLooksResponse);\n", ""),
        ("returns (GetBudgetResponse)", "returns (stream GetBudgetResponse)"),
    ],
)
def test_a_change_that_breaks_clients_is_found(proto: Path, old: str, new: str) -> None:
    replace(proto / QUOTA, old, new)
    assert check.api_breaks(proto)


def test_an_added_field_and_call_break_no_client(proto: Path) -> None:
    replace(
        proto / QUOTA,
        "  string decision_id = 1;",
        "  string decision_id = 1;\n  // New.\n  string more = 99;",
    )
    assert check.api_breaks(proto) == []


def field(schema: JsonSchema, name: str) -> dict[str, Any]:
    found: dict[str, Any] = schema["properties"][name]
    return found


BREAKS: dict[str, tuple[str, Callable[[JsonSchema], object], str]] = {
    "field removed": (USAGE, lambda s: s["properties"].pop("tool"), "tool: the field was removed or renamed"),
    "field renamed": (
        USAGE,
        lambda s: s["properties"].update(user=s["properties"].pop("subject")),
        "subject: the field was removed",
    ),
    "field became required": (
        USAGE,
        lambda s: s["required"].append("project"),
        "project: the field became required",
    ),
    "new required field": (
        USAGE,
        lambda s: (s["properties"].update(region={"type": "string"}), s["required"].append("region")),
        "region: the field became required",
    ),
    "type changed": (USAGE, lambda s: field(s, "subject").update(type="integer"), "subject: type changed"),
    "upper bound lowered": (
        USAGE,
        lambda s: field(s, "input_tokens").update(maximum=10),
        "input_tokens: maximum",
    ),
    "lower bound raised": (
        USAGE,
        lambda s: field(s, "input_tokens").update(minimum=1),
        "input_tokens: minimum",
    ),
    "new bound": (USAGE, lambda s: field(s, "tool").update(maxLength=5), "tool: maxLength changed"),
    "pattern changed": (USAGE, lambda s: field(s, "model").update(pattern="^a$"), "model: pattern changed"),
    "choice removed": (
        USAGE,
        lambda s: field(s, "service_tier").update(enum=["standard"]),
        "service_tier: enum",
    ),
    "null refused": (USAGE, lambda s: field(s, "project")["anyOf"].pop(), "project: type changed"),
    "default changed": (
        USAGE,
        lambda s: field(s, "data_class").update(default="public"),
        "data_class: default",
    ),
    "default of a field inside a default object changed": (
        QUOTA_POLICY,
        lambda s: field(s, "degrade")["default"].update(mode="closed"),
        "degrade: default",
    ),
    "field of a default object gone": (
        QUOTA_POLICY,
        lambda s: field(s, "degrade")["default"].pop("mode"),
        "degrade: default",
    ),
    "bound inside a nullable field": (
        USAGE,
        lambda s: field(s, "cost_micro_usd")["anyOf"][0].update(maximum=1),
        "cost_micro_usd: maximum",
    ),
    "pattern beside alternatives": (
        USAGE,
        lambda s: field(s, "project").update(pattern="^x$"),
        "project: pattern changed",
    ),
    "choice beside alternatives": (
        USAGE,
        lambda s: field(s, "cost_micro_usd").update(enum=[1]),
        "cost_micro_usd: enum changed",
    ),
    "bound beside new alternatives": (
        PERSON,
        lambda s: s["properties"].update(
            role={"anyOf": [field(s, "role"), {"type": "null"}], "pattern": "^x$"}
        ),
        "role: pattern changed",
    ),
    "fields of an open object": (
        POLICY,
        lambda s: field(s, "document").update(properties={"rule": {"type": "string"}}),
        "document: properties changed",
    ),
    "bound inside a list": (
        PERSON,
        lambda s: field(s, "project_ids")["items"].update(pattern="^x$"),
        "project_ids[]: pattern",
    ),
    "list shortened": (PERSON, lambda s: field(s, "aliases").update(maxItems=1), "aliases: maxItems"),
    "unknown fields refused": (USAGE, lambda s: s.update(additionalProperties=False), "additionalProperties"),
    "field of a definition removed": (
        BOOK,
        lambda s: s["$defs"]["Rates"]["properties"].pop("cached_input"),
        "fallback.cached_input: the field was removed",
    ),
    "bound inside a referenced list": (
        BOOK,
        lambda s: s["$defs"]["Tier"]["properties"]["above_input_tokens"].update(minimum=2),
        "prices[].tiers[].above_input_tokens: minimum",
    ),
    "unheard-of keyword": (
        USAGE,
        lambda s: field(s, "tool").update(aditionalProperties=False),
        "tool: aditional",
    ),
}


@pytest.mark.parametrize("name", BREAKS)
def test_a_schema_change_that_breaks_readers_is_found(name: str) -> None:
    type_name, seed, complaint = BREAKS[name]
    new = copy.deepcopy(schemas())
    seed(new[type_name])
    problems = check.schema_breaks(schemas(), new, ())
    assert problems
    assert all(problem.startswith(f"{type_name}: ") for problem in problems)
    assert any(complaint in problem for problem in problems)


WIDENINGS: dict[str, tuple[str, Callable[[JsonSchema], object]]] = {
    "new optional field": (
        USAGE,
        lambda s: s["properties"].update(region={"type": "string", "default": "eu"}),
    ),
    "required field became optional": (
        USAGE,
        lambda s: (s["required"].remove("tool"), field(s, "tool").update(default="unknown")),
    ),
    "upper bound raised": (USAGE, lambda s: field(s, "input_tokens").update(maximum=10**10)),
    "bound dropped": (USAGE, lambda s: field(s, "input_tokens").pop("maximum")),
    "choice added": (USAGE, lambda s: field(s, "service_tier")["enum"].append("flex")),
    "null accepted": (
        PERSON,
        lambda s: s["properties"].update(role={"anyOf": [field(s, "role"), {"type": "null"}]}),
    ),
    "only choice became one of two": (
        QUOTA_POLICY,
        lambda s: (
            field(s, "period").pop("const"),
            field(s, "period").update(enum=["calendar_month", "week"]),
        ),
    ),
    "default object gained a field": (
        QUOTA_POLICY,
        lambda s: (
            s["$defs"]["Degrade"]["properties"].update(depth={"type": "integer", "default": 1}),
            field(s, "degrade")["default"].update(depth=1),
        ),
    ),
    "words changed": (USAGE, lambda s: s.update(description="Other words.", title="Other")),
}


@pytest.mark.parametrize("name", WIDENINGS)
def test_a_schema_change_that_breaks_nobody_passes(name: str) -> None:
    type_name, seed = WIDENINGS[name]
    new = copy.deepcopy(schemas())
    seed(new[type_name])
    assert new != schemas()
    assert check.schema_breaks(schemas(), new, ()) == []


def test_an_event_type_may_go_only_when_an_upcaster_reads_it() -> None:
    new = {name: schema for name, schema in schemas().items() if name != USAGE}
    assert check.schema_breaks(schemas(), new, ()) == [f"{USAGE}: gone, with no upcaster"]
    assert check.schema_breaks(schemas(), new, {USAGE}) == []


def test_the_event_check_compares_with_the_committed_baseline(proto: Path) -> None:
    baseline = json.loads((proto / check.BASELINE_SCHEMAS).read_bytes())
    baseline[USAGE]["properties"]["region"] = {"type": "string"}
    (proto / check.BASELINE_SCHEMAS).write_text(json.dumps(baseline))
    assert check.event_breaks(proto) == [f"{USAGE}: region: the field was removed or renamed"]


def test_a_baseline_that_lacks_an_addition_is_found(proto: Path) -> None:
    """Otherwise the next change could rename or drop what was added, and no check would know of it."""
    replace(
        proto / QUOTA,
        "  string decision_id = 1;",
        "  string decision_id = 1;\n  // New.\n  string more = 99;",
    )
    baseline = json.loads((proto / check.BASELINE_SCHEMAS).read_bytes())
    del baseline[USAGE]["properties"]["use_case"]
    (proto / check.BASELINE_SCHEMAS).write_text(json.dumps(baseline))
    assert [problem.split(":")[0] for problem in check.stale_baseline(proto)] == [
        "baseline/api.binpb",
        "baseline/schemas.json",
    ]


def test_a_baseline_is_not_moved_over_a_break(proto: Path) -> None:
    before = (proto / check.BASELINE_API).read_bytes()
    replace(proto / QUOTA, "  string decision_id = 1;", "  string id = 1;")
    assert check.write_baseline(proto)
    assert (proto / check.BASELINE_API).read_bytes() == before


def test_a_baseline_moves_with_an_addition(proto: Path) -> None:
    replace(
        proto / QUOTA,
        "  string decision_id = 1;",
        "  string decision_id = 1;\n  // New.\n  string more = 99;",
    )
    assert check.write_baseline(proto) == []
    assert check.stale_baseline(proto) == []
    replace(proto / QUOTA, "\n  // New.\n  string more = 99;", "")
    assert check.api_breaks(proto)
