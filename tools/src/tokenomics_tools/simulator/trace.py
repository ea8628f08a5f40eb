"""The real trace that gives the simulated month its token sizes and its arrival pattern."""

import csv
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

ATTRIBUTION = (
    "Azure Public Dataset, AzureLLMInferenceTrace_code.csv, CC-BY-4.0 "
    '(Microsoft; Patel et al., "Splitwise", ISCA 2024)'
)
"""To be shown wherever the trace is used; its licence asks for it."""

_REPOSITORY = Path(__file__).parents[4]
_WHOLE_TRACE = _REPOSITORY.parent / "shared/data/azure-llm-2023/code.csv"
_SAMPLE = Path(__file__).parent / "data/azure_llm_2023_code_sample.csv"


class Request(NamedTuple):
    """One request of the trace."""

    position: float
    """When it arrived, as a share of the trace's whole span: 0 is the first request, below 1 the last."""
    context_tokens: int
    generated_tokens: int


class Trace(NamedTuple):
    """The requests in order of arrival, and where they were read."""

    path: Path
    requests: list[Request]


def load_trace(path: Path | None = None) -> Trace:
    """Read a trace file; without a path the whole trace when it lies beside the repository, else the sample.

    Raises
    ------
    OSError
        When the file cannot be read.
    ValueError
        When it holds fewer than two requests or is not ``TIMESTAMP,ContextTokens,GeneratedTokens``.
    """
    path = path or (_WHOLE_TRACE if _WHOLE_TRACE.is_file() else _SAMPLE)
    with path.open(newline="", encoding="utf-8") as lines:
        try:
            rows = [
                (
                    datetime.fromisoformat(row["TIMESTAMP"]).replace(tzinfo=UTC),
                    int(row["ContextTokens"]),
                    int(row["GeneratedTokens"]),
                )
                for row in csv.DictReader(lines)
            ]
        except KeyError as error:
            raise ValueError(f"{path} has no column {error}") from error
    if len(rows) < 2 or rows[0][0] >= rows[-1][0]:
        raise ValueError(f"{path} holds no span of time: it needs two requests at least")
    rows.sort()
    first, span = rows[0][0], rows[-1][0] - rows[0][0]
    # One mean gap more than the span, so that the last request lies below 1 and cycles join without a jump.
    whole = span * len(rows) / (len(rows) - 1)
    return Trace(path, [Request((time - first) / whole, *tokens) for time, *tokens in rows])
