"""What an error means: a dependency's trouble, or the records'."""

import asyncpg
import pytest
from aiokafka.errors import KafkaConnectionError, KafkaError, KafkaTimeoutError, UnrecognizedBrokerVersion

from tokenomics_chassis.dependencies import is_about_data, is_database_missing, is_dependency_away
from tokenomics_chassis.postgres import is_away

AWAY = [
    asyncpg.CannotConnectNowError("starting up"),
    asyncpg.AdminShutdownError("terminating"),
    asyncpg.CrashShutdownError("crash"),
    asyncpg.ConnectionDoesNotExistError("connection was closed in the middle of operation"),
    asyncpg.TooManyConnectionsError("too many"),
    asyncpg.DiskFullError("disk full"),
    asyncpg.QueryCanceledError("statement timeout"),
    asyncpg.ReadOnlySQLTransactionError("standby"),
    asyncpg.IdleInTransactionSessionTimeoutError("paused"),
    asyncpg.SerializationError("race"),
    asyncpg.DeadlockDetectedError("race"),
    asyncpg.InterfaceError("connection is closed"),
    ConnectionResetError("reset"),
    TimeoutError("no answer"),
]
BROKER_AWAY = [KafkaConnectionError("no broker"), KafkaTimeoutError("no answer")]
ABOUT_DATA = [
    asyncpg.UniqueViolationError("twice"),
    asyncpg.CheckViolationError("too large"),
    asyncpg.NumericValueOutOfRangeError("overflow"),
    asyncpg.CharacterNotInRepertoireError("NUL"),
    asyncpg.CardinalityViolationError("row affected twice"),
    asyncpg.ProgramLimitExceededError("index row too large"),
    asyncpg.RaiseError("trigger"),
    asyncpg.DataError("invalid input for query argument"),
    ValueError("a bug"),
    AssertionError(),
]
MISSING = [
    asyncpg.InvalidPasswordError("no such role"),
    asyncpg.InvalidCatalogNameError("no such database"),
    asyncpg.UndefinedTableError("no such table"),
]
NEITHER = [
    *MISSING,
    asyncpg.InsufficientPrivilegeError("wrong role"),
    asyncpg.PostgresSyntaxError("a bug no record can be blamed for"),
]


@pytest.mark.parametrize("error", AWAY, ids=repr)
def test_the_servers_own_trouble_is_retried_and_never_parked(error: Exception) -> None:
    assert is_away(error)
    assert not is_about_data(error)


@pytest.mark.parametrize("error", [*AWAY, *BROKER_AWAY], ids=repr)
def test_a_dependencys_trouble_is_retried_and_never_parked(error: Exception) -> None:
    assert is_dependency_away(error)
    assert not is_about_data(error)


@pytest.mark.parametrize("error", [KafkaError("odd"), UnrecognizedBrokerVersion()], ids=repr)
def test_a_brokers_lasting_refusal_ends_the_process_and_parks_nothing(error: Exception) -> None:
    assert not is_dependency_away(error)
    assert not is_about_data(error)


@pytest.mark.parametrize("error", ABOUT_DATA, ids=repr)
def test_what_single_records_can_cause_is_bisected(error: Exception) -> None:
    assert is_about_data(error)
    assert not is_away(error)


@pytest.mark.parametrize("error", NEITHER, ids=repr)
def test_a_wrong_schema_or_role_ends_the_process(error: Exception) -> None:
    assert not is_away(error)
    assert not is_about_data(error)


def test_only_a_lost_database_is_taken_for_one() -> None:
    assert all(is_database_missing(error) for error in MISSING)
    assert not any(is_database_missing(error) for error in [*AWAY, *ABOUT_DATA, *BROKER_AWAY])
