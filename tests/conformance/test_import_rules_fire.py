"""Every rule of dependence fires on a seeded violation: a rule that can't fail holds nothing."""

import ast
import os
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from itertools import permutations
from pathlib import Path
from typing import Any, NamedTuple

import pytest

REPOSITORY = Path(__file__).parents[2]
CONFIG = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["tool"]["importlinter"]
PRODUCT = [
    path for folder in ("libs", "services", "tools") for path in (REPOSITORY / folder).rglob("src/*/**/*.py")
]
CLOCK = REPOSITORY / "libs/chassis/src/tokenomics_chassis/clock.py"


class Violation(NamedTuple):
    contract: str
    importer: str
    imported: str


def violations_of(contract: dict[str, Any]) -> Iterator[Violation]:
    """Return every import that a contract forbids, as far as it names it."""
    match contract["type"]:
        case "forbidden":
            for importer in contract["source_modules"]:
                for imported in contract["forbidden_modules"]:
                    yield Violation(contract["id"], importer, imported)
        case "independence":
            for importer, imported in permutations(contract["modules"], 2):
                yield Violation(contract["id"], importer, imported)
        case "layers":
            layers = [layer.replace("|", ":").split(":") for layer in contract["layers"]]
            for height, higher in enumerate(layers):
                for importer in (module.strip() for lower in layers[height + 1 :] for module in lower):
                    for imported in higher:
                        yield Violation(contract["id"], importer, imported.strip())
        case kind:
            raise AssertionError(f"nobody has said how to violate a contract of type {kind}")


VIOLATIONS = [each for contract in CONFIG["contracts"] for each in violations_of(contract)]


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Lint a copy of the packages in which every violation is committed."""
    copy = tmp_path_factory.mktemp("seeded")
    for package in CONFIG["root_packages"]:
        source = next(REPOSITORY.glob(f"*/*/src/{package}"), None) or next(
            REPOSITORY.glob(f"*/src/{package}"), REPOSITORY / package
        )
        shutil.copytree(
            source,
            copy / package,
            ignore=lambda folder, names: {
                name for name in names if not name.endswith(".py") and not Path(folder, name).is_dir()
            },
        )
    shutil.copy(REPOSITORY / "pyproject.toml", copy)
    helper = copy / "tests/proofs/seeded_helper.py"
    helper.write_text("import tokenomics_contracts.units\n")
    with (copy / "tests/proofs/recompute.py").open("a") as module:
        module.write("\nimport tests.proofs.seeded_helper\n")
    for violation in VIOLATIONS:
        path = copy.joinpath(*violation.importer.split("."))
        path = path / "seeded.py" if path.is_dir() else path.with_suffix(".py")
        with path.open("a") as module:
            module.write(f"\nimport {violation.imported}\n")
    finished = subprocess.run(
        [sys.executable, "-c", "from importlinter.cli import lint_imports_command as c; c()", "--no-cache"],
        cwd=copy,
        env={**os.environ, "PYTHONPATH": str(copy), "COLUMNS": "1000"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert finished.returncode == 1, finished.stdout + finished.stderr
    return finished.stdout


def section_of(report: str, contract: dict[str, Any]) -> str:
    """Return what the report says about one broken contract."""
    names = [each["name"] for each in CONFIG["contracts"]]
    _, _, rest = report.partition(f"\n{contract['name']}\n{'-' * len(contract['name'])}\n")
    ends = [rest.find(f"\n{name}\n{'-' * len(name)}\n") for name in names]
    return rest[: min((end for end in ends if end >= 0), default=len(rest))]


@pytest.mark.parametrize("contract", CONFIG["contracts"], ids=lambda contract: contract["id"])
def test_a_contract_fires_on_every_import_it_forbids(report: str, contract: dict[str, Any]) -> None:
    assert f"{contract['name']} BROKEN" in report
    section = section_of(report, contract)
    silent = [
        f"{importer} -> {imported}"
        for _, importer, imported in violations_of(contract)
        if f"{importer} is not allowed to import {imported}:" not in section
    ]
    assert silent == []


def test_an_import_through_a_helper_is_seen_too(report: str) -> None:
    """The recomputation must not reach the product by way of another module either."""
    contract = next(each for each in CONFIG["contracts"] if each["id"] == "independent-recomputation")
    assert not contract.get("allow_indirect_imports")
    assert "tests.proofs.recompute -> tests.proofs.seeded_helper" in section_of(report, contract)


def readings_of_the_clock(source: str) -> list[int]:
    """Return the lines that read the wall clock; monotonic clocks measure durations and are free."""
    attributes = {
        "datetime": {"now", "utcnow", "today"},
        "date": {"today"},
        "time": {"time", "time_ns", "localtime", "gmtime"},
    }
    return [
        node.lineno
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Attribute)
        and isinstance(node.value, ast.Name | ast.Attribute)
        and node.attr in attributes.get(getattr(node.value, "id", getattr(node.value, "attr", "")), ())
    ]


def test_only_the_clock_reads_the_clock() -> None:
    readers = [path for path in PRODUCT if path != CLOCK and readings_of_the_clock(path.read_text())]
    assert readers == []


@pytest.mark.parametrize(
    "seeded",
    [
        "from datetime import datetime\ndatetime.now()",
        "import datetime\ndatetime.datetime.utcnow()",
        "from datetime import date\nstart = date.today",
        "import time\ntime.time()",
    ],
)
def test_a_second_reader_of_the_clock_is_found(seeded: str) -> None:
    assert readings_of_the_clock(seeded) == [2]


def test_a_duration_may_be_measured() -> None:
    assert readings_of_the_clock("import time\ntime.monotonic()\ntime.perf_counter()") == []


def test_the_clock_itself_would_be_found() -> None:
    assert readings_of_the_clock(CLOCK.read_text())
    assert CLOCK in PRODUCT
