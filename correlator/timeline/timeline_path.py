"""What a request was in at each moment, as deep as is known: on a GPU, in a step, in a queue, in the server, in the mesh.

A request's parts lie inside each other, so at any moment the deepest of them is the one that its end waited for: these
stretches, one after the other, are its critical path, and their times sum to the request's own. Where several GPU
executions of its steps run at once, the one that ends last counts. Steps in which it had no part never count.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from correlator.timeline import timeline_lod
from correlator.timeline.timeline_bars import ScopeBars
from correlator.timeline.timeline_catalogue import OWNS, Catalogue
from correlator.timeline.timeline_lod import Bars

LAYERS = ("exchange.client", "hop", "exchange.server", "engine_request", "phase", "kv_transfer", "member", "kernel")
"""Lanes from the outside to the inside. Of one that stands at several depths, the first is meant."""

_OWN = 1
_MOST_STRETCHES = 4000


@dataclass(frozen=True)
class Path:
    """Stretches of time, one after the other, each with the row and the label of the bar that the request was in."""

    stretches: Bars
    layer: np.ndarray

    def totals(self, catalogue: Catalogue) -> list[dict[str, Any]]:
        """Return the time in each layer (of phases: in each of them), the most first."""
        phase = LAYERS.index("phase")
        name = np.where(self.layer == phase, self.stretches.label // OWNS, 0)
        lasted = self.stretches.end - self.stretches.start
        found = [
            {
                "lane": LAYERS[layer],
                "class": catalogue.classes[code] if layer == phase else None,
                "total_ns": int(lasted[(self.layer == layer) & (name == code)].sum()),
            }
            for layer, code in sorted(set(zip(self.layer.tolist(), name.tolist(), strict=True)))
        ]
        return sorted(found, key=lambda each: -each["total_ns"])

    def drawn(self, catalogue: Catalogue, since: int, until: int) -> list[list[Any]]:
        """Return [row id, start, end] of the stretches in a window, short ones drawn with a longer neighbour."""
        inside = timeline_lod.clipped(self.stretches, since, until)
        level = max(int((until - since) // _MOST_STRETCHES).bit_length(), 0)
        flat = Bars(np.zeros(len(inside), np.uint16), inside.start, inside.end, inside.row)
        seen = timeline_lod.coarser(timeline_lod.single(flat), level)
        return [
            [f"{int(catalogue.row_ids[row]):x}", start, end]
            for row, start, end in zip(seen.label.tolist(), seen.start.tolist(), seen.end.tolist(), strict=True)
        ]


def path(bars: ScopeBars, length_ns: int) -> Path:
    """Return the critical path of a scope that is one request's; it is empty where no exchange or engine row is known."""
    rows = _rows(bars.catalogue)
    parts: list[list[Bars]] = [[] for _ in LAYERS]
    kernel = LAYERS.index("kernel")
    for piece in bars.pieces(0, length_ns):
        layer = rows[piece.row]
        wanted = (layer >= 0) & ((layer != kernel) | (piece.label % OWNS == _OWN)) & (piece.end > piece.start)
        chosen = piece.take(wanted)
        for place in np.unique(layer[wanted]).tolist():
            parts[place].append(chosen.take(layer[wanted] == place))
    covers = [_cover(each) for each in parts]
    return _deepest(covers)


def _rows(catalogue: Catalogue) -> np.ndarray:
    """Return the layer of each row, -1 where it is in none."""
    _, first = np.unique(catalogue.kinds["row_id"].to_numpy(), return_index=True)
    depth = catalogue.kinds["depth"].to_numpy()[first]
    places = [LAYERS.index(lane) if lane in LAYERS else -1 for lane in catalogue.lanes]
    return np.where((depth == 0) | (np.array(places, int) == LAYERS.index("kernel")), np.array(places, int), -1)


def _cover(parts: list[Bars]) -> Bars:
    """Return what bars cover, each moment once: a bar from where the ones before it end, if it ends later than they do."""
    bars = timeline_lod.put_together(parts)
    bars = bars.take(np.lexsort((bars.end, bars.start)))
    before = np.append(np.int64(-1), np.maximum.accumulate(bars.end)[:-1])
    later = bars.end > before
    found = bars.take(later)
    return Bars(found.row, np.maximum(found.start, before[later]), found.end, found.label)


def _deepest(covers: list[Bars]) -> Path:
    """Return, for each moment that any layer covers, the innermost one that does."""
    edges = np.unique(np.concatenate([np.concatenate([each.start, each.end]) for each in covers]))
    start, end = edges[:-1], edges[1:]
    layer = np.full(len(start), -1)
    row, label = np.zeros(len(start), np.int64), np.zeros(len(start), np.int64)
    for place, cover in enumerate(covers):
        if not len(cover):
            continue
        at = np.maximum(np.searchsorted(cover.start, start, side="right") - 1, 0)
        holds = (cover.start[at] <= start) & (cover.end[at] >= end)
        layer[holds] = place
        row[holds], label[holds] = cover.row[at][holds], cover.label[at][holds]
    known = layer >= 0
    return _merged(Bars(row[known], start[known], end[known], label[known]), layer[known])


def _merged(found: Bars, layer: np.ndarray) -> Path:
    """Return neighbours that are of one bar as one stretch."""
    if not len(found):
        return Path(found, layer)
    differs = (found.row[1:] != found.row[:-1]) | (found.label[1:] != found.label[:-1])
    first = np.flatnonzero(np.append(True, differs | (found.start[1:] != found.end[:-1])))
    last = np.append(first[1:], len(found)) - 1
    return Path(Bars(found.row[first], found.start[first], found.end[last], found.label[first]), layer[first])
