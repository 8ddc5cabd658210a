"""A recorded incident, again: how much faster than it happened it is stored and joined, and what a large bundle takes.

The incident is that of a busy engine at 50,000 rows/s (the load of `bench/joins.py`). `BENCH_REPLAY_S` sets how long it
lasted: 600 is what is promised; the default is a tenth, for everyday runs. `BENCH_BUNDLE_MB` sets the size of the large
bundle: 2,000 is what is promised, the default a quarter of it.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from bench.joins import _STEPS, TABLES
from warpline import bundle, own, sample, schema
from warpline.client import Client
from warpline.settings import Settings

SECONDS = int(os.environ.get("BENCH_REPLAY_S", "60"))
BUNDLE_MB = int(os.environ.get("BENCH_BUNDLE_MB", "500"))
ROWS_PER_S = 50_000
_STEP_ROWS = 127
"""Rows of one engine step, over all tables."""
_BASE = 1_790_000_000_000_000_000
_EACH = 10_000


def run() -> None:
    """Print all figures of this group."""
    with tempfile.TemporaryDirectory() as folder:
        _replay(Path(folder))
    with tempfile.TemporaryDirectory() as folder:
        _open_large(Path(folder))


def _replay(folder: Path) -> None:
    rows = write(folder / "incident", SECONDS)
    settings = Settings(correlator_memory_limit_mb=3000, correlator_spool_mb=16384, correlator_disk_reserve_mb=0)
    with own.opened(folder / "incident", settings) as mine:
        began_s = _cpu_s(mine)
        mine.replay(0)
        took, cpu_s = mine.seconds, _cpu_s(mine) - began_s
        shares = mine.client.view("loss_total").num_rows
    keys = f"seconds={SECONDS} rows={rows} rows_per_s={rows / SECONDS:.0f} losses={shares}"
    cores = os.cpu_count() or 1
    print(f"FIGURE replay.speedup_ratio {SECONDS / took['stored']:.1f} times limit=20 {keys}", flush=True)
    # Of both processes, for all of it: what a machine with nothing else to do would need at least.
    keys += f" cpu_s={cpu_s:.1f} by_cpu_alone={SECONDS / cpu_s * cores:.1f} cores={cores}"
    print(f"FIGURE replay.correlated_ratio {SECONDS / took['joined']:.1f} times limit=4 {keys}", flush=True)


def _cpu_s(mine: own.Own) -> float:
    """Return the CPU time that this process and its correlator have used."""
    fields = (
        Path(f"/proc/{mine.children.pid('correlator')}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    )
    return time.process_time() + (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def write(directory: Path, seconds: int) -> int:
    """Write an incident of `seconds` at 50,000 rows/s as a sample trace; return how many rows it has."""
    directory.mkdir(parents=True)
    steps = seconds * ROWS_PER_S // _STEP_ROWS
    step_ns = seconds * 1_000_000_000 // steps
    rows = {name: _write_table(directory, name, sql, steps, step_ns) for name, sql in TABLES.items()}
    made = sample.Manifest(directory.name, _BASE, _BASE + seconds * 1_000_000_000, rows, "made by the bench")
    (directory / "manifest.json").write_text(made.as_json(), encoding="utf-8")
    return sum(rows.values())


def _write_table(directory: Path, name: str, sql: str, steps: int, step_ns: int) -> int:
    table, database, count = schema.table(name), duckdb.connect(), 0
    with pq.ParquetWriter(directory / f"{name}.parquet", table.arrow, compression="zstd") as writer:
        for low in range(0, steps, _EACH):
            text = (_STEPS + sql).format(base=_BASE, step=step_ns, low=low, high=min(low + _EACH, steps))
            found = database.sql(text).to_arrow_table()
            columns = {c: found[c].combine_chunks() for c in found.column_names}
            rows = pa.Table.from_batches([table.batch(columns, len(found))]).sort_by(table.time)
            writer.write_table(rows, row_group_size=65536)
            count += len(found)
    database.close()
    return count


def _open_large(folder: Path) -> None:
    """Unpack and check a large bundle in a process of its own, and read every row of it as a replay does; then store it, and
    record it again in a process of its own."""
    _large(folder / "large")
    bundle.pack(folder / "large", folder / "large.warpline")
    size = (folder / "large.warpline").stat().st_size
    began = time.perf_counter()
    rows, peak = _apart("open", str(folder))
    keys = f"limit=400 bundle_mb={size / 1e6:.0f} rows={rows}"
    print(f"FIGURE bundle.open_rss_mb {peak:.0f} MB {keys} seconds={time.perf_counter() - began:.1f}", flush=True)
    settings = Settings(correlator_memory_limit_mb=3000, correlator_spool_mb=16384, correlator_disk_reserve_mb=0)
    with own.opened(folder / "large", settings) as mine:
        sample.replay(mine.settings, mine.directory)
        while not mine.client.progress()[0]:
            time.sleep(0.2)
        before = _peak_mb(mine.children.pid("correlator"))
        began = time.perf_counter()
        again, peak = _apart("record", str(folder), mine.settings.query_url)
        seconds, correlator = time.perf_counter() - began, _peak_mb(mine.children.pid("correlator"))
    if again != rows:
        raise SystemExit(f"of {rows} rows {again} were recorded")
    size = (folder / "again.warpline").stat().st_size
    keys = f"limit=400 bundle_mb={size / 1e6:.0f} rows={again} seconds={seconds:.1f}"
    print(f"FIGURE bundle.record_rss_mb {peak:.0f} MB {keys}", flush=True)
    print(
        f"FIGURE bundle.record_correlator_rss_mb {correlator:.0f} MB before={before:.0f} memory_limit=3000", flush=True
    )


def _apart(*arguments: str) -> tuple[int, float]:
    """Run this file in a process of its own; return the rows and the MB that it tells of."""
    command = [sys.executable, "-m", "bench.replay", *arguments]
    child = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    _, rows, _, peak = child.stdout.split()
    return int(rows), float(peak)


def _large(directory: Path) -> None:
    """Write rows that hardly compress, until there are as many bytes as asked for."""
    directory.mkdir()
    table, count, chance = schema.table("syscall"), 0, np.random.default_rng(7)
    with pq.ParquetWriter(directory / "syscall.parquet", table.arrow, compression="zstd") as writer:
        while (directory / "syscall.parquet").stat().st_size < BUNDLE_MB * 1_000_000:
            start = _BASE + count + np.sort(chance.integers(0, 1 << 40, 1 << 20))
            columns = {
                "start_ns": start,
                "node": "n",
                "name": "read",
                "result": chance.integers(0, 1 << 62, len(start)),
            }
            writer.write_table(pa.Table.from_batches([table.batch(columns)]), row_group_size=65536)
            count += len(start)
    made = sample.Manifest("large", _BASE, _BASE + (1 << 41), {"syscall": count})
    (directory / "manifest.json").write_text(made.as_json(), encoding="utf-8")


def _peak_mb(pid: int | str) -> float:
    """Return the most memory that a process has had; getrusage tells of the process before exec too."""
    status = Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines()
    return int(next(line for line in status if line.startswith("VmHWM")).split()[1]) / 1000


def _opening(folder: Path) -> int:
    """Unpack the bundle and read all of it; return its rows."""
    report = bundle.unpack(folder / "large.warpline", folder / "opened")
    return sum(batch.rows.num_rows for batch in sample.batches(folder / "opened", report.manifest))


def _recording(folder: Path, url: str) -> int:
    """Record what a correlator stored of the large bundle, pack it, and return its rows."""
    client, window = Client(Settings(query_url=url)), (_BASE, _BASE + (1 << 41))
    found = bundle.record(client, folder / "again", window, "recorded again", pseudonyms=False)
    bundle.pack(folder / "again", folder / "again.warpline")
    return found.rows["syscall"]


if __name__ == "__main__":
    if len(sys.argv) > 1:
        done = {"open": _opening, "record": _recording}[sys.argv[1]](Path(sys.argv[2]), *sys.argv[3:])
        print(f"rows {done} peak {_peak_mb('self'):.0f}")
    else:
        run()
