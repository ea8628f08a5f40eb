"""Settings from ``TOKENOMICS_…`` environment variables: checked at start, printed redacted."""

import re
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Self, TypeVar
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, ValidationError, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

_PREFIX = "TOKENOMICS_"
_PASSWORD_IN_URL = re.compile(r"(?P<user>://[^:/?#@]*):.*@")  # greedy: hides too much rather than too little
_PASSWORD_IN_QUERY = re.compile(r"(?P<name>[?&][^=&]*(?:password|secret|token)[^=&]*)=[^&]*", re.IGNORECASE)


class LogFormat(StrEnum):
    """How a log line looks."""

    JSON = "json"
    TEXT = "text"


class LogLevel(StrEnum):
    """The least severe line that is written."""

    DEBUG = "DEBUG"
    INFO = "INFO"
    WARNING = "WARNING"
    ERROR = "ERROR"


class SettingsError(Exception):
    """The environment does not describe a runnable process; one line for each bad variable."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))


def redact(value: str) -> str:
    """Hide passwords in a URL; what has none comes back unchanged."""
    return _PASSWORD_IN_QUERY.sub(r"\g<name>=***", _PASSWORD_IN_URL.sub(r"\g<user>:***@", value))


def _postgres_url(value: str) -> str:
    if urlsplit(value).scheme not in {"postgresql", "postgres"}:
        raise ValueError("must be a postgresql:// URL")
    return value


def _host_port(value: str) -> str:
    host, _, port = value.rpartition(":")
    if not host or not port.isdecimal() or int(port) > 65535:  # noqa: PLR2004 - the largest TCP port
        raise ValueError(f"must be host:port, got {value!r}")
    return value


def _bootstrap(value: str) -> str:
    for server in value.split(","):
        _host_port(server.strip())
    return value


def _jwks_location(value: str) -> str:
    if "://" in value and urlsplit(value).scheme != "https":
        raise ValueError("must be a file or an https:// URL")
    return value


HostPort = Annotated[str, AfterValidator(_host_port)]


class Settings(BaseSettings):
    """Base of every settings class: one environment variable ``TOKENOMICS_<FIELD>`` a field."""

    model_config = SettingsConfigDict(env_prefix=_PREFIX, frozen=True, extra="ignore", env_ignore_empty=True)

    def describe(self) -> dict[str, str]:
        """Every variable in force, by name, with passwords hidden: safe to print and to log."""
        return {
            f"{_PREFIX}{name.upper()}": redact(str(value))
            for name, value in self.model_dump(mode="json").items()
            if value is not None
        }

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.describe()})"

    __str__ = __repr__


class ServiceSettings(Settings):
    """What every process of every service needs."""

    database_url: Annotated[str, AfterValidator(_postgres_url)]
    """``postgresql://`` URL of the service's own role."""

    kafka_bootstrap: Annotated[str, AfterValidator(_bootstrap)]
    """``host:port`` of the brokers to begin with, comma-separated."""

    consumer_group: str | None = Field(default=None, min_length=1)
    """Kafka consumer groups are named so, with ``_v<version>`` behind it; the service's name when absent."""

    otlp_endpoint: str | None = None
    """OTLP/gRPC collector for traces and metrics; when absent neither leaves the process."""

    log_level: LogLevel = LogLevel.INFO
    log_format: LogFormat | None = None
    """When absent: text on a terminal, JSON otherwise."""

    health_listen: HostPort | None = None
    """Where health is served besides, always in plaintext: to probe a process that serves no gRPC, or whose
    gRPC port wants TLS, which the kubelet's probes don't speak."""

    grace_seconds: int = Field(default=20, ge=1)
    """What tasks have from SIGTERM on. Those cancelled then have two seconds more, closing the pool may take
    two and sending the last telemetry five: together they must stay within Kubernetes'
    ``terminationGracePeriodSeconds``, 30 unless set."""


class RpcSettings(Settings):
    """What a process that serves gRPC needs beside :class:`ServiceSettings`."""

    grpc_listen: HostPort = "127.0.0.1:50051"
    """Port 0 takes a free one."""

    auth_issuer: str = Field(min_length=1)
    """The only ``iss`` accepted."""

    auth_audience: str = Field(min_length=1)
    """The ``aud`` every token must carry."""

    auth_jwks: Annotated[str, AfterValidator(_jwks_location)]
    """JWKS of the issuer: a file, or an ``https://`` URL."""

    auth_callers: Path
    """YAML table of who may call what; who is not in it may call nothing."""

    grpc_tls_certificate: Path | None = None
    grpc_tls_key: Path | None = None
    """PEM files; both or neither. Without them the transport is plaintext."""

    grpc_tls_client_ca: Path | None = None
    """PEM file; when set, clients must show a certificate it signed (mTLS)."""

    grpc_max_message_bytes: int = Field(default=4 * 1024 * 1024, ge=1024)
    grpc_max_connection_age_seconds: int = Field(default=300, ge=1)
    """A connection is closed gracefully at this age, so that clients find new replicas."""

    grpc_default_deadline_seconds: int = Field(default=30, ge=1)
    """Deadline of a unary call whose client set none."""

    grpc_drain_seconds: int = Field(default=10, ge=0)
    """From the start of a stop, calls in flight have this long; part of ``TOKENOMICS_GRACE_SECONDS``."""

    @model_validator(mode="after")
    def _tls_is_whole(self) -> Self:
        if (self.grpc_tls_certificate is None) != (self.grpc_tls_key is None):
            raise ValueError("TOKENOMICS_GRPC_TLS_CERTIFICATE and TOKENOMICS_GRPC_TLS_KEY go together")
        if self.grpc_tls_client_ca and not self.grpc_tls_certificate:
            raise ValueError("TOKENOMICS_GRPC_TLS_CLIENT_CA needs TOKENOMICS_GRPC_TLS_CERTIFICATE")
        return self


S = TypeVar("S", bound=Settings)


def load(settings: type[S], **overrides: Any) -> S:
    """Read settings from the environment.

    Raises
    ------
    SettingsError
        Naming every variable that is missing or wrong, without echoing a password.
    """
    try:
        return settings(**overrides)
    except ValidationError as error:
        raise SettingsError([_problem(detail) for detail in error.errors(include_url=False)]) from None


def _problem(detail: Any) -> str:
    message = str(detail["msg"]).removeprefix("Value error, ")
    if not detail["loc"]:
        return message
    name = f"{_PREFIX}{str(detail['loc'][0]).upper()}"
    if detail["type"] == "missing":
        return f"{name} is not set"
    message = f"{name}: {message[0].lower()}{message[1:]}"
    # What a validator of ours refuses may hold a secret in any form: it says itself what may be shown.
    return message if detail["type"] == "value_error" else f"{message}, got {detail['input']!r}"
