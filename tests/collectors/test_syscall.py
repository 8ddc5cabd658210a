"""System calls of a process that makes as many as it is told."""

from __future__ import annotations

import subprocess
import sys
import time
import uuid
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from collectors import syscall
from collectors.bpf.syscall_names import NAMES
from tests.collectors.conftest import Caught
from warpline.batch import Batch

pytestmark = pytest.mark.needs_bpf
CALLER = """
import os, sys, threading, time
null = os.open("/dev/null", os.O_WRONLY)
print("ready", null, flush=True)
def umask(): os.umask(0o22)
def write(): os.write(null, b"x" * 13)
def refused():
    try: os.write(12345, b"x")
    except OSError: pass
def sleep(): time.sleep(0.003)
for line in sys.stdin:
    name, count, threads = line.split()
    def work():
        for _ in range(int(count)): globals()[name]()
    run = [threading.Thread(target=work) for _ in range(int(threads))]
    for each in run: each.start()
    for each in run: each.join()
    os.write(1, b"done\\n")
"""


class Caller:
    """A process that calls what it is told, so many times, in so many threads."""

    def __init__(self) -> None:
        self.name = f"caller-{uuid.uuid4().hex}"  # Among its arguments, so that it can be chosen by them.
        self.process = subprocess.Popen(
            [sys.executable, "-c", CALLER, self.name], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert self.process.stdout
        self.null = int(self.process.stdout.readline().split()[1])

    def does(self, name: str, count: int, threads: int = 1) -> None:
        assert self.process.stdin and self.process.stdout
        self.process.stdin.write(f"{name} {count} {threads}\n")
        self.process.stdin.flush()
        assert self.process.stdout.readline().strip() == "done"

    def settles(self) -> None:
        """Wait until the threads that did it have ended and the main thread waits for its next order."""
        proc, deadline = Path(f"/proc/{self.process.pid}"), time.monotonic() + 10
        while time.monotonic() < deadline:
            if len(list((proc / "task").iterdir())) == 1 and (proc / "syscall").read_text().startswith("0 0x0 "):
                return
            time.sleep(0.01)


@pytest.fixture
def caller() -> Iterator[Caller]:
    found = Caller()
    yield found
    found.process.communicate()


@pytest.fixture(scope="module")
def quiet(bpf: None, tmp_path_factory: pytest.TempPathFactory) -> Caught:
    """A context in which nothing is watched that the tests do not watch."""
    return Caught(tmp_path_factory.mktemp("state"), engine_wire_executables="")


@pytest.fixture
def all_detail(quiet: Caught) -> Iterator[Caught]:
    quiet.context.detail = lambda: 3
    yield quiet
    quiet.context.detail = lambda: 2


@contextmanager
def probing(caught: Caught, pid: int, **defines: int) -> Iterator[syscall.Probe]:
    caught.emitted.clear()
    probe = syscall.Probe(caught.context, defines)
    try:
        probe.targets.watch(pid)
        yield probe
    finally:
        probe.close()


def totals(probe: syscall.Probe) -> list[dict[str, Any]]:
    """What the kernel has summed up so far."""
    return [row for _ in range(2) for batch in probe.sums() for row in batch.rows.to_pylist()]


def calls_of(probe: syscall.Probe, name: str, count: int) -> int:
    """Calls of `name` that are summed up from now on, until there are `count`: the last may not have ended yet."""
    found, deadline = 0, time.monotonic() + 10
    while found < count and time.monotonic() < deadline:
        found += sum(row["calls"] for row in totals(probe) if row["name"] == name)
    return found


def of(batches: list[Batch], table: str) -> list[dict[str, Any]]:
    """Rows of one table."""
    return [row for batch in batches if batch.table.name == table for row in batch.rows.to_pylist()]


def test_10007_calls_of_3_threads_are_summed_up_and_none_told_alone(quiet: Caught, caller: Caller) -> None:
    with probing(quiet, caller.process.pid) as probe:
        caller.does("umask", 10_007, 3)
        assert probe.poll()[0].rows.num_rows == 0
        (row,) = [row for row in totals(probe) if row["name"] == "umask"]
    assert row["calls"] == 3 * 10_007
    assert 0 < row["longest_ns"] <= row["total_ns"]
    assert row["process_uid"].endswith(f":{caller.process.pid}")
    assert row["start_ns"] < row["end_ns"]
    assert quiet.losses() == {}


def test_every_call_is_in_one_second_only(quiet: Caught, caller: Caller) -> None:
    expected = 11 * (2 * 499 + 1)  # The one more says that it is done.
    with probing(quiet, caller.process.pid) as probe:
        found = 0
        for _ in range(11):
            caller.does("write", 499, 2)
            found += sum(row["calls"] for row in of(probe.sums(), "syscall_total") if row["name"] == "write")
        found += calls_of(probe, "write", expected - found)
        assert found == expected
        assert "write" not in {row["name"] for row in totals(probe)}


def test_time_inside_a_call_is_the_calls(quiet: Caught, caller: Caller) -> None:
    with probing(quiet, caller.process.pid) as probe:
        caller.does("sleep", 53)
        (row,) = [row for row in totals(probe) if row["name"] == "clock_nanosleep"]
    assert row["calls"] == 53
    assert row["total_ns"] >= 53 * 3_000_000


def test_at_detail_3_each_call_is_a_row_with_its_result_and_descriptor(all_detail: Caught, caller: Caller) -> None:
    with probing(all_detail, caller.process.pid) as probe:
        caller.does("write", 997)
        caller.does("refused", 19)
        caller.does("umask", 23)
        caller.settles()
        rows = probe.poll()[0].rows.to_pylist()
        summed = {row["name"]: row["calls"] for row in totals(probe)}
    assert [row["result"] for row in rows if row["name"] == "write" and row["descriptor"] == caller.null] == [13] * 997
    assert [row["result"] for row in rows if row["descriptor"] == 12345] == [-9] * 19
    assert [row["descriptor"] for row in rows if row["name"] == "umask"] == [None] * 23
    assert Counter(row["name"] for row in rows) == summed
    assert all(row["start_ns"] <= row["end_ns"] and row["thread_id"] for row in rows)
    assert all_detail.losses() == {}


def test_detail_can_be_raised_and_lowered_while_it_runs(quiet: Caught, caller: Caller) -> None:
    try:
        with probing(quiet, caller.process.pid) as probe:
            counts = []
            for detail in (2, 3, 2):
                quiet.context.detail = lambda now=detail: now  # type: ignore[misc]
                probe.poll()
                caller.does("umask", 97)
                counts.append(Counter(row["name"] for row in probe.poll()[0].rows.to_pylist())["umask"])
    finally:
        quiet.context.detail = lambda: 2
    assert counts == [0, 97, 0]


def test_at_detail_0_nothing_is_attached_and_loss_says_so(quiet: Caught, caller: Caller) -> None:
    try:
        with probing(quiet, caller.process.pid) as probe:
            quiet.context.detail = lambda: 0
            probe.poll()
            caller.does("umask", 97)
            assert totals(probe) == []
            quiet.context.detail = lambda: 2
            probe.poll()
            caller.does("umask", 53)
            assert calls_of(probe, "umask", 53) == 53
    finally:
        quiet.context.detail = lambda: 2
    assert quiet.losses() == {"not looked at: detail 0": 1}


def test_a_window_that_is_asked_for_is_kept_whole_and_nothing_beside_it(quiet: Caught, caller: Caller) -> None:
    batches: list[Batch] = []
    clock, inside, called = quiet.context.clock, [], 0
    with probing(quiet, caller.process.pid) as probe:
        low = clock.now_ns() + 400_000_000
        high = low + 500_000_000
        quiet.context.windows = lambda: [(low, high)]
        try:
            while (began := clock.now_ns()) < high + 400_000_000:
                batches += probe.poll()
                caller.does("write", 31)
                called += 31 + 1  # The one more says that it is done.
                if began >= low and clock.now_ns() <= high:
                    inside.append((began, clock.now_ns()))
            batches += probe.poll()
        finally:
            quiet.context.windows = tuple
        summed = sum(row["calls"] for row in of(batches, "syscall_total") if row["name"] == "write")
        summed += calls_of(probe, "write", called - summed)
    found = of(batches, "syscall")
    assert all(row["start_ns"] < high and row["end_ns"] > low for row in found)
    for start, end in inside:
        here = [row for row in found if row["name"] == "write" and start <= row["start_ns"] <= end]
        assert len(here) == 31 + 1
    assert inside and len([row for row in found if row["name"] == "write"]) < called
    assert summed == called
    assert quiet.losses() == {}


def test_what_a_full_ring_loses_is_counted_and_the_sums_stay_whole(all_detail: Caught, caller: Caller) -> None:
    with probing(all_detail, caller.process.pid, CALL_PAGES=4) as probe:
        caller.does("umask", 4_999)
        probe.poll()
        made, seen = probe.tally.made(syscall.LOSSES[1]), probe.calls.seen
        (row,) = [row for row in totals(probe) if row["name"] == "umask"]
    assert made > 4_999 > seen > 0
    assert all_detail.losses() == {"system calls: ring full": made - seen}
    assert row["calls"] == 4_999


def test_a_server_is_watched_once_it_listens(bpf: None, tmp_path: Path) -> None:
    listen = (
        "import os, socket, sys, time\n"
        "door = socket.socket(); door.bind(('127.0.0.1', int(sys.argv[1]))); sys.stdin.readline(); door.listen()\n"
        "[os.umask(0) for _ in range(31)]; print('done', flush=True); sys.stdin.readline()\n"
    )
    import socket

    with socket.create_server(("127.0.0.1", 0)) as door:
        port = door.getsockname()[1]
    caught = Caught(tmp_path, http_ports=str(port), engine_wire_executables="")
    process = subprocess.Popen(
        [sys.executable, "-c", listen, str(port)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdin and process.stdout
    probe = syscall.Probe(caught.context)
    try:
        process.stdin.write("go\n")
        process.stdin.flush()
        process.stdout.readline()
        found = calls_of(probe, "umask", 31)
    finally:
        probe.close()
        process.communicate()
    assert found == 31


def test_names_are_those_of_the_kernels_header() -> None:
    header = Path("/usr/include/x86_64-linux-gnu/asm/unistd_64.h")
    if not header.exists():
        pytest.skip("no header of Linux with the numbers of system calls")
    lines = [line.split() for line in header.read_text().splitlines() if line.startswith("#define __NR_")]
    assert {int(number): name.removeprefix("__NR_") for _, name, number in lines}.items() <= NAMES.items()
