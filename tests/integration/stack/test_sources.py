"""The other sources: servers that somebody else runs, and containers that cannot be had."""

from pathlib import Path
from typing import Any
from unittest.mock import MagicMock
from urllib.parse import urlsplit

import pytest

from tokenomics_tools.stack import Stack, StackError, containers, start_stack
from tokenomics_tools.stack.external import KAFKA_VARIABLE, POSTGRES_VARIABLE
from tokenomics_tools.stack.probes import execute, postgres_answers


@pytest.fixture
def addresses(own_stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(KAFKA_VARIABLE, own_stack.kafka.bootstrap)
    monkeypatch.setenv(POSTGRES_VARIABLE, own_stack.postgres.url)


@pytest.mark.usefixtures("addresses")
def test_external_servers_are_used_and_left_as_they_were(own_stack: Stack) -> None:
    with start_stack("external") as stack:
        assert stack.kafka.bootstrap == own_stack.kafka.bootstrap
        url = stack.new_database("guest")
        execute(url, "CREATE TABLE things (id int)")
        for server in (stack.kafka, stack.postgres):
            for fault in (server.stop, server.kill, server.pause, server.resume):
                with pytest.raises(StackError, match="does not own its servers"):
                    fault()
    assert not postgres_answers(url)
    assert postgres_answers(own_stack.postgres.url)


@pytest.mark.usefixtures("addresses")
def test_an_administrator_who_is_no_superuser_suffices(
    own_stack: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    execute(own_stack.postgres.url, "CREATE ROLE clerk LOGIN CREATEDB CREATEROLE PASSWORD 'clerk'")
    server = urlsplit(own_stack.postgres.url)
    monkeypatch.setenv(
        POSTGRES_VARIABLE, f"postgresql://clerk:clerk@{server.hostname}:{server.port}/postgres"
    )
    with start_stack("external") as stack:
        url = stack.new_database("guest")
        assert postgres_answers(url)
    assert not postgres_answers(url)


@pytest.mark.usefixtures("addresses")
def test_a_database_that_outlived_the_secret_is_explained(tmp_path: Path) -> None:
    with start_stack("external", tmp_path) as stack:
        stack.new_database("kept", reuse=True)
    with start_stack("external", tmp_path) as stack:
        assert postgres_answers(stack.new_database("kept", reuse=True))
    (tmp_path / "secret").unlink()
    with start_stack("external", tmp_path) as stack, pytest.raises(StackError, match=r"role kept .*/secret"):
        stack.new_database("kept", reuse=True)


@pytest.mark.parametrize(
    ("variable", "value", "complaint"),
    [
        (KAFKA_VARIABLE, "127.0.0.1:1", "no Kafka broker answers at 127.0.0.1:1"),
        (
            POSTGRES_VARIABLE,
            "postgresql://a:secret@127.0.0.1:1/a",
            "PostgreSQL does not answer at the address in",
        ),
        (KAFKA_VARIABLE, "", f"{KAFKA_VARIABLE} is not set"),
    ],
)
@pytest.mark.usefixtures("addresses")
def test_an_address_at_which_nobody_answers_is_named(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str, complaint: str
) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(StackError, match=complaint) as failure, start_stack("external"):
        pass
    assert "secret" not in str(failure.value)


def test_without_an_engine_there_are_no_containers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_HOST", "tcp://127.0.0.1:1")
    with (
        pytest.raises(StackError, match="no containers can be had here: DockerException"),
        start_stack("containers"),
    ):
        pass


@pytest.mark.parametrize(
    ("engine", "address", "published"),
    [("localhost", "127.0.0.1:20000", ("127.0.0.1", 20000)), ("docker.host", "docker.host:20000", 20000)],
)
def test_servers_in_an_engine_of_this_machine_are_open_to_this_machine_only(
    monkeypatch: pytest.MonkeyPatch, engine: str, address: str, published: object
) -> None:
    container: Any = MagicMock(ports={})
    container.get_docker_client().host.return_value = engine
    monkeypatch.setattr(containers, "DockerContainer", lambda _image: container)
    kafka, postgres = containers.ContainerKafka(), containers.ContainerPostgres("secret")
    for server in (kafka, postgres):
        server._configure(20000)
    assert container.ports == {"20000": published, "5432": published}
    assert kafka.bootstrap == address
    assert postgres.url.endswith(f"@{address}/postgres")


def test_an_unknown_source_is_refused_with_the_known_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOKENOMICS_STACK", "cloud")
    with (
        pytest.raises(StackError, match=r"'cloud' is no source .* embedded, containers, external"),
        start_stack(),
    ):
        pass
