"""The governor of the injected library, live: levels change in place in one process, and every row says which it was."""

from __future__ import annotations

import subprocess
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from collectors import cuda_kernel
from collectors.rings import budget
from collectors.rings.ring_file import COLLECTING, NotARing, Ring
from tests.collectors.gpu_doubles import ROOT, Watcher, environment, needs_compiler, watching

pytestmark = needs_compiler
MEASURED = "step not recorded whole, to measure what recording costs"


@contextmanager
def _serving(directory: Path, by_hand: str = "") -> Iterator[Callable[[], int]]:
    """A process that runs steps; what is given ends it and returns how many it ran."""
    variables = environment(directory, WARPLINE_GPU_EAGER_STEPS=by_hand)
    if not by_hand:
        del variables["WARPLINE_GPU_EAGER_STEPS"]  # Set by hand, the governor would leave it alone.
    command = [sys.executable, "-m", "tests.collectors.gpu_workload", "governed"]
    with subprocess.Popen(
        command, env=variables, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:

        def end() -> int:
            return int(process.communicate(timeout=60)[0])

        yield end
        if process.poll() is None:
            process.communicate(timeout=60)


def _until(condition: Callable[[], bool]) -> None:
    until = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < until, "it did not happen within a minute"
        time.sleep(0.05)


def _measured(seen: Watcher) -> int:
    return seen.losses().get(MEASURED, 0)


@pytest.fixture(autouse=True)
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Steer ten times a second, and compare levels twice."""
    monkeypatch.setattr(cuda_kernel, "_STEER_EVERY_NS", 100_000_000)
    monkeypatch.setattr(budget, "_TRY_EVERY_NS", 500_000_000)


def test_within_its_budget_it_compares_all_levels_in_place_and_keeps_its_own(tmp_path: Path) -> None:
    with watching(cuda_kernel, tmp_path, gpu_budget_ratio=1e9) as seen, _serving(tmp_path) as end:
        _until(lambda: _measured(seen) >= 97)
        steps = end()
    launched = {row["step_ordinal"]: row["detail"] for row in _of_steps(seen, "launch")}
    assert set(launched.values()) == {"callbacks", "graph", "node"}
    whole = steps - len(launched)
    assert 0 < whole < _measured(seen)
    executed = {row["step_ordinal"]: row["detail"] for row in _of_steps(seen, "gpu_kernel")}
    assert set(executed.values()) == {"graph", "node"}
    assert all(launched[step] == detail for step, detail in executed.items())
    assert {row["detail"] for row in seen.rows("gpu_busy")} <= {"none", "callbacks", "graph", "node"}
    assert max(launched) >= steps - 97, "after a trial the level is what it was"


def test_above_its_budget_it_goes_down_to_nothing_while_the_process_goes_on(tmp_path: Path) -> None:
    with watching(cuda_kernel, tmp_path, gpu_budget_ratio=1e-9) as seen, _serving(tmp_path) as end:
        ring = _ring(tmp_path)
        _until(lambda: ring.get("wanted_level") == 0 and ring.get("level") == 0)
        assert any(row["detail"] == "graph" for row in seen.rows("launch"))
        known = ring.get("launches")
        steps = end()
        last = ring.get("launches")
        ring.close()
    assert known <= last < 6 * steps
    assert {row["detail"] for row in seen.rows("launch")} <= {"callbacks", "graph", "node"}
    told = sorted((row["start_ns"], row["detail"], row["overhead_ratio"]) for row in seen.rows("gpu_busy"))
    assert told[0][2] > 1e-9, "what it cost while it cost too much"


def test_in_a_window_each_kernel_of_a_graph_is_measured_and_outside_of_it_the_replay_is_one_record(
    tmp_path: Path,
) -> None:
    with watching(cuda_kernel, tmp_path, gpu_budget_ratio=1e9) as seen, _serving(tmp_path, "1/1") as end:
        ring = _ring(tmp_path)
        _until(lambda: ring.get("launches") > 97)
        ring.set("node_steps", 23)
        known = ring.get("launches")
        _until(lambda: ring.get("launches") > known + 97 * 6)
        end()
        ring.close()
    nodes: dict[int, list[int]] = defaultdict(list)
    replays: Counter[int] = Counter()
    for row in _of_steps(seen, "gpu_kernel"):
        if row["graph_node_id"] is not None:
            nodes[row["step_ordinal"]].append(row["graph_node_id"])
            assert (row["kind"], row["detail"]) == ("kernel", "node")
        replays[row["step_ordinal"]] += row["kind"] == "graph"
    assert len(nodes) == 23
    assert max(nodes) - min(nodes) == 22
    assert {len(set(each)) for each in nodes.values()} == {2}
    assert all(replays[step] == (step not in nodes) for step in replays)


def _of_steps(seen: Watcher, table: str) -> list[dict[str, Any]]:
    return [row for row in seen.rows(table) if row["step_ordinal"] is not None]


def _ring(directory: Path) -> Ring:
    """The process's ring, once its library collects."""
    while True:
        for path in (directory / "rings").glob("cuda-*.ring"):
            with suppress(NotARing):
                ring = Ring(path)
                if ring.get("state") == COLLECTING:
                    return ring
                ring.close()
        time.sleep(0.05)
