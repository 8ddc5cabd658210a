"""Which processes wrote rows of a table when, to the ten seconds: kept in memory, so that no stage reads minutes of rows to
learn that an engine is silent or known better.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pyarrow as pa

BUCKET_NS = 10_000_000_000
KEPT = 360
"""Buckets that are remembered behind the newest: an hour. What is older is looked at again when it is asked for."""

_ASKED = {
    "engine_message": "SELECT process_uid, engine_index, time_ns // $bucket_ns AS bucket FROM engine_message"
    " WHERE time_ns >= $since_ns AND time_ns < $until_ns GROUP BY ALL",
    "step_member": "SELECT process_uid, NULL::BIGINT AS engine_index, time_ns // $bucket_ns AS bucket FROM step_member"
    " WHERE time_ns >= $since_ns AND time_ns < $until_ns AND level = 'plugin' GROUP BY ALL",
    "gpu_kernel": "SELECT process_uid, NULL::BIGINT AS engine_index, start_ns // $bucket_ns AS bucket FROM gpu_kernel"
    " WHERE start_ns >= $since_ns AND start_ns < $until_ns AND recording_uid IS NULL AND step_ordinal IS NULL GROUP BY ALL",
}
"""Messages of engines; what the plugin told; executions of which no record names the step."""
Key = tuple[str | None, int | None]
"""Process and, for messages, the engine's index in it."""
_LAST = 1 << 40


class Presence:
    """The presence of processes in the tables `_ASKED`. Not safe between threads."""

    def __init__(self, query: Callable[[str, Mapping[str, Any]], pa.Table]) -> None:
        """Look with `query`, which is `Store.query`."""
        self._query = query
        self._seen: dict[str, dict[Key, set[int]]] = {table: {} for table in _ASKED}
        self._since = dict.fromkeys(_ASKED, _LAST)
        """Bucket by table from which on all that is stored is known."""

    def came(self, table: str, low_ns: int, high_ns: int) -> list[int]:
        """Take note of rows that came with times in [low_ns, high_ns]; return the buckets in which a process is new."""
        if table in _ASKED and self._since[table] < _LAST:
            low, high = max(low_ns // BUCKET_NS, self._since[table]), high_ns // BUCKET_NS + 1
            if low < high:
                return self._look(table, low, high)
        return []

    def keys(self, table: str, since_ns: int, until_ns: int) -> set[Key]:
        """Return who wrote rows with times in [since_ns, until_ns), both whole buckets."""
        low, high = since_ns // BUCKET_NS, -(-until_ns // BUCKET_NS)
        if low < self._since[table]:
            self._look(table, low, self._since[table])
            self._since[table] = low
        wanted = range(low, high)
        return {key for key, buckets in self._seen[table].items() if any(n in buckets for n in wanted)}

    def processes(self, table: str, since_ns: int, until_ns: int) -> set[str | None]:
        """Return the processes of `keys`."""
        return {process for process, _ in self.keys(table, since_ns, until_ns)}

    def forget_old(self) -> None:
        """Forget what lies more than `KEPT` buckets behind the newest of its table."""
        for table, seen in self._seen.items():
            bound = max((max(buckets) for buckets in seen.values()), default=0) - KEPT
            if self._since[table] < bound:
                kept = {key: {n for n in buckets if n >= bound} for key, buckets in seen.items()}
                self._seen[table] = {key: buckets for key, buckets in kept.items() if buckets}
                self._since[table] = bound

    def _look(self, table: str, low: int, high: int) -> list[int]:
        bound = {"since_ns": low * BUCKET_NS, "until_ns": min(high * BUCKET_NS, (1 << 63) - 1), "bucket_ns": BUCKET_NS}
        rows = self._query(f"-- within: {table} 0 s\n{_ASKED[table]}", bound)
        columns = (rows[c].to_pylist() for c in ("process_uid", "engine_index", "bucket"))
        new = []
        for process, index, bucket in zip(*columns, strict=True):
            buckets = self._seen[table].setdefault((process, index), set())
            if bucket not in buckets:
                buckets.add(bucket)
                new.append(bucket)
        return new
