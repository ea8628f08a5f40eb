"""The servers as containers of their official images, through testcontainers."""

import signal
from abc import abstractmethod
from typing import Any

import docker
from docker.errors import DockerException, ImageNotFound
from docker.models.containers import Container
from testcontainers.core.config import testcontainers_config
from testcontainers.core.container import DockerContainer

from tokenomics_tools.stack.component import Component, Kafka, Postgres
from tokenomics_tools.stack.errors import StackError
from tokenomics_tools.stack.probes import kafka_answers, postgres_answers
from tokenomics_tools.stack.processes import free_port, poll
from tokenomics_tools.stack.servers import (
    KAFKA_IMAGE,
    POSTGRES_ADMIN,
    POSTGRES_IMAGE,
    kafka_environment,
    postgres_options,
)

_START_SECONDS = 120
_STOP_SECONDS = 60
_LOOPBACK = "127.0.0.1"


def why_no_containers() -> str | None:
    """Return what is missing (an engine, an image), None when containers can be had; pulls images."""
    images = [KAFKA_IMAGE, POSTGRES_IMAGE]
    if not testcontainers_config.ryuk_disabled:
        images.append(testcontainers_config.ryuk_image)
    try:
        client = docker.from_env()
        try:
            for image in images:
                try:
                    client.images.get(image)
                except ImageNotFound:
                    client.images.pull(image)
        finally:
            client.close()
    except (DockerException, OSError) as error:
        return f"{type(error).__name__}: {error}"
    return None


class _Contained(Component):
    """What broker and database share: one container with a fixed port of the host, which a restart keeps.

    Where the engine is this machine's, the port is open on loopback only: the transport is plaintext.
    testcontainers' reaper (Ryuk) removes the container when its owner is killed.
    """

    def __init__(self, image: str) -> None:
        self._container = DockerContainer(image)
        host = self._container.get_docker_client().host()
        self._host = _LOOPBACK if host == "localhost" else host

    def start(self) -> None:
        if self._created:
            self._engine.start()
        else:
            self._configure(free_port())
            self._container.start()
        if not poll(self._answers, timeout_seconds=_START_SECONDS):
            output, errors = self._container.get_logs()
            tail = (output + errors).decode(errors="replace")[-4000:]
            raise StackError(f"{self._container.image} did not answer within {_START_SECONDS} s\n{tail}")

    def stop(self) -> None:
        self._engine.stop(timeout=_STOP_SECONDS)

    def kill(self) -> None:
        self._signal(signal.SIGKILL)

    def pause(self) -> None:
        self._engine.pause()

    def resume(self) -> None:
        self._engine.unpause()

    def close(self) -> None:
        if self._created:
            self._container.stop()

    @property
    def _created(self) -> bool:
        return self._container._container is not None  # noqa: SLF001 - the public way to ask raises

    @property
    def _engine(self) -> Container:
        return self._container.get_wrapped_container()

    def _signal(self, number: signal.Signals) -> None:
        self._engine.kill(number.name)
        self._engine.wait(timeout=_STOP_SECONDS)

    def _publish(self, inside: int, outside: int) -> None:
        ports: dict[str, Any] = self._container.ports  # typed for ports alone
        ports[str(inside)] = (_LOOPBACK, outside) if self._host == _LOOPBACK else outside

    @abstractmethod
    def _configure(self, port: int) -> None:
        """Describe the container before it is made."""

    @abstractmethod
    def _answers(self) -> bool: ...


class ContainerKafka(_Contained, Kafka):
    """The broker. testcontainers' own ``KafkaContainer`` is for Confluent's image, not for Apache's."""

    def __init__(self) -> None:
        super().__init__(KAFKA_IMAGE)

    def _configure(self, port: int) -> None:
        self.bootstrap = f"{self._host}:{port}"
        variables = {
            **kafka_environment(),
            "KAFKA_LISTENERS": f"PLAINTEXT://:{port},CONTROLLER://:{port + 1}",
            "KAFKA_ADVERTISED_LISTENERS": f"PLAINTEXT://{self.bootstrap}",
            "KAFKA_LISTENER_SECURITY_PROTOCOL_MAP": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT",
            "KAFKA_INTER_BROKER_LISTENER_NAME": "PLAINTEXT",
            "KAFKA_CONTROLLER_QUORUM_VOTERS": f"1@localhost:{port + 1}",
        }
        self._container.with_envs(**variables)
        self._publish(port, port)

    def _answers(self) -> bool:
        return kafka_answers(self.bootstrap)


class ContainerPostgres(_Contained, Postgres):
    """The database."""

    def __init__(self, password: str) -> None:
        super().__init__(POSTGRES_IMAGE)
        self._password = password

    def stop(self, *, immediate: bool = False) -> None:  # noqa: D102 - see Postgres
        if immediate:
            self._signal(signal.SIGQUIT)
        else:
            super().stop()

    def _configure(self, port: int) -> None:
        self.url = f"postgresql://{POSTGRES_ADMIN}:{self._password}@{self._host}:{port}/postgres"
        self._container.with_env("POSTGRES_PASSWORD", self._password)
        self._container.with_command(postgres_options())
        self._publish(5432, port)

    def _answers(self) -> bool:
        return postgres_answers(self.url)
