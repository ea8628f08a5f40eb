"""The simulated month is real in its sizes, complete in time, and the same again."""

from collections import Counter
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from tokenomics_cli.directory import read_directory
from tokenomics_cli.policy_files import read_policies
from tokenomics_tools import simulator
from tokenomics_tools.simulator import cost_micro_usd, simulate, write_simulation
from tokenomics_tools.simulator.trace import load_trace

NOW = datetime(2026, 11, 23, 17, 30, tzinfo=UTC)


@pytest.mark.parametrize(
    "now",
    [
        NOW,
        datetime(2026, 10, 31, 23, 0, tzinfo=UTC),  # the very first instant of November in Berlin
        datetime(2026, 10, 31, 23, 0, 30, tzinfo=UTC),
        datetime(2026, 10, 31, 22, 55, tzinfo=UTC),  # the month is about to turn in Berlin
        datetime(2026, 10, 25, 1, 30, tzinfo=UTC),  # the clock has just been set back
    ],
)
def test_usage_lies_in_the_month_to_date_in_order(now: datetime) -> None:
    simulation = simulate(now=now, people=20, teams=4, events=2_000)
    times = [datetime.fromisoformat(call["time"]) for call in simulation.usage]
    assert len(times) == 2_000
    assert all(earlier <= later for earlier, later in pairwise(times))
    assert times[-1] <= now
    zone = ZoneInfo(simulation.time_zone)
    assert times[0].astimezone(zone).month == now.astimezone(zone).month


def test_token_sizes_are_those_of_the_trace() -> None:
    trace = load_trace()
    count = len(trace.requests)
    simulation = simulate(now=NOW, people=20, teams=4, events=count)
    sizes = Counter((call["input_tokens"], call["output_tokens"]) for call in simulation.usage)
    assert sizes == Counter(request[1:] for request in trace.requests)


def test_the_shipped_sample_is_a_trace_too() -> None:
    sample = Path(simulator.__file__).parent / "data/azure_llm_2023_code_sample.csv"
    assert len(load_trace(sample).requests) == 1_500


def test_the_same_seed_gives_the_same_company_and_another_seed_another() -> None:
    first, again, other = (simulate(now=NOW, people=20, teams=4, events=500, seed=seed) for seed in (1, 1, 2))
    assert (first.usage, first.policies, first.company) == (again.usage, again.policies, again.company)
    assert {call["subject"] for call in first.usage}.isdisjoint(call["subject"] for call in other.usage)


def test_its_files_are_accepted_by_the_commands(tmp_path: Path) -> None:
    simulation = simulate(now=NOW, people=20, teams=4, events=500)
    files = write_simulation(simulation, tmp_path)
    assert {each.policy.kind for each in read_policies(files.policies)} == {"quota", "price_book"}
    assert len(read_directory(files.directory)) == len(simulation.company.directory)
    assert read_policies(files.backfill)[0].policy.kind == "sources"


def test_a_company_has_aliases_projects_bots_and_a_stranger_in_its_usage() -> None:
    simulation = simulate(now=NOW)
    subjects = Counter(call["subject"] for call in simulation.usage)
    assert any(subject.startswith("alias:") for subject in subjects)
    assert any(subject.startswith("bot-") for subject in subjects)
    assert subjects[simulation.company.stranger] > 0
    assert sum("project" in call for call in simulation.usage) > 1_000
    assert len(simulation.company.members) == 505


@pytest.mark.parametrize(
    ("call", "cost"),
    [
        # 1,000 of gpt-4o at 2.50 USD, 500 of them cached at 1.25, and 100 out at 10 USD a million
        ({}, 2_875),
        # the same in batch: half, rounded half up
        ({"service_tier": "batch"}, 1_438),
    ],
)
def test_costs_are_those_of_the_price_book(call: dict[str, Any], cost: int) -> None:
    tokens = {"input_tokens": 1_000, "cached_input_tokens": 500, "output_tokens": 100}
    assert cost_micro_usd({"provider": "openai", "model": "gpt-4o", **tokens, **call}) == cost
