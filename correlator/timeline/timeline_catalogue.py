"""The rows and names of a scope, each with a code: what numbers in its bars mean."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa

from correlator.timeline import timeline_lod
from correlator.timeline.timeline_lod import Bars

NAME_LENGTH = 160
"""Characters of a name that are shown; C++ kernels have thousands."""

OWNS = 3
"""Kinds of `own` in view `timeline_bar`: a label is a name's code times this, plus its kind."""


class Catalogue:
    """The rows and names of a scope, each with a code: what view `timeline_kind` says."""

    def __init__(self, kinds: pa.Table) -> None:
        """Give codes to the rows and names of `kinds`, in the order of their ids; `counts` has each row's number of bars."""
        self.kinds = kinds
        self.row_ids, first = np.unique(kinds["row_id"].to_numpy(), return_index=True)
        self.lanes: list[str] = kinds["lane"].take(pa.array(first)).to_pylist()
        self.name_ids, named = np.unique(kinds["name_id"].to_numpy(), return_index=True)
        self.names: list[str | None] = kinds["name"].take(pa.array(named)).to_pylist()
        self.classes: list[str | None] = kinds["class"].take(pa.array(named)).to_pylist()
        place = np.searchsorted(self.row_ids, kinds["row_id"].to_numpy())
        self.counts = np.bincount(place, kinds["bars"].to_numpy(), len(self.row_ids)).astype(np.int64)

    def rows(self) -> list[dict[str, Any]]:
        """Return each row with its place in the scope, how many bars it has, and their times."""
        same = ["row_id", "lane", "node", "process_uid", "unit", "number", "rank", "depth"]
        sums = [("bars", "sum"), ("busy_ns", "sum"), ("longest_ns", "max"), ("start_ns", "min"), ("end_ns", "max")]
        found = self.kinds.group_by(same).aggregate([*sums, ("simulated", "any")])
        named = [
            name.removesuffix("_sum").removesuffix("_max").removesuffix("_min").removesuffix("_any")
            for name in found.column_names
        ]
        order = [(name, "ascending") for name in same[1:]]
        return list(found.rename_columns(named).sort_by(order).to_pylist())

    def said(self, label: int) -> list[Any]:
        """Return [name, class, own] of a label, as it is shown."""
        name, own = divmod(label, OWNS)
        return [(self.names[name] or "unnamed")[:NAME_LENGTH], self.classes[name] or "other", own]

    def code(self, row_id: int) -> int | None:
        """Return the code of a row, None for one that the scope does not have."""
        at = int(np.searchsorted(self.row_ids, np.uint64(row_id)))
        return at if at < len(self.row_ids) and self.row_ids[at] == row_id else None

    def read(self, batch: pa.RecordBatch, offset_ns: int) -> Bars:
        """Return a batch of view `timeline_bar` by row and start, its times moved by `offset_ns`.

        Rows and names that came after the catalogue was made are left out, as it says.
        """
        row, row_known = _codes(batch["row_id"], self.row_ids)
        name, name_known = _codes(batch["name_id"], self.name_ids)
        start, end = batch["start_ns"].to_numpy() + offset_ns, batch["end_ns"].to_numpy() + offset_ns
        label = name * OWNS + batch["own"].to_numpy()
        known = row_known & name_known
        bars = Bars(narrow(row, len(self.row_ids)), start, end, narrow(label, len(self.names) * OWNS))
        return timeline_lod.ordered(bars if known.all() else bars.take(known))


def _codes(ids: pa.Array, known: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the place of each id in the sorted ids `known`, and whether it is there."""
    coded = ids.dictionary_encode()
    distinct = coded.dictionary.to_numpy()
    place = np.minimum(np.searchsorted(known, distinct), max(len(known) - 1, 0))
    there = known[place] == distinct if len(known) else np.zeros(len(distinct), bool)
    index = coded.indices.to_numpy()
    return place[index], there[index]


def narrow(codes: np.ndarray, most: int) -> np.ndarray:
    """Return codes below `most` in as few bits as they need."""
    return codes.astype(np.uint16 if most <= 1 << 16 else np.uint32)
