from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from collectors import kineto, triton
from tests.collectors.reading import read
from warpline.errors import SourceError


def phases(path: Path, tmp_path: Path) -> list[tuple[str, str, str | None, int]]:
    rows = read(triton, path, tmp_path).rows("engine_phase").to_pylist()
    return [(r["request_id"], r["phase"], r["model"], r["end_ns"] - r["start_ns"]) for r in rows]


def test_the_documented_example_becomes_the_phases_of_one_request(shared_data: Path, tmp_path: Path) -> None:
    path = shared_data / "triton/trace/trace-timestamps-docs.json"
    if not path.exists():
        pytest.skip("no Triton trace among the real recordings")
    assert triton.recognises(path) and not kineto.recognises(path)
    assert phases(path, tmp_path) == [
        ("1", "request", None, 2356425057643164 - 2356425054785863),
        ("1", "receive", None, 2356425054632308 - 2356425054587444),
        ("1", "queue", None, 2356425054887198 - 2356425054791517),
        ("1", "compute_input", None, 2356425057152908 - 2356425054887198),
        ("1", "compute", None, 2356425057497763 - 2356425057152908),
        ("1", "compute_output", None, 2356425057540989 - 2356425057497763),
        ("1", "send", None, 2356425057712991 - 2356425057681578),
    ]


def test_objects_of_one_id_are_joined_wherever_they_stand(root: Path, tmp_path: Path) -> None:
    path = root / "tests/collectors/data/triton_small.json"
    assert phases(path, tmp_path) == [
        ("req-17", "request", "ensemble", 6800),
        ("req-17", "receive", "ensemble", 500),
        ("req-17", "request", "llama", 6600),
        ("req-17", "queue", "llama", 290),
        ("req-17", "compute_input", "llama", 100),
        ("req-17", "compute", "llama", 5900),
        ("req-17", "compute_output", "llama", 200),
    ]
    found = read(triton, path, tmp_path)
    assert {row["parent_id"] for row in found.rows("engine_phase").to_pylist()} == {None, "1"}
    assert found.summary["not_understood"] == {"phase with one end, or that ends before it begins": 1}
    assert found.summary["not_kept"] == {"time stamps that open or end no phase": 1}


def test_tensors_are_content_and_stay_out(root: Path, tmp_path: Path) -> None:
    found = read(triton, root / "tests/collectors/data/triton_small.json", tmp_path)
    assert "a prompt" not in json.dumps([batch.rows.to_pydict() for batch in found.batches], default=str)
    assert found.summary["removed"] == {"tensors (content)": 1}


def stamps(at_ns: int) -> str:
    names = {"REQUEST_START": at_ns - 1000, "REQUEST_END": at_ns}
    return json.dumps([{"id": 1, "timestamps": [{"name": name, "ns": ns} for name, ns in names.items()]}])


def test_a_trace_of_this_boot_gets_its_node_time_exactly(tmp_path: Path) -> None:
    now = time.clock_gettime_ns(time.CLOCK_MONOTONIC)
    path = tmp_path / "trace.json"
    path.write_text(stamps(now))
    found = read(triton, path, tmp_path)
    assert found.recording["clock"] == "steady clock of this boot of this node"
    assert abs(found.rows("engine_phase")["end_ns"][0].as_py() - time.time_ns()) < 60_000_000_000


def test_a_trace_of_another_boot_is_put_at_the_files_own_time(tmp_path: Path) -> None:
    path = tmp_path / "trace.json"
    path.write_text(stamps(5000))
    os.utime(path, ns=(1_700_000_000_000_000_000,) * 2)
    recording = read(triton, path, tmp_path).recording
    assert recording["end_ns"] == 1_700_000_000_000_000_000 and recording["clock_error_ns"] is None


def test_a_file_without_time_stamps_is_refused_with_a_sentence(tmp_path: Path) -> None:
    for number, body in enumerate((b"[]", b'[{"id": 1, "model_name": "m"}]', b"[1,", b"", b'{"a": 1}')):
        path = tmp_path / f"{number}.json"
        path.write_bytes(body)
        with pytest.raises(SourceError, match=": "):
            read(triton, path, tmp_path)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=60), st.integers(0, 140))
def test_random_bytes_never_raise_out_of_the_reader(tmp_path: Path, noise: bytes, at: int) -> None:
    whole = stamps(5000).encode()
    path = tmp_path / "noise.json"
    path.write_bytes(whole[:at] + noise + whole[at:])
    try:
        read(triton, path, tmp_path)
    except SourceError as refused:
        assert str(refused)
