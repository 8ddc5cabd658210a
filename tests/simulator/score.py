"""How right a step ledger is: GPU-time-weighted precision and recall, and GPU time that went to the wrong request."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from tests.simulator import estimator
from tests.simulator.accuracy import calibration

ROOT = Path(__file__).resolve().parent.parent.parent


@dataclass(frozen=True)
class Score:
    precision: float
    recall: float
    misallocated: float
    unattributed: float
    median_error: float
    p95_error: float
    wrong_exact: int
    calibration_error: float


_made: dict[str, tuple[dict[str, pa.Table], dict[str, pa.Table]]] = {}
"""What came of each plan: the same each time, and many cells of the fault matrix begin with the same."""


def toy(directory: Path, **plan: Any) -> tuple[dict[str, pa.Table], dict[str, pa.Table]]:
    """Run the toy engine in a process of its own; return what sources saw and what was."""
    told = json.dumps(plan, sort_keys=True)
    if told not in _made:
        command = [sys.executable, "-m", "tests.simulator.toy_seen", told, str(directory)]
        subprocess.run(command, check=True, cwd=ROOT, timeout=300)
        _made[told] = estimator.read(directory / "seen"), estimator.read(directory / "truth")
    seen, truth = _made[told]
    return dict(seen), dict(truth)


def score(
    truth: dict[str, pa.Table], members: pa.Table, cost: dict[tuple[int, str], float], by_tokens: bool = False
) -> Score:
    """Compare a ledger with the truth; `cost` is the GPU time that the estimate gave each (step, request).

    `by_tokens` shares the true steps by their true tokens, so that only membership is scored; else what each member cost in
    the engine's own model counts, which no estimator knows.
    """
    length = dict(
        zip(
            truth["step"]["step"].to_pylist(),
            (np.array(truth["step"]["end_ns"]) - np.array(truth["step"]["start_ns"])).tolist(),
            strict=True,
        )
    )
    rows = truth["member"].to_pylist()
    was = {(r["step"], r["internal_id"]): r for r in rows}
    said = {(r["step_ordinal"], r["internal_id"]): r for r in members.to_pylist()}
    both, extra, missed = was.keys() & said.keys(), said.keys() - was.keys(), was.keys() - said.keys()
    weigh = lambda keys: float(sum(length.get(k[0], 0) for k in keys))  # noqa: E731
    total = sum(r["cost_ns"] for r in rows)
    true_by: dict[str, float] = {}
    own = _shared_by_tokens(truth) if by_tokens else {k: r["cost_ns"] for k, r in was.items()}
    for (_, name), ns in own.items():
        true_by[name] = true_by.get(name, 0) + ns
    said_by: dict[str, float] = {}
    for (_, name), ns in cost.items():
        said_by[name] = said_by.get(name, 0) + ns
    errors = np.array([abs(said_by.get(n, 0) - ns) / ns for n, ns in true_by.items()])
    given = sum(said_by.get(n, 0) for n in said_by)
    wrong = sum(max(said_by.get(n, 0) - true_by.get(n, 0), 0) for n in said_by)
    exact = [k for k, r in said.items() if r["evidence"] == "exact"]
    wrong_exact = sum(k not in was or was[k]["scheduled_tokens"] != said[k]["scheduled_tokens"] for k in exact)
    return Score(
        weigh(both) / max(weigh(both) + weigh(extra), 1),
        weigh(both) / max(weigh(both) + weigh(missed), 1),
        wrong / total,
        (total - given) / total,
        float(np.median(errors)),
        float(np.percentile(errors, 95)),
        wrong_exact,
        calibration(np.array([r["confidence"] for r in said.values()]), np.array([k in was for k in said])),
    )


def _shared_by_tokens(truth: dict[str, pa.Table]) -> dict[tuple[int, str], float]:
    members = truth["member"].rename_columns({"step": "step_ordinal"})
    return truth_cost(truth, members)


def truth_cost(truth: dict[str, pa.Table], members: pa.Table) -> dict[tuple[int, str], float]:
    """Return GPU time by (step, request) when the step's true cost is shared by the ledger's tokens alone."""
    total: dict[int, float] = {}
    for r in truth["member"].to_pylist():
        total[r["step"]] = total.get(r["step"], 0) + r["cost_ns"]
    tokens: dict[int, int] = {}
    rows = members.to_pylist()
    for r in rows:
        tokens[r["step_ordinal"]] = tokens.get(r["step_ordinal"], 0) + r["scheduled_tokens"]
    return {
        (r["step_ordinal"], r["internal_id"]): total.get(r["step_ordinal"], 0)
        * r["scheduled_tokens"]
        / tokens[r["step_ordinal"]]
        for r in rows
    }
