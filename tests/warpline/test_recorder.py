"""The flight recorder: fine rows stay on the node until their window is asked for, and then go out once."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from tests.waiting import until
from tests.warpline.test_export import Receiver, settings
from warpline import schema
from warpline.batch import Batch
from warpline.export import OUT_OF_REACH, Exporter
from warpline.recorder import DAMAGED, DISK_FAILED, Recorder

SYSCALL = schema.table("syscall")
SECOND = 1_000_000_000


def fine(first: int, rows: int = 1, batch_id: str = "") -> Batch:
    columns = {"start_ns": np.arange(first, first + rows), "node": "n", "name": "read"}
    return Batch(SYSCALL, SYSCALL.batch(columns), batch_id, fine=True)


def times(batches: list[Batch]) -> list[int]:
    return sorted(each for batch in batches for each in batch.rows["start_ns"].to_pylist())


@pytest.fixture
def door() -> Iterator[Receiver]:
    made = Receiver()
    yield made
    made.close()


def test_a_window_is_handed_out_once_with_the_ids_that_its_batches_got(tmp_path: Path) -> None:
    ring = Recorder(tmp_path, 1 << 20, 0)
    for second in range(23):
        ring.put(fine(second * SECOND, 3, f"n/{second}"))
    found = list(ring.take(5 * SECOND, 8 * SECOND))
    assert [each.batch_id for each in found] == ["n/5", "n/6", "n/7"]
    assert times(found) == [second * SECOND + k for second in (5, 6, 7) for k in range(3)]
    assert [each.batch_id for each in ring.take(7 * SECOND, 10 * SECOND)] == ["n/8", "n/9"]


def test_the_ring_keeps_the_newest_and_says_how_far_it_reaches(tmp_path: Path) -> None:
    ring = Recorder(tmp_path, 1 << 20, 0)
    assert ring.reach_ns == 0
    rng = np.random.default_rng(7)
    for second in range(100):
        columns = {"start_ns": second * SECOND + np.arange(2000), "node": "n", "name": "read"}
        noise = {"result": rng.integers(0, 1 << 60, 2000)}
        ring.put(Batch(SYSCALL, SYSCALL.batch(columns | noise), f"n/{second}", fine=True))
    assert ring.bytes <= 1 << 20
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) == ring.bytes
    first = ring.reach_ns // SECOND
    assert 10 < first < 99
    assert [each.batch_id for each in ring.take(0, 100 * SECOND)] == [f"n/{k}" for k in range(first, 100)]


def test_what_it_held_outlives_the_process_and_damage_is_counted(tmp_path: Path) -> None:
    ring = Recorder(tmp_path, 1 << 20, 0)
    for second in range(5):
        ring.put(fine(second * SECOND, 1, f"n/{second}"))
    ring.close()
    file = next(tmp_path.glob("*.ring"))
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 0xFF
    file.write_bytes(data)
    again = Recorder(tmp_path, 1 << 20, 99 * SECOND)
    assert again.reach_ns == 0
    again.put(fine(7 * SECOND, 1, "m/1"))
    assert [each.batch_id for each in again.take(0, 9 * SECOND)] == ["n/0", "n/1", "n/3", "n/4", "m/1"]
    assert again.losses[DAMAGED] >= 1


def test_a_disk_that_fails_costs_counted_rows_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "recorder").write_text("a file where the directory should be")
    ring = Recorder(tmp_path / "recorder", 1 << 20, 0)
    ring.put(fine(1, 3, "n/1"))
    assert list(ring.take(0, 9)) == []
    assert ring.losses[DISK_FAILED] >= 3


def test_fine_rows_leave_only_in_windows_that_are_asked_for_and_ordinary_ones_always(
    tmp_path: Path, door: Receiver
) -> None:
    asked: list[tuple[int, int]] = []
    ring = Recorder(tmp_path / "ring", 1 << 20, 0)
    exporter = Exporter(settings(tmp_path, door.url), "n", ring, lambda: list(asked))
    for second in range(10):
        exporter.emit(fine(second * SECOND))
        until(lambda: ring.bytes > 0 and not exporter._pending)
    exporter.emit(Batch(SYSCALL, fine(50 * SECOND).rows))
    until(lambda: door.times() == [50 * SECOND])
    asked.append((3 * SECOND, 6 * SECOND))
    until(lambda: len(door.times()) >= 4)
    exporter.emit(fine(5 * SECOND + 1))  # It comes late, in a window that is known: it need not go by the ring.
    asked.append((4 * SECOND, 7 * SECOND))
    until(lambda: len(door.times()) >= 6)
    asked.clear()
    asked.append((3 * SECOND, 6 * SECOND))
    exporter.emit(fine(99 * SECOND))
    assert exporter.close(10)
    # A batch may hold two of these rows where the packer was slow: whole batches go, so a neighbour may come along.
    assert set(door.times()) >= {second * SECOND for second in (3, 4, 5, 6)} | {5 * SECOND + 1, 50 * SECOND}
    assert 99 * SECOND not in door.times()
    assert set(door.ids().values()) == {1}
    assert exporter.kept_rows >= 4


def test_a_window_that_the_ring_does_not_reach_is_a_counted_loss(tmp_path: Path, door: Receiver) -> None:
    ring = Recorder(tmp_path / "ring", 1 << 20, 100 * SECOND)
    exporter = Exporter(settings(tmp_path, door.url), "n", ring, lambda: [(40 * SECOND, 160 * SECOND)])
    until(lambda: bool(door.losses()))
    assert exporter.close(10)
    assert door.losses() == {OUT_OF_REACH: 1}
    row = next(b for b in door.batches if b.table.name == "loss").rows.to_pylist()[0]
    assert (row["source"], row["start_ns"], row["end_ns"]) == ("recorder", 40 * SECOND, 100 * SECOND)


def test_what_is_fine_where_nothing_records_is_sent(tmp_path: Path, door: Receiver) -> None:
    exporter = Exporter(settings(tmp_path, door.url), "n")
    exporter.emit(fine(1))
    assert exporter.close(10)
    assert door.times() == [1]
