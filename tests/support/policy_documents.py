"""A document of each policy kind that names every field, and the fields that the models have."""

from collections.abc import Iterator
from typing import Any, get_args, get_origin

from pydantic.fields import FieldInfo

from tokenomics_contracts.events.base import Value
from tokenomics_contracts.events.policy import DOCUMENT_MODELS

_RATES = {"input": 3_000_000, "cached_input": 300_000, "cache_creation": 3_750_000, "output": 15_000_000}
_STEPS = [{"stage": "observe", "from": "2026-11-01T00:00:00Z", "rules": ["allowances", "models"]}]

COMPLETE: dict[str, dict[str, Any]] = {
    "quota": {
        "time_zone": "Europe/Berlin",
        "period": "calendar_month",
        "thresholds": {
            "nudge_basis_points": 7_000,
            "justify_basis_points": 9_000,
            "approve_basis_points": 10_000,
            "everybody_basis_points": 12_000,
        },
        "allowances": [
            {
                "role": "engineer",
                "limit_micro_usd": 60_000_000,
                "enforcement": "hard",
                "carry_over_cap_micro_usd": 10_000_000,
            }
        ],
        "default_allowance_micro_usd": 20_000_000,
        "default_allowance_enforcement": "soft",
        "default_allowance_carry_over_cap_micro_usd": 5_000_000,
        "overrides": [{"project_id": "project-1", "mode": "add", "limit_micro_usd": 5_000_000}],
        "budgets": [
            {
                "kind": "team",
                "owner_id": "team-1",
                "limit_micro_usd": 400_000_000,
                "enforcement": "hard",
                "buffer_micro_usd": 40_000_000,
                "experiment_limit_micro_usd": 100_000_000,
                "alert_basis_points": 8_000,
                "carry_over_cap_micro_usd": 100_000_000,
            }
        ],
        "forecast_from_day": 5,
        "close_after_days": 5,
        "degrade": {"stale_after_seconds": 10, "mode": "open", "cap_micro_usd": 50_000_000},
        "models": [
            {
                "models": [{"provider": "acme", "model": "small*"}],
                "access": "approved",
                "roles": ["engineer"],
                "data_classes": ["internal"],
            }
        ],
        "prohibited_data": [{"data_class": "secret", "permitted_way": "Keep it on the desk."}],
        "alternatives": [
            {
                "models": [{"provider": "acme", "model": "large*"}],
                "sufficient": [{"provider": "acme", "model": "small-1"}],
                "use_cases": ["support-replies"],
            }
        ],
        "friction": [{"rule": "models", "most_basis_points": 300, "fewest_checks": 5_000, "owner_id": "p-1"}],
        "spikes": {
            "factor_basis_points": 40_000,
            "minimum_micro_usd": 10_000_000,
            "window_days": 21,
            "fewest_days": 8,
        },
        "rollout": {
            "stages": _STEPS,
            "cohorts": [{"cohort": "pilot", "stages": _STEPS}],
            "teams": [{"team_id": "team-1", "cohort": "pilot", "stages": _STEPS}],
            "first_days_observe": 30,
            "shadow": ["use_cases"],
        },
        "examples": [
            {
                "name": "half of it used",
                "role": "engineer",
                "team_id": "team-1",
                "team_since": "2026-01-01T00:00:00Z",
                "cost_centre_id": "cc-1",
                "project_id": "project-1",
                "members": 4,
                "spent": [
                    {"account": "subject", "basis_points": 5_000},
                    {"account": "team", "micro_usd": 1},
                ],
                "usual_day_micro_usd": 1_000_000,
                "used_today_micro_usd": 1_000_000,
                "granted": [{"account": "subject", "micro_usd": 1}],
                "justified": True,
                "model_unlocked": True,
                "provider": "acme",
                "model": "small-1",
                "cost_micro_usd": 1,
                "purpose": "operational",
                "data_class": "internal",
                "use_case": "support-replies",
                "at": "2026-11-20T12:00:00Z",
                "expect": "ALLOW",
            }
        ],
    },
    "price_book": {
        "prices": [
            {
                "provider": "acme",
                "model": "small*",
                "rates": _RATES,
                "tiers": [{"above_input_tokens": 200_000, "rates": _RATES}],
                "windows": [{"from": "22:00", "until": "05:00", "rates": _RATES}],
            }
        ],
        "service_tier_basis_points": {"standard": 10_000, "batch": 5_000, "priority": 20_000},
        "fallback": _RATES,
    },
    "sources": {
        "sources": [
            {
                "source": "//gateway.example/eu",
                "owner_id": "p-1",
                "may_backfill": True,
                "backfill_until": "2026-12-01T00:00:00Z",
                "backfill_counts_in_balances": True,
                "silent_after_seconds": 3_600,
            }
        ]
    },
    "baseline": {
        "acceptable_use": "Think first.",
        "approved_tools": [{"tool": "chat", "data_classes": ["internal"]}],
        "restricted_data": [{"data_class": "personal", "rule": "Not for the chat."}],
        "training_url": "https://learning.example/ai",
    },
    "use_cases": {
        "use_cases": [
            {
                "use_case_id": "support-replies",
                "owner_id": "team-1",
                "class": "customer_facing",
                "approved": True,
                "purpose": "Draft replies to customers.",
                "outcome": {"metric": "minutes", "baseline": "42.5", "source": "urn:helpdesk"},
                "concerns": ["customers"],
                "human_review": True,
                "data_classes": ["internal"],
            }
        ],
        "unregistered": "nudge",
    },
}


def default_of(field: str) -> Any:
    """Return a field's default: ``...`` where it must be given."""
    kind, *steps = field.replace("[]", "").split(".")
    model: type[Value] = DOCUMENT_MODELS[kind]
    for step in steps[:-1]:
        ((_, model),) = _models_in(_named(model, step).annotation)
    info = _named(model, steps[-1])
    return ... if info.is_required() else info.default


def _named(model: type[Value], name: str) -> FieldInfo:
    (info,) = (info for plain, info in model.model_fields.items() if (info.alias or plain) == name)
    return info


def fields() -> dict[str, str]:
    """Return every field of every policy, as `quota.budgets[].kind`, with its model's name: `Budget.kind`.

    `[]` is each entry of a list.
    """
    return dict(field for kind, model in DOCUMENT_MODELS.items() for field in _fields(model, kind))


def _fields(model: type[Value], path: str) -> Iterator[tuple[str, str]]:
    for name, field in model.model_fields.items():
        inner = f"{path}.{field.alias or name}"
        yield inner, f"{model.__name__}.{field.alias or name}"
        for suffix, nested in _models_in(field.annotation):
            yield from _fields(nested, inner + suffix)


def _models_in(annotation: Any) -> Iterator[tuple[str, type[Value]]]:
    if isinstance(annotation, type) and issubclass(annotation, Value):
        yield "", annotation
        return
    suffix = "[]" if get_origin(annotation) is tuple else ""
    for part in get_args(annotation):
        for inner, model in _models_in(part):
            yield suffix + inner, model


def place_of(field: str) -> tuple[str, tuple[str | int, ...]]:
    """Return the kind, and where a complete document has the field: in the first entry that has it.

    Raises
    ------
    LookupError
        It doesn't have it.
    """
    kind, *steps = field.split(".")
    place = _place(COMPLETE[kind], [part for step in steps for part in step.replace("[]", ".[]").split(".")])
    if place is None:
        raise LookupError(field)
    return kind, place


def _place(value: Any, steps: list[str]) -> tuple[str | int, ...] | None:
    if not steps:
        return ()
    names = range(len(value)) if steps[0] == "[]" else [steps[0]] if steps[0] in value else []
    for name in names:
        found = _place(value[name], steps[1:])
        if found is not None:
            return (name, *found)
    return None
