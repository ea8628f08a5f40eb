"""Broker and database survive what the fault tests of everything else will do to them."""

import asyncio
from collections.abc import Callable

import asyncpg
import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient, NewTopic

from tokenomics_tools.stack import Kafka, Postgres, Stack, StackError
from tokenomics_tools.stack.probes import kafka_answers, postgres_answers

FAULTS: dict[str, Callable[[Kafka | Postgres], None]] = {
    "stop": lambda server: server.stop(),
    "kill": lambda server: server.kill(),
}


async def make_topic(bootstrap: str, name: str) -> None:
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
    await admin.start()
    try:
        topic = NewTopic(name, 2, 1, topic_configs={"message.timestamp.type": "LogAppendTime"})
        await admin.create_topics([topic])
    finally:
        await admin.close()


async def produce(bootstrap: str, topic: str, value: bytes) -> None:
    async with AIOKafkaProducer(bootstrap_servers=bootstrap, enable_idempotence=True) as producer:
        await producer.send_and_wait(topic, value, timestamp_ms=1)


async def read_all(bootstrap: str, topic: str, count: int) -> list[tuple[bytes | None, int]]:
    consumer = AIOKafkaConsumer(topic, bootstrap_servers=bootstrap, auto_offset_reset="earliest")
    async with consumer, asyncio.timeout(30):
        return [
            (record.value, record.timestamp_type) for record in [await anext(consumer) for _ in range(count)]
        ]


@pytest.mark.parametrize("fault", FAULTS)
async def test_broker_keeps_acknowledged_records_at_the_same_address(own_stack: Stack, fault: str) -> None:
    bootstrap, topic = own_stack.kafka.bootstrap, f"kept-after-{fault}"
    await make_topic(bootstrap, topic)
    await produce(bootstrap, topic, b"before")

    FAULTS[fault](own_stack.kafka)
    assert not kafka_answers(bootstrap)
    own_stack.kafka.start()

    assert own_stack.kafka.bootstrap == bootstrap
    await produce(bootstrap, topic, b"after")
    log_append_time = 1
    records = await read_all(bootstrap, topic, 2)
    assert sorted(records) == [(b"after", log_append_time), (b"before", log_append_time)]


def test_a_paused_broker_is_silent_until_it_is_resumed(own_stack: Stack) -> None:
    own_stack.kafka.pause()
    try:
        assert not kafka_answers(own_stack.kafka.bootstrap)
    finally:
        own_stack.kafka.resume()
    own_stack.kafka.start()  # nothing happens: it runs
    assert kafka_answers(own_stack.kafka.bootstrap)


@pytest.mark.parametrize("fault", ["stop", "kill", "immediate"])
async def test_database_keeps_committed_rows_at_the_same_address(own_stack: Stack, fault: str) -> None:
    url = own_stack.new_database("faults")
    connection = await asyncpg.connect(url)
    await connection.execute("CREATE TABLE kept (value text)")
    await connection.execute("INSERT INTO kept VALUES ('committed')")
    await connection.execute("BEGIN")
    await connection.execute("INSERT INTO kept VALUES ('not committed')")

    if fault == "immediate":
        own_stack.postgres.stop(immediate=True)
    else:
        FAULTS[fault](own_stack.postgres)
    assert not postgres_answers(url)
    own_stack.postgres.start()

    connection = await asyncpg.connect(url)
    rows = await connection.fetch("SELECT value FROM kept")
    await connection.close()
    assert [row["value"] for row in rows] == ["committed"]


def test_a_paused_database_is_silent_until_it_is_resumed(own_stack: Stack) -> None:
    url = own_stack.new_database("paused")
    own_stack.postgres.pause()
    try:
        assert not postgres_answers(url)
    finally:
        own_stack.postgres.resume()
    assert postgres_answers(url)


def test_restart_comes_back_at_the_same_address(own_stack: Stack) -> None:
    before = own_stack.describe()
    own_stack.kafka.restart()
    own_stack.postgres.restart()
    assert own_stack.describe() == before
    assert kafka_answers(own_stack.kafka.bootstrap)
    assert postgres_answers(own_stack.postgres.url)


async def test_a_database_role_can_do_nothing_but_own_its_database(own_stack: Stack) -> None:
    one, other = own_stack.new_database("one"), own_stack.new_database("one")
    assert one != other
    connection = await asyncpg.connect(one)
    try:
        await connection.execute("CREATE SCHEMA quota")
        for forbidden in (
            "CREATE ROLE intruder",
            "CREATE DATABASE loot",
            "COPY (SELECT 1) TO PROGRAM 'true'",
        ):
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await connection.execute(forbidden)
    finally:
        await connection.close()
    foreign_database = one.rpartition("/")[0] + "/" + other.rpartition("/")[2]
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await asyncpg.connect(foreign_database)
    wrong_password = other.replace(other.split(":")[2].split("@")[0], "guessed")
    with pytest.raises(asyncpg.InvalidPasswordError):
        await asyncpg.connect(wrong_password)


@pytest.mark.parametrize("name", ["", "Upper", "1st", "a;drop", "x" * 41])
def test_a_database_name_that_would_need_quoting_is_refused(own_stack: Stack, name: str) -> None:
    with pytest.raises(StackError, match="no name for a database"):
        own_stack.new_database(name)
