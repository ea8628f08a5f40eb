"""What broker and database are told wherever they run."""

from tokenomics_tools.stack.jars import KAFKA_VERSION

KAFKA_IMAGE = f"apache/kafka:{KAFKA_VERSION}"
KAFKA_HEAP = ("-Xms128m", "-Xmx384m")
KAFKA_SETTINGS: dict[str, str | int] = {
    "process.roles": "broker,controller",
    "node.id": 1,
    "controller.listener.names": "CONTROLLER",
    "auto.create.topics.enable": "false",
    "default.replication.factor": 1,
    "min.insync.replicas": 1,
    "offsets.topic.replication.factor": 1,
    "offsets.topic.num.partitions": 4,
    "transaction.state.log.replication.factor": 1,
    "transaction.state.log.min.isr": 1,
    "transaction.state.log.num.partitions": 4,
    "share.coordinator.state.topic.replication.factor": 1,
    "share.coordinator.state.topic.min.isr": 1,
    "share.coordinator.state.topic.num.partitions": 4,
    "group.initial.rebalance.delay.ms": 0,
    "group.min.session.timeout.ms": 1000,  # fault tests let sessions expire quickly
    "broker.heartbeat.interval.ms": 500,
    "broker.session.timeout.ms": 1500,  # after SIGKILL a start waits for the old registration to lapse
    # Many topics in a small heap: the cleaner alone would take 128 MiB, each index file 10.
    "log.cleaner.dedupe.buffer.size": 8 * 1024 * 1024,
    "log.cleaner.backoff.ms": 1000,  # tests wait for compaction
    "log.index.size.max.bytes": 1024 * 1024,
}

POSTGRES_IMAGE = "postgres:18"
POSTGRES_ADMIN = "postgres"
POSTGRES_SETTINGS: dict[str, str | int] = {
    "fsync": "on",
    "synchronous_commit": "on",
    "max_connections": 200,
    "shared_buffers": "256MB",
    "max_wal_size": "2GB",
    "jit": "off",
    "log_line_prefix": "%m [%p] %q%u@%d ",
    "log_lock_waits": "on",
}


def kafka_environment() -> dict[str, str]:
    """Return Kafka's settings as the official image takes them: from the environment."""
    settings = {
        f"KAFKA_{name.replace('.', '_').upper()}": str(value) for name, value in KAFKA_SETTINGS.items()
    }
    return {**settings, "KAFKA_HEAP_OPTS": " ".join(KAFKA_HEAP)}


def postgres_options() -> list[str]:
    """Return PostgreSQL's settings as options of its command."""
    return [f"--{name}={value}" for name, value in POSTGRES_SETTINGS.items()]
