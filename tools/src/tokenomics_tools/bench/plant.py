"""What the benchmarks run on: a stack of their own with a simulated company in force."""

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from random import Random
from time import monotonic
from typing import NamedTuple

import psutil
from aiokafka import AIOKafkaConsumer

from tokenomics_chassis.changes import read_positions
from tokenomics_chassis.clock import SystemClock
from tokenomics_chassis.postgres import Schemas, Session, session
from tokenomics_cli.directory import DIRECTORY_TOPIC, apply_directory, read_directory
from tokenomics_cli.kafka import publish
from tokenomics_cli.policy_files import read_policies
from tokenomics_cli.policy_log import POLICY_TOPIC, publish_policies
from tokenomics_contracts.catalogue import topic_of
from tokenomics_contracts.cloudevents import EncodedEvent, encode
from tokenomics_contracts.events.usage import UsageRecorded
from tokenomics_contracts.units import parse_time
from tokenomics_tools.simulator import SOURCE, Simulation, simulate, write_simulation
from tokenomics_tools.stack import ManagedProcess, Source, Stack, StackError, start_stack
from tokenomics_tools.stack.services import QuotaProcesses

USAGE_TOPIC = topic_of(UsageRecorded.type_name).name
SCHEMAS = Schemas("quota", 1)
_STALLED_SECONDS = 60
_STOP_SECONDS = 40
_POLL_SECONDS = 0.02


@dataclass(frozen=True)
class Scale:
    """How much is measured: 1 is full size."""

    factor: float

    @property
    def pairs(self) -> int:
        """How many interleaved pairs."""
        return max(1, round(5 * self.factor))

    def of(self, full: float, *, at_least: float) -> float:
        """Return a size or a time at this scale."""
        return max(at_least, full * self.factor)


class Sample(NamedTuple):
    """How far a projection was at a moment."""

    at_seconds: float
    """Of a monotonic clock."""
    cpu_seconds: float
    """What the projectors have used since they started."""
    projected: int


@dataclass(frozen=True)
class Plant:
    """A stack, a migrated quota database in which the company is in force, and the company's month."""

    stack: Stack
    database_url: str
    simulation: Simulation

    def quota(self, database_url: str | None = None, **variables: str) -> QuotaProcesses:
        """Return quota's processes, none of them started, in a consumer group of their own database."""
        url = database_url or self.database_url
        group = url.rpartition("/")[2]
        return QuotaProcesses(self.stack, url, {"TOKENOMICS_CONSUMER_GROUP": group, **variables})

    def publish_usage(self, events: list[EncodedEvent]) -> None:
        """Write events to the usage topic as tools do."""
        asyncio.run(publish(self.stack.kafka.bootstrap, USAGE_TOPIC, events))

    def project(self, database_url: str, *topics: str, processes: int = 1) -> list[Sample]:
        """Run projectors until everything that the topics hold is projected, and return the way there.

        Raises
        ------
        StackError
            A projector ended, or nothing moved for a minute.
        """
        quota = self.quota(database_url)
        for _ in range(processes):
            quota.start_projector()
        way = asyncio.run(self._follow(database_url, quota, topics))
        stop(*quota.projectors)
        return way

    async def _follow(self, database_url: str, quota: QuotaProcesses, topics: Sequence[str]) -> list[Sample]:
        end = await _records_in(self.stack.kafka.bootstrap, topics)
        way = [Sample(monotonic(), 0, 0)]
        async with session(database_url, SCHEMAS, application_name="bench") as connection:
            while way[-1].projected < end:
                await asyncio.sleep(_POLL_SECONDS)
                for ended in (each for each in quota.projectors if not each.running):
                    raise StackError(f"{ended.name} ended{ended.quote_log()}")
                positions = await read_positions(connection)
                projected = sum(each.next_offset for each in positions if each.topic in topics)
                if projected > way[-1].projected:
                    way.append(Sample(monotonic(), cpu_seconds(*quota.projectors), projected))
                elif monotonic() > way[-1].at_seconds + _STALLED_SECONDS:
                    raise StackError(f"stuck at {projected} of {end}{quota.projectors[0].quote_log()}")
        return way


@contextmanager
def plant(*, events: int) -> Iterator[Plant]:
    """Start a stack and bring directory and policies of a simulated company into force.

    The stack is always the embedded one: value and floor are measured on the very same servers.

    Parameters
    ----------
    events
        How many the company's month has; none is published.
    """
    with planted(simulate(now=SystemClock().now(), events=events)) as made:
        yield made


@contextmanager
def planted(simulation: Simulation) -> Iterator[Plant]:
    """Start a stack as :func:`plant` does, and bring this company into force."""
    with start_stack(Source.EMBEDDED) as stack:
        made = Plant(stack, stack.new_database("quota"), simulation)
        made.quota().migrate()
        asyncio.run(_put_in_force(made))
        made.project(made.database_url, POLICY_TOPIC, DIRECTORY_TOPIC)
        yield made


async def _put_in_force(made: Plant) -> None:
    bootstrap, clock = made.stack.kafka.bootstrap, SystemClock()
    files = write_simulation(made.simulation, made.stack.folder / "company")
    await publish_policies(bootstrap, [each.policy for each in read_policies(files.policies)], clock)
    await apply_directory(bootstrap, read_directory(files.directory), clock)


def usage_events(simulation: Simulation) -> list[EncodedEvent]:
    """Encode the month's usage, oldest first, with all headers that a production record has."""
    random = Random(1)
    events = []
    for number, line in enumerate(simulation.usage):
        fields = dict(line)
        time = parse_time(fields.pop("time"))
        traceparent = f"00-{random.getrandbits(128):032x}-{random.getrandbits(64):016x}-00"
        event = UsageRecorded.model_validate(fields)
        events.append(encode(event, id=f"call-{number}", source=SOURCE, time=time, traceparent=traceparent))
    return events


async def _records_in(bootstrap: str, topics: Sequence[str]) -> int:
    consumer = AIOKafkaConsumer(*topics, bootstrap_servers=bootstrap)
    await consumer.start()
    try:
        return sum((await consumer.end_offsets(consumer.assignment())).values())
    finally:
        await consumer.stop()


def cpu_seconds(*processes: ManagedProcess) -> float:
    """Return what processes have used so far, in user and in kernel mode."""
    times = [psutil.Process(process.pid).cpu_times() for process in processes]
    return sum(each.user + each.system for each in times)


def database_cpu_seconds(connection: Session) -> float:
    """Return what the database server and its backends, those that ended included, have used so far."""
    server = psutil.Process(connection.get_server_pid()).parent()
    assert server is not None
    own = server.cpu_times()
    times = [own, *(backend.cpu_times() for backend in server.children())]
    ended = own.children_user + own.children_system
    return ended + sum(each.user + each.system for each in times)


def stop(*processes: ManagedProcess) -> None:
    """Ask processes to end and wait until they have."""
    for process in processes:
        process.terminate()
    for process in processes:
        process.wait(_STOP_SECONDS)
