import time
from pathlib import Path

import numpy as np

from warpline import clock
from warpline.clock import NodeClock


def test_node_time_reads_as_unix_time(tmp_path: Path) -> None:
    assert abs(NodeClock(tmp_path).now_ns() - time.time_ns()) < 1_000_000_000


def test_every_clock_of_a_boot_takes_the_same_anchor(tmp_path: Path) -> None:
    first = NodeClock(tmp_path)
    time.sleep(0.01)
    assert NodeClock(tmp_path).anchor_ns == first.anchor_ns


def test_an_anchor_kept_on_disk_survives_a_step_of_realtime(tmp_path: Path) -> None:
    (tmp_path / f"clock-anchor-{clock.boot_id()}").write_text("12345")
    stepped = NodeClock(tmp_path)
    assert stepped.from_monotonic(100) == 12445


def test_a_reading_of_all_clocks_bounds_how_far_apart_they_were_read() -> None:
    pair = clock.read_pair()
    assert 0 < pair.half_width_ns < 1_000_000
    assert abs(pair.realtime_ns - time.time_ns()) < 1_000_000_000


def test_boottime_and_realtime_become_the_same_node_time_as_monotonic(tmp_path: Path) -> None:
    node = NodeClock(tmp_path)
    boot, real = time.clock_gettime_ns(time.CLOCK_BOOTTIME), time.clock_gettime_ns(time.CLOCK_REALTIME)
    now = node.now_ns()
    assert 0 <= now - node.from_boottime(boot) < 10_000_000
    assert 0 <= now - node.from_realtime(real) < 10_000_000


def test_arrays_are_converted_as_arrays(tmp_path: Path) -> None:
    node = NodeClock(tmp_path)
    times = np.array([1, 2, 3], np.int64)
    assert node.from_monotonic(times).tolist() == [node.from_monotonic(int(t)) for t in times]
