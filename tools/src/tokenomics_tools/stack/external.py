"""Servers that somebody else runs, by their addresses in the environment."""

import os
from typing import NoReturn

from tokenomics_tools.stack.component import Component, Kafka, Postgres
from tokenomics_tools.stack.errors import StackError
from tokenomics_tools.stack.probes import kafka_answers, postgres_answers

KAFKA_VARIABLE = "TOKENOMICS_KAFKA_BOOTSTRAP"
POSTGRES_VARIABLE = "TOKENOMICS_POSTGRES_ADMIN_URL"


class _External(Component):
    """Can be used but not touched."""

    def stop(self) -> None:
        self._refuse()

    def kill(self) -> None:
        self._refuse()

    def pause(self) -> None:
        self._refuse()

    def resume(self) -> None:
        self._refuse()

    def _refuse(self) -> NoReturn:
        raise StackError("this stack does not own its servers: it cannot stop, kill or pause them")


class ExternalKafka(_External, Kafka):
    """A broker at ``TOKENOMICS_KAFKA_BOOTSTRAP``."""

    def start(self) -> None:  # noqa: D102 - see Component
        self.bootstrap = _required(KAFKA_VARIABLE)
        if not any(map(kafka_answers, self.bootstrap.split(","))):
            raise StackError(f"no Kafka broker answers at {self.bootstrap} ({KAFKA_VARIABLE})")


class ExternalPostgres(_External, Postgres):
    """A server at ``TOKENOMICS_POSTGRES_ADMIN_URL``, whose role may make databases and roles."""

    def start(self) -> None:  # noqa: D102 - see Component
        self.url = _required(POSTGRES_VARIABLE)
        if not postgres_answers(self.url):
            raise StackError(f"PostgreSQL does not answer at the address in {POSTGRES_VARIABLE}")

    def stop(self, *, immediate: bool = False) -> None:  # noqa: D102 - see Postgres
        del immediate
        self._refuse()


def _required(variable: str) -> str:
    if value := os.environ.get(variable):
        return value
    raise StackError(
        f"{variable} is not set; the external stack needs {KAFKA_VARIABLE} and {POSTGRES_VARIABLE}"
    )
