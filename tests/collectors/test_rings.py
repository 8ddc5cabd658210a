"""Rings read back without a writer: what is under way, overrun or no ring at all; and the busy time summed from them."""

from __future__ import annotations

import os
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from collectors.rings.busy import Busy, union
from collectors.rings.ring_file import RECORD, NotARing, Ring


def _ring(path: Path, records: int = 64) -> Path:
    """A ring file as the library lays it out, without a writer."""
    raw = bytearray(4096 + 64 + records * 64)
    struct.pack_into("<8s4IQ", raw, 0, b"WLRING01", 1, 4096, 64, 64, records)
    path.write_bytes(raw)
    return path


def _put(path: Path, number: int, finished: bool = True, records: int = 64) -> None:
    rows = np.memmap(path, RECORD, "r+", 4096 + 64, (records,))
    rows[number % records]["number"] = number + 1 if finished else 0
    rows[number % records]["kind"] = 1
    head = np.memmap(path, "<u8", "r+", 128, (1,))
    head[0] = max(int(head[0]), number + 1)


def test_a_record_under_way_holds_up_those_behind_it(tmp_path: Path) -> None:
    path = _ring(tmp_path / "cuda-1.ring")
    for number in range(5):
        _put(path, number, finished=number != 2)
    with Ring(path) as ring:
        assert len(ring.take(100).records) == 2
        assert len(ring.take(100).records) == 0
        _put(path, 2)
        assert len(ring.take(100).records) == 3


def test_a_record_that_a_dead_process_never_finished_is_counted(tmp_path: Path) -> None:
    path = _ring(tmp_path / "cuda-1.ring")
    for number in range(5):
        _put(path, number, finished=number != 2)
    with Ring(path) as ring:
        assert len(ring.take(100, ended=True).records) == 2
        taken = ring.take(100, ended=True)
    assert (len(taken.records), taken.unfinished) == (2, 1)


def test_an_overrun_counts_every_record_that_is_gone(tmp_path: Path) -> None:
    path = _ring(tmp_path / "cuda-1.ring")
    for number in range(200):
        _put(path, number)
    with Ring(path) as ring:
        taken = ring.take(1000)
    assert taken.overrun + len(taken.records) == 200
    assert taken.records["number"].tolist() == list(range(201 - len(taken.records), 201))


@pytest.mark.parametrize("cut", [0, 7, 100, 4095, 5000])
def test_a_file_that_is_no_ring_is_refused(tmp_path: Path, cut: int) -> None:
    path = _ring(tmp_path / "cuda-1.ring")
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(NotARing):
        Ring(path)
    path.write_bytes(os.urandom(8192))
    with pytest.raises(NotARing):
        Ring(path)


def test_an_owner_is_known_for_as_long_as_it_lives(tmp_path: Path) -> None:
    path = _ring(tmp_path / "cuda-1.ring")
    lock = "import fcntl,sys;f=open(sys.argv[1],'r+b');fcntl.lockf(f,fcntl.LOCK_EX,1);print(1,flush=True);input()"
    command = [sys.executable, "-c", lock, str(path)]
    with Ring(path) as ring:
        assert ring.owner() is None
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
            process.stdout.readline()
            assert ring.owner() == process.pid
            process.stdin.write("\n")
            process.stdin.close()
            process.wait(10)
            assert ring.owner() is None


def test_busy_time_is_cut_at_the_second_and_summed_whole() -> None:
    busy = Busy()
    second = 1_000_000_000
    starts = np.array([second - 300, second - 100, 2 * second - 50, 5 * second], np.int64)
    ends = np.array([second - 50, second + 200, 4 * second + 50, 5 * second + 7], np.int64)
    busy.add(starts, ends, np.zeros(4, np.uint8))
    early = busy.close(4 * second)
    late = busy.close(20 * second)
    found = early + late
    low, high = union(starts, ends)
    assert sum(each.busy_ns for each in found) == int((high - low).sum())
    assert sum(each.kernel_ns for each in found) == int((ends - starts).sum())
    assert sum(each.executions for each in found) == 4
    assert len({each.start_ns for each in found}) == len(found) == 6
