"""What each field of each policy refuses, in which words, and where it says so.

A field that a model gains fails the first test until it stands in the complete documents and in the table.
"""

import ast
import copy
import inspect
import json
import re
from typing import Any

import pytest

from tests.support.policy_documents import COMPLETE, fields, place_of
from tokenomics_contracts.events import policy
from tokenomics_contracts.events.base import Value
from tokenomics_contracts.events.policy import DOCUMENT_MODELS, MAX_DOCUMENT_BYTES, Problem, validate_document

INTEGER = "Input should be a valid integer"
TEXT = "Input should be a valid string"
BOOLEAN = "Input should be a valid boolean"
LIST = "Input should be a list"
MAPPING = "Input should be a mapping"
FROM_0 = "Input should be greater than or equal to 0"
FROM_1 = "Input should be greater than or equal to 1"
TO_A_BILLION_USD = "Input should be less than or equal to 1000000000000000"
TO_A_HUNDREDFOLD = "Input should be less than or equal to 1000000"
IDENTIFIER = "String should match pattern '^[A-Za-z0-9][A-Za-z0-9:._-]{0,127}$'"
LABEL = "String should match pattern '^[!-~]{1,128}$'"
SLUG = "String should match pattern '^[a-z0-9][a-z0-9_.-]{0,63}$'"
NOT_EMPTY = "Tuple should have at least 1 item after validation, not 0"
TIME = "should be an RFC 3339 time with its offset, e.g. 2026-11-01T08:30:00Z"
PROSE = "should be text: printable characters, line breaks and tabs, not only spaces"
ENFORCEMENT = "Input should be 'soft' or 'hard'"
DECISION = (
    "Input should be 'ALLOW', 'ALLOW_WITH_NUDGE', 'JUSTIFICATION_REQUIRED', 'APPROVAL_REQUIRED' or 'DENIED'"
)
UNKNOWN = "Extra inputs are not permitted"
STAR = "model should have a '*' at its end only"

FIELDS: list[tuple[str, object, str]] = [
    ("quota.time_zone", "?", "should be an IANA time zone, e.g. Europe/Berlin"),
    ("quota.period", "?", "Input should be 'calendar_month'"),
    ("quota.thresholds", "?", MAPPING),
    ("quota.thresholds.nudge_basis_points", 0.5, INTEGER),
    ("quota.thresholds.nudge_basis_points", -1, FROM_0),
    ("quota.thresholds.nudge_basis_points", 10**16, TO_A_HUNDREDFOLD),
    ("quota.thresholds.justify_basis_points", 0.5, INTEGER),
    ("quota.thresholds.justify_basis_points", -1, FROM_0),
    ("quota.thresholds.justify_basis_points", 10**16, TO_A_HUNDREDFOLD),
    ("quota.thresholds.approve_basis_points", 0.5, INTEGER),
    ("quota.thresholds.approve_basis_points", -1, FROM_0),
    ("quota.thresholds.approve_basis_points", 10**16, TO_A_HUNDREDFOLD),
    ("quota.thresholds.everybody_basis_points", 0.5, INTEGER),
    ("quota.thresholds.everybody_basis_points", -1, FROM_0),
    ("quota.thresholds.everybody_basis_points", 10**16, TO_A_HUNDREDFOLD),
    ("quota.allowances", "?", LIST),
    ("quota.allowances[].role", "?", IDENTIFIER),
    ("quota.allowances[].limit_micro_usd", 0.5, INTEGER),
    ("quota.allowances[].limit_micro_usd", -1, FROM_0),
    ("quota.allowances[].limit_micro_usd", 10**16, TO_A_BILLION_USD),
    ("quota.allowances[].enforcement", "?", ENFORCEMENT),
    ("quota.allowances[].carry_over_cap_micro_usd", 0.5, INTEGER),
    ("quota.allowances[].carry_over_cap_micro_usd", -1, FROM_0),
    ("quota.allowances[].carry_over_cap_micro_usd", 10**16, TO_A_BILLION_USD),
    ("quota.default_allowance_micro_usd", 0.5, INTEGER),
    ("quota.default_allowance_micro_usd", -1, FROM_0),
    ("quota.default_allowance_micro_usd", 10**16, TO_A_BILLION_USD),
    ("quota.default_allowance_enforcement", "?", ENFORCEMENT),
    ("quota.default_allowance_carry_over_cap_micro_usd", 0.5, INTEGER),
    ("quota.default_allowance_carry_over_cap_micro_usd", -1, FROM_0),
    ("quota.default_allowance_carry_over_cap_micro_usd", 10**16, TO_A_BILLION_USD),
    ("quota.overrides", "?", LIST),
    ("quota.overrides[].project_id", "?", IDENTIFIER),
    ("quota.overrides[].mode", "?", "Input should be 'replace' or 'add'"),
    ("quota.overrides[].limit_micro_usd", 0.5, INTEGER),
    ("quota.overrides[].limit_micro_usd", -1, FROM_0),
    ("quota.overrides[].limit_micro_usd", 10**16, TO_A_BILLION_USD),
    ("quota.budgets", "?", LIST),
    ("quota.budgets[].kind", "?", "Input should be 'team', 'project' or 'cost_centre'"),
    ("quota.budgets[].owner_id", "?", IDENTIFIER),
    ("quota.budgets[].limit_micro_usd", 0.5, INTEGER),
    ("quota.budgets[].limit_micro_usd", -1, FROM_0),
    ("quota.budgets[].limit_micro_usd", 10**16, TO_A_BILLION_USD),
    ("quota.budgets[].enforcement", "?", ENFORCEMENT),
    ("quota.budgets[].buffer_micro_usd", 0.5, INTEGER),
    ("quota.budgets[].buffer_micro_usd", -1, FROM_0),
    ("quota.budgets[].buffer_micro_usd", 10**16, TO_A_BILLION_USD),
    ("quota.budgets[].experiment_limit_micro_usd", 0.5, INTEGER),
    ("quota.budgets[].experiment_limit_micro_usd", -1, FROM_0),
    ("quota.budgets[].experiment_limit_micro_usd", 10**16, TO_A_BILLION_USD),
    ("quota.budgets[].alert_basis_points", 0.5, INTEGER),
    ("quota.budgets[].alert_basis_points", -1, FROM_1),
    ("quota.budgets[].alert_basis_points", 10**16, TO_A_HUNDREDFOLD),
    ("quota.budgets[].carry_over_cap_micro_usd", 0.5, INTEGER),
    ("quota.budgets[].carry_over_cap_micro_usd", -1, FROM_0),
    ("quota.budgets[].carry_over_cap_micro_usd", 10**16, TO_A_BILLION_USD),
    ("quota.forecast_from_day", 0.5, INTEGER),
    ("quota.forecast_from_day", 0, FROM_1),
    ("quota.forecast_from_day", 32, "Input should be less than or equal to 31"),
    ("quota.close_after_days", 0.5, INTEGER),
    ("quota.close_after_days", -1, FROM_0),
    ("quota.close_after_days", 28, "Input should be less than or equal to 27"),
    ("quota.degrade", "?", MAPPING),
    ("quota.degrade.stale_after_seconds", 0.5, INTEGER),
    ("quota.degrade.stale_after_seconds", -1, FROM_1),
    ("quota.degrade.stale_after_seconds", 10**16, "Input should be less than or equal to 86400"),
    ("quota.degrade.mode", "?", "Input should be 'open' or 'closed'"),
    ("quota.degrade.cap_micro_usd", 0.5, INTEGER),
    ("quota.degrade.cap_micro_usd", -1, FROM_0),
    ("quota.degrade.cap_micro_usd", 10**16, TO_A_BILLION_USD),
    ("quota.models", "?", LIST),
    ("quota.models", [], NOT_EMPTY),
    ("quota.models[].models", "?", LIST),
    ("quota.models[].models", [], NOT_EMPTY),
    ("quota.models[].models[].provider", "two words", LABEL),
    ("quota.models[].models[].model", "two words", LABEL),
    ("quota.models[].access", "?", "Input should be 'approved', 'on_approval' or 'refused'"),
    ("quota.models[].roles", "?", LIST),
    ("quota.models[].roles", [], NOT_EMPTY),
    ("quota.models[].data_classes", "?", LIST),
    ("quota.models[].data_classes", [], NOT_EMPTY),
    ("quota.prohibited_data", "?", LIST),
    ("quota.prohibited_data[].data_class", "?", SLUG),
    ("quota.prohibited_data[].permitted_way", "", PROSE),
    ("quota.prohibited_data[].permitted_way", "x" * 30_000, "String should have at most 20000 characters"),
    ("quota.alternatives", "?", LIST),
    ("quota.alternatives[].models", "?", LIST),
    ("quota.alternatives[].models", [], NOT_EMPTY),
    ("quota.alternatives[].models[].provider", "two words", LABEL),
    ("quota.alternatives[].models[].model", "a*b", STAR),
    ("quota.alternatives[].sufficient", "?", LIST),
    ("quota.alternatives[].sufficient", [], NOT_EMPTY),
    ("quota.alternatives[].sufficient[].provider", "two words", LABEL),
    ("quota.alternatives[].sufficient[].model", "two words", LABEL),
    ("quota.alternatives[].sufficient[].model", "small*", "model should be an exact name, without '*'"),
    ("quota.alternatives[].use_cases", "?", LIST),
    ("quota.alternatives[].use_cases", [], NOT_EMPTY),
    ("quota.friction", "?", LIST),
    (
        "quota.friction[].rule",
        "prohibited_data",
        "Input should be 'allowances', 'budgets', 'models', 'use_cases' or 'spikes'",
    ),
    ("quota.friction[].most_basis_points", 0.5, INTEGER),
    ("quota.friction[].most_basis_points", 0, FROM_1),
    ("quota.friction[].most_basis_points", 10_001, "Input should be less than or equal to 10000"),
    ("quota.friction[].fewest_checks", 0.5, INTEGER),
    ("quota.friction[].fewest_checks", 0, FROM_1),
    ("quota.friction[].fewest_checks", 10**16, "Input should be less than or equal to 1000000000"),
    ("quota.friction[].owner_id", "?", IDENTIFIER),
    ("quota.spikes", "?", MAPPING),
    ("quota.spikes.factor_basis_points", 0.5, INTEGER),
    ("quota.spikes.factor_basis_points", 10_000, "Input should be greater than 10000"),
    ("quota.spikes.factor_basis_points", 10**16, TO_A_HUNDREDFOLD),
    ("quota.spikes.minimum_micro_usd", 0.5, INTEGER),
    ("quota.spikes.minimum_micro_usd", 0, FROM_1),
    ("quota.spikes.minimum_micro_usd", 10**16, TO_A_BILLION_USD),
    ("quota.spikes.window_days", 0.5, INTEGER),
    ("quota.spikes.window_days", 6, "Input should be greater than or equal to 7"),
    ("quota.spikes.window_days", 57, "Input should be less than or equal to 56"),
    ("quota.spikes.fewest_days", 0.5, INTEGER),
    ("quota.spikes.fewest_days", 2, "Input should be greater than or equal to 3"),
    ("quota.spikes.fewest_days", 57, "Input should be less than or equal to 56"),
    ("quota.rollout", "?", MAPPING),
    ("quota.rollout.stages", "?", LIST),
    ("quota.rollout.stages[].stage", "?", "Input should be 'observe', 'nudge' or 'enforce'"),
    ("quota.rollout.stages[].from", "?", TIME),
    ("quota.rollout.stages[].rules", "?", LIST),
    ("quota.rollout.stages[].rules", [], NOT_EMPTY),
    ("quota.rollout.cohorts", "?", LIST),
    ("quota.rollout.cohorts[].cohort", "?", "Input should be 'pilot' or 'comparison'"),
    ("quota.rollout.cohorts[].stages", "?", LIST),
    ("quota.rollout.cohorts[].stages", [], NOT_EMPTY),
    ("quota.rollout.cohorts[].stages[].stage", "?", "Input should be 'observe', 'nudge' or 'enforce'"),
    ("quota.rollout.cohorts[].stages[].from", "?", TIME),
    ("quota.rollout.cohorts[].stages[].rules", "?", LIST),
    ("quota.rollout.cohorts[].stages[].rules", [], NOT_EMPTY),
    ("quota.rollout.teams", "?", LIST),
    ("quota.rollout.teams[].team_id", "?", IDENTIFIER),
    ("quota.rollout.teams[].cohort", "?", "Input should be 'pilot' or 'comparison'"),
    ("quota.rollout.teams[].stages", "?", LIST),
    ("quota.rollout.teams[].stages", [], NOT_EMPTY),
    ("quota.rollout.teams[].stages[].stage", "?", "Input should be 'observe', 'nudge' or 'enforce'"),
    ("quota.rollout.teams[].stages[].from", "?", TIME),
    ("quota.rollout.teams[].stages[].rules", "?", LIST),
    ("quota.rollout.teams[].stages[].rules", [], NOT_EMPTY),
    ("quota.rollout.first_days_observe", 0.5, INTEGER),
    ("quota.rollout.first_days_observe", -1, FROM_0),
    ("quota.rollout.first_days_observe", 10**16, "Input should be less than or equal to 366"),
    ("quota.rollout.shadow", "?", LIST),
    ("quota.examples", "?", LIST),
    ("quota.examples[].name", "", "should be one line of printable characters, not only spaces"),
    ("quota.examples[].name", "x" * 30_000, "String should have at most 200 characters"),
    ("quota.examples[].role", "?", IDENTIFIER),
    ("quota.examples[].team_id", "?", IDENTIFIER),
    ("quota.examples[].team_since", "?", TIME),
    ("quota.examples[].cost_centre_id", "?", IDENTIFIER),
    ("quota.examples[].project_id", "?", IDENTIFIER),
    ("quota.examples[].members", 0.5, INTEGER),
    ("quota.examples[].members", -1, FROM_1),
    ("quota.examples[].members", 10**16, "Input should be less than or equal to 1000"),
    ("quota.examples[].spent", "?", LIST),
    (
        "quota.examples[].spent[].account",
        "?",
        "Input should be 'subject', 'project', 'team' or 'cost_centre'",
    ),
    ("quota.examples[].spent[].basis_points", 0.5, INTEGER),
    ("quota.examples[].spent[].basis_points", -1, FROM_0),
    ("quota.examples[].spent[].basis_points", 10**16, TO_A_HUNDREDFOLD),
    ("quota.examples[].spent[].micro_usd", 0.5, INTEGER),
    ("quota.examples[].spent[].micro_usd", -1, FROM_0),
    ("quota.examples[].spent[].micro_usd", 10**16, TO_A_BILLION_USD),
    ("quota.examples[].usual_day_micro_usd", 0.5, INTEGER),
    ("quota.examples[].usual_day_micro_usd", -1, FROM_0),
    ("quota.examples[].usual_day_micro_usd", 10**16, TO_A_BILLION_USD),
    ("quota.examples[].used_today_micro_usd", 0.5, INTEGER),
    ("quota.examples[].used_today_micro_usd", -1, FROM_0),
    ("quota.examples[].used_today_micro_usd", 10**16, TO_A_BILLION_USD),
    ("quota.examples[].granted", "?", LIST),
    (
        "quota.examples[].granted[].account",
        "?",
        "Input should be 'subject', 'project', 'team' or 'cost_centre'",
    ),
    ("quota.examples[].granted[].micro_usd", 0.5, INTEGER),
    ("quota.examples[].granted[].micro_usd", -1, FROM_1),
    ("quota.examples[].granted[].micro_usd", 10**16, TO_A_BILLION_USD),
    ("quota.examples[].justified", "?", BOOLEAN),
    ("quota.examples[].model_unlocked", "?", BOOLEAN),
    ("quota.examples[].provider", "two words", LABEL),
    ("quota.examples[].model", "two words", LABEL),
    ("quota.examples[].cost_micro_usd", 0.5, INTEGER),
    ("quota.examples[].cost_micro_usd", -1, FROM_0),
    ("quota.examples[].cost_micro_usd", 10**16, "Input should be less than or equal to 1000000000000"),
    ("quota.examples[].purpose", "?", "Input should be 'operational' or 'experiment'"),
    ("quota.examples[].data_class", "?", SLUG),
    ("quota.examples[].use_case", "?", IDENTIFIER),
    ("quota.examples[].at", "?", TIME),
    (
        "quota.examples[].expect",
        "?",
        DECISION,
    ),
    ("price_book.prices", "?", LIST),
    ("price_book.prices[].provider", "two words", LABEL),
    ("price_book.prices[].model", "two words", LABEL),
    ("price_book.prices[].rates", "?", MAPPING),
    ("price_book.prices[].rates.input", 0.5, INTEGER),
    ("price_book.prices[].rates.input", -1, FROM_0),
    ("price_book.prices[].rates.input", 10**16, "Input should be less than or equal to 1000000000000"),
    ("price_book.prices[].rates.cached_input", 0.5, INTEGER),
    ("price_book.prices[].rates.cached_input", -1, FROM_0),
    ("price_book.prices[].rates.cached_input", 10**16, "Input should be less than or equal to 1000000000000"),
    ("price_book.prices[].rates.cache_creation", 0.5, INTEGER),
    ("price_book.prices[].rates.cache_creation", -1, FROM_0),
    (
        "price_book.prices[].rates.cache_creation",
        10**16,
        "Input should be less than or equal to 1000000000000",
    ),
    ("price_book.prices[].rates.output", 0.5, INTEGER),
    ("price_book.prices[].rates.output", -1, FROM_0),
    ("price_book.prices[].rates.output", 10**16, "Input should be less than or equal to 1000000000000"),
    ("price_book.prices[].tiers", "?", LIST),
    ("price_book.prices[].tiers[].above_input_tokens", 0.5, INTEGER),
    ("price_book.prices[].tiers[].above_input_tokens", -1, FROM_1),
    (
        "price_book.prices[].tiers[].above_input_tokens",
        10**16,
        "Input should be less than or equal to 1000000000",
    ),
    ("price_book.prices[].tiers[].rates", "?", MAPPING),
    ("price_book.prices[].tiers[].rates.input", 0.5, INTEGER),
    ("price_book.prices[].tiers[].rates.input", -1, FROM_0),
    (
        "price_book.prices[].tiers[].rates.input",
        10**16,
        "Input should be less than or equal to 1000000000000",
    ),
    ("price_book.prices[].tiers[].rates.cached_input", 0.5, INTEGER),
    ("price_book.prices[].tiers[].rates.cached_input", -1, FROM_0),
    (
        "price_book.prices[].tiers[].rates.cached_input",
        10**16,
        "Input should be less than or equal to 1000000000000",
    ),
    ("price_book.prices[].tiers[].rates.cache_creation", 0.5, INTEGER),
    ("price_book.prices[].tiers[].rates.cache_creation", -1, FROM_0),
    (
        "price_book.prices[].tiers[].rates.cache_creation",
        10**16,
        "Input should be less than or equal to 1000000000000",
    ),
    ("price_book.prices[].tiers[].rates.output", 0.5, INTEGER),
    ("price_book.prices[].tiers[].rates.output", -1, FROM_0),
    (
        "price_book.prices[].tiers[].rates.output",
        10**16,
        "Input should be less than or equal to 1000000000000",
    ),
    ("price_book.prices[].windows", "?", LIST),
    (
        "price_book.prices[].windows[].from",
        "?",
        "String should match pattern '^([01][0-9]|2[0-3]):[0-5][0-9]$'",
    ),
    (
        "price_book.prices[].windows[].until",
        "?",
        "String should match pattern '^([01][0-9]|2[0-3]):[0-5][0-9]$'",
    ),
    ("price_book.prices[].windows[].rates", "?", MAPPING),
    ("price_book.prices[].windows[].rates.input", 0.5, INTEGER),
    ("price_book.prices[].windows[].rates.input", -1, FROM_0),
    (
        "price_book.prices[].windows[].rates.input",
        10**16,
        "Input should be less than or equal to 1000000000000",
    ),
    ("price_book.prices[].windows[].rates.cached_input", 0.5, INTEGER),
    ("price_book.prices[].windows[].rates.cached_input", -1, FROM_0),
    (
        "price_book.prices[].windows[].rates.cached_input",
        10**16,
        "Input should be less than or equal to 1000000000000",
    ),
    ("price_book.prices[].windows[].rates.cache_creation", 0.5, INTEGER),
    ("price_book.prices[].windows[].rates.cache_creation", -1, FROM_0),
    (
        "price_book.prices[].windows[].rates.cache_creation",
        10**16,
        "Input should be less than or equal to 1000000000000",
    ),
    ("price_book.prices[].windows[].rates.output", 0.5, INTEGER),
    ("price_book.prices[].windows[].rates.output", -1, FROM_0),
    (
        "price_book.prices[].windows[].rates.output",
        10**16,
        "Input should be less than or equal to 1000000000000",
    ),
    ("price_book.service_tier_basis_points", "?", MAPPING),
    ("price_book.service_tier_basis_points.standard", 0.5, INTEGER),
    ("price_book.service_tier_basis_points.standard", -1, FROM_0),
    ("price_book.service_tier_basis_points.standard", 10**16, TO_A_HUNDREDFOLD),
    ("price_book.service_tier_basis_points.batch", 0.5, INTEGER),
    ("price_book.service_tier_basis_points.batch", -1, FROM_0),
    ("price_book.service_tier_basis_points.batch", 10**16, TO_A_HUNDREDFOLD),
    ("price_book.service_tier_basis_points.priority", 0.5, INTEGER),
    ("price_book.service_tier_basis_points.priority", -1, FROM_0),
    ("price_book.service_tier_basis_points.priority", 10**16, TO_A_HUNDREDFOLD),
    ("price_book.fallback", "?", MAPPING),
    ("price_book.fallback.input", 0.5, INTEGER),
    ("price_book.fallback.input", -1, FROM_0),
    ("price_book.fallback.input", 10**16, "Input should be less than or equal to 1000000000000"),
    ("price_book.fallback.cached_input", 0.5, INTEGER),
    ("price_book.fallback.cached_input", -1, FROM_0),
    ("price_book.fallback.cached_input", 10**16, "Input should be less than or equal to 1000000000000"),
    ("price_book.fallback.cache_creation", 0.5, INTEGER),
    ("price_book.fallback.cache_creation", -1, FROM_0),
    ("price_book.fallback.cache_creation", 10**16, "Input should be less than or equal to 1000000000000"),
    ("price_book.fallback.output", 0.5, INTEGER),
    ("price_book.fallback.output", -1, FROM_0),
    ("price_book.fallback.output", 10**16, "Input should be less than or equal to 1000000000000"),
    ("sources.sources", "?", LIST),
    ("sources.sources[].source", "", "String should have at least 1 character"),
    ("sources.sources[].source", "x" * 30_000, "String should have at most 256 characters"),
    ("sources.sources[].owner_id", "?", IDENTIFIER),
    ("sources.sources[].may_backfill", "?", BOOLEAN),
    ("sources.sources[].backfill_until", "?", TIME),
    ("sources.sources[].backfill_counts_in_balances", "?", BOOLEAN),
    ("sources.sources[].silent_after_seconds", 0.5, INTEGER),
    ("sources.sources[].silent_after_seconds", 59, "Input should be greater than or equal to 60"),
    ("sources.sources[].silent_after_seconds", 10**16, "Input should be less than or equal to 31622400"),
    ("baseline.acceptable_use", "", PROSE),
    ("baseline.acceptable_use", "x" * 30_000, "String should have at most 20000 characters"),
    ("baseline.approved_tools", "?", LIST),
    ("baseline.approved_tools[].tool", "two words", LABEL),
    ("baseline.approved_tools[].data_classes", "?", LIST),
    ("baseline.approved_tools[].data_classes", [], NOT_EMPTY),
    ("baseline.restricted_data", "?", LIST),
    ("baseline.restricted_data[].data_class", "?", SLUG),
    ("baseline.restricted_data[].rule", "", PROSE),
    ("baseline.restricted_data[].rule", "x" * 30_000, "String should have at most 20000 characters"),
    ("baseline.training_url", "?", "String should match pattern '^https://[!-~]{1,500}$'"),
    ("use_cases.use_cases", "?", LIST),
    ("use_cases.use_cases[].use_case_id", "?", IDENTIFIER),
    ("use_cases.use_cases[].owner_id", "?", IDENTIFIER),
    ("use_cases.use_cases[].class", "?", SLUG),
    ("use_cases.use_cases[].approved", "?", BOOLEAN),
    ("use_cases.use_cases[].purpose", "", PROSE),
    ("use_cases.use_cases[].purpose", "x" * 30_000, "String should have at most 20000 characters"),
    ("use_cases.use_cases[].outcome", "?", MAPPING),
    ("use_cases.use_cases[].outcome.metric", "?", SLUG),
    (
        "use_cases.use_cases[].outcome.baseline",
        "?",
        "String should match pattern '^-?[0-9]{1,15}(\\.[0-9]{1,6})?$'",
    ),
    ("use_cases.use_cases[].outcome.source", "", "String should have at least 1 character"),
    ("use_cases.use_cases[].outcome.source", "x" * 30_000, "String should have at most 256 characters"),
    ("use_cases.use_cases[].concerns", "?", LIST),
    ("use_cases.use_cases[].human_review", "?", BOOLEAN),
    ("use_cases.use_cases[].data_classes", "?", LIST),
    ("use_cases.use_cases[].data_classes", [], NOT_EMPTY),
    ("use_cases.unregistered", "?", "Input should be 'allow', 'nudge' or 'deny'"),
]
"""Field, a value that it refuses, and the words."""

REPEATED_STEPS = (
    "steps of a rule should appear once each; repeated: allowances from 2026-11-01T00:00:00Z, "
    "models from 2026-11-01T00:00:00Z"
)
STEP = {"stage": "enforce", "from": "2026-11-01T00:00:00Z"}
RULES: list[tuple[str, dict[str, object], str, str]] = [
    ("quota", {"time_zone": "../etc/passwd"}, "time_zone", "should be an IANA time zone, e.g. Europe/Berlin"),
    (
        "quota",
        {"thresholds.nudge_basis_points": 9_000},
        "thresholds",
        "thresholds should rise strictly from nudge over justify to approve, above 0",
    ),
    (
        "quota",
        {"thresholds.everybody_basis_points": 9_999},
        "thresholds",
        "everybody_basis_points should not be below approve_basis_points",
    ),
    (
        "quota",
        {"allowances.1": COMPLETE["quota"]["allowances"][0]},
        "",
        "roles in allowances should appear once each; repeated: engineer",
    ),
    (
        "quota",
        {"budgets.1": COMPLETE["quota"]["budgets"][0]},
        "",
        "budgets should appear once each; repeated: team/team-1",
    ),
    (
        "quota",
        {"overrides.1": COMPLETE["quota"]["overrides"][0]},
        "",
        "overrides should appear once each; repeated: project-1",
    ),
    (
        "quota",
        {"budgets.0.buffer_micro_usd": 400_000_001, "budgets.0.experiment_limit_micro_usd": None},
        "budgets.0",
        "buffer_micro_usd should not exceed limit_micro_usd",
    ),
    (
        "quota",
        {"budgets.0.experiment_limit_micro_usd": 360_000_001},
        "budgets.0",
        "experiment_limit_micro_usd should not exceed the limit without the buffer",
    ),
    (
        "quota",
        {"prohibited_data.1": COMPLETE["quota"]["prohibited_data"][0]},
        "",
        "prohibited_data should appear once each; repeated: secret",
    ),
    (
        "quota",
        {"examples.1": COMPLETE["quota"]["examples"][0]},
        "",
        "names of examples should appear once each; repeated: half of it used",
    ),
    (
        "quota",
        {"default_allowance_enforcement": "hard", "default_allowance_micro_usd": None},
        "",
        "default_allowance_enforcement needs default_allowance_micro_usd",
    ),
    (
        "quota",
        {"default_allowance_micro_usd": None},
        "",
        "a default allowance's carry-over needs default_allowance_micro_usd",
    ),
    (
        "quota",
        {"degrade.mode": "closed"},
        "degrade",
        "cap_micro_usd goes with mode open: closed lets nothing through",
    ),
    ("quota", {"models.0.models.0.model": "a*b"}, "models.0.models.0.model", STAR),
    (
        "quota",
        {"friction.1": COMPLETE["quota"]["friction"][0]},
        "",
        "rules in friction should appear once each; repeated: models",
    ),
    (
        "quota",
        {"spikes.fewest_days": 22},
        "spikes",
        "fewest_days should not exceed window_days",
    ),
    (
        "quota",
        {"rollout.cohorts.1": {"cohort": "pilot", "stages": [STEP]}},
        "rollout",
        "cohorts should appear once each; repeated: pilot",
    ),
    (
        "quota",
        {"rollout.teams.1": {"team_id": "team-1", "cohort": "pilot"}},
        "rollout",
        "teams should appear once each; repeated: team-1",
    ),
    (
        "quota",
        {"rollout.teams.0": {"team_id": "team-1"}},
        "rollout.teams.0",
        "cohort or stages should be there",
    ),
    (
        "quota",
        {"rollout.shadow": ["models", "models"]},
        "rollout",
        "rules in shadow should appear once each; repeated: models",
    ),
    (
        "quota",
        {"rollout.stages.1": STEP},
        "rollout",
        REPEATED_STEPS,
    ),
    (
        "quota",
        {"examples.0.spent.0.micro_usd": 1},
        "examples.0.spent.0",
        "should have either basis_points or micro_usd",
    ),
    ("quota", {"examples.0.team_id": None}, "examples.0", "spent of a team needs team_id"),
    (
        "quota",
        {"examples.0.spent.1.account": "subject"},
        "examples.0",
        "accounts in spent should appear once each; repeated: subject",
    ),
    (
        "quota",
        {"examples.0.granted.1": {"account": "subject", "micro_usd": 2}},
        "examples.0",
        "accounts in granted should appear once each; repeated: subject",
    ),
    (
        "quota",
        {"examples": [{"name": str(number), "role": "r", "expect": "ALLOW"} for number in range(201)]},
        "examples",
        "Tuple should have at most 200 items after validation, not 201",
    ),
    ("price_book", {"prices.0.model": "a*b"}, "prices.0", STAR),
    (
        "price_book",
        {"prices.0.tiers.1": COMPLETE["price_book"]["prices"][0]["tiers"][0]},
        "prices.0",
        "tiers should rise strictly by above_input_tokens",
    ),
    (
        "price_book",
        {"prices.0.windows.0.until": "22:00"},
        "prices.0",
        "a window's from and until should differ",
    ),
    (
        "price_book",
        {"prices.0.windows.1": COMPLETE["price_book"]["prices"][0]["windows"][0] | {"from": "04:59"}},
        "prices.0",
        "windows should not overlap",
    ),
    (
        "price_book",
        {"prices.1": COMPLETE["price_book"]["prices"][0]},
        "",
        "prices should appear once each; repeated: acme small*",
    ),
    (
        "sources",
        {"sources.0.may_backfill": False},
        "sources.0",
        "backfill_counts_in_balances needs may_backfill",
    ),
    (
        "sources",
        {"sources.1": COMPLETE["sources"]["sources"][0]},
        "",
        "sources should appear once each; repeated: //gateway.example/eu",
    ),
    ("baseline", {"acceptable_use": "bell\a"}, "acceptable_use", PROSE),
    (
        "baseline",
        {"approved_tools.1": {"tool": "chat"}},
        "",
        "approved_tools should appear once each; repeated: chat",
    ),
    (
        "baseline",
        {"restricted_data.1": {"data_class": "personal", "rule": "No."}},
        "",
        "restricted_data should appear once each; repeated: personal",
    ),
    (
        "use_cases",
        {"use_cases.0.human_review": False},
        "use_cases.0",
        "human_review should be true where law or customers are concerned",
    ),
    (
        "use_cases",
        {"use_cases.1": COMPLETE["use_cases"]["use_cases"][0]},
        "",
        "use_cases should appear once each; repeated: support-replies",
    ),
    (
        "quota",
        {"examples.0.name": "two\nlines"},
        "examples.0.name",
        "should be one line of printable characters, not only spaces",
    ),
]
"""Kind, what is changed in its complete document, the path that is told, and the words."""


def changed(kind: str, changes: dict[str, object]) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(json.dumps(COMPLETE[kind]))
    for path, value in changes.items():
        *steps, last = [int(step) if step.isdecimal() else step for step in path.split(".")]
        place: Any = document
        for step in steps:
            place = place[step]
        if isinstance(place, list) and last == len(place):
            place.append(copy.deepcopy(value))
        else:
            place[last] = copy.deepcopy(value)
    return document


def test_every_field_stands_in_the_complete_documents_and_in_the_table() -> None:
    assert {field for field, _, _ in FIELDS} == set(fields())


@pytest.mark.parametrize("kind", DOCUMENT_MODELS)
def test_the_complete_documents_have_no_problem(kind: str) -> None:
    assert validate_document(kind, COMPLETE[kind]) == []


@pytest.mark.parametrize(("field", "value", "message"), FIELDS)
def test_a_field_refuses_a_wrong_value_by_its_path(field: str, value: object, message: str) -> None:
    kind, place = place_of(field)
    path = ".".join(map(str, place))
    assert validate_document(kind, changed(kind, {path: value})) == [Problem(path, message)]


@pytest.mark.parametrize(("kind", "changes", "path", "message"), RULES)
def test_fields_that_contradict_each_other_are_refused(
    kind: str, changes: dict[str, object], path: str, message: str
) -> None:
    assert validate_document(kind, changed(kind, changes)) == [Problem(path, message)]


def complaints() -> list[str]:
    """Return what the models complain of in words of their own, as patterns."""
    module = ast.parse(inspect.getsource(policy))
    about_documents = [node for node in module.body if getattr(node, "name", "") != "PolicyPublished"]
    found = []
    for node in (inner for outer in about_documents for inner in ast.walk(outer)):
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "ValueError":
            (message,) = node.args
            parts = message.values if isinstance(message, ast.JoinedStr) else [message]
            found.append(
                "".join(
                    re.escape(str(part.value)) if isinstance(part, ast.Constant) else ".*" for part in parts
                )
            )
    return found


def test_every_complaint_of_the_models_is_in_the_tables() -> None:
    told = [message for _, _, message in FIELDS] + [message for _, _, _, message in RULES]
    assert complaints()
    assert [each for each in complaints() if not any(re.fullmatch(each, message) for message in told)] == []


@pytest.mark.parametrize("field", [field for field in fields() if isinstance(place_of(field)[1][-1], str)])
def test_a_field_that_is_unknown_is_refused_wherever_it_stands(field: str) -> None:
    kind, place = place_of(field)
    path = ".".join(map(str, (*place[:-1], "tpyo")))
    assert validate_document(kind, changed(kind, {path: 1})) == [Problem(path, UNKNOWN)]


def required(model: type[Value]) -> set[str]:
    return {field.alias or name for name, field in model.model_fields.items() if field.is_required()}


@pytest.mark.parametrize("kind", DOCUMENT_MODELS)
def test_a_missing_field_is_named(kind: str) -> None:
    found = validate_document(kind, {})
    assert {problem.path for problem in found} == required(DOCUMENT_MODELS[kind])
    assert {problem.message for problem in found} <= {"Field required"}


@pytest.mark.parametrize("document", [None, [], "text", 7])
def test_a_document_is_a_mapping(document: object) -> None:
    assert validate_document("quota", document) == [Problem("", MAPPING)]


def test_a_document_that_no_event_holds_is_refused() -> None:
    restricted = [{"data_class": f"c{number}", "rule": "x" * 20_000} for number in range(14)]
    (problem,) = validate_document("baseline", {"acceptable_use": "x", "restricted_data": restricted})
    assert problem.path == ""
    assert problem.message.startswith(f"should take at most {MAX_DOCUMENT_BYTES} bytes as JSON, takes 280")


def test_of_an_unknown_kind_nothing_is_published() -> None:
    kinds = "quota, price_book, sources, baseline, use_cases"
    assert validate_document("scoring", {}) == [Problem("kind", f"should be one of {kinds}")]
