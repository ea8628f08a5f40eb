"""Only jars that are what the lock says reach the cache, whatever the repository or the network does."""

import hashlib
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import jgo.maven._core as jgo_core
import pytest

from tokenomics_tools.stack import StackError
from tokenomics_tools.stack.jars import LockedJar, fetch_jars, read_lock

JARS = {f"jar-{number}": bytes([number]) * 50_000 for number in range(12)}
LOCK = [LockedJar("org.example", name, "1", hashlib.sha256(body).hexdigest()) for name, body in JARS.items()]


class Repository:
    """A Maven repository on loopback that can be told to misbehave."""

    def __init__(self) -> None:
        self.bodies = dict(JARS)
        self.requests: list[str] = []
        self.broken_downloads = 0
        repository = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                _, name, _, filename = self.path.removeprefix("/").rsplit("/", 3)
                if not filename.endswith(".jar"):
                    return self.send_error(404)
                repository.requests.append(name)
                body = repository.bodies[name]
                self.send_response(200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                if repository.broken_downloads:
                    repository.broken_downloads -= 1
                    body = body[:1000]
                self.wfile.write(body)
                return None

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.server_port}"


@pytest.fixture
def repository(monkeypatch: pytest.MonkeyPatch) -> Iterator[Repository]:
    running = Repository()
    monkeypatch.setattr(jgo_core, "DEFAULT_REMOTE_REPOS", {"local": running.url})
    thread = threading.Thread(target=running.server.serve_forever)
    thread.start()
    yield running
    running.server.shutdown()
    running.server.server_close()
    thread.join()


def jars_in(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


EXPECTED = {f"{name}-1.jar": body for name, body in JARS.items()}


def test_a_full_cache_asks_nobody(repository: Repository, tmp_path: Path) -> None:
    paths = fetch_jars(LOCK, tmp_path)
    assert jars_in(tmp_path) == EXPECTED
    assert [path.name for path in paths] == list(EXPECTED)
    repository.requests.clear()
    assert fetch_jars(LOCK, tmp_path) == paths
    assert repository.requests == []


def test_a_jar_with_another_sha256_is_refused_by_name(repository: Repository, tmp_path: Path) -> None:
    repository.bodies["jar-3"] = b"tampered with"
    found = hashlib.sha256(b"tampered with").hexdigest()
    with pytest.raises(
        StackError, match=rf"org\.example:jar-3:1 was refused: its sha256 is {found}, the lock says"
    ):
        fetch_jars(LOCK, tmp_path)
    assert jars_in(tmp_path).items() <= EXPECTED.items()
    assert "jar-3-1.jar" not in jars_in(tmp_path)


def test_a_jar_that_rotted_in_the_cache_is_fetched_again(repository: Repository, tmp_path: Path) -> None:
    fetch_jars(LOCK, tmp_path)
    repository.requests.clear()
    (tmp_path / "jar-5-1.jar").write_bytes(b"rotten")
    fetch_jars(LOCK, tmp_path)
    assert jars_in(tmp_path) == EXPECTED
    assert repository.requests == ["jar-5"]


def test_a_broken_download_is_tried_again(repository: Repository, tmp_path: Path) -> None:
    repository.broken_downloads = 2
    fetch_jars(LOCK, tmp_path)
    assert jars_in(tmp_path) == EXPECTED


def test_concurrent_fetches_of_one_cache_do_not_disturb_each_other(
    repository: Repository, tmp_path: Path
) -> None:
    with ThreadPoolExecutor(3) as pool:
        for fetched in [pool.submit(fetch_jars, LOCK, tmp_path) for _ in range(3)]:
            fetched.result()
    assert jars_in(tmp_path) == EXPECTED
    assert set(repository.requests) == set(JARS)


def test_a_jar_that_cannot_be_had_is_named(repository: Repository, tmp_path: Path) -> None:
    missing = LockedJar("org.example", "nowhere", "1", "0" * 64)
    repository.bodies["nowhere"] = b""
    repository.server.shutdown()
    repository.server.server_close()
    with pytest.raises(StackError, match=r"org\.example:nowhere:1 cannot be downloaded"):
        fetch_jars([missing], tmp_path)


def test_the_committed_lock_pins_every_jar_of_the_broker() -> None:
    jars = read_lock()
    assert len(jars) == len({jar.filename for jar in jars}) == 45
    assert all(len(bytes.fromhex(jar.sha256)) == 32 for jar in jars)
    assert "org.apache.kafka:kafka_2.13:4.4.0" in {jar.coordinate for jar in jars}
