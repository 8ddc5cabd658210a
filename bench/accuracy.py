"""How right the joins are, against engines whose truth they never see: membership, GPU time, sums, claims of exactness.

The engines run as processes of their own (tests/simulator) and hand over what sources would have seen. Figures with the
engine's own costs (`own_costs`) stand beside those where only membership can be wrong.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from correlator.joins.membership import from_stays, from_wire
from correlator.joins.stages import Joins
from correlator.storage.store import Store
from tests.simulator.score import Score, score, toy, truth_cost
from warpline import schema
from warpline.batch import Batch
from warpline.settings import Settings

PREEMPTING = {"rate": 14, "prompt": 250, "output": 400, "most_requests": 256}
CONDITIONS: dict[str, dict[str, Any]] = {
    "batch_3": {"rate": 4},
    "synchronous": {"asynchronous": False},
    "batch_7": {"rate": 8},
    "batch_12": {"rate": 12, "most_requests": 256},
    "batch_100": {"rate": 30, "prompt": 200, "output": 500, "most_requests": 256},
    "no_cache": {"cached_ratio": 0.0},
    "drafts": {"drafts": 3, "asynchronous": False},
    "preempted_some": {**PREEMPTING, "kv_tokens": 60_000},
    "preempted_heavily": {**PREEMPTING, "kv_tokens": 25_000},
    "lost_1_percent": {"lost_ratio": 0.01},
}
SEEDS = (101,)


def run() -> None:
    wrong_exact, worst_calibration, figures = 0, 0.0, {}
    print(f"{'condition':<20}{'level':<12}precision recall misallocated median p95 unattributed")
    for name, plan in CONDITIONS.items():
        scores = [_one(plan, seed) for seed in SEEDS]
        for level in scores[0]:
            mean = {f: float(np.mean([getattr(s[level], f) for s in scores])) for f in Score.__dataclass_fields__}
            print(
                f"{name:<20}{level:<12}{mean['precision']:.4f}    {mean['recall']:.4f} {mean['misallocated']:.4%}     "
                f"{mean['median_error']:.2%}  {mean['p95_error']:.2%}  {mean['unattributed']:.2%}"
            )
            figures[name, level] = mean
            wrong_exact += sum(s[level].wrong_exact for s in scores)
            worst_calibration = max(worst_calibration, mean["calibration_error"])
    calm = [m for (n, level), m in figures.items() if level == "wire" and n.startswith(("batch", "sync", "no_"))]
    _figure("accuracy.wire.precision", min(m["precision"] for m in calm), "1", "limit=1.000")
    _figure("accuracy.wire.recall", min(m["recall"] for m in calm), "1", "limit=0.997")
    _figure("accuracy.wire.misallocated_ratio", max(m["misallocated"] for m in calm), "1", "limit=0.002")
    heavy = figures["preempted_heavily", "wire"]["misallocated"]
    _figure("accuracy.wire.preempted.misallocated_ratio", heavy, "1", "limit=0.02")
    _figure("accuracy.calibration_error", worst_calibration, "1", "limit=0.05")
    difference, own = _whole_chain()
    print(f"FIGURE accuracy.conservation_ns {difference} ns limit=0")
    print(f"FIGURE accuracy.wrong_exact {wrong_exact} rows limit=0")
    _figure("accuracy.own_costs.misallocated_ratio", own, "1", "weights=independent")


def _figure(name: str, value: float, unit: str, keys: str) -> None:
    print(
        f"FIGURE {name} {value:.5f} {unit} engine=toy {keys}"
        if "engine=" not in keys
        else f"FIGURE {name} {value:.5f} {unit} {keys}"
    )


def _one(plan: dict[str, Any], seed: int) -> dict[str, Score]:
    with tempfile.TemporaryDirectory() as directory:
        seen, truth = toy(Path(directory), seed=seed, **plan)
    wire = from_wire(*(seen[f"engine_{t}"] for t in ("message", "emission", "event", "request")))
    spans, equal = _by_spans(seen, truth), _equal(wire)
    return {
        "wire": _scored(truth, pa.Table.from_batches([wire])),
        "spans": _scored(truth, spans),
        "equal_share": score(truth, pa.Table.from_batches([wire]), equal(truth), by_tokens=True),
    }


def _scored(truth: dict[str, pa.Table], members: pa.Table) -> Score:
    return score(truth, members, truth_cost(truth, members), by_tokens=True)


def _equal(wire: pa.RecordBatch) -> Any:
    """The baseline that most tools use: each request of a batch gets the same part."""
    ones = wire.set_column(
        wire.schema.get_field_index("scheduled_tokens"), "scheduled_tokens", pa.array(np.ones(len(wire), np.int64))
    )
    return lambda truth: truth_cost(truth, pa.Table.from_batches([ones]))


def _by_spans(seen: dict[str, pa.Table], truth: dict[str, pa.Table]) -> pa.Table:
    """What a span of each request tells (scheduled, first and last token), and the time line of steps on the GPU."""
    events = seen["engine_event"].filter(pa.compute.equal(seen["engine_event"]["kind"].cast(pa.string()), "scheduled"))
    scheduled = events.group_by("internal_id").aggregate([("time_ns", "min")])
    emitted = (
        seen["engine_emission"]
        .group_by("internal_id")
        .aggregate([("time_ns", "min"), ("time_ns", "max"), ("new_tokens", "sum"), ("prompt_tokens", "max")])
    )
    stays = emitted.rename_columns(["internal_id", "first_token_ns", "last_token_ns", "output_tokens", "prompt_tokens"])
    stays = stays.join(scheduled.rename_columns(["internal_id", "scheduled_ns"]), "internal_id", join_type="inner")
    step = truth["step"]  # The GPU's own time line, which launches and executions give without the engine.
    steps = pa.table(
        {
            "ordinal": step["step"],
            "start_ns": step["scheduled_ns"],
            "end_ns": step["end_ns"],
            "context_tokens": pa.nulls(len(step), pa.int64()),
            "node": ["n1"] * len(step),
            "process_uid": ["p"] * len(step),
            "engine_index": pa.nulls(len(step), pa.int64()),
        }
    )
    return pa.Table.from_batches([from_stays(steps, stays, "spans", False)])


def _whole_chain() -> tuple[int, float]:
    """Return the conservation error of the stored shares, in ns, and how much GPU time went to the wrong request by the
    engine's own costs, through launches, executions and the store."""
    with tempfile.TemporaryDirectory() as directory:
        seen, truth = toy(Path(directory), seed=103, rate=10)
        store = Store(Settings(state_dir=directory, correlator_disk_reserve_mb=0))
        store.write([Batch(schema.table(n), r.combine_chunks().to_batches()[0], n) for n, r in seen.items()])
        Joins(store.settings, store).catch_up()
        measured = store.query("SELECT sum(end_ns - start_ns)::BIGINT AS ns FROM gpu_kernel")["ns"][0].as_py()
        shares = store.query("SELECT owner, sum(share_ns)::BIGINT AS ns FROM share GROUP BY owner").to_pylist()
        store.close()
    said = {r["owner"]: r["ns"] for r in shares}
    true: dict[str, float] = {}
    for row in truth["member"].to_pylist():
        true[row["internal_id"]] = true.get(row["internal_id"], 0) + row["cost_ns"]
    wrong = sum(max(ns - true.get(name, 0), 0) for name, ns in said.items() if not name.startswith("__"))
    return abs(sum(said.values()) - measured), wrong / measured


if __name__ == "__main__":
    run()
