"""The other sources: servers that somebody else runs, and containers that cannot be had."""

from urllib.parse import urlsplit

import pytest

from tokenomics_tools.stack import Stack, StackError, start_stack
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


def test_an_unknown_source_is_refused_with_the_known_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOKENOMICS_STACK", "cloud")
    with (
        pytest.raises(StackError, match=r"'cloud' is no source .* embedded, containers, external"),
        start_stack(),
    ):
        pass
