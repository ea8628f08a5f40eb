"""What a broker and a database of the stack can do, wherever they run."""

from abc import ABC, abstractmethod

from tokenomics_tools.stack.disk import SmallDisk


class Component(ABC):
    """A server that can be stopped, killed, paused and started again at the same address.

    Every call returns when the state is reached: a started server answers, a stopped or killed one is gone.
    A source that cannot do one of these raises ``StackError``.
    """

    disk: SmallDisk | None = None
    """Where its data is, when the stack was asked for a small disk."""

    @abstractmethod
    def start(self) -> None:
        """Start it again where it was; nothing happens when it runs."""

    @abstractmethod
    def stop(self) -> None:
        """Shut down in order."""

    @abstractmethod
    def kill(self) -> None:
        """SIGKILL the server with all its processes."""

    @abstractmethod
    def pause(self) -> None:
        """Freeze it: connections stay open, nothing is answered."""

    @abstractmethod
    def resume(self) -> None:
        """Undo ``pause``."""

    def close(self) -> None:  # noqa: B027 - not every source has something to do
        """Shut down for good, so that data that is kept needs no recovery."""

    def restart(self) -> None:
        """Stop and start."""
        self.stop()
        self.start()


class Kafka(Component):
    """A single-node Apache Kafka; topics are made by who owns them, never by first use."""

    bootstrap: str
    """``host:port`` for clients."""


class Postgres(Component):
    """A PostgreSQL server."""

    url: str
    """URL of the administrator, who can make databases and roles; services get ``Stack.new_database``."""

    @abstractmethod
    def stop(self, *, immediate: bool = False) -> None:
        """Shut down in order, ending all sessions; ``immediate`` leaves recovery to the next start."""
