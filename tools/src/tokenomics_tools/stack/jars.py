"""Apache Kafka's jars: fetched once into a cache folder, each checked against the committed lock."""

import contextlib
import hashlib
import os
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from tenacity import Retrying, stop_after_attempt, wait_exponential

from tokenomics_tools.stack.errors import StackError

if TYPE_CHECKING:
    from jgo.maven import MavenContext

KAFKA_VERSION = "4.4.0"
LOCK_PATH = Path(__file__).with_name(f"apache-kafka-{KAFKA_VERSION}.jars.txt")
_DOWNLOAD_THREADS = 8


class LockedJar(NamedTuple):
    """One line of the lock."""

    group: str
    artifact: str
    version: str
    sha256: str

    @property
    def coordinate(self) -> str:
        """Name in Maven's way."""
        return f"{self.group}:{self.artifact}:{self.version}"

    @property
    def filename(self) -> str:
        """Name of the file in the cache."""
        return f"{self.artifact}-{self.version}.jar"


def read_lock() -> list[LockedJar]:
    """Read the committed lock: ``group:artifact:version  sha256:hex`` lines, and comments after ``#``."""
    jars = []
    for line in LOCK_PATH.read_text().splitlines():
        if line and not line.startswith("#"):
            coordinate, digest = line.split()
            group, artifact, version = coordinate.split(":")
            jars.append(LockedJar(group, artifact, version, digest.removeprefix("sha256:")))
    return jars


def cache_folder() -> Path:
    """Return where downloads are kept: ``TOKENOMICS_CACHE_DIR``, else ``tokenomics`` in the user's cache."""
    if configured := os.environ.get("TOKENOMICS_CACHE_DIR"):
        return Path(configured).expanduser().absolute()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "tokenomics"


def fetch_jars(jars: Sequence[LockedJar], folder: Path) -> list[Path]:
    """Make the jars present in the folder and return their paths, in the same order.

    A jar that is there with the right sha256 costs only its hashing. Each one is downloaded to a scratch
    folder and moved into place by one rename after its check, so an interrupted or concurrent fetch leaves no
    half jar; one that rotted is fetched again.

    Raises
    ------
    StackError
        A jar cannot be had, or is not what the lock says; then it does not reach the folder.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with ThreadPoolExecutor(_DOWNLOAD_THREADS) as pool:
        are_there = pool.map(lambda jar: _sha256(folder / jar.filename) == jar.sha256, jars)
        missing = [jar for jar, is_there in zip(jars, are_there, strict=True) if not is_there]
    if missing:
        _download(missing, folder)
    return [folder / jar.filename for jar in jars]


def _download(missing: Sequence[LockedJar], folder: Path) -> None:
    from jgo.maven import MavenContext, PythonResolver  # noqa: PLC0415 - half a second, once in a cache's life

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with (
        tempfile.TemporaryDirectory(dir=folder, prefix=".fetch-") as scratch,
        Progress(*columns, console=Console(stderr=True)) as progress,
        ThreadPoolExecutor(_DOWNLOAD_THREADS) as pool,  # innermost: it ends before the scratch folder goes
    ):
        task = progress.add_task(f"Apache Kafka {KAFKA_VERSION}, jars", total=len(missing))
        context = MavenContext(resolver=PythonResolver(), repo_cache=Path(scratch), timeout=60)
        for _ in pool.map(lambda jar: _download_one(context, jar, folder), missing):
            progress.advance(task)


def _download_one(context: "MavenContext", jar: LockedJar, folder: Path) -> None:
    artifact = context.project(jar.group, jar.artifact).at_version(jar.version).artifact()

    def resolve() -> Path:
        try:
            return artifact.resolve()
        except BaseException:
            # jgo would take the part that a broken download left for a cached file.
            if artifact.cached_path is not None:
                artifact.cached_path.unlink(missing_ok=True)
            raise

    try:
        downloaded = Retrying(stop=stop_after_attempt(4), wait=wait_exponential(0.5, max=4), reraise=True)(
            resolve
        )
    except Exception as error:
        raise StackError(f"{jar.coordinate} cannot be downloaded: {error}") from error
    if (found := _sha256(downloaded)) != jar.sha256:
        raise StackError(
            f"{jar.coordinate} was refused: its sha256 is {found}, the lock says {jar.sha256}. "
            f"The download was tampered with, or {LOCK_PATH.name} is wrong; it was not put into the cache."
        )
    downloaded.replace(folder / jar.filename)


def _sha256(path: Path) -> str | None:
    with contextlib.suppress(FileNotFoundError), path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
    return None
