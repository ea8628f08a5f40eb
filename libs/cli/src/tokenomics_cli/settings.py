"""What the commands need from the environment."""

from pathlib import Path
from typing import TypeVar

from pydantic import Field, SecretStr

from tokenomics_chassis.settings import HostPort, Settings, SettingsError, load
from tokenomics_cli.failures import CommandError, Exit

S = TypeVar("S", bound=Settings)


class KafkaSettings(Settings):
    """For commands that write or read events."""

    kafka_bootstrap: str = Field(min_length=1)
    """``host:port`` of the brokers to begin with, comma-separated."""


class ServiceSettings(Settings):
    """For commands that call a service."""

    quota_address: HostPort
    """``host:port`` of quota's gRPC server."""

    quota_tls_ca: Path | None = None
    """PEM file with the authority of the server's certificate. Without it the transport is plaintext, which
    only a loopback address is allowed."""

    token: SecretStr | None = None
    """Bearer token of the caller."""

    token_file: Path | None = None
    """File that holds the token, read at each call; a token in ``TOKENOMICS_TOKEN`` goes first."""

    rpc_timeout_seconds: float = Field(default=10, gt=0)
    """Deadline of each call."""


def settings_of(settings: type[S]) -> S:
    """Read settings from the environment.

    Raises
    ------
    CommandError
        Naming every variable that is missing or wrong.
    """
    try:
        return load(settings)
    except SettingsError as error:
        raise CommandError(
            str(error),
            Exit.USAGE,
            hint="`make up` prints the addresses of the local stack as variables to export",
        ) from None
