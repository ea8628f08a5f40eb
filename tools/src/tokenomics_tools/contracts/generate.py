"""What is generated from the contracts: gRPC code and JSON Schemas."""

import json
import os
import subprocess
import sys
import sysconfig
from importlib import resources
from pathlib import Path
from tempfile import TemporaryDirectory

from tokenomics_contracts.schemas import schemas

Outputs = dict[Path, bytes]
"""Path below `proto/` to content."""

GENERATED_FOLDERS = (Path("gen/src/tokenomics"), Path("schemas"))
"""Folders below `proto/` that hold nothing but generated files."""


def tool(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run a program of the virtual environment, wherever the caller's PATH points."""
    path = os.pathsep.join([sysconfig.get_path("scripts"), os.environ.get("PATH", "")])
    return subprocess.run(
        arguments, cwd=cwd, env=os.environ | {"PATH": path}, capture_output=True, text=True, check=False
    )


def grpc_code(proto: Path) -> Outputs:
    """Compile every proto file.

    Raises
    ------
    ValueError
        The compiler refuses a file; with its words.
    """
    sources = sorted(str(file.relative_to(proto)) for file in (proto / "tokenomics").rglob("*.proto"))
    with TemporaryDirectory() as folder:
        flags = [f"--{kind}_out={folder}" for kind in ("python", "grpc_python", "mypy", "mypy_grpc")]
        well_known = resources.files("grpc_tools") / "_proto"
        compiled = tool(
            sys.executable, "-m", "grpc_tools.protoc", "-I.", f"-I{well_known}", *flags, *sources, cwd=proto
        )
        if compiled.returncode != 0:
            raise ValueError(compiled.stderr)
        package = Path(folder) / "tokenomics"
        (package / "py.typed").touch()
        for directory in (package, *(path for path in package.rglob("*") if path.is_dir())):
            (directory / "__init__.py").touch()
        return {
            Path("gen/src") / file.relative_to(folder): file.read_bytes()
            for file in package.rglob("*")
            if file.is_file()
        }


def outputs(proto: Path) -> Outputs:
    """Generate everything, in memory."""
    return grpc_code(proto) | {
        Path("schemas") / f"{name}.json": (json.dumps(schema, indent=2) + "\n").encode()
        for name, schema in schemas().items()
    }


def committed(proto: Path) -> Outputs:
    """Read what lies in the generated folders, bytecode aside."""
    return {
        file.relative_to(proto): file.read_bytes()
        for folder in GENERATED_FOLDERS
        for file in (proto / folder).rglob("*")
        if file.is_file() and "__pycache__" not in file.parts
    }


def write(proto: Path) -> int:
    """Bring the generated folders up to date; stale files go.

    Returns
    -------
    int
        How many files changed.
    """
    wanted, present = outputs(proto), committed(proto)
    stale = present.keys() - wanted.keys()
    for path in stale:
        (proto / path).unlink()
    changed = [path for path, content in wanted.items() if present.get(path) != content]
    for path in changed:
        (proto / path).parent.mkdir(parents=True, exist_ok=True)
        (proto / path).write_bytes(wanted[path])
    return len(stale) + len(changed)
