"""The spool on real files: what it acknowledged is there again, what was damaged is counted, the rest survives."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path

import pytest

from warpline import record, schema
from warpline.batch import Batch
from warpline.errors import StoreError
from warpline.spool import DAMAGED, TORN, Full, Position, Spool

LOSS = schema.table("loss")
LIMIT = 1 << 30


def batch(number: int, rows: int = 3) -> Batch:
    row = {"start_ns": number, "node": "n", "source": "s", "reason": "r", "lost": list(range(rows))}
    return Batch(LOSS, LOSS.batch(row), f"n/1/{number}")


def ids(spool: Spool, start: Position | None = None) -> list[str]:
    return [each.batch_id for _, batches in spool.read(start) for each in batches]


def segment(directory: Path, number: int = 1) -> Path:
    return directory / f"{number:010d}.spool"


def record_starts(path: Path) -> list[int]:
    return [found.start for found in record.scan(memoryview(path.read_bytes()), 0)]


def test_what_was_appended_is_read_again_in_order_with_its_rows(tmp_path: Path) -> None:
    spool = Spool(tmp_path, LIMIT)
    spool.append([batch(1), batch(2, rows=7)])
    spool.append([batch(3)])
    read = [each for _, batches in spool.read() for each in batches]
    assert [each.batch_id for each in read] == ["n/1/1", "n/1/2", "n/1/3"]
    assert read[1].rows.equals(batch(2, rows=7).rows) and read[1].table is LOSS


def test_columns_without_a_value_take_no_room_and_are_null_when_read() -> None:
    table = schema.table("span")
    ids = {"start_ns": list(range(512)), "trace_id": [bytes([7] * 16)] * 512, "span_id": list(range(1, 513))}
    few, all_ = table.batch(ids), table.batch({**ids, "end_ns": [None] * 511 + [5], "path": ["/v1"] * 512})
    bodies = [record.pack(Batch(table, rows, "a")) for rows in (few, all_)]
    read = [record.unpack(memoryview(names + body.to_pybytes())).rows for names, body in bodies]
    assert read == [few, all_] and all(rows.schema == table.arrow for rows in read)
    assert bodies[0][1].size < 512 * 36
    nothing = record.unpack(
        memoryview(b"".join(bytes(each) for each in record.pack(Batch(table, few.slice(0, 0), "a"))))
    )
    assert nothing.rows.num_rows == 0 and nothing.rows.schema == table.arrow


def test_a_reader_that_keeps_up_reads_no_file(tmp_path: Path) -> None:
    spool = Spool(tmp_path, LIMIT, keep_bytes=1 << 20)
    mine = batch(1)
    spool.append([mine])
    segment(tmp_path).write_bytes(b"")
    assert next(spool.read())[1][0].rows is mine.rows


def test_batches_beyond_the_memory_bound_are_read_from_the_file(tmp_path: Path) -> None:
    spool = Spool(tmp_path, LIMIT, keep_bytes=batch(1).rows.nbytes + 1)
    spool.append([batch(1), batch(2), batch(3)])
    assert ids(spool) == ["n/1/1", "n/1/2", "n/1/3"]
    assert ids(spool) == ["n/1/1", "n/1/2", "n/1/3"]


def test_reading_goes_on_after_a_position(tmp_path: Path) -> None:
    spool = Spool(tmp_path, LIMIT)
    spool.append([batch(1)])
    position, _ = next(spool.read())
    spool.append([batch(2)])
    assert ids(spool, position) == ["n/1/2"]
    assert spool.wait(position, 0) and not spool.wait(next(spool.read(position))[0], 0)


def test_a_reopened_spool_hands_out_what_was_not_released(tmp_path: Path) -> None:
    spool = Spool(tmp_path, LIMIT)
    spool.append([batch(1)])
    position, _ = next(spool.read())
    spool.append([batch(2)])
    spool.release(position)
    spool.close()
    assert ids(Spool(tmp_path, LIMIT)) == ["n/1/2"]


def test_released_segments_are_deleted(tmp_path: Path) -> None:
    spool = Spool(tmp_path, LIMIT)
    spool.append([batch(1)])
    spool.close()
    spool = Spool(tmp_path, LIMIT)
    spool.append([batch(2)])
    before = spool.bytes
    for position, _ in spool.read():
        spool.release(position)
    assert before > 0 and spool.bytes == 0
    assert not segment(tmp_path).exists()


def test_a_full_spool_refuses_and_takes_again_after_a_release(tmp_path: Path) -> None:
    spool = Spool(tmp_path, 4096)
    taken = 0
    with pytest.raises(Full, match="retry later"):
        for taken in range(100):
            spool.append([batch(taken)])
    assert ids(spool) == [f"n/1/{n}" for n in range(taken)]
    for position, _ in spool.read():
        spool.release(position)
    spool.append([batch(99)])
    assert ids(spool) == ["n/1/99"]


def test_the_reserve_on_disk_is_left_alone(tmp_path: Path) -> None:
    spool = Spool(tmp_path, LIMIT, reserve_bytes=1 << 60)
    with pytest.raises(Full, match="free on disk"):
        spool.append([batch(1)])


def test_a_torn_tail_is_cut_off_and_counted(tmp_path: Path) -> None:
    spool = Spool(tmp_path, LIMIT)
    for number in range(3):
        spool.append([batch(number)])
    spool.close()
    whole = segment(tmp_path).read_bytes()
    segment(tmp_path).write_bytes(whole[:-5])
    spool = Spool(tmp_path, LIMIT)
    assert ids(spool) == ["n/1/0", "n/1/1"]
    assert spool.losses == {TORN: 1}
    spool.append([batch(9)])
    assert ids(spool) == ["n/1/0", "n/1/1", "n/1/9"]


@pytest.mark.parametrize("at", [2, 5, 7, 10, 12, 19, 40, 200])
def test_a_flipped_byte_costs_its_record_alone(tmp_path: Path, at: int) -> None:
    spool = Spool(tmp_path, LIMIT)
    for number in range(5):
        spool.append([batch(number)])
    spool.close()
    path = segment(tmp_path)
    content = bytearray(path.read_bytes())
    content[record_starts(path)[2] + at] ^= 0x55
    path.write_bytes(content)
    spool = Spool(tmp_path, LIMIT)
    found = ids(spool)
    assert found == ["n/1/0", "n/1/1", "n/1/3", "n/1/4"]
    assert spool.losses == {DAMAGED: 1}


def test_records_cut_out_of_the_middle_are_counted_by_their_numbers(tmp_path: Path) -> None:
    spool = Spool(tmp_path, LIMIT)
    for number in range(6):
        spool.append([batch(number)])
    spool.close()
    path = segment(tmp_path)
    starts, content = record_starts(path), path.read_bytes()
    path.write_bytes(content[: starts[1]] + content[starts[4] :])
    spool = Spool(tmp_path, LIMIT)
    assert ids(spool) == ["n/1/0", "n/1/4", "n/1/5"]
    assert spool.losses == {DAMAGED: 3}


@pytest.mark.parametrize("text", [None, "", "rubbish", "77 0", "1 999999999", "1 -3"])
def test_a_missing_or_stale_position_hands_out_all_again(tmp_path: Path, text: str | None) -> None:
    spool = Spool(tmp_path, LIMIT)
    spool.append([batch(1)])
    spool.append([batch(2)])
    spool.release(next(spool.read())[0])
    spool.append([batch(3)])
    spool.close()
    position = tmp_path / "position"
    position.unlink()
    if text is not None:
        position.write_text(text)
    assert ids(Spool(tmp_path, LIMIT)) == ["n/1/1", "n/1/2", "n/1/3"]


def test_random_bytes_in_place_of_a_segment_are_one_loss(tmp_path: Path) -> None:
    segment(tmp_path).write_bytes(bytes(range(256)) * 50 + record.MAGIC * 9)
    spool = Spool(tmp_path, LIMIT)
    assert ids(spool) == [] and spool.losses == {TORN: 1}


def test_two_processes_do_not_share_a_spool(tmp_path: Path) -> None:
    Spool(tmp_path, LIMIT)
    with pytest.raises(StoreError, match="another process uses it"):
        Spool(tmp_path, LIMIT)


def test_many_writers_lose_nothing_and_share_their_syncs(tmp_path: Path) -> None:
    spool = Spool(tmp_path, LIMIT, keep_bytes=2000)

    def write(writer: int) -> None:
        for number in range(20):
            spool.append([batch(writer * 100 + number)])

    writers = [threading.Thread(target=write, args=(writer,)) for writer in range(6)]
    for each in writers:
        each.start()
    for each in writers:
        each.join()
    assert sorted(ids(spool)) == sorted(f"n/1/{w * 100 + n}" for w in range(6) for n in range(20))


_WRITER = """
import sys
from tests.warpline.test_spool import batch
from warpline.spool import Spool
spool = Spool(sys.argv[1], 1 << 30)
for number in range(100000):
    spool.append([batch(number)])
    print(number, flush=True)
"""


def test_a_killed_writer_loses_nothing_that_append_returned_for(tmp_path: Path, root: Path) -> None:
    writer = subprocess.Popen(
        [sys.executable, "-c", _WRITER, str(tmp_path)], stdout=subprocess.PIPE, text=True, cwd=root
    )
    assert writer.stdout is not None
    for line in writer.stdout:
        if int(line) >= 50:
            break
    writer.kill()
    acknowledged = [*range(51), *map(int, writer.stdout.read().split())]
    writer.wait()
    writer.stdout.close()
    found = set(ids(Spool(tmp_path, LIMIT)))
    assert {f"n/1/{number}" for number in acknowledged} <= found
