"""OTLP/JSON → the protobuf message that it stands for.

OTLP's own rules, which are not protobuf's JSON mapping: trace and span ids in hex, enums as whole numbers, names in
lowerCamelCase only, unknown names ignored, 64-bit numbers as texts or numbers (OTLP specification, "JSON Protobuf
Encoding"). What Tempo and Jaeger write looks alike, with ids in base64 and enums by name: it is refused by that name.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from functools import cache
from typing import Any

from google.protobuf.descriptor import Descriptor, FieldDescriptor

from warpline.otlp.records import Malformed

MAX_DEPTH = 100
"""Deepest nesting of objects: what protobuf's own parser allows."""

_IDS = {"trace_id": 16, "span_id": 8, "parent_span_id": 8}
_INTEGERS = {
    FieldDescriptor.TYPE_INT32: (-(1 << 31), 1 << 31),
    FieldDescriptor.TYPE_SINT32: (-(1 << 31), 1 << 31),
    FieldDescriptor.TYPE_ENUM: (-(1 << 31), 1 << 31),
    FieldDescriptor.TYPE_UINT32: (0, 1 << 32),
    FieldDescriptor.TYPE_FIXED32: (0, 1 << 32),
    FieldDescriptor.TYPE_INT64: (-(1 << 63), 1 << 63),
    FieldDescriptor.TYPE_SFIXED64: (-(1 << 63), 1 << 63),
    FieldDescriptor.TYPE_UINT64: (0, 1 << 64),
    FieldDescriptor.TYPE_FIXED64: (0, 1 << 64),
}
_ENUM_HINT = "OTLP/JSON writes enums as numbers"
_HEX = re.compile("[0-9a-fA-F]*")
_NON_FINITE = {"NaN", "Infinity", "-Infinity"}


def read(body: bytes, kind: type[Any]) -> Any:
    """Return the message of class `kind` that OTLP/JSON `body` stands for; raise Malformed, naming the field."""
    try:
        tree = json.loads(body, parse_constant=_no_constant)
    except RecursionError:
        raise Malformed(f"body is nested deeper than {MAX_DEPTH}; flatten it") from None
    except ValueError as error:
        raise Malformed(f"body is not JSON: {str(error)[:200]}; send OTLP/JSON") from None
    if not isinstance(tree, dict):
        raise Malformed(f"body is a JSON {type(tree).__name__}; send an object")
    if "batches" in tree:
        raise Malformed("body has `batches`, which is Tempo's form of a trace; send OTLP/JSON with `resourceSpans`")
    message = kind()
    _fill(message, tree, "", 0)
    return message


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON; write it as a text")


@cache
def _fields(descriptor: Descriptor) -> dict[str, FieldDescriptor]:
    return {field.json_name: field for field in descriptor.fields}


def _fill(message: Any, tree: dict[str, Any], path: str, depth: int) -> None:
    if depth > MAX_DEPTH:
        raise Malformed(f"{path[:60]}…: nested deeper than {MAX_DEPTH}; flatten it")
    fields = _fields(message.DESCRIPTOR)
    for name, value in tree.items():
        field = fields.get(name)
        if field is None or value is None:
            continue
        here = f"{path}.{name}" if path else name
        if field.is_repeated:
            _extend(message, field, value, here, depth)
        elif field.message_type is not None:
            if not isinstance(value, dict):
                raise Malformed(f"{here}: is {_shown(value)}; give an object")
            child = getattr(message, field.name)
            child.SetInParent()
            _fill(child, value, here, depth + 1)
        else:
            setattr(message, field.name, _scalar(field, value, here))


def _extend(message: Any, field: FieldDescriptor, values: Any, path: str, depth: int) -> None:
    if not isinstance(values, list):
        raise Malformed(f"{path}: is {_shown(values)}; give an array")
    target = getattr(message, field.name)
    if field.message_type is None:
        target.extend([_scalar(field, value, path) for value in values])
        return
    for value in values:
        if not isinstance(value, dict):
            raise Malformed(f"{path}: holds {_shown(value)}; give objects")
        _fill(target.add(), value, path, depth + 1)


def _scalar(field: FieldDescriptor, value: Any, path: str) -> Any:
    if field.type in _INTEGERS:
        return _integer(field, value, path)
    if field.type == FieldDescriptor.TYPE_STRING and isinstance(value, str):
        return _text(value, path)
    if field.type == FieldDescriptor.TYPE_BOOL and isinstance(value, bool):
        return value
    if field.type == FieldDescriptor.TYPE_DOUBLE:
        return _double(value, path)
    if field.type == FieldDescriptor.TYPE_BYTES and isinstance(value, str):
        return _identity(value, _IDS[field.name], path) if field.name in _IDS else _bytes(value, path)
    raise Malformed(f"{path}: is {_shown(value)}; give the type that OTLP/JSON has there")


def _integer(field: FieldDescriptor, value: Any, path: str) -> int:
    found = value
    if isinstance(value, str) and len(value) < 40 and field.type != FieldDescriptor.TYPE_ENUM:
        try:
            found = int(value)
        except ValueError:
            found = None
    elif isinstance(value, float) and value.is_integer():
        found = int(value)
    low, end = _INTEGERS[field.type]
    if not isinstance(found, int) or isinstance(found, bool) or not low <= found < end:
        hint = _ENUM_HINT if field.type == FieldDescriptor.TYPE_ENUM else "give a whole number in range"
        raise Malformed(f"{path}: is {_shown(value)}; {hint}")
    return found


def _double(value: Any, path: str) -> float:
    if isinstance(value, int | float) and not isinstance(value, bool):
        try:
            return float(value)
        except OverflowError:
            pass
    if isinstance(value, str):
        try:
            if value in _NON_FINITE or all(c in "+-.0123456789eE" for c in value):
                return float(value)
        except ValueError:
            pass
    raise Malformed(f"{path}: is {_shown(value)}; give a number")


def _text(value: str, path: str) -> str:
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError:
            raise Malformed(f"{path}: holds half of a surrogate pair; send whole characters") from None
    return value


def _identity(value: str, size: int, path: str) -> bytes:
    if len(value) in (24, 12) and value.endswith("="):
        raise Malformed(f"{path}: {value!r} is base64, as Tempo and Jaeger write ids; OTLP/JSON has them in hex")
    if len(value) % 2 or not _HEX.fullmatch(value):
        raise Malformed(f"{path}: is {_shown(value)}; give {2 * size} hex digits")
    return bytes.fromhex(value)


def _bytes(value: str, path: str) -> bytes:
    plain = value.replace("-", "+").replace("_", "/")
    try:
        return base64.b64decode(plain + "=" * (-len(plain) % 4), validate=True)
    except (binascii.Error, ValueError):
        raise Malformed(f"{path}: is {_shown(value)}; give base64") from None


def _shown(value: Any) -> str:
    shown = repr(value) if not isinstance(value, dict | list) else f"a JSON {type(value).__name__}"
    return shown if len(shown) <= 60 else shown[:57] + "…"
