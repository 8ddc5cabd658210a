"""The store on real files: once and only once, day by day, whatever is damaged or full."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import duckdb
import pyarrow as pa
import pytest

from correlator.storage import parts
from correlator.storage.day import REFUSED
from correlator.storage.salvage import heal
from correlator.storage.segments import ROWS
from correlator.storage.store import MISFIT, DiskFull, Store
from tests.correlator.storing import DAY, KERNEL, NOON, SYSCALL, count, kernels, numbers, small, syscalls
from warpline import schema
from warpline.batch import Batch
from warpline.errors import SchemaError, StoreError


def test_few_rows_and_many_are_read_back_as_they_were_written(tmp_path: Path) -> None:
    store = Store(small(tmp_path))
    few, many = kernels("a/1/1", 10), kernels("a/1/2", ROWS, NOON + DAY // 4)
    store.write([few])
    store.write([many])
    assert list(store.days[20_000].segments) and "gpu_kernel" in store.days[20_000].tables
    found = store.view("gpu_kernel", {"order": "start_ns"}).read_all()
    wanted = pa.Table.from_batches([few.rows, many.rows]).unify_dictionaries()
    for name in found.column_names:
        assert found[name].to_pylist() == wanted[name].to_pylist(), name


def test_a_store_that_is_closed_lets_a_read_of_another_thread_end_first(tmp_path: Path) -> None:
    store = Store(small(tmp_path))
    cursor, begun, sums = store.cursor(), threading.Event(), []
    cursor.create_function("begin", lambda number: begun.set() or number, [int], int)  # type: ignore[func-returns-value]
    long = "SELECT sum(a * b) FROM range(10000) AS x (a), range(2000) AS y (b) WHERE a < begin(1) + 10000"
    reading = threading.Thread(target=lambda: sums.append(cursor.execute(long).fetchone()))
    reading.start()
    assert begun.wait(20)
    store.close()
    reading.join(20)
    assert sums == [(sum(range(10_000)) * sum(range(2_000)),)]


@pytest.mark.parametrize("table", schema.TABLES, ids=lambda table: str(table.name))
def test_every_declared_table_is_stored_with_every_column(tmp_path: Path, table: schema.Table) -> None:
    samples = {
        "INT": 5, "FLOAT": 0.5, "BOOL": True, "TEXT": "t", "NAME": "n", "TRACE_ID": b"\x01" * 16, "SPAN_ID": 1 << 63,
        "COUNTS": [[1, 2]], "JSON": '{"a": 1}', "JSON_NAME": '{"b": 2}',
    }  # fmt: skip
    columns = {c.name: samples[c.type.name] for c in table.columns} | {table.time: NOON}
    batch = Batch(table, table.batch(columns, 1), "a/1/1")
    store = Store(small(tmp_path))
    store.write([batch])
    row = store.view(table.name).read_all().to_pylist()[0]
    for column in table.columns:
        wanted = batch.rows[column.name].to_pylist()[0]
        assert row[column.name] == (str(wanted) if column.type is schema.Type.TRACE_ID else wanted), column.name
    assert store.losses == {}


def test_a_batch_that_comes_twice_is_stored_once_even_after_a_restart(tmp_path: Path) -> None:
    store = Store(small(tmp_path))
    store.write([syscalls("a/1/1", range(5)), syscalls("a/1/1", range(5)), kernels("a/1/2", ROWS)])
    store.write([syscalls("a/1/1", range(5)), kernels("a/1/2", ROWS)])
    store.close()
    store = Store(small(tmp_path))
    store.write([syscalls("a/1/1", range(5)), kernels("a/1/2", ROWS), syscalls("a/1/3", [5])])
    assert numbers(store) == list(range(6)) and count(store) == ROWS


def test_a_batch_over_midnight_is_split_and_each_part_stored_once(tmp_path: Path) -> None:
    store = Store(small(tmp_path))
    midnight = 20_001 * DAY
    over = syscalls("a/1/1", range(10), midnight - 5_000_000)
    store.write([over])
    store.write([over])
    assert sorted(store.days) == [20_000, 20_001] and numbers(store) == list(range(10))
    assert count(store, "day_20241004.syscall") == count(store, "day_20241005.syscall") == 5


def test_late_rows_go_to_their_own_day(tmp_path: Path) -> None:
    store = Store(small(tmp_path))
    store.write([syscalls("a/1/2", [2], NOON + 3 * DAY)])
    store.write([syscalls("a/1/1", [1], NOON)])
    assert sorted(store.days) == [20_000, 20_003] and numbers(store) == [1, 2]


def test_rows_that_do_not_fit_are_counted_and_cost_nobody_else(tmp_path: Path) -> None:
    store = Store(small(tmp_path))
    headless = SYSCALL.batch({"start_ns": [NOON] * 3, "node": "n", "name": ["a", "b", "c"]})
    field = headless.schema.field("name")
    nameless = headless.set_column(headless.schema.names.index("name"), field, pa.nulls(3, field.type))
    utf8 = pa.Array.from_buffers(pa.string(), 1, [None, pa.py_buffer(b"\0\0\0\0\2\0\0\0"), pa.py_buffer(b"\xff\xfe")])
    bad_text = schema.table("log_record").batch({"time_ns": [NOON], "body": utf8})
    odd_json = schema.table("log_record").batch({"time_ns": [NOON], "attributes": ["{not json"]})
    store.write(
        [
            Batch(SYSCALL, nameless, "a/1/1"),
            Batch(schema.table("log_record"), bad_text, "a/1/2"),
            Batch(schema.table("log_record"), odd_json, "a/1/3"),
            syscalls("a/1/4", range(3)),
        ]
    )
    assert store.losses == {MISFIT: 4, REFUSED: 1} and numbers(store) == [0, 1, 2]


def test_columns_that_an_older_sender_lacks_are_null(tmp_path: Path) -> None:
    store = Store(small(tmp_path))
    rows = kernels("a/1/1", 3).rows.drop_columns(["cuda_stream", "name"])
    store.write([Batch(KERNEL, rows, "a/1/1")])
    assert store.query("SELECT count(name), count(cuda_stream), count(*) FROM gpu_kernel").to_pylist() == [
        {'count("name")': 0, "count(cuda_stream)": 0, "count_star()": 3}
    ]


def test_a_day_written_by_a_newer_version_is_refused_with_a_sentence(tmp_path: Path) -> None:
    store = Store(small(tmp_path))
    store.write([syscalls("a/1/1", [1])])
    store.writer.execute("UPDATE day_20241004.about SET schema_version = 999")
    store.close()
    with pytest.raises(StoreError, match=r"written by schema version 999.*run the newer Warpline"):
        Store(small(tmp_path))


def test_a_store_has_one_owner_and_a_second_one_changes_nothing(tmp_path: Path) -> None:
    store = Store(small(tmp_path))
    store.write([kernels("a/1/1", 10)])
    before = sorted(store.root.rglob("*"))
    with pytest.raises(StoreError, match=f"process {os.getpid()} has it open; stop that one first"):
        Store(small(tmp_path))
    assert sorted(store.root.rglob("*")) == before and count(store, "gpu_kernel") == 10
    store.close()
    again = Store(small(tmp_path))
    assert count(again, "gpu_kernel") == 10
    again.close()


def test_a_day_file_that_another_program_has_open_is_not_taken_for_a_damaged_one(tmp_path: Path) -> None:
    store = Store(small(tmp_path))
    store.write([kernels("a/1/1", 10)])
    store.close()
    (file,) = store.root.glob("*.duckdb")
    code = f"import duckdb; it = duckdb.connect({str(file)!r}, read_only=True); print('open', flush=True); input()"
    other = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    with other:
        assert other.stdout is not None and other.stdout.readline() == "open\n"
        with pytest.raises(StoreError, match=f"{file.name}: another program has it open.*{other.pid}"):
            Store(small(tmp_path))
        other.communicate("\n")
    assert list(store.root.glob("*.damaged*")) == []
    assert count(Store(small(tmp_path)), "gpu_kernel") == 10


def test_a_column_added_since_is_added_to_the_files(tmp_path: Path) -> None:
    store = Store(small(tmp_path))
    store.write([syscalls("a/1/1", [1])])
    store.writer.execute("ALTER TABLE day_20241004.syscall DROP COLUMN descriptor")
    store.close()
    store = Store(small(tmp_path))
    store.write([syscalls("a/1/2", [2])])
    assert numbers(store) == [1, 2] and store.view("syscall").read_all()["descriptor"].null_count == 2


def test_a_damaged_day_file_costs_its_rows_and_is_named_while_segments_survive(tmp_path: Path) -> None:
    store = Store(small(tmp_path))
    store.write([syscalls("a/1/1", range(5)), kernels("a/1/2", ROWS), syscalls("a/1/3", [9], NOON + DAY)])
    store.close()
    file = tmp_path / "store" / "2024-10-04.duckdb"
    file.write_bytes(b"\0" * 8192 + file.read_bytes()[8192:])
    store = Store(small(tmp_path))
    assert store.losses == {"day file damaged: 2024-10-04.duckdb": 1}
    assert numbers(store) == [9] and count(store) == ROWS
    store.write([kernels("a/1/2", ROWS)])
    assert count(store) == ROWS, "the ledger was made anew from the segments"
    assert list((tmp_path / "store").glob("2024-10-04.duckdb.damaged-*"))


def rot(store: Store, state: Path, table: str, column: str) -> None:
    """Close the store, and flip a byte in the last block of a column of a day's table."""
    store.checkpoint()
    block = store.query(
        f"SELECT max(block_id) AS b FROM pragma_storage_info('day_20241004.{table}') WHERE column_name = '{column}'"
    )
    at = 3 * 4096 + block["b"][0].as_py() * (1 << 18) + 64
    store.close()
    file = state / "store" / "2024-10-04.duckdb"
    rotten = bytearray(file.read_bytes())
    rotten[at] ^= 0xFF
    file.write_bytes(rotten)


def test_a_block_that_rots_costs_its_table_alone_and_is_named_with_its_rows(tmp_path: Path) -> None:
    store = Store(small(tmp_path))
    for first in range(0, 20_000, 5_000):  # Each too few rows for a segment.
        store.write([syscalls(f"a/1/1/{first}", range(first, first + 5_000))])
    store.write([kernels("a/1/2", 10), kernels("a/1/3", ROWS)])
    store.write([syscalls("a/1/4", [77], NOON + DAY)])
    rot(store, tmp_path, "syscall", "result")
    store = Store(small(tmp_path))
    with pytest.raises(StoreError, match=r"(?i)corrupt"):
        numbers(store)
    assert store.suspect.is_set()
    (said,) = heal(store)
    assert "20000 rows of syscall are lost" in said and "2024-10-04.duckdb" in said
    assert numbers(store) == [77] and count(store) == ROWS + 10
    assert store.losses == {"day file damaged: 2024-10-04.duckdb: syscall": 20_000}
    store.write([kernels("a/1/2", 10), kernels("a/1/3", ROWS), syscalls("a/1/5", [5])])
    assert count(store) == ROWS + 10 and numbers(store) == [5, 77], "the ledger was saved"


def test_a_ledger_that_rots_costs_the_rows_that_are_in_no_segment(tmp_path: Path) -> None:
    store = Store(small(tmp_path))
    store.write([syscalls("a/1/1", [1, 2, 3]), kernels("a/1/2", ROWS)])
    rot(store, tmp_path, "ledger", "row_count")
    store = Store(small(tmp_path))
    (said,) = heal(store)
    assert "2024-10-04.duckdb" in said and "3 rows" in said
    assert numbers(store) == [] and count(store) == ROWS
    assert store.losses == {"day file damaged: 2024-10-04.duckdb": 3}
    store.write([kernels("a/1/2", ROWS), syscalls("a/1/3", [5])])
    store.checkpoint()
    assert count(store) == ROWS and numbers(store) == [5]


def test_a_day_file_that_is_gone_is_made_anew_from_its_segments(tmp_path: Path) -> None:
    store = Store(small(tmp_path))
    store.write([kernels("a/1/1", ROWS)])
    store.close()
    (tmp_path / "store" / "2024-10-04.duckdb").unlink()
    store = Store(small(tmp_path))
    assert count(store) == ROWS, "they are read before anything is written to their day"
    assert store.losses == {"day file damaged: 2024-10-04.duckdb": 1}
    store.write([kernels("a/1/1", ROWS), kernels("a/1/2", ROWS)])
    assert count(store) == 2 * ROWS


def test_a_segment_that_rots_is_set_aside_and_named_with_its_rows(tmp_path: Path) -> None:
    store, rows = Store(small(tmp_path)), 4 * ROWS  # So many that the middle of the file is a page.
    store.write([kernels("a/1/1", rows)])
    store.write([kernels("a/1/2", rows)])
    first = sorted(store.days[20_000].directory.iterdir())[0]
    rotten = bytearray(first.read_bytes())
    rotten[len(rotten) // 2] ^= 0xFF
    first.write_bytes(rotten)
    (said,) = heal(store)
    assert f"{rows} rows of gpu_kernel are lost" in said
    assert count(store) == rows and store.losses.total() == rows
    assert first.with_name(first.name + ".damaged").exists()
    store.close()
    assert count(Store(small(tmp_path))) == rows


def test_reads_go_on_while_a_day_is_dropped(tmp_path: Path) -> None:
    store = Store(small(tmp_path))
    store.write([kernels("a/1/1", 3 * ROWS), kernels("a/1/2", 3 * ROWS, NOON + DAY)])
    reading = store.view("gpu_kernel")
    first = next(reading)
    directory = tmp_path / "store" / "2024-10-04"
    store.drop_day(20_000)
    assert count(store) == 3 * ROWS and list(directory.iterdir()), "who reads it still has it"
    assert first.num_rows + sum(batch.num_rows for batch in reading) == 6 * ROWS
    assert not list(directory.iterdir())


def test_a_disk_below_its_reserve_refuses_and_says_so(tmp_path: Path) -> None:
    store = Store(small(tmp_path, correlator_disk_reserve_mb=1 << 40))
    with pytest.raises(DiskFull, match="are free"):
        store.write([syscalls("a/1/1", [1])])


def test_a_store_that_duckdb_gave_up_on_is_opened_again_by_the_next_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(small(tmp_path))
    store.write([syscalls("a/1/1", [1])])
    real, failures = store._read, []

    def dies_once(sql: str, *others: object) -> pa.RecordBatchReader:
        if not failures:
            failures.append(sql)
            raise duckdb.FatalException("FATAL Error: database has been invalidated")
        return real(sql, *others)

    monkeypatch.setattr(store, "_read", dies_once)
    assert numbers(store) == [1] and failures


def test_an_unlisted_segment_of_a_crash_is_removed_at_the_next_start(tmp_path: Path) -> None:
    store = Store(small(tmp_path))
    store.write([kernels("a/1/1", ROWS)])
    store.close()
    directory = tmp_path / "store" / "2024-10-04"
    (listed,) = directory.iterdir()
    (directory / "gpu_kernel-000077.parquet").write_bytes(listed.read_bytes())
    store = Store(small(tmp_path))
    assert count(store) == ROWS and list(directory.iterdir()) == [listed]


def test_a_batch_that_no_day_can_take_is_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("correlator.storage.store._MOST_DAYS", 2)
    store = Store(small(tmp_path))
    store.write([syscalls(f"a/1/{n}", [n], NOON + n * DAY) for n in range(4)])
    assert numbers(store) == [0, 1] and store.losses == {"rows of too many different days": 2}


def test_a_column_that_may_not_be_null_is_named() -> None:
    rows = SYSCALL.batch({"start_ns": [NOON], "node": "n", "name": ["a"]})
    index = rows.schema.names.index("node")
    broken = rows.set_column(index, rows.schema.field(index), pa.nulls(1, rows.schema.field(index).type))
    with pytest.raises(SchemaError, match="column node: is NULL"):
        list(parts.split(SYSCALL, [Batch(SYSCALL, broken, "a/1/1")]))
