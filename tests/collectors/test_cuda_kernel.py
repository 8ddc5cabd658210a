"""GPU executions: what the source says is what the device did, or it says what is missing."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from collectors import cuda_kernel
from collectors.identity import proc
from collectors.rings.busy import union
from collectors.rings.ring_file import Ring
from tests.collectors.gpu_doubles import ROOT, environment, needs_compiler, truth, watching, work

CAPTURED = 11
"""Launches into a stream under capture: calls like any other, which the GPU never executes."""
KINDS = ("kernel", "memcpy", "memset", "graph")


def _watched(directory: Path, name: str, **more: str):
    with watching(cuda_kernel, directory) as seen:
        done = work(directory, name, **more)
    return done, seen


def _as_truth(seen, correlation_mask: int = 0xFFFFFFFF):
    """The source's executions in the log's terms."""
    anchor = seen.context.clock.anchor_ns
    return Counter(
        (
            row["kind"],
            row["correlation_id"] & correlation_mask,
            row["cuda_stream"],
            row["start_ns"] - anchor,
            row["end_ns"] - anchor,
            row["graph_id"] or 0,
            row["name"] or "",
            row["moved_bytes"] or 0,
        )
        for row in seen.rows("gpu_kernel")
    )


def _log(directory: Path, kinds=KINDS):
    return Counter(
        (
            row["kind"],
            int(row["correlation"]),
            int(row["stream"]),
            int(row["start_ns"]),
            int(row["end_ns"]),
            int(row["graph"]),
            row["name"],
            int(row["bytes"]),
        )
        for row in truth(directory)
        if row["kind"] in kinds
    )


@needs_compiler
@pytest.mark.parametrize(
    ("name", "counts", "captured"),
    [
        ("eager", {"kernel": 499, "memcpy": 31, "memset": 13}, 0),
        ("streams", {"kernel": 499}, 0),
        ("graphs", {"graph": 7}, CAPTURED),
        ("mixed", {"kernel": 499, "graph": 7}, CAPTURED),
    ],
)
def test_every_execution_has_the_times_stream_and_launch_of_the_ground_truth(
    tmp_path: Path, name: str, counts, captured: int
) -> None:
    done, seen = _watched(tmp_path, name)
    assert done.returncode == 0, done.stderr
    assert Counter(row["kind"] for row in seen.rows("gpu_kernel")) == counts
    assert _as_truth(seen) == _log(tmp_path)
    launched = {row["correlation_id"]: row["thread_id"] for row in seen.rows("launch")}
    assert len(launched) == len(seen.rows("launch")) == sum(counts.values()) + captured
    for row in truth(tmp_path):
        assert launched[int(row["correlation"])] == int(row["thread"])
    assert all(row["simulated"] for table in ("launch", "gpu_kernel", "gpu_busy") for row in seen.rows(table))
    assert seen.losses() == {}


@needs_compiler
def test_a_driver_call_inside_a_runtime_call_is_one_launch(tmp_path: Path) -> None:
    _, seen = _watched(tmp_path, "eager")
    apis = Counter(row["api"] for row in seen.rows("launch"))
    assert apis["cudaLaunchKernel_v7000"] == 167
    assert apis["cuLaunchKernel"] == 332


@needs_compiler
@pytest.mark.parametrize("name", ["eager", "streams", "graphs"])
def test_a_launch_names_the_kernel_that_it_launches_and_no_other_call_does(tmp_path: Path, name: str) -> None:
    _, seen = _watched(tmp_path, name)
    ran = {row["correlation_id"]: row["name"] for row in seen.rows("gpu_kernel") if row["kind"] == "kernel"}
    launches = seen.rows("launch")
    told = {row["correlation_id"]: row["kernel_name"] for row in launches if "aunchKernel" in row["api"]}
    assert ran.items() <= told.items()
    assert len(told) == len(ran) + (CAPTURED if name == "graphs" else 0)
    assert {row["kernel_name"] for row in launches if row["correlation_id"] not in told} <= {None}


@needs_compiler
def test_the_sums_of_busy_time_are_those_of_the_log(tmp_path: Path) -> None:
    _, seen = _watched(tmp_path, "mixed")
    log = [row for row in truth(tmp_path) if row["kind"] in KINDS]
    starts = np.array([int(row["start_ns"]) for row in log])
    ends = np.array([int(row["end_ns"]) for row in log])
    low, high = union(starts, ends)
    busy = seen.rows("gpu_busy")
    assert sum(row["kernel_ns"] for row in busy) == int((ends - starts).sum())
    assert sum(row["busy_ns"] for row in busy) == int((high - low).sum())
    assert sum(row["executions"] for row in busy) == 506


@needs_compiler
def test_rows_name_the_process_and_the_gpu(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.collectors.gpu_workload", "waits"]
    with (
        watching(cuda_kernel, tmp_path) as seen,
        subprocess.Popen(
            command, env=environment(tmp_path), cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        ) as process,
    ):
        process.stdin.write("go\n")
        process.stdin.flush()
        assert process.stdout.readline() == "done\n"
        found = proc.stat(process.pid)
        seen.wait_for("gpu_kernel", 11)
        process.stdin.close()
    uid = proc.process_uid("node-1", found.start_since_boot_ns, process.pid)
    assert {row["process_uid"] for row in seen.rows("gpu_kernel") + seen.rows("launch")} == {uid}
    assert {row["gpu_uuid"] for row in seen.rows("gpu_kernel")} == {"GPU-77617270-6c69-6e65-2d64-6f75626c6521"}
    assert [row["model"] for row in seen.rows("gpu")] == ["Warpline CUDA double (simulated)"]


@needs_compiler
def test_a_mig_instance_is_named_by_its_own_uuid(tmp_path: Path) -> None:
    _, seen = _watched(tmp_path, "graphs", WARPLINE_DOUBLE_MIG="1")
    assert {row["gpu_uuid"] for row in seen.rows("gpu_kernel")} == {"MIG-77617270-6c69-6e65-2d64-626c2d6d6967"}
    assert [row["gpu_instance"] for row in seen.rows("gpu")] == [1]


@needs_compiler
def test_correlation_ids_go_on_past_32_bits(tmp_path: Path) -> None:
    _, seen = _watched(tmp_path, "mixed", WARPLINE_DOUBLE_CORRELATION_START=str(2**32 - 251))
    ids = [row["correlation_id"] for row in seen.rows("launch")]
    assert len(set(ids)) == 506 + CAPTURED
    assert min(ids) < 2**32 < max(ids)
    assert {row["correlation_id"] for row in seen.rows("gpu_kernel")} < set(ids)
    assert _as_truth(seen) == _log(tmp_path)


@needs_compiler
def test_at_level_node_each_kernel_of_a_graph_is_measured(tmp_path: Path) -> None:
    _, seen = _watched(tmp_path, "graphs", WARPLINE_GPU_LEVEL="node")
    rows = seen.rows("gpu_kernel")
    assert len(rows) == 77
    assert len({row["graph_node_id"] for row in rows}) == 11
    assert {row["detail"] for row in rows} == {"node"}
    anchor = seen.context.clock.anchor_ns
    told = {(r["correlation_id"], r["graph_node_id"], r["start_ns"] - anchor, r["end_ns"] - anchor) for r in rows}
    log = [row for row in truth(tmp_path) if row["kind"] == "node"]
    assert told == {(int(r["correlation"]), int(r["node"]), int(r["start_ns"]), int(r["end_ns"])) for r in log}


@needs_compiler
def test_at_level_callbacks_there_are_launches_and_no_executions(tmp_path: Path) -> None:
    _, seen = _watched(tmp_path, "mixed", WARPLINE_GPU_LEVEL="callbacks")
    assert len(seen.rows("launch")) == 506 + CAPTURED
    assert seen.rows("gpu_kernel") == []


@needs_compiler
def test_at_level_none_there_is_nothing(tmp_path: Path) -> None:
    _, seen = _watched(tmp_path, "mixed", WARPLINE_GPU_LEVEL="none")
    assert seen.rows("launch") == seen.rows("gpu_kernel") == []


@needs_compiler
def test_steps_are_sampled_whole_and_graphs_always(tmp_path: Path) -> None:
    _, seen = _watched(tmp_path, "steps", WARPLINE_GPU_EAGER_STEPS="3/7")
    rows = seen.rows("gpu_kernel")
    eager = Counter(row["step_ordinal"] for row in rows if row["kind"] == "kernel")
    assert eager == {step: 5 for step in range(61) if step % 7 < 3}
    assert Counter(row["step_ordinal"] for row in rows if row["kind"] == "graph") == {step: 1 for step in range(61)}
    launches = Counter(row["step_ordinal"] for row in seen.rows("launch"))
    assert launches == {**{step: 6 for step in range(61)}, -2: 7, None: 2}  # -2: a step that no request caused.


@needs_compiler
def test_invalid_times_are_marked_and_never_summed(tmp_path: Path) -> None:
    _, seen = _watched(tmp_path, "streams", WARPLINE_DOUBLE_BAD_STAMP_EVERY="23")
    found = Counter(row["validity"] for row in seen.rows("gpu_kernel"))
    assert set(found) == {"ok", "no_time", "reversed", "outside_session"}
    assert sum(found.values()) == 499
    good = _log(tmp_path)
    told = [row for row in seen.rows("gpu_kernel") if row["validity"] == "ok"]
    assert sum(row["kernel_ns"] for row in seen.rows("gpu_busy")) == sum(r["end_ns"] - r["start_ns"] for r in told)
    assert all(row["end_ns"] is None for row in seen.rows("gpu_kernel") if row["validity"] == "no_time")
    assert len(good) == 499


@needs_compiler
def test_records_that_cupti_drops_are_counted(tmp_path: Path) -> None:
    _, seen = _watched(tmp_path, "streams", WARPLINE_DOUBLE_DROP_EVERY="29")
    missing = 499 - len(seen.rows("gpu_kernel"))
    assert missing > 0
    assert seen.losses() == {"dropped by CUPTI": missing}


@needs_compiler
def test_a_ring_that_is_overrun_says_how_many_and_when(tmp_path: Path) -> None:
    done = work(tmp_path, "flood", WARPLINE_RING_RECORDS="1024")
    assert done.returncode == 0
    with watching(cuda_kernel, tmp_path) as seen:
        seen.wait_for("loss", 1)
    told = len(seen.rows("launch")) + len(seen.rows("gpu_kernel"))
    assert seen.losses() == {"ring overrun": 6002 - told}
    loss = seen.rows("loss")[0]
    anchor = seen.context.clock.anchor_ns
    assert loss["start_ns"] < loss["end_ns"]
    assert loss["end_ns"] - anchor <= max(int(row["end_ns"]) for row in truth(tmp_path))


@needs_compiler
def test_a_process_that_is_killed_leaves_all_that_it_had_written(tmp_path: Path) -> None:
    done, seen = _watched(tmp_path, "killed")
    assert done.returncode == -signal.SIGKILL
    assert len(seen.rows("launch")) == len(seen.rows("gpu_kernel")) == 97
    assert list((tmp_path / "rings").iterdir()) == []


@needs_compiler
def test_executions_that_a_killed_process_took_along_are_counted(tmp_path: Path) -> None:
    _, seen = _watched(tmp_path, "cut")
    assert len(seen.rows("launch")) == 97
    told = len(seen.rows("gpu_kernel"))
    assert told < 97
    assert seen.losses() == {"execution untold when its process ended": 97 - told}


@needs_compiler
def test_a_forks_child_writes_nothing_into_its_parents_ring(tmp_path: Path) -> None:
    done, seen = _watched(tmp_path, "forked")
    assert done.returncode == 0, done.stderr
    assert len(seen.rows("launch")) == len(seen.rows("gpu_kernel")) == 100
    assert len({row["process_uid"] for row in seen.rows("launch")}) == 1
    assert _as_truth(seen) == _log(tmp_path)


@needs_compiler
@pytest.mark.parametrize(
    ("name", "variables", "reason"),
    [
        ("second_subscriber", {}, "not collecting, because another tool"),
        ("streams", {"WARPLINE_DOUBLE_CUPTI_VERSION": "17"}, "not collecting, because CUPTI is of API version 17"),
        ("streams", {"WARPLINE_DOUBLE_MPS": "1"}, "not collecting, because the process uses the GPU through MPS"),
    ],
)
def test_where_it_cannot_collect_it_steps_aside_and_says_why(tmp_path: Path, name, variables, reason) -> None:
    done, seen = _watched(tmp_path, name, **variables)
    assert done.returncode == 0, done.stderr
    assert len(truth(tmp_path)) == 499
    assert any(why.startswith(reason) for why in seen.losses())


@needs_compiler
def test_without_a_ring_directory_the_process_goes_on_and_says_why(tmp_path: Path) -> None:
    (tmp_path / "rings").write_text("a file where the directory should be")
    done = work(tmp_path, "streams")
    assert done.returncode == 0
    assert "not collecting, because" in done.stderr
    assert len(truth(tmp_path)) == 499


@needs_compiler
def test_it_can_be_told_to_stop_while_its_process_goes_on(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.collectors.gpu_workload", "waits"]
    (tmp_path / "rings").mkdir()
    with subprocess.Popen(
        command, env=environment(tmp_path), cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert _once(process) == "done\n"
        ring = Ring(next((tmp_path / "rings").iterdir()))
        ring.set("stop", 1)
        until = time.monotonic() + 5
        while not ring.reason and time.monotonic() < until:
            time.sleep(0.05)
        assert ring.reason == "not collecting, because it was told to stop"
        before = ring.get("position")
        assert _once(process) == "done\n"
        assert ring.get("position") == before
        process.stdin.close()
    ring.close()


def _once(process: subprocess.Popen[str]) -> str:
    process.stdin.write("go\n")
    process.stdin.flush()
    return process.stdout.readline()
