"""Readings of GPUs over time: what only grows is told by its growth, and trouble once a kind and GPU."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from correlator.storage.store import Store
from tests.correlator.recordings import rows
from tests.correlator.storing import NOON, small
from warpline import schema
from warpline.batch import Batch

SAMPLE = schema.table("gpu_sample")
SECOND = 1_000_000_000


def stored(tmp_path: Path, *readings: tuple[int, int, str, str | None, float]) -> Store:
    """A store of readings: (second, GPU, metric, part, value)."""
    store = Store(small(tmp_path))
    for n, (at, gpu, metric, part, value) in enumerate(readings):
        row = {"time_ns": NOON + at * SECOND, "node": "n", "gpu_uuid": f"GPU-{gpu}", "index": gpu, "metric": metric}
        row |= {
            "part": part,
            "value": value,
            "monotonic": metric in ("hw.energy", "hw.errors", "warpline.gpu.throttled"),
        }
        store.write([Batch(SAMPLE, SAMPLE.batch(row, 1), f"a/{n}")])
    return store


def heat(store: Store, metric: str, part: str = "-") -> list[dict[str, Any]]:
    return rows(store, "gpu_heat", {"metric": metric, "part": part, "interval_ns": 10 * SECOND})


def test_what_only_grows_is_told_by_its_growth_over_the_time_between_readings(tmp_path: Path) -> None:
    counted = ((0, 100.0), (5, 600.0), (15, 1600.0), (25, 50.0), (35, 550.0))
    store = stored(tmp_path, *((at, 0, "hw.energy", None, value) for at, value in counted))
    found = {(row["start_ns"] - NOON) // SECOND: (row["value"], row["passed_ns"]) for row in heat(store, "hw.energy")}
    assert found == {
        0: (500.0, 5 * SECOND),
        10: (1000.0, 10 * SECOND),
        20: (0.0, 10 * SECOND),  # It began anew.
        30: (500.0, 10 * SECOND),
    }
    store.close()


def test_what_goes_up_and_down_is_told_by_its_mean(tmp_path: Path) -> None:
    store = stored(tmp_path, (0, 0, "hw.power", None, 100.0), (5, 0, "hw.power", None, 300.0))
    (row,) = heat(store, "hw.power")
    assert (row["value"], row["passed_ns"], row["least"], row["greatest"]) == (200.0, None, 100.0, 300.0)
    store.close()


def test_a_measure_tells_when_its_first_and_its_last_reading_was(tmp_path: Path) -> None:
    store = stored(tmp_path, (3, 0, "hw.power", None, 1.0), (9, 1, "hw.power", None, 1.0))
    (row,) = rows(store, "gpu_metric")
    assert (row["first_ns"] - NOON, row["last_ns"] - NOON, row["gpus"]) == (3 * SECOND, 9 * SECOND, 2)
    store.close()


@pytest.mark.parametrize(("since", "times"), [(0, 2), (15, 1), (50, 0)])
def test_trouble_is_told_once_a_kind_and_gpu_the_gravest_first(tmp_path: Path, since: int, times: int) -> None:
    throttled, xid = "warpline.gpu.throttled", "warpline.gpu.xid.last"
    held = ((0, 0, throttled, "power", 1.0), (10, 0, throttled, "power", 1.25), (20, 0, throttled, "power", 1.5))
    failed = ((0, 1, xid, None, 0.0), (40, 1, xid, None, 94.0))
    store = stored(tmp_path, *held, *failed)
    found = rows(store, "gpu_trouble", {"since_ns": NOON + since * SECOND, "until_ns": NOON + 100 * SECOND})
    told = [(row["index"], row["what"], row["times"], row["amount"]) for row in found]
    grave = [(1, "XID 94", 1, None)] if since <= 40 else []
    assert told == grave + ([(0, "power", times, times * 0.25 * SECOND)] if times else [])
    store.close()
