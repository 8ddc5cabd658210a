"""CUDA calls by uprobes, on the CUDA double, against what the workload did."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from collectors import cuda_launch
from collectors.bpf import probe_point
from demo.cuda_double import driver
from demo.cuda_double.build import build
from tests.collectors.conftest import Caught
from tests.collectors.gpu_doubles import ROOT, needs_compiler

pytestmark = [pytest.mark.needs_bpf, needs_compiler]
WORK = """
import sys
from demo.cuda_double.driver import Driver
from tests.collectors import gpu_workload
double = Driver(runtime=True)
double.function("named_before")
print("ready", flush=True)
for line in sys.stdin:
    name, *words = line.split()
    if name == "again":
        for _ in range(int(words[0])):
            double.launch("gemm_again", 100)
    elif name == "known":
        double.launch("named_before", 100)
    elif name == "wait":
        double.wait_all()
    else:
        getattr(gpu_workload, name)(double)
    print("done", flush=True)
"""


class Worker:
    """A process that uses the double as it is told."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", WORK],
            env={**os.environ, **driver.environment(build())},
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._hears("ready")

    def _hears(self, word: str) -> None:
        assert self.process.stdout and self.process.stdout.readline().strip() == word

    def does(self, what: str) -> None:
        assert self.process.stdin
        self.process.stdin.write(f"{what}\n")
        self.process.stdin.flush()
        self._hears("done")


@contextmanager
def worker() -> Iterator[Worker]:
    found = Worker()
    yield found
    found.process.communicate()


@contextmanager
def probing(caught: Caught, of: Worker, **defines: int) -> Iterator[cuda_launch.Probe]:
    caught.emitted.clear()
    probe = cuda_launch.Probe(caught.context, defines)
    try:
        probe.targets.watch(of.process.pid)
        probe.attach()
        yield probe
    finally:
        probe.close()


def rows(probe: cuda_launch.Probe) -> list[dict[str, Any]]:
    return probe.poll().rows.to_pylist()


def test_499_launches_from_3_threads_and_7_graph_launches_are_found(bpf: None, caught: Caught) -> None:
    with worker() as work, probing(caught, work) as probe:
        before = caught.context.clock.now_ns()
        work.does("mixed")
        found, after = rows(probe), caught.context.clock.now_ns()
    launches = [row for row in found if row["api"] == "cuLaunchKernel"]
    captured = [row for row in launches if row["kernel_name"].startswith("attention_")]
    assert len(captured) == 11  # Into the graph, by its own thread, once.
    launches = [row for row in launches if row not in captured]
    assert sorted(Counter(row["thread_id"] for row in launches).values()) == [159, 167, 173]
    assert [row["result"] for row in found if row["api"] == "cuGraphLaunch"] == [0] * 7
    assert {row["observed_by"] for row in found} == {"cuda_launch"}
    assert all(row["simulated"] and row["correlation_id"] is None for row in found)
    assert all(before < row["start_ns"] < row["end_ns"] < after for row in found)
    assert all(row["process_uid"].endswith(f":{work.process.pid}") for row in found)
    assert caught.losses() == {}


def test_a_drivers_call_inside_a_runtimes_counts_once(bpf: None, caught: Caught) -> None:
    with worker() as work, probing(caught, work) as probe:
        work.does("eager")
        found = Counter(row["api"] for row in rows(probe))
    assert found["cudaLaunchKernel"] == 167
    assert found["cuLaunchKernel"] == 499 - 167
    assert found["cuMemcpyHtoDAsync_v2"] + found["cuMemcpyDtoHAsync_v2"] == 31
    assert found["cuMemsetD8Async"] == 13


def test_calls_on_one_stream_name_that_stream_and_kernels_their_names(bpf: None, caught: Caught) -> None:
    with worker() as work, probing(caught, work) as probe:
        work.does("streams")
        found = rows(probe)
    streams = {row["thread_id"]: row["cuda_stream"] for row in found if row["api"] == "cuLaunchKernel"}
    assert len(set(streams.values())) == 3 and 0 not in streams.values()
    assert all(row["cuda_stream"] == streams[row["thread_id"]] for row in found if row["api"] == "cuLaunchKernel")
    assert all(row["kernel_name"] for row in found if row["api"] == "cuLaunchKernel")


def test_a_kernel_that_was_named_before_the_probe_has_no_name(bpf: None, caught: Caught) -> None:
    with worker() as work, probing(caught, work) as probe:
        work.does("known")
        assert [(row["api"], row["kernel_name"]) for row in rows(probe)] == [("cuLaunchKernel", None)]


def test_another_process_of_the_same_library_is_not_seen(bpf: None, caught: Caught) -> None:
    with worker() as work, worker() as other, probing(caught, work) as probe:
        other.does("again 97")
        assert rows(probe) == []
        work.does("again 89")
        found = rows(probe)
    assert len(found) == 89


def test_at_least_detail_only_graph_launches_and_waits_are_seen(bpf: None, caught: Caught) -> None:
    with worker() as work:
        caught.context.detail = lambda: 1
        try:
            with probing(caught, work) as probe:
                work.does("mixed")
                work.does("wait")
                least = Counter(row["api"] for row in rows(probe))
                caught.context.detail = lambda: 2
                probe.attach()
                work.does("again 53")
                ordinary = Counter(row["api"] for row in rows(probe))
        finally:
            caught.context.detail = lambda: 2
    assert least["cuCtxSynchronize"] >= 1
    assert set(least) <= {"cuGraphLaunch", "cuCtxSynchronize", "cuStreamSynchronize"}
    assert least["cuGraphLaunch"] == 7
    assert ordinary == {"cuLaunchKernel": 53}


def test_a_process_is_found_by_its_command_line_and_forgotten_when_it_ends(bpf: None, tmp_path: Path) -> None:
    caught = Caught(tmp_path, cuda_launch_executables="gpu_workload")
    probe = cuda_launch.Probe(caught.context)
    try:
        with worker() as work:
            until, found = time.monotonic() + 10, 0
            while not found and time.monotonic() < until:
                time.sleep(0.1)
                probe.poll()
                work.does("again 7")
                found = sum(row["process_uid"].endswith(f":{work.process.pid}") for row in rows(probe))
            assert found == 7
        probe.attach()
        assert not [key for key in probe.loaded._links if isinstance(key, tuple) and work.process.pid in key]
    finally:
        probe.close()


def test_what_a_full_ring_loses_is_counted(bpf: None, caught: Caught) -> None:
    with worker() as work, probing(caught, work, CALL_PAGES=4) as probe:
        work.does("again 997")
        seen = len(rows(probe))
        assert probe.tally.made(cuda_launch.LOSSES[1]) == 997
    assert 0 < seen < 997
    assert caught.losses() == {"cuda calls: ring full": 997 - seen}


def test_probes_stand_where_the_first_instruction_is_cheap() -> None:
    push, call, sub, endbr = b"\x55\x48\x89\xe5", b"\xe8\0\0\0\0", b"\x48\x83\xec\x08", b"\xf3\x0f\x1e\xfa"
    assert probe_point.point(push, 16) == probe_point.Point(16, True)
    assert probe_point.point(sub + call, 16) == probe_point.Point(20, False)
    assert probe_point.point(endbr + push, 16) == probe_point.Point(20, False)
    assert probe_point.point(sub + b"\x48\x89\xe5", 16) is None
    assert probe_point.point(b"\x48\x81\xc6\xff\x01\0\0", 16) is None
