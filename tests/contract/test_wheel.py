"""The contracts library works where there is no repository around it."""

import subprocess
import sys
import zipfile
from pathlib import Path

from tokenomics_contracts.catalogue import topics

LIBRARY = Path(__file__).parents[2] / "libs" / "contracts"


def test_the_wheel_brings_the_topic_catalogue(tmp_path: Path) -> None:
    subprocess.run(  # noqa: S603 - our own arguments
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", tmp_path],
        cwd=LIBRARY,
        check=True,
        capture_output=True,
    )
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "installed")
    code = "import tokenomics_contracts.catalogue as c; print(c.__file__, *(t.name for t in c.topics()))"
    finished = subprocess.run(  # noqa: S603 - our own arguments
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={"PYTHONPATH": str(tmp_path / "installed")},
        check=True,
        capture_output=True,
        text=True,
    )
    file, *names = finished.stdout.split()
    assert Path(file).is_relative_to(tmp_path)
    assert names == [topic.name for topic in topics()]
