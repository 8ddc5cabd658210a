"""The estimator, in a process of its own: it reads what sources saw, and never what was.

    python -m tests.simulator.estimator '[["FOLDER", "METHOD", "OUT"], ...]'

reads FOLDER/*.arrow, and writes OUT/share.arrow and, for the joins, OUT/member.arrow. METHOD is `joins`, which stores the
rows and runs Warpline's joins as the correlator does, or one of baselines.py.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from correlator.joins.stages import Joins
from correlator.storage.store import Store
from tests.simulator import baselines
from warpline import schema
from warpline.batch import Batch
from warpline.settings import Settings

ROOT = Path(__file__).resolve().parent.parent.parent
Tables = dict[str, pa.Table]


def estimate(jobs: list[tuple[Path, str, Path]]) -> None:
    """Run estimators over folders of rows, in another process. Raises CalledProcessError."""
    told = json.dumps([[str(each) for each in job] for job in jobs])
    subprocess.run([sys.executable, "-m", "tests.simulator.estimator", told], check=True, cwd=ROOT, timeout=1800)


def write(folder: Path, tables: Tables | dict[str, pa.RecordBatch]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, rows in tables.items():
        with pa.OSFile(str(folder / f"{name}.arrow"), "wb") as sink, pa.ipc.new_stream(sink, rows.schema) as out:
            out.write(rows)


def read(folder: Path) -> Tables:
    found = {}
    for path in sorted(folder.glob("*.arrow")):
        with pa.OSFile(str(path)) as source:
            found[path.stem] = pa.ipc.open_stream(source).read_all()
    return found


def joins(seen: Tables) -> Tables:
    """Return `share` and `member`, as Warpline's joins make them."""
    with tempfile.TemporaryDirectory() as directory:
        store = Store(Settings(state_dir=directory, correlator_disk_reserve_mb=0))
        try:
            store.write(
                [Batch(schema.table(n), r.combine_chunks().to_batches()[0], n) for n, r in seen.items() if len(r)]
            )
            Joins(store.settings, store).rebuild()
            share = store.query(
                "SELECT time_ns, process_uid, step_ordinal, kernel_class, owner, share_ns, evidence FROM share"
            )
            return {"share": share, "member": store.query("SELECT * FROM step_member")}
        finally:
            store.close()


def _sampled_launches(seen: Tables) -> Tables:
    some, times = baselines.sample(seen)
    found = joins(some)
    share = found["share"]
    scaled = pc.multiply(share["share_ns"].cast(pa.float64()), times)
    return {"share": share.set_column(share.schema.get_field_index("share_ns"), "share_ns", scaled)}


def run(seen: Tables, method: str) -> Tables:
    """Return what `method` finds."""
    if method == "joins":
        return joins(seen)
    if method == "sampled_launches":
        return _sampled_launches(seen)
    return {"share": getattr(baselines, method)(seen)}


def main() -> None:
    for folder, method, out in json.loads(sys.argv[1]):
        write(Path(out), run(read(Path(folder)), method))


if __name__ == "__main__":
    main()
