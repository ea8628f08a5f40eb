"""Compose describes the same servers as the stack's other sources."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from tokenomics_tools.stack import servers

COMPOSE = Path(__file__).parents[3] / "deploy" / "compose.yaml"


@pytest.fixture(scope="module")
def services() -> dict[str, Any]:
    described: dict[str, Any] = yaml.safe_load(COMPOSE.read_text())["services"]
    return described


def test_kafka_in_compose_is_the_kafka_of_the_stack(services: dict[str, Any]) -> None:
    kafka = services["kafka"]
    assert kafka["image"] == servers.KAFKA_IMAGE
    assert servers.kafka_environment().items() <= kafka["environment"].items()


def test_postgres_in_compose_is_the_postgres_of_the_stack(services: dict[str, Any]) -> None:
    postgres = services["postgres"]
    assert postgres["image"] == servers.POSTGRES_IMAGE
    assert postgres["command"] == servers.postgres_options()


def test_nothing_in_compose_listens_beyond_loopback(services: dict[str, Any]) -> None:
    ports = [port for service in services.values() for port in service["ports"]]
    assert len(ports) == 2
    assert all(port.startswith("127.0.0.1:") for port in ports)
