"""What each telemetry source makes of the real recordings, in a form that a person can read in a diff.

`python -m tests.collectors.telemetry_golden` writes it anew. Of every file: rows, losses, and of every column that is not
all NULL the number of values, of distinct values, and the least and greatest.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import yaml

from collectors import cluster_state, container_events, dcgm, engine_metrics, envoy_log, hubble, tetragon
from collectors.cluster.watch import Change
from collectors.wire import prometheus
from tests.collectors.test_container_events import told
from warpline.batch import Batch

GOLDEN = Path(__file__).parent / "data" / "telemetry_golden.json"

Read = Callable[[Path], tuple[list[Batch], dict[str, Any]]]


def _dcgm(file: Path) -> tuple[list[Batch], dict[str, Any]]:
    node, page = dcgm.Node("n"), prometheus.parse(file.read_text())
    devices = list(node.devices(1, page.series, ()))
    samples, lost = node.samples(1, page)
    return [samples, *devices], lost | {"malformed line": page.malformed}


def _engine(file: Path) -> tuple[list[Batch], dict[str, Any]]:
    page = prometheus.parse(file.read_text())
    samples, lost = engine_metrics.Server("t").samples(1, page)
    return [samples], lost | {"malformed line": page.malformed}


def _hubble(file: Path) -> tuple[list[Batch], dict[str, Any]]:
    decoded = hubble.decode(file.read_bytes())
    return [Batch(hubble.FLOW, decoded.flows)], {each[0]: each[1] for each in decoded.lost}


def _tetragon(file: Path) -> tuple[list[Batch], dict[str, Any]]:
    return tetragon.Decoder().decode(file.read_bytes())


def _envoy(file: Path) -> tuple[list[Batch], dict[str, Any]]:
    rows, lost = envoy_log.decode(file.read_bytes(), "n", "p")
    return [Batch(envoy_log.HOP, rows)], lost


def _cluster(file: Path) -> tuple[list[Batch], dict[str, Any]]:
    found = json.loads(file.read_text())
    path = "/api/v1/pods" if found["kind"] == "PodList" else "/api/v1/events"
    return list(cluster_state.State().batches([Change(path, "ADDED", each) for each in found["items"]], 1)), {}


def _slices(file: Path) -> tuple[list[Batch], dict[str, Any]]:
    found = yaml.safe_load(file.read_text())["items"]
    changes = [Change("/apis/resource.k8s.io/v1/resourceslices", "ADDED", each) for each in found]
    return list(cluster_state.State().batches(changes, 1)), {}


def _containers(file: Path) -> tuple[list[Batch], dict[str, Any]]:
    rows = [container_events.Containerd().row(*event) for event in told(file)]
    kept = [row for row in rows if row is not None]
    return [container_events.batch(kept, "n")], {"of no container": len(rows) - len(kept)}


READERS: dict[str, Read] = {
    "dcgm/metrics/*.prom": _dcgm,
    "amd/metrics/*.prom": _dcgm,
    "vllm/*/*.prom": _engine,
    "sglang/*/*.prom": _engine,
    "triton/*/*.prom": _engine,
    "hubble/hubble-otel/*.json": _hubble,
    "hubble/export-lines/*.jsonl": _hubble,
    "tetragon/events/*.jsonl": _tetragon,
    "envoy/access-logs/*": _envoy,
    "k8s/troubleshoot/*.json": _cluster,
    "k8s/dra/*.yaml": _slices,
    "container/ctr-events/*.log": _containers,
}


def profiles(shared_data: Path) -> dict[str, Any]:
    """The profile of every recording of the telemetry sources."""
    found = {}
    for pattern, read in READERS.items():
        for file in sorted(shared_data.glob(pattern)):
            batches, lost = read(file)
            found[str(file.relative_to(shared_data))] = {
                "lost": {reason: count for reason, count in lost.items() if count},
                **{batch.table.name: _profile(batch.rows) for batch in batches},
            }
    return found


def _profile(rows: pa.RecordBatch) -> dict[str, Any]:
    columns = {}
    for name, column in zip(rows.schema.names, rows.columns, strict=True):
        plain = column.cast(column.type.value_type) if pa.types.is_dictionary(column.type) else column
        plain = plain.storage if isinstance(plain, pa.ExtensionArray) else plain
        if plain.null_count < len(plain):
            columns[name] = [len(plain) - plain.null_count, len(pc.unique(plain.drop_null())), *_ends(plain)]
    return {"rows": rows.num_rows, "columns": columns}


def _ends(plain: pa.Array) -> list[Any]:
    if not (pa.types.is_integer(plain.type) or pa.types.is_floating(plain.type) or pa.types.is_boolean(plain.type)):
        return []
    return list(pc.min_max(plain).as_py().values())


if __name__ == "__main__":
    from tests.conftest import SHARED_DATA

    GOLDEN.parent.mkdir(exist_ok=True)
    lines = [f"{json.dumps(name)}: {json.dumps(told_of)}" for name, told_of in profiles(SHARED_DATA).items()]
    GOLDEN.write_text("{\n" + ",\n".join(lines) + "\n}\n")
