"""The step ledger from the wire of vLLM's own scheduler, recorded (recordings/README.md): who was in which step, truly."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from correlator.joins.membership import from_wire
from tests.simulator import estimator, recording
from tests.simulator.accuracy import Accuracy, calibration, said, score
from tests.simulator.conditions import CONDITIONS
from tests.simulator.recording import Recording, python_with_vllm, tables

Tables = dict[str, pa.Table]
CALM = [name for name in CONDITIONS if not name.startswith("preempted")]


@cache
def recorded(name: str) -> tuple[Recording, Tables]:
    found = Recording(name)
    return found, found.truth()


def ledger(seen: Tables) -> pa.Table:
    found = from_wire(*(seen[f"engine_{t}"] for t in ("message", "emission", "event", "request")))
    return pa.Table.from_batches([found])


def judged(name: str, members: pa.Table) -> tuple[float, float, int, float]:
    """Return precision, recall, wrong claims of exactness, and the expected calibration error."""
    _, truth = recorded(name)
    found = said(truth, {"member": members})
    tokens = {(r["step"], r["internal_id"]): r["scheduled_tokens"] for r in truth["member"].to_pylist()}
    exact = members.filter(pa.compute.equal(members["evidence"].cast(pa.string()), "exact")).to_pylist()
    wrong = sum(tokens.get((r["step_ordinal"] - 1, r["internal_id"])) != r["scheduled_tokens"] for r in exact)
    unclaimed = len(tokens) - int(found.known.sum())
    return found.known.mean(), 1 - unclaimed / len(tokens), wrong, calibration(found.sure, found.known)


@pytest.mark.parametrize("name", CALM)
def test_without_preemption_the_ledger_comes_out_whole(name: str) -> None:
    seen = tables(recorded(name)[0].seen("wire"))
    precision, recall, wrong, error = judged(name, ledger(seen))
    assert precision >= 0.9995 and recall >= 0.997
    assert wrong == 0
    assert error <= 0.05


@pytest.mark.parametrize("name", [name for name in CONDITIONS if name not in CALM])
def test_with_preemption_nothing_wrong_is_called_exact(name: str) -> None:
    assert recorded(name)[0].preemptions >= 20
    seen = tables(recorded(name)[0].seen("wire"))
    precision, recall, wrong, error = judged(name, ledger(seen))
    assert precision >= 0.999 and recall >= 0.997
    assert wrong == 0
    assert error <= 0.05


@pytest.mark.parametrize("name", ["long_prompts", "no_prefix_cache", "batch_50", "batch_20"])
def test_tokens_of_chunks_are_right_though_nobody_said_the_budget(name: str) -> None:
    run, _ = recorded(name)
    members = ledger(tables(run.seen("wire")))
    true = np.zeros((len(run.start), len(run.names)), np.int64)
    true[run.step, run.request] = run.tokens
    told = np.zeros_like(true)
    place = {n: i for i, n in enumerate(run.names)}
    told[members["step_ordinal"].to_numpy() - 1, [place[n] for n in members["internal_id"].to_pylist()]] = members[
        "scheduled_tokens"
    ].to_numpy()
    assert np.abs(told - true).sum() / 2 <= 0.002 * true.sum()


@pytest.mark.parametrize("level", ["plugin", "wire", "totals", "spans", "sockets"])
def test_at_every_level_all_time_is_shared_and_what_is_stated_holds(level: str) -> None:
    found = whole_chain("batch_20", level)
    limits = {"plugin": 1e-5, "wire": 0.002, "totals": 0.02, "spans": 0.05, "sockets": 0.2}
    assert found.conserved
    assert found.misallocated <= limits[level]
    assert found.wrong_exact == 0
    assert found.calibration_error <= 0.05


def test_time_of_lost_messages_goes_to_nobody() -> None:
    run, truth = recorded("batch_20")
    found = score(truth, estimator.joins(tables(run.seen("wire", 0.05, seed=2))))
    assert found.conserved
    assert found.unattributed >= 0.02
    assert found.misallocated <= 0.01
    assert found.wrong_exact == 0


def whole_chain(name: str, level: str) -> Accuracy:
    run, truth = recorded(name)
    return score(truth, estimator.joins(tables(run.seen(level))))


def test_the_estimator_is_a_process_that_is_given_no_truth(tmp_path: Path) -> None:
    run, truth = recorded("split_prefill")
    estimator.write(tmp_path / "seen", run.seen("wire"))
    assert not {"member", "step", "kernel"} & {path.stem for path in (tmp_path / "seen").iterdir()}
    estimator.estimate([(tmp_path / "seen", "joins", tmp_path / "out")])
    assert score(truth, estimator.read(tmp_path / "out")).misallocated <= 0.002


@pytest.mark.skipif(
    python_with_vllm() is None or not recording.TRACES.exists(), reason="vLLM (make vllm) or shared/data is not here"
)
@pytest.mark.slow
def test_vllms_scheduler_writes_the_recorded_bytes_again(tmp_path: Path) -> None:
    recording.record(tmp_path, ["batch_3", "preempted_some"])
    for name in ("batch_3", "preempted_some"):
        assert Recording(name, tmp_path).heard == recorded(name)[0].heard
