"""The local stack: Kafka, PostgreSQL and an issuer of identities, one API with three sources."""

from tokenomics_tools.stack.api import Source, Stack, start_stack
from tokenomics_tools.stack.component import Component, Kafka, Postgres
from tokenomics_tools.stack.disk import SmallDisk
from tokenomics_tools.stack.errors import StackError
from tokenomics_tools.stack.issuer import AUDIENCE, GATEWAY, GOVERNANCE, ISSUER, OPERATOR, PORTAL, Issuer
from tokenomics_tools.stack.processes import ManagedProcess, keep_logs

__all__ = [
    "AUDIENCE",
    "GATEWAY",
    "GOVERNANCE",
    "ISSUER",
    "OPERATOR",
    "PORTAL",
    "Component",
    "Issuer",
    "Kafka",
    "ManagedProcess",
    "Postgres",
    "SmallDisk",
    "Source",
    "Stack",
    "StackError",
    "keep_logs",
    "start_stack",
]
