from __future__ import annotations

import gzip
import json
from collections import Counter
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.testclient import TestClient

from collectors import kineto, nsys
from correlator.storage.store import Store
from correlator.timeline import perfetto
from tests.collectors.reading import Reading, read
from tests.correlator.recordings import put, store_in
from warpline import schema
from warpline.batch import Batch

REAL = (
    "hta/nccl_parser_config__nccl_data.json.gz",
    "hta/ns_resolution_trace__rank-0.Apr_03_18_51_38.1102.pt.trace.json.gz",
    "tracelens/vllm_decode_full_graph_execution.json.gz",
    "tracelens/mi210_gpu_only.json.gz",
)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with store_in(tmp_path) as found:
        yield found


def exported(store: Store, **query: Any) -> dict[str, Any]:
    """What the API answers, read by Python's own parser with exact decimals."""
    answer = TestClient(Starlette(routes=list(perfetto.routes(store)))).get("/api/perfetto", params=query)
    assert answer.status_code == 200, answer.text
    return json.loads(gzip.decompress(answer.content), parse_float=Decimal)  # type: ignore[no-any-return]


def totals(events: list[dict[str, Any]]) -> Counter[tuple[str, int, str]]:
    """Executions and calls by name and length, whatever their category is called."""
    kinds = {"kernel": "kernel", "gpu_memcpy": "memcpy", "gpu_memset": "memset"} | dict.fromkeys(CALLS, "call")
    return Counter(
        (kinds[e["cat"]], int(Decimal(e["dur"]) * 1000), e["name"])
        for e in events
        if e["ph"] == "X" and e.get("cat") in kinds
    )


CALLS = ("cuda_runtime", "cuda_driver", "cuda_api")


@pytest.mark.parametrize("name", REAL)
def test_what_was_imported_leaves_with_the_same_counts_times_and_names(
    store: Store, shared_data: Path, tmp_path: Path, name: str
) -> None:
    path = shared_data / "kineto" / name
    if not path.exists():
        pytest.skip(f"no {name} among the real recordings")
    recording = put(store, kineto, path, tmp_path).recording
    trace = exported(store, recording=recording["recording_uid"])
    original = json.loads(gzip.decompress(path.read_bytes()), parse_float=Decimal)
    assert totals(trace["traceEvents"]) == totals(original["traceEvents"])
    # Where each began, too: to the nanosecond.
    assert starts(trace) == starts(original)


def starts(trace: dict[str, Any]) -> Counter[int]:
    base = int(trace.get("baseTimeNanoseconds", 0))
    return Counter(
        base + int(Decimal(e["ts"]) * 1000)
        for e in trace["traceEvents"]
        if e["ph"] == "X" and e.get("cat") in ("kernel", "gpu_memcpy", "gpu_memset")
    )


def sums(found: Reading) -> dict[str, tuple[int, int]]:
    measured = {}
    for name in ("launch", "gpu_kernel", "annotation"):
        rows = found.rows(name)
        kinds = rows["kind"].to_pylist() if name == "annotation" else [""] * rows.num_rows
        length = [
            end - start
            for start, end, kind in zip(rows["start_ns"].to_pylist(), rows["end_ns"].to_pylist(), kinds, strict=True)
            if kind != "engine_step"
        ]
        measured[name] = (len(length), sum(length))
    return measured


@pytest.mark.parametrize(("module", "name"), [(kineto, "kineto/" + REAL[0]), (nsys, "nsys/mfu_2gpu_after.sqlite.gz")])
def test_an_export_is_imported_again_as_the_same_recording(
    store: Store, shared_data: Path, tmp_path: Path, module: Any, name: str
) -> None:
    path = shared_data / name
    if not path.exists():
        pytest.skip(f"no {name} among the real recordings")
    first = put(store, module, path, tmp_path)
    answer = TestClient(Starlette(routes=list(perfetto.routes(store)))).get(
        "/api/perfetto", params={"recording": first.recording["recording_uid"]}
    )
    again = tmp_path / "again.json.gz"
    again.write_bytes(answer.content)
    assert kineto.recognises(again)
    second = read(kineto, again, tmp_path)
    assert sums(second) == sums(first)
    assert second.summary["not_understood"] == {}


def test_names_of_any_kind_survive(store: Store, tmp_path: Path) -> None:
    name = 'quote " backslash \\ newline \n tab \t ünï 漢 \u0001 {"ph":"X"}'
    event = {
        "ph": "X",
        "cat": "kernel",
        "name": name,
        "pid": 0,
        "tid": 7,
        "ts": 5.125,
        "dur": 1.001,
        "args": {"device": 0},
    }
    path = tmp_path / "t.json"
    path.write_text(json.dumps({"baseTimeNanoseconds": 1_767_189_312_000_000_000, "traceEvents": [event]}))
    uid = put(store, kineto, path, tmp_path).recording["recording_uid"]
    trace = exported(store, recording=uid)
    assert [e["name"] for e in trace["traceEvents"] if e["ph"] == "X"] == [name]


def test_arrows_lead_from_each_launch_to_all_that_it_launched(store: Store, root: Path, tmp_path: Path) -> None:
    uid = put(store, kineto, root / "tests/collectors/data/kineto_small.json", tmp_path).recording["recording_uid"]
    events = exported(store, recording=uid)["traceEvents"]
    tails = Counter(e["id"] for e in events if e["ph"] == "s")
    heads = Counter(e["id"] for e in events if e["ph"] == "f")
    assert tails.keys() == heads.keys() and sorted(heads.values()) == [1, 1, 3]
    names = {e["args"]["name"] for e in events if e["ph"] == "M"}
    assert any("rank 1 · GPU 0" in name for name in names) and any(name.startswith("stream") for name in names)


NOW = 1_767_189_312_000_000_000


def exchanges(count: int) -> Batch:
    """Requests that overlap on one connection's lane, one millisecond apart, each ten long."""
    table = schema.table("http_exchange")
    starts = [NOW + n * 1_000_000 for n in range(count)]
    rows = {
        "start_ns": starts, "end_ns": [each + 10_000_000 for each in starts], "node": "n1", "side": "server",
        "connection_id": 1, "ordinal": list(range(count)), "method": "POST", "path": "/v1/completions", "status": 200,
        "host": "h",
    }  # fmt: skip
    return Batch(table, table.batch(rows), "x/1/1")


def test_a_window_holds_what_overlaps_it_cut_at_its_edges(store: Store) -> None:
    store.write([exchanges(31)])
    since, until = NOW + 12_500_000, NOW + 20_500_000
    trace = exported(store, from_ns=since, to_ns=until)
    assert int(trace["baseTimeNanoseconds"]) == since
    events = trace["traceEvents"]
    begins = {e["id"]: Decimal(e["ts"]) for e in events if e["ph"] == "b" and e["name"] == "POST /v1/completions"}
    ends = {e["id"]: Decimal(e["ts"]) for e in events if e["ph"] == "e"}
    # Began before 20.5 ms and ended after 12.5 ms: numbers 3 to 20.
    assert len(begins) == 18
    assert all(0 <= begin <= ends[each] <= 8000 for each, begin in begins.items())


def test_what_is_not_there_or_not_asked_is_said_in_a_sentence(store: Store) -> None:
    client = TestClient(Starlette(routes=list(perfetto.routes(store))))
    for query, status in (({"recording": "none"}, 404), ({"request": "none"}, 404), ({}, 400), ({"from_ns": "x"}, 400)):
        answer = client.get("/api/perfetto", params=query)
        assert answer.status_code == status and len(answer.json()["error"]) > 20


def test_a_trace_is_streamed_in_pieces(store: Store, tmp_path: Path) -> None:
    event = {
        "ph": "X",
        "cat": "kernel",
        "name": "k",
        "pid": 0,
        "tid": 7,
        "dur": 1.0,
        "args": {"device": 0, "stream": 7},
    }
    events = [event | {"ts": float(n)} for n in range(200_000)]
    path = tmp_path / "t.json"
    path.write_text(json.dumps({"baseTimeNanoseconds": NOW, "traceEvents": events}))
    uid = put(store, kineto, path, tmp_path).recording["recording_uid"]
    scope = perfetto.timeline_scope.find(store, {"recording": uid})
    pieces = list(perfetto.trace(store, scope))
    assert len(pieces) > 3 and max(map(len, pieces)) < 20_000_000
    assert sum(e["ph"] == "X" for e in json.loads(b"".join(pieces))["traceEvents"]) == 200_000
