"""Kernels inside CUDA graphs: measured in windows, modelled from them in the other replays, never mixed up."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from correlator.storage.store import Store
from tests.correlator.storing import NOON, small
from warpline import schema
from warpline.batch import Batch

KERNEL = schema.table("gpu_kernel")
US = 1000
NODES = ((1, "norm", 0, 100), (2, "gemm", 100, 600), (3, "attention", 750, 250))
"""Node → name → start and duration in µs, of a replay of a millisecond."""


def _row(correlation: int, start_us: float, lasts_us: float, **more: Any) -> dict[str, Any]:
    start_ns = NOON + int(start_us * US)
    common = {"node": "a", "process_uid": "worker", "gpu_uuid": "GPU-1", "cuda_stream": 7, "session": 0, "graph_id": 5}
    times = {"start_ns": start_ns, "end_ns": start_ns + int(lasts_us * US), "correlation_id": correlation}
    return {**common, **times, "kind": "kernel", **more}


def _stored(tmp_path: Path, rows: list[dict[str, Any]]) -> Store:
    store = Store(small(tmp_path))
    store.write([Batch(KERNEL, KERNEL.batch(row, 1), f"a/1/{number}") for number, row in enumerate(rows)])
    return store


def _measured(correlation: int, at_us: float, stretch: float = 1.0) -> list[dict[str, Any]]:
    return [
        _row(correlation, at_us + stretch * start, stretch * lasts, name=name, graph_node_id=node, detail="node")
        for node, name, start, lasts in NODES
    ]


def test_replays_recorded_in_full_make_a_template_and_the_others_are_modelled_by_it(tmp_path: Path) -> None:
    rows = [row for n in range(5) for row in _measured(n, 2000 * n, 1 + n / 10)]
    rows += [
        _row(100, 50_000, 2000, kind="graph", detail="graph"),
        _row(101, 60_000, 500, kind="graph", detail="graph"),
    ]
    rows.append(_row(102, 70_000, 500, kind="graph", graph_id=6))
    rows.append(_row(103, 80_000, 500, kind="graph", validity="reversed"))
    store = _stored(tmp_path, rows)
    template = store.view("graph_template", {"order": "graph_node_id"}).read_all().to_pylist()
    assert [(row["graph_id"], row["name"], row["replays"]) for row in template] == [
        (5, "norm", 5), (5, "gemm", 5), (5, "attention", 5),
    ]  # fmt: skip
    assert [round(row["duration_ratio"], 6) for row in template] == [0.1, 0.6, 0.25]
    modelled = store.view("graph_modelled", {}).read_all().to_pylist()
    assert [(row["correlation_id"], row["name"], (row["start_ns"] - NOON) // US) for row in modelled] == [
        (100, "norm", 50_000), (100, "gemm", 50_200), (100, "attention", 51_500),
        (101, "norm", 60_000), (101, "gemm", 60_050), (101, "attention", 60_375),
    ]  # fmt: skip
    assert [row["end_ns"] - row["start_ns"] for row in modelled[:3]] == [200 * US, 1200 * US, 500 * US]
    assert {(row["evidence"], row["rule"], row["template_replays"]) for row in modelled} == {
        ("estimated", "graph_template", 5)
    }


def test_what_was_measured_is_not_modelled(tmp_path: Path) -> None:
    assert _stored(tmp_path, _measured(1, 0)).view("graph_modelled", {}).read_all().num_rows == 0
