"""How a row of an upstream tool's export becomes an event."""

import re
from collections.abc import Mapping
from datetime import datetime
from typing import Any
from zoneinfo import ZoneInfo

from pydantic import ValidationError

from tokenomics_cli.failures import CommandError, Exit
from tokenomics_contracts.cloudevents import EncodedEvent, encode
from tokenomics_contracts.events.base import Event
from tokenomics_contracts.events.policy import problems_of
from tokenomics_contracts.rejection import EventRejected
from tokenomics_contracts.units import parse_time

_ENVELOPE_FIELDS = ("id", "time")
_INTEGER = re.compile(r"-?[0-9]{1,18}")
_BOOLEANS = {"true": True, "false": False}


class RowMapping:
    """Turns the fields of a row into an event of one type and source.

    A row's columns are the event's fields, plus ``time`` and, where the tool has one, ``id``. Text stands for
    an integer or a boolean where the field is one: a CSV file has nothing else. Columns that are no field of
    the event never leave the file.

    Parameters
    ----------
    model
        The event's type.
    source
        CloudEvents source; with the id it is the event's identity.
    columns
        Field by column, for columns that don't bear their field's name.
    constants
        Fields that are the same in every row; they replace the row's.
    time_zone
        IANA name of the zone of times without an offset; None refuses such times.

    Raises
    ------
    CommandError
        When a field isn't one of the event's, or two columns stand for one.
    """

    def __init__(
        self,
        model: type[Event],
        source: str,
        *,
        columns: Mapping[str, str],
        constants: Mapping[str, str],
        time_zone: str | None = None,
    ) -> None:
        self.model = model
        self.source = source
        self._columns = dict(columns)
        self._constants = dict(constants)
        self._time_zone = time_zone
        self._zone = ZoneInfo(time_zone) if time_zone else None
        self._known = {*_ENVELOPE_FIELDS, *model.model_fields}
        targets = [*columns.values(), *constants]
        for name in targets:
            if name not in self._known:
                fields = ", ".join(sorted(self._known))
                raise CommandError(
                    f"{model.type_name} has no field {name}", Exit.USAGE, hint=f"fields: {fields}"
                )
            if targets.count(name) > 1:
                raise CommandError(f"{name} is mapped more than once", Exit.USAGE)
        self._types = {name: _json_types(s) for name, s in model.model_json_schema()["properties"].items()}

    def describe(self) -> dict[str, Any]:
        """Return what tells this mapping from another: rows sent under one aren't done under the other."""
        return {
            "type": self.model.type_name,
            "source": self.source,
            "columns": self._columns,
            "constants": self._constants,
            "time_zone": self._time_zone,
        }

    def unsent(self, fields: Mapping[str, Any]) -> set[str]:
        """Return the columns of a row that are no field of the event."""
        return {column for column in fields if self._columns.get(column, column) not in self._known}

    def event(self, fields: Mapping[str, Any], row_id: str) -> EncodedEvent:
        """Make the event of one row; ``row_id`` identifies a row that brings no id.

        Raises
        ------
        ValueError
            Saying what is wrong with the row, by field.
        """
        named = {column: value for column, value in fields.items() if column not in self._columns}
        named |= {self._columns[column]: fields[column] for column in self._columns if column in fields}
        named |= self._constants
        time = self._time(named.get("time"))
        data = {name: self._typed(name, value) for name, value in named.items() if name in self._types}
        try:
            event = self.model.model_validate(data)
            return encode(event, id=str(named.get("id", row_id)), source=self.source, time=time)
        except ValidationError as error:
            raise ValueError("; ".join(map(str, problems_of(error)))) from None
        except EventRejected as error:
            raise ValueError(error.message) from None

    def _typed(self, name: str, value: Any) -> Any:
        if isinstance(value, str):
            if "integer" in self._types[name] and _INTEGER.fullmatch(value):
                return int(value)
            if "boolean" in self._types[name]:
                return _BOOLEANS.get(value, value)
        return value

    def _time(self, value: object) -> datetime:
        if not isinstance(value, str):
            raise ValueError("time: should be there, as text")  # noqa: TRY004 - a problem of the row
        try:
            if self._zone is not None and (local := datetime.fromisoformat(value)).tzinfo is None:
                return local.replace(tzinfo=self._zone)
            return parse_time(value)
        except ValueError as error:
            hint = "" if self._zone else ", or name the zone of the file's times by --time-zone"
            raise ValueError(f"time: {error}{hint}") from None


def _json_types(schema: Mapping[str, Any]) -> set[str]:
    return {shape.get("type") for shape in schema.get("anyOf", (schema,))}
