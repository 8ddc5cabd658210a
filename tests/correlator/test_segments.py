"""Segments whose bytes rot: their footer when the day is opened, their pages before they are merged and once a day."""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path

import pytest

from correlator.storage import segments
from correlator.storage import upkeep as upkeep_module
from correlator.storage.salvage import heal
from correlator.storage.segments import ROWS
from correlator.storage.store import Store
from correlator.storage.upkeep import Upkeep
from tests.correlator.storing import DAY, KERNEL, NOON, kernels, small
from warpline.errors import StoreError


def count(store: Store, where: str = "true") -> int:
    return int(store.query(f"SELECT count(*) FROM gpu_kernel WHERE {where}").column(0)[0].as_py())


def flip(path: Path, at: int) -> None:
    """Flip a bit of the byte at `at`, counted from the end where it is negative."""
    rotten = bytearray(path.read_bytes())
    rotten[at] ^= 0x10
    path.write_bytes(rotten)


def files_of(store: Store) -> list[Path]:
    return sorted(store.days[20_000].directory.glob("*.parquet"))


def two_segments(state_dir: Path) -> tuple[Store, Path]:
    """Return a store with two segments of ROWS rows, and the file of the first."""
    store = Store(small(state_dir))
    store.write([kernels("a/1/1", ROWS)])
    store.write([kernels("a/1/2", ROWS, NOON + DAY // 4)])
    return store, files_of(store)[0]


def end_of(path: Path) -> int:
    """Return how many bytes the footer has, with its length and its magic number."""
    return int.from_bytes(path.read_bytes()[-8:-4], "little") + 8


def test_each_flipped_byte_of_a_footer_is_seen_when_the_segment_is_looked_at(tmp_path: Path) -> None:
    store, path = two_segments(tmp_path)
    segment, whole = store.days[20_000].segments[path.name], path.read_bytes()
    assert segments.look(path, segment) is None
    for at in range(len(whole) - end_of(path), len(whole)):
        flip(path, at)
        assert segments.look(path, segment) == "its footer has another checksum than when it was written", at
        path.write_bytes(whole)
    path.write_bytes(whole[:-1])
    assert segments.look(path, segment) == f"it has {len(whole) - 1} bytes in place of {len(whole)}"


@pytest.mark.parametrize("place", ["first", "middle", "length", "last"])
def test_a_footer_that_rots_is_named_with_its_rows_when_the_day_is_opened(tmp_path: Path, place: str) -> None:
    store, path = two_segments(tmp_path)
    store.close()
    end = end_of(path)
    flip(path, {"first": -end, "middle": -end // 2, "length": -7, "last": -1}[place])
    store = Store(small(tmp_path))
    assert store.losses == {f"segment damaged: 2024-10-04/{path.name}": ROWS} and count(store) == ROWS
    assert path.with_name(f"{path.name}.damaged").exists() and not path.exists()
    store.write([kernels("a/1/1", ROWS)])
    assert count(store) == ROWS, "the ledger still knows its batch"
    store.close()
    store = Store(small(tmp_path))
    assert store.losses == {} and count(store) == ROWS, "it is counted once"


def test_statistics_that_would_hide_rows_in_silence_are_seen(tmp_path: Path) -> None:
    store, path = two_segments(tmp_path)
    late = f"start_ns >= {NOON + 1000 * 10_000} AND start_ns < {NOON + DAY // 8}"
    assert count(store, late) == ROWS - 1000
    high_ns = store.days[20_000].segments[path.name].high_ns
    store.close()
    whole = path.read_bytes()
    at = whole.rindex(high_ns.to_bytes(8, "little"))
    assert at >= len(whole) - end_of(path)
    path.write_bytes(whole[:at] + (NOON + 1).to_bytes(8, "little") + whole[at + 8 :])
    store = Store(small(tmp_path))
    assert store.losses.total() == ROWS and count(store, late) == 0


def test_a_segment_that_is_gone_is_named_when_the_day_is_opened(tmp_path: Path) -> None:
    store, path = two_segments(tmp_path)
    store.close()
    path.unlink()
    store = Store(small(tmp_path))
    assert store.losses == {f"segment damaged: 2024-10-04/{path.name}": ROWS} and count(store) == ROWS


def test_a_segment_that_cannot_be_opened_for_another_reason_is_not_called_damaged(tmp_path: Path) -> None:
    store, path = two_segments(tmp_path)
    segment = store.days[20_000].segments[path.name]
    loop = path.with_name("loop")
    loop.symlink_to(loop)  # ELOOP, as EMFILE would be: it says nothing of the bytes.
    assert segments.look(loop, segment) is None and segments.verify(loop, segment) is None
    assert "No such file" in str(segments.look(path.with_name("none"), segment))


def test_lines_of_an_older_store_have_no_checksums_until_they_are_merged(tmp_path: Path) -> None:
    store, _ = two_segments(tmp_path)
    for column in ("footer_crc32", "file_crc32"):
        store.writer.execute(f"ALTER TABLE day_20241004.segment DROP COLUMN {column}")
    store.close()
    store = Store(small(tmp_path))
    assert {each.footer_crc32 for each in store.days[20_000].segments.values()} == {None}
    assert store.losses == {} and count(store) == 2 * ROWS and heal(store) == []
    day = store.days[20_000]
    Upkeep(store.settings, store).merge(day, KERNEL, list(day.segments.values()))
    store.close()
    store = Store(small(tmp_path))
    (merged,) = store.days[20_000].segments.values()
    assert merged == segments.summed(merged, files_of(store)[0]) and merged.file_crc32 is not None
    assert store.losses == {} and count(store) == 2 * ROWS


def test_a_page_that_rots_is_found_before_it_is_merged(tmp_path: Path) -> None:
    store, path = two_segments(tmp_path)
    flip(path, path.stat().st_size // 4)
    day, upkeep = store.days[20_000], Upkeep(store.settings, store)
    with pytest.raises(StoreError, match=f"{path.name}: it has another checksum.*is not merged"):
        upkeep.merge(day, KERNEL, list(day.segments.values()))
    assert store.suspect.is_set() and len(day.segments) == 2
    (said,) = heal(store)
    assert f"{ROWS} rows of gpu_kernel are lost" in said and count(store) == ROWS
    upkeep.merge(day, KERNEL, list(day.segments.values()))
    assert count(store) == ROWS and store.losses.total() == ROWS


def test_files_that_nobody_reads_are_looked_at_once_a_day(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store, _ = two_segments(tmp_path)
    day, upkeep = store.days[20_000], Upkeep(store.settings, store)
    upkeep.merge(day, KERNEL, list(day.segments.values()))  # DuckDB gives its pages no checksums.
    store.write([kernels("a/1/3", ROWS, NOON + DAY // 8)])
    merged = next(path for path in files_of(store) if "sorted" in path.name)
    flip(merged, merged.stat().st_size // 4)
    upkeep.look_at_files()
    assert not store.suspect.is_set(), "they were written today"
    for path in files_of(store):
        os.utime(path, (time.time() - 90_000,) * 2)
    monkeypatch.setattr(upkeep_module, "_LOOK_BYTES", 1)
    upkeep.look_at_files()
    first = set(upkeep._looked)
    assert len(first) == 1, "no more in one round than it may cost"
    for _ in range(2 * sum(path.stat().st_size for path in files_of(store))):
        if len(upkeep._looked) == 2:
            break
        upkeep.look_at_files()
    assert store.suspect.is_set() and len(upkeep._looked) == 2
    (said,) = heal(store)
    assert merged.name in said and count(store) == ROWS and store.losses.total() == 2 * ROWS


def test_a_day_that_was_being_dropped_is_gone_after_a_restart(tmp_path: Path) -> None:
    store, path = two_segments(tmp_path)
    reading = store.view("gpu_kernel")
    store.drop_day(20_000)
    assert path.exists() and count(store) == 0
    lies_here = tmp_path / "store"
    shutil.copytree(lies_here, tmp_path / "other" / "store")  # As a SIGKILL now would leave it.
    again = Store(small(tmp_path / "other"))
    assert count(again) == 0 and again.losses == {} and again.days == {}
    assert not list((tmp_path / "other").rglob("*.parquet")) and not list((tmp_path / "other").rglob("*.dropped"))
    del reading
    again.write([kernels("a/1/1", ROWS)])
    assert count(again) == ROWS


def test_late_rows_of_a_day_that_is_still_read_as_it_was_dropped_are_kept(tmp_path: Path) -> None:
    store, path = two_segments(tmp_path)
    reading = store.view("gpu_kernel")
    store.drop_day(20_000)
    store.write([kernels("a/1/3", ROWS)])
    assert count(store) == ROWS
    del reading  # Nobody read any of it.
    assert count(store) == ROWS and not path.exists() and not list((tmp_path / "store").glob("*.dropped"))
    store.close()
    store = Store(small(tmp_path))
    assert count(store) == ROWS and store.losses == {}


def test_a_day_file_and_a_footer_that_are_gone_together_are_both_named(tmp_path: Path) -> None:
    store, path = two_segments(tmp_path)
    store.close()
    (tmp_path / "store" / "2024-10-04.duckdb").unlink()
    flip(path, -1)
    kept = path.read_bytes()
    store = Store(small(tmp_path))
    lost = {"day file damaged: 2024-10-04.duckdb": 1, f"segment damaged: 2024-10-04/{path.name}": 1}
    assert store.losses == lost and count(store) == ROWS
    assert path.with_name(f"{path.name}.damaged").read_bytes() == kept
    store.close()
    store = Store(small(tmp_path))
    assert count(store) == ROWS and store.losses == {}
