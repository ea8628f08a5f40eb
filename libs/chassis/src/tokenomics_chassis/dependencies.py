"""Whose trouble an error is: a dependency's, which passes, or a record's, which stays."""

import asyncpg
from aiokafka.errors import KafkaError, KafkaTimeoutError

from tokenomics_chassis.postgres import DATA_CLASSES, is_away


def is_dependency_away(error: BaseException) -> bool:
    """Whether PostgreSQL or Kafka could not be reached or was in trouble itself: worth another try later."""
    if isinstance(error, KafkaError):
        return bool(error.retriable) or isinstance(error, KafkaTimeoutError)
    return is_away(error)


def is_about_data(error: Exception) -> bool:
    """Whether single records can be to blame: no dependency's own trouble, no wrong schema or role."""
    if isinstance(error, asyncpg.PostgresError):
        return (getattr(error, "sqlstate", None) or "")[:2] in DATA_CLASSES
    return not (is_away(error) or isinstance(error, KafkaError))
