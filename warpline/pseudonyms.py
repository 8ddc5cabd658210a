"""Pseudonyms for the names of a cluster's things: the same one for the same name throughout, by a key that is thrown away.

Columns that name things are renamed as they come. In what people and programs wrote ("Successfully assigned ml/engine-1 to
node-7", attributes of spans) names are replaced once all of them are known. What tells more than names (command lines,
labels, cgroups) is left out. Addresses and uids stay: rows are joined by them, and they say nothing outside their cluster.
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import json
import re
import secrets
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa

from warpline import sample
from warpline.schema import Column, Table, Type

_NAMES = frozenset(
    {
        *("node", "other_node", "pod", "namespace", "container", "service", "process_uid", "parent_uid", "proxy"),
        *("source_pod", "source_namespace", "destination_pod", "destination_namespace", "destination_service"),
        *("object", "revision", "owner_name", "upstream_cluster", "host", "authority", "target"),
    }
)
"""Columns that name things of the cluster."""
_UIDS = ("process_uid", "parent_uid")
"""Of these only what is before the first colon is a name: the node's."""
_PLACES = ("host", "authority", "target")
"""A host's name or address, with a port or a path behind it; or the kind of an object, and its name behind it."""
_LEFT_OUT = {"process": ("arguments", "cgroup_path"), "pod": ("labels", "engine_arguments")}
_WRITTEN = frozenset(
    {"message", "reason", "body", "status_message", "annotation", "reporter", "route", "upstream_address"}
)
"""Columns, beside those of JSON, in which names may stand among other words."""
_SHORTEST = 3
"""A name of one or two letters is not looked for in texts: it would be found everywhere."""
Change = Callable[[str], str]


class Pseudonyms:
    """The pseudonyms of one bundle."""

    def __init__(self) -> None:
        """Choose a key that nobody keeps."""
        self._key = secrets.token_bytes(16)
        self._known: dict[str, str] = {}

    def of(self, name: str) -> str:
        """Return the pseudonym of a name; parts between slashes (namespace/pod) have one each."""
        if "/" in name:
            return "/".join(self.of(part) for part in name.split("/"))
        if name and name not in self._known:
            self._known[name] = hmac.new(self._key, name.encode(), hashlib.sha256).hexdigest()[:10]
        return self._known.get(name, "")

    def renamed(self, table: Table, rows: pa.Table) -> pa.Table:
        """Return rows of `table` whose columns of names hold pseudonyms, without what is left out."""
        left_out = _LEFT_OUT.get(table.name, ())
        columns = {c.name: None if c.name in left_out else self._renamed(c, rows[c.name]) for c in table.columns}
        return pa.Table.from_batches([table.batch(columns, rows.num_rows)])

    def _renamed(self, column: Column, values: pa.ChunkedArray) -> pa.Array | pa.ChunkedArray:
        if column.name not in _NAMES:
            return values
        if column.name in _UIDS:
            return _changed(values, lambda word: self.of(word.partition(":")[0]) + "".join(word.partition(":")[1:]))
        if column.name == "revision":
            return _changed(values, self._revision)
        return _changed(values, self._place if column.name in _PLACES else self.of)

    def _revision(self, word: str) -> str:
        return word if word.isdigit() else self.of(word)  # KServe's are numbers, and numbers stand in texts for much.

    def _place(self, word: str) -> str:
        if scaled := re.fullmatch(r"([A-Z][A-Za-z]*/)(.+)", word):
            return scaled[1] + self.of(scaled[2])
        found = re.fullmatch(r"(\[[^\]]*\]|[^:/]*)(.*)", word, re.DOTALL)
        if found is None or _is_address(found[1]):
            return word
        return self.of(found[1]) + found[2]

    def tell(self, directory: Path, tables: list[Table]) -> None:
        """Replace in the texts of a sample trace's tables every name that was renamed so far."""
        names = sorted((name for name in self._known if len(name) >= _SHORTEST), key=len, reverse=True)
        if not names:
            return
        pattern = re.compile(f"(?<![A-Za-z0-9])({'|'.join(map(re.escape, names))})(?![A-Za-z0-9])")
        for table in [each for each in tables if any(_is_text(column) for column in each.columns)]:
            again = sample.Writer(directory / "told")
            again.add(table, self._told(table, directory, pattern))
            (directory / "told" / f"{table.name}.parquet").replace(directory / f"{table.name}.parquet")
            (directory / "told").rmdir()

    def _told(self, table: Table, directory: Path, pattern: re.Pattern[str]) -> Iterator[pa.Table]:
        def plain(text: str) -> str:
            return pattern.sub(lambda found: self._known[found[1]], text)

        def inside(value: Any) -> Any:
            if isinstance(value, dict):
                return {key: inside(each) for key, each in value.items()}
            if isinstance(value, list):
                return [inside(each) for each in value]
            return plain(value) if isinstance(value, str) else value

        def structured(text: str) -> str:
            return json.dumps(inside(json.loads(text)), separators=(",", ":")) if pattern.search(text) else text

        for batch in sample.rows_of(directory, table.name):
            columns = {c.name: batch.rows[c.name] for c in table.columns}
            for column in filter(_is_text, table.columns):
                change = plain if column.name in _WRITTEN else structured
                columns[column.name] = _changed(pa.chunked_array([columns[column.name]]), change)
            yield pa.Table.from_batches([table.batch(columns, batch.rows.num_rows)])


def _is_text(column: Column) -> bool:
    return column.type in (Type.JSON, Type.JSON_NAME) or (
        column.name in _WRITTEN and column.type in (Type.TEXT, Type.NAME)
    )


def _is_address(word: str) -> bool:
    try:
        ipaddress.ip_address(word.strip("[]"))
    except ValueError:
        return False
    return True


def _changed(values: pa.ChunkedArray, change: Change) -> pa.Array:
    """Return texts, each different one of which was changed once."""
    whole = values.combine_chunks()
    if isinstance(whole, pa.ChunkedArray):  # Of no chunk, or of dictionaries that differ.
        whole = pa.concat_arrays(whole.chunks) if whole.num_chunks else pa.array([], pa.string())
    coded = whole if pa.types.is_dictionary(whole.type) else whole.dictionary_encode()
    words = pa.array([None if word is None else change(word) for word in coded.dictionary.to_pylist()], pa.string())
    found = pa.DictionaryArray.from_arrays(coded.indices, words)
    return found if pa.types.is_dictionary(whole.type) else found.cast(pa.string())


__all__ = ["Pseudonyms"]
