"""Checks that the contracts are current and break no reader."""

import json
from collections.abc import Collection, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory

from tokenomics_contracts.schemas import JsonSchema, schemas
from tokenomics_contracts.upcast import UPCASTS
from tokenomics_tools.contracts.compatibility import breaks
from tokenomics_tools.contracts.generate import Outputs, committed, outputs, tool

BASELINE_API = Path("baseline/api.binpb")
BASELINE_SCHEMAS = Path("baseline/schemas.json")


def stale_files(proto: Path) -> list[str]:
    """Name the generated files that differ from what would be generated, are missing or have no source."""
    wanted, present = outputs(proto), committed(proto)
    return sorted(
        str(path) for path in wanted.keys() | present.keys() if wanted.get(path) != present.get(path)
    )


def _buf(proto: Path, *arguments: str) -> list[str]:
    finished = tool("buf", *arguments, cwd=proto)
    complaints = (finished.stdout + finished.stderr).splitlines()
    return complaints or ["buf failed without a word"] if finished.returncode else []


def lint_problems(proto: Path) -> list[str]:
    """Ask buf whether the proto files follow the rules of `buf.yaml`."""
    return _buf(proto, "lint")


def api_breaks(proto: Path) -> list[str]:
    """Ask buf what the proto files break for clients of the baseline."""
    return _buf(proto, "breaking", "--against", str(BASELINE_API))


def schema_breaks(
    old: Mapping[str, JsonSchema], new: Mapping[str, JsonSchema], upcast_types: Collection[str]
) -> list[str]:
    """Say what the new schemas break for readers and history of the old ones.

    Parameters
    ----------
    old, new
        Schemas by name.
    upcast_types
        Event types that are read through an upcaster: their model may go.
    """
    lost = [f"{name}: gone, with no upcaster" for name in old if name not in new and name not in upcast_types]
    broken = [
        f"{name}: {problem}"
        for name in sorted(old.keys() & new.keys())
        for problem in breaks(old[name], new[name])
    ]
    return lost + broken


def event_breaks(proto: Path) -> list[str]:
    """Say what the event models break for readers and history of the baseline."""
    return schema_breaks(json.loads((proto / BASELINE_SCHEMAS).read_bytes()), schemas(), UPCASTS)


def stale_baseline(proto: Path) -> list[str]:
    """Name the files of the baseline that aren't the present contracts: what is new in these has no guard."""
    return [
        f"{path}: `python -m tokenomics_tools.contracts baseline` moves it to the present contracts"
        for path, content in _present(proto).items()
        if (proto / path).read_bytes() != content
    ]


def _present(proto: Path) -> Outputs:
    """Build the baseline that the present contracts would be.

    Raises
    ------
    ValueError
        buf can't read the proto files; with its words.
    """
    with TemporaryDirectory() as folder:
        image = Path(folder) / BASELINE_API.name
        if failure := _buf(proto, "build", "--exclude-source-info", "-o", str(image)):
            raise ValueError("\n".join(failure))
        return {
            BASELINE_API: image.read_bytes(),
            BASELINE_SCHEMAS: (json.dumps(schemas(), indent=1) + "\n").encode(),
        }


CHECKS = {
    "generated files are current": stale_files,
    "proto files follow the rules": lint_problems,
    "the gRPC interface breaks no client": api_breaks,
    "the events break no reader": event_breaks,
    "the baseline is current": stale_baseline,
}


def write_baseline(proto: Path) -> list[str]:
    """Make the present contracts the ones that later changes are compared with.

    Returns
    -------
    list
        What they break of the present baseline; then nothing is written.
    """
    if (proto / BASELINE_API).exists() and (broken := api_breaks(proto) + event_breaks(proto)):
        return broken
    for path, content in _present(proto).items():
        (proto / path).parent.mkdir(exist_ok=True)
        (proto / path).write_bytes(content)
    return []
