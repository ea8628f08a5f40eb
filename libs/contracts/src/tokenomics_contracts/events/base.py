"""What every event model shares."""

from typing import ClassVar

from pydantic import BaseModel, ConfigDict


class Value(BaseModel):
    """An immutable part of an event. Unknown fields are ignored: a writer may be newer than its reader."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    named_by: ClassVar[tuple[str, ...]] = ()
    """Fields whose values tell it from its neighbours in a list; empty where only its place does."""


class Event(Value):
    """The data of one CloudEvent."""

    type_name: ClassVar[str]
    """CloudEvents type with its version. A change that breaks readers needs a new one and an upcaster."""

    key_field: ClassVar[str]
    """The field whose value is the Kafka key: events with one key keep their order."""

    @property
    def key(self) -> str:
        """The Kafka key; always a pseudonymous id."""
        key: str = getattr(self, self.key_field)
        return key
