"""Whose trouble an error is: a dependency's, which passes, or a record's, which stays."""

import asyncpg
from aiokafka.errors import KafkaError, KafkaTimeoutError

from tokenomics_chassis.postgres import DATA_CLASSES, is_away

_MISSING_STATES = frozenset(
    {
        "28000",  # invalid_authorization_specification
        "28P01",  # invalid_password: also of a role that doesn't exist
        "3D000",  # invalid_catalog_name
        "3F000",  # invalid_schema_name
        "42P01",  # undefined_table
    }
)


def is_dependency_away(error: BaseException) -> bool:
    """Whether PostgreSQL or Kafka could not be reached or was in trouble itself: worth another try later."""
    if isinstance(error, KafkaError):
        return bool(error.retriable) or isinstance(error, KafkaTimeoutError)
    return is_away(error)


def is_database_missing(error: BaseException) -> bool:
    """Whether PostgreSQL answers, but has no such role, database or tables: it was lost or made anew."""
    state = getattr(error, "sqlstate", None) if isinstance(error, asyncpg.PostgresError) else None
    return state in _MISSING_STATES


def may_pass(error: BaseException) -> bool:
    """Whether a caller may be told to try again later: a dependency is away, or has to be set up anew."""
    return is_dependency_away(error) or is_database_missing(error)


def is_about_data(error: Exception) -> bool:
    """Whether single records can be to blame: no dependency's own trouble, no wrong schema or role."""
    if isinstance(error, asyncpg.PostgresError):
        return (getattr(error, "sqlstate", None) or "")[:2] in DATA_CLASSES
    return not (is_away(error) or isinstance(error, KafkaError))
