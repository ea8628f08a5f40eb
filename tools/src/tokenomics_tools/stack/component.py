"""What a broker and a database of the stack can do, wherever they run."""

from abc import ABC, abstractmethod
from pathlib import Path

from tokenomics_tools.stack.disk import SmallDisk
from tokenomics_tools.stack.errors import StackError


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

    def lose_data(self) -> None:
        """Delete the data folder under the running server, and start one with an empty folder in its place.

        Address and administrator stay; databases and roles are gone.
        """
        raise StackError(_NO_DATA_FOLDER)

    def copy_data(self, target: Path) -> None:  # noqa: ARG002 - of those that can
        """Stop in order, copy the data folder to ``target``, which must not exist, and start again."""
        raise StackError(_NO_DATA_FOLDER)

    def restore_data(self, copy: Path) -> None:  # noqa: ARG002 - same
        """Kill the server, put a copy of its data folder in the folder's place, and start again."""
        raise StackError(_NO_DATA_FOLDER)


_NO_DATA_FOLDER = "only an embedded stack has its database's data folder at hand, to lose, copy or restore it"
