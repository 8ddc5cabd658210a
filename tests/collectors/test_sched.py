"""Times off the CPU: what threads wait for, and for how long, against a process that waits as it is told."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from collectors import sched
from tests.collectors.conftest import Caught

pytestmark = pytest.mark.needs_bpf
WAITER = """
import ctypes, mmap, os, select, socket, sys, threading, time
here, there = socket.socketpair()
inside, outside = os.pipe()
def later(act):
    def wait():
        time.sleep(0.4)  # The other thread may begin to wait late: what is left is a long wait all the same.
        act()
    thread = threading.Thread(target=wait)
    thread.start()
    return thread
def sleep(): time.sleep(0.2)
def tick(): time.sleep(0.0002)
def poll(): select.select([], [], [], 0.2)
def network():
    thread = later(lambda: there.send(b"x"))
    here.recv(1)
    thread.join()
def pipe():
    thread = later(lambda: os.write(outside, b"x"))
    os.read(inside, 1)
    thread.join()
def futex():
    lock = threading.Lock()
    lock.acquire()
    thread = later(lock.release)
    lock.acquire()
    thread.join()
def disk():
    with open(sys.argv[1], "wb") as file:
        file.write(os.urandom(1 << 20))
        file.flush()
        os.fsync(file.fileno())
def fault():
    with open(sys.argv[1], "wb") as file:
        file.write(os.urandom(1 << 22))
        os.fsync(file.fileno())
    with open(sys.argv[1], "rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as pages:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        pages.madvise(mmap.MADV_RANDOM)
        sum(pages[at] for at in range(0, 1 << 22, 65536))
def spin():
    until = time.thread_time() + 0.3
    while time.thread_time() < until: pass
def switches():
    with open("/proc/thread-self/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("voluntary"))
print("ready", threading.get_native_id(), flush=True)
for line in sys.stdin:
    name, count = line.split()
    before = switches()
    for _ in range(int(count)): globals()[name]()
    print("done", switches() - before, flush=True)
"""


class Waiter:
    """A process that waits for what it is told, so many times."""

    def __init__(self, directory: Path) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", WAITER, str(directory / "written")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout
        self.thread = int(self.process.stdout.readline().split()[1])
        # Ahead of all others: a thread that a busy machine puts off between its call and its sleep waits for a core instead.
        self.schedules(os.SCHED_FIFO, 1)

    def schedules(self, policy: int, priority: int) -> None:
        with suppress(PermissionError):
            os.sched_setscheduler(self.process.pid, policy, os.sched_param(priority))

    def does(self, name: str, count: int) -> int:
        """Return how often its main thread gave up the CPU by itself: a sleep that ends before it begins is none."""
        assert self.process.stdin and self.process.stdout
        self.process.stdin.write(f"{name} {count}\n")
        self.process.stdin.flush()
        done, switches = self.process.stdout.readline().split()
        assert done == "done"
        return int(switches)


@pytest.fixture
def waiter(tmp_path: Path) -> Iterator[Waiter]:
    found = Waiter(tmp_path)
    yield found
    found.process.communicate()


@contextmanager
def probing(caught: Caught, pid: int, **defines: int) -> Iterator[sched.Probe]:
    caught.emitted.clear()
    probe = sched.Probe(caught.context, defines)
    try:
        probe.targets.watch(pid)
        yield probe
    finally:
        probe.close()


@pytest.fixture(scope="module")
def quiet(bpf: None, tmp_path_factory: pytest.TempPathFactory) -> Caught:
    """A context whose threshold only the long waits pass, where nothing else is watched: also where a busy machine
    lets a thread begin its wait late."""
    return Caught(tmp_path_factory.mktemp("state"), sched_threshold_us=100_000, engine_wire_executables="")


def lost(caught: Caught) -> tuple[int, dict[str, int]]:
    """Return how many switches no program saw, and all other losses. A kernel may run no program in the threads of some
    process (the agent of a virtual machine, say): the return of a thread that takes over from one of them goes unseen."""
    losses = caught.losses()
    return losses.pop(sched.LOSSES[4], 0), losses


def rows(probe: sched.Probe, of: Waiter, since_ns: int) -> list[dict[str, Any]]:
    """Times of the waiter's main thread that began after `since_ns`: not its wait for the test's word."""
    time.sleep(0.1)
    found = probe.poll()[0].rows.to_pylist()
    return [row for row in found if row["thread_id"] == of.thread and row["start_ns"] > since_ns]


@pytest.mark.parametrize(
    ("what", "reason"),
    [("sleep", "sleep"), ("poll", "poll"), ("network", "network"), ("pipe", "other"), ("futex", "futex")],
)
def test_7_waits_are_found_with_their_reason(quiet: Caught, waiter: Waiter, what: str, reason: str) -> None:
    with probing(quiet, waiter.process.pid) as probe:
        since_ns = quiet.context.clock.now_ns()
        waiter.does(what, 7)
        found = rows(probe, waiter, since_ns)
    waits = [row for row in found if row["reason"] == reason]
    unseen, losses = lost(quiet)
    assert 7 - unseen <= len(waits) <= 7 and waits, [(row["reason"], row["end_ns"] - row["start_ns"]) for row in found]
    assert all(row["end_ns"] - row["start_ns"] > 15e6 and row["process_uid"] for row in waits)
    assert all(0 <= row["runqueue_ns"] <= row["end_ns"] - row["start_ns"] for row in waits)
    if reason in ("network", "futex"):
        assert {row["woken_by_pid"] for row in waits} == {waiter.process.pid}
    if reason == "sleep":
        assert {row["woken_by_pid"] for row in waits} == {None}
    assert losses == {}


@pytest.fixture
def all_detail(quiet: Caught) -> Iterator[Caught]:
    quiet.context.detail = lambda: 3
    yield quiet
    quiet.context.detail = lambda: 2


def test_waits_for_a_disk_and_in_page_faults_are_told_apart(all_detail: Caught, waiter: Waiter) -> None:
    with probing(all_detail, waiter.process.pid) as probe:
        since_ns = all_detail.context.clock.now_ns()
        waiter.does("fault", 1)
        reasons = Counter(row["reason"] for row in rows(probe, waiter, since_ns))
    if not reasons["disk"]:
        pytest.skip("this file system has no disk that fsync waits for")
    assert reasons["page_fault"] > 0


def test_two_that_spin_on_one_core_wait_for_it_in_turn(all_detail: Caught, waiter: Waiter) -> None:
    core = min(os.sched_getaffinity(0))
    os.sched_setaffinity(waiter.process.pid, {core})
    waiter.schedules(os.SCHED_OTHER, 0)
    other = subprocess.Popen(["taskset", "-c", str(core), sys.executable, "-c", "while True: pass"])
    try:
        with probing(all_detail, waiter.process.pid) as probe:
            since_ns = all_detail.context.clock.now_ns()
            waiter.does("spin", 1)
            found = [row for row in rows(probe, waiter, since_ns) if row["reason"] == "runqueue"]
    finally:
        other.kill()
        other.wait()
    assert len(found) > 3
    assert sum(row["end_ns"] - row["start_ns"] for row in found) > 30e6
    assert all(row["runqueue_ns"] == row["end_ns"] - row["start_ns"] for row in found)


def test_sums_hold_every_time_exactly_once(all_detail: Caught, waiter: Waiter) -> None:
    with probing(all_detail, waiter.process.pid) as probe:
        single: Counter[str] = Counter()
        summed: Counter[str] = Counter()
        slept = 0
        for _ in range(5):
            slept += waiter.does("tick", 199)
            waiter.does("futex", 1)
            time.sleep(0.05)
            for row in probe.poll()[0].rows.to_pylist():
                single[row["reason"]] += 1
                single[f"{row['reason']} ns"] += row["end_ns"] - row["start_ns"]
            for _ in range(2):
                for batch in probe.sums():
                    for row in batch.rows.to_pylist():
                        summed[row["reason"]] += row["intervals"]
                        summed[f"{row['reason']} ns"] += row["total_ns"]
    assert single == summed
    unseen, losses = lost(all_detail)
    assert single["sleep"] >= slept - unseen > 0  # The thread that lets go of the lock sleeps before it.
    assert losses == {}


def test_below_the_threshold_only_sums_are_told(quiet: Caught, waiter: Waiter) -> None:
    with probing(quiet, waiter.process.pid) as probe:
        since_ns = quiet.context.clock.now_ns()
        slept = waiter.does("tick", 97)
        assert all(row["end_ns"] - row["start_ns"] >= 100e6 for row in rows(probe, waiter, since_ns))
        # Two looks: a sleep that ends while the sums change hands is in the other ones.
        batches = [batch for _ in range(2) for batch in probe.sums()]
    told = [row for batch in batches for row in batch.rows.to_pylist() if row["reason"] == "sleep"]
    assert slept - lost(quiet)[0] <= sum(row["intervals"] for row in told) <= slept and told
    assert all(row["process_uid"].endswith(f":{waiter.process.pid}") for row in told)
    assert all(row["longest_ns"] <= row["total_ns"] < row["end_ns"] - row["start_ns"] for row in told)


def test_inside_a_window_every_time_is_told_and_outside_of_it_only_long_ones(quiet: Caught, waiter: Waiter) -> None:
    now_ns = quiet.context.clock.now_ns
    with probing(quiet, waiter.process.pid) as probe:
        low = now_ns()
        quiet.context.windows = lambda: [(low, low + 3600 * 10**9)]
        try:
            probe.poll()
            slept = waiter.does("tick", 97)
            inside = rows(probe, waiter, low)
            quiet.context.detail = lambda: 1  # What a budget took back, no window gives again.
            probe.poll()
            waiter.does("tick", 97)
            assert rows(probe, waiter, low) == []
        finally:
            quiet.context.windows, quiet.context.detail = tuple, lambda: 2
        probe.poll()
        waiter.does("tick", 97)
        outside = rows(probe, waiter, low)
    assert slept - lost(quiet)[0] <= sum(row["reason"] == "sleep" for row in inside) <= slept and inside
    assert all(row["end_ns"] - row["start_ns"] >= 100e6 for row in outside)


def test_a_wait_that_began_before_detail_0_is_not_told_when_it_ends_after(quiet: Caught, waiter: Waiter) -> None:
    with probing(quiet, waiter.process.pid) as probe:
        try:
            for detail in (0, 2):
                waiter.does("tick", 13)  # And then it waits for its next order.
                time.sleep(0.2)
                quiet.context.detail = lambda now=detail: now  # type: ignore[misc]
                probe.poll()
        finally:
            quiet.context.detail = lambda: 2
        again_ns = quiet.context.clock.now_ns()
        waiter.does("sleep", 3)
        found = rows(probe, waiter, 0)
    assert {row["reason"] for row in found} == {"sleep"}
    assert all(row["start_ns"] > again_ns for row in found)
    assert lost(quiet)[1] == {"not looked at: detail 0": 1}


def test_what_a_full_ring_loses_is_counted(all_detail: Caught, waiter: Waiter) -> None:
    with probing(all_detail, waiter.process.pid, INTERVAL_PAGES=2) as probe:
        slept = waiter.does("tick", 997)
        deadline = time.monotonic() + 10
        while True:  # The waiter's wait for its next order may be made between the look and the count.
            probe.poll()
            made, seen = probe.tally.made(sched.LOSSES[1]), probe.intervals.seen
            unseen, losses = lost(all_detail)
            if losses == {"times off the cpu: ring full": made - seen} or time.monotonic() > deadline:
                break
    assert made >= slept - unseen > seen > 0
    assert losses == {"times off the cpu: ring full": made - seen}
