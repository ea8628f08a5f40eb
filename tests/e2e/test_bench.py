"""`make bench` at its smallest: it measures and reports, or says that it could not. Timing is not judged."""

import json
from pathlib import Path

import pytest

from tokenomics_tools.bench import __main__ as bench
from tokenomics_tools.bench.plant import Scale
from tokenomics_tools.bench.rows import Bar, Pair, Row, paired


def run(monkeypatch: pytest.MonkeyPatch, report: Path, *names: str) -> tuple[int, list[dict[str, object]]]:
    monkeypatch.setenv("BENCH_SCALE", "0.01")
    monkeypatch.setenv("BENCH_JSON", str(report))
    code = bench.main(names)
    rows: list[dict[str, object]] = json.loads(report.read_text()) if report.exists() else []
    return code, rows


@pytest.mark.timeout(600)
def test_every_path_is_measured_beside_its_floor(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    code, rows = run(monkeypatch, tmp_path / "bench.json")

    assert code == 0
    assert {str(row["path"]).partition(",")[0] for row in rows} == set(bench.PATHS)
    for row in rows:
        assert set(row) == {"path", "value", "unit", "floor", "ratio", "bar", "met"}
        assert isinstance(row["value"], int | float)
        assert row["value"] > 0
        assert (row["floor"] is None) == (row["ratio"] is None)
        assert (row["bar"] is None) == (row["met"] is None)
    bars = [row["bar"] for row in rows if row["bar"] is not None]
    assert sorted(map(str, bars)) == [
        "ratio <= 1.5",
        "ratio >= 0.25",
        "ratio >= 0.5",
        "ratio >= 0.7",
        "ratio >= 0.7",
        "ratio >= 0.8",
        "ratio >= 10",
        "value <= 1,024",
        "value <= 1,536",
        "value <= 1.2",
        "value <= 250",
        "value >= 1,500",
        "value >= 22,000",
        "value >= 300,000",
    ]


def test_a_path_that_cannot_be_measured_is_the_one_failure(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def breaks_down(_scale: Scale) -> list[Row]:
        raise RuntimeError("no answer")

    def falls_short(_scale: Scale) -> list[Row]:
        return [Row("short", 1, "calls/s", bar=Bar("value", ">=", 2))]

    monkeypatch.setattr(bench, "PATHS", {"broken": breaks_down, "short": falls_short})
    monkeypatch.setattr(bench, "keep_logs", lambda: [Path("/tmp/stack-7")])  # noqa: S108 - nobody writes there

    code, rows = run(monkeypatch, tmp_path / "all.json")
    assert code == 1
    assert [(row["path"], row["met"]) for row in rows] == [("short", False)]
    printed = capsys.readouterr()
    assert "not measured: broken" in printed.err
    assert "no answer" in printed.err
    assert "the logs are kept in /tmp/stack-7" in printed.err

    code, _ = run(monkeypatch, tmp_path / "short.json", "short")
    assert code == 0
    assert "the logs" not in capsys.readouterr().err


def test_an_unknown_path_is_refused_before_anything_starts(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, rows = run(monkeypatch, tmp_path / "none.json", "chek")
    assert (code, rows) == (2, [])
    assert "chek" in capsys.readouterr().err


@pytest.mark.parametrize(("bar", "met"), [(Bar("ratio", ">=", 1), True), (Bar("ratio", "<=", 0.9), False)])
def test_a_ratio_is_the_median_of_the_pairs_not_the_ratio_of_the_medians(bar: Bar, met: bool) -> None:  # noqa: FBT001 - an expectation
    row = paired("x", "/s", [Pair(1, 10), Pair(2, 1), Pair(3, 3)], bar)
    assert (row.value, row.floor, row.ratio, row.met) == (2, 3, 1, met)
