"""Generated events, good and bad."""

from typing import Any

from hypothesis import strategies as st

from tokenomics_contracts.units import MAX_COST_MICRO_USD, MAX_TOKENS

identifiers = st.from_regex(r"\A[A-Za-z0-9][A-Za-z0-9:._-]{0,127}\Z") | st.sampled_from(["p-1", "alias:00ff"])
labels = st.from_regex(r"\A[!-~]{1,128}\Z") | st.sampled_from(['quo"ted\\', "gpt-5-mini", "<b>&'"])
slugs = st.from_regex(r"\A[a-z0-9][a-z0-9_.-]{0,63}\Z") | st.just("internal")


@st.composite
def quantities(draw: st.DrawFn) -> dict[str, Any]:
    """Make token counts whose parts fit the whole; defaults are sometimes written out."""
    whole, output = draw(st.integers(0, MAX_TOKENS)), draw(st.integers(0, MAX_TOKENS))
    cached = draw(st.integers(0, whole))
    optional = {
        "cached_input_tokens": cached,
        "cache_creation_tokens": draw(st.integers(0, whole - cached)),
        "reasoning_tokens": draw(st.integers(0, output)),
        "service_tier": draw(st.sampled_from(["standard", "batch", "priority"])),
        "cost_micro_usd": draw(st.none() | st.integers(0, MAX_COST_MICRO_USD)),
    }
    kept = draw(st.sets(st.sampled_from(sorted(optional))))
    return {"input_tokens": whole, "output_tokens": output} | {name: optional[name] for name in kept}


@st.composite
def usage_recorded(draw: st.DrawFn) -> dict[str, Any]:
    """Make the data of a valid `usage.recorded` event."""
    optional = {
        "project": st.none() | identifiers,
        "use_case": st.none() | identifiers,
        "purpose": st.sampled_from(["operational", "experiment"]),
        "data_class": slugs,
        "hold_id": st.none() | identifiers,
        "decision_id": st.none() | identifiers,
        "latency_ms": st.none() | st.integers(0, 86_400_000),
        "outcome": st.none() | st.sampled_from(["success", "error", "cancelled"]),
        "a_newer_field": st.none() | st.text() | st.lists(st.integers()),
    }
    kept = draw(st.sets(st.sampled_from(sorted(optional))))
    required = {"subject": identifiers, "tool": labels, "provider": labels, "model": labels}
    return (
        {name: draw(strategy) for name, strategy in required.items()}
        | draw(quantities())
        | {name: draw(optional[name]) for name in kept}
    )


odd_values = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**70), 2**70),
    st.sampled_from([-1, MAX_TOKENS + 1, MAX_COST_MICRO_USD + 1, 86_400_001, 1.0, 0.5, 1e300]),
    st.text(max_size=5),
    st.sampled_from(
        ["", "a\n", "p 1", "a/b", "a@b.example", "é", "\0", "x" * 129, "x" * 128, "1", "Internal", "all"]
    ),
    st.lists(st.integers(), max_size=2),
    st.just({}),
)
