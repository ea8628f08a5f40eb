"""JSON objects in messages: ``google.protobuf.Struct``, whose numbers are doubles."""

from typing import Any

from google.protobuf.json_format import ParseDict
from google.protobuf.struct_pb2 import Struct, Value


def to_struct(document: dict[str, Any]) -> Struct:
    """Write a JSON object; integers stay exact up to 2^53."""
    return ParseDict(document, Struct())


def from_struct(struct: Struct) -> dict[str, Any]:
    """Read a JSON object; whole numbers come as integers, and the order of its members is lost."""
    return {name: _from_value(value) for name, value in struct.fields.items()}


def _from_value(value: Value) -> Any:
    match value.WhichOneof("kind"):
        case "struct_value":
            return from_struct(value.struct_value)
        case "list_value":
            return [_from_value(each) for each in value.list_value.values]
        case "number_value":
            return int(value.number_value) if value.number_value.is_integer() else value.number_value
        case "string_value":
            return value.string_value
        case "bool_value":
            return value.bool_value
    return None
