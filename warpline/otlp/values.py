"""OTLP attribute values as JSON text, lossless: every value keeps its type, and can be asked for in SQL.

A text is a JSON string, a whole number a JSON number without, a floating-point number one with a point or an exponent, so
`attributes->>'gen_ai.operation.name'` reads as one expects. What JSON cannot tell stands in an object of one key that
begins with `$`: `{"$bytes": "<base64>"}`, `{"$double": "NaN"}`, `{"$strindex": 3}`; a key of the sender's own that begins
with `$` has it doubled. A value that was not given is null. Keys keep their order, also where one stands twice.
"""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Callable, Iterable
from json.encoder import encode_basestring
from typing import Any

from warpline.errors import SchemaError
from warpline.otlp.content import is_content

quote: Callable[[str], str] = encode_basestring
"""Returns a text as a JSON string."""

Typed = str | bool | int | float | bytes | None | list["Typed"] | list[tuple[str, "Typed"]]


class Redaction:
    """Decides which keys are dropped as content of prompts and completions, and counts what was."""

    def __init__(self, keep: bool = False) -> None:
        """Drop content unless `keep`; credentials are dropped always."""
        self.keep = keep
        self.count = 0

    def drops(self, key: str) -> bool:
        """Say whether the value at `key` must go; a yes counts as one redacted value."""
        if not is_content(key, self.keep):
            return False
        self.count += 1
        return True


def key_text(pair: Any) -> str:
    """Return a KeyValue's key as it is written in JSON, without quotes."""
    if pair.key_strindex and not pair.key:
        return f"$strindex:{pair.key_strindex}"
    key: str = pair.key
    return "$" + key if key.startswith("$") else key


def attributes_text(pairs: Iterable[Any], redaction: Redaction) -> str | None:
    """Return KeyValues as the text of one JSON object, None where nothing is left of them."""
    parts = [f"{quote(key_text(p))}:{value_text(p.value, redaction)}" for p in pairs if not redaction.drops(p.key)]
    return "{" + ",".join(parts) + "}" if parts else None


def value_text(value: Any, redaction: Redaction) -> str:
    """Return an AnyValue as JSON text."""
    kind = value.WhichOneof("value")
    if kind is None:
        return "null"
    if kind == "array_value":
        return "[" + ",".join([value_text(each, redaction) for each in value.array_value.values]) + "]"
    if kind == "kvlist_value":
        return attributes_text(value.kvlist_value.values, redaction) or "{}"
    return _SCALARS[kind](getattr(value, kind))


def double_text(number: float) -> str:
    """Return a floating-point number as JSON text that reads back as the same number and as no whole one."""
    if math.isfinite(number):
        return repr(number)
    return '{"$double":"%s"}' % ("NaN" if math.isnan(number) else "Infinity" if number > 0 else "-Infinity")


_SCALARS: dict[str, Callable[[Any], str]] = {
    "string_value": quote,
    "int_value": str,
    "double_value": double_text,
    "bool_value": lambda truth: "true" if truth else "false",
    "bytes_value": lambda raw: f'{{"$bytes":"{base64.b64encode(raw).decode()}"}}',
    "string_value_strindex": lambda index: f'{{"$strindex":{index}}}',
}


def read_attributes(text: str | None) -> list[tuple[str, Typed]]:
    """Return the attributes that `attributes_text` wrote, in order, each value with its type (kvlists as pairs).

    Raises SchemaError for any other text.
    """
    if text is None:
        return []
    found = _restored(json.loads(text, object_pairs_hook=_Pairs))
    if not isinstance(found, list):
        raise SchemaError(f"attributes {text[:40]!r}: not a JSON object; give what attributes_text wrote")
    return found  # type: ignore[return-value]  # an object becomes a list of pairs


class _Pairs(list[tuple[str, Any]]):
    """A JSON object, read in order."""


def _restored(value: Any) -> Typed:
    if not isinstance(value, _Pairs):
        return [_restored(each) for each in value] if isinstance(value, list) else value
    if len(value) == 1:
        key, inner = value[0]
        if key == "$bytes":
            return base64.b64decode(inner)
        if key == "$double":
            return float(inner)
        if key == "$strindex":
            return [("$strindex", inner)]
    return [(key[1:] if key.startswith("$$") else key, _restored(inner)) for key, inner in value]
